//! One mail server, our connections to it, and an attempt through it.

use super::failover::Asking;
use super::session::{Door, Session, Shut};
use super::stock::{Slot, Stock, Taken};
use super::tally::Tally;
use super::transaction::{Turn, transact};
use super::{Attempt, BuildError};
use crate::config::MailServer;
use crate::delivery::Outcome;
use crate::sink::tls;

/// A mail server and our connections to it.
pub(super) struct Server {
    pub door: Door,
    pub stock: Stock,
}

/// How an attempt through a server ended.
pub(super) enum End {
    /// With an outcome that stands.
    Settled(Outcome),
    /// The server was in trouble, and certainly nothing was sent: another one may take it.
    Lost(Outcome),
}

impl End {
    /// That of a server which left us in the middle, before anything could arrive. What it said about the
    /// mail itself stands: no other server is asked for a better answer.
    fn of(tally: &Tally<'_>, outcome: Outcome) -> End {
        if tally.has_answers() { End::Settled(outcome) } else { End::Lost(outcome) }
    }

    /// What is to be recorded where there is no other server.
    pub fn outcome(self) -> Outcome {
        let (End::Settled(outcome) | End::Lost(outcome)) = self;
        outcome
    }
}

impl Server {
    pub fn build(server: &MailServer, connections: usize) -> Result<Server, BuildError> {
        let tls = tls::client_config(server.ca_file.as_deref())?;
        let door = Door::new(server.clone(), tls);
        Ok(Server { door, stock: Stock::new(connections) })
    }

    /// A connection that waits, or a new one; waits while there are as many as may be.
    async fn session(&self, asking: Option<&Asking<'_>>) -> Result<Session, Shut> {
        match self.stock.take().await {
            Taken::Session(session) => Ok(*session),
            Taken::Slot(slot) => self.open(slot, asking).await,
        }
    }

    /// A new connection, within the same limit: a caller that has let us in before must not find it closed.
    pub async fn session_anew(&self, asking: Option<&Asking<'_>>) -> Result<Session, Shut> {
        loop {
            match self.stock.take().await {
                Taken::Session(session) => session.part(),
                Taken::Slot(slot) => return self.open(slot, asking).await,
            }
        }
    }

    async fn open(&self, slot: Slot, asking: Option<&Asking<'_>>) -> Result<Session, Shut> {
        let opened = self.door.enter(Some(slot)).await;
        if let Some(asking) = asking {
            asking.learn(opened.as_ref().err());
        }
        opened
    }

    /// Offers the mail to all recipients that are open, in as many transactions as the server wants.
    pub async fn attempt(&self, attempt: &Attempt<'_>, asking: Option<&Asking<'_>>) -> End {
        let mut tally = Tally::new(attempt);
        let mut to = tally.open();
        while !to.is_empty() {
            attempt.phase.at_door(true);
            let session = match self.session(asking).await {
                Ok(session) => session,
                Err(shut) => return End::of(&tally, shut.outcome()),
            };
            match transact(session, attempt, &to, &mut tally).await {
                Turn::Kept(session) => self.stock.keep(session),
                Turn::Spent => {}
                // Nothing was accepted, and it says nothing of the server: on to the next connection.
                Turn::Stale => continue,
                Turn::Lost(outcome) => return End::of(&tally, outcome),
                Turn::Left => return left(tally, asking),
                Turn::Broken(outcome) => return End::Settled(outcome),
            }
            to = tally.crowded();
        }
        End::Settled(tally.outcome())
    }
}

/// What becomes of an attempt whose server said goodbye in its middle.
fn left(tally: Tally<'_>, asking: Option<&Asking<'_>>) -> End {
    let has_answers = tally.has_answers();
    let outcome = tally.outcome();
    match Shut::of(&outcome) {
        Some(shut) if !has_answers => {
            if let Some(asking) = asking {
                asking.learn(Some(&shut));
            }
            End::Lost(outcome)
        }
        _ => End::Settled(outcome),
    }
}
