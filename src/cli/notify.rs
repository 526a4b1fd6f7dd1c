//! The service manager: it is told when the relay is at work, reloads and stops, and while it goes round.
//!
//! This is systemd's protocol, a datagram of words to the socket that `NOTIFY_SOCKET` names; without the
//! variable nobody asks and nothing is said. What is told hangs on the relay alone, never on the database:
//! a service manager that restarts relays because PostgreSQL is away makes an outage longer.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::MissedTickBehavior;
use tracing::{error, warn};

use crate::relay::signs::Signs;

/// Whoever started this process and wants to know how it does.
pub(super) struct ServiceManager {
    socket: Option<UnixDatagram>,
    /// How long it waits for a sign of life before it acts.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// The one that the environment names, if any. One that cannot be reached is none: the variable may
    /// be another program's that this one was started by.
    pub(super) fn find() -> ServiceManager {
        let name = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let socket = name.and_then(|name| match connect(name.as_bytes()) {
            Ok(socket) => Some(socket),
            Err(error) => {
                warn!(socket = %name.display(), %error,
                    "NOTIFY_SOCKET cannot be reached; no service manager is told how the relay does");
                None
            }
        });
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let for_us = number("WATCHDOG_PID").is_none_or(|id| id == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|time| for_us && *time > 0);
        ServiceManager { socket, watchdog: watchdog.map(Duration::from_micros) }
    }

    pub(super) fn waiting(&self) {
        self.say("STATUS=waiting for PostgreSQL");
    }

    pub(super) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let now = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={now}\nSTATUS=reloading"));
    }

    pub(super) fn at_work(&self) {
        self.say("READY=1\nSTATUS=at work");
    }

    pub(super) fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=draining");
    }

    /// Tells what the relays show, until dropped.
    pub(super) async fn follow(&self, signs: &Signs) {
        let mut placed = signs.placed();
        // Twice within the time, as systemd recommends.
        let every = self.watchdog.map_or(Duration::from_secs(3600), |time| time / 2);
        let mut look = tokio::time::interval(every);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Ok(()) = placed.changed() => self.at_work(),
                _ = look.tick(), if self.watchdog.is_some() => {
                    if signs.are_late() {
                        error!("the relay goes round no more, a fault inside outboxd; the service manager is not told that all is well");
                    } else {
                        self.say("WATCHDOG=1");
                    }
                }
            }
        }
    }

    fn say(&self, words: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(words.as_bytes())
        {
            warn!(%error, "the service manager cannot be told how the relay does");
        }
    }
}

/// A path, or with an at sign before it a name in the abstract namespace.
fn connect(name: &[u8]) -> io::Result<UnixDatagram> {
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // A service manager that does not read must not hold the relay up.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> Vec<String> {
        let mut bytes = [0; 200];
        let mut all = Vec::new();
        while let Ok(length) = socket.recv(&mut bytes) {
            all.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
        }
        all
    }

    #[tokio::test(start_paused = true)]
    async fn a_relay_that_hangs_is_no_longer_vouched_for() {
        let (socket, hears) = UnixDatagram::pair().unwrap();
        hears.set_nonblocking(true).unwrap();
        let watchdog = Some(Duration::from_secs(2));
        let manager = ServiceManager { socket: Some(socket), watchdog };
        let signs = Signs::default();
        signs.round(Duration::from_secs(1));
        let _ = tokio::time::timeout(Duration::from_secs(60), manager.follow(&signs)).await;
        let vouched = heard(&hears);
        assert!((5..=8).contains(&vouched.len()), "{vouched:?}");
        assert!(vouched.iter().all(|words| words == "WATCHDOG=1"), "{vouched:?}");
        signs.round(Duration::from_secs(1));
        let _ = tokio::time::timeout(Duration::from_millis(1), manager.follow(&signs)).await;
        assert_eq!(heard(&hears), ["WATCHDOG=1"], "it goes round again");
    }
}
