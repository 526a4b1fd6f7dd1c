//! Left: what a former owner was sending when it fell silent is in doubt, also where the config has no
//! mail any more. Else it would be `sending` for ever, which nobody may end.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::metrics::{FileMetrics, MailEnd};
use crate::relay::patiently;
use crate::store::mailing::{Actor, hold_silent};
use crate::store::{Link, StoreError};

/// No dialogue takes longer than the longest `timeout` that a sink can have.
const DIALOGUE_MAX: Duration = Duration::from_secs(3600);

/// What it takes to look at a sink whose files are not mailed.
pub struct Left {
    /// The sink.
    pub sink: String,
    /// This relay.
    pub relay: String,
    /// The epoch it took the sink with.
    pub epoch: i64,
    /// For the statement.
    pub link: Arc<Link>,
    /// What is counted.
    pub metrics: FileMetrics,
    /// How long a relay that fell silent may go on without knowing.
    pub lease_time: Duration,
    /// End.
    pub drain: CancellationToken,
    /// End at once.
    pub cut: CancellationToken,
}

impl Left {
    /// Looks once, for as long as that takes.
    pub async fn hold(self) {
        let actor = Actor { sink: &self.sink, epoch: self.epoch, relay: &self.relay };
        let until = self.lease_time + DIALOGUE_MAX;
        tokio::select! {
            held = patiently(|| hold(&self.link, &self.metrics, &actor, until)) => {
                if let Err(error) = held {
                    error!(sink = self.sink, %error, "cannot look for mails in doubt");
                }
            }
            () = self.drain.cancelled() => {}
            () = self.cut.cancelled() => {}
        }
    }
}

/// What a former owner was sending is in doubt.
pub(super) async fn hold(
    link: &Link,
    metrics: &FileMetrics,
    actor: &Actor<'_>,
    until: Duration,
) -> Result<(), StoreError> {
    for period in hold_silent(link, actor, until).await? {
        metrics.mailed(MailEnd::Held);
        error!(
            sink = actor.sink,
            period,
            outcome = "held",
            "the relay that was mailing this period fell silent; nobody knows whether the mail went \
             out. Ask those who get it, then run: outboxd resolve"
        );
    }
    Ok(())
}
