//! Which of two mail servers a mail goes to: the first, unless that was found in trouble a moment ago.
//!
//! ```text
//! up ──it cannot be reached, or does not let us in──▶ resting: mails go to the second at once
//! resting ──the rest is over──▶ one mail asks it, while the others go on to the second
//!         ──it let that one in──▶ up
//!         ──it did not──▶ resting
//! ```

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::server::{End, Server};
use super::session::{Session, Shut};
use super::{Attempt, Which};
use crate::config::MailServer;
use crate::delivery::{Cause, Outcome, clean_text};
use crate::sink::BuildError;

/// How long a server in trouble is not asked: a mail must not wait for the connection of each.
const REST: Duration = Duration::from_secs(30);
/// The same where it refused login or sender: no more than one login a minute.
const REST_BARRED: Duration = Duration::from_secs(60);

/// The second server, and what is known of the first.
pub(super) struct Second {
    pub server: Server,
    first: First,
    /// What stands before its words.
    speaker: String,
}

/// What is known of the first server.
#[derive(Default)]
struct First(Mutex<Option<Trouble>>);

/// The trouble it is in.
struct Trouble {
    since: Instant,
    reason: String,
    barred: bool,
    /// When it may be asked again.
    until: Instant,
    /// Whether a mail is just asking it.
    asked: bool,
}

/// Whether a mail asks the first server.
enum Turn<'a> {
    /// It does; what comes of it is told to this.
    Ask(Asking<'a>),
    /// It does not, why, and whether it wants nothing from us.
    Pass(String, bool),
}

/// A mail that asks the first server. Dropped without a word, as when its attempt is cut short, it leaves
/// the turn to the next.
pub(super) struct Asking<'a> {
    first: &'a First,
    is_probe: bool,
}

impl Second {
    pub fn build(server: &MailServer, connections: usize) -> Result<Second, BuildError> {
        let server = Server::build(server, connections)?;
        let speaker = format!("fallback {}: ", server.door.place());
        Ok(Second { server, first: First::default(), speaker })
    }

    /// Since when the first server is in trouble, and which.
    pub fn trouble(&self) -> Option<(Duration, String)> {
        self.first.trouble()
    }

    /// An attempt through the first server, and where that is in trouble and certainly was sent nothing,
    /// through this one.
    pub async fn attempt_after(&self, first: &Server, attempt: &Attempt<'_>) -> Outcome {
        let (why, barred) = match self.first.turn() {
            Turn::Pass(why, barred) => (why, barred),
            Turn::Ask(asking) => match first.attempt(attempt, Some(&asking)).await {
                End::Lost(Outcome::Transient { reason, cause, .. }) => {
                    (reason, cause == Cause::Barred)
                }
                End::Lost(outcome) | End::Settled(outcome) => return outcome,
            },
        };
        // After the first byte of a final dot nobody else is asked, whatever was said before.
        if attempt.phase.may_have_arrived() {
            return attempt.phase.cut_short(&why);
        }
        let attempt = Attempt { speaker: &self.speaker, ..*attempt };
        match self.server.attempt(&attempt, None).await {
            End::Settled(outcome) => outcome,
            End::Lost(outcome) => {
                self.first.is_needed();
                both((&why, barred), &self.speaker, outcome)
            }
        }
    }

    /// Up to where a mail begins, with the first server or else with this one.
    pub async fn enter_after(&self, first: &Server) -> Result<(Session, Which), Outcome> {
        let (why, barred) = match self.first.turn() {
            Turn::Pass(why, barred) => (why, barred),
            Turn::Ask(asking) => match first.session_anew(Some(&asking)).await {
                Ok(session) => return Ok((session, Which::First)),
                Err(shut) => (shut.reason, shut.cause == Cause::Barred),
            },
        };
        match self.server.session_anew(None).await {
            Ok(session) => Ok((session, Which::Second)),
            Err(shut) => {
                self.first.is_needed();
                Err(both((&why, barred), &self.speaker, shut.outcome()))
            }
        }
    }
}

/// Two servers in trouble: what it means is what the second one means, the words are of both. We are barred
/// only where both bar us: a first one that was away may be back in a second.
fn both((why, barred): (&str, bool), speaker: &str, outcome: Outcome) -> Outcome {
    let Outcome::Transient { cause, reason, wait } = outcome else { return outcome };
    let cause = if cause == Cause::Barred && !barred { Cause::Unreachable } else { cause };
    let reason = clean_text(&format!("{why}; {speaker}{}", reason.trim_start_matches(speaker)));
    Outcome::Transient { cause, reason, wait }
}

