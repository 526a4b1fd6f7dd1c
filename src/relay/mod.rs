//! The relay: takes what is due to the sinks and settles what came of it.

pub mod route;

use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// Why a relay stopped or never worked, with the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RunError(String);

/// Works until `stop` is cancelled and all is settled, or `now` is.
///
/// # Errors
/// When waiting cannot help.
pub async fn run(
    _config: Config,
    stop: CancellationToken,
    now: CancellationToken,
) -> Result<(), RunError> {
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        () = now.cancelled() => Err(RunError("cut short".to_owned())),
    }
}
