//! kill -9 at each transition of a mail, over and over: no period has two mails, and every mail of which
//! nobody knows what became is there to be seen.
//!
//! By hand, longer: `OUTBOXD_MAILING_KILLS=200 cargo test --test integration -- --nocapture mailing::kills`.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::{header, in_full};
use crate::audit::violations;
use crate::harness::eventually;
use crate::harness::http::Gate;
use crate::harness::plane::{LONG, number};
use crate::harness::postgres::{Cluster, Database};
use crate::harness::proxy::{Proxy, Target};
use crate::harness::relay::{Process, toml};
use crate::harness::smtp::{Say, SmtpPeer, Step};

/// Kills in the ordinary run: each point twice.
const KILLS: usize = 2 * POINTS.len();
/// Longest wait for a point to be reached; where it is not, the kill hits what it hits.
const MOMENT: Duration = Duration::from_secs(5);

/// Where a relay is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Point {
    /// A statement is on its way and does not arrive before the kill.
    Before(&'static str),
    /// It was done, and the relay does not hear of it.
    After(&'static str),
    /// The server is at this step of the dialogue and has not answered.
    At(Stage),
    /// The server took the mail, and the relay does not hear of it.
    Taken,
    /// Anywhere.
    Anywhere,
}

/// Steps of the dialogue, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Greeting,
    Mail,
    Dot,
}

const PLAN: &str = "INSERT INTO outbox.mailing";
const BUILD: &str = "SET state = 'built', hash";
const BEGIN: &str = "SET state = 'sending', actor";
const END: &str = "-- Records how a dialogue ended";

const POINTS: [Point; 13] = [
    Point::Before(PLAN),
    Point::After(PLAN),
    Point::Before(BUILD),
    Point::After(BUILD),
    Point::At(Stage::Greeting),
    Point::Before(BEGIN),
    Point::After(BEGIN),
    Point::At(Stage::Mail),
    Point::At(Stage::Dot),
    Point::Taken,
    Point::Before(END),
    Point::After(END),
    Point::Anywhere,
];

