//! `outboxd schedule`: what the calendar writes, and running it by hand.

use std::collections::BTreeSet;

use clap::{Args, Subcommand};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::actor::actor;
use super::bulk::confirmed;
use super::table::Table;
use super::words::{moment, plain};
use super::{Answer, Failure, Verdict, connect, same_installation, say, say_aside, say_json};
use crate::calendar::Tick;
use crate::config::{Config, ScheduleConfig};
use crate::name::Name;
use crate::store::Link;
use crate::store::inspect::schedules::{LastRun, Listed, last_run, listed};
use crate::store::schedule::{self, Fired, Occasion, Period};

const EXAMPLES: &str = "\
Examples:
  outboxd schedule list                              when next, when last, what was missed
  outboxd schedule run reminders                     the last period whose time has come
  outboxd schedule run reminders --period 2026-11-20
  outboxd schedule run reminders --period 2026-11-20 --again

A period runs once, whoever comes first; --again has it once more, with new messages.
Running needs the rights of a relay: GRANT outbox_relay TO whoever does it.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Schedule {
    #[command(subcommand)]
    command: ScheduleCommand,
    /// Answer in JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum ScheduleCommand {
    /// All schedules of the config, and those that only the database knows
    List,
    /// Run a period by hand, also one that was missed or is yet to come
    Run(Run),
}

#[derive(Args)]
struct Run {
    /// The schedule
    #[arg(value_name = "NAME")]
    name: String,
    /// The period, e.g. 2026-11-20 or 2026-11-20T1405 [default: the last whose time has come]
    #[arg(long)]
    period: Option<String>,
    /// Also if it ran before
    #[arg(long)]
    again: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl Schedule {
    pub async fn run(&self, config: &Config) -> Answer {
        let link = connect(config);
        same_installation(&link, config).await?;
        match &self.command {
            ScheduleCommand::List => self.list(&link, config).await,
            ScheduleCommand::Run(run) => run.run(&link, config, self.json).await,
        }
    }

    async fn list(&self, link: &Link, config: &Config) -> Answer {
        let listed = listed(link).await?;
        let known = config.schedules.keys().map(Name::as_str);
        let names: BTreeSet<&str> = known.chain(listed.iter().map(|l| l.name.as_str())).collect();
        let lines: Vec<Line> = names
            .into_iter()
            .map(|name| Line {
                name,
                config: config.schedules.values().find(|config| config.name.as_str() == name),
                listed: listed.iter().find(|listed| listed.name == name),
            })
            .collect();
        if self.json {
            say_json(&Value::Array(lines.iter().map(Line::json).collect()));
        } else if lines.is_empty() {
            say("no schedules; write one with [schedules.NAME] in the config");
        } else {
            say(&table(&lines));
            for line in &lines {
                line.remark().into_iter().for_each(|words| say_aside(&words));
            }
        }
        Ok(Verdict::wrong_if(lines.iter().any(Line::is_long_due)))
    }
}

/// A relay that can run a period has done so by then.
const LONG_DUE: SignedDuration = SignedDuration::from_mins(1);

/// One schedule: as the config has it, and as the database does.
struct Line<'a> {
    name: &'a str,
    config: Option<&'a ScheduleConfig>,
    listed: Option<&'a Listed>,
}

