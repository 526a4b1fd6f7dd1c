//! The command line: arguments in, words and an exit code out.
//!
//! Exit codes: 0 ok, 1 something is wrong with what was looked at, 2 wrong usage or config.
//! Answers go to stdout, everything else to stderr.

mod actor;
mod bulk;
mod check;
mod discard;
mod doctor;
mod export;
mod filter;
mod finding;
mod first;
mod health;
mod init;
mod list;
mod logs;
mod mail;
mod migrate;
mod migrate_as;
mod notify;
mod outside;
mod pause;
mod preview;
mod replay;
mod resolve;
mod resume_restored;
mod retry;
mod route;
mod run;
mod schedule;
mod send;
mod show;
mod status;
mod table;
mod words;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigError};
use crate::store::{Link, StoreError, Target, own};

const EXAMPLES: &str = "\
A first time, in a directory of its own:
  export DATABASE_URL=postgres://user:password@localhost/shop
  outboxd init                 write outboxd.toml
  outboxd migrate              make the schema
  outboxd check                touch everything once, send nothing
  outboxd run                  deliver
  outboxd send order.created '{\"order_id\": 42}' --wait

Day by day:
  outboxd status               what there is to do, and what needs you
  outboxd list --state dead    what was given up, and why
  outboxd show 42              what became of message 42
  outboxd retry 42             try it again
  outboxd preview 42           what it becomes with this config, sending nothing
  outboxd pause --sink crm     let a sink wait

Exit codes: 0 ok, 1 something is wrong with what was looked at, 2 wrong usage or config.
OUTBOXD_LOG sets what is logged to stderr, e.g. OUTBOXD_LOG=debug.";

/// A transactional outbox relay for PostgreSQL: a committed row becomes a mail, a webhook or a
/// line in a CSV file.
#[derive(Parser)]
#[command(name = "outboxd", version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Arguments {
    /// The config file
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "OUTBOXD_CONFIG",
        default_value = "outboxd.toml",
        hide_env_values = true
    )]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write a config to start from
    Init,
    /// Make the schema, or bring it up to date
    Migrate(migrate::Migrate),
    /// Read the config and touch each outside thing once, sending nothing
    Check(check::Check),
    /// What in the environment keeps messages from flowing, and what to do about it
    Doctor(doctor::Doctor),
    /// Deliver, until told to stop
    Run(run::Run),
    /// Ask the running relay whether it gets on
    Health(health::Health),
    /// Send a message, as an application does
    Send(Box<send::Send>),
    /// What there is to do, who does it, and what needs you
    Status(status::StatusCommand),
    /// Open deliveries: what needs you first, then the oldest due
    List(list::List),
    /// One message and all its deliveries, open and closed
    Show(show::Show),
    /// Try dead deliveries again
    Retry(retry::Retry),
    /// Say of held deliveries whether they arrived
    Resolve(resolve::Resolve),
    /// Close open deliveries for good
    Discard(discard::Discard),
    /// Send closed deliveries again, under the ids they had
    Replay(Box<replay::Replay>),
    /// Let a sink, a route or everything wait
    Pause(pause::Pause),
    /// Let go on what was paused
    Resume(pause::Resume),
    /// What a message becomes with this config, sending nothing
    Preview(preview::Preview),
    /// The routes in force, and messages that lack one
    Route(route::Route),
    /// A file on demand, and what became of those that were cut
    Export(Box<export::Export>),
    /// What the calendar writes: when next, when last, what was missed; and running it by hand
    Schedule(schedule::Schedule),
}

/// How a command ended that could do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    /// Something is wrong with what was looked at; the words are out already.
    Wrong,
}

/// Why a command could not do its work.
#[derive(Debug)]
enum Failure {
    /// Something outside.
    Fault(String),
    /// The arguments or the config.
    Usage(String),
}

type Answer = Result<Verdict, Failure>;

impl Verdict {
    fn wrong_if(wrong: bool) -> Verdict {
        if wrong { Verdict::Wrong } else { Verdict::Ok }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::Fault(error.to_string())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::Usage(error.to_string())
    }
}

/// Reads the arguments of the process, does what they say, and gives the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nothing to do about a terminal that is gone.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let (code, words) = match logs::start().and_then(|()| start(arguments)) {
        Ok(Verdict::Ok) => (0, None),
        Ok(Verdict::Wrong) => (1, None),
        Err(Failure::Fault(words)) => (1, Some(words)),
        Err(Failure::Usage(words)) => (2, Some(words)),
    };
    if let Some(words) = words {
        say_aside(&format!("outboxd: {words}"));
    }
    ExitCode::from(code)
}

