//! Build: a fixed set becomes a file. Its hash is put on record once its bytes are on disk and before it
//! gets its name, so that a crash at any point ends in one file with that hash or is begun again.

use std::fmt::Write as _;

use tracing::{error, info, warn};

use super::{Cutter, Trouble};
use crate::config::{CsvConfig, Empty, Rows};
use crate::hex::{hex, unhex};
use crate::sink::csv::{Content, CsvFile, Finished, Layout, Sidecar};
use crate::store::export::{self, Built, Export};

/// The rows of a file as they were written.
pub(super) struct Written {
    pub file: CsvFile,
    pub rows: i64,
    /// Hash of the columns and of how they are written.
    pub layout: String,
}

impl Cutter {
    /// Writes a closed file, and puts its hash on record; `false` if another relay has the sink now.
    pub(super) async fn build(&self, csv: &CsvConfig, file: &Export) -> Result<bool, Trouble> {
        let is_query = matches!(csv.rows, Rows::Query(_));
        if !is_query && file.row_count == 0 && csv.empty == Empty::Skip {
            return Ok(export::leave_empty(&self.link, self.sink(), self.epoch, file.id).await?);
        }
        let written = match &csv.rows {
            Rows::Messages => self.write_messages(csv, file).await?,
            Rows::Query(query) => self.write_query(csv, query, file).await?,
        };
        let Some(Written { file: out, rows, layout }) = written else { return Ok(false) };
        if rows == 0 && csv.empty == Empty::Skip {
            return Ok(export::leave_empty(&self.link, self.sink(), self.epoch, file.id).await?);
        }
        let trouble = |reason: String| Trouble::File(file.id, reason);
        let finished = blocking(move || out.finish()).await.map_err(trouble)?;
        let built = Built {
            file: &finished.path().display().to_string(),
            bytes: finished.content().bytes,
            sha256: &hex(&finished.content().sha256),
            rows,
            layout: &layout,
        };
        if !export::build(&self.link, self.sink(), self.epoch, file.id, &built).await? {
            return Ok(false);
        }
        self.give_name(csv, finished, file, (rows, &layout)).await
    }

    /// Gives a built file its name, where its bytes are still there; else it is written again.
    pub(super) async fn publish(&self, csv: &CsvConfig, file: &Export) -> Result<bool, Trouble> {
        let content = file.content.as_ref().and_then(|(bytes, sha256)| {
            Some(Content { bytes: u64::try_from(*bytes).ok()?, sha256: unhex(sha256)? })
        });
        let found = match content {
            Some(content) => {
                tokio::task::block_in_place(|| Finished::again(csv, &file.name(), file.id, content))
                    .map_err(|e| Trouble::File(file.id, e.to_string()))?
            }
            None => None,
        };
        match found {
            Some(finished) => {
                let layout = file.layout.as_deref().unwrap_or_default();
                self.give_name(csv, finished, file, (file.row_count, layout)).await
            }
            None => {
                warn!(
                    sink = self.sink(),
                    export = file.id,
                    period = file.period,
                    "the bytes of this file are not on this relay's disk; writing it again"
                );
                Ok(export::unbuild(&self.link, self.sink(), self.epoch, file.id).await?)
            }
        }
    }

    /// Makes a file visible, then what is told of it beside it: who sees that finds the file whole.
    async fn give_name(
        &self,
        csv: &CsvConfig,
        finished: Finished,
        file: &Export,
        (rows, layout): (i64, &str),
    ) -> Result<bool, Trouble> {
        let trouble = |reason: String| Trouble::File(file.id, reason);
        let (path, content) = (finished.path().to_owned(), *finished.content());
        // Its hash is on record: what has no name yet stays, and needs no writing again.
        let publish = move || finished.publish().inspect_err(|_| finished.leave());
        blocking(publish).await.map_err(trouble)?;
        if csv.sidecar {
            let sidecar = Sidecar {
                sink: self.sink(),
                period: &file.period,
                from: file.due_from,
                to: file.due_before,
                rows,
                ids: file.ids,
                layout,
            };
            let (path, text) = (path.clone(), sidecar.text(&path, &content));
            let export = file.id;
            let published = blocking(move || Sidecar::publish(&path, export, &text)).await;
            published.map_err(trouble)?;
        }
        export::publish(&self.link, file.id, &hex(&content.sha256)).await?;
        self.metrics.published(rows);
        info!(
            sink = self.sink(),
            export = file.id,
            period = file.period,
            rows,
            bytes = content.bytes,
            file = %path.display(),
            "published"
        );
        Ok(true)
    }

    /// Writes the messages of a file, page by page; none if the relay lost the sink meanwhile.
    async fn write_messages(
        &self,
        csv: &CsvConfig,
        file: &Export,
    ) -> Result<Option<Written>, Trouble> {
        let trouble = |reason: String| Trouble::File(file.id, reason);
        let layout = Layout::of(csv);
        let mut out = begin(csv, file)?;
        out = append(out, layout.header()).await.map_err(|e| disk(csv, file, &e))?;
        let (mut after, mut rows) = ((i64::MIN, String::new()), 0);
        loop {
            let page = export::page(&self.link, file.id, &after).await?;
            let Some((last, _)) = page.last() else { break };
            after.clone_from(last);
            rows += i64::try_from(page.len()).unwrap_or_default();
            let mut lines = Vec::new();
            for (_, message) in &page {
                let line = layout
                    .line(message)
                    .map_err(|e| trouble(format!("message {}: {e}", message.id)))?;
                lines.extend_from_slice(&line);
            }
            out = append(out, lines).await.map_err(|e| disk(csv, file, &e))?;
            if !self.lease.holds() || self.cut.is_cancelled() {
                return Ok(None);
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
        Ok(Some(Written { file: out, rows, layout: layout.hash() }))
    }
}

/// Opens the hidden file.
pub(super) fn begin(csv: &CsvConfig, file: &Export) -> Result<CsvFile, Trouble> {
    CsvFile::begin(csv, &file.name(), file.id).map_err(|error| disk(csv, file, &chain(&error)))
}

/// What a disk said, which does not say where.
pub(super) fn disk(csv: &CsvConfig, file: &Export, said: &str) -> Trouble {
    Trouble::File(file.id, format!("cannot write in {}: {said}", csv.directory.display()))
}

/// Appends off the runtime's own threads: a disk can be slow.
pub(super) async fn append(mut file: CsvFile, bytes: Vec<u8>) -> Result<CsvFile, String> {
    blocking(move || file.append(&bytes).map(|()| file)).await
}

async fn blocking<T: Send + 'static, E: std::error::Error + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| e.to_string())?.map_err(|e| chain(&e))
}

/// An error with its causes: the disk's own words stand last.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(words, ": {cause}");
        source = cause.source();
    }
    words
}
