//! The inbox recipe: a receiver that keeps ids in its own PostgreSQL does each thing once, whatever comes twice
//! and wherever it dies.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use tokio::net::TcpStream;
use tokio_postgres::Client;

use crate::harness::eventually;
use crate::harness::http::{signed_post, signed_post_at};
use crate::harness::plane::{LONG, number, send, until_closed, until_count, until_routed};
use crate::harness::postgres::{Cluster, Database};
use crate::harness::proxy::{Proxy, Target};
use crate::harness::relay::{Relay, config};
use crate::producers::{assert_shows_what_is_run, python};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const BODY: &str = r#"{"customer": "ann", "points": 5}"#;
const POINTS: &str = "SELECT coalesce(sum(points), 0)::bigint FROM inbox.account";

/// The receiver of `examples/inbox`, its database, and a line between them that can be cut.
struct Inbox {
    database: Database,
    client: Client,
    proxy: Proxy,
    port: u16,
}

impl Inbox {
    async fn build() -> Inbox {
        let database = Database::migrated().await;
        database.psql(include_str!("../examples/inbox/inbox.sql"));
        let proxy = Proxy::start(Target::Unix(Cluster::shared().socket())).await;
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        let client = database.connect().await;
        Inbox { database, client, proxy, port }
    }

    /// Starts the receiver, again on the same port.
    async fn start(&self) -> Receiver {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/inbox/receiver.py");
        let child = Command::new(python())
            .arg(file)
            .env("PORT", self.port.to_string())
            .env("WEBHOOK_SECRET", SECRET)
            .env("DATABASE_URL", Cluster::tcp_url(self.proxy.port(), self.database.name()))
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 runs; integration/run.sh installs it");
        let receiver = Receiver(child);
        eventually("the receiver listens", LONG, async || {
            let stream = TcpStream::connect(("127.0.0.1", self.port)).await;
            stream.map(|_| ()).map_err(|error| error.to_string())
        })
        .await;
        receiver
    }

    /// Waits until the receiver is at its commit, as the test has the line held there.
    async fn caught(&self) {
        let caught = tokio::time::timeout(LONG, self.proxy.snared()).await;
        caught.expect("the receiver comes to its commit");
    }

    async fn points(&self) -> i64 {
        number(&self.client, POINTS).await
    }

    async fn relay(&self) -> Relay {
        let toml = format!(
            "[sinks.app]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:{}/\"\nsecrets = [\"{SECRET}\"]\n\
             retry = {{ delays = [\"100ms\", \"100ms\", \"100ms\"] }}\n\
             [[routes]]\ntype = \"points.*\"\nsink = \"app\"\n",
            self.port
        );
        let relay = Relay::start(config(&self.database.url(), &toml));
        until_routed(&self.client).await;
        relay
    }
}

struct Receiver(Child);

