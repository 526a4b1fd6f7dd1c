//! Alerts: what is in trouble, and the messages that tell of it. Pure.
//!
//! A trouble has a cause and a subject, most often a sink. Troubles of one cause are told together, by
//! a message of type [`TYPE`] that goes by the routes like any other, but never through a sink it
//! speaks of. If every sink that alerts go to is in trouble itself, each of them is told of the others;
//! what only the troubled sink could tell stays untold, and `status` says so.
//!
//! Told is what is new: a trouble, more dead or held deliveries, and the end of what was told. The
//! store keeps what was told and how long ago, and lets one relay tell.

mod words;

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

pub use self::words::{REFUSES_US, mail_remedy};

/// The type of messages that tell of troubles.
pub const TYPE: &str = "outboxd.alert";
/// Troubles a message lists before the rest is only counted.
const SUBJECTS_MAX: usize = 50;
/// Counts above this one were not counted further.
pub const COUNTED_MAX: i64 = 1_000;

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A sink has deliveries that were given up.
    Dead,
    /// A sink has deliveries of which nobody knows whether they arrived.
    Held,
    /// A sink's breaker is open: it cannot be reached.
    Open,
    /// No live relay's config knows a sink that has open deliveries or routes.
    Orphaned,
    /// No route takes a type.
    Unrouted,
    /// Messages were written past the trigger.
    Unseen,
    /// A sink has deliveries past its retry horizon.
    Late,
    /// The whole installation is paused.
    Paused,
    /// Periods of a schedule were passed over.
    Missed,
    /// What the calendar had due is not done in time: a run, its messages, a file, or its mail.
    Overdue,
    /// A sink's file cannot be written.
    File,
    /// Mails of a sink's files wait for an operator, as dead and held deliveries do.
    Mail,
    /// A relay fell silent without leaving, and none came back from its host.
    Silent,
}

/// A trouble as the store knows it.
#[derive(Clone, Debug)]
pub struct Alert {
    /// What is wrong.
    pub cause: Cause,
    /// With what: a sink; a type where it is unrouted; a host where a relay is silent; of what the
    /// calendar does a schedule or a sink; empty for the outbox as a whole.
    pub subject: String,
    /// Since when.
    pub since: Timestamp,
    /// When it was last seen, within a minute; of one that is over, when that was seen.
    pub seen_at: Timestamp,
    /// How long ago it began.
    pub age: Duration,
    /// How many deliveries, messages, periods or mails; above [`COUNTED_MAX`] not counted further.
    pub count: i64,
    /// How many of them, and up to which, are worth telling again.
    pub news: (i64, i64),
    /// One of the deliveries, by its name; of a file, a mail or a run `NAME/PERIOD`.
    pub example: Option<String>,
    /// In the sink's words. Of a mail its state stands before them.
    pub reason: Option<String>,
    /// Whether it is over.
    pub gone: bool,
    /// When a message last told of it.
    pub told_at: Option<Timestamp>,
    /// The news that were told; none where there is nothing that a recovery would take back.
    pub told: Option<(i64, i64)>,
    /// When a message last told of the cause.
    pub cause_told_at: Option<Timestamp>,
}

/// What is to be told of one cause.
#[derive(Clone, Debug)]
pub struct Digest {
    /// The cause.
    pub cause: Cause,
    /// When it was last told of; whoever finds another time there was overtaken.
    pub last_told: Option<Timestamp>,
    /// What is told then, for the store: subjects with their news.
    pub told: Value,
    /// The messages, each with the sinks it must not go through.
    pub messages: Value,
    /// How many troubles it tells of, and how many of them are over.
    pub subjects: (usize, usize),
}

impl Cause {
    /// All of them.
    pub const ALL: [Cause; 13] = [
        Cause::Dead,
        Cause::Held,
        Cause::Open,
        Cause::Orphaned,
        Cause::Unrouted,
        Cause::Unseen,
        Cause::Late,
        Cause::Paused,
        Cause::Missed,
        Cause::Overdue,
        Cause::File,
        Cause::Mail,
        Cause::Silent,
    ];

