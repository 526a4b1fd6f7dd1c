//! Mail: the dialogue with a mail server, step by step (RFC 5321).
//!
//! The promise is that a reply belongs to the mail it is taken for. So a connection is owned by
//! one attempt at a time: it is taken out of the stock, and comes back only after a clean end. An
//! attempt that is dropped, times out or meets anything unexpected takes its connection with it.

mod entered;
mod session;
mod stock;
mod tally;
mod transaction;
mod verdict;
mod wire;

use std::sync::Arc;

use lettre::Address;
use rustls::ClientConfig;

pub use self::entered::Entered;
use self::session::{Door, Session, Shut};
use self::stock::{Stock, Taken};
use self::tally::Tally;
use self::transaction::{Turn, transact};
pub use self::wire::Transcript;
#[cfg(fuzzing)]
pub use self::wire::fuzz::check as check_replies;
use self::wire::{Fault, Reply};
use super::capture::Capture;
use super::mail::{Letterhead, PreparedMail};
use super::{BuildError, tls};
use crate::config::{MailServer, SinkConfig, SmtpConfig};
use crate::delivery::{Cause, Outcome, Phase, clean_text};
use crate::policy::Codes;

/// A mail sink.
pub struct Smtp {
    server: Server,
    letterhead: Letterhead,
    /// Where mails are kept in place of being sent.
    pub(super) capture: Option<Capture>,
}

/// A mail server and our connections to it.
struct Server {
    door: Door,
    stock: Stock,
}

/// What one attempt is about.
struct Attempt<'a> {
    mail: &'a PreparedMail,
    /// The replies after which asking again cannot help; none for those of class 5xx.
    permanent: Option<&'a Codes>,
    phase: &'a Phase,
}

impl Smtp {
    pub(super) fn build(config: &SinkConfig, way: &SmtpConfig) -> Result<Smtp, BuildError> {
        let letterhead = Letterhead::of(way).map_err(BuildError::Mail)?;
        let server = Server::build(&way.server, config.concurrency.get())?;
        Ok(Smtp { server, letterhead, capture: None })
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
        self.server.attempt(&Attempt { mail, permanent, phase }).await
    }

    /// The dialogue without a login, over TLS with these rules: for a look at the certificate.
    pub(super) async fn look(way: &SmtpConfig, tls: Arc<ClientConfig>) {
        let server = MailServer { login: None, ..way.server.clone() };
        if let Ok(session) = (Door { server, tls }).enter(None).await {
            session.part();
        }
    }

    /// The dialogue up to where a mail would begin.
    pub(super) async fn probe(&self) -> Result<String, String> {
        let door = &self.server.door;
        let MailServer { host, port, .. } = &door.server;
        let entered = door.enter(None).await;
        let session = entered.map_err(|shut| format!("{host}:{port}: {}", shut.reason))?;
        session.part();
        let login = if door.server.login.is_some() { " and the login is good" } else { "" };
        Ok(format!("{host}:{port} takes mail{login}"))
    }
}

impl Server {
    fn build(server: &MailServer, connections: usize) -> Result<Server, BuildError> {
        let tls = tls::client_config(server.ca_file.as_deref())?;
        let door = Door { server: server.clone(), tls };
        Ok(Server { door, stock: Stock::new(connections) })
    }

    /// A connection that waits, or a new one; waits while there are as many as may be.
    async fn session(&self) -> Result<Session, Shut> {
        match self.stock.take().await {
            Taken::Session(session) => Ok(*session),
            Taken::Slot(slot) => self.door.enter(Some(slot)).await,
        }
    }

    /// A new connection, within the same limit: a caller that has let us in before must not find it closed.
    async fn session_anew(&self) -> Result<Session, Shut> {
        loop {
            match self.stock.take().await {
                Taken::Session(session) => session.part(),
                Taken::Slot(slot) => return self.door.enter(Some(slot)).await,
            }
        }
    }

    /// Offers the mail to all recipients that are open, in as many transactions as the server wants.
    async fn attempt(&self, attempt: &Attempt<'_>) -> Outcome {
        let mut tally = Tally::new(attempt);
        let mut to = tally.open();
        while !to.is_empty() {
            let session = match self.session().await {
                Ok(session) => session,
                Err(shut) => return shut.outcome(),
            };
            match transact(session, attempt, &to, &mut tally).await {
                Turn::Kept(session) => self.stock.keep(session),
                Turn::Spent => {}
                // Nothing was accepted, and it says nothing of the server: on to the next connection.
                Turn::Stale => continue,
                Turn::Broken(outcome) => return outcome,
            }
            to = tally.crowded();
        }
        tally.outcome()
    }
}

impl Attempt<'_> {
    fn said(&self, step: &str, reply: &Reply) -> String {
        clean_text(&without_addresses(&format!("{step}: {reply}"), &self.mail.to))
    }
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
