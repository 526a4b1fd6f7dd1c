//! Mail: the dialogue with a mail server, step by step (RFC 5321).
//!
//! The promise is that a reply belongs to the mail it is taken for. So a connection is owned by
//! one attempt at a time: it is taken out of the stock, and comes back only after a clean end. An
//! attempt that is dropped, times out or meets anything unexpected takes its connection with it.

mod connect;
mod entered;
mod login;
mod session;
mod stock;
mod verdict;
mod wire;

use std::sync::Arc;

use lettre::Address;
use lettre::message::Mailbox;
use lettre::transport::smtp::commands::{Data, Mail, Rcpt, Rset};
use rustls::ClientConfig;

pub use self::entered::Entered;
use self::session::{Door, Session};
use self::stock::Stock;
pub use self::wire::Transcript;
use self::wire::{Fault, Reply, dot_stuffed};
use super::capture::Capture;
use super::mail::{PreparedMail, to_ascii};
use super::{BuildError, tls};
use crate::config::{MailServer, SmtpConfig};
use crate::delivery::{Cause, Outcome, Phase, clean_text};
use crate::policy::Codes;

/// How much of a mail is held back to go out together with the final dot, in bytes.
const TAIL: usize = 16 * 1024;

/// A mail sink.
pub struct Smtp {
    door: Door,
    sender: Mailbox,
    stock: Stock,
    /// Where mails are kept in place of being sent.
    pub(super) capture: Option<Capture>,
}

/// What one attempt is about.
struct Attempt<'a> {
    mail: &'a PreparedMail,
    /// The replies after which asking again cannot help; none for those of class 5xx.
    permanent: Option<&'a Codes>,
    phase: &'a Phase,
}

/// How a dialogue about one mail ended.
enum Turn {
    /// With an outcome.
    Ended(Outcome),
    /// The connection had been closed by the server meanwhile; it had not accepted anything.
    Stale,
}

impl Smtp {
    pub(super) fn build(way: &SmtpConfig) -> Result<Smtp, BuildError> {
        let sender =
            to_ascii(way.from.clone()).map_err(|e| BuildError::Mail(format!("from: {e}")))?;
        if sender.name.as_ref().is_some_and(|name| name.chars().any(char::is_control)) {
            return Err(BuildError::Mail("from: a control character in the name".to_owned()));
        }
        let tls = tls::client_config(way.server.ca_file.as_deref())?;
        let door = Door::new(way.server.clone(), tls);
        Ok(Smtp { door, sender, stock: Stock::default(), capture: None })
    }

    /// `From:`, in the form that every server takes.
    pub(super) fn sender(&self) -> &Mailbox {
        &self.sender
    }

    /// One attempt: over a connection that waits, or a new one if that turns out to be closed.
    pub(super) async fn deliver(
        &self,
        mail: &PreparedMail,
        permanent: Option<&Codes>,
        phase: &Phase,
    ) -> Outcome {
        if let Some(capture) = &self.capture {
            return keep(capture, mail, phase).await;
        }
        let attempt = Attempt { mail, permanent, phase };
        if let Some(session) = self.stock.take()
            && let Turn::Ended(outcome) = self.converse(session, &attempt).await
        {
            return outcome;
        }
        let session = match self.door.enter().await {
            Ok(session) => session,
            Err(shut) => return shut.outcome(),
        };
        match self.converse(session, &attempt).await {
            Turn::Ended(outcome) => outcome,
            Turn::Stale => broken("MAIL", &Fault::Closed),
        }
    }

    /// MAIL, RCPT, DATA and the mail itself.
    async fn converse(&self, mut session: Session, attempt: &Attempt<'_>) -> Turn {
        let mail = attempt.mail;
        let used = session.mails > 0;
        session.mails += 1;
        if session.unfinished {
            match session.wire.ask(Rset).await {
                Ok(reply) if reply.is_done() => session.unfinished = false,
                _ => return Turn::Stale,
            }
        }
        match session.wire.ask(Mail::new(mail.from.clone(), Vec::new())).await {
            Ok(reply) if reply.is_done() => {}
            Ok(reply) if used && reply.code == 421 => return Turn::Stale,
            Ok(reply) => return self.refused(session, &reply, attempt.sender_refused(&reply)),
            Err(_) if used => return Turn::Stale,
            Err(fault) => return Turn::Ended(broken("MAIL", &fault)),
        }
        let mut refusals = Vec::new();
        for to in &mail.to {
            match session.wire.ask(Rcpt::new(to.clone(), Vec::new())).await {
                Ok(reply) if reply.is_done() => {}
                Ok(reply) if reply.is_refusal() || (reply.is_transient() && reply.code != 421) => {
                    refusals.push(reply);
                }
                Ok(reply) => return Turn::Ended(attempt.refusal("RCPT", &reply)),
                Err(fault) => return Turn::Ended(broken("RCPT", &fault)),
            }
        }
        let worst = |reply: &&Reply| (attempt.is_permanent(reply), reply.code);
        if let Some(worst) = refusals.iter().max_by_key(worst) {
            let outcome = attempt.refusal("recipient refused", worst);
            return self.break_off(session, outcome);
        }
        match session.wire.ask(Data).await {
            Ok(reply) if reply.code == 354 => self.hand_over(session, attempt).await,
            Ok(reply) => {
                let outcome = attempt.refusal("DATA", &reply);
                if reply.is_refusal() || (reply.is_transient() && reply.code != 421) {
                    return self.break_off(session, outcome);
                }
                Turn::Ended(outcome)
            }
            Err(fault) => Turn::Ended(broken("DATA", &fault)),
        }
    }

