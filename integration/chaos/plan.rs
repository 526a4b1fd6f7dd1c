//! Which faults strike, in which order: drawn from a seed, so that a run can be had again.

use std::time::Duration;

/// A fault, as `postgres.md` C3 numbers them; see [`Fault::number`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL to the relay that works a sink.
    Kill(Point),
    /// SIGKILL to every relay, one after another, four times.
    KillStorm,
    /// SIGSTOP for longer than the lease, in the middle of requests, then SIGCONT.
    Suspend,
    /// SIGTERM; it must leave in order, and nothing may be repeated.
    Drain,
    /// SIGTERM, and again at once.
    DrainTwice,
    /// `pg_terminate_backend` on all sessions of the relays, LISTEN included, several times.
    EndSessions,
    /// The reply to a settlement is lost: it is committed, and its writer does not know.
    LoseSettlement,
    /// The reply to an intent is lost: it is committed, and its relay does not know and lives on.
    LoseIntent,
    /// The reply to a producer's COMMIT is lost, or the COMMIT itself.
    LoseCommit,
    /// PostgreSQL stops at once and starts again, with crash recovery.
    StopDatabase,
    /// SIGKILL of one backend: all others end too, with crash recovery.
    KillBackend,
    /// A relay's connections go silent for longer than the lease, without an end.
    BlackHole,
    /// A REPEATABLE READ reader holds its snapshot while the rest goes on.
    HoldSnapshot,
    /// A prepared transaction holds its messages, then commits them late.
    HoldPrepared,
    /// A transaction draws ids now and commits them seconds later, among committed ones.
    CommitLate,
    /// Hundreds of rollbacks and rolled-back savepoints.
    RollBack,
    /// A COPY of thousands of rows.
    Copy,
    /// Two writers of a key take turns, xid and id in opposite orders; and two that do not.
    Interleave,
    /// A webhook sink misbehaves in every way it knows.
    BadReceiver,
    /// The mail server misbehaves in every way it knows.
    BadMailServer,
    /// Messages that no attempt can deliver.
    Poison,
    /// Hundreds of messages of one key.
    HotKey,
}

/// Where a SIGKILL meets the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Point {
    /// Wherever it happens to be.
    Anywhere,
    /// It asked for rows, and the answer is under way.
    Fetching,
    /// A receiver works on its requests.
    Sending,
    /// A receiver took messages, and nothing of that reached the database.
    Accepted,
    /// The settlement is at the database, its reply is not here.
    Settling,
    /// The same of an intent: on record, and nothing sent.
    Intending,
    /// Another one, in the middle of taking over from one that was killed.
    TakingOver,
}

impl Fault {
    /// Its row in the table of faults.
    pub fn number(self) -> u8 {
        match self {
            Fault::Kill(_) => 1,
            Fault::KillStorm => 2,
            Fault::Suspend => 3,
            Fault::Drain | Fault::DrainTwice => 4,
            Fault::EndSessions => 5,
            Fault::LoseSettlement | Fault::LoseIntent | Fault::LoseCommit => 6,
            Fault::StopDatabase | Fault::KillBackend => 7,
            Fault::BlackHole => 10,
            Fault::HoldSnapshot | Fault::HoldPrepared => 12,
            Fault::CommitLate | Fault::RollBack | Fault::Copy => 13,
            Fault::Interleave => 14,
            Fault::BadReceiver => 19,
            Fault::BadMailServer => 20,
            Fault::Poison | Fault::HotKey => 22,
        }
    }

    /// Whether what was in flight when it struck may arrive again.
    pub fn may_repeat(self) -> bool {
        // The lease runs out while the database is away, and open attempts are cut short.
        let database = matches!(self, Fault::StopDatabase | Fault::KillBackend | Fault::BlackHole);
        let relay =
            matches!(self, Fault::Kill(_) | Fault::KillStorm | Fault::Suspend | Fault::DrainTwice);
        database || relay
    }