impl Receiver {
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Eight repeats come while the first is at work: none answers before it has committed, and none works.
#[tokio::test(flavor = "multi_thread")]
async fn repeats_at_the_same_time_wait_and_then_do_nothing() {
    let inbox = Inbox::build().await;
    let _receiver = inbox.start().await;
    let port = inbox.port;
    let deliver = move || tokio::spawn(signed_post(port, "msg_shop_1_app", SECRET, BODY));
    inbox.proxy.hold_requests_from(b"COMMIT");
    let first = deliver();
    inbox.caught().await;
    let repeats: Vec<_> = (0..8).map(|_| deliver()).collect();
    let waiting = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND wait_event_type = 'Lock'";
    until_count(&inbox.client, "the repeats wait for the first", waiting, 8).await;
    assert_eq!(inbox.points().await, 0);
    assert!(!first.is_finished() && repeats.iter().all(|repeat| !repeat.is_finished()));
    inbox.proxy.release();
    for answer in repeats.into_iter().chain([first]) {
        assert_eq!(answer.await.unwrap(), Some(200));
    }
    assert_eq!(inbox.points().await, 5);
    let seen = "SELECT count(*) FROM inbox.seen";
    assert_eq!(number(&inbox.client, seen).await, 1);
    let other = signed_post(port, "msg_shop_2_app", SECRET, BODY).await;
    assert_eq!((other, inbox.points().await), (Some(200), 10), "another message is another effect");
}

/// The effect is there, and the answer is not: the relay comes again, and finds it done.
#[tokio::test(flavor = "multi_thread")]
async fn killed_between_effect_and_answer_it_has_done_it_once() {
    let inbox = Inbox::build().await;
    let receiver = inbox.start().await;
    let relay = inbox.relay().await;
    inbox.proxy.hold_replies_after(b"COMMIT");
    send(&inbox.client, "points.won", BODY).await;
    inbox.caught().await;
    until_count(&inbox.client, "the effect is there", POINTS, 5).await;
    receiver.kill();
    inbox.proxy.resume();
    let _receiver = inbox.start().await;
    until_closed(&inbox.client).await;
    relay.stop().await;
    assert_eq!(inbox.points().await, 5);
    let attempts = "SELECT attempts::bigint FROM outbox.ledger WHERE outcome = 'delivered'";
    assert_eq!(number(&inbox.client, attempts).await, 2);
}

/// The effect is undone with the id, so that the repeat does it.
#[tokio::test(flavor = "multi_thread")]
async fn killed_before_its_commit_it_does_it_the_next_time() {
    let inbox = Inbox::build().await;
    let receiver = inbox.start().await;
    let relay = inbox.relay().await;
    inbox.proxy.hold_requests_from(b"COMMIT");
    send(&inbox.client, "points.won", BODY).await;
    inbox.caught().await;
    receiver.kill();
    // What it said last is never heard.
    inbox.proxy.cut().await;
    inbox.proxy.resume();
    assert_eq!(inbox.points().await, 0);
    let _receiver = inbox.start().await;
    until_closed(&inbox.client).await;
    relay.stop().await;
    assert_eq!(inbox.points().await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forged_altered_or_old_changes_nothing() {
    let inbox = Inbox::build().await;
    let _receiver = inbox.start().await;
    let stranger = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX";
    let id = "msg_shop_1_app";
    assert_eq!(signed_post(inbox.port, id, stranger, BODY).await, Some(401));
    let hour_old = jiff::Timestamp::now().as_second() - 3600;
    let old = signed_post_at(inbox.port, id, SECRET, BODY, BODY, hour_old).await;
    assert_eq!(old, Some(401));
    let now = jiff::Timestamp::now().as_second();
    let more = r#"{"customer": "ann", "points": 9}"#;
    assert_eq!(signed_post_at(inbox.port, id, SECRET, BODY, more, now).await, Some(401));
    assert_eq!(number(&inbox.client, "SELECT count(*) FROM inbox.seen").await, 0);
    // An effect that fails takes its id with it.
    assert_eq!(
        signed_post(inbox.port, id, SECRET, r#"{"customer": null, "points": 1}"#).await,
        Some(500)
    );
    assert_eq!(signed_post(inbox.port, id, SECRET, BODY).await, Some(200));
    assert_eq!(inbox.points().await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_ids_are_forgotten_and_young_ones_kept() {
    let inbox = Inbox::build().await;
    inbox.database.psql(
        "INSERT INTO inbox.seen VALUES ('young', now() - interval '89 days'),
                                       ('old', now() - interval '91 days')",
    );
    inbox.database.psql(include_str!("../examples/inbox/retention.sql"));
    assert_eq!(inbox.database.psql("SELECT id FROM inbox.seen"), "young");
}

/// What docs/inbox.md shows stands in the recipe's files.
#[test]
fn the_page_shows_what_is_run() {
    assert_shows_what_is_run("docs/inbox.md", 2);
}
