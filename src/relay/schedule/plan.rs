//! What is to be done about a schedule now. Pure.

use std::time::Duration;

use jiff::{Span, Timestamp};
use sha2::{Digest, Sha256};

use crate::calendar::Tick;
use crate::config::{CatchUp, ScheduleConfig};

/// Most ticks looked at in one step; the next step looks on.
const LOOKED_AT_MAX: usize = 500;
/// With `catch_up = "skip"`: how late a tick may be found by a relay that was not there for it.
const IN_TIME: Duration = Duration::from_secs(60);

/// What is known of a schedule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// The database's time.
    pub now: Timestamp,
    /// Nothing up to then is looked at again.
    pub settled_until: Timestamp,
    /// A period was due then: it ran, or was passed over.
    pub settled_by_period: bool,
    /// Since when this relay has been looking without a gap.
    pub there_since: Timestamp,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A period runs.
    Run(Due),
    /// Periods are passed over; this is the newest of them.
    PassOver(Due),
    /// Nothing, until something comes next, if ever.
    Wait {
        /// When that is.
        next_at: Option<Timestamp>,
        /// What lies up to then is settled.
        settled: Option<Timestamp>,
    },
}

/// A period that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// Its tick.
    pub tick: Tick,
    /// The tick before: where the period begins.
    pub from: Timestamp,
    /// When it falls due: at its tick, or so much later as `jitter` has it.
    pub ready_at: Timestamp,
    /// How many periods before it are passed over with it.
    pub passed: i64,
    /// What comes after it.
    pub next_at: Option<Timestamp>,
}

/// What is to be done about a schedule now.
///
/// Periods are looked at from where the schedule is settled, in order. Which of those that are due run
/// is for `catch_up` and `max_lateness` to say. If none is due, what lies before today is settled: no
/// rule that is written later makes it due.
pub(super) fn plan(config: &ScheduleConfig, seen: &Seen) -> Step {
    let mut due: Vec<(Tick, Timestamp)> = Vec::new();
    let mut coming = first(config, seen);
    let next = loop {
        let Some(tick) = coming else { break None };
        let after = config.every.next(tick.at);
        let ready_at = ready_at(config, &tick, after.as_ref());
        if ready_at > seen.now || due.len() == LOOKED_AT_MAX {
            break Some((tick, ready_at));
        }
        due.push((tick, ready_at));
        coming = after;
    };
    let Some((_, last_ready_at)) = due.last() else {
        return wait(config, seen, next.as_ref());
    };
    let more = next.as_ref().is_some_and(|(_, ready_at)| *ready_at <= seen.now);
    let late = |ready_at| config.max_lateness.is_some_and(|max| seen.now > later(ready_at, max));
    let too_late = match config.catch_up {
        CatchUp::All => due.iter().take_while(|(_, ready_at)| late(*ready_at)).count(),
        CatchUp::Latest if !more && !late(*last_ready_at) => 0,
        CatchUp::Skip if !more && !late(*last_ready_at) && was_there(seen, *last_ready_at) => 0,
        CatchUp::Latest | CatchUp::Skip => due.len(),
    };
    let (count, step): (usize, fn(Due) -> Step) = match (too_late, config.catch_up) {
        (0, CatchUp::All) => (1, Step::Run),
        (0, CatchUp::Latest | CatchUp::Skip) => (due.len(), Step::Run),
        (count, _) => (count, Step::PassOver),
    };
    let next_at = due.get(count).or(next.as_ref()).map(|(_, ready_at)| *ready_at);
    let (tick, ready_at) = due.swap_remove(count - 1);
    let from = config.every.before(&tick).map_or(tick.at, |before| before.at);
    let passed = i64::try_from(count - 1).unwrap_or(i64::MAX);
    step(Due { tick, from, ready_at, passed, next_at })
}

/// The first tick that is not settled.
fn first(config: &ScheduleConfig, seen: &Seen) -> Option<Tick> {
    let calendar = &config.every;
    match config.valid_from.map(just_before) {
        Some(begin) if begin > seen.settled_until => calendar.next(begin),
        _ if seen.settled_by_period => calendar.next_after_settled(seen.settled_until),
        _ => calendar.next(seen.settled_until),
    }
}

/// Nothing is due. Days that are over are settled, but not what waits for its jitter.
fn wait(config: &ScheduleConfig, seen: &Seen, next: Option<&(Tick, Timestamp)>) -> Step {
    let today = just_before(config.every.start_of_day(seen.now));
    let waits = next.is_some_and(|(tick, _)| tick.at <= today);
    let settled = (today > seen.settled_until && !waits).then_some(today);
    Step::Wait { next_at: next.map(|(_, ready_at)| *ready_at), settled }
}

/// Whether this relay was looking when a period fell due, or came hardly later.
fn was_there(seen: &Seen, ready_at: Timestamp) -> bool {
    seen.there_since <= ready_at || seen.now <= later(ready_at, IN_TIME)
}

/// When a period falls due: its share of `jitter` after its tick, the same on every relay, and never
/// after the tick that follows.
pub(super) fn ready_at(config: &ScheduleConfig, tick: &Tick, next: Option<&Tick>) -> Timestamp {
    let room = next.map_or(Duration::MAX, |next| {
        Duration::try_from(next.at.duration_since(tick.at)).unwrap_or_default()
    });
    let micros = config.jitter.min(room).as_micros();
    let hash = Sha256::digest(format!("{}/{}", config.name, tick.name));
    let share = hash.iter().take(4).fold(0_u128, |sum, byte| (sum << 8) | u128::from(*byte));
    let micros = u64::try_from((micros * share) >> 32).unwrap_or(u64::MAX);
    later(tick.at, Duration::from_micros(micros))
}

/// An instant so much later.
pub(super) fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// The database counts in microseconds.
fn just_before(at: Timestamp) -> Timestamp {
    at.checked_sub(Span::new().microseconds(1)).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests;
