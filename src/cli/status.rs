//! `outboxd status`: one screen, and what needs an operator.

use std::fmt::Write as _;

use clap::Args;
use serde_json::{Value, json};

use super::table::Table;
use super::{Answer, Verdict, connect, other_installation, say, say_json, words};
use crate::config::Config;
use crate::store::inspect::status::{Count, RelayStatus, SinkStatus, Status, status};

const EXAMPLES: &str = "\
  outboxd status               exit code 1 if something needs you
  outboxd status --json        the same for a program
  watch -n 1 outboxd status

Counts are exact up to 10000 and marked beyond: 10000+.";

/// Types and names shown before the rest is only counted.
const SHOWN_MAX: usize = 5;

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct StatusCommand {
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

/// Something to be told of.
#[derive(Debug, PartialEq, Eq)]
struct Warning {
    words: String,
    /// Whether it stays until an operator does something.
    needs_operator: bool,
}

impl StatusCommand {
    pub async fn run(&self, config: &Config) -> Answer {
        let status = status(&connect(config)).await?;
        let mut warnings = warnings(&status);
        if status.installation != config.database.installation.as_str() {
            let words = other_installation(&status.installation, config);
            warnings.insert(0, Warning { words, needs_operator: true });
        }
        if self.json {
            say_json(&in_json(&status, &warnings));
        } else {
            say(&in_text(&status, &warnings));
        }
        Ok(Verdict::wrong_if(warnings.iter().any(|warning| warning.needs_operator)))
    }
}

fn live(status: &Status) -> impl Iterator<Item = &RelayStatus> {
    status.relays.iter().filter(|relay| relay.alive)
}

fn has_work(sink: &SinkStatus) -> bool {
    ![sink.due, sink.later, sink.dead, sink.held].iter().all(|count| count.is_zero())
}

/// Of the first messages only, so never more than the limit says.
fn unrouted(status: &Status) -> Count {
    let sum: u64 = status.unrouted.iter().map(|(_, messages)| messages).sum();
    Count::new(i64::try_from(sum).unwrap_or(i64::MAX))
}

/// What needs an operator first, then what is worth a look.
fn warnings(status: &Status) -> Vec<Warning> {
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
                 look: outboxd list --sink {name} --state held"
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

/// A relay's id is random and long; its head tells it from others.
fn short(id: &str) -> String {
    id.chars().take(8).collect()
}

fn owner(status: &Status, sink: &SinkStatus) -> String {
    let mut text = match &sink.owner {
        None => "none".to_owned(),
        Some(id) => match status.relays.iter().find(|relay| relay.id == *id) {
            Some(relay) => {
                let silent = if relay.alive { "" } else { " (silent)" };
                format!("{}@{}{silent}", short(id), relay.host)
            }
            None => format!("{} (gone)", short(id)),
        },
    };
    if sink.paused {
        text.push_str(" (paused)");
    }
    text
}

fn state(relay: &RelayStatus) -> &'static str {
    match (relay.alive, relay.draining) {
        (false, _) => "silent",
        (true, true) => "draining",
        (true, false) => "alive",
    }
}

fn sink_table(status: &Status) -> String {
    let heading = [
        "SINK",
        "KIND",
        "OWNER",
        "DUE",
        "LATER",
        "OLDEST",
        "IN FLIGHT",
        "DEAD",
        "HELD",
        "DELIVERED/MIN",
        "FAILED/MIN",
    ];
    let mut table = Table::new(&heading, &[3, 4, 5, 6, 7, 8, 9, 10]);
    for sink in &status.sinks {
        let flow = |of: fn(&crate::store::work::Flow) -> i32| {
            sink.flow.as_ref().map_or("-".to_owned(), |flow| of(flow).to_string())
        };
        table.row([
            sink.name.clone(),
            sink.kind.clone().unwrap_or_else(|| "?".to_owned()),
            owner(status, sink),
            sink.due.to_string(),
            sink.later.to_string(),
            sink.oldest_due.map_or("-".to_owned(), words::age),
            flow(|flow| flow.in_flight),
            sink.dead.to_string(),
            sink.held.to_string(),
            flow(|flow| flow.delivered_minute),
            flow(|flow| flow.failed_minute),
        ]);
    }
    table.text()
}

/// What is due in a csv sink waits for its cut.
fn csv_lines(status: &Status) -> String {
    let mut out = String::new();
    for sink in status.sinks.iter().filter(|sink| sink.kind.as_deref() == Some("csv")) {
        let last = sink.export.as_ref().map_or("no export yet".to_owned(), |export| {
            let part =
                if export.part > 1 { format!(" part {}", export.part) } else { String::new() };
            let (period, state, rows) = (&export.period, &export.state, export.rows);
            format!("last export {period}{part}: {state}, {rows} rows")
        });
        let _ = writeln!(out, "{}: {} wait for the next cut; {last}", sink.name, sink.due);
    }
    out
}

fn relay_table(status: &Status) -> String {
    if status.relays.is_empty() {
        return "no relay\n".to_owned();
    }
    let mut table = Table::new(&["RELAY", "HOST", "PID", "VERSION", "HEARTBEAT", "STATE"], &[2]);
    for relay in &status.relays {
        table.row([
            short(&relay.id),
            relay.host.clone(),
            relay.pid.to_string(),
            relay.version.clone(),
            format!("{} ago", words::age(relay.heartbeat_age)),
            state(relay).to_owned(),
        ]);
    }
    table.text()
}

fn in_text(status: &Status, warnings: &[Warning]) -> String {
    let mut out = format!("installation {}\n\n", words::plain(&status.installation));
    out.push_str(&if status.sinks.is_empty() {
        "no sink\n".to_owned()
    } else {
        sink_table(status) + &csv_lines(status)
    });
    out.push('\n');
    out.push_str(&relay_table(status));
    let _ = writeln!(out, "\nunrouted {}, unseen {}", unrouted(status), status.unseen);
    if !warnings.is_empty() {
        out.push('\n');
    }
    for warning in warnings {
        let _ = writeln!(out, "! {}", words::plain(&warning.words));
    }
    out
}

fn count_json(count: Count) -> Value {
    json!({ "count": count.number, "more": count.more })
}

fn in_json(status: &Status, warnings: &[Warning]) -> Value {
    json!({
        "installation": status.installation,
        "routes_hash": status.routes_hash,
        "sinks": status.sinks.iter().map(|sink| json!({
            "name": sink.name,
            "kind": sink.kind,
            "owner": sink.owner,
            "paused": sink.paused,
            "due": count_json(sink.due),
            "later": count_json(sink.later),
            "oldest_due_seconds": sink.oldest_due,
            "in_flight": sink.flow.map(|flow| flow.in_flight),
            "delivered_minute": sink.flow.map(|flow| flow.delivered_minute),
            "failed_minute": sink.flow.map(|flow| flow.failed_minute),
            "dead": count_json(sink.dead),
            "held": count_json(sink.held),
            "last_export": sink.export.as_ref().map(|export| json!({
                "period": export.period,
                "part": export.part,
                "state": export.state,
                "rows": export.rows,
            })),
        })).collect::<Vec<_>>(),
        "relays": status.relays.iter().map(|relay| json!({
            "id": relay.id,
            "host": relay.host,
            "pid": relay.pid,
            "version": relay.version,
            "routes_hash": relay.routes_hash,
            "sinks": relay.sinks,
            "heartbeat_seconds": relay.heartbeat_age,
            "state": state(relay),
        })).collect::<Vec<_>>(),
        "unrouted": count_json(unrouted(status)),
        "unrouted_types": status.unrouted.iter().map(|(message_type, messages)| json!({
            "type": message_type,
            "messages": messages,
        })).collect::<Vec<_>>(),
        "unseen": count_json(status.unseen),
        "warnings": warnings.iter().map(|warning| json!({
            "words": warning.words,
            "needs_operator": warning.needs_operator,
        })).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn routes_that_differ_are_a_warning() {
        let two = vec![relay("a", "1", &[]), relay("b", "2", &[])];
        let mut status =
            Status { relays: two, routes_hash: Some("1".to_owned()), ..Status::default() };
        assert_eq!(told(&status), [("live relays have different routes".to_owned(), false)]);
        status.relays.remove(0);
        let words = "the routes in force are not those of the live relays";
        assert_eq!(told(&status), [(format!("{words}; to go").replace("; to go", ""), false)]);
        // A relay that fell silent has no say.
        status.relays[0].alive = false;
        assert_eq!(told(&status), []);
    }

    #[test]
    fn owners_are_short_and_say_when_they_are_not_there() {
        let mut a = relay("0123456789abcdef", "1", &[]);
        a.host = "web-1".to_owned();
        let mut status = Status { relays: vec![a], ..Status::default() };
        let mut crm = sink("crm");
        assert_eq!(owner(&status, &crm), "none");
        crm.owner = Some("0123456789abcdef".to_owned());
        assert_eq!(owner(&status, &crm), "01234567@web-1");
        status.relays[0].alive = false;
        crm.paused = true;
        assert_eq!(owner(&status, &crm), "01234567@web-1 (silent) (paused)");
        crm.owner = Some("fedcba9876543210".to_owned());
        assert_eq!(owner(&status, &crm), "fedcba98 (gone) (paused)");
    }
}
