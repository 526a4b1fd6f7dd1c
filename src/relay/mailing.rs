//! Mailing: what a cut has published goes out by mail, at most once.
//!
//! Each step is on record before the next one begins, and a change of state leaves a row of its own:
//! planned (which files) → built (the hash of the whole mail) → sending → sent, unsent or held. The mail
//! server is asked in before the intent is committed, so that one that is away costs nothing; between
//! the intent and the outcome a crash leaves `sending`, which whoever takes over holds for an operator.
//! There is no other way out of doubt. `next` says what is to be done.

mod ending;
mod left;
mod next;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::civil::Date;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::decide::decide;
use super::lease::Lease;
use crate::config::{CsvConfig, MailingConfig, SinkConfig, Way};
use crate::delivery::{Guarantee, Outcome, Phase, clean_text};
use crate::hex::hex;
use crate::metrics::{FileMetrics, MailEnd};
use crate::name::Name;
use crate::policy::Policy;
use crate::recipients::Recipients;
use crate::sink::Sink;
use crate::sink::csv;
use crate::sink::mail::{Attached, FilesMail, NoMail, PreparedMail, prepare_files};
use crate::sink::smtp::{Entered, Smtp, Transcript};
use crate::store::mailing::{self, Actor, Desk, Dialogue, Mailing, MailingEnd};
use crate::store::{Link, StoreError};
use ending::{clean_lines, counted, ending, rest};
pub use left::Left;
use left::hold;
use next::{Next, next};

/// How often it is looked whether there is something to mail.
const LOOK: Duration = Duration::from_secs(1);
/// First and longest pause after trouble with the database or the mail server.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long a mail rests of which a file is not there, and after how long it is given up.
const FILE_PAUSE: Duration = Duration::from_secs(60);
const FILE_PATIENCE: Duration = Duration::from_secs(3600);

/// What it takes to mail the files of one sink.
pub struct Mailer {
    /// The sink whose files they are.
    pub config: Arc<SinkConfig>,
    /// The smtp sink they go through, and its config.
    pub through: (Arc<Sink>, Arc<SinkConfig>),
    /// Part of every Message-ID.
    pub installation: Name,
    /// What is counted.
    pub metrics: FileMetrics,
    /// This relay.
    pub relay: String,
    /// The epoch it took the sink with.
    pub epoch: i64,
    /// For all statements.
    pub link: Arc<Link>,
    /// Whether the relay may still act.
    pub lease: Arc<Lease>,
    /// How long a relay that fell silent may go on without knowing.
    pub lease_time: Duration,
    /// Up to when all files that were due have been made.
    pub made_until: watch::Receiver<Option<Timestamp>>,
    /// Finish the dialogue that is under way and end.
    pub drain: CancellationToken,
    /// End at once.
    pub cut: CancellationToken,
}

impl Mailer {
    /// Mails until told to stop.
    pub async fn run(self) {
        let (Way::Csv(csv), Sink::Smtp(smtp)) = (&self.config.way, self.through.0.as_ref()) else {
            return;
        };
        let Some(mail) = &csv.mail else { return };
        let (mut pause, mut held) = (PAUSE_MIN, false);
        while !self.drain.is_cancelled() && !self.cut.is_cancelled() {
            let result = async {
                if !held {
                    self.hold_silent().await?;
                    held = true;
                }
                self.step(csv, mail, smtp).await
            };
            let wait = match result.await {
                Ok(true) => continue,
                Ok(false) => {
                    pause = PAUSE_MIN;
                    LOOK
                }
                Err(error) => {
                    warn!(sink = self.sink(), %error, retry_in = ?pause, "cannot mail; trying again");
                    pause = (pause * 2).min(PAUSE_MAX);
                    pause
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.drain.cancelled() => {}
                () = self.cut.cancelled() => {}
            }
        }
    }

    fn sink(&self) -> &str {
        self.config.name.as_str()
    }

    fn actor(&self) -> Actor<'_> {
        Actor { sink: self.sink(), epoch: self.epoch, relay: &self.relay }
    }

