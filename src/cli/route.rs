//! `outboxd route`: the routes in force, and messages that lack one.

use clap::{Args, Subcommand};
use serde_json::json;

use super::actor::actor;
use super::{Answer, Verdict, connect, same_installation, say, say_aside, say_json};
use crate::config::{Config, SinkConfig, Way};
use crate::relay::route::Routes;
use crate::store::Link;
use crate::store::inspect::act::enter_sinks;
use crate::store::inspect::status::status;
use crate::store::routes::{Mirrored, mirror, route_existing, sweep, unseen};

const EXAMPLES: &str = "\
Examples:
  outboxd route apply          put this config's routes in force, also if others took their place
  outboxd route unseen         route messages that were written past the trigger";

/// Messages a statement; each page is a transaction.
const PAGE: i64 = 1_000;
/// Message ids a step of the look for unseen messages; each is a transaction.
const SPAN: i64 = 5_000;

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Route {
    #[command(subcommand)]
    command: RouteCommand,
    /// Answer in JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum RouteCommand {
    /// Put this config's routes in force. A relay that starts does so by itself, but never goes
    /// back to routes that others took the place of; this does
    Apply,
    /// Look for messages that were written past the trigger, and route them
    Unseen,
}

impl Route {
    pub async fn run(&self, config: Config) -> Answer {
        let link = connect(&config);
        same_installation(&link, &config).await?;
        match self.command {
            RouteCommand::Apply => self.apply(&link, config).await,
            RouteCommand::Unseen => self.unseen(&link).await,
        }
    }

    async fn apply(&self, link: &Link, config: Config) -> Answer {
        let (names, kinds): (Vec<&str>, Vec<&str>) =
            config.sinks.values().map(|sink| (sink.name.as_str(), kind(sink))).unzip();
        // The routes take the sinks' bells, so those come first.
        enter_sinks(link, &names, &kinds).await?;
        let routes = Routes::new(config.routes);
        let (hash, rows) = (routes.hash(), routes.rows());
        let mirrored = mirror(link, &hash, &actor(), &rows, true).await?;
        let in_force_before = mirrored == Mirrored::InForce;
        if self.json {
            say_json(&json!({ "hash": hash, "routes": rows.len(), "changed": !in_force_before }));
        } else if in_force_before {
            say("these routes are in force already: nothing to do");
        } else {
            say(&format!("{} are in force now", count(rows.len(), "route")));
        }
        let relays = status(link).await?.relays;
        let differ = relays.iter().filter(|r| r.alive && r.routes_hash != hash).count();
        if differ > 0 {
            say_aside(&format!(
                "{} with another config; restart with this one what should follow it",
                count(differ, "live relay")
            ));
        }
        Ok(Verdict::Ok)
    }

    async fn unseen(&self, link: &Link) -> Answer {
        // A look of our own first: the relays' takes hours to come round a large table.
        let mut after = 0;
        while let (Some(reached), _) = sweep(link, after, SPAN).await? {
            after = reached;
        }
        let (mut looked_at, mut routed) = (0, 0);
        loop {
            // Whatever became of them, they are no longer unseen then: the next page is others.
            let ids = unseen(link, PAGE).await?;
            if ids.is_empty() {
                break;
            }
            routed += route_existing(link, &ids).await?;
            looked_at += ids.len();
        }
        if self.json {
            say_json(&json!({ "looked_at": looked_at, "routed": routed }));
        } else if looked_at == 0 {
            say("no unseen message: nothing to do");
        } else if usize::try_from(routed) == Ok(looked_at) {
            say(&format!("{} routed", count(looked_at, "unseen message")));
        } else {
            say(&format!(
                "looked at {}: {routed} routed; for others no route was found, or they were seen \
                 meanwhile",
                count(looked_at, "unseen message")
            ));
        }
        Ok(Verdict::Ok)
    }
}

fn count(number: usize, word: &str) -> String {
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}

/// The kind, as the config and the database write it.
pub(super) fn kind(sink: &SinkConfig) -> &'static str {
    match &sink.way {
        Way::Webhook(_) => "webhook",
        Way::Smtp(_) => "smtp",
        Way::Csv(csv) => csv.kind(),
    }
}