    /// Its word, in the database and in payloads.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Cause::Dead => "dead",
            Cause::Held => "held",
            Cause::Open => "open",
            Cause::Orphaned => "orphaned",
            Cause::Unrouted => "unrouted",
            Cause::Unseen => "unseen",
            Cause::Late => "late",
            Cause::Paused => "paused",
            Cause::Missed => "missed",
            Cause::Overdue => "overdue",
            Cause::File => "file",
            Cause::Mail => "mail",
            Cause::Silent => "silent",
        }
    }

    /// The cause of a word.
    #[must_use]
    pub fn of(word: &str) -> Option<Cause> {
        Cause::ALL.into_iter().find(|cause| cause.word() == word)
    }

    /// Whether the subject is a sink. Of an overdue one that is not said: a schedule may be called like
    /// the sink that is to tell of it, and files are no way to tell of anything in time.
    fn is_of_sink(self) -> bool {
        match self {
            Cause::Dead
            | Cause::Held
            | Cause::Open
            | Cause::Orphaned
            | Cause::Late
            | Cause::File
            | Cause::Mail => true,
            Cause::Unrouted
            | Cause::Unseen
            | Cause::Paused
            | Cause::Missed
            | Cause::Overdue
            | Cause::Silent => false,
        }
    }

    /// Whether it may pass by itself within moments, as when relays restart one after another, or catch
    /// up after all of them were down: then it is told only once it has lasted.
    fn passes(self) -> bool {
        matches!(self, Cause::Orphaned | Cause::Unrouted | Cause::Overdue | Cause::Silent)
    }
}

impl Alert {
    /// Whether there is something to tell.
    fn is_news(&self, patience: Duration) -> bool {
        match (self.gone, self.told) {
            (true, told) => told.is_some(),
            (false, None) => !self.cause.passes() || self.age >= patience,
            (false, Some(told)) => self.news.0 > told.0 || self.news.1 > told.1,
        }
    }

    /// The sink that is in trouble, if it is one and still is.
    #[must_use]
    pub fn sink(&self) -> Option<&str> {
        (self.cause.is_of_sink() && !self.gone).then_some(self.subject.as_str())
    }
}

/// What is to be told now, cause by cause, of what the store knows.
///
/// `receivers` are the sinks that alerts are routed to; without any, nothing is told. Troubles that may
/// pass by themselves are told once they are older than `patience`.
#[must_use]
pub fn digests(
    installation: &str,
    alerts: &[Alert],
    receivers: &[String],
    patience: Duration,
) -> Vec<Digest> {
    let digest = |cause| {
        let news: Vec<&Alert> =
            alerts.iter().filter(|a| a.cause == cause && a.is_news(patience)).collect();
        let messages = split(&news, receivers);
        let is_told = |alert: &&Alert| {
            messages.iter().any(|(of, _)| of.iter().any(|a| a.subject == alert.subject))
        };
        let told: Vec<&Alert> = news.iter().copied().filter(is_told).collect();
        let last_told = told.first()?.cause_told_at;
        let over = told.iter().filter(|alert| alert.gone).count();
        let note = |alert: &&Alert| {
            json!({
                "subject": alert.subject,
                "news": alert.news.0,
                "newest": alert.news.1,
                "gone": alert.gone,
            })
        };
        let message = |(of, barred): &(Vec<&Alert>, Vec<&str>)| json!({ "payload": payload(installation, cause, of), "barred": barred });
        Some(Digest {
            cause,
            last_told,
            subjects: (told.len(), over),
            told: told.iter().map(note).collect(),
            messages: messages.iter().map(message).collect(),
        })
    };
    Cause::ALL.into_iter().filter_map(digest).collect()
}

