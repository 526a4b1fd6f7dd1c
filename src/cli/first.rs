//! The first process of a container. The kernel ends no first process for a signal that it does not catch,
//! so a command that is told to stop there would go on until it is killed.

use super::run::{Signals, Told};
use super::{Answer, Failure};

/// Whether this is it.
pub(super) fn is_first() -> bool {
    std::process::id() == 1
}

/// Does the work of a command, and ends with it or at the first SIGTERM or SIGINT.
pub(super) async fn endable(work: impl Future<Output = Answer>) -> Answer {
    let mut signals = Signals::catch()?;
    let told = async {
        loop {
            if let Told::End(name) = signals.next().await {
                return name;
            }
        }
    };
    tokio::select! {
        answer = work => answer,
        name = told => Err(Failure::Fault(format!(
            "{name}: ended before it was done; what it committed stays, so run it again"
        ))),
    }
}
