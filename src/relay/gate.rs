//! The gate of a sink: how many attempts may run now. Holds the breakers of the sink and of its host,
//! and what the receiver or a limit asked to wait for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::breaker::{Breaker, Opened};
use crate::alert::REFUSES_US;
use crate::delivery::{Cause, Outcome};
use crate::metrics::WaitsFor;

/// First and longest wait after a receiver asked for less without saying for how long.
const THROTTLE_MIN: Duration = Duration::from_secs(5);
const THROTTLE_MAX: Duration = Duration::from_secs(300);
/// So many different messages that are refused by policy, with none accepted between, mean us.
const POLICY_RUN: usize = 10;

/// The breakers of the hosts that this relay's sinks talk to, one for sinks that share a host.
#[derive(Debug, Default)]
pub struct Hosts(Mutex<BTreeMap<String, Arc<Mutex<Breaker>>>>);

impl Hosts {
    /// The breaker of a host, named as `name:port`.
    pub fn of(&self, host: &str) -> Arc<Mutex<Breaker>> {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let breaker = hosts.entry(host.to_owned());
        Arc::clone(breaker.or_insert_with(|| Arc::new(Mutex::new(Breaker::new()))))
    }
}

/// How many attempts of a sink may run.
pub struct Gate {
    /// Connections are the host's affair, answers the sink's.
    host: Arc<Mutex<Breaker>>,
    own: Mutex<Own>,
}

struct Own {
    breaker: Breaker,
    waits: Option<Waits>,
    /// The wait after the next "less, please" that does not say for how long.
    throttle: Duration,
    /// The message that was last told so, and whether others were delivered since.
    throttled: Option<(i64, bool)>,
    /// The message that was last refused with all of us, likewise.
    barred: Option<(i64, bool)>,
    /// When something was last accepted.
    accepted_at: Option<Instant>,
    /// Messages that were refused by policy since then, up to as many as count.
    policy: Vec<i64>,
}

/// Until when a sink waits, and what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waits {
    /// Until when.
    pub until: Instant,
    /// What for.
    pub why: WaitsFor,
    /// The same in words for the operator.
    pub reason: String,
}