/// Which troubles go into which message, and through which sinks that must not go.
///
/// One message for all, through the sinks it does not speak of. Only if it speaks of every sink that
/// alerts go to, each of these gets a message of its own about the others.
fn split<'a>(news: &[&'a Alert], receivers: &'a [String]) -> Vec<(Vec<&'a Alert>, Vec<&'a str>)> {
    let receivers: Vec<&str> =
        receivers.iter().map(String::as_str).filter(|r| !r.is_empty()).collect();
    let spoken_of = |receiver: &str| news.iter().any(|alert| alert.sink() == Some(receiver));
    if news.is_empty() {
        return Vec::new();
    }
    let barred: Vec<&str> = receivers.iter().copied().filter(|r| spoken_of(r)).collect();
    if barred.len() < receivers.len() {
        return vec![(news.to_vec(), barred)];
    }
    let of_others = |receiver: &&str| {
        let others: Vec<&Alert> =
            news.iter().copied().filter(|alert| alert.sink() != Some(*receiver)).collect();
        let barred = receivers.iter().copied().filter(|other| other != receiver).collect();
        (!others.is_empty()).then_some((others, barred))
    };
    receivers.iter().filter_map(of_others).collect()
}

fn payload(installation: &str, cause: Cause, alerts: &[&Alert]) -> Value {
    let over = alerts.iter().all(|alert| alert.gone);
    let mut topics: Vec<String> = alerts.iter().take(3).map(|alert| alert.topic()).collect();
    if alerts.len() > topics.len() {
        topics.push(format!("{} more", alerts.len() - topics.len()));
    }
    let mut text: Vec<String> =
        alerts.iter().take(SUBJECTS_MAX).map(|alert| alert.paragraph()).collect();
    if alerts.len() > SUBJECTS_MAX {
        text.push(format!("And {} more; look: outboxd status\n", alerts.len() - SUBJECTS_MAX));
    }
    json!({
        "installation": installation,
        "cause": cause.word(),
        "recovered": over,
        "title": format!("{installation}: {}", topics.join(", ")),
        "text": text.join("\n"),
        "subjects": alerts.iter().take(SUBJECTS_MAX).map(|alert| alert.json()).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn alert(cause: Cause, subject: &str) -> Alert {
        Alert {
            cause,
            subject: subject.to_owned(),
            since: Timestamp::UNIX_EPOCH,
            seen_at: Timestamp::UNIX_EPOCH,
            age: Duration::ZERO,
            count: 1,
            news: (1, 7),
            example: Some(format!("7/{subject}")),
            reason: Some("HTTP 410 Gone".to_owned()),
            gone: false,
            told_at: None,
            told: None,
            cause_told_at: None,
        }
    }

    /// For each message the subjects it speaks of and the sinks it must not go through.
    fn told(alerts: &[Alert], receivers: &[&str]) -> Vec<(Vec<String>, Vec<String>)> {
        let receivers: Vec<String> = receivers.iter().map(|&r| r.to_owned()).collect();
        let texts = |list: &Value, key: &str| -> Vec<String> {
            let text = |v: &Value| if key.is_empty() { v.clone() } else { v[key].clone() };
            list.as_array().unwrap().iter().map(|v| text(v).as_str().unwrap().to_owned()).collect()
        };
        digests("shop", alerts, &receivers, PATIENCE)
            .iter()
            .flat_map(|digest| digest.messages.as_array().unwrap().clone())
            .map(|m| (texts(&m["payload"]["subjects"], "subject"), texts(&m["barred"], "")))
            .collect()
    }

    fn owned(list: &[(&[&str], &[&str])]) -> Vec<(Vec<String>, Vec<String>)> {
        let strings = |list: &[&str]| list.iter().map(|&s| s.to_owned()).collect();
        list.iter().map(|(a, b)| (strings(a), strings(b))).collect()
    }

    #[test]
    fn no_message_goes_through_a_sink_it_speaks_of() {
        let dead = |names: &[&str]| -> Vec<Alert> {
            names.iter().map(|name| alert(Cause::Dead, name)).collect()
        };
        assert_eq!(told(&dead(&["crm"]), &["mail"]), owned(&[(&["crm"], &[])]));
        assert_eq!(told(&dead(&["a", "x"]), &["a", "b"]), owned(&[(&["a", "x"], &["a"])]));
        // All of them in trouble: each is told of the others.
        assert_eq!(
            told(&dead(&["a", "b"]), &["a", "b"]),
            owned(&[(&["b"], &["b"]), (&["a"], &["a"])])
        );
        // What nobody else could tell stays untold.
        assert_eq!(told(&dead(&["a"]), &["a"]), []);
        assert_eq!(told(&dead(&["a", "x"]), &["a"]), owned(&[(&["x"], &[])]));
        assert_eq!(told(&dead(&["a"]), &[]), []);
        assert_eq!(told(&dead(&["a"]), &[""]), []);
        // A type or a schedule may be called like a sink.
        for cause in [Cause::Unrouted, Cause::Missed, Cause::Overdue] {
            let one = Alert { age: PATIENCE, ..alert(cause, "mail") };
            assert_eq!(told(&[one], &["mail"]), owned(&[(&["mail"], &[])]));
        }
        // Of a file and its mail the sink is that of the file, not the one that mails it.
        for cause in [Cause::File, Cause::Mail] {
            assert_eq!(told(&[alert(cause, "orders")], &["mail"]), owned(&[(&["orders"], &[])]));
            assert_eq!(told(&[alert(cause, "orders")], &["orders"]), []);
        }
        // What is over is told through the sink again.
        let over = Alert { gone: true, told: Some((1, 7)), ..alert(Cause::Dead, "a") };
        assert_eq!(told(&[over], &["a"]), owned(&[(&["a"], &[])]));
    }

    #[test]
    fn told_is_what_is_new() {
        let news = |change: fn(&mut Alert), cause| {
            let mut one = alert(cause, "crm");
            one.age = Duration::from_secs(59);
            change(&mut one);
            one.is_news(PATIENCE)
        };
        assert!(news(|_| {}, Cause::Dead));
        assert!(!news(|a| a.told = Some((1, 7)), Cause::Dead));
        assert!(news(|a| a.told = Some((0, 7)), Cause::Dead), "more of them");
        assert!(news(|a| a.told = Some((1, 6)), Cause::Dead), "another one");
        assert!(!news(|_| {}, Cause::Unrouted), "a restart may bring the route");
        assert!(news(|a| a.age = Duration::from_secs(60), Cause::Unrouted));
        assert!(!news(|_| {}, Cause::Orphaned));
        assert!(!news(|_| {}, Cause::Overdue), "a relay that was down catches up");
        assert!(!news(|a| a.gone = true, Cause::Dead), "never told");
        assert!(news(|a| (a.gone, a.told) = (true, Some((1, 7))), Cause::Dead));
    }

    #[test]
    fn a_message_says_what_where_and_what_to_do() {
        let receivers = ["mail".to_owned()];
        let many = Alert { count: 1_001, ..alert(Cause::Dead, "crm") };
        let over = Alert { gone: true, told: Some((1, 7)), ..alert(Cause::Dead, "old") };
        let digest = &digests("shop", &[many, over], &receivers, PATIENCE)[0];
        assert_eq!(digest.subjects, (2, 1));
        let payload = &digest.messages[0]["payload"];
        assert_eq!(payload["title"], "shop: crm: more than 1000 dead, old: none dead any more");
        assert_eq!(payload["recovered"], false);
        assert_eq!(
            payload["text"],
            "sink crm: more than 1000 deliveries are dead, given up until somebody looks\n\
             since 1970-01-01 00:00:00Z, for example 7/crm\nreason: HTTP 410 Gone\n\
             look: outboxd list --sink crm --state dead; again: outboxd retry --sink crm\n\n\
             Over: old: none dead any more\nsince 1970-01-01 00:00:00Z, until 1970-01-01 00:00:00Z\n"
        );
        assert_eq!(payload["subjects"][0]["more"], true);
        assert_eq!(payload["subjects"][1]["recovered"], true);
    }

    #[test]
    fn every_cause_has_a_word() {
        for cause in Cause::ALL {
            assert_eq!(Cause::of(cause.word()), Some(cause));
        }
        assert_eq!(Cause::of("fine"), None);
    }
}