    /// Whether its relay lives on, and others work its sinks meanwhile: then it may record what it had
    /// delivered while the next owner has the same row in hand already; and bytes may leave a relay that
    /// was stopped between its last look at the lease and the write. No sender can close these windows.
    pub fn leaves_a_former_owner(self) -> bool {
        matches!(self, Fault::Suspend | Fault::BlackHole | Fault::StopDatabase | Fault::KillBackend)
    }

    /// Whether producers feel it themselves.
    pub fn hurts_producers(self) -> bool {
        matches!(self, Fault::StopDatabase | Fault::KillBackend | Fault::LoseCommit)
    }
}

/// The relays are what is hurt.
pub const PROCESSES: &[Fault] = &[
    Fault::Kill(Point::Anywhere),
    Fault::Kill(Point::Fetching),
    Fault::Kill(Point::Sending),
    Fault::Kill(Point::Accepted),
    Fault::Kill(Point::Settling),
    Fault::Kill(Point::Intending),
    Fault::Kill(Point::TakingOver),
    Fault::KillStorm,
    Fault::Suspend,
    Fault::Drain,
    Fault::DrainTwice,
];

/// The database and the way to it.
pub const DATABASE: &[Fault] = &[
    Fault::EndSessions,
    Fault::LoseSettlement,
    Fault::LoseIntent,
    Fault::LoseCommit,
    Fault::StopDatabase,
    Fault::KillBackend,
    Fault::BlackHole,
];

/// What producers and receivers do. Nothing of it may repeat anything.
pub const NEIGHBOURS: &[Fault] = &[
    Fault::HoldSnapshot,
    Fault::HoldPrepared,
    Fault::CommitLate,
    Fault::RollBack,
    Fault::Copy,
    Fault::Interleave,
    Fault::BadReceiver,
    Fault::BadMailServer,
    Fault::Poison,
    Fault::HotKey,
    Fault::Drain,
    Fault::EndSessions,
    Fault::LoseCommit,
];

/// One fault, and the quiet before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    pub after: Duration,
    pub fault: Fault,
    /// For what the fault itself draws.
    pub seed: u64,
}

/// The faults of a run: each of the mix once in a random order, then again in another, for ever.
pub struct Plan {
    mix: Vec<Fault>,
    left: Vec<Fault>,
    quiet: Duration,
    random: fastrand::Rng,
}

impl Plan {
    /// The plan of a seed. `quiet` is the longest pause between two faults.
    pub fn new(seed: u64, mix: impl IntoIterator<Item = Fault>, quiet: Duration) -> Plan {
        let mix = mix.into_iter().collect();
        Plan { mix, left: Vec::new(), quiet, random: fastrand::Rng::with_seed(seed) }
    }

    /// How many faults a full turn has.
    pub fn turn(&self) -> usize {
        self.mix.len()
    }
}

impl Iterator for Plan {
    type Item = Strike;

    fn next(&mut self) -> Option<Strike> {
        if self.left.is_empty() {
            self.left.clone_from(&self.mix);
            self.random.shuffle(&mut self.left);
        }
        let fault = self.left.pop()?;
        let after = self.quiet.mul_f64(self.random.f64());
        Some(Strike { after, fault, seed: self.random.u64(..) })
    }
}

#[test]
fn a_seed_gives_the_same_faults_and_a_turn_has_each_of_them() {
    let all = || PROCESSES.iter().chain(DATABASE).copied();
    let draw = |seed| Plan::new(seed, all(), Duration::from_secs(1)).take(50).collect::<Vec<_>>();
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
    let plan = Plan::new(7, all(), Duration::from_secs(1));
    let turn = plan.turn();
    let mut first: Vec<Fault> = plan.take(turn).map(|strike| strike.fault).collect();
    first.sort_unstable();
    let mut wanted: Vec<Fault> = all().collect();
    wanted.sort_unstable();
    assert_eq!(first, wanted);
}
