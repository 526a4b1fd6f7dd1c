//! A message that is given at the prompt.

use std::io::Read as _;
use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;

use super::{All, by_config, make};
use crate::cli::{Failure, send, words};
use crate::config::Config;
use crate::message::Message;
use crate::name::Name;
use crate::relay::route::Routes;

/// No stored message has it.
const ID: i64 = 0;
/// Largest payload that is read from a file, in bytes.
const FILE_MAX: u64 = 64 * 1024 * 1024;

#[derive(Args)]
pub(super) struct Given {
    /// In place of a stored message: one of this type
    #[arg(
        long = "type",
        value_name = "TYPE",
        value_parser = send::message_type,
        conflicts_with = "name",
        requires = "payloads"
    )]
    message_type: Option<String>,
    /// Its payload; - reads it from stdin
    #[arg(
        long,
        value_name = "JSON",
        allow_hyphen_values = true,
        requires = "message_type",
        group = "payloads"
    )]
    payload: Option<String>,
    /// Its payload, in a file
    #[arg(long, value_name = "FILE", requires = "message_type", group = "payloads")]
    payload_file: Option<PathBuf>,
    /// Its key
    #[arg(long, requires = "message_type")]
    key: Option<String>,
    /// A header of it; may be given again
    #[arg(
        long = "header",
        value_name = "NAME=VALUE",
        value_parser = words::header,
        requires = "message_type"
    )]
    headers: Vec<(String, String)>,
    /// Only what goes there
    #[arg(
        long,
        value_name = "SINK[/TARGET]",
        value_parser = way,
        requires = "message_type"
    )]
    sink: Option<(String, Option<String>)>,
}

impl Given {
    /// What the deliveries of this message would be.
    pub fn make(&self, config: Config) -> Result<All, Failure> {
        let message = self.message()?;
        let sinks = config.sinks;
        let (installation, routes) = (config.database.installation, Routes::new(config.routes));
        let mut ways = by_config(&routes, &sinks, &message.message_type);
        let kind = words::plain(&message.message_type);
        if ways.is_empty() {
            return Err(Failure::Fault(format!("no route takes {kind} anywhere")));
        }
        let named = |(sink, target): &(String, String)| match &**target {
            "" => sink.clone(),
            target => format!("{sink}/{target}"),
        };
        let all: Vec<String> = ways.iter().map(named).collect();
        if let Some((only, target)) = &self.sink {
            ways.retain(|(s, t)| s == only && target.as_ref().is_none_or(|target| t == target));
        }
        if ways.is_empty() {
            let all = all.join(", ");
            return Err(Failure::Fault(format!("no route takes {kind} there; it goes to: {all}")));
        }
        let one = |way: &(String, String)| {
            (named(way), make(&message, (&way.0, &way.1), &sinks, &routes, &installation))
        };
        Ok(ways.iter().map(one).collect())
    }

    fn message(&self) -> Result<Message, Failure> {
        let payload = match (&self.payload, &self.payload_file) {
            (Some(payload), _) => send::payload(payload)?,
            (None, Some(file)) => {
                let mut text = String::new();
                let opened = std::fs::File::open(file);
                opened.and_then(|opened| opened.take(FILE_MAX).read_to_string(&mut text)).map_err(
                    |error| Failure::Usage(format!("cannot read {}: {error}", file.display())),
                )?;
                send::is_json(&text)?;
                text
            }
            (None, None) => return Err(Failure::Usage("the message has no payload".to_owned())),
        };
        Ok(Message {
            id: ID,
            message_type: self.message_type.clone().unwrap_or_default(),
            payload,
            key: self.key.clone(),
            headers: self.headers.iter().cloned().collect(),
            created_at: Timestamp::now(),
        })
    }
}

/// `SINK` or `SINK/TARGET`.
fn way(text: &str) -> Result<(String, Option<String>), String> {
    let (sink, target) = match text.split_once('/') {
        Some((sink, target)) => (sink, Some(Name::parse(target)?.to_string())),
        None => (text, None),
    };
    Ok((Name::parse(sink)?.to_string(), target))
}
