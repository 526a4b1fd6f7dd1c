//! `outboxd check --mail-to`: one test mail through a sink's servers, outside the outbox, and what was
//! said meanwhile. Whoever runs it typed the address, so it is shown.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use lettre::Address;
use serde_json::{Value, json};

use crate::cli::words::plain;
use crate::cli::{Answer, Failure, Verdict, say, say_json};
use crate::config::{Config, Content, Mail, SinkConfig, Way};
use crate::delivery::{Outcome, Phase};
use crate::message::{IdempotencyKey, Message};
use crate::sink::smtp::{Smtp, Transcript, Which};
use crate::sink::{Prepared, Sink};
use crate::template::Template;

/// Nobody looks at a prompt for longer. A server that looks for unwanted mail takes its time.
const LIMIT: Duration = Duration::from_secs(120);

const TO: &str = "{{ payload.to }}";
const SUBJECT: &str = "outboxd: a test mail";
const TEXT: &str = "\
This is a test mail. Somebody sent it by hand, with: outboxd check --mail-to

sink: {{ payload.sink }}
server: {{ payload.server }}
installation: {{ payload.installation }}
";

/// What became of one test mail.
struct Sent {
    server: String,
    dialogue: Vec<String>,
    outcome: Outcome,
}

/// Reads the address to send to.
pub(super) fn address(text: &str) -> Result<Address, String> {
    text.parse().map_err(|_| "write one address, like me@example.com".to_owned())
}

pub(super) async fn run(
    config: &Config,
    to: &Address,
    sink: Option<&str>,
    fallback: bool,
    json: bool,
) -> Answer {
    let sink = chosen(config, sink)?;
    let Some(built) = Sink::build(sink).map_err(|error| Failure::Fault(error.to_string()))? else {
        return Err(not_for_mail(sink));
    };
    let Sink::Smtp(smtp) = &built else { return Err(not_for_mail(sink)) };
    if fallback && smtp.place(Which::Second).is_none() {
        let name = &sink.name;
        let words = format!(
            "sink {name} has no second server; write a table [sinks.{name}.fallback] for it"
        );
        return Err(Failure::Usage(words));
    }
    let mut all = vec![send(config, sink, &built, smtp, Which::First, to).await?];
    if fallback {
        all.push(send(config, sink, &built, smtp, Which::Second, to).await?);
    }
    if json {
        let name = sink.name.to_string();
        say_json(&all.iter().map(|sent| sent.json(&name, to)).collect());
    } else {
        let name = sink.name.to_string();
        say(&all.iter().map(|sent| sent.text(&name)).collect::<Vec<_>>().join("\n"));
    }
    let arrived = |sent: &Sent| matches!(sent.outcome, Outcome::Delivered { .. });
    Ok(Verdict::wrong_if(!all.iter().all(arrived)))
}

/// The sink to send through: the one that is named, or the only one for mail.
fn chosen<'a>(config: &'a Config, name: Option<&str>) -> Result<&'a SinkConfig, Failure> {
    let is_for_mail = |sink: &&SinkConfig| matches!(sink.way, Way::Smtp(_));
    let for_mail: Vec<&SinkConfig> = config.sinks.values().filter(is_for_mail).collect();
    let names: Vec<&str> = for_mail.iter().map(|sink| sink.name.as_str()).collect();
    if let Some(name) = name {
        return match config.sinks.values().find(|sink| sink.name.as_str() == name) {
            Some(sink) if is_for_mail(&sink) => Ok(sink),
            Some(sink) => Err(not_for_mail(sink)),
            None if names.is_empty() => Err(Failure::Usage(format!("there is no sink {name}"))),
            None => {
                let names = names.join(", ");
                Err(Failure::Usage(format!("there is no sink {name}; those for mail: {names}")))
            }
        };
    }
    match *for_mail {
        [only] => Ok(only),
        [] => Err(Failure::Usage("the config has no sink for mail (kind = \"smtp\")".to_owned())),
        [..] => {
            let words = format!("which one? There are {}; add --sink NAME", names.join(", "));
            Err(Failure::Usage(words))
        }
    }
}

