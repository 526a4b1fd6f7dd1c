//! What `check` and `doctor` both look at: each outside thing is touched once, and nothing is sent.

use std::path::Path;
use std::time::Duration;

use rustix::fs::Access;

use super::finding::Finding;
use super::other_installation;
use super::route::kind;
use crate::config::{Config, SinkConfig, Way};
use crate::sink::Sink;
use crate::store::inspect::{Server, wanting_rights};
use crate::store::migrate::SchemaState;
use crate::store::routes::{Standing, standing};
use crate::store::{Link, StoreError, migrate, own};

/// The oldest PostgreSQL with all we use.
const SERVER_MIN: i32 = 150_000;
/// No probe may take longer, whatever its own limits say.
pub(super) const PROBE_LIMIT: Duration = Duration::from_secs(15);

/// All that can be asked of the database; the first thing that is missing hides the rest.
pub(super) async fn database(
    config: &Config,
    link: &Link,
    server: Result<Server, StoreError>,
    hash: &str,
) -> Vec<Finding> {
    let server = match server {
        Ok(server) => server,
        Err(error) => return vec![Finding::new("database", Err(error.to_string()))],
    };
    let named = format!("{} as {}, PostgreSQL {}", server.database, server.role, server.version);
    let found = if server.number < SERVER_MIN {
        Err(format!("{named}: too old; use PostgreSQL 15 or newer"))
    } else if server.standby {
        Err(format!("{named}: a standby takes no writes; name the primary in [database] url"))
    } else {
        Ok(named)
    };
    let mut lines = vec![Finding::new("database", found)];
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
    lines.push(Finding::new("schema", found));
    if sound {
        lines.push(Finding::new("installation", installation(link, config).await));
    }
    // A role that may not even look is told which rights it lacks; where there is nothing to have
    // rights on, that is all there is to tell.
    if !missing {
        lines.push(Finding::new("rights", rights(link, &server).await));
    }
    if sound {
        lines.push(Finding::new("routes", in_force(link, hash).await));
    }
    lines
}

/// Whether the schema is one that a relay of this version works.
pub(super) async fn is_sound(link: &Link) -> bool {
    let schema = link.target().schema();
    migrate::state(link.target()).await.is_ok_and(|state| state.sound(schema).is_some())
}

async fn installation(link: &Link, config: &Config) -> Result<String, String> {
    match other_installation(link, config).await.map_err(|error| error.to_string())? {
        None => Ok(config.database.installation.to_string()),
        Some((_, words)) => Err(words),
    }
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

pub(super) async fn probe(sink: &SinkConfig) -> Finding {
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
    Finding::new(thing(sink), found)
}

pub(super) fn thing(sink: &SinkConfig) -> String {
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
        .map_err(|error| {
            let user = rustix::process::geteuid().as_raw();
            format!("{shown} cannot be written to: {error}; give it to who runs this: chown {user} {shown}")
        })
}

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
