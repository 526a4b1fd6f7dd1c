//! Cut: a CSV sink's deliveries gather; at the cut they become one file.
//!
//! The set of a file is fixed by rows before a byte of it is written: an export row is opened,
//! what fell due before the cut moves in bounded batches into the ledger, and the transaction that
//! finds none left closes the export. Then the file is written, by pages, and published whole. A
//! crash anywhere resumes where the rows say: the same set gives the same file.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::lease::Lease;
use crate::config::{CsvConfig, Cut, SinkConfig, Way};
use crate::delivery::{TEXT_MAX, clean_text};
use crate::hex::hex;
use crate::message::Message;
use crate::period::Period;
use crate::sink::csv::{CsvFile, Published, encode_header, encode_row};
use crate::store::export::{self, Export, ExportState, Waiting};
use crate::store::work::{self, ExpiredSettlement, Fetched, OpenSettlement, OpenState};
use crate::store::{Link, StoreError};

/// Shortest and longest time between two looks at the clock.
const LOOK_MIN: Duration = Duration::from_millis(100);
const LOOK_MAX: Duration = Duration::from_secs(1);
/// First and longest pause after a failure.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What it takes to cut the files of one sink.
pub struct Cutter {
    /// The sink's config; csv.
    pub config: Arc<SinkConfig>,
    /// The epoch this relay took the sink with.
    pub epoch: i64,
    /// For all statements.
    pub link: Arc<Link>,
    /// Whether the relay may still act.
    pub lease: Arc<Lease>,
    /// Finish the step that is under way and end.
    pub drain: CancellationToken,
    /// End at once.
    pub cut: CancellationToken,
}

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
            Way::Csv(csv) => Some(csv),
            Way::Webhook(_) | Way::Smtp(_) => None,
        }
    }

    /// Cuts until told to stop.
    pub async fn run(self) {
        let Some(csv) = self.csv() else { return };
        let mut pause = PAUSE_MIN;
        let look = csv.cut.every.map_or(LOOK_MAX, |every| (every / 10).clamp(LOOK_MIN, LOOK_MAX));
        while !self.drain.is_cancelled() && !self.cut.is_cancelled() {
            let wait = match self.step(csv).await {
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
    async fn step(&self, csv: &CsvConfig) -> Result<bool, Trouble> {
        if !self.lease.holds() {
            return Ok(false);
        }
        match export::at_work(&self.link, self.sink()).await? {
            Some(file) if file.state == ExportState::Open => self.gather(csv, &file).await,
            Some(file) => self.write(csv, &file).await,
            None => self.open(csv).await,
        }
    }

    /// Opens a file if it is time.
    async fn open(&self, csv: &CsvConfig) -> Result<bool, Trouble> {
        let limit = csv.cut.max_rows.map_or(1, |max| i64::try_from(max.get()).unwrap_or(i64::MAX));
        let waiting = export::waiting(&self.link, self.sink(), limit).await?;
        let Some(due) = due(&csv.cut, &waiting) else { return Ok(false) };
        let label = due.period.label();
        let opened =
            export::open(&self.link, self.sink(), self.epoch, &label, due.before, due.rows_max)
                .await?;
        if opened.is_none() {
            warn!(sink = self.sink(), "paused, or another relay has this sink now; no file opened");
        }
        Ok(opened.is_some())
    }

    /// Moves a page of deliveries into an open file, or closes it if none is left.
    async fn gather(&self, csv: &CsvConfig, file: &Export) -> Result<bool, Trouble> {
        let room = file.rows_max.map(|max| max - file.row_count);
        if room.is_none_or(|room| room > 0) {
            let page = export::gather_page(&self.link, self.sink(), file.due_before, room).await?;
            if !page.is_empty() {
                return self.move_page(csv, file, &page).await;
            }
        }
        Ok(export::close(&self.link, self.sink(), self.epoch, file.id).await?)
    }

    /// Rows of which no line can be made are dead with the reason, and keep the others from
    /// nothing.
    async fn move_page(
        &self,
        csv: &CsvConfig,
        file: &Export,
        page: &[Fetched],
    ) -> Result<bool, Trouble> {
        let (mut good, mut dead, mut expired) = (Vec::new(), Vec::new(), Vec::new());
        for row in page {
            match line_of(csv, row) {
                _ if row.expired => expired.push(ExpiredSettlement {
                    message_id: row.message_id,
                    target: row.target.clone(),
                    rev: row.rev,
                }),
                Ok(_) => good.push(row),
                Err(reason) => dead.push(self.dead(row, &reason)),
            }
        }
        let (link, sink) = (&self.link, self.sink());
        let mut changed = 0;
        if !dead.is_empty() {
            changed += work::settle_open(link, sink, self.epoch, &dead).await?.len();
        }
        if !expired.is_empty() {
            changed += work::settle_expired(link, sink, self.epoch, &expired).await?.len();
        }
        if !good.is_empty() {
            let moved = export::gather(link, sink, self.epoch, file.id, &good).await?;
            changed += usize::try_from(moved).unwrap_or_default();
        }
        // Nothing moved: another relay has the sink, or an operator was faster. Not at once again.
        Ok(changed > 0)
    }

    fn dead(&self, row: &Fetched, reason: &str) -> OpenSettlement {
        let message_type = row.message.as_ref().map_or("?", |m| m.message_type.as_str());
        warn!(
            message_id = row.message_id,
            r#type = message_type,
            sink = self.sink(),
            target = row.target,
            outcome = "dead",
            reason,
            "no CSV line can be made of this message; given up, the others go on"
        );
        OpenSettlement {
            message_id: row.message_id,
            target: row.target.clone(),
            rev: row.rev,
            attempt: row.attempt + 1,
            state: OpenState::Dead,
            delay: Duration::ZERO,
            reason: reason.chars().take(TEXT_MAX).collect(),
            content_hash: None,
        }
    }

    /// Writes and publishes a closed file.
    async fn write(&self, csv: &CsvConfig, file: &Export) -> Result<bool, Trouble> {
        let trouble = |reason: String| Trouble::File(file.id, reason);
        let name = match file.part {
            1 => file.period.clone(),
            part => format!("{}-{part}", file.period),
        };
        let mut out = CsvFile::begin(csv, &name, file.id).map_err(|e| trouble(e.to_string()))?;
        out = blocking(out, encode_header(&csv.columns)).await.map_err(trouble)?;
        let (mut after, mut rows) = ((i64::MIN, String::new()), 0);
        loop {
            let page = export::page(&self.link, file.id, &after).await?;
            let Some((last, _)) = page.last() else { break };
            after.clone_from(last);
            rows += i64::try_from(page.len()).unwrap_or_default();
            let mut lines = Vec::new();
            for (_, message) in &page {
                let line = encode_row(&csv.columns, message)
                    .map_err(|e| trouble(format!("message {}: {e}", message.id)))?;
                lines.extend_from_slice(&line);
            }
            out = blocking(out, lines).await.map_err(trouble)?;
            if !self.lease.holds() || self.cut.is_cancelled() {
                return Ok(false);
            }
        }
        if rows != file.row_count {
            error!(
                sink = self.sink(),
                export = file.id,
                rows,
                expected = file.row_count,
                "messages of this file were deleted by somebody: their lines are missing in it"
            );
        }
        let published = publish(out).await.map_err(trouble)?;
        let path = published.path.display().to_string();
        let sha256 = hex(&published.sha256);
        export::publish(&self.link, file.id, &path, published.bytes, &sha256).await?;
        info!(
            sink = self.sink(),
            export = file.id,
            period = file.period,
            rows = file.row_count,
            bytes = published.bytes,
            file = path,
            "published"
        );
        Ok(true)
    }
}

/// A cut that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Due {
    period: Period,
    before: Timestamp,
    rows_max: Option<i64>,
}

/// Whether a cut is due, and which. Pure.
///
/// By time, the file is that of the oldest row's period, but never of one that lies before the
/// last cut: what committed late goes into the next file. By count, the file is cut now and named
/// after the period it is cut in.
fn due(cut: &Cut, waiting: &Waiting) -> Option<Due> {
    let oldest = waiting.oldest?;
    let length = cut.every.unwrap_or(DAY);
    if cut.every.is_some() {
        let from = waiting.cut_before.map_or(oldest, |cut_before| oldest.max(cut_before));
        let period = Period::of(from, length);
        if period.end() <= waiting.now {
            return Some(Due { period, before: period.end(), rows_max: None });
        }
    }
    let max = i64::try_from(cut.max_rows?.get()).unwrap_or(i64::MAX);
    (waiting.count >= max).then(|| Due {
        period: Period::of(waiting.now, length),
        before: waiting.now,
        rows_max: Some(max),
    })
}

fn line_of(csv: &CsvConfig, row: &Fetched) -> Result<Vec<u8>, String> {
    let gone = "its message is gone: somebody deleted the row";
    let fetched = row.message.as_ref().ok_or(gone)?;
    let message = Message {
        id: row.message_id,
        message_type: fetched.message_type.clone(),
        payload: fetched.payload.clone().ok_or(gone)?,
        key: row.key.clone(),
        headers: fetched.headers.clone(),
        created_at: fetched.created_at,
    };
    encode_row(&csv.columns, &message)
}

/// Appends off the runtime's own threads: a disk can be slow.
async fn blocking(mut file: CsvFile, bytes: Vec<u8>) -> Result<CsvFile, String> {
    let appended = tokio::task::spawn_blocking(move || file.append(&bytes).map(|()| file)).await;
    appended.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

async fn publish(file: CsvFile) -> Result<Published, String> {
    let published = tokio::task::spawn_blocking(move || file.publish()).await;
    published.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn at(text: &str) -> Timestamp {
        format!("2026-11-20T{text}Z").parse().unwrap()
    }

    fn due_at(
        cut: &Cut,
        now: &str,
        oldest: &str,
        count: i64,
        cut_before: Option<&str>,
    ) -> Option<(String, Timestamp)> {
        let waiting = Waiting {
            now: at(now),
            oldest: Some(at(oldest)),
            count,
            cut_before: cut_before.map(at),
        };
        due(cut, &waiting).map(|due| (due.period.label(), due.before))
    }

    #[test]
    fn a_period_is_cut_once_it_is_over_and_late_rows_go_to_the_next() {
        let cut = Cut { every: Some(Duration::from_secs(60)), max_rows: None };
        let label = |name: &str, before: &str| Some((format!("2026-11-20T{name}"), at(before)));
        assert_eq!(due_at(&cut, "10:00:59", "10:00:30", 1, None), None);
        assert_eq!(due_at(&cut, "10:01:00", "10:00:30", 1, None), label("1000", "10:01:00"));
        assert_eq!(
            due_at(&cut, "10:09:30", "10:00:30", 1, None),
            label("1000", "10:01:00"),
            "after an outage the oldest period comes first"
        );
        assert_eq!(due_at(&cut, "10:01:30", "10:00:30", 1, Some("10:01:00")), None);
        assert_eq!(
            due_at(&cut, "10:02:00", "10:00:30", 1, Some("10:01:00")),
            label("1001", "10:02:00"),
            "a row that committed late goes into the next file"
        );
    }

    #[test]
    fn a_cut_by_count_is_named_after_now() {
        let max_rows = NonZeroUsize::new(3);
        let cut = Cut { every: Some(Duration::from_secs(60)), max_rows };
        assert_eq!(due_at(&cut, "10:00:40", "10:00:30", 2, None), None);
        let expected = Some(("2026-11-20T1000".to_owned(), at("10:00:40")));
        assert_eq!(due_at(&cut, "10:00:40", "10:00:30", 3, None), expected);
        let only_count = Cut { every: None, max_rows };
        let expected = Some(("2026-11-20".to_owned(), at("10:00:40")));
        assert_eq!(due_at(&only_count, "10:00:40", "10:00:30", 3, None), expected);
    }
}
