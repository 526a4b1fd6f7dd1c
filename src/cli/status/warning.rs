//! What a status tells of: what needs an operator, and what is worth a look. Pure.

use std::fmt::Write as _;

use crate::alert::{Alert, Cause, mail_remedy};
use crate::store::inspect::status::{Count, MAILS_MAX, RelayStatus, SinkStatus, Status};

/// Types and names shown before the rest is only counted.
const SHOWN_MAX: usize = 5;

/// Something to be told of.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Warning {
    pub words: String,
    /// Whether it stays until an operator does something.
    pub needs_operator: bool,
}

fn live(status: &Status) -> impl Iterator<Item = &RelayStatus> {
    status.relays.iter().filter(|relay| relay.alive)
}

/// Deliveries or a file that is not done.
fn has_work(sink: &SinkStatus) -> bool {
    let done = |state: &str| matches!(state, "published" | "empty");
    ![sink.due, sink.later, sink.dead, sink.held].iter().all(|count| count.is_zero())
        || sink.export.as_ref().is_some_and(|export| !done(&export.state))
}

/// Whether the relays found work that nobody does, which may be a route or an older mail that is not out.
fn is_told_orphaned(status: &Status, sink: &SinkStatus) -> bool {
    let is_it = |alert: &Alert| alert.cause == Cause::Orphaned && alert.subject == sink.name;
    status.alerts.iter().any(|alert| !alert.gone && is_it(alert))
}

/// Whether something came due by the calendar and nobody did it yet.
fn is_due(status: &Status) -> bool {
    let cuts = status.sinks.iter().map(|sink| sink.next_cut);
    let mut next = status.schedules.iter().map(|schedule| schedule.next).chain(cuts);
    next.any(|left| left.is_some_and(|left| left < 0))
}

/// Of the first messages only, so never more than the limit says.
pub(super) fn unrouted(status: &Status) -> Count {
    let sum: u64 = status.unrouted.iter().map(|(_, messages)| messages).sum();
    Count::new(i64::try_from(sum).unwrap_or(i64::MAX))
}

/// What needs an operator first, then what is worth a look.
pub(super) fn warnings(status: &Status) -> Vec<Warning> {
    let mut needed = Vec::new();
    for sink in &status.sinks {
        let (name, dead, held) = (&sink.name, sink.dead, sink.held);
        if !dead.is_zero() {
            needed.push(format!(
                "{name}: {dead} dead; look: outboxd list --sink {name} --state dead; \
                 again: outboxd retry --sink {name}"
            ));
        }
        if !held.is_zero() {
            needed.push(format!(
                "{name}: {held} held, in doubt whether they arrived; \
                 look: outboxd list --sink {name} --state held; then: outboxd resolve"
            ));
        }
        if let Some((period, reason)) = &sink.stuck {
            needed.push(format!(
                "{name}: the file of {period} cannot be written: {reason}; its rows are safe; \
                 look: outboxd export list {name}"
            ));
        }
    }
    needed.extend(mails(status));
    let waiting = unrouted(status);
    if !waiting.is_zero() {
        let types = shown(status.unrouted.iter().map(|(t, messages)| format!("{t} ({messages})")));
        needed.push(format!(
            "{waiting} unrouted: no route takes {types}; add one, or one with sink = [] for nowhere"
        ));
    }
    if !status.unseen.is_zero() {
        let unseen = status.unseen;
        needed
            .push(format!("{unseen} unseen, written past the trigger; run: outboxd route unseen"));
    }
    if live(status).next().is_none() {
        if status.sinks.iter().any(has_work) || !waiting.is_zero() || is_due(status) {
            needed.push("no relay runs, and there is work; run: outboxd run".to_owned());
        }
    } else {
        for sink in
            status.sinks.iter().filter(|sink| has_work(sink) || is_told_orphaned(status, sink))
        {
            if !live(status).any(|relay| relay.sinks.contains(&sink.name)) {
                let name = &sink.name;
                let is_export = sink.kind.as_deref() == Some("export");
                let look = if is_export { "export list" } else { "list --sink" };
                needed.push(format!(
                    "{name}: orphaned, no live relay's config knows this sink; \
                     put it back, or look: outboxd {look} {name}"
                ));
            }
        }
    }
    let warning = |needs_operator| move |words| Warning { words, needs_operator };
    let mut all: Vec<Warning> = needed.into_iter().map(warning(true)).collect();
    all.extend(route_warning(status).map(warning(false)));
    all.extend(paused(status));
    all
}

