//! Logs go to stderr: for people where it is a terminal, else one JSON object a line.

use std::io::IsTerminal as _;
use std::panic::PanicHookInfo;

use tracing::{Level, Metadata, error};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

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
    // `target` is a word of ours, and a key must not stand twice in a JSON object.
    let logs = logs.with_target(false);
    // A second start within one process finds the first one's logger, which is as good.
    let _ = if std::io::stderr().is_terminal() {
        logs.finish().with(filter_fn(may_be_told)).try_init()
    } else {
        logs.json().flatten_event(true).finish().with(filter_fn(may_be_told)).try_init()
    };
    std::panic::set_hook(Box::new(tell_panic));
    Ok(())
}

/// What the libraries below tell at debug holds statements with their parameters, mails and requests:
/// that is not told, whatever is asked for.
fn may_be_told(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::INFO || metadata.target().split("::").next() == Some("outboxd")
}

/// A panic's words are told only where they stand in the source: others may hold what it was about.
fn tell_panic(panic: &PanicHookInfo<'_>) {
    let at = panic.location().map(ToString::to_string).unwrap_or_default();
    let words = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or_default();
    error!(at, words, "a fault inside outboxd (a panic)");
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_libraries_tell_at_debug_is_left_out_whatever_is_asked_for() {
        let written = Written::default();
        let to = written.clone();
        let logs = tracing_subscriber::fmt().with_env_filter(EnvFilter::new("trace"));
        let logs = logs.with_writer(move || to.clone()).json().flatten_event(true).finish();
        tracing::subscriber::with_default(logs.with(filter_fn(may_be_told)), || {
            tracing::debug!(target: "tokio_postgres::query", "theirs at debug");
            tracing::trace!(target: "outboxdx", "theirs at trace");
            tracing::info!(target: "tokio_postgres::connection", "theirs at info");
            tracing::trace!(target: "outboxd::relay", "ours at trace");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let told: Vec<bool> =
            ["theirs at debug", "theirs at trace", "theirs at info", "ours at trace"]
                .map(|words| text.contains(words))
                .into();
        assert_eq!(told, [false, false, true, true], "{text}");
    }
}
