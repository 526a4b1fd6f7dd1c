//! What `status` says of alerts: how many, who is told, and what else does not show.

use serde_json::{Value, json};

use super::warning::Warning;
use crate::alert::{Alert, Cause, TYPE};
use crate::store::inspect::status::Status;

/// What is in trouble now.
fn standing(status: &Status) -> impl Iterator<Item = &Alert> {
    status.alerts.iter().filter(|alert| !alert.gone)
}

/// How many there are, and who is told.
pub(super) fn line(status: &Status) -> String {
    let told = standing(status).filter(|alert| alert.told.is_some()).count();
    let to: Vec<&str> = status.told.iter().map(String::as_str).filter(|s| !s.is_empty()).collect();
    let whom = match (status.told.as_slice(), to.as_slice()) {
        ([], _) => "they go nowhere".to_owned(),
        (_, []) => "told nobody, on purpose".to_owned(),
        (_, to) => format!("{told} told, through {}", to.join(", ")),
    };
    format!("alerts {}: {whom}", standing(status).count())
}

/// What other lines of `status` do not tell already, and that nobody is told.
pub(super) fn warnings(status: &Status) -> Vec<Warning> {
    let warning = |alert: &Alert| {
        let needs_operator = match alert.cause {
            Cause::Late | Cause::Overdue | Cause::Silent => true,
            // One that is away comes back by itself.
            Cause::Open => alert.is_refused(),
            // It is what the schedule's catch_up wants, and passes.
            Cause::Missed => false,
            Cause::Dead
            | Cause::Held
            | Cause::Orphaned
            | Cause::Unrouted
            | Cause::Unseen
            | Cause::Paused
            | Cause::File
            | Cause::Mail => return None,
        };
        let reason = alert.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
        let words = format!("{}{reason}; {}", alert.words(), alert.remedy());
        Some(Warning { words, needs_operator })
    };
    let mut all: Vec<Warning> = standing(status).filter_map(warning).collect();
    let untold = |words: String| Warning { words, needs_operator: false };
    if status.told.is_empty() && standing(status).next().is_some() {
        all.push(untold(format!("alerts go nowhere: add a route for type {TYPE}")));
    }
    if let [only] = status.told.as_slice()
        && standing(status).any(|alert| alert.told.is_none() && alert.sink() == Some(only))
    {
        all.push(untold(format!(
            "nobody is told of {only}, through which alone alerts go: route type {TYPE} to a second sink too"
        )));
    }
    all
}

/// The same for a program.
pub(super) fn json(status: &Status) -> Value {
    let one = |alert: &Alert| {
        json!({
            "cause": alert.cause.word(),
            "subject": alert.subject,
            "count": alert.count,
            "since": alert.since.to_string(),
            "example": alert.example,
            "reason": alert.reason,
            "told_at": alert.told_at.map(|at| at.to_string()),
        })
    };
    json!({
        "standing": standing(status).map(one).collect::<Vec<_>>(),
        "told_through": status.told,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn alert(cause: Cause, subject: &str, told: Option<(i64, i64)>) -> Alert {
        Alert {
            cause,
            subject: subject.to_owned(),
            since: jiff::Timestamp::UNIX_EPOCH,
            seen_at: jiff::Timestamp::UNIX_EPOCH,
            age: Duration::ZERO,
            count: 1,
            news: (0, 0),
            example: None,
            reason: None,
            gone: false,
            told_at: None,
            told,
            cause_told_at: None,
        }
    }

    #[test]
    fn it_says_who_is_told_and_of_what_nobody_is() {
        let words = |status: &Status| -> Vec<String> {
            warnings(status).into_iter().map(|warning| warning.words).collect()
        };
        let mut status = Status::default();
        assert_eq!(
            (line(&status), words(&status)),
            ("alerts 0: they go nowhere".to_owned(), vec![])
        );
        status.alerts = vec![alert(Cause::Dead, "crm", None)];
        assert_eq!(words(&status), ["alerts go nowhere: add a route for type outboxd.alert"]);
        status.told = vec![String::new()];
        assert_eq!(line(&status), "alerts 1: told nobody, on purpose");
        assert_eq!(words(&status), Vec::<String>::new());
        status.told = vec!["crm".to_owned()];
        assert_eq!(line(&status), "alerts 1: 0 told, through crm");
        assert!(words(&status)[0].starts_with("nobody is told of crm"), "{:?}", words(&status));
        status.told.push("mail".to_owned());
        status.alerts[0].told = Some((1, 1));
        status.alerts.push(Alert { gone: true, ..alert(Cause::Held, "crm", Some((1, 1))) });
        assert_eq!(line(&status), "alerts 1: 1 told, through crm, mail");
        assert_eq!(words(&status), Vec::<String>::new());
    }

    #[test]
    fn what_no_other_line_tells_is_a_warning() {
        let status = Status {
            alerts: vec![
                alert(Cause::Late, "crm", None),
                alert(Cause::Open, "mail", None),
                Alert {
                    reason: Some("refuses us: AUTH: 535 no".to_owned()),
                    ..alert(Cause::Open, "mail", None)
                },
                alert(Cause::Missed, "reminders", None),
                alert(Cause::Overdue, "orders", None),
                alert(Cause::File, "orders", None),
                alert(Cause::Mail, "orders", None),
                alert(Cause::Silent, "web-1", None),
            ],
            told: vec!["a".to_owned(), "b".to_owned()],
            ..Status::default()
        };
        let told: Vec<bool> = warnings(&status).iter().map(|w| w.needs_operator).collect();
        assert_eq!(told, [true, false, true, false, true, true]);
    }
}