impl Line<'_> {
    fn rule(&self) -> String {
        let listed = || self.listed.map(|listed| listed.rule.clone());
        self.config.map(|config| config.every.words()).or_else(listed).unwrap_or_default()
    }

    /// Noted by a relay; none before one has seen it.
    fn next_at(&self) -> Option<Timestamp> {
        self.listed?.next_at
    }

    fn last(&self) -> Option<&LastRun> {
        self.listed?.last.as_ref()
    }

    fn missed(&self) -> (i64, Option<Timestamp>) {
        self.listed.map_or((0, None), |listed| (listed.missed, listed.missed_since))
    }

    fn zone(&self) -> TimeZone {
        self.config.map_or(TimeZone::UTC, |config| config.every.zone())
    }

    /// What the table does not show.
    fn remark(&self) -> Option<String> {
        match (self.config, self.listed) {
            (None, Some(listed)) if listed.worked => {
                Some(format!("{}: in the config of a relay, not in this one", plain(self.name)))
            }
            (None, _) => {
                Some(format!("{}: in no config any more; nothing runs it", plain(self.name)))
            }
            (Some(_), None) => Some(format!("{}: no relay has seen it yet", self.name)),
            (Some(_), Some(listed)) if !listed.worked => {
                Some(format!("{}: no live relay has it in its config", self.name))
            }
            (Some(_), Some(listed)) => self.is_long_due().then(|| match &listed.reason {
                Some(reason) => format!("{}: due and not done: {}", self.name, plain(reason)),
                None => format!(
                    "{0}: due and not done; why is in the relay's log, or said by: outboxd schedule run {0}",
                    self.name
                ),
            }),
        }
    }

    /// Whether something is due that a relay should have run.
    fn is_long_due(&self) -> bool {
        let waits = self.listed.filter(|listed| self.config.is_some() && listed.worked);
        let waits = waits.and_then(|listed| Some(listed.now.duration_since(listed.next_at?)));
        waits.is_some_and(|waits| waits > LONG_DUE)
    }

    fn json(&self) -> Value {
        let instant = |at: Timestamp| at.to_string();
        let (missed, missed_since) = self.missed();
        json!({
            "schedule": self.name,
            "rule": self.rule(),
            "type": self.config.map(|config| config.message_type.as_str()),
            "in_config": self.config.is_some(),
            "worked": self.listed.is_some_and(|listed| listed.worked),
            "since": self.listed.map(|listed| instant(listed.since)),
            "next_at": self.next_at().map(instant),
            "reason": self.listed.and_then(|listed| listed.reason.as_ref()),
            "last": self.last().map(|last| json!({
                "period": last.period,
                "round": last.round,
                "ran_at": instant(last.ran_at),
                "messages": last.messages,
                "open": last.open,
                "actor": last.actor,
            })),
            "missed": missed,
            "missed_since": missed_since.map(instant),
        })
    }
}

