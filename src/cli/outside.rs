//! What `check` and `doctor` both look at: each outside thing is touched once, and nothing is sent.

mod mail;

use std::path::Path;
use std::time::Duration;

use rustix::fs::Access;

use super::finding::{Finding, Found};
use super::route::kind;
use super::{Failure, other_installation};
use crate::config::{Config, SinkConfig, Way};
use crate::sink::Sink;
use crate::store::inspect::{self, Member, Server, wanting_rights};
use crate::store::routes::{Standing, standing};
use crate::store::{Link, StoreError, migrate, own};

/// Makes roles, where it may, and grants each what it needs.
const GRANTS: &str = "outboxd migrate --rights";
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
    let unread = state.is_err();
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
    // rights on, or not all of it, that is all there is to tell.
    if sound || unread {
        lines.push(Finding::new("rights", rights(link, &server).await));
    }
    if sound {
        match groups(link, &server.owner).await {
            // Where all is well the role's own rights say it.
            Found::Good(_) => {}
            amiss => lines.push(Finding::of("roles", amiss)),
        }
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
    let role = &server.role;
    if wanting.is_empty() {
        own::sees_all(link).await.map_err(|error| error.to_string())?;
        return Ok(format!("{role} may do what a relay does"));
    }
    Err(format!("{role} lacks {}; {}", wanting.join(", "), to_work(server)))
}

/// What a role needs that is to do a relay's work.
pub(super) fn to_work(server: &Server) -> String {
    let Server { role, group, owner, .. } = server;
    match server.member {
        Member::Application => format!(
            "{role} is the application's role; name the relay's in [database] url \
             (or, for migrate, the owner's, {owner})"
        ),
        _ if !server.has_group => format!(
            "{}; then: GRANT {group} TO {role}",
            to_be_made(std::slice::from_ref(group), owner)
        ),
        Member::Relay => format!("{group} lacks them too; run as the owner, {owner}: {GRANTS}"),
        Member::Neither if server.owner_grants => {
            format!("run as the owner, {owner}: GRANT {group} TO {role}")
        }
        Member::Neither => format!("run as an administrator: GRANT {group} TO {role}"),
    }
}

/// What a role needs that is to migrate.
pub(super) fn to_migrate(server: &Server) -> String {
    let Server { role, owner, .. } = server;
    let what = match server.member {
        Member::Application => "is the application's role",
        Member::Relay => "is the relay's role",
        Member::Neither => "is not the owner",
    };
    format!("{role} {what}; for migrate name the owner's in [database] url, {owner}")
}

/// What went wrong, with a remedy that knows whose role this is.
pub(super) async fn explained(
    error: StoreError,
    link: &Link,
    remedy: fn(&Server) -> String,
) -> Failure {
    let Some(denied) = error.denied() else { return error.into() };
    match inspect::server(link).await {
        Ok(server) => Failure::Fault(format!("{denied}; {}", remedy(&server))),
        Err(_) => error.into(),
    }
}

/// The group roles, where one is missing or lacks what migrations grant it.
pub(super) async fn groups(link: &Link, owner: &str) -> Found {
    let groups = match inspect::groups(link).await {
        Ok(groups) => groups,
        Err(error) => return Found::Wrong(error.to_string()),
    };
    let wanting: Vec<String> = groups
        .iter()
        .filter(|group| !group.wanting.is_empty())
        .map(|group| format!("{} lacks {}", group.name, group.wanting.join(", ")))
        .collect();
    if !wanting.is_empty() {
        return Found::Wrong(format!(
            "{}; run as the owner, {owner}: {GRANTS}",
            wanting.join("; ")
        ));
    }
    let missing: Vec<String> =
        groups.into_iter().filter(|group| !group.exists).map(|group| group.name).collect();
    if missing.is_empty() {
        return Found::Good("each group role has its rights".to_owned());
    }
    let verb = if missing.len() == 1 { "is" } else { "are" };
    let remedy = to_be_made(&missing, owner);
    Found::Doubt(format!("{} {verb} missing; {remedy}", missing.join(", ")))
}

fn to_be_made(groups: &[String], owner: &str) -> String {
    let made: Vec<String> =
        groups.iter().map(|group| format!("CREATE ROLE {group} NOLOGIN")).collect();
    let made = made.join("; ");
    format!("run as an administrator: {made}; then, as the owner, {owner}: {GRANTS}")
}

/// Routes that a starting relay will put in force are no fault; a set it will not go back to is.
async fn in_force(link: &Link, hash: &str) -> Result<String, String> {
    match standing(link, hash).await.map_err(|error| error.to_string())? {
        Standing::InForce => Ok("in force as the config has them".to_owned()),
        Standing::New => {
            Ok("not in force yet; a starting relay puts the config's routes in force; a running one on SIGHUP"
                .to_owned())
        }
        Standing::Superseded => Err("others have taken the place of the config's routes, \
             and a starting relay does not go back; to go back: outboxd route apply"
            .to_owned()),
    }
}

/// A line for each server of a sink, or its directory.
pub(super) async fn probe(sink: &SinkConfig) -> Vec<Finding> {
    let found = match Sink::build(sink) {
        Err(error) => Err(chain(&error)),
        Ok(Some(Sink::Smtp(smtp))) => return mail::look(sink, &smtp).await,
        Ok(Some(built)) => tokio::time::timeout(PROBE_LIMIT, built.probe())
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", PROBE_LIMIT.as_secs()))),
        Ok(None) => match &sink.way {
            Way::Csv(csv) => writable(&csv.directory),
            Way::Webhook(_) | Way::Smtp(_) => Ok("nothing to touch".to_owned()),
        },
    };
    vec![Finding::new(thing(sink), found)]
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
