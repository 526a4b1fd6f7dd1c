//! Query: the rows of an export, out of one snapshot of the database.
//!
//! No row ties an export's lines to its file, so what commits after the snapshot with a time before the
//! cut is in no file. The next run counts such rows, and says so.

use std::time::Duration;

use tracing::warn;

use super::build::{Written, append, begin, disk};
use super::{Cutter, Trouble};
use crate::config::{CsvConfig, ExportQuery};
use crate::relay::lines::{Lines, choose};
use crate::sink::csv::Layout;
use crate::store::StoreError;
use crate::store::export::{self, Export};
use crate::store::query::describe;
use crate::store::snapshot::{Asked, QueryError, Snapshot, bounds};

/// While the query computes: how often the lease is looked at.
const LOOK: Duration = Duration::from_secs(1);

impl Cutter {
    /// Writes what the query has for the span of a file; none if the relay lost the sink meanwhile.
    pub(super) async fn write_query(
        &self,
        csv: &CsvConfig,
        query: &ExportQuery,
        file: &Export,
    ) -> Result<Option<Written>, Trouble> {
        let trouble = |reason: String| Trouble::File(file.id, reason);
        let unknown = || trouble("it is not known where its period begins".to_owned());
        let (from, before) = (file.due_from.ok_or_else(unknown)?, file.due_before);
        let found = describe(&self.link, &query.sql).await;
        let found = found.map_err(|error| wrong(file, error.into()))?;
        let (columns, sources) = choose(&csv.columns, &found).map_err(trouble)?;
        let snapshot = Snapshot::begin(self.link.target(), query.timeout).await?;
        let counted = self.count_late(&snapshot, query, file);
        tokio::select! {
            counted = counted => counted?,
            () = self.lost() => return Ok(None),
        }
        let params = bounds(&from, &before);
        let asked = Asked { sql: &query.sql, params: &params, condition: None };
        let wrong = |error| wrong(file, error);
        let layout = Layout::with_columns(csv, columns);
        let mut out = begin(csv, file)?;
        out = append(out, layout.header()).await.map_err(|e| disk(csv, file, &e))?;
        let answer = tokio::select! {
            answer = snapshot.rows(&asked, &sources) => answer.map_err(wrong)?,
            () = self.lost() => return Ok(None),
        };
        let mut lines = Lines::new(answer, |values| layout.row(values));
        loop {
            let page = tokio::select! {
                page = lines.page() => page.map_err(wrong)?,
                () = self.lost() => return Ok(None),
            };
            let Some(page) = page else { break };
            out = append(out, page).await.map_err(|e| disk(csv, file, &e))?;
            if !self.lease.holds() || self.cut.is_cancelled() {
                return Ok(None);
            }
        }
        let rows = i64::try_from(lines.rows()).unwrap_or(i64::MAX);
        drop(lines);
        snapshot.end().await;
        Ok(Some(Written { file: out, rows, layout: layout.hash() }))
    }

    /// Counts what came too late for the file before, once for each file. A query that fails at that is
    /// told of; the new file is made all the same.
    async fn count_late(
        &self,
        snapshot: &Snapshot,
        query: &ExportQuery,
        file: &Export,
    ) -> Result<(), StoreError> {
        let Some(earlier) = export::before(&self.link, self.sink(), file.id).await? else {
            return Ok(());
        };
        let params = bounds(&earlier.from, &earlier.before);
        let asked = Asked { sql: &query.sql, params: &params, condition: None };
        let counted = match snapshot.count(&asked).await {
            Ok(counted) => counted,
            Err(QueryError::Store(error)) => return Err(error),
            Err(QueryError::Query(reason)) => {
                warn!(
                    sink = self.sink(),
                    period = earlier.period,
                    reason,
                    "cannot count the rows that came too late for this file; the next file is made all the same"
                );
                return Ok(());
            }
        };
        // Rows that were deleted since hide as many.
        let late = (counted - earlier.row_count).max(0);
        if late > 0 {
            warn!(
                sink = self.sink(),
                period = earlier.period,
                rows = late,
                "rows of this period committed after its file was made and are in no file; \
                 a longer settle_after would have them"
            );
        }
        export::note_late(&self.link, earlier.id, late).await
    }

    /// Returns once this relay is to end at once or may no longer act.
    async fn lost(&self) {
        let mut look = tokio::time::interval(LOOK);
        while self.lease.holds() {
            tokio::select! {
                _ = look.tick() => {}
                () = self.cut.cancelled() => return,
            }
        }
    }
}

fn wrong(file: &Export, error: QueryError) -> Trouble {
    match error {
        QueryError::Query(words) => Trouble::File(file.id, words),
        QueryError::Store(error) => Trouble::Store(error),
    }
}
