//! Logs go to stderr: for people where it is a terminal, else one JSON object a line.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use super::Failure;

const DEFAULT: &str = "info,tokio_postgres=info,lettre=info,hyper=warn,reqwest=warn";

/// Starts logging, once.
pub(super) fn start() -> Result<(), Failure> {
    let wanted = std::env::var("OUTBOXD_LOG").ok().filter(|text| !text.trim().is_empty());
    let filter = EnvFilter::try_new(wanted.as_deref().unwrap_or(DEFAULT)).map_err(|error| {
        Failure::Usage(format!(
            "OUTBOXD_LOG is not understood: {error}; write e.g. OUTBOXD_LOG=info,outboxd=debug"
        ))
    })?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start within one process finds the first one's logger, which is as good.
    // `target` is a word of ours, and a key must not stand twice in a JSON object.
    let logs = logs.with_target(false);
    let _ = if std::io::stderr().is_terminal() {
        logs.try_init()
    } else {
        logs.json().flatten_event(true).try_init()
    };
    Ok(())
}