    /// What a former owner was sending is in doubt.
    async fn hold_silent(&self) -> Result<(), StoreError> {
        let until = self.lease_time + self.through.1.timeout;
        hold(&self.link, &self.metrics, &self.actor(), until).await
    }

    /// Takes the next step; `false` if there is none to take now.
    async fn step(
        &self,
        csv: &CsvConfig,
        mail: &MailingConfig,
        smtp: &Smtp,
    ) -> Result<bool, StoreError> {
        if !self.lease.holds() {
            return Ok(false);
        }
        let through = self.through.1.name.as_str();
        let Some(desk) = mailing::look(&self.link, self.sink(), through).await? else {
            return Ok(false);
        };
        let made_until = *self.made_until.borrow();
        let (link, actor) = (&self.link, self.actor());
        let (every, settle_after) = (csv.cut.every.as_ref(), csv.rows.settle_after());
        match next(every, settle_after, mail.catch_up, &desk, made_until) {
            Next::Nothing => Ok(false),
            Next::Plan { exports, period } => {
                Ok(mailing::plan(link, &actor, &period, &exports).await?.is_some())
            }
            Next::PassOver { export, period } => {
                match mailing::plan(link, &actor, &period, &[export]).await? {
                    Some(planned) => mailing::pass_over(link, &actor, planned).await,
                    None => Ok(false),
                }
            }
            Next::LetGo => match &desk.mailing {
                Some(at_work) => mailing::pass_over(link, &actor, at_work.id).await,
                None => Ok(false),
            },
            Next::GiveUp => match &desk.mailing {
                Some(at_work) => self.give_up_rest(at_work).await.map(|()| true),
                None => Ok(false),
            },
            Next::Add { exports, period } => {
                let Some(at_work) = &desk.mailing else { return Ok(false) };
                mailing::add(link, &actor, at_work.id, &period, &exports).await
            }
            Next::Send { day } => self.send(csv, mail, smtp, &desk, day).await,
            Next::Withdraw => self.withdraw(&desk).await,
        }
    }

    /// An intent of this relay stands though it never began: its answer was lost.
    async fn withdraw(&self, desk: &Desk) -> Result<bool, StoreError> {
        let Some(at_work) = &desk.mailing else { return Ok(false) };
        let dialogue = Dialogue {
            begun: at_work.changed_at,
            end: MailingEnd::Unsent { delay: Duration::ZERO, spent: false },
            reason: "the record of the intent was confirmed too late; nothing was sent".to_owned(),
            transcript: String::new(),
            recipients: None,
        };
        mailing::end(&self.link, &self.actor(), at_work.id, &dialogue).await
    }

    /// Builds the mail, asks the server in, commits the intent, and holds the dialogue.
    async fn send(
        &self,
        csv: &CsvConfig,
        mail: &MailingConfig,
        smtp: &Smtp,
        desk: &Desk,
        day: Option<Date>,
    ) -> Result<bool, StoreError> {
        let Some(at_work) = &desk.mailing else { return Ok(false) };
        let age = desk.now.duration_since(at_work.planned_at).unsigned_abs();
        let Some(prepared) = self.build(csv, mail, at_work, age).await? else { return Ok(false) };
        let hash = hex(&prepared.hash());
        if !mailing::build(&self.link, &self.actor(), at_work.id, &hash).await? {
            return Ok(false);
        }
        let transcript = Transcript::default();
        let entered = tokio::select! {
            entered = smtp.enter(&transcript) => entered,
            () = self.cut.cancelled() => return Ok(false),
            () = self.drain.cancelled() => return Ok(false),
        };
        let entered = match entered {
            Ok(entered) => entered,
            Err(outcome) => return self.put_off(at_work, outcome, desk).await,
        };
        if let Some(reason) = entered.is_too_large(&prepared) {
            entered.part();
            self.give_up(at_work, &reason).await?;
            return Ok(true);
        }
        let through = self.through.1.name.as_str();
        let begun =
            mailing::begin(&self.link, &self.actor(), at_work.id, day, through, &hash).await;
        let Ok(Some(begun)) = begun else {
            entered.part();
            return begun.map(|_| false);
        };
        self.converse(smtp, entered, &prepared, at_work, (begun, &transcript)).await;
        Ok(true)
    }

