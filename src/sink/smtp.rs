//! Mail: the dialogue with a mail server, step by step (RFC 5321).
//!
//! The promise is that a reply belongs to the mail it is taken for. So a connection is owned by
//! one attempt at a time: it is taken out of the stock, and comes back only after a clean end. An
//! attempt that is dropped, times out or meets anything unexpected takes its connection with it.

mod connect;
mod entered;
mod failover;
mod login;
mod look;
mod server;
mod session;
mod stock;
mod tally;
mod transaction;
mod transcript;
mod verdict;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use lettre::Address;
use rustls::ClientConfig;

pub use self::entered::Entered;
use self::failover::Second;
pub use self::look::{Place, Reception};
use self::server::Server;
use self::session::Door;
pub use self::transcript::Transcript;
#[cfg(fuzzing)]
pub use self::wire::fuzz::check as check_replies;
use self::wire::{Fault, Reply};
use super::BuildError;
use super::capture::Capture;
use super::mail::{Letterhead, PreparedMail};
use crate::config::{MailServer, SinkConfig, SmtpConfig};
use crate::delivery::{Cause, Outcome, Phase, TEXT_MAX, clean_text};
use crate::policy::Codes;

/// A mail sink.
pub struct Smtp {
    first: Box<Server>,
    second: Option<Box<Second>>,
    letterhead: Letterhead,
    /// Where mails are kept in place of being sent.
    pub(super) capture: Option<Capture>,
}

/// Which of a sink's servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one that the sink's own keys name.
    First,
    /// `[sinks.NAME.fallback]`
    Second,
}

/// What one attempt is about.
struct Attempt<'a> {
    mail: &'a PreparedMail,
    /// The replies after which asking again cannot help; none for those of class 5xx.
    permanent: Option<&'a Codes>,
    phase: &'a Phase,
    /// What stands before the words of a server, so that everybody knows which one said them.
    speaker: &'a str,
}

impl Smtp {
    pub(super) fn build(config: &SinkConfig, way: &SmtpConfig) -> Result<Smtp, BuildError> {
        let letterhead = Letterhead::of(way).map_err(BuildError::Mail)?;
        let connections = config.concurrency.get();
        let first = Box::new(Server::build(&way.server, connections)?);
        let second =
            way.fallback.as_ref().map(|way| Second::build(way, connections)).transpose()?;
        Ok(Smtp { first, second: second.map(Box::new), letterhead, capture: None })
    }

    /// What all its mails say.
    pub(super) fn letterhead(&self) -> &Letterhead {
        &self.letterhead
    }

    /// One attempt, for all recipients that are open.
    pub(super) async fn deliver(
        &self,
        mail: &PreparedMail,
        permanent: Option<&Codes>,
        phase: &Phase,
    ) -> Outcome {
        if let Some(capture) = &self.capture {
            return keep(capture, mail, phase).await;
        }
        let attempt = Attempt { mail, permanent, phase, speaker: "" };
        match &self.second {
            None => self.first.attempt(&attempt, None).await.outcome(),
            Some(second) => second.attempt_after(&self.first, &attempt).await,
        }
    }

    /// Since when mails go through the second server, and why; none while the first takes them.
    #[must_use]
    pub fn on_second(&self) -> Option<(Duration, String)> {
        self.second.as_ref()?.trouble()
    }

    fn door(&self, which: Which) -> Option<&Door> {
        match which {
            Which::First => Some(&self.first.door),
            Which::Second => self.second.as_ref().map(|second| &second.server.door),
        }
    }

    /// Where one of the servers is; none if there is no second one.
    #[must_use]
    pub fn place(&self, which: Which) -> Option<Place> {
        self.door(which).map(Door::place)
    }

    /// The dialogue with one of the servers up to where a mail would begin.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn look(&self, which: Which) -> Result<Reception, String> {
        self.door(which).ok_or("there is no second server")?.look().await
    }

    /// The same with the first one, in a word.
    pub(super) async fn probe(&self) -> Result<String, String> {
        let place = self.first.door.place();
        match self.first.door.look().await {
            Ok(_) => Ok(format!("{place} takes mail")),
            Err(reason) => Err(format!("{place}: {reason}")),
        }
    }

    /// The dialogue without a login, over TLS with these rules: for a look at the certificate.
    pub(super) async fn shake_hands(server: &MailServer, tls: Arc<ClientConfig>) {
        let server = MailServer { login: None, ..server.clone() };
        if let Ok(session) = Door::new(server, tls).enter(None).await {
            session.part();
        }
    }
}

impl Attempt<'_> {
    fn said(&self, step: &str, reply: &Reply) -> String {
        let words = format!("{}{step}: {reply}", self.speaker);
        clean_text(&without_addresses(beginning(&words), &self.mail.to))
    }
}

/// As much of a reply as anything is made of: more than is kept, so that what is cut off an address here is
/// cut off there.
fn beginning(words: &str) -> &str {
    words.char_indices().nth(4 * TEXT_MAX).map_or(words, |(end, _)| &words[..end])
}

/// Keeps a mail in place of sending it.
async fn keep(capture: &Capture, mail: &PreparedMail, phase: &Phase) -> Outcome {
    match phase.begin() {
        Ok(()) => capture.keep(&format!("{}.eml", mail.id), &mail.whole()).await,
        Err(outcome) => outcome,
    }
}

/// A connection that failed before anything could be delivered.
fn broken(step: &str, fault: &Fault) -> Outcome {
    let reason = clean_text(&format!("{step}: {fault}"));
    Outcome::Transient { cause: Cause::Unreachable, reason, wait: None }
}

/// Servers like to repeat the recipient; we do not keep addresses.
fn without_addresses(text: &str, to: &[Address]) -> String {
    let mut text = text.to_owned();
    for address in to {
        let address: &str = address.as_ref();
        let mut from = 0;
        while let Some(at) = find_ignoring_case(&text[from..], address) {
            text.replace_range(from + at..from + at + address.len(), "…");
            from += at + "…".len();
        }
    }
    text
}

/// `needle` is ASCII, so a match begins and ends between characters.
fn find_ignoring_case(text: &str, needle: &str) -> Option<usize> {
    let windows = text.as_bytes().windows(needle.len());
    windows.into_iter().position(|window| window.eq_ignore_ascii_case(needle.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_hold_no_addresses() {
        let to = ["bob@shop.example".parse().unwrap(), "o@x.example".parse().unwrap()];
        let text = "550 5.1.1 <Bob@Shop.EXAMPLE>: no; bob@shop.example o@x.example ä";
        assert_eq!(without_addresses(text, &to), "550 5.1.1 <…>: no; … … ä");
    }
}