/// An order every so often, until told to stop.
async fn produce(client: Client, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let insert = "INSERT INTO outbox.message (type, payload) VALUES ('order.created', '{}')";
        client.batch_execute(insert).await.expect("insert");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Waits for a point, as far as it comes.
async fn reach(point: Point, wire: &Proxy, peer: &SmtpPeer) -> bool {
    let reached = async {
        match point {
            Point::Before(statement) => {
                wire.hold_requests_from(statement.as_bytes());
                wire.snared().await;
            }
            Point::After(statement) => {
                wire.hold_replies_after(statement.as_bytes());
                wire.snared().await;
            }
            Point::At(step) => {
                let (step, word) = match step {
                    Stage::Greeting => (Step::Greeting, None),
                    Stage::Mail => (Step::Mail, Some("MAIL")),
                    Stage::Dot => (Step::Dot, None),
                };
                let (connections, mails, commands) =
                    (peer.connections(), peer.mails().len(), peer.commands().len());
                peer.script(step, [Say::Gated(Gate::new(), Box::new(Say::Cut))]);
                peer.until(|peer| match (step, word) {
                    (Step::Greeting, _) => peer.connections() > connections,
                    (_, Some(word)) => peer.commands()[commands..].iter().any(|said| said == word),
                    _ => peer.mails().len() > mails,
                })
                .await;
            }
            Point::Taken => {
                let mails = peer.mails().len();
                peer.script(Step::Dot, [Say::Hang]);
                peer.until(|peer| peer.mails().len() > mails).await;
            }
            Point::Anywhere => {
                tokio::time::sleep(Duration::from_millis(fastrand::u64(0..1_500))).await;
            }
        }
    };
    tokio::time::timeout(MOMENT, reached).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_period_has_two_mails_wherever_the_relay_is_killed() {
    let kills = std::env::var("OUTBOXD_MAILING_KILLS").ok().and_then(|count| count.parse().ok());
    let kills: usize = kills.unwrap_or(KILLS);
    let database = Database::migrated().await;
    let client = database.connect().await;
    let (peer, folder) = (SmtpPeer::start().await, tempfile::tempdir().unwrap());
    let wire = Proxy::start(Target::Unix(Cluster::shared().socket())).await;
    let rest = format!(
        "[sinks.post]\nkind = \"smtp\"\nurl = \"smtp://{}\"\nfrom = \"shop@example.com\"\n\
         [sinks.orders]\nkind = \"csv\"\npath = \"{}/orders-{{{{ period }}}}.csv\"\n\
         columns = [{{ name = \"id\", value = \"id\" }}]\nevery = \"1s\"\n\
         [sinks.orders.mail]\nsink = \"post\"\nto = \"office@example.com\"\ncatch_up = \"each\"\n\
         [[routes]]\ntype = \"order.*\"\nsink = \"orders\"\n",
        peer.address,
        folder.path().display()
    );
    let url = Cluster::tcp_url(wire.port(), database.name());
    let text = toml(&url, "lease = \"1s\"\ngrace = \"10s\"", &rest);
    let stop = CancellationToken::new();
    let producer = tokio::spawn(produce(database.connect().await, stop.clone()));
    let mut struck: BTreeMap<Point, (usize, usize)> = BTreeMap::new();
    let mut relay = Process::start(&text);
    for kill in 0..kills {
        let point = POINTS[kill % POINTS.len()];
        let reached = reach(point, &wire, &peer).await;
        relay.kill();
        wire.cut().await;
        wire.resume();
        for step in [Step::Greeting, Step::Mail, Step::Dot] {
            peer.usual(step);
        }
        let count = struck.entry(point).or_default();
        *count = (count.0 + 1, count.1 + usize::from(reached));
        relay = Process::start(&text);
    }
    stop.cancel();
    producer.await.unwrap();
    // What is left is sent, or held.
    let open = "SELECT count(*) FROM outbox.delivery
                UNION ALL SELECT count(*) FROM outbox.export WHERE state <> 'published' OR mailing IS NULL
                UNION ALL SELECT count(*) FROM outbox.mailing WHERE state NOT IN ('sent', 'held')";
    let open = format!("SELECT sum(open)::bigint FROM ({open}) o (open)");
    eventually("everything is mailed or held", LONG, async || match number(&client, &open).await {
        0 => Ok(()),
        left => Err(format!("{left} left; {}", relay.log())),
    })
    .await;
    relay.kill();
    judge(&client, &peer, &struck).await;
}

/// Holds what the server saw against what the database says.
async fn judge(client: &Client, peer: &SmtpPeer, struck: &BTreeMap<Point, (usize, usize)>) {
    let mut came: BTreeMap<String, usize> = BTreeMap::new();
    for mail in in_full(peer) {
        *came.entry(header(&mail, "Message-ID")).or_default() += 1;
    }
    let rows = client.query("SELECT period, state FROM outbox.mailing", &[]).await.unwrap();
    let (mut sent, mut held, mut arrived_held) = (0, 0, 0);
    for row in &rows {
        let (period, state): (String, String) = (row.get(0), row.get(1));
        let id = format!("<export_shop_orders_{period}@example.com>");
        let count = came.remove(&id).unwrap_or_default();
        assert!(count <= 1, "{period} came {count} times");
        if state == "sent" {
            assert_eq!(count, 1, "{period} is called sent and did not come");
            sent += 1;
        } else {
            assert_eq!(state, "held");
            held += 1;
            arrived_held += count;
        }
    }
    assert!(came.is_empty(), "mails of no record: {came:?}");
    assert_eq!(violations(client).await, Vec::<String>::new());
    let kills: usize = struck.values().map(|count| count.0).sum();
    println!(
        "{kills} kills; {} periods, {sent} sent, {held} held of which {arrived_held} had arrived; \
         points (struck, reached): {struck:?}",
        rows.len()
    );
    for (point, (times, reached)) in struck {
        assert!(*reached > 0, "{point:?} was not reached in {times} times");
    }
}
