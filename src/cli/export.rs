//! `outboxd export`: a file on demand, and what became of those that were cut.

mod list;
mod pull;

use clap::{Args, Subcommand};

use super::Answer;
use crate::config::Config;

const EXAMPLES: &str = "\
Examples:
  outboxd export list                          the next cut of each sink, and its last files
  outboxd export list orders --json
  outboxd export ledger --from 2026-11-01 --to 2026-12-01 -o november.csv
  outboxd export ledger --from 2026-11-20T08:00:00Z --to 2026-11-20T09:00:00Z -o - | head
  outboxd export orders --from 2026-11-20 --to 2026-11-21 \\
    --where \"payload->>'country' = 'AT'\" --profile excel-de -o austria.csv

A file on demand is made as the sink's own are, and changes nothing. Of an export the query is run
with these bounds, and --where is a condition over its columns. Of a csv sink it has the messages
that were written within them, whether they are in a file already or not; --where is over id, type,
key, payload, headers and created_at.";

#[derive(Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
#[command(subcommand_negates_reqs = true)]
pub(super) struct Export {
    #[command(subcommand)]
    command: Option<ExportCommand>,
    #[command(flatten)]
    pull: Option<pull::Pull>,
}

#[derive(Subcommand)]
enum ExportCommand {
    /// Each csv sink and export: its next cut and its last files, newest first
    List(list::List),
}

impl Export {
    pub async fn run(self, config: Config) -> Answer {
        match (self.command, self.pull) {
            (Some(ExportCommand::List(list)), _) => list.run(&config).await,
            (None, Some(pull)) => pull.run(config).await,
            (None, None) => {
                let words = "name an export or a csv sink, or ask for a list; see --help";
                Err(super::Failure::Usage(words.to_owned()))
            }
        }
    }
}