    /// The mail of these files; none if it cannot be made, which is noted.
    async fn build(
        &self,
        csv: &CsvConfig,
        mail: &MailingConfig,
        at_work: &Mailing,
        age: Duration,
    ) -> Result<Option<PreparedMail>, StoreError> {
        let files: Vec<Attached> = mailing::files(&self.link, at_work.id)
            .await?
            .into_iter()
            .map(|file| Attached {
                path: csv::path(csv, &file.period),
                published: file.file.into(),
                period: file.period,
                rows: file.rows,
                bytes: u64::try_from(file.bytes).unwrap_or(u64::MAX),
                sha256: file.sha256,
                from: file.due_from,
                to: file.due_before,
            })
            .collect();
        let message_id = format!("export_{}_{}_{}", self.installation, self.sink(), at_work.period);
        let content = FilesMail {
            name: self.sink(),
            period: &at_work.period,
            message_id: &message_id,
            date: at_work.planned_at,
            files: &files,
        };
        let Sink::Smtp(smtp) = self.through.0.as_ref() else { return Ok(None) };
        match tokio::task::block_in_place(|| prepare_files(smtp, mail, &content)) {
            Ok(prepared) => Ok(Some(prepared)),
            Err(NoMail::NotNow(reason)) if age < FILE_PATIENCE => {
                warn!(sink = self.sink(), period = at_work.period, reason, retry_in = ?FILE_PAUSE,
                    "cannot make the mail yet; nothing was sent");
                let reason = clean_text(&reason);
                mailing::put_off(&self.link, &self.actor(), at_work.id, false, FILE_PAUSE, &reason)
                    .await?;
                Ok(None)
            }
            Err(NoMail::Never(reason) | NoMail::NotNow(reason)) => {
                self.give_up(at_work, &reason).await?;
                Ok(None)
            }
        }
    }

    async fn give_up(&self, at_work: &Mailing, reason: &str) -> Result<(), StoreError> {
        error!(
            sink = self.sink(),
            period = at_work.period,
            outcome = "dead",
            reason,
            "the mail of this period is given up until an operator looks; nothing was sent"
        );
        self.metrics.mailed(MailEnd::Dead);
        let reason = clean_text(reason);
        mailing::put_off(&self.link, &self.actor(), at_work.id, true, Duration::ZERO, &reason).await
    }

    /// Others have the mail, and the next one or the next day has come.
    async fn give_up_rest(&self, at_work: &Mailing) -> Result<(), StoreError> {
        let recipients = at_work.recipients.counts();
        error!(
            sink = self.sink(),
            period = at_work.period,
            outcome = "dead",
            recipients,
            "the mail of this period is given up for those who have not accepted it: the next one is due"
        );
        self.metrics.mailed(MailEnd::Dead);
        let reason = format!("the next mail is due; recipients: {recipients}");
        mailing::put_off(&self.link, &self.actor(), at_work.id, true, Duration::ZERO, &reason).await
    }

    /// The server did not let us in.
    async fn put_off(
        &self,
        at_work: &Mailing,
        outcome: Outcome,
        desk: &Desk,
    ) -> Result<bool, StoreError> {
        let (reason, wait) = match outcome {
            Outcome::Transient { reason, wait, .. } => (reason, wait),
            Outcome::Permanent { reason } | Outcome::InDoubt { reason } => (reason, None),
            Outcome::Delivered { receipt } => (receipt, None),
        };
        let delay = wait.unwrap_or_else(|| rest(at_work.planned_at, desk.now));
        warn!(
            sink = self.sink(),
            period = at_work.period,
            through = self.through.1.name.as_str(),
            outcome = "unsent",
            reason,
            retry_in = ?delay,
            "the mail server does not let us in; nothing was sent, no attempt is spent"
        );
        self.metrics.mailed(MailEnd::Unsent);
        mailing::put_off(&self.link, &self.actor(), at_work.id, false, delay, &reason).await?;
        Ok(false)
    }

