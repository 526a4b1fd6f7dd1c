//! `outboxd resume`: what was paused goes on.

use clap::Args;

use super::resume_restored::resume_restored;
use super::{Answer, connect};
use crate::config::Config;

const EXAMPLES: &str = "\
  outboxd resume --restored                      after a restore; asks first
  outboxd resume --restored --ids-above 4711     the receivers have seen no id above 4711";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Resume {
    /// The original is stopped, and this copy takes its place
    #[arg(long, required = true)]
    restored: bool,
    /// The highest message id that the receivers have seen; without it, ids go on a billion higher
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(i64).range(0..))]
    ids_above: Option<i64>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

impl Resume {
    pub async fn run(&self, config: &Config) -> Answer {
        resume_restored(&connect(config), config, self.ids_above, self.yes, self.json).await
    }
}