fn start(arguments: Arguments) -> Answer {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Fault(format!("cannot start threads: {error}")))?;
    // The relay obeys signals by itself, and in order.
    let obeys = matches!(arguments.command, Command::Run(_));
    let work = dispatch(arguments);
    let answer = if first::is_first() && !obeys {
        runtime.block_on(first::endable(work))
    } else {
        runtime.block_on(work)
    };
    // A name look-up that still hangs is nobody's any more.
    runtime.shutdown_background();
    answer
}

async fn dispatch(arguments: Arguments) -> Answer {
    let Arguments { config: file, command } = arguments;
    if let Command::Init = command {
        return init::init(&file);
    }
    if let Command::Migrate(command) = &command
        && command.prints()
    {
        return command.print(&file);
    }
    let config = match &command {
        Command::Preview(command) if command.is_offline() => Config::load_offline(&file)?,
        _ => Config::load(&file)?,
    };
    match command {
        Command::Init => Ok(Verdict::Ok),
        Command::Migrate(command) => command.run(&config).await,
        Command::Check(command) => command.run(config).await,
        Command::Doctor(command) => Box::pin(command.run(config)).await,
        Command::Run(command) => command.run(&file, config).await,
        Command::Health(command) => command.run(&config).await,
        Command::Send(command) => command.run(&config).await,
        Command::Status(command) => command.run(&config).await,
        Command::List(command) => command.run(&config).await,
        Command::Show(command) => command.run(&config).await,
        Command::Retry(command) => command.run(&config).await,
        Command::Resolve(command) => command.run(&config).await,
        Command::Discard(command) => command.run(&config).await,
        Command::Replay(command) => command.run(&config).await,
        Command::Pause(command) => command.run(&config).await,
        Command::Resume(command) => command.run(&config).await,
        Command::Preview(command) => command.run(config).await,
        Command::Route(command) => command.run(config).await,
        Command::Export(command) => command.run(config).await,
        Command::Schedule(command) => command.run(&config).await,
    }
}

fn connect(config: &Config) -> Link {
    Link::new(Target::new(&config.database))
}

/// Refuses to change an outbox that is another installation's: a copy of production opened with
/// the staging config.
async fn same_installation(link: &Link, config: &Config) -> Result<(), Failure> {
    match other_installation(link, config).await? {
        None => Ok(()),
        Some((_, words)) => Err(Failure::Fault(words)),
    }
}

/// The name of the installation where the config has another one, and what to say of that.
async fn other_installation(
    link: &Link,
    config: &Config,
) -> Result<Option<(String, String)>, StoreError> {
    let (found, wanted) = (own::installation(link).await?.name, &config.database.installation);
    if found == wanted.as_str() {
        return Ok(None);
    }
    // The same name in two databases makes the same keys.
    let remedy = if own::unsent(link).await? {
        format!("nothing was sent from it yet: run outboxd migrate to name it {wanted}")
    } else {
        format!("check [database] url, or write installation = \"{found}\"")
    };
    let words = format!(
        "this database belongs to installation {found}, the config says {wanted}; {remedy}"
    );
    Ok(Some((found, words)))
}

/// Writes an answer. Whoever reads it may have enough before its end, as `head` does.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| {
        if text.ends_with('\n') || text.is_empty() { Ok(()) } else { out.write_all(b"\n") }
    });
    let _ = out.flush();
}

fn say_json(value: &serde_json::Value) {
    say(&format!("{value:#}"));
}

fn say_aside(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_well_formed() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
    }

    #[test]
    fn whoever_resolves_is_asked_for_either_way() {
        let wrong = Arguments::try_parse_from(["outboxd", "resolve", "42"]).err().unwrap();
        assert!(wrong.to_string().contains("<--delivered|--not-delivered>"), "{wrong}");
        let both = ["outboxd", "resolve", "42", "--delivered", "--not-delivered"];
        assert!(Arguments::try_parse_from(both).is_err());
    }

    /// A line that ends in a backslash swallows the indent of the next one.
    #[test]
    fn examples_stand_below_a_heading_and_are_all_indented() {
        use clap::CommandFactory as _;
        let mut seen = 0;
        for command in Arguments::command().get_subcommands() {
            let Some(help) = command.get_after_help() else { continue };
            let help = help.to_string();
            assert!(help.starts_with("Examples:\n  outboxd "), "{}: {help}", command.get_name());
            seen += 1;
        }
        assert!(seen > 9, "{seen}");
    }
}
