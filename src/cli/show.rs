//! `outboxd show`: one message, all its deliveries, and what operators did to them.

use std::fmt::Write as _;

use clap::Args;
use serde_json::{Value, json};

use super::table::Table;
use super::words::{self, DeliveryName, Named, delivery_name, plain};
use super::{Answer, Failure, Verdict, connect, mail, say, say_json};
use crate::config::Config;
use crate::recipients::{Recipient, Recipients};
use crate::store::Link;
use crate::store::inspect::{
    ActionRow, DeliveryRow, MessageRow, actions, deliveries, message as find_message,
};
use crate::store::work::payload as find_payload;

const EXAMPLES: &str = "\
Examples:
  outboxd show 42              the message and all its deliveries
  outboxd show 42/mail         only those through the sink mail
  outboxd show 42 --payload    with what the application said
  outboxd show orders/2026-11-20      the file of that period, and each step of its mail";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Show {
    /// The message, or one of its deliveries; or an exported period, EXPORT/PERIOD
    #[arg(value_name = "MESSAGE[/SINK[/TARGET]]")]
    name: Named,
    /// Show the payload, which may hold personal data
    #[arg(long)]
    payload: bool,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

/// What is known of one message.
struct Found {
    id: i64,
    /// None where retention took it, or a delivery was left without it.
    message: Option<MessageRow>,
    payload: Option<String>,
    deliveries: Vec<DeliveryRow>,
    actions: Vec<ActionRow>,
}

impl Show {
    pub async fn run(&self, config: &Config) -> Answer {
        let link = connect(config);
        match &self.name {
            Named::Delivery(name) => self.delivery(&link, name).await,
            Named::File(name) => mail::show(&link, name, self.json).await,
        }
    }

    async fn delivery(&self, link: &Link, name: &DeliveryName) -> Answer {
        let id = name.message_id;
        let message = find_message(link, id).await?;
        let mut rows = deliveries(link, id).await?;
        if message.is_none() && rows.is_empty() {
            return Err(unknown(id));
        }
        let whole = name.sink.is_none();
        rows.retain(|row| name.takes(&row.sink, &row.target));
        if rows.is_empty() && !whole {
            return Err(no_such_delivery(name));
        }
        let mut done = actions(link, id).await?;
        done.retain(|action| {
            let (sink, target) = (action.sink.as_deref(), action.target.as_deref());
            name.takes(sink.unwrap_or_default(), target.unwrap_or_default())
        });
        let payload = if self.payload { find_payload(link, id).await? } else { None };
        let found = Found { id, message, payload, deliveries: rows, actions: done };
        if self.json {
            say_json(&found.json());
        } else {
            say(&found.text());
        }
        Ok(Verdict::Ok)
    }
}

pub(super) fn unknown(id: i64) -> Failure {
    Failure::Fault(format!(
        "there is no message {id}; it was never committed here, or retention has removed it"
    ))
}

pub(super) fn no_such_delivery(name: &DeliveryName) -> Failure {
    let id = name.message_id;
    Failure::Fault(format!("there is no delivery {name}; see what there is: outboxd show {id}"))
}

impl Found {
    fn text(&self) -> String {
        let mut out = format!("message {}\n", self.id);
        let mut line = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                let _ = writeln!(out, "  {name:<8} {}", plain(&value));
            }
        };
        match &self.message {
            None => line("gone", Some("its row was removed; this is what is left".to_owned())),
            Some(message) => {
                line("type", Some(message.message_type.clone()));
                line("key", message.key.clone());
                line("created", Some(message.created_at.to_string()));
                line("due", message.due_at.map(|at| at.to_string()));
                line("expires", message.expires_at.map(|at| at.to_string()));
            }
        }
        line("payload", self.payload.clone());
        out.push('\n');
        if self.deliveries.is_empty() {
            out.push_str(
                "unseen: neither an open delivery nor a record of one; once the relay's sweep has \
                 found it, run: outboxd route unseen\n",
            );
        } else {
            out.push_str(&delivery_table(self.id, &self.deliveries));
        }
        for row in self.deliveries.iter().filter(|row| !row.recipients.is_empty()) {
            let name = delivery_name(self.id, &row.sink, &row.target);
            let _ = writeln!(out, "\nrecipients of {name}: {}", row.recipients.counts());
            out.push_str(&recipient_table(&row.recipients));
        }
        if !self.actions.is_empty() {
            out.push('\n');
            let mut table = Table::new(&["WHEN", "WHO", "DID", "TO", "NOTE"], &[]);
            for action in &self.actions {
                table.row([
                    action.acted_at.to_string(),
                    action.actor.clone(),
                    action.verb.clone(),
                    action_name(self.id, action),
                    action.note.clone().unwrap_or_default(),
                ]);
            }
            out.push_str(&table.text());
        }
        out
    }

    fn json(&self) -> Value {
        let message = self.message.as_ref();
        let mut value = json!({
            "message_id": self.id,
            "type": message.map(|m| &m.message_type),
            "key": message.and_then(|m| m.key.as_ref()),
            "created_at": message.map(|m| m.created_at.to_string()),
            "due_at": message.and_then(|m| m.due_at).map(|at| at.to_string()),
            "expires_at": message.and_then(|m| m.expires_at).map(|at| at.to_string()),
            "deliveries":
                self.deliveries.iter().map(|row| delivery_json(self.id, row)).collect::<Vec<_>>(),
            "actions": self.actions.iter().map(|action| json!({
                "acted_at": action.acted_at.to_string(),
                "actor": action.actor,
                "verb": action.verb,
                "delivery": action_name(self.id, action),
                "note": action.note,
            })).collect::<Vec<_>>(),
        });
        if let Some(payload) = &self.payload {
            // Numbers keep their digits; what PostgreSQL gave is JSON.
            value["payload"] = serde_json::from_str(payload).unwrap_or(Value::Null);
        }
        value
    }
}

