//! `outboxd doctor`: what `check` looks at, and the environment, each thing with its remedy.
//!
//! It changes nothing. What it leaves behind for a moment are seven connections and one notification on a
//! channel that only it listens on; what it takes is bounded: no look takes longer than 15 s, that at all
//! messages as long as it is told.

mod book;
mod judge;
mod network;
mod relays;
mod vacuum;

use std::time::Duration;

use clap::Args;
use futures_util::future::join_all;
use jiff::Timestamp;

use super::finding::{Finding, tell};
use super::outside::{PROBE_LIMIT, database, is_sound, probe};
use super::{Answer, Failure, Verdict, connect, say, words};
use crate::config::Config;
use crate::relay::route::Routes;
use crate::store::doctor::{self, catalog, repair, session};
use crate::store::inspect::{Server, server};
use crate::store::listen::hears;
use crate::store::{Link, StoreError, migrate, own, restored};

const EXAMPLES: &str = "\
Examples:
  outboxd doctor               a line for each thing: ok, warn, or FAIL, and what to do
  outboxd doctor --json
  outboxd doctor --sweep 10m   look at all messages, however many there are
  outboxd doctor --repair      the SQL that puts the schema right, to be read and run as its owner";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Doctor {
    /// Answer in JSON
    #[arg(long, conflicts_with = "repair")]
    json: bool,
    /// How long to look for messages that nothing routed
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = words::span)]
    sweep: Duration,
    /// How old a transaction may be that keeps vacuum from dead rows
    #[arg(long, value_name = "SPAN", default_value = "5m", value_parser = words::span)]
    held_over: Duration,
    /// Write the SQL that puts the schema right, and nothing else
    #[arg(long)]
    repair: bool,
}

impl Doctor {
    pub async fn run(&self, mut config: Config) -> Answer {
        let hash = Routes::new(std::mem::take(&mut config.routes)).hash();
        let (config, link) = (&config, connect(&config));
        if self.repair {
            return repair(&link).await;
        }
        let server = server(&link).await;
        let known = server.as_ref().ok().cloned();
        let sound = known.is_some() && is_sound(&link).await;
        let checked = async {
            let mut found = database(config, &link, server, &hash).await;
            if let Some(server) = known.as_ref() {
                found.extend(self.place(&link).await);
                if sound {
                    found.extend(Box::pin(self.outbox(&link, config, server)).await);
                }
            }
            found
        };
        let sweep_link = connect(config);
        let (checked, swept, sessions, sinks, names, certificates) = tokio::join!(
            checked,
            async { if sound { self.unseen(&sweep_link).await } else { Vec::new() } },
            async { if known.is_some() { Box::pin(sessions(&link)).await } else { Vec::new() } },
            join_all(config.sinks.values().map(probe)),
            network::names(config),
            network::certificates(config, Timestamp::now()),
        );
        let mut found = checked;
        found.extend(swept);
        found.extend(sessions);
        found.extend(sinks.into_iter().flatten());
        found.extend(names);
        found.extend(certificates);
        found.extend(network::disks(config));
        Ok(tell(&found, self.json))
    }

    /// The server and our role on it.
    async fn place(&self, link: &Link) -> Vec<Finding> {
        let (place, settings, holders) =
            tokio::join!(doctor::place(link), doctor::settings(link), doctor::holders(link));
        let (place, settings) = match (place, settings) {
            (Ok(place), Ok(settings)) => (place, settings),
            (Err(error), _) | (_, Err(error)) => return vec![failed("server", &error)],
        };
        let mut found = judge::settings(&settings, &place);
        found.extend(judge::connections(&place));
        let old = |holders: Vec<_>| vacuum::snapshots(&holders, &place, self.held_over);
        found.extend(holders.map_or_else(|error| vec![failed("snapshots", &error)], old));
        found
    }

