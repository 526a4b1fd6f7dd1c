//! The stage: a cluster of its own, relays as processes behind a proxy each, receivers, producers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use outboxd::config::Config;
use outboxd::store::{Target, migrate};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::journal::Journal;
use super::producers::{self, Producer};
use super::receivers::{ONCE, Receivers};
use crate::harness::eventually;
use crate::harness::plane::{LONG, number, until_routed};
use crate::harness::postgres::Cluster;
use crate::harness::proxy::{self, Proxy};
use crate::harness::relay::{Process, toml};

/// The lease of every relay.
pub const LEASE: Duration = Duration::from_secs(1);
const RELAY: &str = "lease = \"1s\"\ngrace = \"20s\"";
const DATABASE: &str = "shop";

/// All that a run needs.
pub struct Stage {
    pub cluster: Arc<Cluster>,
    pub receivers: Receivers,
    pub journal: Journal,
    /// Whether the server takes `PREPARE TRANSACTION`; then nobody rings bells.
    pub prepares: bool,
    /// The applications' way to the database.
    pub producers_wire: Proxy,
    relays: Vec<Slot>,
    config: String,
    stop_producers: CancellationToken,
    producers: Mutex<tokio::task::JoinSet<()>>,
    watch: tokio::task::JoinHandle<()>,
}

/// A relay's place: its process may be dead, its way to the database stays.
pub struct Slot {
    pub wire: Proxy,
    pub process: Mutex<Option<Process>>,
}

impl Stage {
    /// Starts everything, and returns once messages arrive.
    pub async fn start(seed: u64, relays: usize) -> Stage {
        let prepares = seed.is_multiple_of(2);
        let cluster = tokio::task::spawn_blocking(move || {
            let settings = [("max_prepared_transactions", "20")];
            Cluster::start_with(None, if prepares { &settings } else { &[] })
        });
        let cluster = Arc::new(cluster.await.expect("a cluster"));
        cluster.psql("postgres", &format!("CREATE DATABASE {DATABASE}"));
        let journal = Journal::default();
        let receivers = Receivers::start(&journal, seed).await;
        let rest = receivers.config();
        let text = toml(&cluster.url(DATABASE), RELAY, &rest);
        let config = Config::parse(&text, std::path::Path::new("chaos.toml"), &|_| None);
        let config = config.unwrap_or_else(|error| panic!("{error}\n{text}"));
        let target = Target::new(&config.database);
        migrate::migrate(&target, &config.database).await.expect("migrate");
        cluster.psql(DATABASE, producers::TABLES);

        let wire = async || Proxy::start(proxy::Target::Unix(cluster.socket())).await;
        let mut slots = Vec::new();
        for _ in 0..relays {
            slots.push(Slot { wire: wire().await, process: Mutex::new(None) });
        }
        let producers_wire = wire().await;
        let stop_producers = CancellationToken::new();
        let watch = tokio::spawn(watch_sinks(Arc::clone(&cluster), journal.clone()));
        let stage = Stage {
            cluster,
            receivers,
            journal,
            prepares,
            producers_wire,
            relays: slots,
            config: rest,
            stop_producers,
            producers: Mutex::default(),
            watch,
        };
        for slot in 0..relays {
            stage.revive(slot);
        }
        let client = stage.client().await;
        until_routed(&client).await;
        let owned = "SELECT count(*) FILTER (WHERE owner IS NULL) FROM outbox.sink";
        eventually("every sink has an owner", LONG, async || match number(&client, owned).await {
            0 => Ok(()),
            without => Err(format!("{without} without")),
        })
        .await;
        stage.start_producers(seed);
        eventually("messages arrive", LONG, async || match stage.journal.arrivals() {
            0..20 => Err("few".to_owned()),
            _ => Ok(()),
        })
        .await;
        stage
    }

    fn start_producers(&self, seed: u64) {
        let steady = self.cluster.config(DATABASE);
        let others = self.producers_url().parse().expect("our own URL parses");
        let tasks = producers::start(&self.journal, steady, &others, &self.stop_producers, seed);
        *lock(&self.producers) = tasks;
    }

    fn producers_url(&self) -> String {
        Cluster::tcp_url(self.producers_wire.port(), DATABASE)
    }

    /// A producer for a fault, past the applications' proxy.
    pub fn producer(&self) -> Producer {
        Producer {
            journal: self.journal.clone(),
            config: self.cluster.config(DATABASE),
            stop: CancellationToken::new(),
        }
    }

    /// A session on the database, however long that takes.
    pub async fn client(&self) -> Client {
        self.producer().connect().await.expect("nobody stops it")
    }

    /// How many relays there are.
    pub fn slots(&self) -> usize {
        self.relays.len()
    }

    /// The place of a relay.
    pub fn slot(&self, slot: usize) -> &Slot {
        &self.relays[slot]
    }

