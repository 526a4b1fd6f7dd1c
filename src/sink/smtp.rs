//! Mail: the dialogue with a mail server, step by step (RFC 5321).
//!
//! The promise is that a reply belongs to the mail it is taken for. So a connection is owned by
//! one attempt at a time: it is taken out of the stock, and comes back only after a clean end. An
//! attempt that is dropped, times out or meets anything unexpected takes its connection with it.

mod session;
mod stock;
mod wire;

use lettre::Address;
use lettre::message::Mailbox;
use lettre::transport::smtp::commands::{Data, Mail, Rcpt, Rset};

use self::session::{Door, Session};
use self::stock::Stock;
use self::wire::{Fault, Reply, dot_stuffed};
use super::mail::{PreparedMail, to_ascii};
use super::{BuildError, tls};
use crate::config::SmtpConfig;
use crate::delivery::{Cause, Outcome, Phase, clean_text};

/// How much of a mail is held back to go out together with the final dot, in bytes.
const TAIL: usize = 16 * 1024;

/// A mail sink.
pub struct Smtp {
    door: Door,
    sender: Mailbox,
    stock: Stock,
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
        let door = Door {
            host: way.host.clone(),
            port: way.port,
            security: way.security,
            credentials: way.credentials.clone(),
            tls: tls::client_config(way.ca_file.as_deref())?,
        };
        Ok(Smtp { door, sender, stock: Stock::default() })
    }

    /// `From:`, in the form that every server takes.
    pub(super) fn sender(&self) -> &Mailbox {
        &self.sender
    }

    /// One attempt: over a connection that waits, or a new one if that turns out to be closed.
    pub(super) async fn deliver(&self, mail: &PreparedMail, phase: &Phase) -> Outcome {
        if let Some(session) = self.stock.take()
            && let Turn::Ended(outcome) = self.converse(session, mail, phase).await
        {
            return outcome;
        }
        let session = match self.door.enter().await {
            Ok(session) => session,
            Err(reason) => return transient(reason),
        };
        match self.converse(session, mail, phase).await {
            Turn::Ended(outcome) => outcome,
            Turn::Stale => transient("MAIL: the server closed the connection".to_owned()),
        }
    }

    /// MAIL, RCPT, DATA and the mail itself.
    async fn converse(&self, mut session: Session, mail: &PreparedMail, phase: &Phase) -> Turn {
        let used = session.mails > 0;
        session.mails += 1;
        if session.unfinished {
            match session.wire.ask(Rset).await {
                Ok(reply) if reply.is_done() => session.unfinished = false,
                _ => return Turn::Stale,
            }
        }
        match session.wire.ask(Mail::new(Some(mail.from.clone()), Vec::new())).await {
            Ok(reply) if reply.is_done() => {}
            Ok(reply) if used && reply.code == 421 => return Turn::Stale,
            // A refused sender is the sink's trouble, not this mail's.
            Ok(reply) => {
                return self.refused(session, &reply, transient(said("MAIL", &reply, mail)));
            }
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
                Ok(reply) => return Turn::Ended(transient(said("RCPT", &reply, mail))),
                Err(fault) => return Turn::Ended(broken("RCPT", &fault)),
            }
        }
        if let Some(worst) = refusals.iter().max_by_key(|reply| reply.code) {
            let outcome = refusal(worst, "recipient refused", mail);
            return self.break_off(session, outcome);
        }
        match session.wire.ask(Data).await {
            Ok(reply) if reply.code == 354 => {}
            Ok(reply) if reply.is_refusal() => {
                return self.break_off(session, refusal(&reply, "DATA refused", mail));
            }
            Ok(reply) if reply.is_transient() && reply.code != 421 => {
                return self.break_off(session, transient(said("DATA", &reply, mail)));
            }
            Ok(reply) => return Turn::Ended(transient(said("DATA", &reply, mail))),
            Err(fault) => return Turn::Ended(broken("DATA", &fault)),
        }
        self.hand_over(session, mail, phase).await
    }

    /// Sends the mail itself. Until the final dot is on its way nothing can be delivered, so the
    /// phase begins before the last piece, which holds it.
    async fn hand_over(&self, mut session: Session, mail: &PreparedMail, phase: &Phase) -> Turn {
        let bytes = dot_stuffed(&mail.data);
        let (head, tail) = bytes.split_at(bytes.len().saturating_sub(TAIL));
        if !head.is_empty()
            && let Err(fault) = session.wire.send(head).await
        {
            return Turn::Ended(broken("mail data", &fault));
        }
        match session.wire.has_spoken() {
            Ok(false) => {}
            Ok(true) => return Turn::Ended(early(session.wire.reply().await, mail)),
            Err(fault) => return Turn::Ended(broken("mail data", &fault)),
        }
        if let Err(outcome) = phase.begin() {
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
                let outcome = refusal(&reply, "mail refused", mail);
                self.refused(session, &reply, outcome)
            }
            Ok(reply) => {
                let reason = said("unexpected answer to the mail", &reply, mail);
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

    /// The dialogue up to where a mail would begin.
    pub(super) async fn probe(&self) -> Result<String, String> {
        let Door { host, port, .. } = &self.door;
        let session = self.door.enter().await.map_err(|e| format!("{host}:{port}: {e}"))?;
        session.part();
        let login = if self.door.credentials.is_some() { " and the login is good" } else { "" };
        Ok(format!("{host}:{port} takes mail{login}"))
    }
}

fn transient(reason: String) -> Outcome {
    Outcome::Transient { cause: Cause::Refused, reason, wait: None }
}

/// A connection that failed before anything could be delivered.
fn broken(step: &str, fault: &Fault) -> Outcome {
    transient(clean_text(&format!("{step}: {fault}")))
}

/// A server that answers before the mail has ended: it cannot have accepted it.
fn early(reply: Result<Reply, Fault>, mail: &PreparedMail) -> Outcome {
    match reply {
        Ok(reply) => refusal(&reply, "mail refused before its end", mail),
        Err(fault) => broken("mail data", &fault),
    }
}

fn said(step: &str, reply: &Reply, mail: &PreparedMail) -> String {
    clean_text(&without_addresses(&format!("{step}: {reply}"), &mail.to))
}

fn refusal(reply: &Reply, what: &str, mail: &PreparedMail) -> Outcome {
    let reason = said(what, reply, mail);
    if reply.is_refusal() { Outcome::Permanent { reason } } else { transient(reason) }
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
