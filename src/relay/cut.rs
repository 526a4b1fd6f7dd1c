//! Cut: a CSV sink's deliveries gather; at the cut they become one file.
//!
//! The set of a file is fixed by rows before a byte of it is written: an export row is opened,
//! what fell due before the cut moves in bounded batches into the ledger, and the transaction that
//! finds none left closes the export (`gather`). Then the file is written, its hash is put on record,
//! and it is published whole (`build`). A crash anywhere resumes where the rows say. An export's rows
//! come from a query (`query`); nothing gathers for it. `due` says when.

mod build;
mod due;
mod gather;
mod query;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::lease::Lease;
use crate::calendar::Calendar;
use crate::config::{CsvConfig, SinkConfig, Way};
use crate::delivery::clean_text;
use crate::metrics::FileMetrics;
use crate::store::calendar::{self, RuleKind};
use crate::store::export::{self, ExportState, NewCut, Waiting};
use crate::store::{Link, StoreError};
use due::{due, late_after, made_until, next_tick};

/// Shortest and longest time between two looks at the clock.
const LOOK_MIN: Duration = Duration::from_millis(100);
const LOOK_MAX: Duration = Duration::from_secs(1);
/// First and longest pause after a failure.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What it takes to cut the files of one sink.
pub struct Cutter {
    /// The sink's config; csv.
    pub config: Arc<SinkConfig>,
    /// The epoch this relay took the sink with.
    pub epoch: i64,
    /// For all statements.
    pub link: Arc<Link>,
    /// What is counted.
    pub metrics: FileMetrics,
    /// Whether the relay may still act.
    pub lease: Arc<Lease>,
    /// Where it is told up to when all files that were due have been made.
    pub made_until: watch::Sender<Option<Timestamp>>,
    /// Finish the step that is under way and end.
    pub drain: CancellationToken,
    /// End at once.
    pub cut: CancellationToken,
}

/// What was last noted of the calendar.
type Noted = Option<Option<Timestamp>>;

/// Why a step could not be taken.
enum Trouble {
    Store(StoreError),
    /// The file cannot be written; the reason stands on the export row too.
    File(i64, String),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Trouble {
        Trouble::Store(error)
    }
}

impl Cutter {
    fn sink(&self) -> &str {
        self.config.name.as_str()
    }

    fn csv(&self) -> Option<&CsvConfig> {
        match &self.config.way {
            Way::Csv(csv) => Some(csv.as_ref()),
            Way::Webhook(_) | Way::Smtp(_) => None,
        }
    }

    /// Cuts until told to stop.
    pub async fn run(self) {
        let Some(csv) = self.csv() else { return };
        let mut pause = PAUSE_MIN;
        let mut noted: Noted = None;
        let look = match &csv.cut.every {
            Some(Calendar::Span(every)) => (*every / 10).clamp(LOOK_MIN, LOOK_MAX),
            Some(Calendar::Times(_)) | None => LOOK_MAX,
        };
        while !self.drain.is_cancelled() && !self.cut.is_cancelled() {
            let wait = match self.step(csv, &mut noted).await {
                Ok(true) => continue,
                Ok(false) => {
                    pause = PAUSE_MIN;
                    look
                }
                Err(trouble) => {
                    self.tell(trouble, pause).await;
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

    async fn tell(&self, trouble: Trouble, retry_in: Duration) {
        self.metrics.failed();
        match trouble {
            Trouble::Store(error) => {
                warn!(sink = self.sink(), %error, ?retry_in, "cannot cut; trying again");
            }
            Trouble::File(export, reason) => {
                warn!(
                    sink = self.sink(),
                    export,
                    reason,
                    ?retry_in,
                    "cannot write the file; its rows are safe, trying again"
                );
                let reason = clean_text(&reason);
                if let Err(error) = export::note(&self.link, export, &reason).await {
                    warn!(sink = self.sink(), %error, "cannot note why");
                }
            }
        }
    }

    /// Takes the next step; `false` if there is none to take now.
    async fn step(&self, csv: &CsvConfig, noted: &mut Noted) -> Result<bool, Trouble> {
        if !self.lease.holds() {
            return Ok(false);
        }
        let Some(file) = export::at_work(&self.link, self.sink()).await? else {
            return self.open(csv, noted).await;
        };
        match file.state {
            ExportState::Open => self.gather(csv, &file).await,
            ExportState::Closed => self.build(csv, &file).await,
            ExportState::Built => self.publish(csv, &file).await,
        }
    }

    /// Opens a file if it is time.
    async fn open(&self, csv: &CsvConfig, noted: &mut Noted) -> Result<bool, Trouble> {
        if noted.is_none()
            && let Some(every) = &csv.cut.every
        {
            let (rule, late_after) = (every.words(), late_after(csv));
            calendar::enter(&self.link, RuleKind::Cut, self.sink(), &rule, late_after).await?;
        }
        let limit = csv.cut.max_rows.map_or(1, |max| i64::try_from(max.get()).unwrap_or(i64::MAX));
        let waiting = export::waiting(&self.link, self.sink(), limit).await?;
        self.note_next(csv, &waiting, noted).await?;
        if waiting.paused {
            return Ok(false);
        }
        let Some(due) = due(csv, &waiting) else {
            self.made_until.send_replace(Some(made_until(csv, &waiting)));
            return Ok(false);
        };
        let cut = NewCut {
            period: &due.period,
            due_from: due.from,
            due_before: due.before,
            rows_max: due.rows_max,
            late_at: due.late_at,
            to_mail: csv.mail.is_some(),
        };
        let opened = export::open(&self.link, self.sink(), self.epoch, &cut).await?;
        if opened.is_none() {
            warn!(sink = self.sink(), "paused, or another relay has this sink now; no file opened");
        }
        if opened.is_some() {
            self.metrics.cut();
        }
        Ok(opened.is_some())
    }

    /// Notes when the next file is cut, where that is news.
    async fn note_next(
        &self,
        csv: &CsvConfig,
        waiting: &Waiting,
        noted: &mut Noted,
    ) -> Result<(), StoreError> {
        let next_at = next_tick(csv, waiting).map(|tick| tick.at);
        if *noted != Some(next_at) {
            calendar::note_next(&self.link, RuleKind::Cut, self.sink(), next_at).await?;
            *noted = Some(next_at);
        }
        Ok(())
    }
}
