//! `outboxd list`: open deliveries, what needs an operator first.

use clap::Args;
use serde_json::{Value, json};

use super::filter::{Filter, State, no_such_sink};
use super::table::Table;
use super::words::{self, delivery_name};
use super::{Answer, Failure, Verdict, connect, say, say_aside, say_json};
use crate::config::Config;
use crate::policy::Order;
use crate::store::Link;
use crate::store::inspect::page::{ParkedRow, of_key, parked};
use crate::store::inspect::{OpenRow, known_sinks, list_pending, list_stuck};

const EXAMPLES: &str = "\
Examples:
  outboxd list                                 what needs you, then the oldest due
  outboxd list --state dead                    what was given up, the newest first
  outboxd list --state dead --sink crm --reason 'HTTP 410' --limit 500
  outboxd list --state parked                  keys that wait behind a head, and how many
  outboxd list --key order-42                  all that is open of a key, in its order
  outboxd list --state unrouted                what no route takes
  outboxd list --type 'order.*' --older-than 1h --json";

/// For what a filter asks there may be no index, as a type stands in the message: so many rows are
/// looked at.
const LOOKED_AT_MAX: usize = 10_000;
/// Heads of parked keys that are looked at where a filter narrows them.
const HEADS_MAX: usize = 1_000;

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct List {
    /// Only deliveries in this state
    #[arg(long)]
    state: Option<State>,
    #[command(flatten)]
    filter: Filter,
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

impl List {
    pub async fn run(&self, config: &Config) -> Answer {
        let link = connect(config);
        let whole = if self.state == Some(State::Parked) {
            self.parked(&link, config).await?
        } else {
            let (rows, whole) = self.rows(&link, config).await?;
            if self.json {
                say_json(&Value::Array(rows.iter().map(row_json).collect()));
            } else if rows.is_empty() {
                say("nothing open that fits");
            } else {
                say(&text(&rows));
            }
            self.say_if_full(rows.len());
            whole
        };
        if !whole {
            say_aside(&format!(
                "not all could be looked at, only the first {LOOKED_AT_MAX} (of parked keys \
                 {HEADS_MAX}); narrow it with --state, --sink or --key"
            ));
        }
        Ok(Verdict::Ok)
    }

    /// The sinks to look through. One that nobody knows may be a slip, and would read as all clear.
    async fn sinks(&self, link: &Link, config: &Config) -> Result<Vec<String>, Failure> {
        let known = known_sinks(link).await?;
        match &self.filter.which.sink {
            Some(sink) => {
                let is_configured = config.sinks.keys().any(|name| name.as_str() == sink);
                if is_configured || known.contains(sink) {
                    Ok(vec![sink.clone()])
                } else {
                    Err(no_such_sink(sink, &known))
                }
            }
            // What no route takes has no sink.
            None => Ok(known.into_iter().chain([String::new()]).collect()),
        }
    }

    /// Says so where the list may go on.
    fn say_if_full(&self, rows: usize) {
        if rows >= self.limit as usize {
            say_aside(&format!("the first {rows} only, there may be more: --limit"));
        }
    }

    /// The rows, and whether all that could fit were looked at.
    async fn rows(&self, link: &Link, config: &Config) -> Result<(Vec<OpenRow>, bool), Failure> {
        let limit = self.limit as usize;
        let sinks = self.sinks(link, config).await?;
        if let Some(key) = &self.filter.which.key {
            return self.of_key(link, &sinks, key).await;
        }
        let read = if self.filter.looks_at_rows() { LOOKED_AT_MAX } else { limit };
        let count = i64::try_from(read).unwrap_or(i64::MAX);
        let stuck: &[&str] = match self.state {
            None => &["dead", "held", "unrouted"],
            Some(State::Pending) => &[],
            Some(state) => &[state.word()],
        };
        let (mut rows, mut whole) = (Vec::new(), true);
        let mut take = |found: Vec<OpenRow>| {
            let all = found.len() < read;
            rows.extend(found.into_iter().filter(|row| self.filter.takes(row)));
            whole &= all || rows.len() >= limit;
            rows.len() >= limit
        };
        let mut full = false;
        if !stuck.is_empty() {
            full = take(list_stuck(link, stuck, &sinks, count).await?);
        }
        if !full && matches!(self.state, None | Some(State::Pending)) {
            take(list_pending(link, &sinks, count).await?);
        }
        whole |= !self.filter.looks_at_rows();
        rows.truncate(limit);
        Ok((rows, whole))
    }

    /// The same of one key, by the index that orders it.
    async fn of_key(
        &self,
        link: &Link,
        sinks: &[String],
        key: &str,
    ) -> Result<(Vec<OpenRow>, bool), Failure> {
        let limit = self.limit as usize;
        let in_state = |row: &OpenRow| self.state.is_none_or(|state| row.state == state.word());
        let (mut rows, mut looked_at) = (Vec::new(), 0);
        for sink in sinks {
            let mut after = 0;
            loop {
                let page = of_key(link, sink, key, after).await?;
                let Some(last) = page.last() else { break };
                (after, looked_at) = (last.message_id, looked_at + page.len());
                rows.extend(page.into_iter().filter(|row| in_state(row) && self.filter.takes(row)));
                if rows.len() >= limit || looked_at >= LOOKED_AT_MAX {
                    let full = rows.len() >= limit;
                    rows.truncate(limit);
                    return Ok((rows, full));
                }
            }
        }
        Ok((rows, true))
    }

    /// Heads that hold others back; whether all that could were looked at.
    async fn parked(&self, link: &Link, config: &Config) -> Result<bool, Failure> {
        let sinks = self.sinks(link, config).await?;
        let skips = |sink: &str| {
            config.sinks.iter().any(|(name, c)| name.as_str() == sink && c.order == Order::Skip)
        };
        let limit = self.limit as usize;
        let narrowed = self.filter.looks_at_rows() || sinks.iter().any(|sink| skips(sink));
        // Followers are counted for each, so not of as many as elsewhere.
        let read = if narrowed { limit.max(HEADS_MAX) } else { limit };
        let as_i64 = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let (mut rows, all) = parked(link, &sinks, as_i64(LOOKED_AT_MAX), as_i64(read)).await?;
        let cut = narrowed && rows.len() >= read;
        // Nobody waits for a dead or held head where the config says skip.
        rows.retain(|row| {
            let head = &row.head;
            self.filter.takes(head) && (head.state == "pending" || !skips(&head.sink))
        });
        let whole = (all && !cut) || rows.len() >= limit;
        rows.truncate(limit);
        if self.json {
            say_json(&Value::Array(rows.iter().map(parked_json).collect()));
        } else if rows.is_empty() {
            say("no key is parked");
        } else {
            say(&parked_text(&rows));
        }
        self.say_if_full(rows.len());
        Ok(whole)
    }
}

fn text(rows: &[OpenRow]) -> String {
    let heading = ["DELIVERY", "STATE", "ATTEMPTS", "DUE", "AGE", "TYPE", "REASON"];
    let mut table = Table::new(&heading, &[2]);
    for row in rows {
        table.row([
            delivery_name(row.message_id, &row.sink, &row.target),
            row.state.clone(),
            row.attempt.to_string(),
            words::due(row.due_in),
            row.age.map_or("-".to_owned(), words::age),
            row.message_type.clone().unwrap_or_else(|| "(message gone)".to_owned()),
            reason(row),
        ]);
    }
    table.text()
}

/// Why, and how many recipients came to each end, where that does not say it.
fn reason(row: &OpenRow) -> String {
    let reason = row.reason.clone().unwrap_or_default();
    match &row.recipients {
        Some(counts) if !reason.contains(counts) => format!("{reason}; recipients: {counts}"),
        _ => reason,
    }
}

fn row_json(row: &OpenRow) -> Value {
    json!({
        "delivery": delivery_name(row.message_id, &row.sink, &row.target),
        "message_id": row.message_id,
        "sink": row.sink,
        "target": row.target,
        "state": row.state,
        "attempts": row.attempt,
        "rev": row.rev,
        "due_at": row.due_at.map(|at| at.to_string()),
        "type": row.message_type,
        "created_at": row.created_at.map(|at| at.to_string()),
        "reason": row.reason,
        "recipients": row.recipients,
        "key": row.key,
        "held_until": row.hold_until.map(|at| at.to_string()),
    })
}

fn parked_text(rows: &[ParkedRow]) -> String {
    let heading = ["HEAD", "STATE", "DUE", "BEHIND IT", "AGE", "KEY", "REASON"];
    let mut table = Table::new(&heading, &[3]);
    for ParkedRow { head, followers } in rows {
        table.row([
            delivery_name(head.message_id, &head.sink, &head.target),
            head.state.clone(),
            words::due(head.due_in),
            followers.to_string(),
            head.age.map_or("-".to_owned(), words::age),
            head.key.clone().unwrap_or_default(),
            reason(head),
        ]);
    }
    table.text()
}

fn parked_json(row: &ParkedRow) -> Value {
    let mut value = row_json(&row.head);
    value["followers"] = json!({ "count": row.followers.number, "more": row.followers.more });
    value
}
