//! Versions side by side: a migration under load, relays that know less than the schema, and locks that
//! nobody has to wait for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use outboxd::relay::RunError;
use outboxd::store::Target;
use outboxd::store::migrate::{MIGRATIONS, Migration, PATIENCE, migrate_with};
use tokio::task::JoinHandle;

use super::{outboxd, outboxd_ok};
use crate::audit::violations;
use crate::harness::eventually;
use crate::harness::http::HttpPeer;
use crate::harness::plane::{LONG, message_ids, number, until_closed, until_count, until_routed};
use crate::harness::postgres::Database;
use crate::harness::relay::{Process, Relay, config, crm, toml};

const RELAY: &str = "lease = \"2s\"\ngrace = \"10s\"";

/// What this binary knows and one migration more, which it does not.
fn one_more(works_from: i32) -> Vec<Migration> {
    let number = i32::try_from(MIGRATIONS.len()).unwrap() + 1;
    let text = "ALTER TABLE outbox.message ADD COLUMN later text;
                ALTER TABLE outbox.delivery ADD COLUMN later text;";
    let more = Migration { number, name: "later", text, works_from };
    MIGRATIONS.iter().cloned().chain([more]).collect()
}

/// Newest that this binary knows.
fn newest() -> i32 {
    MIGRATIONS.iter().map(|m| m.number).max().unwrap()
}

/// Producers that write one message after another, and what the slowest commit took.
struct Producers {
    stop: Arc<AtomicBool>,
    slowest: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<i64>>,
}