    /// The outbox itself; its schema is the one that this program knows.
    async fn outbox(&self, link: &Link, config: &Config, server: &Server) -> Vec<Finding> {
        let schema = config.database.schema.as_str();
        let (live, triggers, replicas, days) = tokio::join!(
            catalog::live(link),
            doctor::silent_triggers(link),
            doctor::replica_mode(link),
            doctor::days_without_ledger(link),
        );
        let (tables, excess, settings) = tokio::join!(
            doctor::tables(link),
            doctor::excess(link, &server.group, server.has_group),
            doctor::settings(link),
        );
        let (sequence, copy, installation, relays) = tokio::join!(
            doctor::sequence(link),
            restored::standing(link),
            own::installation(link),
            doctor::relays(link),
        );
        let expected = catalog::read(catalog::EXPECTED);
        let state = migrate::state(link.target()).await;
        let mut found = judged("objects", both(live, state), |(live, state)| match state {
            // What a newer version made is not ours to judge.
            migrate::SchemaState::Works(_) => Vec::new(),
            _ => judge::objects(&catalog::compare(&expected, live), live.len()),
        });
        found.extend(judged("trigger", both(triggers, replicas), |(triggers, replicas)| {
            judge::triggers(triggers, replicas, schema)
        }));
        found.extend(judged("ledger", days, |days| judge::ledger(days, schema)));
        found.extend(judged("sequence", sequence, judge::sequence));
        found.extend(judged("copy", copy, |standing| judge::copy(standing.copy)));
        found.extend(judged("relays", relays, |list| relays::relays(list, &config.hash)));
        found.extend(judged("vacuum and grants", both(tables, both(excess, settings)), |all| {
            let (tables, (excess, settings)) = all;
            let mut found = judge::grants(excess, tables, schema);
            found.extend(vacuum::vacuum(tables, settings, schema));
            found.extend(judged("doorbell", installation, |installation| {
                judge::doorbell(installation.doorbell, settings, schema)
            }));
            found
        }));
        found
    }

    async fn unseen(&self, link: &Link) -> Vec<Finding> {
        let swept = doctor::sweep(link, self.sweep).await;
        judged("unseen", swept, |sweep| judge::unseen(sweep, self.sweep))
    }
}

/// What stands between us and the server.
async fn sessions(link: &Link) -> Vec<Finding> {
    let target = link.target();
    let own = Link::new(std::sync::Arc::clone(target));
    let all = async {
        tokio::join!(
            session::is_pooled(target),
            async { if target.listens() { hears(target).await.map(Some) } else { Ok(None) } },
            doctor::clock(&own),
            doctor::place(link)
        )
    };
    let Ok((pooled, heard, clock, place)) = tokio::time::timeout(PROBE_LIMIT, Box::pin(all)).await
    else {
        let words = format!("no answer within {} s", PROBE_LIMIT.as_secs());
        return vec![Finding::new("listen", Err(words))];
    };
    let is_pooled = pooled.as_ref().is_ok_and(|pooled| *pooled);
    let was_heard = heard.as_ref().ok().copied().flatten();
    let mut found = judged("pooler", pooled, |pooled| judge::pooler(*pooled, was_heard));
    found.extend(judged("listen", heard, |heard| {
        judge::listen(*heard, is_pooled, place.as_ref().ok())
    }));
    found.extend(judged("clock", clock, |clock| judge::clock(*clock)));
    found
}

async fn repair(link: &Link) -> Answer {
    match migrate::state(link.target()).await? {
        migrate::SchemaState::Current => {}
        state => {
            let schema = link.target().schema();
            let words = state.remedy(schema).or_else(|| state.sound(schema)).unwrap_or_default();
            return Err(Failure::Fault(words));
        }
    }
    let live = catalog::live(link).await?;
    let drifts = catalog::compare(&catalog::read(catalog::EXPECTED), &live);
    for statement in repair::statements(&drifts, link.target().schema()) {
        say(&statement);
    }
    Ok(Verdict::Ok)
}

/// What could not be asked is a finding too.
fn judged<T>(
    thing: &str,
    facts: Result<T, StoreError>,
    judge: impl FnOnce(&T) -> Vec<Finding>,
) -> Vec<Finding> {
    match facts {
        Ok(facts) => judge(&facts),
        Err(error) => vec![failed(thing, &error)],
    }
}

fn failed(thing: &str, error: &StoreError) -> Finding {
    Finding::new(thing, Err(error.to_string()))
}

fn both<A, B>(
    one: Result<A, StoreError>,
    other: Result<B, StoreError>,
) -> Result<(A, B), StoreError> {
    Ok((one?, other?))
}
