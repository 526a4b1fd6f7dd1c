//! One line a second: what was sold, what arrived, what is open.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::DATABASE;
use crate::harness::postgres::Cluster;
use crate::receivers::Receivers;
use crate::shop::Sales;
use crate::tally;

/// Looks at everything once a second.
pub struct Watch<'a> {
    client: Client,
    receivers: &'a Receivers,
    folder: PathBuf,
}

/// What one look found.
pub struct Seen {
    open: i64,
    unpublished: i64,
}

impl Seen {
    /// Whether every delivery is closed and every file published.
    pub fn is_done(&self) -> bool {
        self.open == 0 && self.unpublished == 0
    }
}

impl<'a> Watch<'a> {
    pub async fn new(cluster: &Cluster, receivers: &'a Receivers, folder: &Path) -> Watch<'a> {
        Watch { client: cluster.connect(DATABASE).await, receivers, folder: folder.to_owned() }
    }

    /// Waits until the relay has put its routes in force.
    pub async fn until_routed(&self) -> anyhow::Result<()> {
        let sql = "SELECT count(*) FROM outbox.route";
        while self.client.query_one(sql, &[]).await?.get::<_, i64>(0) == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// The columns' names.
    pub fn head() {
        println!("seconds  committed  rolled back    mails  webhooks  csv rows     open");
    }

    /// Prints a line.
    pub async fn look(&self, start: Instant, sales: &Sales) -> anyhow::Result<Seen> {
        let sql = "SELECT (SELECT count(*) FROM outbox.delivery),
                          (SELECT count(*) FROM outbox.export WHERE state <> 'published')";
        let row = self.client.query_one(sql, &[]).await?;
        let seen = Seen { open: row.get(0), unpublished: row.get(1) };
        let arrived = self.receivers.counts();
        println!(
            "{:>7}  {:>9}  {:>11}  {:>7}  {:>8}  {:>8}  {:>7}",
            start.elapsed().as_secs(),
            sales.committed(),
            sales.rolled_back(),
            arrived.mails,
            arrived.requests,
            tally::read_files(&self.folder)?.len(),
            seen.open,
        );
        Ok(seen)
    }

    /// What the relay recorded as closed, by sink.
    pub async fn recorded(&self) -> anyhow::Result<BTreeMap<String, usize>> {
        let sql = "SELECT sink, count(*) FROM outbox.ledger
                    WHERE outcome IN ('delivered', 'exported') GROUP BY sink";
        let rows = self.client.query(sql, &[]).await?;
        let count = |row: &tokio_postgres::Row| {
            (row.get(0), usize::try_from(row.get::<_, i64>(1)).unwrap_or_default())
        };
        Ok(rows.iter().map(count).collect())
    }
}
