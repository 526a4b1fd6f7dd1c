//! Whether it is a row's turn among those of its sender (`sender_rate`).

use std::time::Instant;

use super::Deliverer;
use crate::config::{Way, duration_in_words};
use crate::delivery::Settlement;
use crate::relay::ready::lane_of;
use crate::sink::Prepared;
use crate::store::work::Fetched;

/// Why a row waits whose sender has had its share; known by its beginning.
pub const SENDER_RATE: &str = "sender_rate";

impl Deliverer {
    /// What becomes of a row whose turn it is not yet, as far as its sender can be told without its payload.
    pub fn waits_for_its_sender(&self, row: &Fetched) -> Option<Settlement> {
        let pace = self.pace.as_ref()?;
        let domain = self.sink.sender_domain(&self.route(row)?.content)?;
        let at = (row.message_id, row.target.clone());
        let turn = pace.admit((&at, lane_of(row)), &domain, Instant::now(), fastrand::f64());
        turn.err().map(|delay| Settlement::Release { delay, reason: self.sender_rate() })
    }

    /// The same for what was made of it, immediately before it is sent.
    pub(super) fn begins_for_its_sender(
        &self,
        row: &Fetched,
        prepared: &Prepared,
    ) -> Option<Settlement> {
        let (Some(pace), Prepared::Mail(mail)) = (&self.pace, prepared) else { return None };
        let (at, now) = ((row.message_id, row.target.clone()), Instant::now());
        let turn = pace.begin((&at, lane_of(row)), mail.from_domain(), now, fastrand::f64());
        turn.err().map(|delay| Settlement::Release { delay, reason: self.sender_rate() })
    }

    /// A row that was admitted and did not begin leaves its place to others.
    pub fn give_back(&self, row: &Fetched) {
        if let Some(pace) = &self.pace {
            pace.give_back(&(row.message_id, row.target.clone()), Instant::now());
        }
    }

    fn sender_rate(&self) -> String {
        let rate = match &self.config.way {
            Way::Smtp(way) => way.sender_rate,
            Way::Webhook(_) | Way::Csv(_) => None,
        };
        let words = rate.map_or(String::new(), |rate| {
            let span = duration_in_words(rate.period);
            format!(": {} in {span} for its sender's domain", rate.count)
        });
        format!("{SENDER_RATE}{words}")
    }
}
