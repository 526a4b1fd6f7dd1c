//! `outboxd retry`: dead deliveries are tried again, with all their attempts to come.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use clap::Args;
use serde_json::json;

use super::actor::actor;
use super::show::{no_such_delivery, unknown};
use super::words::{self, DeliveryName, delivery_name};
use super::{Answer, Failure, Verdict, connect, same_installation, say, say_aside, say_json};
use crate::config::Config;
use crate::store::Link;
use crate::store::inspect::act::{retry_message, retry_sink};
use crate::store::inspect::status::{Count, sinks};
use crate::store::inspect::{deliveries, known_sinks, message};

const EXAMPLES: &str = "\
  outboxd retry 42             every dead delivery of message 42
  outboxd retry 42/crm         the one through the sink crm
  outboxd retry --sink crm     every dead delivery of a sink; asks first
  outboxd retry --sink crm --yes";

/// Rows a statement; each page is a transaction.
const PAGE: i64 = 1_000;

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Retry {
    /// The message, or one of its deliveries
    #[arg(
        value_name = "MESSAGE[/SINK[/TARGET]]",
        required_unless_present = "sink",
        conflicts_with = "sink"
    )]
    name: Option<DeliveryName>,
    /// All dead deliveries of this sink
    #[arg(long)]
    sink: Option<String>,
    /// Do not ask
    #[arg(long, requires = "sink")]
    yes: bool,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

impl Retry {
    pub async fn run(&self, config: &Config) -> Answer {
        let link = connect(config);
        same_installation(&link, config).await?;
        match (&self.name, &self.sink) {
            (Some(name), _) => self.one(&link, name).await,
            (None, Some(sink)) => self.all(&link, sink).await,
            (None, None) => Err(Failure::Usage("name a message, or a sink with --sink".to_owned())),
        }
    }

    async fn one(&self, link: &Link, name: &DeliveryName) -> Answer {
        let (id, sink, target) = (name.message_id, name.sink.as_deref(), name.target.as_deref());
        let retried = retry_message(link, id, sink, target, &actor()).await?;
        if retried.is_empty() {
            return Err(not_dead(link, name).await?);
        }
        let names: Vec<String> =
            retried.iter().map(|(sink, target)| delivery_name(id, sink, target)).collect();
        if self.json {
            say_json(&json!({ "retried": retried.len(), "deliveries": names }));
        } else {
            let count = words::deliveries(retried.len() as u64);
            say(&format!("{count} to be tried again now: {}", names.join(", ")));
        }
        Ok(Verdict::Ok)
    }

    async fn all(&self, link: &Link, sink: &str) -> Answer {
        let dead = dead_of(link, sink).await?;
        if !dead.is_zero() && !self.yes && !confirmed(&dead, sink)? {
            say_aside("nothing was changed");
            return Ok(Verdict::Ok);
        }
        let (mut retried, mut after) = (0, (0, String::new()));
        let who = actor();
        while let Some(page) = retry_sink(link, sink, &after, PAGE, &who).await? {
            retried += page.retried;
            after = page.last;
        }
        if self.json {
            say_json(&json!({ "retried": retried, "sink": sink }));
        } else if retried == 0 {
            say(&format!("sink {sink} has no dead delivery: nothing to do"));
        } else {
            say(&format!("{} of sink {sink} to be tried again now", words::deliveries(retried)));
        }
        Ok(Verdict::Ok)
    }
}

/// How many dead deliveries a sink has; an unknown sink is a fault, as it may be a slip.
async fn dead_of(link: &Link, sink: &str) -> Result<Count, Failure> {
    let known = known_sinks(link).await?;
    if !known.iter().any(|name| name == sink) {
        let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
        return Err(Failure::Fault(format!("there is no sink {sink}; known: {known}")));
    }
    let found = sinks(link, &[sink.to_owned()]).await?;
    Ok(found.first().map_or(Count::default(), |sink| sink.dead))
}

fn confirmed(dead: &Count, sink: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Usage(format!(
            "this would try {dead} dead deliveries of sink {sink} again; say so with --yes"
        )));
    }
    let mut err = std::io::stderr().lock();
    let _ = write!(err, "try {dead} dead deliveries of sink {sink} again? [y/N] ");
    let _ = err.flush();
    let mut line = String::new();
    let _ = std::io::stdin().lock().read_line(&mut line);
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

/// Why nothing could be retried: what the deliveries are instead.
async fn not_dead(link: &Link, name: &DeliveryName) -> Result<Failure, Failure> {
    let id = name.message_id;
    let rows = deliveries(link, id).await?;
    if rows.is_empty() && message(link, id).await?.is_none() {
        return Ok(unknown(id));
    }
    let states: Vec<String> = rows
        .iter()
        .filter(|row| name.takes(&row.sink, &row.target))
        .map(|row| {
            let due = row.due_at.map(|_| format!(", due {}", words::due(row.due_in)));
            let named = delivery_name(id, &row.sink, &row.target);
            format!("{named} is {}{}", row.state, due.unwrap_or_default())
        })
        .collect();
    if states.is_empty() {
        return Ok(no_such_delivery(name));
    }
    Ok(Failure::Fault(format!("nothing dead to retry: {}", states.join("; "))))
}