    /// The dialogue, and the record of its end.
    async fn converse(
        &self,
        smtp: &Smtp,
        entered: Entered,
        mail: &PreparedMail,
        at_work: &Mailing,
        (begun, transcript): (Timestamp, &Transcript),
    ) {
        let begun_here = Instant::now();
        let lease = Arc::clone(&self.lease);
        let phase = Phase::guarded(move || lease.holds(), at_work.recipients.clone());
        let config = &self.through.1;
        let policy = Policy { guarantee: Guarantee::AtMostOnce, ..config.policy.clone() };
        let dialogue = smtp.deliver_over(entered, mail, policy.permanent.as_ref(), &phase);
        let outcome = tokio::select! {
            biased;
            outcome = tokio::time::timeout(config.timeout, dialogue) => outcome
                .unwrap_or_else(|_| phase.cut_short("timed out")),
            () = self.cut.cancelled() => phase.cut_short("the relay lost the sink or had to stop"),
        };
        // One mail is no crowd, but a server that is in trouble is no fault of the mail either.
        let settlement = decide(outcome, &policy, at_work.attempt + 1, true, fastrand::f64());
        let (end, reason) = ending(settlement, rest(at_work.planned_at, begun));
        let recipients = phase.recipients().clone();
        self.tell((&end, &reason), &recipients, at_work, begun_here.elapsed());
        let transcript = clean_lines(&transcript.of(mail));
        let recipients = (recipients != at_work.recipients).then_some(recipients);
        self.record(at_work, Dialogue { begun, end, reason, transcript, recipients }).await;
    }

    /// Writes down how the dialogue ended; whatever happens, it is not held again for want of a record.
    async fn record(&self, at_work: &Mailing, mut dialogue: Dialogue) {
        let mut pause = PAUSE_MIN;
        let actor = self.actor();
        while let Err(error) = mailing::end(&self.link, &actor, at_work.id, &dialogue).await {
            if error.is_about_data() {
                dialogue.make_ascii();
            }
            warn!(sink = self.sink(), period = at_work.period, %error, retry_in = ?pause,
                "cannot record how the mail ended; it is not sent again, only the record is repeated");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn tell(
        &self,
        (end, reason): (&MailingEnd, &str),
        recipients: &Recipients,
        at_work: &Mailing,
        took: Duration,
    ) {
        let recipients = (!recipients.is_empty()).then(|| recipients.counts());
        let (sink, period) = (self.sink(), at_work.period.as_str());
        let (through, attempt) = (self.through.1.name.as_str(), at_work.attempt + 1);
        self.metrics.mailed(counted(end));
        match end {
            MailingEnd::Sent => info!(
                sink,
                period,
                through,
                attempt,
                outcome = "sent",
                receipt = reason,
                ?took,
                "mail"
            ),
            MailingEnd::Unsent { delay, .. } => warn!(
                sink, period, through, attempt, outcome = "unsent", reason, recipients, ?took,
                retry_in = ?delay, "mail"
            ),
            MailingEnd::Held => error!(
                sink,
                period,
                through,
                attempt,
                outcome = "held",
                reason,
                recipients,
                ?took,
                "mail: nobody knows whether it arrived, and it is not sent again. Ask those who get it, \
                 then run: outboxd resolve"
            ),
            MailingEnd::Dead => error!(
                sink,
                period,
                through,
                attempt,
                outcome = "dead",
                reason,
                recipients,
                ?took,
                "mail: given up until an operator looks; only those who accepted it have it"
            ),
        }
    }
}
