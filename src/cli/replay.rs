//! `outboxd replay`: closed deliveries are sent again, under the idempotency keys they had.

use std::fmt::Write as _;
use std::time::Duration;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde_json::json;

use super::actor::actor;
use super::bulk::{changed_json, confirmed, names, unchanged};
use super::filter::Which;
use super::words::{self, DeliveryName, delivery_name};
use super::{Answer, Failure, Verdict, connect, same_installation, say, say_aside, say_json};
use crate::config::Config;
use crate::policy::Lane;
use crate::store::inspect::act::{Looked, Spacing, replay_message, replay_page};
use crate::store::inspect::page::{Closed, ClosedRow, closed, now};
use crate::store::inspect::status::Count;
use crate::store::{Link, StoreError};

const EXAMPLES: &str = "\
Examples:
  outboxd replay 42/crm                           one delivery, now
  outboxd replay --sink crm --since 2026-11-20T08:00:00Z --dry-run
  outboxd replay --sink crm --since 2026-11-20T08:00:00Z --until 2026-11-20T12:00:00Z --rate 100/min
  outboxd replay --sink mail --since 2026-11-20T00:00:00Z --type 'order.*' --outcome discarded

The receiver sees the same webhook-id or Message-ID again. Many wait in the low lane, behind what
is new; but later messages of their keys wait behind them. Two who replay the same begin it once.";

/// How many a dry run shows.
const SHOWN_MAX: usize = 10;

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Replay {
    /// The message, or one of its deliveries
    #[arg(value_name = "MESSAGE[/SINK[/TARGET]]")]
    name: Option<DeliveryName>,
    #[command(flatten)]
    which: Which,
    /// Only what was closed at this instant or later
    #[arg(long, value_name = "T", value_parser = words::instant, requires = "sink")]
    since: Option<Timestamp>,
    /// Only what was closed before this instant
    #[arg(long, value_name = "T", value_parser = words::instant, requires = "since")]
    until: Option<Timestamp>,
    /// Only what was closed so; may be given again [default: delivered]
    #[arg(long, requires = "since")]
    outcome: Vec<Outcome>,
    /// At most so many, evenly spaced: 10/s, 100/min, 500/h
    #[arg(long, value_name = "RATE", value_parser = words::every, requires = "since")]
    rate: Option<Duration>,
    /// Say how many there are and show the first, send nothing
    #[arg(long, requires = "since")]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Outcome {
    /// It was delivered
    Delivered,
    /// Its time passed before it was sent
    Expired,
    /// An operator discarded it
    Discarded,
}

/// What a look at all that may be replayed found.
struct Found {
    count: Count,
    first: Vec<ClosedRow>,
}

impl Replay {
    pub async fn run(&self, config: &Config) -> Answer {
        let link = connect(config);
        match (&self.name, &self.which.sink, self.since) {
            (Some(_), ..) if self.since.is_some() || self.which.sink.is_some() => {
                Err(Failure::Usage("replay a named delivery, or all that fit, not both".to_owned()))
            }
            (Some(name), ..) => {
                same_installation(&link, config).await?;
                self.one(&link, name).await
            }
            (None, Some(sink), Some(since)) => {
                same_installation(&link, config).await?;
                // An unknown sink may be a slip.
                self.which.sinks(&link).await?;
                // What is closed from now on is not meant.
                let until = match self.until {
                    Some(until) => until,
                    None => now(&link).await?,
                };
                self.all(&link, self.asked(sink, since, until)).await
            }
            (None, ..) => Err(Failure::Usage(
                "name what to replay: MESSAGE[/SINK[/TARGET]], or all of a sink with --sink and --since"
                    .to_owned(),
            )),
        }
    }

    async fn one(&self, link: &Link, name: &DeliveryName) -> Answer {
        let (id, sink, target) = (name.message_id, name.sink.as_deref(), name.target.as_deref());
        let replayed = replay_message(link, id, sink, target, &actor()).await?;
        if replayed.is_empty() {
            let wanted =
                "closed through a sink with attempts, whose message is not gone or past its time,";
            return Err(unchanged(link, name, "replay", wanted).await?);
        }
        if self.json {
            say_json(&changed_json("replayed", &replayed));
        } else {
            let count = words::deliveries(replayed.len() as u64);
            say(&format!("{count} to be sent again now: {}", names(&replayed).join(", ")));
        }
        Ok(Verdict::Ok)
    }

