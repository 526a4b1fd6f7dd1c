//! What an alert says: what is wrong, and what to do about it. Pure.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Alert, COUNTED_MAX, Cause};

/// How the reason begins why a sink waits that can be reached, and wants nothing from us as we are.
pub const REFUSES_US: &str = "refuses us";

/// What to do about a mail, `NAME/PERIOD`, that is held, or else dead.
#[must_use]
pub fn mail_remedy(is_held: bool, mail: &str) -> String {
    if is_held {
        format!(
            "ask who gets it whether it arrived, then: outboxd resolve {mail} --delivered, or --not-delivered"
        )
    } else {
        format!("again: outboxd retry {mail}")
    }
}

impl Alert {
    /// How many, in words.
    #[must_use]
    pub fn amount(&self) -> String {
        if self.count > COUNTED_MAX {
            format!("more than {COUNTED_MAX}")
        } else {
            self.count.to_string()
        }
    }

    /// What is wrong, in one line.
    #[must_use]
    pub fn words(&self) -> String {
        let (name, amount) = (&self.subject, self.amount());
        let some = |one: &str, many: &str| {
            if self.count == 1 { format!("1 {one}") } else { format!("{amount} {many}") }
        };
        match self.cause {
            Cause::Dead => {
                let some = some("delivery is dead", "deliveries are dead");
                format!("sink {name}: {some}, given up until somebody looks")
            }
            Cause::Held => {
                let some = some("delivery is held", "deliveries are held");
                format!("sink {name}: {some}, in doubt whether they arrived")
            }
            Cause::Open if self.is_refused() => {
                format!(
                    "sink {name} takes nothing from us; its messages wait, and none is given up for it"
                )
            }
            Cause::Open => format!("sink {name} cannot be reached; its messages wait"),
            Cause::Orphaned => format!("sink {name} is in no live relay's config; nobody works it"),
            Cause::Unrouted => format!(
                "type {name}: no route takes it, {} waiting",
                some("message is", "messages are")
            ),
            Cause::Unseen => {
                format!("{} written past the routing trigger", some("message was", "messages were"))
            }
            Cause::Late => {
                let some = some("delivery is", "deliveries are");
                format!("sink {name}: {some} past the retry horizon and still open")
            }
            Cause::Paused => "the installation is paused; nothing is delivered".to_owned(),
            Cause::Missed => {
                let some = some("period was", "periods were");
                format!("schedule {name}: {some} passed over and did not run")
            }
            Cause::Overdue => {
                let some = some("thing is", "things are");
                format!("{name}: {some} overdue by the calendar")
            }
            Cause::File => format!("sink {name}: its file cannot be written; its rows are safe"),
            Cause::Mail => {
                let some = some("mail of files waits", "mails of files wait");
                format!("sink {name}: {some} for somebody to look")
            }
            Cause::Silent => {
                let some = some("relay", "relays");
                format!("{some} on {name} fell silent without stopping: killed, hung or cut off")
            }
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        let name = &self.subject;
        match self.cause {
            Cause::Dead => format!(
                "look: outboxd list --sink {name} --state dead; again: outboxd retry --sink {name}"
            ),
            Cause::Held => format!(
                "look: outboxd list --sink {name} --state held; then tell what became of each: outboxd resolve"
            ),
            Cause::Open if self.is_refused() => format!(
                "see what it objects to: outboxd check, or where it is the sender outboxd check --mail-to ADDRESS; mend the login, the sender or the standing of our \
                 address, then reload with SIGHUP, or wait: it is asked again every few minutes; what \
                 waits: outboxd list --sink {name}"
            ),
            Cause::Open => format!(
                "look at what it connects to; messages go out by themselves once it answers; what waits: \
                 outboxd list --sink {name}"
            ),
            Cause::Orphaned => {
                format!("put it back into the config, or look: outboxd list --sink {name}")
            }
            Cause::Unrouted => "add a route, or one with sink = [] for nowhere".to_owned(),
            Cause::Unseen => "run: outboxd route unseen".to_owned(),
            Cause::Late => format!("look what they wait for: outboxd list --sink {name}"),
            Cause::Paused => {
                // The reason is what it was paused for.
                let restored = self.reason.as_deref().is_some_and(|why| why != "operator");
                format!("go on: outboxd resume {}", if restored { "--restored" } else { "--all" })
            }
            Cause::Missed => {
                let period = self.example.as_deref().and_then(|example| example.split_once('/'));
                let period = period.map_or("PERIOD", |(_, period)| period);
                format!(
                    "look: outboxd schedule list; run one: outboxd schedule run {name} --period {period}"
                )
            }
            Cause::Overdue => format!(
                "look: outboxd status; a schedule: outboxd schedule list; files: outboxd export list {name}"
            ),
            Cause::File => format!(
                "look: outboxd export list {name}; then at the disk, its rights, a file of that name, the query"
            ),
            Cause::Mail => format!(
                "look: outboxd export list {name}; {}",
                self.example
                    .as_deref()
                    .map_or(String::new(), |mail| mail_remedy(self.is_held(), mail))
            ),
            Cause::Silent => {
                format!("look at {name}: is it up, and what does outboxd's log say last there?")
            }
        }
    }

    /// Of mails, whether the one in the example is held; else it is dead.
    fn is_held(&self) -> bool {
        self.reason.as_deref().is_some_and(|reason| reason.starts_with("held"))
    }

    /// Of a sink that is not tried, whether it can be reached, and refuses us.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.reason.as_deref().is_some_and(|reason| reason.starts_with(REFUSES_US))
    }

