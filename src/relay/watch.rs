//! Watch: sees what is in trouble and has it told. Every relay looks; which one tells is settled in the
//! database.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use crate::alert::digests;
use crate::metrics::Metrics;
use crate::name::Name;
use crate::store::{Link, StoreError, watch as store};

/// How often troubles are looked for.
const EVERY: Duration = Duration::from_secs(5);
/// A cause is not told of more often than this.
const PAUSE: Duration = Duration::from_secs(60);
/// How long a trouble lasts, of those that may pass by themselves, before it is told.
const PATIENCE: Duration = Duration::from_secs(60);

/// Looks and tells until dropped.
pub async fn watch(link: Arc<Link>, installation: Name, metrics: Metrics) {
    let mut looks = tokio::time::interval(EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if let Err(error) =
            look_counting(&link, installation.as_str(), PAUSE, PATIENCE, &metrics).await
        {
            warn!(%error, "troubles could not be looked for; trying again");
        }
    }
}

/// One look: enters what is in trouble, and tells of what is new; answers how many messages that took.
/// A cause is told of once in `pause`; what may pass by itself, once it is older than `patience`.
///
/// # Errors
/// When the database cannot be asked. What was not told is told by a later look.
pub async fn look(
    link: &Link,
    installation: &str,
    pause: Duration,
    patience: Duration,
) -> Result<i32, StoreError> {
    look_counting(link, installation, pause, patience, &Metrics::new()).await
}

async fn look_counting(
    link: &Link,
    installation: &str,
    pause: Duration,
    patience: Duration,
    metrics: &Metrics,
) -> Result<i32, StoreError> {
    store::watch(link).await?;
    let alerts = store::alerts(link).await?;
    if alerts.is_empty() {
        return Ok(0);
    }
    let receivers = store::receivers(link).await?;
    let mut messages = 0;
    for digest in digests(installation, &alerts, &receivers, patience) {
        let told = store::tell(link, &digest, pause).await?;
        if told > 0 {
            let (subjects, over) = digest.subjects;
            warn!(cause = digest.cause.word(), subjects, over, "alert");
            metrics.told(digest.cause, told);
        }
        messages += told;
    }
    Ok(messages)
}
