//! `outboxd check`: reads the config and touches each outside thing once, sending nothing.

mod calendar;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures_util::future::join_all;
use jiff::Timestamp;
use rustix::fs::Access;
use serde_json::json;

use super::route::kind;
use super::table::Table;
use super::{Answer, Verdict, connect, other_installation, say, say_json};
use crate::config::{Config, SinkConfig, Way};
use crate::relay::route::Routes;
use crate::sink::Sink;
use crate::store::inspect::{Server, server, wanting_rights};
use crate::store::listen::{DEAF, hears};
use crate::store::migrate::SchemaState;
use crate::store::routes::{Standing, standing};
use crate::store::{Link, StoreError, Target, migrate, own};

const EXAMPLES: &str = "\
Examples:
  outboxd check                a line for each thing: ok, warn, or FAIL and what to do
  outboxd check --json
  outboxd --config staging.toml check";

/// The oldest PostgreSQL with all we use.
const SERVER_MIN: i32 = 150_000;
/// No probe may take longer, whatever its own limits say.
const PROBE_LIMIT: Duration = Duration::from_secs(15);

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Check {
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

/// What was found of one thing.
struct Line {
    thing: String,
    found: Found,
}

enum Found {
    /// It works.
    Good(String),
    /// It works, but perhaps not as it is meant.
    Doubt(String),
    /// What is wrong, and what to do.
    Wrong(String),
}

impl Check {
    pub async fn run(&self, mut config: Config) -> Answer {
        let mut lines = vec![Line::new("config", Ok(of_config(&config)))];
        let plans = calendar::plans(&config, Timestamp::now());
        let hash = Routes::new(std::mem::take(&mut config.routes)).hash();
        let (config, link) = (&config, connect(&config));
        let server = server(&link).await;
        let reachable = server.is_ok();
        lines.extend(database(config, &link, server, &hash).await);
        lines.extend(join_all(config.sinks.values().map(probe)).await);
        lines.extend(plans);
        if reachable {
            lines.extend(calendar::queries(config, &link).await);
        }
        if self.json {
            let lines: Vec<_> = lines
                .iter()
                .map(|line| {
                    let (word, words) = line.found.words();
                    json!({
                        "thing": line.thing,
                        "ok": word != "FAIL",
                        "warning": word == "warn",
                        "words": words,
                    })
                })
                .collect();
            say_json(&json!(lines));
        } else {
            say(&text(&lines));
        }
        Ok(Verdict::wrong_if(lines.iter().any(|line| line.found.words().0 == "FAIL")))
    }
}

impl Line {
    fn new(thing: impl Into<String>, found: Result<String, String>) -> Line {
        let found = match found {
            Ok(words) => Found::Good(words),
            Err(words) => Found::Wrong(words),
        };
        Line { thing: thing.into(), found }
    }
}

impl Found {
    fn words(&self) -> (&'static str, &str) {
        match self {
            Found::Good(words) => ("ok", words),
            Found::Doubt(words) => ("warn", words),
            Found::Wrong(words) => ("FAIL", words),
        }
    }
}

fn text(lines: &[Line]) -> String {
    let mut table = Table::new(&["", "", ""], &[]);
    for line in lines {
        let (word, words) = line.found.words();
        table.row([word.to_owned(), line.thing.clone(), words.to_owned()]);
    }
    table.text().trim_start().to_owned()
}

fn of_config(config: &Config) -> String {
    let exports = config.sinks.values().filter(|sink| kind(sink) == "export").count();
    let (sinks, routes) = (config.sinks.len() - exports, config.routes.len());
    let file = config.file.display();
    let mut words = format!("{file}: sinks: {sinks}, routes: {routes}");
    for (what, count) in [("exports", exports), ("schedules", config.schedules.len())] {
        if count > 0 {
            let _ = write!(words, ", {what}: {count}");
        }
    }
    words
}

/// All that can be asked of the database; the first thing that is missing hides the rest.
async fn database(
    config: &Config,
    link: &Link,
    server: Result<Server, StoreError>,
    hash: &str,
) -> Vec<Line> {
    let server = match server {
        Ok(server) => server,
        Err(error) => return vec![Line::new("database", Err(error.to_string()))],
    };
    let named = format!("{} as {}, PostgreSQL {}", server.database, server.role, server.version);
    let found = if server.number < SERVER_MIN {
        Err(format!("{named}: too old; use PostgreSQL 15 or newer"))
    } else if server.standby {
        Err(format!("{named}: a standby takes no writes; name the primary in [database] url"))
    } else {
        Ok(named)
    };
    let mut lines = vec![Line::new("database", found)];
    let schema = &config.database.schema;
    let state = migrate::state(link.target()).await;
    let missing = matches!(state, Ok(SchemaState::Missing));
    let sound = state.as_ref().is_ok_and(|state| state.sound(schema).is_some());
    let found = match state {
        Ok(state) => state.remedy(schema).map_or_else(
            || Ok(state.sound(schema).unwrap_or_default().replace("schema ", "")),
            Err,
        ),
        Err(error) => Err(error.to_string()),
    };
    lines.push(Line::new("schema", found));
    if sound {
        lines.push(Line::new("installation", installation(link, config).await));
    }
    // A role that may not even look is told which rights it lacks; where there is nothing to have
    // rights on, that is all there is to tell.
    if !missing {
        lines.push(Line::new("rights", rights(link, &server).await));
    }
    if sound {
        lines.push(Line::new("routes", in_force(link, hash).await));
        lines.push(Line { thing: "listen".to_owned(), found: listens(link.target()).await });
    }
    lines
}

/// Whether a relay would be woken: where not, it polls, which is no fault.
async fn listens(target: &Arc<Target>) -> Found {
    if !target.listens() {
        return Found::Good("a relay polls, as [database] listen says".to_owned());
    }
    match hears(target).await {
        Ok(true) => Found::Good("a relay is woken".to_owned()),
        Ok(false) => Found::Doubt(DEAF.to_owned()),
        Err(error) => Found::Wrong(error.to_string()),
    }
}

async fn installation(link: &Link, config: &Config) -> Result<String, String> {
    let found = own::installation(link).await.map_err(|error| error.to_string())?.name;
    if found == config.database.installation.as_str() {
        return Ok(found);
    }
    Err(other_installation(&found, config))
}

async fn rights(link: &Link, server: &Server) -> Result<String, String> {
    let wanting = wanting_rights(link).await.map_err(|error| error.to_string())?;
    let (role, group) = (&server.role, &server.group);
    if wanting.is_empty() {
        own::sees_all(link).await.map_err(|error| error.to_string())?;
        return Ok(format!("{role} may do what a relay does"));
    }
    let remedy = if server.has_group {
        format!("run as the owner: GRANT {group} TO {role}")
    } else {
        format!("role {group} is missing, so grant them to {role} one by one, as the owner")
    };
    Err(format!("{role} lacks {}; {remedy}", wanting.join(", ")))
}

/// Routes that a starting relay will put in force are no fault; a set it will not go back to is.
async fn in_force(link: &Link, hash: &str) -> Result<String, String> {
    match standing(link, hash).await.map_err(|error| error.to_string())? {
        Standing::InForce => Ok("in force as the config has them".to_owned()),
        Standing::New => {
            Ok("not in force yet; a starting relay puts the config's routes in force".to_owned())
        }
        Standing::Superseded => Err("others have taken the place of the config's routes, \
             and a starting relay does not go back; to go back: outboxd route apply"
            .to_owned()),
    }
}

async fn probe(sink: &SinkConfig) -> Line {
    let found = match Sink::build(sink) {
        Err(error) => Err(chain(&error)),
        Ok(Some(built)) => tokio::time::timeout(PROBE_LIMIT, built.probe())
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", PROBE_LIMIT.as_secs()))),
        Ok(None) => match &sink.way {
            Way::Csv(csv) => writable(&csv.directory),
            Way::Webhook(_) | Way::Smtp(_) => Ok("nothing to touch".to_owned()),
        },
    };
    Line::new(thing(sink), found)
}

fn thing(sink: &SinkConfig) -> String {
    let word = if kind(sink) == "export" { "export" } else { "sink" };
    format!("{word} {}", sink.name)
}

fn writable(directory: &Path) -> Result<String, String> {
    // The path of a file beside the config may be empty.
    let here = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let shown = here.display();
    match std::fs::metadata(here) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(format!("{shown} is no directory")),
        Err(error) => return Err(format!("{shown}: {error}; make it with: mkdir -p {shown}")),
    }
    rustix::fs::access(here, Access::WRITE_OK | Access::EXEC_OK)
        .map(|()| format!("{shown} can be written to"))
        .map_err(|error| format!("{shown} cannot be written to: {error}"))
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
