//! Gather: what belongs into an open file moves into it, and then its set is fixed.

use std::time::Duration;

use tracing::warn;

use super::{Cutter, Trouble};
use crate::config::{CsvConfig, Rows};
use crate::delivery::TEXT_MAX;
use crate::message::Message;
use crate::sink::csv::Layout;
use crate::store::export::{self, Export};
use crate::store::work::{self, ExpiredSettlement, Fetched, OpenSettlement, OpenState};

impl Cutter {
    /// Moves a page of deliveries into an open file, or closes it if none is left.
    pub(super) async fn gather(&self, csv: &CsvConfig, file: &Export) -> Result<bool, Trouble> {
        // What still waits for a csv sink that became an export is in no file of a query.
        let is_query = matches!(csv.rows, Rows::Query(_));
        let room = file.rows_max.map(|max| max - file.row_count);
        if !is_query && room.is_none_or(|room| room > 0) {
            let page = export::gather_page(&self.link, self.sink(), file.due_before, room).await?;
            if !page.is_empty() {
                return self.move_page(csv, file, &page).await;
            }
        }
        Ok(export::close(&self.link, self.sink(), self.epoch, file.id, is_query).await?)
    }

    /// Rows of which no line can be made are dead with the reason, and keep the others from
    /// nothing.
    async fn move_page(
        &self,
        csv: &CsvConfig,
        file: &Export,
        page: &[Fetched],
    ) -> Result<bool, Trouble> {
        let layout = Layout::of(csv);
        let (mut good, mut dead, mut expired) = (Vec::new(), Vec::new(), Vec::new());
        for row in page {
            match line_of(&layout, row) {
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
            recipients: None,
        }
    }
}

fn line_of(layout: &Layout, row: &Fetched) -> Result<Vec<u8>, String> {
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
    layout.line(&message)
}
