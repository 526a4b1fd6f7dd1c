//! `outboxd retry`: dead deliveries are tried again, with all their attempts to come.

use clap::Args;

use super::Answer;
use super::bulk::{Chosen, Deed};
use super::filter::State;
use crate::config::Config;
use crate::store::inspect::act::Act;

const EXAMPLES: &str = "\
Examples:
  outboxd retry 42                                every dead delivery of message 42
  outboxd retry 42/crm                            the one through the sink crm
  outboxd retry --sink crm                        every dead delivery of a sink; asks first
  outboxd retry --sink crm --reason 'HTTP 503' --yes
  outboxd retry --type 'order.*' --older-than 1h
  outboxd retry orders/2026-11-20                 the mail of an exported period

A held delivery, in doubt whether it arrived, is resolved: outboxd resolve.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Retry {
    #[command(flatten)]
    chosen: Chosen,
}

impl Retry {
    pub async fn run(&self, config: &Config) -> Answer {
        let deed = Deed {
            act: Act::Retry,
            verb: "retry",
            done: "retried",
            became: "to be tried again now",
            caution: "",
            state: Some(State::Dead),
            state_chosen: false,
        };
        self.chosen.run(config, &deed).await
    }
}