    /// Sends the mail itself. Until the final dot is on its way nothing can be delivered, so the
    /// phase begins before the last piece, which holds it.
    async fn hand_over(&self, mut session: Session, attempt: &Attempt<'_>) -> Turn {
        let mail = attempt.mail;
        let bytes = dot_stuffed(&mail.data);
        let (head, tail) = bytes.split_at(bytes.len().saturating_sub(TAIL));
        if !head.is_empty()
            && let Err(fault) = session.wire.send(head).await
        {
            return Turn::Ended(broken("mail data", &fault));
        }
        match session.wire.has_spoken() {
            Ok(false) => {}
            // A server that answers before the mail has ended cannot have accepted it.
            Ok(true) => {
                return Turn::Ended(match session.wire.reply().await {
                    Ok(reply) => attempt.refusal("mail refused before its end", &reply),
                    Err(fault) => broken("mail data", &fault),
                });
            }
            Err(fault) => return Turn::Ended(broken("mail data", &fault)),
        }
        if let Err(outcome) = attempt.phase.begin() {
            return Turn::Ended(outcome);
        }
        let reply = match session.wire.send(tail).await {
            Ok(()) => session.wire.reply().await,
            Err(fault) => Err(fault),
        };
        match reply {
            Ok(reply) if reply.is_done() => {
                let receipt = clean_text(&without_addresses(&reply.to_string(), &mail.to));
                self.stock.keep(session);
                Turn::Ended(Outcome::Delivered { receipt })
            }
            Ok(reply) if reply.is_transient() || reply.is_refusal() => {
                let outcome = attempt.refusal("mail refused", &reply);
                self.refused(session, &reply, outcome)
            }
            Ok(reply) => {
                let reason = attempt.said("unexpected answer to the mail", &reply);
                Turn::Ended(Outcome::InDoubt { reason })
            }
            Err(fault) => {
                let reason = clean_text(&format!("no answer to the mail: {fault}"));
                Turn::Ended(Outcome::InDoubt { reason })
            }
        }
    }

    /// Ends a dialogue after a reply that leaves no transaction open.
    fn refused(&self, session: Session, reply: &Reply, outcome: Outcome) -> Turn {
        // After 421 the server hangs up; a 3xx here means we no longer understand each other.
        if reply.code != 421 && (reply.is_transient() || reply.is_refusal()) {
            self.stock.keep(session);
        }
        Turn::Ended(outcome)
    }

    /// Ends a dialogue within an open transaction. RSET waits for the next mail: the outcome is
    /// known and must not depend on one more reply.
    fn break_off(&self, mut session: Session, outcome: Outcome) -> Turn {
        session.unfinished = true;
        self.stock.keep(session);
        Turn::Ended(outcome)
    }

    /// The dialogue without a login, over TLS with these rules: for a look at the certificate.
    pub(super) async fn look(way: &SmtpConfig, tls: Arc<ClientConfig>) {
        let server = MailServer { login: None, ..way.server.clone() };
        if let Ok(session) = Door::new(server, tls).enter().await {
            session.part();
        }
    }

    /// The dialogue up to where a mail would begin.
    pub(super) async fn probe(&self) -> Result<String, String> {
        let MailServer { host, port, .. } = &self.door.server;
        let entered = self.door.enter().await;
        let session = entered.map_err(|shut| format!("{host}:{port}: {}", shut.reason))?;
        session.part();
        let login = if self.door.server.login.is_some() { " and the login is good" } else { "" };
        Ok(format!("{host}:{port} takes mail{login}"))
    }
}

impl Attempt<'_> {
    /// The outcome of a reply that took the mail neither in part nor as a whole.
    fn refusal(&self, what: &str, reply: &Reply) -> Outcome {
        let reason = self.said(what, reply);
        if self.is_permanent(reply) {
            return Outcome::Permanent { reason };
        }
        let (cause, wait) = (verdict::of_mail(reply), verdict::wait(reply));
        Outcome::Transient { cause, reason, wait }
    }

    /// A sender refused for good is the sink's trouble: no mail of this sink would fare better.
    fn sender_refused(&self, reply: &Reply) -> Outcome {
        let cause = if reply.is_refusal() { Cause::Unreachable } else { verdict::of_mail(reply) };
        Outcome::Transient { cause, reason: self.said("MAIL", reply), wait: verdict::wait(reply) }
    }

    fn is_permanent(&self, reply: &Reply) -> bool {
        self.permanent.map_or(reply.is_refusal(), |codes| codes.has(reply.code))
    }

    fn said(&self, step: &str, reply: &Reply) -> String {
        clean_text(&without_addresses(&format!("{step}: {reply}"), &self.mail.to))
    }
}

/// Keeps a mail in place of sending it.
async fn keep(capture: &Capture, mail: &PreparedMail, phase: &Phase) -> Outcome {
    match phase.begin() {
        Ok(()) => capture.keep(&format!("{}.eml", mail.id), &mail.data).await,
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
