//! Admit: what must be on record before an attempt may begin. A limit that is shared by all relays
//! is drawn on, and an intent is committed where a message may go out only once.
//!
//! Most sinks have no limit and most messages need no intent: they start without this.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, warn};

use super::deliver::Deliverer;
use super::hand::Place;
use crate::config::duration_in_words;
use crate::delivery::{Guarantee, Settlement};
use crate::metrics::WaitsFor;
use crate::store::flow::{self, Intent, Reserved, Span};
use crate::store::work::Fetched;
use crate::store::{Link, StoreError};

/// Relays that may end without a word in the middle of an attempt before its message is dead.
const CRASHES_MAX: i16 = 3;
/// After a take-over from a relay that fell silent, every attempt has its intent on record for so long:
/// if it was a message that ended that relay, it is known the next time.
const CAREFUL_FOR: Duration = Duration::from_secs(60);
/// How long a sink waits after its limits or its intents could not be written.
const TROUBLE_PAUSE: Duration = Duration::from_secs(1);
/// Most intents that are looked at for strays in one go.
const STRAYS_MAX: i64 = 1_000;
/// Most intents that are remembered because the reply to their commit was lost.
const UNHEARD_MAX: usize = 10_000;

/// What may start now, and what may not yet.
#[derive(Default)]
pub struct Admitted {
    /// To be started.
    pub start: Vec<Fetched>,
    /// To be put back.
    pub back: Vec<Fetched>,
    /// Not to start before their sender may send again.
    pub later: Vec<(Fetched, Settlement)>,
}

/// Puts attempts of one sink on record.
pub struct Admission {
    link: Arc<Link>,
    deliverer: Arc<Deliverer>,
    epoch: i64,
    careful_until: Option<Instant>,
    /// Whether an intent was written in this epoch.
    has_intents: bool,
    /// Intents that may have been committed although the reply was lost: their attempts did not begin.
    unheard: HashSet<Place>,
}

/// A row with an intent of ours that no attempt in hand belongs to.
pub struct Stray {
    /// As it stands.
    pub row: Fetched,
    /// Whether it may be attempted: no attempt began, or it may be repeated.
    pub again: bool,
}

impl Admission {
    /// `unclean` says that the former owner fell silent.
    #[must_use]
    pub fn new(link: Arc<Link>, deliverer: Arc<Deliverer>, epoch: i64, unclean: bool) -> Admission {
        let careful_until = unclean.then(|| Instant::now() + CAREFUL_FOR);
        let (has_intents, unheard) = (false, HashSet::new());
        Admission { link, deliverer, epoch, careful_until, has_intents, unheard }
    }

    fn sink(&self) -> &str {
        self.deliverer.config.name.as_str()
    }

    /// Whether a row may start without being put on record.
    #[must_use]
    pub fn is_free(&self, row: &Fetched) -> bool {
        let config = &self.deliverer.config;
        self.deliverer.makes_no_attempt(row)
            || (config.rate.is_none() && config.daily_quota.is_none() && self.intent(row).is_none())
    }

    /// The intent a row needs before it may start.
    fn intent(&self, row: &Fetched) -> Option<Intent> {
        let is_careful = self.careful_until.is_some_and(|until| Instant::now() < until);
        let guarantee = self.deliverer.guarantee(row);
        let repeatable = match guarantee {
            Guarantee::AtMostOnce => false,
            Guarantee::AtLeastOnce if is_careful || row.crashes > 0 => true,
            Guarantee::AtLeastOnce => return None,
        };
        let (message_id, target, rev) = (row.message_id, row.target.clone(), row.rev);
        Some(Intent { message_id, target, rev, repeatable })
    }

    /// Draws on the sink's limits and commits intents, for as many of `rows` as may start. What makes
    /// no attempt needs neither.
    pub async fn admit(&mut self, rows: Vec<Fetched>) -> Admitted {
        let (aside, rows) = rows.into_iter().partition(|row| self.deliverer.makes_no_attempt(row));
        let mut admitted = Admitted { start: rows, ..Admitted::default() };
        self.keep_pace(&mut admitted);
        self.reserve(&mut admitted).await;
        self.commit_intents(&mut admitted).await;
        admitted.back.iter().for_each(|row| self.deliverer.give_back(row));
        admitted.start.extend::<Vec<Fetched>>(aside);
        admitted
    }

    /// Before anything is drawn on: what waits for its sender uses up no limit.
    fn keep_pace(&self, admitted: &mut Admitted) {
        for row in std::mem::take(&mut admitted.start) {
            match self.deliverer.waits_for_its_sender(&row) {
                Some(later) => admitted.later.push((row, later)),
                None => admitted.start.push(row),
            }
        }
    }

