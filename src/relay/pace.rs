//! Pace: how many attempts may begin for each domain of `From:` (`sender_rate`).
//!
//! Whose turn it is not yet is given one: the row is put back until then, once, and not looked at before.
//! Those of its lane who come meanwhile stand behind it. So however many wait, each of them costs one write,
//! and no other domain waits for them, nor does a higher lane stand behind a lower one.
//!
//! One process works a sink, so its memory is exact. Over a reload it is kept; where another process had the
//! sink before, nothing is known of what that one began: a span of up to a minute is waited for, and within
//! a longer one attempts begin evenly, as if the former owner's had been spread so.

use std::collections::hash_map::{DefaultHasher, HashMap};
use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::hand::Place;
use crate::policy::{Lane, Rate};

/// Attempts are counted in buckets of one part in so many of the period. A bucket counts in full as long as
/// any part of it lies within the period, so no span of that length ever holds more than the rate.
const BUCKETS: u64 = 60;
/// So far ahead turns are given. Who is further back comes again after that, and within as long once more,
/// so that not all come at the same time.
const AHEAD: Duration = Duration::from_secs(30 * 60);
/// Most rows whose turn is remembered. One that is not stands behind the others when it comes.
const TURNS_MAX: usize = 100_000;
/// Domains are looked through for those that need no memory when there are so many.
const DOMAINS_MANY: usize = 1_000;
/// Up to so long a period is waited for when it is not known what a former owner began within it.
const WAITED_FOR: Duration = Duration::from_secs(60);

/// The paces of the sinks that this process has worked.
#[derive(Debug, Default)]
pub struct Paces(Mutex<BTreeMap<String, (i64, Arc<Pace>)>>);

impl Paces {
    /// The pace of a sink that was taken with `epoch`: as it was, if nobody else had it since.
    pub fn of(&self, sink: &str, rate: Rate, epoch: i64, now: Instant) -> Arc<Pace> {
        let mut paces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known =
            paces.remove(sink).filter(|(last, pace)| last + 1 == epoch && pace.rate == rate);
        let pace = known.map_or_else(|| Arc::new(Pace::new(rate, now)), |(_, pace)| pace);
        paces.insert(sink.to_owned(), (epoch, Arc::clone(&pace)));
        pace
    }
}

/// The pace of one sink.
#[derive(Debug)]
pub struct Pace {
    rate: Rate,
    since: Instant,
    /// The length of a bucket.
    bucket: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    domains: HashMap<String, Domain>,
    /// Rows that were given a turn, and when it is.
    turns: HashMap<u64, Instant>,
    /// When those were last looked through for rows that will not come.
    swept_at: Option<Instant>,
    /// Rows that may begin and have not: their domain, and the bucket they are counted in.
    admitted: HashMap<Place, (String, u64)>,
}

#[derive(Debug, Default)]
struct Domain {
    /// How many began, by bucket, the oldest first.
    began: VecDeque<(u64, u32)>,
    total: u32,
    /// The next turn that is free, in each lane; and among those who found no room when theirs had come,
    /// because others had begun late.
    next: BTreeMap<(Lane, bool), Instant>,
}

