//! `outboxd status`: one screen, and what needs an operator.

mod alerts;
mod calendar;
mod warning;

use std::fmt::Write as _;

use clap::Args;
use serde_json::{Value, json};

use self::warning::{Warning, unrouted, warnings};
use super::table::Table;
use super::{Answer, Verdict, connect, other_installation, say, say_json, words};
use crate::alert::REFUSES_US;
use crate::config::Config;
use crate::store::inspect::status::{Count, RelayStatus, SinkStatus, Status, status};

const EXAMPLES: &str = "\
Examples:
  outboxd status               exit code 1 if something needs you
  outboxd status --json        the same for a program
  watch -n 1 outboxd status

Counts are exact up to 10000 and marked beyond: 10000+.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct StatusCommand {
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

impl StatusCommand {
    pub async fn run(&self, config: &Config) -> Answer {
        let link = connect(config);
        let status = status(&link).await?;
        let mut warnings = warnings(&status);
        warnings.extend(alerts::warnings(&status));
        if let Some((_, words)) = other_installation(&link, config).await? {
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
        (true, false) if relay.captures => "captures",
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
        let flow = |of: fn(&crate::store::flow::Flow) -> i32| {
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

/// What an owner says of a sink that is not just flowing.
fn flow_lines(status: &Status) -> String {
    let mut out = String::new();
    for sink in &status.sinks {
        let name = &sink.name;
        if let Some((seconds, reason)) = &sink.open {
            let (since, why) = (words::age(*seconds), words::plain(reason));
            let what = if why.starts_with(REFUSES_US) { "waits" } else { "cannot be reached" };
            let _ = writeln!(out, "{name}: {what}, for {since} now: {why}");
        }
        if let Some((seconds, why)) = &sink.waits {
            let (left, why) = (words::age(*seconds), words::plain(why));
            let _ = writeln!(out, "{name}: takes nothing for another {left}: {why}");
        }
        if sink.parked > 0 {
            // Its head may be all there is of a key. Those with others behind it are on the list.
            let (parked, look) = (sink.parked, "outboxd list --state parked --sink");
            let keys = if parked == 1 { "key has" } else { "keys have" };
            let _ = writeln!(
                out,
                "{name}: {parked} {keys} a head that waits; what waits behind one: {look} {name}"
            );
        }
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
        sink_table(status) + &calendar::files(status) + &flow_lines(status)
    });
    out.push('\n');
    if !status.schedules.is_empty() {
        out.push_str(&calendar::schedule_table(status));
        out.push('\n');
    }
    out.push_str(&relay_table(status));
    let _ = writeln!(out, "\nunrouted {}, unseen {}", unrouted(status), status.unseen);
    let _ = writeln!(out, "{}", alerts::line(status));
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

fn sink_json(sink: &SinkStatus) -> Value {
    json!({
        "name": sink.name,
        "kind": sink.kind,
        "owner": sink.owner,
        "paused": sink.paused,
        "due": count_json(sink.due),
        "later": count_json(sink.later),
        "oldest_due_seconds": sink.oldest_due,
        "in_flight": sink.flow.as_ref().map(|flow| flow.in_flight),
        "delivered_minute": sink.flow.as_ref().map(|flow| flow.delivered_minute),
        "failed_minute": sink.flow.as_ref().map(|flow| flow.failed_minute),
        "dead": count_json(sink.dead),
        "held": count_json(sink.held),
        "parked": sink.parked,
        "open": sink.open.as_ref().map(|(seconds, reason)| json!({
            "seconds": seconds,
            "reason": reason,
        })),
        "waits": sink.waits.as_ref().map(|(seconds, why)| json!({
            "seconds": seconds,
            "for": why,
        })),
        "next_cut_seconds": sink.next_cut,
        "last_export": sink.export.as_ref().map(|export| json!({
            "period": export.period,
            "part": export.part,
            "state": export.state,
            "rows": export.rows,
            "mail": export.mail,
        })),
        "file_cannot_be_written": sink.stuck.as_ref().map(|(period, reason)| json!({
            "period": period,
            "reason": reason,
        })),
    })
}

fn in_json(status: &Status, warnings: &[Warning]) -> Value {
    json!({
        "installation": status.installation,
        "routes_hash": status.routes_hash,
        "sinks": status.sinks.iter().map(sink_json).collect::<Vec<_>>(),
        "schedules": calendar::schedules_json(status),
        "mails": calendar::mails_json(status),
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
        "alerts": alerts::json(status),
        "paused": status.paused.paused,
        "paused_for": status.paused.paused_for,
        "paused_routes": status.paused_routes.iter().map(|paused| json!({
            "type": paused.route.pattern,
            "sink": paused.route.sink,
            "target": paused.route.target,
            "actor": paused.actor,
            "paused_at": paused.paused_at.to_string(),
        })).collect::<Vec<_>>(),
        "warnings": warnings.iter().map(|warning| json!({
            "words": warning.words,
            "needs_operator": warning.needs_operator,
        })).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_short_and_say_when_they_are_not_there() {
        let mut a = RelayStatus {
            id: "0123456789abcdef".to_owned(),
            alive: true,
            ..RelayStatus::default()
        };
        a.host = "web-1".to_owned();
        let mut status = Status { relays: vec![a], ..Status::default() };
        let mut crm = SinkStatus::default();
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