/// Mails of files that wait for an operator: each with its command, of many the first.
fn mails(status: &Status) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for mail in status.mails.iter().take(SHOWN_MAX) {
        let (sink, period) = (&mail.sink, &mail.period);
        // The state says that already.
        let reason = mail.reason.strip_prefix("in doubt: ").unwrap_or(&mail.reason);
        let state = if mail.is_held { "held, in doubt whether it arrived" } else { "dead" };
        let todo = mail_remedy(mail.is_held, &mail.name());
        lines.push(format!("{sink}: the mail of {period} is {state}: {reason}; {todo}"));
    }
    let rest = status.mails.len().saturating_sub(SHOWN_MAX);
    if rest > 0 {
        let more = if status.mails.len() == MAILS_MAX { "+" } else { "" };
        lines
            .push(format!("{rest}{more} more mails are held or dead; look: outboxd status --json"));
    }
    lines
}

/// What is paused: an operator wanted it so, and it is worth a look; what paused by itself needs one.
fn paused(status: &Status) -> Vec<Warning> {
    let mut all = Vec::new();
    let mut tell = |words, needs_operator| all.push(Warning { words, needs_operator });
    match status.paused.paused_for.as_deref() {
        _ if !status.paused.paused => {}
        None | Some("operator") => {
            tell("everything is paused; to go on: outboxd resume --all".to_owned(), false);
        }
        Some(why) => tell(
            format!(
                "paused because this is not the cluster that it was ({why}); if it is to deliver \
                 from now on: outboxd resume --restored"
            ),
            true,
        ),
    }
    for sink in status.sinks.iter().filter(|sink| sink.paused) {
        let name = &sink.name;
        tell(format!("{name}: paused; to go on: outboxd resume --sink {name}"), false);
    }
    for paused in &status.paused_routes {
        let (route, actor, at) = (&paused.route, &paused.actor, paused.paused_at);
        let slash = if route.target.is_empty() { "" } else { "/" };
        let (pattern, way) = (&route.pattern, format!("{}{slash}{}", route.sink, route.target));
        let at = at.strftime("%Y-%m-%d %H:%M:%SZ");
        tell(
            format!(
                "route {pattern} to {way} was paused by {actor} at {at}; \
                 to go on: outboxd resume --route {way} --type '{pattern}'"
            ),
            false,
        );
    }
    all
}

/// Live relays that differ among themselves, or from what is in force.
fn route_warning(status: &Status) -> Option<String> {
    let mut hashes: Vec<&str> = live(status).map(|relay| relay.routes_hash.as_str()).collect();
    hashes.sort_unstable();
    hashes.dedup();
    if hashes.len() > 1 {
        return Some(
            "live relays have different routes; give all the same config, then restart".to_owned(),
        );
    }
    let differs = hashes.first().is_some_and(|hash| Some(*hash) != status.routes_hash.as_deref());
    differs.then(|| {
        "the routes in force are not those of the live relays; to go back to a config's: \
         outboxd route apply"
            .to_owned()
    })
}

