//! `outboxd preview`: what a message becomes with this config, sending nothing. The message is a stored one,
//! or given at the prompt: then there need not be a database, so that whoever writes templates has none.

mod eml;
mod given;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use self::given::Given;
use super::show::{no_such_delivery, unknown};
use super::words::{self, DeliveryName, delivery_name};
use super::{Answer, Failure, Verdict, connect, say, say_aside, say_json};
use crate::config::{Config, SinkConfig, Way};
use crate::message::{IdempotencyKey, Message};
use crate::name::Name;
use crate::relay::route::Routes;
use crate::sink::csv::Layout;
use crate::sink::{Prepared, Sink};
use crate::store::inspect::{deliveries, whole_message};

const EXAMPLES: &str = "\
Examples:
  outboxd preview 42                              each mail, request and line of message 42
  outboxd preview 42/mail --eml order.eml         its mail as a file, to open in a mail program
  outboxd preview 42 --eml out/                   each of its mails in a directory
  outboxd preview --type order.created --payload '{\"order_id\": 42}' --eml -
  outboxd preview --type order.created --payload-file order.json --sink mail/office

It is made of the message as it is stored, or as it is given here, which needs no database, and of this
config, whatever was sent before. Nothing is sent. It shows the payload, which may hold personal data.";

/// In place of what differs with every attempt.
const FRESH: &str = "(made at each attempt)";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Preview {
    /// The message, or one of its deliveries
    #[arg(value_name = "MESSAGE[/SINK[/TARGET]]", required_unless_present = "message_type")]
    name: Option<DeliveryName>,
    #[command(flatten)]
    given: Given,
    /// Write mails as they would be sent: to a file, into a directory, or - to stdout. Writes over
    /// nothing but an earlier preview
    #[arg(long, value_name = "FILE")]
    eml: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

/// What one delivery would be.
enum Made {
    Mail { key: IdempotencyKey, from: String, to: Vec<String>, data: Vec<u8> },
    Request { path: String, headers: Vec<(String, String)>, body: String },
    Line { header: String, line: String },
}

/// Deliveries by name, each with what it would be, or why it cannot be made.
type All = Vec<(String, Result<Made, String>)>;

impl Preview {
    /// Whether the database is asked for nothing.
    pub fn is_offline(&self) -> bool {
        self.name.is_none()
    }

    pub async fn run(&self, config: Config) -> Answer {
        if let Some(file) = &self.eml
            && self.json
            && file == Path::new("-")
        {
            let words = "--eml - and --json are two answers on one stdout; name a file";
            return Err(Failure::Usage(words.to_owned()));
        }
        let installation = config.database.installation.clone();
        let made = match &self.name {
            Some(name) => stored(name, config).await?,
            None => self.given.make(config)?,
        };
        let verdict = Verdict::wrong_if(made.iter().any(|(_, made)| made.is_err()));
        if let Some(path) = &self.eml {
            let files = eml::write(path, &installation, &made)?;
            if self.json {
                say_json(&files.iter().map(eml::Entry::json).collect());
            } else {
                // Not into the mail.
                let tell = if path == Path::new("-") { say_aside } else { say };
                files.iter().filter_map(eml::Entry::text).for_each(|text| tell(&text));
            }
        } else if self.json {
            say_json(&made.iter().map(|(name, made)| in_json(name, made)).collect());
        } else {
            let text = in_text(&made);
            // A terminal must not take a payload for a command; a file gets each byte.
            let shown = |text: &str| text.lines().map(|line| words::plain(line) + "\n").collect();
            say(&if std::io::stdout().is_terminal() { shown(&text) } else { text });
        }
        Ok(verdict)
    }
}

/// What the deliveries of a stored message would be.
async fn stored(name: &DeliveryName, config: Config) -> Result<All, Failure> {
    let link = connect(&config);
    let id = name.message_id;
    let rows = deliveries(&link, id).await?;
    let Some(message) = whole_message(&link, id).await? else {
        if rows.is_empty() {
            return Err(unknown(id));
        }
        let words = format!("message {id} is gone: retention or somebody removed its row");
        return Err(Failure::Fault(words));
    };
    let sinks = config.sinks;
    let (installation, routes) = (config.database.installation, Routes::new(config.routes));
    let mut ways: BTreeSet<(String, String)> =
        rows.into_iter().map(|row| (row.sink, row.target)).collect();
    ways.retain(|(sink, _)| !sink.is_empty());
    if ways.is_empty() {
        ways = by_config(&routes, &sinks, &message.message_type);
    }
    ways.retain(|(sink, target)| name.takes(sink, target));
    if ways.is_empty() {
        return Err(if name.sink.is_some() {
            no_such_delivery(name)
        } else {
            let kind = words::plain(&message.message_type);
            Failure::Fault(format!("message {id} goes nowhere: no route takes {kind}"))
        });
    }
    let one = |(sink, target): &(String, String)| {
        let named = delivery_name(id, sink, target);
        (named, make(&message, (sink, target), &sinks, &routes, &installation))
    };
    Ok(ways.iter().map(one).collect())
}

/// Where this config sends a type.
fn by_config(
    routes: &Routes,
    sinks: &BTreeMap<Name, SinkConfig>,
    message_type: &str,
) -> BTreeSet<(String, String)> {
    let targets: BTreeSet<String> = routes.rows().into_iter().map(|row| row.target).collect();
    let all =
        sinks.keys().flat_map(|sink| targets.iter().map(move |t| (sink.to_string(), t.clone())));
    all.filter(|(sink, target)| routes.of(sink, target, message_type).is_some()).collect()
}

/// Makes what would be sent, or says why it cannot be made.
fn make(
    message: &Message,
    (sink, target): (&str, &str),
    sinks: &BTreeMap<Name, SinkConfig>,
    routes: &Routes,
    installation: &Name,
) -> Result<Made, String> {
    let config = sinks
        .values()
        .find(|config| config.name.as_str() == sink)
        .ok_or_else(|| format!("this config has no sink {sink}"))?;
    let route = routes
        .of(sink, target, &message.message_type)
        .ok_or("this config has no such route; another config routed it")?;
    if let Way::Csv(way) = &config.way {
        let layout = Layout::of(way);
        let line = layout.line(message)?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        return Ok(Made::Line { header: text(layout.header()), line: text(line) });
    }
    let built = Sink::build(config).map_err(|error| error.to_string())?;
    let built = built.ok_or("this sink has no attempts")?;
    let key = IdempotencyKey::new(installation, message.id, &config.name, target);
    let made = built.prepare(message, &route.content, &key);
    Ok(match made.map_err(|none| none.to_string())? {
        Prepared::Mail(mail) => Made::Mail {
            from: mail.from().to_owned(),
            to: mail.to().map(str::to_owned).collect(),
            data: mail.whole(),
            key,
        },
        Prepared::Request(request) => {
            let mut headers: Vec<(String, String)> = request
                .headers()
                .iter()
                .map(|(name, value)| {
                    (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
                })
                .collect();
            headers.push(("webhook-timestamp".to_owned(), FRESH.to_owned()));
            let Way::Webhook(way) = &config.way else {
                return Err("a request is for a webhook only".to_owned());
            };
            if !way.secrets.is_empty() {
                headers.push(("webhook-signature".to_owned(), FRESH.to_owned()));
            }
            // Not its query: that is where tokens stand.
            let path = way.url.path().to_owned();
            let body = String::from_utf8_lossy(request.body()).into_owned();
            Made::Request { path, headers, body }
        }
    })
}

/// One alone as it is, so that it can be kept as a file; several with a heading each.
fn in_text(made: &[(String, Result<Made, String>)]) -> String {
    let mut out = String::new();
    for (name, result) in made {
        if made.len() > 1 {
            let blank = if out.is_empty() { "" } else { "\n" };
            let _ = writeln!(out, "{blank}== {name}");
        }
        match result {
            Err(reason) => {
                let _ = writeln!(out, "{name} cannot be made: {reason}");
            }
            Ok(Made::Mail { data, .. }) => out.push_str(&String::from_utf8_lossy(data)),
            Ok(Made::Line { header, line }) => {
                let _ = write!(out, "{header}{line}");
            }
            Ok(Made::Request { path, headers, body }) => {
                let _ = writeln!(out, "POST {path} HTTP/1.1");
                for (header, value) in headers {
                    let _ = writeln!(out, "{header}: {value}");
                }
                let _ = writeln!(out, "\n{body}");
            }
        }
    }
    out
}

fn in_json(name: &str, made: &Result<Made, String>) -> Value {
    match made {
        Err(reason) => json!({ "delivery": name, "error": reason }),
        Ok(Made::Mail { from, to, data, .. }) => {
            let data = String::from_utf8_lossy(data);
            json!({ "delivery": name, "kind": "mail", "from": from, "to": to, "data": data })
        }
        Ok(Made::Request { path, headers, body }) => json!({
            "delivery": name,
            "kind": "request",
            "method": "POST",
            "path": path,
            "headers": headers,
            "body": body,
        }),
        Ok(Made::Line { header, line }) => {
            json!({ "delivery": name, "kind": "line", "header": header, "line": line })
        }
    }
}