    /// The place of the relay that works a sink, or any that runs.
    pub async fn owner_of(&self, sink: &str) -> usize {
        let client = self.client().await;
        let owner = "SELECT r.pid FROM outbox.sink s JOIN outbox.relay r ON r.id = s.owner WHERE s.name = $1";
        let row = client.query_opt(owner, &[&sink]).await.ok().flatten();
        let pid = row.map(|row| row.get::<_, i32>(0).cast_unsigned());
        let place = |slot: &Slot| lock(&slot.process).as_ref().map(Process::id) == pid;
        pid.and_then(|_| self.relays.iter().position(place)).unwrap_or(0)
    }

    /// Starts a relay where none is.
    pub fn revive(&self, slot: usize) {
        let mut process = lock(&self.relays[slot].process);
        if process.is_none() {
            let url = Cluster::tcp_url(self.relays[slot].wire.port(), DATABASE);
            *process = Some(Process::start(&toml(&url, RELAY, &self.config)));
        }
    }

    /// Ends a relay as a crash would.
    pub fn kill(&self, slot: usize) {
        if let Some(process) = self.take(slot) {
            process.kill();
        }
    }

    /// The relay, without its place.
    pub fn take(&self, slot: usize) -> Option<Process> {
        lock(&self.relays[slot].process).take()
    }

    /// Sends a signal to a relay.
    pub fn signal(&self, slot: usize, name: &str) {
        if let Some(process) = &*lock(&self.relays[slot].process) {
            process.signal(name);
        }
    }

    /// No more faults: every relay runs, every way is open, every receiver behaves, and nobody says
    /// anything more.
    pub async fn calm(&self) {
        self.stop_producers.cancel();
        self.producers_wire.resume();
        for slot in 0..self.slots() {
            self.slot(slot).wire.resume();
            self.revive(slot);
        }
        self.receivers.bad_receiver(false);
        self.receivers.bad_mail_server(false, 0);
        self.receivers.come_back();
        let mut tasks = std::mem::take(&mut *lock(&self.producers));
        while let Some(ended) = tasks.join_next().await {
            ended.expect("a producer does not panic");
        }
        // As a transaction manager would, after a reply that was lost.
        let client = self.client().await;
        let left = client.query("SELECT gid FROM pg_prepared_xacts", &[]).await.expect("look");
        for row in left {
            let finish = format!("COMMIT PREPARED '{}'", row.get::<_, String>(0));
            client.batch_execute(&finish).await.expect("finish what was prepared");
        }
        // As an operator would, once the receiver is back: a long run has used up its attempts. And under
        // a thousand kills a message may be in flight at three of them: dead by the rule, it holds up its
        // key.
        let again = "UPDATE outbox.delivery SET state = 'pending', due_at = now(), attempt = 0, rev = rev + 1
                      WHERE state = 'dead' AND (sink = 'away' OR reason LIKE 'the relay crashed%')";
        client.batch_execute(again).await.expect("try again");
    }

    /// Waits until everything is closed but what is dead, and what is held where a message may arrive
    /// only once; says how long that took.
    pub async fn until_drained(&self, limit: Duration) -> Duration {
        let begun = Instant::now();
        let client = self.client().await;
        let open = "SELECT count(*),
                           coalesce(string_agg(DISTINCT sink || ' ' || state || ' ' || coalesce(reason, ''), '; '), '')
                      FROM outbox.delivery
                     WHERE NOT (state = 'dead' OR (state = 'held' AND sink = ANY ($1)))";
        eventually("the backlog is drained", limit, async || {
            let row = client.query_one(open, &[&ONCE]).await.map_err(|e| e.to_string())?;
            match row.get::<_, i64>(0) {
                0 => Ok(()),
                open => Err(format!("{open} open: {}", row.get::<_, String>(1))),
            }
        })
        .await;
        let files = "SELECT count(*) FROM outbox.export WHERE state <> 'published'";
        eventually("all files stand", limit, async || match number(&client, files).await {
            0 => Ok(()),
            files => Err(format!("{files} do not")),
        })
        .await;
        begun.elapsed()
    }

    /// Ends the relays in order.
    pub async fn end(&self) {
        for slot in 0..self.slots() {
            if let Some(mut process) = self.take(slot) {
                process.signal("TERM");
                let ended = process.ended().await;
                assert!(ended.success(), "{ended}: {}", process.log());
            }
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// Notes when sinks change hands, as far as a look ten times a second shows.
async fn watch_sinks(cluster: Arc<Cluster>, journal: Journal) {
    let mut epochs = std::collections::BTreeMap::new();
    let mut client: Option<Client> = None;
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if client.as_ref().is_none_or(Client::is_closed) {
            let Ok((connected, connection)) =
                cluster.config(DATABASE).connect(tokio_postgres::NoTls).await
            else {
                continue;
            };
            tokio::spawn(connection);
            client = Some(connected);
        }
        let Some(connected) = &client else { continue };
        let Ok(rows) = connected.query("SELECT name, epoch FROM outbox.sink", &[]).await else {
            continue;
        };
        for row in rows {
            let (sink, epoch): (String, i64) = (row.get(0), row.get(1));
            let before = epochs.insert(sink.clone(), epoch).unwrap_or(epoch);
            for _ in before..epoch {
                journal.taken(&sink);
            }
        }
    }
}

/// The lock of a mutex that outlives a panic elsewhere.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