fn not_for_mail(sink: &SinkConfig) -> Failure {
    Failure::Usage(format!("sink {} sends no mail; name one of kind = \"smtp\"", sink.name))
}

async fn send(
    config: &Config,
    sink: &SinkConfig,
    built: &Sink,
    smtp: &Smtp,
    which: Which,
    to: &Address,
) -> Result<Sent, Failure> {
    let server = smtp.place(which).map_or_else(String::new, |place| place.to_string());
    let mail = letter(config, sink, built, &server, to).map_err(Failure::Fault)?;
    let (transcript, phase) = (Transcript::whole(), Phase::default());
    let dialogue = async {
        match smtp.enter_at(which, &transcript).await {
            Ok(entered) => {
                let permanent = sink.policy.permanent.as_ref();
                smtp.deliver_over(entered, &mail, permanent, &phase).await
            }
            Err(outcome) => outcome,
        }
    };
    let limit = LIMIT.min(sink.timeout);
    let outcome = tokio::time::timeout(limit, dialogue).await;
    let outcome = outcome
        .unwrap_or_else(|_| phase.cut_short(&format!("no answer within {} s", limit.as_secs())));
    let dialogue = transcript.text().lines().map(plain).collect();
    Ok(Sent { server, dialogue, outcome })
}

/// The test mail, made as every other one is, by templates that see who it is for.
fn letter(
    config: &Config,
    sink: &SinkConfig,
    built: &Sink,
    server: &str,
    to: &Address,
) -> Result<crate::sink::mail::PreparedMail, String> {
    let parse = |source: &str| Template::parse(source);
    let content = Mail::new(vec![parse(TO)?], parse(SUBJECT)?, parse(TEXT)?);
    let installation = &config.database.installation;
    let payload = json!({
        "to": to.to_string(), "sink": sink.name.as_str(), "server": server,
        "installation": installation.as_str(),
    });
    let now = Timestamp::now();
    let message = Message {
        // No message of the outbox has such a number; each test mail has another one.
        id: now.as_microsecond(),
        message_type: "outboxd.check".to_owned(),
        payload: payload.to_string(),
        key: None,
        headers: BTreeMap::new(),
        created_at: now,
    };
    let key = IdempotencyKey::new(installation, message.id, &sink.name, "check");
    let made = built.prepare(&message, &Content::Mail(Box::new(content)), &key);
    match made.map_err(|error| error.to_string())? {
        Prepared::Mail(mail) => Ok(mail),
        Prepared::Request(_) => Err("a mail was wanted".to_owned()),
    }
}

impl Sent {
    /// What became of it: a word for programs, words for people.
    fn end(&self) -> (&'static str, String) {
        match &self.outcome {
            Outcome::Delivered { receipt } => (
                "delivered",
                format!(
                    "the server took it: {receipt}\nwhether it reaches the mailbox, only a look there tells"
                ),
            ),
            Outcome::Transient { reason, .. } => {
                ("not now", format!("not sent, another time it may be: {reason}"))
            }
            Outcome::Permanent { reason } => ("refused", format!("refused: {reason}")),
            Outcome::InDoubt { reason } => {
                ("in doubt", format!("it may have been taken or not: {reason}"))
            }
        }
    }

    fn text(&self, sink: &str) -> String {
        let mut text = format!("sink {sink}, {}\n", self.server);
        for line in &self.dialogue {
            let _ = writeln!(text, "  {line}");
        }
        let (_, words) = self.end();
        text + &words + "\n"
    }

    fn json(&self, sink: &str, to: &Address) -> Value {
        let (outcome, _) = self.end();
        let (Outcome::Delivered { receipt: words }
        | Outcome::Transient { reason: words, .. }
        | Outcome::Permanent { reason: words }
        | Outcome::InDoubt { reason: words }) = &self.outcome;
        json!({
            "sink": sink, "server": self.server, "to": to.to_string(), "outcome": outcome,
            "words": words, "dialogue": self.dialogue,
        })
    }
}
