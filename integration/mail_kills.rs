//! Relays killed while mails with several recipients go out: each recipient comes to one end (S21).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio_postgres::Client;

use crate::audit::violations;
use crate::harness::plane::{number, until_count, until_routed};
use crate::harness::postgres::Database;
use crate::harness::relay::{Process, toml};
use crate::harness::smtp::{Say, Settings, SmtpPeer};

const MESSAGES: usize = 300;
const KILLS: usize = 4;
const CONCURRENCY: usize = 4;

/// A mail server of which one third of the addresses take a mail at once, one third when asked again, and
/// one third never.
async fn peer() -> SmtpPeer {
    let settings = Settings { offers: vec!["PIPELINING"], ..Settings::default() };
    let peer = SmtpPeer::start_with(settings).await;
    let asked: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    peer.decide_recipient(move |address| {
        let mut asked = asked.lock().unwrap();
        let times = asked.entry(address.to_owned()).or_default();
        *times += 1;
        match address.split('-').next() {
            Some("later") if *times == 1 => Some(Say::text("451 4.3.0 later")),
            Some("never") => Some(Say::text("550 5.1.1 unknown")),
            _ => None,
        }
    });
    peer
}

fn config(url: &str, port: u16, guarantee: &str) -> String {
    let rest = format!(
        "[sinks.mail]\nkind = \"smtp\"\nurl = \"smtp://127.0.0.1:{port}\"\nfrom = \"shop@example.com\"\n\
         concurrency = {CONCURRENCY}\nguarantee = \"{guarantee}\"\n\
         retry = {{ delays = [\"50ms\", \"50ms\", \"50ms\", \"50ms\", \"50ms\", \"50ms\", \"50ms\"] }}\n\
         [[routes]]\ntype = \"*\"\nsink = \"mail\"\nto = \"{{{{ payload.to }}}}\"\nsubject = \"S\"\n\
         text = \"T\"\n"
    );
    toml(url, "lease = \"1s\"", &rest)
}

/// Sends mails and kills the relay again and again; answers how often each address was delivered to.
async fn among_kills(client: &Client, peer: &SmtpPeer, config: &str) -> HashMap<String, usize> {
    let mut relay = Process::start(config);
    until_routed(client).await;
    let send = format!(
        "INSERT INTO outbox.message (type, payload)
         SELECT 't', jsonb_build_object('to', format('once-%s@x.example, later-%1$s@x.example, never-%1$s@x.example', g))
           FROM generate_series(1, {MESSAGES}) g"
    );
    client.batch_execute(&send).await.unwrap();
    for kill in 1..=KILLS {
        let until = MESSAGES * 2 / (KILLS + 2) * kill;
        peer.until(|peer| peer.accepted() >= until).await;
        relay.kill();
        relay = Process::start(config);
    }
    let open = "SELECT count(*) FROM outbox.delivery WHERE state IN ('pending', 'sending')";
    until_count(client, "all have come to an end", open, 0).await;
    relay.signal("TERM");
    assert!(relay.ended().await.success());
    let mut counts = HashMap::new();
    for address in peer.mails().into_iter().flat_map(|mail| mail.to) {
        *counts.entry(address).or_default() += 1;
    }
    counts
}

/// Of how many recipients the rows say so.
async fn known(client: &Client, whose: &str, state: &str) -> i64 {
    let sql = format!(
        "SELECT count(*) FROM outbox.delivery d, jsonb_each(d.recipients) e
          WHERE e.key LIKE '{whose}-%' AND e.value ->> 'state' = '{state}'"
    );
    number(client, &sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_recipient_comes_to_one_end_however_often_relays_are_killed() {
    let database = Database::migrated().await;
    let (client, peer) = (database.connect().await, peer().await);
    let config = config(&database.url(), peer.address.port(), "at-least-once");
    let counts = among_kills(&client, &peer, &config).await;
    let all = i64::try_from(MESSAGES).unwrap();
    assert_eq!(counts.len(), MESSAGES * 2, "nobody is forgotten, and nobody got it that refused");
    assert_eq!(known(&client, "once", "accepted").await, all);
    assert_eq!(known(&client, "later", "accepted").await, all);
    assert_eq!(known(&client, "never", "refused").await, all);
    let dead = "SELECT count(*) FROM outbox.delivery WHERE state = 'dead'";
    assert_eq!(number(&client, dead).await, all);
    // What was in flight at a kill, and what was answered and not recorded yet: within the linger of a batch.
    let repeated = counts.values().filter(|count| **count > 1).count();
    println!("{} accepted, {repeated} repeated over {KILLS} kills", peer.accepted());
    assert!(repeated <= KILLS * 200, "{repeated}");
    assert_eq!(violations(&client).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_holds_for_each_recipient_however_often_relays_are_killed() {
    let database = Database::migrated().await;
    let (client, peer) = (database.connect().await, peer().await);
    let config = config(&database.url(), peer.address.port(), "at-most-once");
    let counts = among_kills(&client, &peer, &config).await;
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    assert!(counts.keys().all(|address| !address.starts_with("never")));
    let held = number(&client, "SELECT count(*) FROM outbox.delivery WHERE state = 'held'").await;
    let dead = number(&client, "SELECT count(*) FROM outbox.delivery WHERE state = 'dead'").await;
    println!("{} accepted, {held} held over {KILLS} kills", peer.accepted());
    assert_eq!(held + dead, i64::try_from(MESSAGES).unwrap());
    // Under way, and on record before it was begun.
    assert!(held <= i64::try_from(KILLS * CONCURRENCY * 4).unwrap(), "{held}");
    // Who got it and is not on record is in doubt, and an operator is asked.
    let missing = MESSAGES * 2 - counts.len();
    assert!(i64::try_from(missing).unwrap() <= held * 2, "{missing} missing, {held} held");
    assert_eq!(violations(&client).await, Vec::<String>::new());
}
