//! `outboxd list`: open deliveries, what needs an operator first.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::table::Table;
use super::words::{self, delivery_name};
use super::{Answer, Verdict, connect, say, say_aside, say_json};
use crate::config::Config;
use crate::pattern::TypePattern;
use crate::store::inspect::{OpenRow, known_sinks, list_pending, list_stuck};
use crate::store::{Link, StoreError};

const EXAMPLES: &str = "\
  outboxd list                                 what needs you, then the oldest due
  outboxd list --state dead                    what was given up, the newest first
  outboxd list --state dead --sink crm --limit 500
  outboxd list --state unrouted                what no route takes
  outboxd list --type 'order.*' --json";

/// A type stands in the message, so by type there is no index: so many rows are looked at.
const LOOKED_AT_MAX: usize = 10_000;

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct List {
    /// Only deliveries in this state
    #[arg(long)]
    state: Option<State>,
    /// Only deliveries through this sink
    #[arg(long)]
    sink: Option<String>,
    /// Only messages of this type; order.* takes order.created and order.item.added
    #[arg(long = "type", value_name = "PATTERN", value_parser = TypePattern::parse)]
    pattern: Option<TypePattern>,
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum State {
    /// Waits for time, or for its turn
    Pending,
    /// An attempt's intent is committed
    Sending,
    /// In doubt, waits for an operator
    Held,
    /// Given up, waits for an operator
    Dead,
    /// Waits for a route
    Unrouted,
}

impl List {
    pub async fn run(&self, config: &Config) -> Answer {
        let (rows, whole) = self.rows(&connect(config)).await?;
        if self.json {
            say_json(&Value::Array(rows.iter().map(row_json).collect()));
        } else if rows.is_empty() {
            say("nothing open that fits");
        } else {
            say(&text(&rows));
        }
        if !whole {
            say_aside(&format!(
                "looked at the first {LOOKED_AT_MAX} only; narrow it with --state or --sink"
            ));
        }
        Ok(Verdict::Ok)
    }

    /// The rows, and whether all that could fit were looked at.
    async fn rows(&self, link: &Link) -> Result<(Vec<OpenRow>, bool), StoreError> {
        let limit = self.limit as usize;
        let read = if self.pattern.is_some() { LOOKED_AT_MAX } else { limit };
        let count = i64::try_from(read).unwrap_or(i64::MAX);
        let stuck: &[&str] = match self.state {
            None => &["dead", "held", "unrouted"],
            Some(State::Pending) => &[],
            Some(State::Sending) => &["sending"],
            Some(State::Held) => &["held"],
            Some(State::Dead) => &["dead"],
            Some(State::Unrouted) => &["unrouted"],
        };
        let sinks = match &self.sink {
            Some(sink) => vec![sink.clone()],
            // What no route takes has no sink.
            None => known_sinks(link).await?.into_iter().chain([String::new()]).collect(),
        };
        let (mut rows, mut whole) = (Vec::new(), true);
        let mut take = |found: Vec<OpenRow>| {
            let all = found.len() < read;
            rows.extend(found.into_iter().filter(|row| self.takes(row)));
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
        whole |= self.pattern.is_none();
        rows.truncate(limit);
        Ok((rows, whole))
    }

    fn takes(&self, row: &OpenRow) -> bool {
        self.pattern.as_ref().is_none_or(|pattern| {
            row.message_type.as_deref().is_some_and(|message_type| pattern.matches(message_type))
        })
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
            row.reason.clone().unwrap_or_default(),
        ]);
    }
    table.text()
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
    })
}