    pub(super) fn paragraph(&self) -> String {
        let since = self.since.strftime("%Y-%m-%d %H:%M:%SZ");
        if self.gone {
            let until = self.seen_at.strftime("%Y-%m-%d %H:%M:%SZ");
            return format!("Over: {}\nsince {since}, until {until}\n", self.topic());
        }
        let mut text = format!("{}\nsince {since}", self.words());
        if let Some(example) = &self.example {
            let _ = write!(text, ", for example {example}");
        }
        if let Some(reason) = &self.reason {
            let _ = write!(text, "\nreason: {reason}");
        }
        text + "\n" + &self.remedy() + "\n"
    }

    /// What is wrong, or no longer is, short: for a title.
    pub(super) fn topic(&self) -> String {
        let (name, amount) = (&self.subject, self.amount());
        match (self.cause, self.gone) {
            (Cause::Dead, false) => format!("{name}: {amount} dead"),
            (Cause::Dead, true) => format!("{name}: none dead any more"),
            (Cause::Held, false) => format!("{name}: {amount} held"),
            (Cause::Held, true) => format!("{name}: none held any more"),
            (Cause::Open, false) if self.is_refused() => format!("{name} refuses us"),
            (Cause::Open, true) if self.is_refused() => format!("{name} refuses us no longer"),
            (Cause::Open, false) => format!("{name} cannot be reached"),
            (Cause::Open, true) => format!("{name} can be reached again"),
            (Cause::Orphaned, false) => format!("{name} is in no relay's config"),
            (Cause::Orphaned, true) => format!("{name} is in a relay's config again"),
            (Cause::Unrouted, false) => format!("type {name} has no route"),
            (Cause::Unrouted, true) => format!("type {name}: none without a route any more"),
            (Cause::Unseen, false) => format!("{amount} unseen"),
            (Cause::Unseen, true) => "none unseen any more".to_owned(),
            (Cause::Late, false) => format!("{name}: {amount} late"),
            (Cause::Late, true) => format!("{name}: none late any more"),
            (Cause::Paused, false) => "paused".to_owned(),
            (Cause::Paused, true) => "no longer paused".to_owned(),
            (Cause::Missed, false) => format!("{name}: {amount} missed"),
            (Cause::Missed, true) => format!("{name}: none missed any more"),
            (Cause::Overdue, false) => format!("{name} is overdue"),
            (Cause::Overdue, true) => format!("{name} is no longer overdue"),
            (Cause::File, false) => format!("{name}: its file cannot be written"),
            (Cause::File, true) => format!("{name}: no file is stuck any more"),
            (Cause::Mail, false) => format!("{name}: a mail of its files is held or dead"),
            (Cause::Mail, true) => format!("{name}: no mail of its files is held or dead any more"),
            (Cause::Silent, false) => format!("{name}: {amount} silent"),
            (Cause::Silent, true) => format!("{name}: none silent any more"),
        }
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "subject": self.subject,
            "recovered": self.gone,
            "count": self.count.min(COUNTED_MAX),
            "more": self.count > COUNTED_MAX,
            "since": self.since.to_string(),
            "until": self.gone.then(|| self.seen_at.to_string()),
            "example": self.example,
            "reason": self.reason,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;

    fn alert(cause: Cause, count: i64, example: Option<&str>, reason: Option<&str>) -> Alert {
        Alert {
            cause,
            subject: "orders".to_owned(),
            since: Timestamp::UNIX_EPOCH,
            seen_at: Timestamp::UNIX_EPOCH,
            age: Duration::ZERO,
            count,
            news: (0, 0),
            example: example.map(str::to_owned),
            reason: reason.map(str::to_owned),
            gone: false,
            told_at: None,
            told: None,
            cause_told_at: None,
        }
    }

    #[test]
    fn every_cause_has_words_and_a_remedy() {
        for cause in Cause::ALL {
            let one = alert(cause, 1, None, None);
            assert!(!one.words().is_empty() && one.remedy().contains(' '), "{cause:?}");
        }
    }

    #[test]
    fn a_sink_that_refuses_us_is_not_called_out_of_reach() {
        let away = alert(Cause::Open, 1, None, Some("connection refused"));
        assert_eq!(away.topic(), "orders cannot be reached");
        let refused = alert(Cause::Open, 1, None, Some("refuses us: AUTH: 535 5.7.8 no; mend"));
        assert_eq!(refused.topic(), "orders refuses us");
        assert!(refused.words().contains("none is given up"), "{}", refused.words());
        assert!(refused.remedy().contains("mend the login"), "{}", refused.remedy());
        assert_eq!(Alert { gone: true, ..refused }.topic(), "orders refuses us no longer");
    }

    #[test]
    fn a_remedy_is_a_command_to_type() {
        let missed = alert(Cause::Missed, 3, Some("orders/2026-11-20"), None);
        assert_eq!(missed.words(), "schedule orders: 3 periods were passed over and did not run");
        let run = "outboxd schedule run orders --period";
        assert!(missed.remedy().ends_with(&format!("{run} 2026-11-20")), "{}", missed.remedy());
        // Of those that have no row of their own only the schedule knows the names.
        assert!(alert(Cause::Missed, 3, None, None).remedy().ends_with(&format!("{run} PERIOD")));

        let mail = |reason| alert(Cause::Mail, 1, Some("orders/2026-11-20"), Some(reason)).remedy();
        let held = mail("held: the connection broke after the final dot");
        assert!(held.contains("outboxd resolve orders/2026-11-20 --delivered"), "{held}");
        assert!(!held.contains("retry"), "{held}");
        assert!(mail("dead: 552 too large").ends_with("outboxd retry orders/2026-11-20"));
    }
}
