//! Schedule: messages that fall due by the calendar are written, by whichever relay comes first.
//!
//! There is no leader and no memory. A period is a row, entered in the transaction that writes its
//! messages, and unique; that alone keeps it from running twice, whatever clocks and relays do. Which
//! period is due is decided by the database's clock, purely, in `plan`; `store::schedule` runs it.
//!
//! Up to where a schedule is settled stands in its row. That moves on with every period that runs or is
//! passed over, and otherwise once a day, to the begin of the day on which a relay looks. So a rule that
//! was changed concerns today at the earliest: no day that is over becomes due by it. Today's period runs
//! once, whatever its time was moved to.

mod plan;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::config::ScheduleConfig;
use crate::delivery::clean_text;
use crate::metrics::{Metrics, RunEnd};
use crate::store::schedule::{self, Fired, Occasion, Passed, Period, Stand, Standing};
use crate::store::{Link, StoreError, Target};
use plan::{Due, Seen, Step, later, plan};

/// Shortest and longest time between two looks where nothing went wrong.
const LOOK_MIN: Duration = Duration::from_millis(10);
const LOOK_MAX: Duration = Duration::from_secs(30);
/// How often a paused installation is looked at.
const LOOK_PAUSED: Duration = Duration::from_secs(5);
/// Between two looks that lie further apart than this nobody was there.
const GAP: Duration = Duration::from_secs(45);
/// How soon a schedule is looked at again that somebody else is at.
const ELSEWHERE: Duration = Duration::from_secs(1);
/// First and longest pause after a failure.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Runs the schedules of a config.
pub struct Scheduler {
    schedules: Vec<Watched>,
    link: Link,
    target: Arc<Target>,
    relay: Arc<str>,
    metrics: Metrics,
    entered: bool,
    /// The last look, by the database's clock; none while paused.
    looked_at: Option<Timestamp>,
    /// Since when the looks have had no gap.
    there_since: Option<Timestamp>,
    /// Runs under way, by task: which schedule.
    running: HashMap<Id, usize>,
    runs: JoinSet<Result<Fired, StoreError>>,
}

/// A schedule and how it goes.
struct Watched {
    config: Arc<ScheduleConfig>,
    /// The period of the run that is under way, or was last.
    period: String,
    pause: Duration,
    /// After a failure: not before.
    not_before: Option<Instant>,
}

impl Scheduler {
    /// Connects to nothing yet.
    pub fn new(
        target: &Arc<Target>,
        schedules: Vec<Arc<ScheduleConfig>>,
        relay: String,
        metrics: Metrics,
    ) -> Scheduler {
        let watched =
            |config| Watched { config, period: String::new(), pause: PAUSE_MIN, not_before: None };
        Scheduler {
            schedules: schedules.into_iter().map(watched).collect(),
            link: Link::new(Arc::clone(target)),
            target: Arc::clone(target),
            relay: relay.into(),
            metrics,
            entered: false,
            looked_at: None,
            there_since: None,
            running: HashMap::new(),
            runs: JoinSet::new(),
        }
    }

    /// Runs what is due until dropped. What is under way then is rolled back, and due elsewhere.
    pub async fn run(mut self) {
        if self.schedules.is_empty() {
            return;
        }
        let mut pause = PAUSE_MIN;
        loop {
            let wait = match self.look().await {
                Ok(wait) => {
                    pause = PAUSE_MIN;
                    wait
                }
                Err(error) => {
                    let retry_in = pause;
                    warn!(%error, ?retry_in, "cannot look what is due by the schedules; trying again");
                    pause = (pause * 2).min(LOOK_MAX);
                    retry_in
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                Some(ended) = self.runs.join_next_with_id() => self.ended(ended),
            }
        }
    }

    /// Does what is due about every schedule; answers how long there is nothing to do.
    async fn look(&mut self) -> Result<Duration, StoreError> {
        if !self.entered {
            self.enter().await?;
        }
        let names: Vec<&str> =
            self.schedules.iter().map(|watched| watched.config.name.as_str()).collect();
        let standing = schedule::standing(&self.link, &names).await?;
        // Somebody took a schedule's row away.
        self.entered = standing.schedules.len() == self.schedules.len();
        if standing.paused {
            (self.looked_at, self.there_since) = (None, None);
            return Ok(LOOK_PAUSED);
        }
        let there_since = self.there_since(standing.now);
        let mut wait = if self.entered { LOOK_MAX } else { LOOK_MIN };
        for index in 0..self.schedules.len() {
            let wanted = self.schedules[index].config.name.as_str();
            let Some(stand) = standing.schedules.iter().find(|stand| stand.name == wanted) else {
                continue;
            };
            wait = wait.min(self.step(index, &standing, stand, there_since).await?);
        }
        Ok(wait.max(LOOK_MIN))
    }

    async fn enter(&mut self) -> Result<(), StoreError> {
        for Watched { config, .. } in &self.schedules {
            let (name, rule) = (config.name.as_str(), config.every.words());
            schedule::enter(&self.link, name, &rule, config.late_after, config.valid_from).await?;
        }
        Ok(())
    }

    /// Since when this relay has been there, by the database's clock, which can be set back.
    fn there_since(&mut self, now: Timestamp) -> Timestamp {
        let goes_on = self.looked_at.is_some_and(|last| last <= now && now <= later(last, GAP));
        self.looked_at = Some(now);
        let since = self.there_since.filter(|_| goes_on).unwrap_or(now);
        self.there_since = Some(since);
        since
    }

    /// Does what is due about one schedule; answers how long there is nothing to do.
    async fn step(
        &mut self,
        index: usize,
        standing: &Standing,
        stand: &Stand,
        there_since: Timestamp,
    ) -> Result<Duration, StoreError> {
        let watched = &mut self.schedules[index];
        if self.running.values().any(|running| *running == index) {
            return Ok(LOOK_MAX);
        }
        if let Some(at) = watched.not_before {
            let left = at.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                return Ok(left);
            }
        }
        let config = Arc::clone(&watched.config);
        let seen = Seen {
            now: standing.now,
            settled_until: stand.settled_until,
            settled_by_period: stand.settled_by_period,
            there_since,
        };
        match plan(&config, &seen) {
            Step::Run(due) => {
                watched.period.clone_from(&due.tick.name);
                let run = run(Arc::clone(&self.target), Arc::clone(&self.relay), config, due, seen);
                let id = self.runs.spawn(run).id();
                self.running.insert(id, index);
                Ok(LOOK_MAX)
            }
            Step::PassOver(due) => self.pass_over(&config, &due, &seen).await,
            Step::Wait { next_at, settled } => {
                if settled.is_some() || next_at != stand.next_at {
                    schedule::settle(&self.link, &stand.name, settled, next_at).await?;
                }
                let until = next_at.map_or(LOOK_MAX, |next| {
                    Duration::try_from(next.duration_since(standing.now)).unwrap_or_default()
                });
                Ok(until.min(LOOK_MAX))
            }
        }
    }