fn shown(names: impl ExactSizeIterator<Item = String>) -> String {
    let rest = names.len().saturating_sub(SHOWN_MAX);
    let mut text = names.take(SHOWN_MAX).collect::<Vec<_>>().join(", ");
    if rest > 0 {
        let _ = write!(text, " and {rest} more");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::inspect::pause::{PausedAll, PausedRoute, RouteName};
    use crate::store::inspect::status::{ExportStatus, MailStatus, ScheduleStatus};

    fn sink(name: &str) -> SinkStatus {
        SinkStatus { name: name.to_owned(), ..SinkStatus::default() }
    }

    fn relay(id: &str, hash: &str, sinks: &[&str]) -> RelayStatus {
        let sinks = sinks.iter().map(|&name| name.to_owned()).collect();
        let (id, routes_hash) = (id.to_owned(), hash.to_owned());
        RelayStatus { id, routes_hash, sinks, alive: true, ..RelayStatus::default() }
    }

    fn told(status: &Status) -> Vec<(String, bool)> {
        let head = |words: &str| words.split([';', ',']).next().unwrap_or_default().to_owned();
        warnings(status).iter().map(|w| (head(&w.words), w.needs_operator)).collect()
    }

    #[test]
    fn all_is_quiet_where_nothing_is_wrong() {
        let due = SinkStatus { due: Count::new(3), later: Count::new(1), ..sink("crm") };
        let status = Status {
            sinks: vec![due, sink("old")],
            relays: vec![relay("a", "1", &["crm"])],
            routes_hash: Some("1".to_owned()),
            ..Status::default()
        };
        assert_eq!(told(&status), []);
        // Without work nobody misses a relay.
        let idle = Status { sinks: vec![sink("crm")], ..Status::default() };
        assert_eq!(told(&idle), []);
    }

    #[test]
    fn whatever_waits_for_an_operator_is_told() {
        let crm = SinkStatus { dead: Count::new(2), held: Count::new(10_001), ..sink("crm") };
        let old = SinkStatus { later: Count::new(1), ..sink("old") };
        let status = Status {
            sinks: vec![crm, old],
            relays: vec![relay("a", "1", &["crm"])],
            unrouted: vec![("a.b".to_owned(), 2), ("c".to_owned(), 1)],
            unseen: Count::new(4),
            routes_hash: Some("1".to_owned()),
            ..Status::default()
        };
        let expected = [
            "crm: 2 dead",
            "crm: 10000+ held",
            "3 unrouted: no route takes a.b (2)",
            "4 unseen",
            "old: orphaned",
        ];
        assert_eq!(told(&status), expected.map(|words| (words.to_owned(), true)));
    }

    #[test]
    fn work_that_only_the_relays_found_is_orphaned_too() {
        let alert = Alert {
            cause: Cause::Orphaned,
            subject: "orders".to_owned(),
            since: jiff::Timestamp::UNIX_EPOCH,
            seen_at: jiff::Timestamp::UNIX_EPOCH,
            age: std::time::Duration::ZERO,
            count: 1,
            news: (0, 0),
            example: None,
            reason: None,
            gone: false,
            told_at: None,
            told: None,
            cause_told_at: None,
        };
        let mut status = Status {
            sinks: vec![SinkStatus { kind: Some("export".to_owned()), ..sink("orders") }],
            relays: vec![relay("a", "1", &["sales"])],
            routes_hash: Some("1".to_owned()),
            alerts: vec![alert],
            ..Status::default()
        };
        let words = "orders: orphaned, no live relay's config knows this sink; \
                     put it back, or look: outboxd export list orders";
        let told = warnings(&status);
        assert_eq!(told, [Warning { words: words.to_owned(), needs_operator: true }]);
        status.alerts[0].gone = true;
        assert_eq!(warnings(&status), []);
    }

    #[test]
    fn files_and_mails_that_wait_for_an_operator_come_with_the_command() {
        let mail = |day: usize, is_held| MailStatus {
            sink: "orders".to_owned(),
            period: format!("2026-11-0{day}"),
            is_held,
            reason: if is_held { "in doubt: why" } else { "why" }.to_owned(),
        };
        let stuck = Some(("2026-11-09".to_owned(), "no space left on device".to_owned()));
        let mut status = Status {
            sinks: vec![SinkStatus { stuck, ..sink("orders") }],
            mails: (1..=7).map(|day| mail(day, day == 1)).collect(),
            ..Status::default()
        };
        let words: Vec<String> = warnings(&status).into_iter().map(|w| w.words).collect();
        assert_eq!(words.len(), 7, "{words:?}");
        assert_eq!(
            words[..3],
            [
                "orders: the file of 2026-11-09 cannot be written: no space left on device; \
                 its rows are safe; look: outboxd export list orders",
                "orders: the mail of 2026-11-01 is held, in doubt whether it arrived: why; \
                 ask who gets it whether it arrived, then: \
                 outboxd resolve orders/2026-11-01 --delivered, or --not-delivered",
                "orders: the mail of 2026-11-02 is dead: why; again: outboxd retry orders/2026-11-02",
            ]
        );
        assert_eq!(words[6], "2 more mails are held or dead; look: outboxd status --json");
        assert!(warnings(&status).iter().all(|w| w.needs_operator));
        status.mails = vec![mail(1, true); MAILS_MAX];
        assert!(warnings(&status)[6].words.starts_with("95+ more mails"));
    }

    #[test]
    fn what_came_due_by_the_calendar_is_work_that_needs_a_relay() {
        let next = |next| ScheduleStatus { next, ..ScheduleStatus::default() };
        let mut status = Status { schedules: vec![next(Some(5)), next(None)], ..Status::default() };
        assert_eq!(told(&status), []);
        let none = [("no relay runs".to_owned(), true)];
        status.schedules.push(next(Some(-1)));
        assert_eq!(told(&status), none);
        status.schedules.clear();
        status.sinks = vec![SinkStatus { next_cut: Some(-1), ..sink("ledger") }];
        assert_eq!(told(&status), none);
        // A file that is not done is work too, and its sink somebody's.
        let export = |state: &str| ExportStatus {
            period: "p".to_owned(),
            part: 1,
            state: state.to_owned(),
            rows: 0,
            mail: None,
        };
        status.sinks = vec![SinkStatus { export: Some(export("built")), ..sink("ledger") }];
        assert_eq!(told(&status), none);
        status.relays = vec![relay("a", "1", &[])];
        status.routes_hash = Some("1".to_owned());
        assert_eq!(told(&status), [("ledger: orphaned".to_owned(), true)]);
        for done in ["published", "empty"] {
            status.sinks[0].export = Some(export(done));
            assert_eq!(told(&status), []);
        }
    }

    #[test]
    fn work_without_a_live_relay_is_told_once() {
        let busy = |name| SinkStatus { due: Count::new(1), ..sink(name) };
        let silent = RelayStatus { alive: false, ..relay("a", "1", &[]) };
        let status =
            Status { sinks: vec![busy("a"), busy("b")], relays: vec![silent], ..Status::default() };
        assert_eq!(told(&status), [("no relay runs".to_owned(), true)]);
    }

    #[test]
    fn what_is_paused_is_told_and_needs_somebody_where_nobody_wanted_it() {
        let mut status = Status {
            sinks: vec![SinkStatus { paused: true, ..sink("crm") }],
            paused: PausedAll { paused: true, paused_for: Some("operator".to_owned()) },
            paused_routes: vec![PausedRoute {
                route: RouteName {
                    pattern: "a.*".to_owned(),
                    sink: "mail".to_owned(),
                    target: "office".to_owned(),
                },
                actor: "ann@web".to_owned(),
                paused_at: jiff::Timestamp::UNIX_EPOCH,
            }],
            ..Status::default()
        };
        let expected = [
            "everything is paused",
            "crm: paused",
            "route a.* to mail/office was paused by ann@web at 1970-01-01 00:00:00Z",
        ];
        assert_eq!(told(&status), expected.map(|words| (words.to_owned(), false)));
        status.paused.paused_for = Some("restored".to_owned());
        assert!(warnings(&status)[0].needs_operator);
        assert!(warnings(&status)[0].words.ends_with("outboxd resume --restored"));
    }

    #[test]
    fn routes_that_differ_are_a_warning() {
        let two = vec![relay("a", "1", &[]), relay("b", "2", &[])];
        let mut status =
            Status { relays: two, routes_hash: Some("1".to_owned()), ..Status::default() };
        assert_eq!(told(&status), [("live relays have different routes".to_owned(), false)]);
        status.relays.remove(0);
        let words = "the routes in force are not those of the live relays";
        assert_eq!(told(&status), [(words.to_owned(), false)]);
        // A relay that fell silent has no say.
        status.relays[0].alive = false;
        assert_eq!(told(&status), []);
    }
}
