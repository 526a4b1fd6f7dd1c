//! A dialogue in two steps: up to where a mail begins, and then the mail. Between them a caller puts its
//! intent on record, knowing that the server is there and takes mail.

use super::session::{Session, Shut};
use super::tally::Tally;
use super::transaction::{Turn, transact};
use super::transcript::Transcript;
use super::wire::Fault;
use super::{Attempt, Smtp, Which, broken, keep, without_addresses};
use crate::delivery::{Outcome, Phase};
use crate::policy::Codes;
use crate::sink::capture::Capture;
use crate::sink::mail::PreparedMail;

/// A connection on which a server has let us in, for one mail.
pub struct Entered(Way);

enum Way {
    Session(Box<Session>, Which),
    Capture(Capture),
}

impl Entered {
    /// Ends it without a mail.
    pub fn part(self) {
        if let Way::Session(session, _) = self.0 {
            session.part();
        }
    }

    /// Whether a mail is larger than the server says it takes; then in words.
    #[must_use]
    pub fn is_too_large(&self, mail: &PreparedMail) -> Option<String> {
        let Way::Session(session, _) = &self.0 else { return None };
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
        let entered = match &self.second {
            None => {
                let entered = self.first.session_anew(None).await;
                entered.map(|session| (session, Which::First)).map_err(Shut::outcome)
            }
            Some(second) => second.enter_after(&self.first).await,
        };
        let (mut session, which) = entered?;
        session.wire.transcript = Some(transcript.clone());
        Ok(Entered(Way::Session(Box::new(session), which)))
    }

    /// The same with one of the servers, whatever is known of it; what is said from the first byte on is
    /// written to `transcript`.
    ///
    /// # Errors
    /// The outcome of an attempt that could not begin.
    pub async fn enter_at(
        &self,
        which: Which,
        transcript: &Transcript,
    ) -> Result<Entered, Outcome> {
        let Some(door) = self.door(which) else {
            let reason = "there is no second server".to_owned();
            return Err(Outcome::Permanent { reason });
        };
        let session = door.enter_heard(None, Some(transcript)).await.map_err(Shut::outcome)?;
        Ok(Entered(Way::Session(Box::new(session), which)))
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
        let (session, which) = match entered.0 {
            Way::Session(session, which) => (*session, which),
            Way::Capture(capture) => return keep(&capture, mail, phase).await,
        };
        let server = match (which, &self.second) {
            (Which::Second, Some(second)) => &second.server,
            _ => &self.first,
        };
        let attempt = Attempt { mail, permanent, phase, speaker: "" };
        let mut tally = Tally::new(&attempt);
        let (mut to, mut session) = (tally.open(), Some(session));
        while !to.is_empty() {
            let Some(open) = session.take() else { break };
            match transact(open, &attempt, &to, &mut tally).await {
                Turn::Kept(kept) => session = Some(kept),
                Turn::Spent | Turn::Left => {}
                Turn::Stale => return broken("MAIL", &Fault::Closed),
                Turn::Lost(outcome) | Turn::Broken(outcome) => return outcome,
            }
            to = tally.crowded();
        }
        if let Some(session) = session {
            server.stock.keep(session);
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
