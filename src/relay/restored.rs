//! Restored: a copy of the database, met in another cluster, delivers nothing by itself.
//!
//! What was open when the copy was made may long be delivered by the original, which may still run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::{error, warn};

use crate::store::own::RelayEntry;
use crate::store::restored::{Copy, pause_restored};
use crate::store::{Link, StoreError};

/// Looks whether the cluster is the one that `migrate` met, with every new connection of the lease.
pub struct Guard {
    link: Arc<Link>,
    /// Who pauses, in the record of actions.
    who: String,
    /// After how many connections it was looked last.
    looked_after: AtomicU64,
}

impl Guard {
    /// A guard that has not looked yet.
    #[must_use]
    pub fn new(link: Arc<Link>, relay: &RelayEntry) -> Guard {
        let who = format!("relay {}@{}", relay.id, relay.host);
        Guard { link, who, looked_after: AtomicU64::new(0) }
    }

    /// The connection of the lease.
    #[must_use]
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Where the connection is new: pauses a copy in another cluster, and says what to do.
    ///
    /// # Errors
    /// When the database cannot be asked; it is looked again with the next call then.
    pub async fn look(&self) -> Result<(), StoreError> {
        let connections = self.link.connections();
        let looked_after = self.looked_after.load(Ordering::SeqCst);
        if connections > 0 && connections == looked_after {
            return Ok(());
        }
        let found = pause_restored(&self.link, &self.who).await?;
        // The number from before the call: if it connected anew, one look more does no harm.
        self.looked_after.store(connections.max(1), Ordering::SeqCst);
        match found {
            Copy::Restored => error!(
                "this database was restored or cloned into another cluster: all is paused, nothing \
                 is delivered. If the original goes on, give this copy another name than its in \
                 [database] installation; if this one takes its place, stop the original, then \
                 run: outboxd resume --restored"
            ),
            Copy::Unknown if looked_after == 0 => warn!(
                "the cluster's identifier cannot be read (pg_control_system): a restored copy of \
                 this database would not be recognised as one"
            ),
            Copy::Original | Copy::Unknown => {}
        }
        Ok(())
    }
}