    async fn pass_over(
        &self,
        config: &ScheduleConfig,
        due: &Due,
        seen: &Seen,
    ) -> Result<Duration, StoreError> {
        let passed = Passed {
            schedule: config.name.as_str(),
            settled_until: seen.settled_until,
            name: &due.tick.name,
            due_at: due.tick.at,
            before: due.passed,
            actor: &self.relay,
            next_at: due.next_at,
        };
        if !schedule::pass_over(&self.link, &passed).await? {
            return Ok(ELSEWHERE);
        }
        let periods = u64::try_from(due.passed + 1).unwrap_or_default();
        self.metrics.ran(config.name.as_str(), RunEnd::Missed, periods);
        warn!(
            schedule = config.name.as_str(),
            period = due.tick.name,
            periods = due.passed + 1,
            "passed over: nobody was there in time; run one with: outboxd schedule run {} --period …",
            config.name
        );
        Ok(Duration::ZERO)
    }

    /// Takes note of a run that ended.
    fn ended(&mut self, ended: Result<(Id, Result<Fired, StoreError>), JoinError>) {
        let (id, outcome) = match ended {
            Ok((id, outcome)) => (id, Some(outcome)),
            Err(error) => (error.id(), None),
        };
        let Some(index) = self.running.remove(&id) else { return };
        let watched = &mut self.schedules[index];
        let (schedule, period) = (watched.config.name.as_str(), watched.period.as_str());
        let retry_in = watched.pause;
        let mut failed = true;
        match outcome {
            Some(Ok(Fired::Ran { messages, .. })) => {
                info!(schedule, period, messages, "the period ran");
                self.metrics.ran(schedule, RunEnd::Ran, 1);
                failed = false;
            }
            Some(Ok(fired)) => {
                debug!(schedule, period, ?fired, "the period is not this relay's to run");
                failed = false;
                // Whoever is at it may take a while.
                let elsewhere = fired == Fired::Elsewhere;
                watched.not_before = elsewhere.then(|| Instant::now() + ELSEWHERE);
            }
            Some(Err(error)) => warn!(
                schedule,
                period,
                %error,
                ?retry_in,
                "the period could not run: none of its messages was written, it stays due"
            ),
            None => error!(schedule, period, ?retry_in, "a run broke off: a fault in outboxd"),
        }
        if failed {
            self.metrics.ran(schedule, RunEnd::Failed, 1);
            watched.not_before = Some(Instant::now() + retry_in);
            watched.pause = (retry_in * 2).min(PAUSE_MAX);
        } else {
            watched.pause = PAUSE_MIN;
        }
    }
}

/// Runs a period.
async fn run(
    target: Arc<Target>,
    relay: Arc<str>,
    config: Arc<ScheduleConfig>,
    due: Due,
    seen: Seen,
) -> Result<Fired, StoreError> {
    let period = Period {
        schedule: config.name.as_str(),
        name: &due.tick.name,
        message_type: &config.message_type,
        from: due.from,
        due_at: due.tick.at,
        late_at: later(due.ready_at, config.late_after),
        actor: &relay,
    };
    let occasion = Occasion::Due {
        settled_until: seen.settled_until,
        passed: due.passed,
        next_at: due.next_at,
    };
    let fired = schedule::fire(&target, &period, occasion, config.query.as_ref()).await;
    if let Err(error) = &fired {
        let reason = clean_text(&format!("{}: {error}", due.tick.name));
        if let Err(error) = schedule::note(&Link::new(target), config.name.as_str(), &reason).await
        {
            debug!(schedule = config.name.as_str(), %error, "cannot note why");
        }
    }
    fired
}
