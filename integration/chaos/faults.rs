//! What each fault does. Every one is over when its function returns, but for relays that are still
//! coming back.

use std::time::Duration;

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};

use super::plan::{Fault, Point, Strike};
use super::producers::{End, LOOSE, Step, lock_key, say, say_keyed};
use super::stage::{LEASE, Stage};
use crate::harness::proxy::Direction;

/// How long a fault waits for the moment it is meant for, before it strikes all the same.
const MOMENT: Duration = Duration::from_secs(2);
/// How the statements read that record an end and an intent.
const SETTLEMENT: &[u8] = b"DELETE FROM outbox.delivery d";
const INTENT: &[u8] = b"SET state = 'sending'";

/// A fault that was done.
#[derive(Clone, Debug)]
pub struct Struck {
    pub fault: Fault,
    /// Before its first effect.
    pub from: Timestamp,
    /// After its last.
    pub until: Timestamp,
}

/// Does a fault.
pub async fn strike(stage: &Stage, strike: Strike) -> Struck {
    let random = &mut fastrand::Rng::with_seed(strike.seed);
    let from = Timestamp::now();
    match strike.fault {
        Fault::Kill(point) => kill(stage, point, random).await,
        Fault::KillStorm => {
            for turn in 0..4 {
                stage.kill(turn % stage.slots());
                tokio::time::sleep(Duration::from_millis(random.u64(0..200))).await;
                stage.revive(turn % stage.slots());
                tokio::time::sleep(Duration::from_millis(random.u64(0..300))).await;
            }
        }
        Fault::Suspend => suspend(stage, random).await,
        Fault::Drain => drain(stage, false).await,
        Fault::DrainTwice => drain(stage, true).await,
        Fault::EndSessions => end_sessions(stage, random).await,
        Fault::LoseSettlement => lose_reply(stage, "steady", SETTLEMENT).await,
        Fault::LoseIntent => lose_reply(stage, "once", INTENT).await,
        Fault::LoseCommit => lose_commit(stage, random).await,
        Fault::StopDatabase => {
            tokio::task::block_in_place(|| stage.cluster.stop_immediate());
            tokio::time::sleep(Duration::from_millis(random.u64(0..1_500))).await;
            tokio::task::block_in_place(|| stage.cluster.start_again());
        }
        Fault::KillBackend => kill_backend(stage).await,
        Fault::BlackHole => black_hole(stage, random).await,
        Fault::HoldSnapshot => hold_snapshot(stage, random).await,
        Fault::HoldPrepared => hold_prepared(stage, random).await,
        Fault::CommitLate => commit_late(stage, random).await,
        Fault::RollBack => roll_back(stage).await,
        Fault::Copy => {
            let client = stage.client().await;
            stage
                .producer()
                .transaction(&client, vec![Step::Copy("more.copied", 2_000)], End::Commit)
                .await;
        }
        Fault::Interleave => interleave(stage).await,
        Fault::BadReceiver => {
            stage.receivers.bad_receiver(true);
            let once = &stage.receivers.once;
            let before = once.requests();
            tokio::time::sleep(Duration::from_millis(random.u64(500..1_500))).await;
            within(MOMENT, once.until(|peer| peer.requests() > before + 20)).await;
            stage.receivers.bad_receiver(false);
        }
        Fault::BadMailServer => {
            stage.receivers.bad_mail_server(true, random.u64(..));
            let letter = &stage.receivers.letter;
            let before = letter.accepted();
            tokio::time::sleep(Duration::from_millis(random.u64(500..1_500))).await;
            within(MOMENT, letter.until(|peer| peer.accepted() > before + 10)).await;
            stage.receivers.bad_mail_server(false, 0);
        }
        Fault::Poison => poison(stage).await,
        Fault::HotKey => hot_key(stage).await,
    }
    Struck { fault: strike.fault, from, until: Timestamp::now() }
}

async fn within<T>(limit: Duration, moment: impl Future<Output = T>) -> bool {
    tokio::time::timeout(limit, moment).await.is_ok()
}

/// Which statement a point waits for.
fn statement(point: Point) -> &'static [u8] {
    match point {
        Point::Fetching => b"FROM outbox.delivery w",
        Point::Settling => SETTLEMENT,
        Point::Intending => INTENT,
        Point::TakingOver => b"SET owner = $1",
        Point::Anywhere | Point::Sending | Point::Accepted => b"",
    }
}

