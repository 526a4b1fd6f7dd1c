//! `outboxd check`: reads the config and touches each outside thing once, sending nothing; or sends one
//! test mail, where it is told to.

mod calendar;
mod dkim;
mod mail_to;

use std::fmt::Write as _;
use std::sync::Arc;

use clap::Args;
use futures_util::future::join_all;
use jiff::Timestamp;
use lettre::Address;

use super::finding::{Finding, Found, tell};
use super::outside::{database, is_sound, probe};
use super::route::kind;
use super::{Answer, connect};
use crate::config::Config;
use crate::relay::route::Routes;
use crate::store::Target;
use crate::store::inspect::server;
use crate::store::listen::{DEAF, hears};

const EXAMPLES: &str = "\
Examples:
  outboxd check                a line for each thing: ok, warn, or FAIL and what to do
  outboxd check --json
  outboxd --config staging.toml check
  outboxd check --mail-to me@example.com
                               send one test mail instead, outside the outbox; print the dialogue
  outboxd check --mail-to me@example.com --sink mail --fallback
                               through this sink, and another one through its second server";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Check {
    /// Send one test mail to this address, outside the outbox, and print the dialogue
    #[arg(long, value_name = "ADDRESS", value_parser = mail_to::address)]
    mail_to: Option<Address>,
    /// The sink it goes through, where there is more than one for mail
    #[arg(long, value_name = "NAME", requires = "mail_to")]
    sink: Option<String>,
    /// Send another one through the sink's second server
    #[arg(long, requires = "mail_to")]
    fallback: bool,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

impl Check {
    pub async fn run(&self, mut config: Config) -> Answer {
        if let Some(address) = &self.mail_to {
            return mail_to::run(&config, address, self.sink.as_deref(), self.fallback, self.json)
                .await;
        }
        let mut lines = vec![Finding::new("config", Ok(of_config(&config)))];
        let plans = calendar::plans(&config, Timestamp::now());
        let hash = Routes::new(std::mem::take(&mut config.routes)).hash();
        let (config, link) = (&config, connect(&config));
        let server = server(&link).await;
        let reachable = server.is_ok();
        lines.extend(database(config, &link, server, &hash).await);
        if reachable && is_sound(&link).await {
            lines.push(Finding::of("listen", listens(link.target()).await));
        }
        lines.extend(join_all(config.sinks.values().map(probe)).await.into_iter().flatten());
        lines.extend(dkim::keys(config));
        lines.extend(plans);
        if reachable {
            lines.extend(calendar::queries(config, &link).await);
        }
        Ok(tell(&lines, self.json))
    }
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
