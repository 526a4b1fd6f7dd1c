//! `outboxd discard`: open deliveries are closed for good.

use clap::Args;

use super::bulk::{Chosen, Deed};
use super::filter::State;
use super::{Answer, Failure};
use crate::config::Config;
use crate::store::inspect::act::Act;

const EXAMPLES: &str = "\
Examples:
  outboxd discard 42                              every open delivery of message 42
  outboxd discard 42/crm                          the one through the sink crm
  outboxd discard --state dead --sink crm --reason 'HTTP 410'      asks first
  outboxd discard --state pending --type newsletter.sent --yes
  outboxd discard --state unrouted --type 'test.*'
  outboxd discard orders/2026-11-20               the mail of an exported period; its files stay

An attempt that is in flight is not recalled; if it arrives, that is recorded beside. The next
message of a discarded one's key goes on.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Discard {
    #[command(flatten)]
    chosen: Chosen,
    /// Of all that fit, those in this state
    #[arg(long)]
    state: Option<State>,
}

impl Discard {
    pub async fn run(&self, config: &Config) -> Answer {
        if self.state.is_some() && self.chosen.name.is_some() {
            let words = "a named delivery is discarded in whatever state; leave --state out";
            return Err(Failure::Usage(words.to_owned()));
        }
        if self.state == Some(State::Parked) {
            let words = "parked is said of a key: discard its head, outboxd list --state parked";
            return Err(Failure::Usage(words.to_owned()));
        }
        let deed = Deed {
            act: Act::Discard,
            verb: "discard",
            done: "discarded",
            became: "discarded",
            caution: ", for good; what is in flight is not recalled",
            state: self.state,
            state_chosen: self.state.is_some(),
        };
        self.chosen.run(config, &deed).await
    }
}