async fn kill(stage: &Stage, point: Point, random: &mut fastrand::Rng) {
    let sink = if point == Point::Intending { "once" } else { "steady" };
    let victim = stage.owner_of(sink).await;
    let wire = &stage.slot(victim).wire;
    match point {
        Point::Anywhere => tokio::time::sleep(Duration::from_millis(random.u64(0..200))).await,
        Point::Fetching | Point::Settling | Point::Intending => {
            wire.hold_replies_after(statement(point));
            within(MOMENT, wire.snared()).await;
        }
        Point::Sending => {
            within(MOMENT, stage.receivers.slow.until(|peer| peer.at_once() > 0)).await;
        }
        Point::Accepted => {
            let before = stage.receivers.steady.requests();
            wire.stall(Direction::Requests);
            // Not so long that somebody else takes over meanwhile.
            let taken = stage.receivers.steady.until(|peer| peer.requests() > before + 2);
            within(LEASE / 2, taken).await;
        }
        Point::TakingOver => {
            let next = (victim + 1) % stage.slots();
            let wire = &stage.slot(next).wire;
            wire.hold_replies_after(statement(point));
            stage.kill(victim);
            within(LEASE + MOMENT, wire.snared()).await;
            stage.kill(next);
            wire.resume();
            stage.revive(next);
        }
    }
    stage.kill(victim);
    // With what it had sent and the wire has not passed on.
    wire.cut().await;
    wire.resume();
    tokio::time::sleep(Duration::from_millis(random.u64(0..300))).await;
    stage.revive(victim);
}

async fn suspend(stage: &Stage, random: &mut fastrand::Rng) {
    let victim = stage.owner_of("slow").await;
    within(MOMENT, stage.receivers.slow.until(|peer| peer.at_once() > 0)).await;
    stage.signal(victim, "STOP");
    tokio::time::sleep(LEASE + Duration::from_millis(random.u64(300..1_000))).await;
    stage.signal(victim, "CONT");
    // What it still had in its hands leaves it now, or never.
    tokio::time::sleep(Duration::from_millis(300)).await;
}

async fn drain(stage: &Stage, twice: bool) {
    let victim = stage.owner_of("steady").await;
    let Some(mut process) = stage.take(victim) else { return };
    process.signal("TERM");
    if twice {
        process.signal("TERM");
    }
    let ended = process.ended().await;
    assert!(twice || ended.success(), "{ended}: {}", process.log());
    stage.revive(victim);
}

async fn end_sessions(stage: &Stage, random: &mut fastrand::Rng) {
    let client = stage.client().await;
    let all =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'outboxd'";
    // LISTEN, the heartbeat's, the fetch's, the settlements': by what they asked for last.
    let of = |like: &str| format!("{all} AND query ILIKE '%{like}%'");
    for sql in [
        all.to_owned(),
        of("listen"),
        of("outbox.relay"),
        of("FROM outbox.delivery w"),
        of("DELETE FROM outbox.delivery"),
        all.to_owned(),
    ] {
        client.query(&sql, &[]).await.expect("end sessions");
        tokio::time::sleep(Duration::from_millis(random.u64(50..200))).await;
    }
}

async fn lose_reply(stage: &Stage, sink: &str, statement: &'static [u8]) {
    let victim = stage.owner_of(sink).await;
    let wire = &stage.slot(victim).wire;
    wire.hold_replies_after(statement);
    within(MOMENT, wire.snared()).await;
    wire.cut().await;
    wire.resume();
}

async fn lose_commit(stage: &Stage, random: &mut fastrand::Rng) {
    let wire = &stage.producers_wire;
    for _ in 0..3 {
        // The reply is lost, then the request.
        wire.hold_replies_after(b"COMMIT\0");
        within(MOMENT, wire.snared()).await;
        wire.cut().await;
        wire.resume();
        tokio::time::sleep(Duration::from_millis(random.u64(50..200))).await;
        wire.stall(Direction::Requests);
        tokio::time::sleep(Duration::from_millis(50)).await;
        wire.cut().await;
        wire.resume();
        tokio::time::sleep(Duration::from_millis(random.u64(50..200))).await;
    }
}

