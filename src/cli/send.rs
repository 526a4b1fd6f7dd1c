//! `outboxd send`: a message from the prompt, as an application sends it.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::show::{delivery_json, delivery_table};
use super::{Answer, Failure, Verdict, connect, say, say_aside, say_json, words};
use crate::config::Config;
use crate::store::inspect::act::{NewMessage, send};
use crate::store::inspect::{DeliveryRow, deliveries};
use crate::store::{Link, StoreError};

const EXAMPLES: &str = "\
Examples:
  outboxd send order.created '{\"order_id\": 42}'
  outboxd send order.created '{\"order_id\": 42}' --wait       until it is delivered, at most 30 s
  outboxd send reminder.due - --in 2h < reminder.json        not before two hours from now
  outboxd send order.paid '{}' --key order-42 --dedupe-key payment-7 --header traceparent=00-…";

/// How often `--wait` looks: soon at first, then less and less.
const LOOK_FIRST: Duration = Duration::from_millis(50);
const LOOK_LAST: Duration = Duration::from_secs(1);

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Send {
    /// The type, e.g. order.created
    #[arg(value_name = "TYPE", value_parser = message_type)]
    message_type: String,
    /// The payload; - reads it from stdin
    #[arg(value_name = "JSON", allow_hyphen_values = true)]
    payload: String,
    /// Messages of one key are delivered in order
    #[arg(long)]
    key: Option<String>,
    /// Not before this instant
    #[arg(long, value_name = "T", value_parser = words::instant, conflicts_with = "due_in")]
    due_at: Option<Timestamp>,
    /// Not before so long from now, e.g. 5m
    #[arg(long = "in", value_name = "SPAN", value_parser = words::span)]
    due_in: Option<Duration>,
    /// Not after this instant
    #[arg(long, value_name = "T", value_parser = words::instant)]
    expires_at: Option<Timestamp>,
    /// A second message of this type and dedupe key is a duplicate
    #[arg(long, value_name = "K")]
    dedupe_key: Option<String>,
    /// A header; may be given again
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = words::header)]
    headers: Vec<(String, String)>,
    /// Wait until no delivery is open, and show what became of each; exit code 1 if not delivered
    #[arg(
        long,
        value_name = "LIMIT",
        value_parser = words::span,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "30s"
    )]
    wait: Option<Duration>,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

impl Send {
    pub async fn run(&self, config: &Config) -> Answer {
        let message = self.message()?;
        let link = connect(config);
        let id = send(&link, &message).await.map_err(|error| refused(&error))?;
        let Some(limit) = self.wait else {
            if self.json {
                say_json(&json!({ "message_id": id }));
            } else {
                say(&id.to_string());
            }
            return Ok(Verdict::Ok);
        };
        if !self.json {
            say(&id.to_string());
        }
        let rows = wait(&link, id, limit).await?;
        if self.json {
            let rows: Vec<Value> = rows.iter().map(|row| delivery_json(id, row)).collect();
            say_json(&json!({ "message_id": id, "deliveries": rows }));
        } else {
            say(&delivery_table(id, &rows));
            if rows.iter().any(is_under_way) {
                say_aside(&format!(
                    "not closed within {}; look again with: outboxd show {id}",
                    crate::config::duration_in_words(limit)
                ));
            }
        }
        Ok(Verdict::wrong_if(rows.is_empty() || !rows.iter().all(is_good)))
    }

    fn message(&self) -> Result<NewMessage, Failure> {
        let payload = payload(&self.payload)?;
        let headers: BTreeMap<&str, &str> =
            self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Ok(NewMessage {
            message_type: self.message_type.clone(),
            payload,
            key: self.key.clone(),
            due_at: self.due_at,
            due_in_ms: self.due_in.map(|span| i64::try_from(span.as_millis()).unwrap_or(i64::MAX)),
            expires_at: self.expires_at,
            dedupe_key: self.dedupe_key.clone(),
            headers: (!headers.is_empty()).then(|| json!(headers).to_string()),
        })
    }
}

/// What the contract refuses is wrong usage: SQLSTATE classes 22 and 23.
fn refused(error: &StoreError) -> Failure {
    let wrong = error.code().is_some_and(|code| {
        let code = code.code();
        code.starts_with("22") || code.starts_with("23")
    });
    if wrong { Failure::Usage(error.to_string()) } else { Failure::Fault(error.to_string()) }
}

/// What was given as a payload, `-` read from stdin; it is JSON.
pub(super) fn payload(given: &str) -> Result<String, Failure> {
    let payload = if given == "-" { read_stdin()? } else { given.to_owned() };
    is_json(&payload)?;
    Ok(payload)
}

/// Refuses what is no JSON.
pub(super) fn is_json(payload: &str) -> Result<(), Failure> {
    // The position, and nothing of what stands there.
    serde_json::from_str::<Value>(payload).map(drop).map_err(|error| {
        Failure::Usage(format!(
            "the payload is not JSON: {error}; write e.g. '{{\"order_id\": 42}}'"
        ))
    })
}

pub(super) fn message_type(text: &str) -> Result<String, String> {
    let segments = text.split('.').all(|segment| !segment.is_empty());
    let letters = !text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '*');
    if segments && letters && text.chars().count() <= 200 {
        return Ok(text.to_owned());
    }
    Err("a type is words between dots, like order.created, without blanks and *".to_owned())
}

fn read_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| Failure::Usage(format!("cannot read the payload from stdin: {error}")))?;
    Ok(text)
}

/// Looks until nothing is under way, or the limit is reached.
async fn wait(link: &Link, id: i64, limit: Duration) -> Result<Vec<DeliveryRow>, StoreError> {
    let end = tokio::time::Instant::now() + limit;
    let mut pause = LOOK_FIRST;
    loop {
        let rows = deliveries(link, id).await?;
        let left = end.saturating_duration_since(tokio::time::Instant::now());
        if left.is_zero() || !rows.iter().any(is_under_way) {
            return Ok(rows);
        }
        tokio::time::sleep(pause.min(left)).await;
        pause = (pause * 2).min(LOOK_LAST);
    }
}

fn is_under_way(row: &DeliveryRow) -> bool {
    row.closed_at.is_none() && matches!(row.state.as_str(), "pending" | "sending")
}

fn is_good(row: &DeliveryRow) -> bool {
    row.closed_at.is_some()
        && matches!(row.state.as_str(), "delivered" | "exported" | "skipped" | "duplicate")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_words_between_dots() {
        for good in ["order", "order.created", "a.b-c_d"] {
            assert!(message_type(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "order.", "order..x", "order *", "order.*", "a b", &"a".repeat(201)] {
            assert!(message_type(bad).is_err(), "{bad}");
        }
    }
}