fn table(lines: &[Line<'_>]) -> String {
    let heading = ["SCHEDULE", "TYPE", "RULE", "NEXT", "UTC", "LAST", "RAN", "MESSAGES", "MISSED"];
    let mut table = Table::new(&heading, &[7]);
    for line in lines {
        let none = || "-".to_owned();
        let next = line.next_at();
        let last = line.last();
        let messages =
            |last: &LastRun| format!("{}{}", last.messages, if last.open { " (open)" } else { "" });
        table.row([
            line.name.to_owned(),
            line.config.map_or_else(none, |config| config.message_type.clone()),
            line.rule(),
            next.map_or_else(none, |at| next_words(at, line)),
            next.map_or_else(none, moment),
            last.map_or_else(none, |last| match last.round {
                1 => last.period.clone(),
                round => format!("{} round {round}", last.period),
            }),
            last.map_or_else(none, |last| moment(last.ran_at)),
            last.map_or_else(none, messages),
            match line.missed() {
                (0, _) => none(),
                (missed, since) => match since {
                    Some(since) => format!("{missed} since {}", moment(since)),
                    None => missed.to_string(),
                },
            },
        ]);
    }
    table.text()
}

/// On the schedule's own clock; what has come and is not done is due.
fn next_words(at: Timestamp, line: &Line<'_>) -> String {
    let local = at.to_zoned(line.zone()).strftime("%a %Y-%m-%d %H:%M:%S %Z").to_string();
    let due = line.listed.is_some_and(|listed| at < listed.now);
    if due { format!("due since {local}") } else { local }
}

impl Run {
    async fn run(&self, link: &Link, config: &Config, as_json: bool) -> Answer {
        let wanted = config.schedules.values().find(|c| c.name.as_str() == self.name);
        let config = wanted.ok_or_else(|| no_such_schedule(&self.name, config))?;
        let now = enter(link, config).await?;
        let tick = self.tick(config, now)?;
        let early = tick.at > now;
        if early && !self.yes && !confirmed("run a period before its time, which is then done")? {
            say_aside("nothing was changed");
            return Ok(Verdict::Ok);
        }
        let actor = actor();
        let period = Period {
            schedule: config.name.as_str(),
            name: &tick.name,
            message_type: &config.message_type,
            from: config.every.before(&tick).map_or(tick.at, |before| before.at),
            due_at: tick.at,
            late_at: now.max(tick.at).checked_add(config.late_after).unwrap_or(Timestamp::MAX),
            actor: &actor,
        };
        let occasion = Occasion::ByHand { again: self.again };
        let fired = schedule::fire(link.target(), &period, occasion, config.query.as_ref()).await;
        let (name, period) = (&self.name, &tick.name);
        let (round, messages) = match fired.map_err(|error| Failure::Fault(error.to_string()))? {
            Fired::Ran { round, messages } => (round, messages),
            Fired::Already => return Err(already(link, name, period).await?),
            Fired::Elsewhere => {
                return Err(Failure::Fault(format!(
                    "a relay, or somebody else, is running {name} right now; see what became of it \
                     with: outboxd schedule list"
                )));
            }
            Fired::Paused | Fired::Moved => {
                return Err(Failure::Fault(
                    "everything is paused, schedules too; let it go on with: outboxd resume --all, \
                     or in a restored copy: outboxd resume --restored"
                        .to_owned(),
                ));
            }
        };
        if as_json {
            say_json(&json!({
                "schedule": name, "period": period, "round": round, "messages": messages,
            }));
        } else {
            let times = if round > 1 { format!(", round {round}") } else { String::new() };
            let plural = if messages == 1 { "" } else { "s" };
            say(&format!("{name}: period {period}{times} ran, {messages} message{plural}"));
        }
        Ok(Verdict::Ok)
    }

    fn tick(&self, config: &ScheduleConfig, now: Timestamp) -> Result<Tick, Failure> {
        let latest = config.every.latest(now);
        match &self.period {
            None => latest.ok_or_else(|| Failure::Usage("no period has come yet".to_owned())),
            Some(name) => config.every.named(name).ok_or_else(|| {
                let like = latest.or_else(|| config.every.next(now));
                let like = like.map_or("2026-11-20".to_owned(), |tick| tick.name);
                Failure::Usage(format!(
                    "{} ({}) has no period {name}; they are called like {like}",
                    self.name,
                    config.every.words()
                ))
            }),
        }
    }
}

/// Enters a schedule that no relay has seen yet; answers the database's time.
async fn enter(link: &Link, config: &ScheduleConfig) -> Result<Timestamp, Failure> {
    let name = config.name.as_str();
    let standing = schedule::standing(link, &[name]).await?;
    if standing.schedules.is_empty() {
        let rule = config.every.words();
        schedule::enter(link, name, &rule, config.late_after, config.valid_from).await?;
    }
    Ok(standing.now)
}

async fn already(link: &Link, schedule: &str, period: &str) -> Result<Failure, Failure> {
    let ran = last_run(link, schedule, period).await?;
    let when = ran.map_or(String::new(), |(_, at, actor)| {
        format!(" at {}, started by {}", moment(at), plain(&actor))
    });
    Ok(Failure::Fault(format!(
        "period {period} of {schedule} ran already{when}; to have all of its messages written once \
         more, say --again"
    )))
}

fn no_such_schedule(name: &str, config: &Config) -> Failure {
    let known: Vec<&str> = config.schedules.keys().map(Name::as_str).collect();
    let known = match known.as_slice() {
        [] => "it has none".to_owned(),
        known => format!("it has {}", known.join(", ")),
    };
    Failure::Usage(format!("the config has no schedule {}; {known}", plain(name)))
}