impl Pace {
    /// One that knows nothing of what began before.
    #[must_use]
    pub fn new(rate: Rate, now: Instant) -> Pace {
        let nanos = u64::try_from(rate.period.as_nanos()).unwrap_or(u64::MAX).div_ceil(BUCKETS);
        Pace { rate, since: now, bucket: Duration::from_nanos(nanos), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A row of a domain is about to be admitted. If it is not its turn, answers after how long it is;
    /// `far`, drawn from 0 to 1, spreads those who are too far back to be given one.
    ///
    /// # Errors
    /// The wait.
    pub fn admit(
        &self,
        (place, lane): (&Place, Lane),
        domain: &str,
        now: Instant,
        far: f64,
    ) -> Result<(), Duration> {
        let mut state = self.state();
        state.give_back(place, now);
        let had_turn = state.turns.remove(&short(place)).is_some();
        let domain = domain.to_ascii_lowercase();
        state.forget_idle(self, now);
        let here = state.domains.entry(domain.clone()).or_default();
        here.forget(self, now);
        let opens_at = self.opens_at(here);
        let again = here.next.get(&(lane, true)).copied().unwrap_or(now);
        let next = here.next.get(&(lane, false)).copied().unwrap_or(now).max(again);
        if opens_at <= now && (had_turn || next <= now) {
            let bucket = self.bucket_of(now);
            here.begin(bucket);
            if !had_turn && now < self.since + self.rate.period {
                here.next.insert((lane, false), now + self.gap());
            }
            state.admitted.insert(place.clone(), (domain, bucket));
            return Ok(());
        }
        let turn = if had_turn { again } else { next }.max(opens_at).max(now);
        if turn > now + AHEAD {
            return Err(AHEAD + AHEAD.mul_f64(far));
        }
        here.next.insert((lane, had_turn), turn + self.gap());
        state.remember(place, turn, now);
        // Never earlier, and never at once: it would only come back.
        Err((turn - now).max(Duration::from_millis(1)))
    }

    /// A row begins whose domain is now certain.
    ///
    /// # Errors
    /// The wait, if it is not its turn.
    pub fn begin(
        &self,
        (place, lane): (&Place, Lane),
        domain: &str,
        now: Instant,
        far: f64,
    ) -> Result<(), Duration> {
        // Counted from now on, and not from when it was admitted.
        self.admit((place, lane), domain, now, far)?;
        self.state().admitted.remove(place);
        Ok(())
    }

    /// A row that was admitted does not begin after all. When it comes again, it is its turn.
    pub fn give_back(&self, place: &Place, now: Instant) {
        self.state().give_back(place, now);
    }

    /// From when on there is room for one more of a domain.
    fn opens_at(&self, here: &Domain) -> Instant {
        let is_waited_for = self.rate.period <= WAITED_FOR;
        let known_from = if is_waited_for { self.since + self.window() } else { self.since };
        let is_full = here.total >= self.rate.count.get();
        let oldest = here.began.front().filter(|_| is_full);
        oldest.map_or(known_from, |(bucket, _)| known_from.max(self.leaves_at(*bucket)))
    }

    /// When a bucket no longer lies within the period.
    fn leaves_at(&self, bucket: u64) -> Instant {
        let nanos = u128::from(bucket + BUCKETS + 1) * self.bucket.as_nanos();
        self.since + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn bucket_of(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.since).as_nanos();
        u64::try_from(passed / self.bucket.as_nanos().max(1)).unwrap_or(u64::MAX)
    }

    /// The period and the bucket that has begun within it.
    fn window(&self) -> Duration {
        self.bucket * u32::try_from(BUCKETS + 1).expect("a small number")
    }

    /// From one turn to the next: a little more than it must be, as rows come a little late.
    fn gap(&self) -> Duration {
        self.window() * 33 / 32 / self.rate.count.get()
    }
}

impl State {
    fn give_back(&mut self, place: &Place, now: Instant) {
        let Some((domain, bucket)) = self.admitted.remove(place) else { return };
        self.remember(place, now, now);
        let Some(domain) = self.domains.get_mut(&domain) else { return };
        if let Some((_, count)) = domain.began.iter_mut().find(|(known, _)| *known == bucket) {
            *count -= 1;
            domain.total -= 1;
        }
    }

    /// Remembers whose turn it is when.
    fn remember(&mut self, place: &Place, turn: Instant, now: Instant) {
        if self.turns.len() >= TURNS_MAX {
            // Some were closed by others meanwhile, and will not come.
            if self.swept_at.is_some_and(|swept_at| now < swept_at + AHEAD) {
                return;
            }
            self.turns.retain(|_, turn| *turn + AHEAD > now);
            self.swept_at = Some(now);
        }
        self.turns.insert(short(place), turn);
    }

    /// Domains may come from messages, so there is no end of them.
    fn forget_idle(&mut self, pace: &Pace, now: Instant) {
        if self.domains.len() < DOMAINS_MANY || !self.domains.len().is_power_of_two() {
            return;
        }
        self.domains.retain(|_, domain| {
            domain.forget(pace, now);
            domain.total > 0 || domain.next.values().any(|next| *next > now)
        });
    }
}

impl Domain {
    fn forget(&mut self, pace: &Pace, now: Instant) {
        while let Some((bucket, count)) = self.began.front().copied() {
            if pace.leaves_at(bucket) > now {
                return;
            }
            self.total -= count;
            self.began.pop_front();
        }
    }

    fn begin(&mut self, bucket: u64) {
        self.total += 1;
        match self.began.back_mut() {
            Some((last, count)) if *last == bucket => *count += 1,
            _ => self.began.push_back((bucket, 1)),
        }
    }
}

/// What is remembered of a row: if two had the same, one of them would be taken for the other, and its turn
/// would come early.
fn short(place: &Place) -> u64 {
    let mut hasher = DefaultHasher::new();
    place.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::num::NonZeroU32;

    use super::*;

    fn rate(count: u32, seconds: u64) -> Rate {
        let count = NonZeroU32::new(count).unwrap();
        Rate { count, period: Duration::from_secs(seconds) }
    }

    fn place(id: i64) -> Place {
        (id, String::new())
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Rows come at once, and each again when its turn is; answers when each began, and how often they were
    /// put back.
    fn play(pace: &Pace, domain: &str, from: Instant, rows: i64) -> (Vec<Instant>, usize) {
        let mut waiting: BTreeSet<(Instant, i64)> = (0..rows).map(|id| (from, id)).collect();
        let (mut began, mut pushes) = (Vec::new(), 0);
        while let Some((now, id)) = waiting.pop_first() {
            match pace.begin((&place(id), Lane::Low), domain, now, 0.5) {
                Ok(()) => began.push(now),
                Err(wait) => {
                    pushes += 1;
                    // A row comes back a little late, one more than another.
                    waiting.insert((now + wait + ms(id.unsigned_abs() * 7 % 40), id));
                }
            }
        }
        (began, pushes)
    }

    fn most_within(began: &[Instant], span: Duration) -> usize {
        let within = |(n, at): (usize, &Instant)| {
            began[n..].iter().take_while(|other| **other < *at + span).count()
        };
        began.iter().enumerate().map(within).max().unwrap()
    }

    #[test]
    fn no_span_holds_more_than_the_rate_and_each_row_is_put_back_once() {
        let now = Instant::now();
        for (count, seconds) in [(14, 1), (1, 1), (600, 60), (500, 3_600)] {
            let (rate, period) = (rate(count, seconds), Duration::from_secs(seconds));
            let (began, pushes) = play(&Pace::new(rate, now), "shop.example", now, 1_000);
            assert_eq!(began.len(), 1_000);
            assert!(most_within(&began, period) <= count as usize, "{rate:?}");
            let took = (began[999] - began[0]).as_secs_f64();
            let best = period.as_secs_f64() * 1_000.0 / f64::from(count);
            assert!(took < best * 1.1 + period.as_secs_f64(), "{rate:?}: {took} s");
            // Those who are too far back come again, about once in AHEAD.
            let most = if best < AHEAD.as_secs_f64() { 1_300 } else { 6_000 };
            assert!(pushes <= most, "{rate:?}: {pushes} times put back");
        }
    }

    #[test]
    fn another_domain_waits_for_nobody_and_newcomers_stand_behind() {
        let now = Instant::now();
        let pace = Pace::new(rate(10, 1), now);
        let now = now + ms(2_000);
        let admit = |id, domain, at| pace.begin((&place(id), Lane::Low), domain, at, 0.5);
        for id in 0..10 {
            assert_eq!(admit(id, "a.example", now), Ok(()));
        }
        let turn = admit(10, "A.example", now).unwrap_err();
        assert!(turn > ms(1_000) && turn < ms(1_050), "{turn:?}");
        let next = admit(11, "a.example", now).unwrap_err();
        assert!(next > turn + ms(100), "{next:?}");
        assert_eq!(admit(12, "b.example", now), Ok(()));
        // There is room by now, and it belongs to those who wait.
        let at = now + turn;
        assert!(admit(13, "a.example", at).is_err());
        assert_eq!(admit(10, "a.example", at), Ok(()));
    }

    #[test]
    fn what_was_admitted_counts_from_then_on_and_what_does_not_begin_is_given_back() {
        let now = Instant::now();
        let pace = Pace::new(rate(2, 1), now);
        let now = now + ms(2_000);
        assert_eq!(pace.admit((&place(1), Lane::Low), "a.example", now, 0.5), Ok(()));
        assert_eq!(pace.admit((&place(2), Lane::Low), "a.example", now, 0.5), Ok(()));
        pace.give_back(&place(2), now);
        assert_eq!(
            pace.admit((&place(3), Lane::Low), "a.example", now, 0.5),
            Ok(()),
            "there is room again"
        );
        assert!(pace.admit((&place(4), Lane::Low), "a.example", now, 0.5).is_err());
        assert_eq!(
            pace.begin((&place(1), Lane::Low), "a.example", now, 0.5),
            Ok(()),
            "it is counted already"
        );
        pace.give_back(&place(1), now);
        assert!(pace.begin((&place(5), Lane::Low), "a.example", now, 0.5).is_err(), "it began");
        // Asked again, it is counted once.
        assert_eq!(pace.admit((&place(3), Lane::Low), "a.example", now, 0.5), Ok(()));
        assert_eq!(pace.state().domains["a.example"].total, 2);
    }

    #[test]
    fn who_is_far_back_comes_again_later_and_not_all_at_once() {
        let now = Instant::now();
        let pace = Pace::new(rate(1, 60), now);
        let now = now + ms(61_001);
        let waits = (0..100).map(|id| {
            let far = f64::from(id) / 100.0;
            pace.begin((&place(id.into()), Lane::Low), "a.example", now, far)
                .err()
                .unwrap_or_default()
        });
        let waits: Vec<_> = waits.collect();
        assert_eq!(waits.iter().filter(|wait| **wait <= AHEAD).count(), 29);
        assert!(waits.iter().all(|wait| *wait < AHEAD * 2));
        assert!(waits[99] > waits[50], "{waits:?}");
    }

    #[test]
    fn over_a_reload_it_is_kept_and_of_another_owner_nothing_is_known() {
        let (paces, now) = (Paces::default(), Instant::now());
        let fresh = |epoch, rate, at| {
            let pace = paces.of("mail", rate, epoch, at);
            pace.begin((&place(1), Lane::Low), "a.example", at, 0.5)
        };
        let second = rate(1, 1);
        let wait = fresh(1, second, now).unwrap_err();
        assert!(
            wait > ms(1_000) && wait < ms(1_050),
            "what was begun before is waited for: {wait:?}"
        );
        let now = now + ms(5_000);
        assert_eq!(fresh(2, second, now), Ok(()), "nobody had it since");
        assert!(fresh(4, second, now).is_err(), "somebody had it between");
        // Within a long period attempts begin evenly at first.
        let hourly = rate(60, 3_600);
        assert_eq!(fresh(5, hourly, now), Ok(()));
        let pace = paces.of("mail", hourly, 6, now);
        let waits: Vec<u64> = (2..5)
            .map(|id| {
                pace.begin((&place(id), Lane::Low), "a.example", now, 0.5).unwrap_err().as_secs()
            })
            .collect();
        assert_eq!(waits, [62, 125, 188]);
    }

    #[test]
    fn domains_without_work_are_forgotten() {
        let now = Instant::now();
        let pace = Pace::new(rate(5, 1), now);
        for id in 0..5_000 {
            let at = now + ms(2_000 + 10 * u64::try_from(id).unwrap());
            pace.begin((&place(id), Lane::Low), &format!("{id}.example"), at, 0.5).unwrap();
        }
        assert!(pace.state().domains.len() < 1_500, "{}", pace.state().domains.len());
    }

    #[test]
    fn a_higher_lane_does_not_stand_behind_a_lower_one() {
        let now = Instant::now();
        let pace = Pace::new(rate(10, 1), now);
        let now = now + ms(2_000);
        let begin = |id, lane, at| pace.begin((&place(id), lane), "a.example", at, 0.5);
        for id in 0..1_000 {
            let _ = begin(id, Lane::Low, now);
        }
        let behind = begin(1_000, Lane::Low, now).unwrap_err();
        assert!(behind > Duration::from_secs(90), "{behind:?}");
        let turn = begin(1_001, Lane::High, now).unwrap_err();
        assert!(turn < ms(1_050), "{turn:?}");
        assert_eq!(begin(1_001, Lane::High, now + turn), Ok(()));
    }

    #[test]
    fn who_finds_no_room_when_its_turn_has_come_does_not_stand_behind_the_others_again() {
        let now = Instant::now();
        let pace = Pace::new(rate(10, 1), now);
        let now = now + ms(2_000);
        let begin = |id, at| pace.begin((&place(id), Lane::Low), "a.example", at, 0.5);
        let turns: Vec<_> = (0..1_000).map(|id| begin(id, now)).collect();
        // All come back after a pause, as when the sink waited: ten begin, the others queue up again.
        let at = now + Duration::from_secs(20);
        let again: Vec<_> = (10..1_000).map(|id| begin(id, at)).collect();
        assert_eq!((turns[9], again[9]), (Ok(()), Ok(())));
        let (soon, last) = (again[10].unwrap_err(), again[989].unwrap_err());
        assert!(soon < ms(1_050) && last > Duration::from_secs(90), "{soon:?} {last:?}");
        assert!(begin(2_000, at).unwrap_err() > last, "a newcomer stands behind them");
    }

    #[test]
    fn turns_of_rows_that_never_come_are_forgotten() {
        let now = Instant::now();
        let pace = Pace::new(rate(1_000_000, 86_400), now);
        let (mut state, mut at) = (pace.state(), now);
        for id in 0..300_000 {
            at += ms(50);
            state.remember(&place(id), at, at);
        }
        assert!(state.turns.len() <= TURNS_MAX);
        assert!(state.turns.contains_key(&short(&place(299_999))));
    }
}