async fn kill_backend(stage: &Stage) {
    let client = stage.client().await;
    let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'outboxd' ORDER BY random() LIMIT 1";
    if let Ok(Some(row)) = client.query_opt(sql, &[]).await
        && let Some(pid) = Pid::from_raw(row.get(0))
    {
        let _ = kill_process(pid, Signal::KILL);
    }
    // All sessions end, recovery runs, and then it takes connections again.
    within(MOMENT, async {
        while !client.is_closed() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    stage.client().await;
}

async fn black_hole(stage: &Stage, random: &mut fastrand::Rng) {
    let victim = stage.owner_of("steady").await;
    let wire = &stage.slot(victim).wire;
    wire.stall(Direction::Requests);
    wire.stall(Direction::Replies);
    tokio::time::sleep(LEASE + Duration::from_millis(random.u64(300..1_000))).await;
    wire.resume();
}

async fn hold_snapshot(stage: &Stage, random: &mut fastrand::Rng) {
    let client = stage.client().await;
    client
        .batch_execute(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT count(*) FROM app_order",
        )
        .await
        .expect("hold a snapshot");
    tokio::time::sleep(Duration::from_millis(random.u64(500..1_500))).await;
    client.batch_execute("COMMIT").await.expect("the snapshot is given up");
}

async fn hold_prepared(stage: &Stage, random: &mut fastrand::Rng) {
    if !stage.prepares {
        return hold_snapshot(stage, random).await;
    }
    let wait = Duration::from_millis(random.u64(500..1_500));
    let client = stage.client().await;
    let key = format!("k{}", random.u32(50..90));
    let steps =
        vec![lock_key(&key), say_keyed("order.paid", &key), say("order.made"), say("mail.note")];
    stage.producer().transaction(&client, steps, End::Prepare(wait)).await;
}

async fn commit_late(stage: &Stage, random: &mut fastrand::Rng) {
    let client = stage.client().await;
    let wait = Duration::from_millis(random.u64(500..1_500));
    let key = format!("k{}", random.u32(50..90));
    let steps = vec![
        Step::Many("more.late", 20),
        say("mail.note"),
        lock_key(&key),
        say_keyed("order.paid", &key),
        Step::Wait(wait),
        say_keyed("order.paid", &key),
    ];
    stage.producer().transaction(&client, steps, End::Commit).await;
}

async fn roll_back(stage: &Stage) {
    let client = stage.client().await;
    for _ in 0..100 {
        let steps = vec![
            say("order.made"),
            Step::Sql("SAVEPOINT s".to_owned()),
            Step::Many("order.made", 5),
            Step::Back,
            say("mail.note"),
        ];
        stage.producer().transaction(&client, steps, End::RollBack).await;
    }
    for _ in 0..10 {
        let steps = vec![
            Step::Sql("SAVEPOINT s".to_owned()),
            say("order.made"),
            Step::Back,
            say("more.saved"),
        ];
        stage.producer().transaction(&client, steps, End::Commit).await;
    }
}

/// Writers of one key who wait for each other: the second has its transaction id first, its message id
/// last. And writers who do not: their order is nobody's promise, their arrival is.
async fn interleave(stage: &Stage) {
    let (one, two) = (stage.client().await, stage.client().await);
    let producer = stage.producer();
    let xid = || Step::Sql("SELECT pg_current_xact_id()".to_owned());
    for turn in 0..5_u64 {
        let key = format!("k{}", 90 + turn % 5);
        let pause = |ms| Step::Wait(Duration::from_millis(ms));
        let first = vec![
            lock_key(&key),
            say_keyed("order.paid", &key),
            pause(40 * turn),
            say_keyed("order.paid", &key),
        ];
        let second = vec![
            xid(),
            pause(10),
            lock_key(&key),
            say_keyed("order.paid", &key),
            pause(40 - 8 * turn),
        ];
        tokio::join!(
            producer.transaction(&one, first, End::Commit),
            producer.transaction(&two, second, End::Commit),
        );
        let late = vec![say_keyed("more.loose", LOOSE), pause(60)];
        let early = vec![pause(20), say_keyed("more.loose", LOOSE)];
        tokio::join!(
            producer.transaction(&one, late, End::Commit),
            producer.transaction(&two, early, End::Commit),
        );
    }
}

async fn poison(stage: &Stage) {
    let client = stage.client().await;
    for _ in 0..5 {
        stage.producer().transaction(&client, vec![say("poison.gone")], End::Commit).await;
        let steps = vec![say("mail.poison"), say("mail.note")];
        stage.producer().transaction(&client, steps, End::Commit).await;
    }
}

async fn hot_key(stage: &Stage) {
    let client = stage.client().await;
    for _ in 0..4 {
        let mut steps = vec![lock_key("hot")];
        steps.extend((0..50).map(|_| say_keyed("more.hot", "hot")));
        stage.producer().transaction(&client, steps, End::Commit).await;
    }
}