fn action_name(id: i64, action: &ActionRow) -> String {
    let (sink, target) = (action.sink.as_deref(), action.target.as_deref());
    delivery_name(id, sink.unwrap_or_default(), target.unwrap_or_default())
}

/// The deliveries of one message, a line each.
pub(super) fn delivery_table(id: i64, rows: &[DeliveryRow]) -> String {
    let heading = ["DELIVERY", "STATE", "ATTEMPTS", "REV", "WHEN", "REASON OR RECEIPT"];
    let mut table = Table::new(&heading, &[2, 3]);
    for row in rows {
        let when = match (row.closed_at, row.due_at) {
            (Some(closed), _) => words::moment(closed),
            (None, Some(_)) => format!("due {}", words::due(row.due_in)),
            (None, None) => "-".to_owned(),
        };
        table.row([
            delivery_name(id, &row.sink, &row.target),
            row.state.clone(),
            row.attempts.to_string(),
            row.rev.map_or("-".to_owned(), |rev| rev.to_string()),
            when,
            reason_or_receipt(row),
        ]);
    }
    table.text()
}

/// What is known of the recipients of one delivery, a line each.
pub(super) fn recipient_table(recipients: &Recipients) -> String {
    let mut table = Table::new(&["RECIPIENT", "STATE", "REPLY"], &[]);
    for (address, recipient) in recipients.iter() {
        let (state, reply) = (recipient.state.word().to_owned(), recipient.reply.clone());
        table.row([address.to_owned(), state, reply]);
    }
    table.text()
}

/// The same; empty where nothing is known.
pub(super) fn recipients_json(recipients: &Recipients) -> Value {
    let one = |(address, recipient): (&str, &Recipient)| {
        let (state, reply) = (recipient.state.word(), &recipient.reply);
        json!({ "address": address, "state": state, "reply": reply })
    };
    recipients.iter().map(one).collect()
}

/// The words, and what else an operator has to know of an open one.
fn reason_or_receipt(row: &DeliveryRow) -> String {
    let hold = row.hold_until.filter(|_| row.hold_for.is_some_and(|left| left > 0.0));
    let parts = [
        row.words.clone(),
        hold.map(|until| format!("not to be sent again before {}", words::moment(until))),
        (row.crashes > 0)
            .then(|| format!("relays that ended in the middle of it: {}", row.crashes)),
        (row.state == "sending").then(|| "begun, its end is not recorded yet".to_owned()),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

pub(super) fn delivery_json(id: i64, row: &DeliveryRow) -> Value {
    let closed = row.closed_at.is_some();
    json!({
        "delivery": delivery_name(id, &row.sink, &row.target),
        "sink": row.sink,
        "target": row.target,
        "open": !closed,
        "state": if closed { None } else { Some(&row.state) },
        "outcome": if closed { Some(&row.state) } else { None },
        "attempts": row.attempts,
        "round": row.round,
        "rev": row.rev,
        "due_at": row.due_at.map(|at| at.to_string()),
        "closed_at": row.closed_at.map(|at| at.to_string()),
        "held_until": row.hold_until.map(|at| at.to_string()),
        "crashes": row.crashes,
        "reason": if closed { None } else { row.words.as_ref() },
        "receipt": if closed { row.words.as_ref() } else { None },
        "recipients": recipients_json(&row.recipients),
    })
}