    fn asked(&self, sink: &str, since: Timestamp, until: Timestamp) -> Closed {
        let word = |outcome: &Outcome| match outcome {
            Outcome::Delivered => "delivered".to_owned(),
            Outcome::Expired => "expired".to_owned(),
            Outcome::Discarded => "discarded".to_owned(),
        };
        let mut outcomes: Vec<String> = self.outcome.iter().map(word).collect();
        if outcomes.is_empty() {
            outcomes.push("delivered".to_owned());
        }
        Closed { sink: sink.to_owned(), outcomes, since, until }
    }

    async fn all(&self, link: &Link, asked: Closed) -> Answer {
        let found = self.look(link, &asked).await?;
        let (outcomes, which) = (asked.outcomes.join(" or "), self.which.in_words());
        let what = format!("{outcomes} deliveries{which}");
        if self.dry_run {
            self.tell(&found, &what);
            return Ok(Verdict::Ok);
        }
        let question = format!("send {} {what} again{}", found.count, self.takes_long(found.count));
        if !found.count.is_zero() && !self.yes && !confirmed(&question)? {
            say_aside("nothing was changed");
            return Ok(Verdict::Ok);
        }
        let every = self.rate.unwrap_or(Duration::ZERO);
        let (who, lane) = (actor(), Lane::Low.number());
        let (mut replayed, mut after): (u32, i64) = (0, 0);
        while let Some((page, last)) = self.page(link, &asked, after).await? {
            let page: Vec<Looked> = page.iter().map(looked).collect();
            if !page.is_empty() {
                let spacing = Spacing { lane, wait: every.saturating_mul(replayed), every };
                let changed = replay_page(link, &page, &who, spacing).await?;
                replayed =
                    replayed.saturating_add(u32::try_from(changed.len()).unwrap_or(u32::MAX));
            }
            after = last;
        }
        if self.json {
            say_json(&json!({ "replayed": replayed }));
        } else if replayed == 0 {
            say(&format!("no {what} to send again: nothing to do"));
        } else {
            let count = words::deliveries(replayed.into());
            say(&format!("{count}{which} to be sent again"));
        }
        Ok(Verdict::Ok)
    }

    /// The next page that may be replayed, and the last message looked at for it.
    async fn page(
        &self,
        link: &Link,
        asked: &Closed,
        after: i64,
    ) -> Result<Option<(Vec<ClosedRow>, i64)>, StoreError> {
        let page = closed(link, asked, after).await?;
        let Some(last) = page.last().map(|row| row.message_id) else { return Ok(None) };
        let fits = |row: &ClosedRow| {
            row.fits && self.which.takes(row.message_type.as_deref(), row.key.as_deref())
        };
        Ok(Some((page.into_iter().filter(fits).collect(), last)))
    }

    /// Counts them, up to the limit of every count.
    async fn look(&self, link: &Link, asked: &Closed) -> Result<Found, StoreError> {
        let (mut count, mut first, mut after) = (0, Vec::new(), 0);
        while let Some((page, last)) = self.page(link, asked, after).await? {
            count += page.len();
            first.extend(page.into_iter().take(SHOWN_MAX - first.len().min(SHOWN_MAX)));
            if count as u64 > Count::LIMIT {
                break;
            }
            after = last;
        }
        Ok(Found { count: Count::new(i64::try_from(count).unwrap_or(i64::MAX)), first })
    }

    fn tell(&self, found: &Found, what: &str) {
        let name = |row: &ClosedRow| delivery_name(row.message_id, &row.sink, &row.target);
        if self.json {
            say_json(&json!({
                "would_replay": found.count.number,
                "more": found.count.more,
                "first": found.first.iter().map(name).collect::<Vec<_>>(),
            }));
            return;
        }
        let long = self.takes_long(found.count);
        let mut text = format!("would send {} {what} again{long}\n", found.count);
        for row in &found.first {
            let closed = words::moment(row.closed_at);
            let kind = row.message_type.as_deref().unwrap_or_default();
            let _ =
                writeln!(text, "  {}  {}  {} {closed}", name(row), words::plain(kind), row.outcome);
        }
        say(&text);
    }

    /// `, over 4m10s`, where there is a rate.
    fn takes_long(&self, count: Count) -> String {
        let times = u32::try_from(count.number.saturating_sub(1)).unwrap_or(u32::MAX);
        self.rate.map_or(String::new(), |every| {
            let seconds = every.saturating_mul(times).as_secs();
            let more = if count.more { " or more" } else { "" };
            format!(", over {}{more}", words::age(i64::try_from(seconds).unwrap_or(i64::MAX)))
        })
    }
}

fn looked(row: &ClosedRow) -> Looked {
    Looked {
        message_id: row.message_id,
        sink: row.sink.clone(),
        target: row.target.clone(),
        seen: row.round,
    }
}
