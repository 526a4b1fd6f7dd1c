//! `outboxd resolve`: an operator says of held deliveries whether they arrived.

use clap::Args;

use super::Answer;
use super::bulk::{Chosen, Deed};
use super::filter::State;
use crate::config::Config;
use crate::store::inspect::act::Act;

const EXAMPLES: &str = "\
Examples:
  outboxd resolve 42/mail --delivered             it arrived: recorded, not sent again
  outboxd resolve 42/mail --not-delivered         it did not: sent again, made anew
  outboxd resolve --sink mail --older-than 1d --delivered      asks first
  outboxd resolve orders/2026-11-20 --delivered   the mail of an exported period

A mail is delivered to each of its recipients apart: what is said holds for those in doubt. If others
deferred it, it is tried again for them; if others refused it, it is dead.

A delivery is held when it is in doubt whether it arrived and it must not arrive twice, or when a
changed config would send something else under its id. Ask the receiver for the idempotency key:
outboxd preview MESSAGE/SINK. While a relay that fell silent may yet be sending it,
--not-delivered is refused.";

#[derive(Args)]
#[command(after_help = EXAMPLES, group = clap::ArgGroup::new("what").required(true))]
pub(super) struct Resolve {
    #[command(flatten)]
    chosen: Chosen,
    /// They arrived
    #[arg(long, group = "what")]
    delivered: bool,
    /// They did not arrive: send them again
    #[arg(long, group = "what")]
    not_delivered: bool,
}

impl Resolve {
    pub async fn run(&self, config: &Config) -> Answer {
        let delivered = self.delivered;
        let deed = Deed {
            act: Act::Resolve { delivered },
            verb: "resolve",
            done: "resolved",
            became: if delivered { "recorded as delivered" } else { "to be sent again now" },
            caution: if delivered {
                " as delivered"
            } else {
                " as not delivered, and send them again"
            },
            state: Some(State::Held),
            state_chosen: false,
        };
        self.chosen.run(config, &deed).await
    }
}