    /// The rate before the quota: what a rate gave and a quota refuses is free again soon.
    async fn reserve(&self, admitted: &mut Admitted) {
        let config = &self.deliverer.config;
        let rate = config.rate.map(|rate| (Span::Rate(rate.period), rate.count.get()));
        let quota = config.daily_quota.map(|count| (Span::Day, count.get()));
        for (span, limit) in [rate, quota].into_iter().flatten() {
            let wanted = admitted.start.len();
            if wanted == 0 {
                return;
            }
            let call = flow::reserve(&self.link, self.sink(), self.epoch, span, limit, wanted);
            let answer = call.await;
            let is_trouble = answer.is_err();
            let reserved = match answer {
                Ok(Some(reserved)) => reserved,
                // The sink has another owner, which will be noticed.
                Ok(None) => Reserved { count: 0, wait: TROUBLE_PAUSE },
                Err(error) => {
                    warn!(sink = self.sink(), %error, "cannot draw on the sink's limit; trying again");
                    Reserved { count: 0, wait: TROUBLE_PAUSE }
                }
            };
            if reserved.count < wanted {
                let reason = in_words(span, limit);
                let why = if is_trouble { WaitsFor::Database } else { waits_for(span) };
                self.deliverer.gate.wait(Instant::now() + reserved.wait, why, &reason);
                admitted.back.extend(admitted.start.drain(reserved.count..));
            }
        }
    }

    /// Rows whose intent is not known to be committed do not start. If it was committed all the same,
    /// [`Admission::strays`] finds them.
    async fn commit_intents(&mut self, admitted: &mut Admitted) {
        let intents: Vec<Intent> =
            admitted.start.iter().filter_map(|row| self.intent(row)).collect();
        if intents.is_empty() {
            return;
        }
        self.has_intents = true;
        let call = flow::begin_sending(&self.link, self.sink(), self.epoch, &intents);
        let applied = call.await.unwrap_or_else(|error| {
            warn!(sink = self.sink(), count = intents.len(), %error,
                "cannot commit intents; nothing of it is sent, trying again");
            let until = Instant::now() + TROUBLE_PAUSE;
            self.deliverer.gate.wait(until, WaitsFor::Database, "intents cannot be committed");
            let room = UNHEARD_MAX.saturating_sub(self.unheard.len());
            let places = intents.iter().map(|intent| (intent.message_id, intent.target.clone()));
            self.unheard.extend(places.take(room));
            Vec::new()
        });
        for place in &applied {
            self.unheard.remove(place);
        }
        let needs = |row: &Fetched| {
            intents.iter().any(|i| i.message_id == row.message_id && i.target == row.target)
        };
        for mut row in std::mem::take(&mut admitted.start) {
            if !needs(&row) {
                admitted.start.push(row);
            } else if applied
                .iter()
                .any(|(id, target)| *id == row.message_id && *target == row.target)
            {
                row.rev += 1;
                row.sending = true;
                admitted.start.push(row);
            } else {
                admitted.back.push(row);
            }
        }
    }

    /// Decides what becomes of what a former owner was sending, and repeats it until it is written:
    /// nothing is fetched before.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn end_former(&mut self, lease: Duration) -> Result<(), StoreError> {
        let over_in = lease + self.deliverer.config.timeout;
        let found =
            flow::end_sending(&self.link, self.sink(), self.epoch, CRASHES_MAX, over_in).await?;
        for left in found {
            let (sink, message_id, target) = (self.sink(), left.message_id, left.target);
            match left.state.as_str() {
                "held" => error!(
                    message_id,
                    sink,
                    target,
                    outcome = "held",
                    "a relay fell silent while sending it; find out whether it arrived, then run: \
                     outboxd resolve {message_id}/{sink}"
                ),
                "dead" => error!(
                    message_id,
                    sink,
                    target,
                    outcome = "dead",
                    "relays crashed while sending it, {CRASHES_MAX} times; given up, mend the cause \
                     and run: outboxd retry {message_id}/{sink}"
                ),
                _ => warn!(
                    message_id,
                    sink,
                    target,
                    outcome = "crash",
                    "a relay fell silent while sending it; it is tried again, alone"
                ),
            }
        }
        Ok(())
    }

    /// Rows with an intent of ours that no attempt belongs to, as `held` in hand tells. Where the
    /// commit's reply was lost, the attempt never began. Anything else had an attempt, and the database
    /// forgot its end: it failed over, say. That is no reason to make it again.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn strays(
        &mut self,
        holds: impl Fn(&Place) -> bool,
    ) -> Result<Vec<Stray>, StoreError> {
        if !self.has_intents {
            return Ok(Vec::new());
        }
        let found = flow::sending(&self.link, self.sink(), self.epoch, STRAYS_MAX).await?;
        let mut strays = Vec::new();
        for (row, repeatable) in found {
            let place = (row.message_id, row.target.clone());
            if !holds(&place) {
                let again = self.unheard.remove(&place) || repeatable;
                strays.push(Stray { row, again });
            }
        }
        Ok(strays)
    }
}

fn waits_for(span: Span) -> WaitsFor {
    match span {
        Span::Rate(_) => WaitsFor::Rate,
        Span::Day => WaitsFor::Quota,
    }
}

/// A limit, for the operator.
fn in_words(span: Span, limit: u32) -> String {
    match span {
        Span::Rate(period) => format!("rate: {limit} in {}", duration_in_words(period)),
        Span::Day => format!("daily quota: {limit}"),
    }
}