impl First {
    /// Whether a mail asks it now.
    fn turn(&self) -> Turn<'_> {
        let mut trouble = self.lock();
        let Some(trouble) = trouble.as_mut() else {
            return Turn::Ask(Asking { first: self, is_probe: false });
        };
        if trouble.asked || Instant::now() < trouble.until {
            return Turn::Pass(trouble.reason.clone(), trouble.barred);
        }
        trouble.asked = true;
        Turn::Ask(Asking { first: self, is_probe: true })
    }

    /// Since when it is in trouble, and which.
    fn trouble(&self) -> Option<(Duration, String)> {
        self.lock().as_ref().map(|trouble| (trouble.since.elapsed(), trouble.reason.clone()))
    }

    /// The second one did not take a mail either: there is nothing to be gained by sparing the first.
    fn is_needed(&self) {
        if let Some(trouble) = self.lock().as_mut().filter(|trouble| !trouble.barred) {
            trouble.until = Instant::now();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Trouble>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asking<'_> {
    /// It let us in, or is in trouble.
    pub fn learn(&self, shut: Option<&Shut>) {
        let (now, mut trouble) = (Instant::now(), self.first.lock());
        *trouble = shut.map(|shut| {
            let barred = shut.cause == Cause::Barred;
            let until = now + if barred { REST_BARRED } else { REST };
            let since = trouble.as_ref().map_or(now, |trouble| trouble.since);
            let asked = !self.is_probe && trouble.as_ref().is_some_and(|trouble| trouble.asked);
            Trouble { since, reason: shut.reason.clone(), barred, until, asked }
        });
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if self.is_probe
            && let Some(trouble) = self.first.lock().as_mut()
        {
            trouble.asked = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    fn asks(first: &First) -> bool {
        matches!(first.turn(), Turn::Ask(_))
    }

    fn down(first: &First, shut: &Shut) {
        let Turn::Ask(asking) = first.turn() else { panic!("it is not asked") };
        asking.learn(Some(shut));
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_server_in_trouble_one_mail_asks_once_its_rest_is_over() {
        let (first, dead) = (First::default(), Shut::from("connection refused".to_owned()));
        assert!(asks(&first) && first.trouble().is_none());
        for round in 0..3 {
            down(&first, &dead);
            advance(Duration::from_secs(29)).await;
            assert!(!asks(&first), "{round}");
            advance(Duration::from_secs(1)).await;
            let Turn::Ask(asking) = first.turn() else { panic!("{round}") };
            let Turn::Pass(reason, false) = first.turn() else { panic!("a second one asks") };
            assert_eq!(reason, "connection refused");
            drop(asking);
            assert!(asks(&first), "one that was cut short leaves its turn to the next");
        }
        assert_eq!(first.trouble().unwrap().0, Duration::from_secs(90));
        let Turn::Ask(asking) = first.turn() else { panic!("it is not asked") };
        asking.learn(None);
        drop(asking);
        assert!(asks(&first) && asks(&first) && first.trouble().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_login_rests_for_a_minute_whatever_the_second_says() {
        let first = First::default();
        down(&first, &Shut::barred("535 no".to_owned()));
        first.is_needed();
        advance(Duration::from_secs(59)).await;
        assert!(!asks(&first));
        advance(Duration::from_secs(1)).await;
        assert!(asks(&first));
    }

    #[tokio::test(start_paused = true)]
    async fn where_the_second_fails_too_the_first_is_asked_at_once() {
        let first = First::default();
        down(&first, &Shut::from("connection refused".to_owned()));
        assert!(!asks(&first));
        first.is_needed();
        assert!(asks(&first));
    }

    /// Of many that ask together before the first fails, a late one must not end the turn of a probe.
    #[tokio::test(start_paused = true)]
    async fn a_late_failure_does_not_let_a_second_probe_in() {
        let (first, dead) = (First::default(), Shut::from("no answer".to_owned()));
        let Turn::Ask(late) = first.turn() else { panic!("it is not asked") };
        down(&first, &dead);
        advance(Duration::from_secs(31)).await;
        let Turn::Ask(_probe) = first.turn() else { panic!("it is not asked") };
        late.learn(Some(&dead));
        drop(late);
        advance(Duration::from_secs(31)).await;
        assert!(!asks(&first));
    }
}
