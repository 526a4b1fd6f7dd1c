//! What a status tells of: what needs an operator, and what is worth a look. Pure.

use std::fmt::Write as _;

use crate::store::inspect::status::{Count, RelayStatus, SinkStatus, Status};

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

fn has_work(sink: &SinkStatus) -> bool {
    ![sink.due, sink.later, sink.dead, sink.held].iter().all(|count| count.is_zero())
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
    }
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
    let work: Vec<&SinkStatus> = status.sinks.iter().filter(|sink| has_work(sink)).collect();
    if live(status).next().is_none() {
        if !work.is_empty() || !waiting.is_zero() {
            needed.push("no relay runs, and there is work; run: outboxd run".to_owned());
        }
    } else {
        for sink in work {
            if !live(status).any(|relay| relay.sinks.contains(&sink.name)) {
                let name = &sink.name;
                needed.push(format!(
                    "{name}: orphaned, no live relay's config knows this sink; \
                     put it back, or look: outboxd list --sink {name}"
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