impl Producers {
    async fn start(database: &Database, count: usize) -> Producers {
        let (stop, slowest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = Vec::new();
        for _ in 0..count {
            let client = database.connect().await;
            let (stop, slowest) = (Arc::clone(&stop), Arc::clone(&slowest));
            tasks.push(tokio::spawn(async move {
                let mut written = 0;
                while !stop.load(Ordering::SeqCst) {
                    let begun = Instant::now();
                    let sql = "INSERT INTO outbox.message (type, payload) VALUES ('t', '{}')";
                    client.batch_execute(sql).await.unwrap();
                    let took = u64::try_from(begun.elapsed().as_millis()).unwrap();
                    slowest.fetch_max(took, Ordering::SeqCst);
                    written += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                written
            }));
        }
        Producers { stop, slowest, tasks }
    }

    /// What the slowest commit took since this was last asked.
    fn slowest(&self) -> Duration {
        Duration::from_millis(self.slowest.swap(0, Ordering::SeqCst))
    }

    async fn stop(self) -> i64 {
        self.stop.store(true, Ordering::SeqCst);
        let mut written = 0;
        for task in self.tasks {
            written += task.await.unwrap();
        }
        written
    }
}

/// Guard: the short waits for locks. With a transaction open that keeps the migration from its lock,
/// producers go on as if nothing were; then the migration runs, and relays that do not know it go on, may
/// be started anew, and share the sinks.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_under_load_stops_neither_producers_nor_relays() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let text = toml(&database.url(), RELAY, &crm(&peer.url("/"), ""));
    let first = Process::start(&text);
    until_routed(&client).await;
    let producers = Producers::start(&database, 4).await;
    peer.until(|peer| peer.requests() > 200).await;
    let before = producers.slowest();

    let long = database.connect().await;
    let open = "SET application_name = 'report'; BEGIN; SELECT count(*) FROM outbox.message";
    long.batch_execute(open).await.unwrap();
    let database_config = config(&database.url(), "").database;
    let target = Target::new(&database_config);
    let (known, (warn, mut warned)) = (one_more(newest()), tokio::sync::mpsc::unbounded_channel());
    let migration = tokio::spawn(async move {
        let warn = move |words: &str| drop(warn.send(words.to_owned()));
        migrate_with(&target, &database_config, &known, PATIENCE, warn).await
    });
    let words = tokio::time::timeout(LONG, warned.recv()).await.unwrap().unwrap();
    assert!(words.contains("waiting for a lock") && words.contains("(report)"), "{words}");
    // Several tries long.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!migration.is_finished(), "it cannot have its lock");
    let meanwhile = producers.slowest();
    long.batch_execute("COMMIT").await.unwrap();
    assert_eq!(migration.await.unwrap().unwrap().ran, [newest() + 1]);
    let during = producers.slowest();
    println!(
        "slowest commit: {before:?} before, {meanwhile:?} while it waits, {during:?} as it runs"
    );
    assert!(meanwhile < Duration::from_millis(600), "{meanwhile:?}");
    assert!(during < Duration::from_millis(600), "{during:?}");

    // The relay goes on; a second one, that knows no more, enters and takes over.
    let seen = peer.requests();
    peer.until(|peer| peer.requests() > seen + 100).await;
    let second = Process::start(&text);
    until_count(&client, "both are entered", "SELECT count(*) FROM outbox.relay", 2).await;
    let words = format!("newer than this outboxd (migration {})", newest() + 1);
    assert!(second.log().contains(&words), "{}", second.log());
    let epoch = number(&client, "SELECT max(epoch) FROM outbox.sink").await;
    first.signal("TERM");
    let taken =
        format!("SELECT count(*) FROM outbox.sink WHERE owner IS NOT NULL AND epoch > {epoch}");
    until_count(&client, "the second has the sink", &taken, 1).await;
    let seen = peer.requests();
    peer.until(|peer| peer.requests() > seen + 100).await;
    let written = producers.stop().await;
    until_closed(&client).await;
    let checked = outboxd_ok(&text, &["migrate", "--check"]);
    assert!(checked.contains(&words) && checked.contains("works with it"), "{checked}");
    assert!(outboxd_ok(&text, &["migrate"]).contains(&words), "nothing is done");
    let checked = outboxd(&text, &["check"]);
    assert!(checked.code == 0 && checked.out.contains(&words), "{checked:?}");
    drop(second);

    let ids = message_ids(&peer.received());
    let distinct: BTreeSet<i64> = ids.iter().copied().collect();
    assert_eq!(i64::try_from(distinct.len()).unwrap(), written, "nothing lost");
    assert_eq!(ids.len(), distinct.len(), "nothing doubled");
    assert_eq!(violations(&client).await, Vec::<String>::new());
}

/// Guard: `works_from`. A schema that asks for more than this binary knows is refused, politely.
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_asks_for_more_is_refused() {
    let database = Database::migrated().await;
    let database_config = config(&database.url(), "").database;
    let target = Target::new(&database_config);
    let known = one_more(newest() + 1);
    migrate_with(&target, &database_config, &known, PATIENCE, |_| {}).await.unwrap();
    let words = format!("made by a newer outboxd (migration {}); use that version", newest() + 1);
    let rest = crm("http://127.0.0.1:9/", "");
    let refused = Relay::start(config(&database.url(), &rest)).outcome().await.unwrap_err();
    assert!(matches!(&refused, RunError::Schema(said) if said.contains(&words)), "{refused}");
    let text = toml(&database.url(), RELAY, &rest);
    for arguments in [&["migrate", "--check"][..], &["migrate"], &["check"]] {
        let said = outboxd(&text, arguments);
        assert!(said.code == 1 && (said.out + &said.err).contains(&words), "{arguments:?}");
    }
}

/// After its patience a migration leaves nothing and says who was in the way.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_cannot_have_its_lock_says_who_has_it() {
    let database = Database::migrated().await;
    let long = database.connect().await;
    long.batch_execute("BEGIN; SELECT count(*) FROM outbox.delivery").await.unwrap();
    let pid = number(&long, "SELECT pg_backend_pid()::bigint").await;
    let database_config = config(&database.url(), "").database;
    let (target, patience) = (Target::new(&database_config), Duration::from_secs(1));
    let known = one_more(newest());
    let failed = migrate_with(&target, &database_config, &known, patience, |_| {}).await;
    let words = failed.unwrap_err().to_string();
    assert!(
        words.contains("no lock to be had for 1s") && words.contains(&format!("process {pid}")),
        "{words}"
    );
    long.batch_execute("COMMIT").await.unwrap();
    let later = "SELECT count(*) FROM information_schema.columns WHERE column_name = 'later'";
    assert_eq!(number(&long, later).await, 0, "nothing stays");
    eventually("then it runs", LONG, async || {
        let ran = migrate_with(&target, &database_config, &known, patience, |_| {}).await;
        ran.map_err(|error| error.to_string())
    })
    .await;
    assert_eq!(number(&long, later).await, 2);
}

/// A deadlock with others is a lock that could not be had; and a migration that is frozen keeps its locks
/// for five seconds at most.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_had_to_give_way_is_tried_again() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    // A sequence is not rolled back.
    client.batch_execute("CREATE SEQUENCE public.tries").await.unwrap();
    let database_config = config(&database.url(), "").database;
    let target = Target::new(&database_config);
    let mut known = one_more(newest());
    known.last_mut().unwrap().text = "DO $$ BEGIN
           IF nextval('public.tries') < 2 THEN RAISE SQLSTATE '40P01'; END IF;
           IF current_setting('idle_in_transaction_session_timeout') <> '5s' THEN
             RAISE 'keeps its locks';
           END IF;
         END $$;";
    let patience = Duration::from_secs(10);
    migrate_with(&target, &database_config, &known, patience, |_| {}).await.unwrap();
    assert_eq!(number(&client, "SELECT last_value FROM public.tries").await, 2);
}
