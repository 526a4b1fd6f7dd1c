//! The producers: applications that commit, roll back, copy, take turns, and know afterwards what they
//! did, or that they do not know.

use std::time::{Duration, Instant};

use futures_util::SinkExt;
use jiff::Timestamp;
use tokio_postgres::{Client, Config};
use tokio_util::sync::CancellationToken;

use super::journal::{Fate, Journal, Said};

/// How many keys the application has.
const KEYS: u32 = 40;

/// A key whose writers do not take turns: its order is nobody's promise.
pub const LOOSE: &str = "loose";

/// An application, and how it reaches its database.
#[derive(Clone)]
pub struct Producer {
    pub journal: Journal,
    /// How it connects.
    pub config: Config,
    /// Tells it to end.
    pub stop: CancellationToken,
}

/// One step of a transaction.
pub enum Step {
    /// A statement of the business.
    Sql(String),
    /// A message.
    Say(Say),
    /// Several in one statement.
    Many(&'static str, usize),
    /// Several by COPY.
    Copy(&'static str, usize),
    /// The messages since the savepoint are taken back: `ROLLBACK TO`.
    Back,
    /// Time passes.
    Wait(Duration),
}

/// A message to be said.
#[derive(Clone, Default)]
pub struct Say {
    pub kind: &'static str,
    pub key: Option<String>,
    pub delay: Duration,
}

/// How a transaction is to end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    Commit,
    RollBack,
    /// By `PREPARE TRANSACTION` and, that much later, `COMMIT PREPARED`.
    Prepare(Duration),
}

/// What was said in a transaction, before its end is known.
#[derive(Default)]
struct Pending {
    said: Vec<(u64, Said)>,
    /// From which on the next `ROLLBACK TO` takes back.
    savepoint: usize,
}

/// A message without a key.
pub fn say(kind: &'static str) -> Step {
    Step::Say(Say { kind, ..Say::default() })
}

/// A message with one. The key's row is to be locked first.
pub fn say_keyed(kind: &'static str, key: &str) -> Step {
    Step::Say(Say { kind, key: Some(key.to_owned()), ..Say::default() })
}

/// Takes the turn of a key, as the README asks applications to.
pub fn lock_key(key: &str) -> Step {
    Step::Sql(format!("SELECT FROM app_key WHERE key = '{key}' FOR UPDATE"))
}

/// What the applications have beside their outbox.
pub const TABLES: &str = "CREATE TABLE app_key (key text PRIMARY KEY);
     INSERT INTO app_key SELECT 'k' || g FROM generate_series(0, 99) g;
     INSERT INTO app_key VALUES ('hot');
     CREATE TABLE app_order (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, total numeric)";

impl Producer {
    /// Connects, for as long as it takes.
    pub async fn connect(&self) -> Option<Client> {
        while !self.stop.is_cancelled() {
            if let Ok((client, connection)) = self.config.connect(tokio_postgres::NoTls).await {
                tokio::spawn(connection);
                return Some(client);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        None
    }

    /// One message every few milliseconds, each in a transaction of its own; what is measured is
    /// measured on those of the type `tick`.
    pub async fn tick(self, kind: &'static str, every: Duration) {
        let mut pace = tokio::time::interval(every);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut client = None;
        while !self.stop.is_cancelled() {
            pace.tick().await;
            if client.is_none() {
                client = self.connect().await;
            }
            let Some(connected) = &client else { continue };
            let (begun, at) = (Instant::now(), Timestamp::now());
            if self.transaction(connected, vec![say(kind)], End::Commit).await {
                self.journal.commit_took(at, begun.elapsed());
            } else {
                client = None;
            }
        }
    }

    /// All kinds of transactions, until told to stop.
    pub async fn work(self, seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut client = None;
        while !self.stop.is_cancelled() {
            if client.is_none() {
                client = self.connect().await;
            }
            let Some(connected) = &client else { continue };
            let (steps, end) = draw(&mut random);
            if !self.transaction(connected, steps, end).await {
                client = None;
            }
            tokio::time::sleep(Duration::from_millis(random.u64(20..80))).await;
        }
    }

    /// Runs a transaction and notes what became of what was said in it. `false` if the connection is
    /// of no use any more.
    pub async fn transaction(&self, client: &Client, steps: Vec<Step>, end: End) -> bool {
        let from = Timestamp::now();
        let mut pending = Pending::default();
        let fate = match self.run(client, steps, &mut pending).await {
            // A COMMIT that was never sent commits nothing.
            Err(error) => {
                self.journal.trouble(from, error.to_string());
                let _ = client.batch_execute("ROLLBACK").await;
                Fate::RolledBack
            }
            Ok(()) => self.end(client, end, from).await,
        };
        let at = Timestamp::now();
        for (token, mut said) in pending.said {
            if said.fate != Fate::RolledBack {
                said.fate = fate;
            }
            said.at = at;
            self.journal.said(token, said);
        }
        !client.is_closed() && fate != Fate::Unknown
    }

    async fn run(
        &self,
        client: &Client,
        steps: Vec<Step>,
        pending: &mut Pending,
    ) -> Result<(), tokio_postgres::Error> {
        client.batch_execute("BEGIN").await?;
        for step in steps {
            match step {
                Step::Sql(sql) => {
                    client.batch_execute(&sql).await?;
                    if sql.starts_with("SAVEPOINT") {
                        pending.savepoint = pending.said.len();
                    }
                }
                Step::Say(said) => {
                    let token = self.note(&said, pending);
                    client.batch_execute(&insert(&said, token, pending)).await?;
                }
                Step::Many(kind, count) => {
                    let tokens = self.note_many(kind, count, pending);
                    let rows: Vec<String> = tokens
                        .iter()
                        .map(|t| format!("('{kind}', '{}')", payload(kind, *t)))
                        .collect();
                    let rows = rows.join(",");
                    let sql = format!("INSERT INTO outbox.message (type, payload) VALUES {rows}");
                    client.batch_execute(&sql).await?;
                }
                Step::Copy(kind, count) => {
                    let tokens = self.note_many(kind, count, pending);
                    let lines: Vec<String> =
                        tokens.iter().map(|t| format!("{kind}\t{}", payload(kind, *t))).collect();
                    let lines = lines.join("\n") + "\n";
                    let copy = "COPY outbox.message (type, payload) FROM STDIN";
                    let sink = client.copy_in(copy).await?;
                    futures_util::pin_mut!(sink);
                    sink.send(bytes_of(lines)).await?;
                    sink.finish().await?;
                }
                Step::Back => {
                    client.batch_execute("ROLLBACK TO s").await?;
                    for (_, said) in &mut pending.said[pending.savepoint..] {
                        said.fate = Fate::RolledBack;
                    }
                }
                Step::Wait(wait) => tokio::time::sleep(wait).await,
            }
        }
        Ok(())
    }

    async fn end(&self, client: &Client, end: End, from: Timestamp) -> Fate {
        let name = format!("t{}", self.journal.draw());
        let (sql, good) = match end {
            End::Commit => ("COMMIT".to_owned(), Fate::Committed),
            End::RollBack => ("ROLLBACK".to_owned(), Fate::RolledBack),
            End::Prepare(_) => (format!("PREPARE TRANSACTION '{name}'"), Fate::Committed),
        };
        if let Err(error) = client.batch_execute(&sql).await {
            self.journal.trouble(from, error.to_string());
            // An error that the server answered rolled back; a lost answer says nothing. What is
            // prepared and unknown is left: the database is asked for it at the end.
            return if error.as_db_error().is_some_and(|e| !e.code().code().starts_with("57")) {
                Fate::RolledBack
            } else {
                Fate::Unknown
            };
        }
        let End::Prepare(wait) = end else { return good };
        tokio::time::sleep(wait).await;
        // Whatever happens to this connection, somebody finishes it, as transaction managers do.
        let finish = format!("COMMIT PREPARED '{name}'");
        if client.batch_execute(&finish).await.is_ok() {
            return Fate::Committed;
        }
        match self.connect().await {
            Some(again) => match again.batch_execute(&finish).await {
                Ok(()) => Fate::Committed,
                Err(_) => Fate::Unknown,
            },
            None => Fate::Unknown,
        }
    }

    fn note(&self, said: &Say, pending: &mut Pending) -> u64 {
        let (token, place) = (self.journal.draw(), self.journal.draw());
        let now = Timestamp::now();
        let due_at = (!said.delay.is_zero()).then(|| now + said.delay);
        let (kind, key, fate) = (said.kind, said.key.clone(), Fate::Unknown);
        pending.said.push((token, Said { kind, key, place, due_at, fate, at: now }));
        token
    }

    fn note_many(&self, kind: &'static str, count: usize, pending: &mut Pending) -> Vec<u64> {
        let said = Say { kind, ..Say::default() };
        (0..count).map(|_| self.note(&said, pending)).collect()
    }
}

fn insert(said: &Say, token: u64, pending: &Pending) -> String {
    let quoted = |text: Option<String>| text.map_or("NULL".to_owned(), |text| format!("'{text}'"));
    let due = pending.said.last().and_then(|(_, said)| said.due_at);
    format!(
        "INSERT INTO outbox.message (type, payload, key, due_at) VALUES ('{}', '{}', {}, {})",
        said.kind,
        payload(said.kind, token),
        quoted(said.key.clone()),
        quoted(due.map(|due| due.to_string())),
    )
}

/// With a number that must keep its digits; a poisoned mail lacks what its template needs.
fn payload(kind: &str, token: u64) -> String {
    if kind == "mail.poison" {
        return format!("{{\"token\": {token}}}");
    }
    format!("{{\"token\": {token}, \"text\": \"Straße {token}\", \"total\": {token}.10}}")
}

fn bytes_of(text: String) -> std::io::Cursor<Vec<u8>> {
    std::io::Cursor::new(text.into_bytes())
}

/// A transaction of the application's day.
fn draw(random: &mut fastrand::Rng) -> (Vec<Step>, End) {
    let order = || Step::Sql("INSERT INTO app_order (total) VALUES (19.90)".to_owned());
    let key = format!("k{}", random.u32(0..KEYS));
    let later = Duration::from_millis(random.u64(100..1_500));
    match random.u32(0..100) {
        0..20 => (vec![order(), say("order.made"), say("once.made")], End::Commit),
        20..35 => (vec![order(), say("order.made"), say("once.made")], End::RollBack),
        35..60 => (vec![lock_key(&key), order(), say_keyed("order.paid", &key)], End::Commit),
        60..65 => {
            let two =
                [lock_key(&key), say_keyed("order.paid", &key), say_keyed("order.sent", &key)];
            (two.into(), End::Commit)
        }
        65..75 => {
            let savepoint = Step::Sql("SAVEPOINT s".to_owned());
            let steps =
                vec![say("order.made"), savepoint, say("order.made"), Step::Back, say("mail.note")];
            (steps, End::Commit)
        }
        75..85 => (vec![say("mail.note"), say("mail.bill")], End::Commit),
        85..90 => (vec![lock_key(&key), say_keyed("mail.keyed", &key)], End::Commit),
        90..95 => {
            let delayed = Say { kind: "order.made", key: None, delay: later };
            (vec![Step::Say(delayed)], End::Commit)
        }
        95..98 => (vec![Step::Many("order.made", 3)], End::Commit),
        _ => (vec![say("away.x")], End::Commit),
    }
}

/// The steady producer and the others, as tasks.
pub fn start(
    journal: &Journal,
    steady: Config,
    others: &Config,
    stop: &CancellationToken,
    seed: u64,
) -> tokio::task::JoinSet<()> {
    let producer =
        |config: Config| Producer { journal: journal.clone(), config, stop: stop.clone() };
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(producer(steady.clone()).tick("tick", Duration::from_millis(20)));
    tasks.spawn(producer(steady).tick("once.made", Duration::from_millis(40)));
    for number in 0..3 {
        tasks.spawn(producer(others.clone()).work(seed.wrapping_add(number)));
    }
    tasks
}