impl Gate {
    /// Open, but for what the host's breaker says.
    #[must_use]
    pub fn new(host: Arc<Mutex<Breaker>>) -> Gate {
        let own = Own {
            breaker: Breaker::new(),
            waits: None,
            throttle: THROTTLE_MIN,
            throttled: None,
            barred: None,
            accepted_at: None,
            policy: Vec::new(),
        };
        Gate { host, own: Mutex::new(own) }
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn host(&self) -> MutexGuard<'_, Breaker> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many attempts may run at the same time now.
    #[must_use]
    pub fn limit(&self, now: Instant) -> usize {
        let own = self.own();
        if own.waits.as_ref().is_some_and(|waits| waits.until > now) {
            return 0;
        }
        own.breaker.limit(now).min(self.host().limit(now))
    }

    /// When more may run than now, if time alone brings it.
    #[must_use]
    pub fn opens_at(&self, now: Instant) -> Option<Instant> {
        let own = self.own();
        let waits = own.waits.as_ref().map(|waits| waits.until);
        let all = [waits, own.breaker.opens_at(), self.host().opens_at()];
        all.into_iter().flatten().filter(|at| *at > now).max()
    }

    /// Since when a breaker is open, and why.
    #[must_use]
    pub fn opened(&self) -> Option<Opened> {
        self.own().breaker.opened().cloned().or_else(|| self.host().opened().cloned())
    }

    /// What the sink waits for, besides a breaker.
    #[must_use]
    pub fn waits(&self, now: Instant) -> Option<Waits> {
        self.own().waits.clone().filter(|waits| waits.until > now)
    }

    /// Lets nothing begin before `until`. A longer wait that is asked for already stays.
    pub fn wait(&self, until: Instant, why: WaitsFor, reason: &str) {
        let mut own = self.own();
        if own.waits.as_ref().is_none_or(|waits| waits.until < until) {
            own.waits = Some(Waits { until, why, reason: reason.to_owned() });
        }
    }

    /// An attempt begins.
    pub fn begin(&self, now: Instant) {
        self.own().breaker.begin(now);
        self.host().begin(now);
    }

    /// An attempt ended without telling anything about the destination.
    pub fn abstain(&self, now: Instant) {
        self.own().breaker.abstain(now);
        self.host().abstain(now);
    }

    /// Learns from an attempt that began at `begun`. Answers whether its trouble is the
    /// destination's, so that it spends no attempt.
    /// `at_door` says that nothing was said of the message yet.
    pub fn learn(
        &self,
        (message_id, at_door): (i64, bool),
        outcome: &Outcome,
        (begun, now): (Instant, Instant),
    ) -> bool {
        let span = (begun, now);
        match outcome {
            Outcome::Delivered { .. } => {
                self.accepted(now);
                self.answered(span);
                false
            }
            Outcome::Permanent { .. } => {
                self.answered(span);
                false
            }
            Outcome::InDoubt { reason } => {
                // Something went out: its host is there.
                self.host().pass(begun, now);
                self.own().breaker.trouble(message_id, false, span, reason)
            }
            Outcome::Transient { cause, reason, wait } => match cause {
                Cause::Unreachable => {
                    self.own().breaker.abstain(now);
                    self.host().trouble(message_id, at_door, span, reason)
                }
                Cause::Barred => {
                    self.host().pass(begun, now);
                    self.barred((message_id, at_door), span, reason)
                }
                Cause::Away => {
                    self.host().pass(begun, now);
                    self.own().breaker.trouble(message_id, false, span, reason)
                }
                Cause::Throttled => {
                    self.abstain(now);
                    let is_its_own = !at_door && self.own().throttled == Some((message_id, true));
                    if !is_its_own {
                        self.own().throttled = Some((message_id, false));
                        self.throttled(now, *wait, reason);
                    }
                    !is_its_own
                }
                Cause::Refused | Cause::Rejected | Cause::Failed => {
                    self.answered(span);
                    false
                }
            },
        }
    }

    /// Something was accepted, of a message at least for some.
    pub fn accepted(&self, now: Instant) {
        let mut own = self.own();
        own.throttle = THROTTLE_MIN;
        own.throttled = own.throttled.map(|(message_id, _)| (message_id, true));
        own.barred = own.barred.map(|(message_id, _)| (message_id, true));
        own.accepted_at = Some(now);
        own.policy.clear();
    }

    /// A message was refused for good by a policy. Answers whether so many were that it means us: each
    /// would end so, and none of them is to blame.
    pub fn is_run_of_refusals(&self, message_id: i64) -> bool {
        let mut own = self.own();
        if own.policy.len() < POLICY_RUN && !own.policy.contains(&message_id) {
            own.policy.push(message_id);
        }
        own.policy.len() == POLICY_RUN
    }

    /// It wants nothing from us as we are. Unless others are accepted, during the attempt or since the same
    /// message met this before: then it is that message's own trouble. At the door it never is.
    fn barred(
        &self,
        (message_id, at_door): (i64, bool),
        (begun, now): (Instant, Instant),
        reason: &str,
    ) -> bool {
        let mut own = self.own();
        let meanwhile = own.accepted_at.is_some_and(|accepted_at| accepted_at > begun);
        if !at_door && (meanwhile || own.barred == Some((message_id, true))) {
            own.breaker.abstain(now);
            return false;
        }
        if !at_door {
            own.barred = Some((message_id, false));
        }
        own.breaker.bar(now, &format!("{REFUSES_US}: {reason}"));
        true
    }

    fn answered(&self, (begun, now): (Instant, Instant)) {
        self.own().breaker.pass(begun, now);
        self.host().pass(begun, now);
    }

    /// The receiver asked for less: the whole destination waits.
    fn throttled(&self, now: Instant, wait: Option<Duration>, reason: &str) {
        let wait = wait.unwrap_or_else(|| {
            let mut own = self.own();
            // Those that were in flight when the first was told so are told the same.
            let waiting = own.waits.as_ref().is_some_and(|waits| waits.until > now);
            let wait = own.throttle;
            if !waiting {
                own.throttle = (wait * 2).min(THROTTLE_MAX);
            }
            if waiting { Duration::ZERO } else { wait }
        });
        self.wait(now + wait, WaitsFor::Receiver, reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transient(cause: Cause, wait: Option<u64>) -> Outcome {
        let wait = wait.map(Duration::from_secs);
        Outcome::Transient { cause, reason: "no".to_owned(), wait }
    }

    fn delivered() -> Outcome {
        Outcome::Delivered { receipt: "HTTP 200 OK".to_owned() }
    }

    #[test]
    fn sinks_of_one_host_share_what_is_known_of_it() {
        let hosts = Hosts::default();
        let gate = |host| Gate::new(hosts.of(host));
        let (one, two, other) = (gate("a:443"), gate("a:443"), gate("b:443"));
        let now = Instant::now();
        one.learn((1, false), &transient(Cause::Unreachable, None), (now, now));
        two.learn((2, false), &transient(Cause::Unreachable, None), (now, now));
        assert_eq!((one.limit(now), two.limit(now)), (0, 0));
        assert_eq!(other.limit(now), usize::MAX);
        let later = now + Duration::from_secs(2);
        one.begin(later);
        assert_eq!(two.limit(later), 0, "one probe at a time, whichever sink makes it");
        one.learn((1, false), &delivered(), (later, later));
        assert_eq!(two.limit(later), 2);
    }

    #[test]
    fn a_gateway_without_its_receiver_is_the_sinks_trouble_alone() {
        let hosts = Hosts::default();
        let (one, two) = (Gate::new(hosts.of("a:443")), Gate::new(hosts.of("a:443")));
        let now = Instant::now();
        for id in [1, 2] {
            assert!(one.learn((id, false), &transient(Cause::Away, None), (now, now)));
        }
        assert_eq!((one.limit(now), two.limit(now)), (0, usize::MAX));
        assert_eq!(one.opened().unwrap().reason, "no");
    }

    #[test]
    fn a_probe_that_ends_in_doubt_does_not_leave_its_host_shut_for_ever() {
        let gate = Gate::new(Hosts::default().of("a:1"));
        let now = Instant::now();
        for id in [1, 2] {
            gate.learn((id, false), &transient(Cause::Unreachable, None), (now, now));
        }
        let later = now + Duration::from_secs(2);
        gate.begin(later);
        gate.learn(
            (1, false),
            &Outcome::InDoubt { reason: "timed out".to_owned() },
            (later, later),
        );
        assert_eq!(gate.limit(later), 2, "it was reached, so nobody else can be waited for");
    }

    #[test]
    fn attempts_in_doubt_open_it_and_answers_of_any_kind_do_not() {
        let now = Instant::now();
        let gate = Gate::new(Hosts::default().of("a:1"));
        for id in 0..9 {
            for cause in [Cause::Refused, Cause::Rejected, Cause::Failed] {
                assert!(!gate.learn((id, false), &transient(cause, None), (now, now)));
            }
        }
        assert_eq!(gate.limit(now), usize::MAX);
        let later = now + Duration::from_secs(1);
        for id in 0..2 {
            gate.learn(
                (id, false),
                &Outcome::InDoubt { reason: "timed out".to_owned() },
                (later, later),
            );
        }
        assert_eq!(gate.limit(later), 0);
    }

    #[test]
    fn what_the_receiver_asked_for_is_waited_for_and_never_shortened() {
        let now = Instant::now();
        let gate = Gate::new(Hosts::default().of("a:1"));
        gate.learn((1, false), &transient(Cause::Throttled, Some(120)), (now, now));
        gate.learn((2, false), &transient(Cause::Throttled, Some(1)), (now, now));
        gate.learn((3, false), &delivered(), (now, now));
        let end = now + Duration::from_secs(120);
        assert_eq!(gate.limit(end.checked_sub(Duration::from_millis(1)).unwrap()), 0);
        assert_eq!(gate.opens_at(now), Some(end));
        assert_eq!(gate.limit(end), usize::MAX);
    }

    #[test]
    fn a_message_that_is_barred_again_after_others_were_accepted_is_on_its_own() {
        let (gate, barred) =
            (Gate::new(Hosts::default().of("a:1")), transient(Cause::Barred, None));
        let mut now = Instant::now();
        let mut next = || {
            now += Duration::from_secs(400);
            (now, now)
        };
        assert!(gate.learn((1, false), &barred, next()), "it may be all of us");
        assert!(gate.learn((1, false), &barred, next()), "nobody was accepted between");
        gate.learn((2, false), &delivered(), next());
        assert!(!gate.learn((1, false), &barred, next()), "its own");
        assert!(gate.learn((3, false), &barred, next()), "another one");
        // At the door no message is to blame, whoever passed meanwhile.
        gate.learn((2, false), &delivered(), next());
        let (begun, later) = next();
        gate.learn((4, false), &delivered(), (begun, later + Duration::from_secs(1)));
        assert!(gate.learn((1, true), &barred, (begun, later + Duration::from_secs(2))));
        assert_eq!(gate.limit(later + Duration::from_secs(3)), 0);
    }

    #[test]
    fn a_message_that_is_told_so_again_and_again_while_others_pass_stops_nobody() {
        let now = Instant::now();
        let gate = Gate::new(Hosts::default().of("a:1"));
        let throttled = transient(Cause::Throttled, Some(1));
        assert!(gate.learn((1, false), &throttled, (now, now)));
        let later = now + Duration::from_secs(2);
        assert!(gate.learn((1, false), &throttled, (later, later)), "nobody passed between");
        gate.learn((2, false), &delivered(), (later, later));
        let later = later + Duration::from_secs(2);
        assert!(!gate.learn((1, false), &throttled, (later, later)));
        assert_eq!(gate.limit(later), usize::MAX);
        assert!(gate.learn((3, false), &throttled, (later, later)), "another one");
    }

    #[test]
    fn without_a_time_the_wait_doubles_once_for_all_that_were_in_flight() {
        let mut now = Instant::now();
        let gate = Gate::new(Hosts::default().of("a:1"));
        for seconds in [5, 10, 20] {
            for id in 0..16 {
                assert!(gate.learn((id, false), &transient(Cause::Throttled, None), (now, now)));
            }
            assert_eq!(gate.opens_at(now), Some(now + Duration::from_secs(seconds)));
            now += Duration::from_secs(seconds);
        }
        gate.learn((1, false), &delivered(), (now, now));
        gate.learn((1, false), &transient(Cause::Throttled, None), (now, now));
        assert_eq!(gate.opens_at(now), Some(now + Duration::from_secs(5)));
    }

    #[test]
    fn who_is_barred_waits_as_a_whole_unless_something_is_accepted_meanwhile() {
        let now = Instant::now();
        let gate = Gate::new(Hosts::default().of("a:1"));
        let later = now + Duration::from_secs(1);
        gate.learn((1, false), &delivered(), (now, later));
        let barred = transient(Cause::Barred, None);
        assert!(!gate.learn((2, false), &barred, (now, later + Duration::from_secs(1))), "its own");
        assert_eq!(gate.limit(later), usize::MAX);
        let begun = later + Duration::from_secs(2);
        assert!(
            gate.learn((2, false), &barred, (begun, begun)),
            "nothing was accepted since it began"
        );
        assert_eq!((gate.limit(begun), gate.waits(begun)), (0, None));
        let opened = gate.opened().unwrap();
        assert!(opened.barred && opened.reason == "refuses us: no", "{opened:?}");
        assert_eq!(gate.opens_at(begun), Some(begun + Duration::from_secs(60)));
    }

    #[test]
    fn a_run_of_refusals_by_policy_means_us_and_single_ones_do_not() {
        let now = Instant::now();
        let gate = Gate::new(Hosts::default().of("a:1"));
        for id in 1..=100 {
            assert!(!gate.is_run_of_refusals(id), "others are accepted");
            gate.learn((1_000 + id, false), &delivered(), (now, now));
        }
        for _ in 0..50 {
            assert!(!gate.is_run_of_refusals(1), "one message, again and again");
        }
        for id in 2..10 {
            assert!(!gate.is_run_of_refusals(id));
        }
        assert!(gate.is_run_of_refusals(10) && gate.is_run_of_refusals(1), "the tenth");
        gate.learn((11, false), &Outcome::Permanent { reason: "550 5.1.1".to_owned() }, (now, now));
        assert!(gate.is_run_of_refusals(12), "an unknown user is no acceptance");
        gate.learn((13, false), &delivered(), (now, now));
        assert!(!gate.is_run_of_refusals(14));
    }
}
