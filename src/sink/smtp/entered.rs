//! A dialogue in two steps: up to where a mail begins, and then the mail. Between them a caller puts its
//! intent on record, knowing that the server is there and takes mail.

use super::session::Session;
use super::tally::Tally;
use super::transaction::{Turn, transact};
use super::wire::{Fault, Transcript};
use super::{Attempt, Smtp, broken, keep, without_addresses};
use crate::delivery::{Outcome, Phase};
use crate::policy::Codes;
use crate::sink::capture::Capture;
use crate::sink::mail::PreparedMail;

/// A connection on which the server has let us in, for one mail.
pub struct Entered(Way);

enum Way {
    Session(Session),
    Capture(Capture),
}

impl Entered {
    /// Ends it without a mail.
    pub fn part(self) {
        if let Way::Session(session) = self.0 {
            session.part();
        }
    }

    /// Whether a mail is larger than the server says it takes; then in words.
    #[must_use]
    pub fn is_too_large(&self, mail: &PreparedMail) -> Option<String> {
        let Way::Session(session) = &self.0 else { return None };
        session.is_too_large(mail.size())
    }
}

impl Smtp {
    /// The dialogue up to where a mail begins: connection, TLS, greeting, EHLO, AUTH. Nothing that is
    /// said up to there can deliver. What is said from there on is written to `transcript`.
    ///
    /// # Errors
    /// The outcome of an attempt that could not begin.
    pub async fn enter(&self, transcript: &Transcript) -> Result<Entered, Outcome> {
        if let Some(capture) = &self.capture {
            return Ok(Entered(Way::Capture(capture.clone())));
        }
        let entered = self.server.session_anew().await;
        let mut session = entered.map_err(super::session::Shut::outcome)?;
        session.wire.transcript = Some(transcript.clone());
        Ok(Entered(Way::Session(session)))
    }

    /// Tries once to deliver a mail over an entered connection. The caller bounds the time; dropping the
    /// future is safe at any point, and `phase` then tells "not sent" from "in doubt".
    pub async fn deliver_over(
        &self,
        entered: Entered,
        mail: &PreparedMail,
        permanent: Option<&Codes>,
        phase: &Phase,
    ) -> Outcome {
        let session = match entered.0 {
            Way::Session(session) => session,
            Way::Capture(capture) => return keep(&capture, mail, phase).await,
        };
        let attempt = Attempt { mail, permanent, phase };
        let mut tally = Tally::new(&attempt);
        let (mut to, mut session) = (tally.open(), Some(session));
        while !to.is_empty() {
            let Some(open) = session.take() else { break };
            match transact(open, &attempt, &to, &mut tally).await {
                Turn::Kept(kept) => session = Some(kept),
                Turn::Spent => {}
                Turn::Stale => return broken("MAIL", &Fault::Closed),
                Turn::Broken(outcome) => return outcome,
            }
            to = tally.crowded();
        }
        if let Some(session) = session {
            self.server.stock.keep(session);
        }
        tally.outcome()
    }
}

impl Transcript {
    /// What was said, without the recipients that servers like to repeat.
    #[must_use]
    pub fn of(&self, mail: &PreparedMail) -> String {
        without_addresses(&self.text(), &mail.to)
    }
}
