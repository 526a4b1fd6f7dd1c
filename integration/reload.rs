//! SIGHUP: another config in place of the one there is, wholly or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::harness::http::{Answer, Gate, HttpPeer};
use crate::harness::plane::{LONG, message_ids, number, send, until_closed, until_routed};
use crate::harness::postgres::Database;
use crate::harness::relay::{Process, crm, toml};
use crate::harness::smtp::SmtpPeer;
use crate::harness::{eventually, plane};

const RELAY: &str = "lease = \"2s\"\ngrace = \"10s\"";
const IN_PLACE: &str = "reloaded: the new config is at work";
const REFUSED: &str = "reload refused, the config of before stays in force";

/// A config that sends everything to this path of the peer, and one type more to a sink of its own.
fn to(database: &Database, peer: &HttpPeer, path: &str, more: &str) -> String {
    let more = format!(
        "{more}\n[sinks.app]\nkind = \"webhook\"\nurl = \"{}\"\n[[routes]]\ntype = \"app\"\nsink = \"app\"\n",
        peer.url("/app")
    );
    toml(&database.url(), RELAY, &crm(&peer.url(path), &more))
}

#[tokio::test(flavor = "multi_thread")]
async fn configs_take_each_others_place_under_load_and_nothing_is_lost_or_doubled() {
    let (database, peer) = (Database::migrated().await, HttpPeer::start().await);
    let client = database.connect().await;
    let vacant = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let admin = format!("[admin]\nlisten = \"{vacant}\"\n");
    let relay = Process::start(&to(&database, &peer, "/0", &admin));
    until_routed(&client).await;
    let producer = database.connect().await;
    let (halt, halted) = tokio::sync::oneshot::channel::<()>();
    let sending = tokio::spawn(async move {
        tokio::select! {
            _ = halted => {}
            () = async { loop { send(&producer, "order.created", "{}").await; } } => {}
        }
    });
    for round in 1..=4 {
        relay.reload(&to(&database, &peer, &format!("/{round}"), &admin));
        relay.until_log(IN_PLACE, round).await;
        let path = format!("/{round}");
        peer.until(|peer| peer.received().iter().any(|request| request.path == path)).await;
        // What the former relay says when it leaves is not said of the process.
        relay.until_log("\"left\"", round).await;
        let (code, words) = relay.says(&["health", "--json"]);
        assert_eq!(code, 0, "{words}");
        assert!(words.contains("the LISTEN session hears"), "{words}");
    }
    assert!(!relay.log().contains("the LISTEN session ended"), "{}", relay.log());
    for (sink, gap) in gaps(&relay.log()) {
        assert!(gap < Duration::from_millis(1_500), "{sink} had no owner for {gap:?}");
    }
    halt.send(()).unwrap();
    sending.await.unwrap();
    until_closed(&client).await;

    let sent = number(&client, "SELECT count(*) FROM outbox.message").await;
    let requests = peer.received();
    let to_crm: Vec<_> = requests.into_iter().filter(|request| request.path != "/app").collect();
    let ids = message_ids(&to_crm);
    let once: BTreeSet<i64> = ids.iter().copied().collect();
    assert!(sent > 100, "{sent} are no load");
    assert_eq!((ids.len(), once.len()), (usize::try_from(sent).unwrap(), ids.len()));
    // The former relays have gone, and hold nothing.
    plane::until_count(&client, "one relay", "SELECT count(*) FROM outbox.relay", 1).await;
    let took: i64 = number(&client, "SELECT min(epoch) FROM outbox.sink").await;
    assert_eq!(took, 5, "each config took each sink once");
    // Where the next signal goes to, as docs/operations.md says.
    let (_, status) = relay.says(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["relays"][0]["pid"], relay.id());
}

/// For how long sinks had no owner: from each "handed over" to the "took" after it.
fn gaps(log: &str) -> Vec<(String, Duration)> {
    let (mut free, mut gaps) = (BTreeMap::new(), Vec::new());
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("one JSON object a line");
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        let at: jiff::Timestamp = text("timestamp").parse().expect("an instant");
        match text("message").as_str() {
            "handed over" => drop(free.insert(text("sink"), at)),
            "took" => {
                let since = free.remove(&text("sink"));
                gaps.extend(
                    since.map(|since| (text("sink"), at.duration_since(since).unsigned_abs())),
                );
            }
            _ => {}
        }
    }
    assert!(gaps.len() >= 4, "{gaps:?}");
    gaps
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_changes_nothing_and_says_where_and_why() {
    let (database, peer) = (Database::migrated().await, HttpPeer::start().await);
    let client = database.connect().await;
    let first = to(&database, &peer, "/first", "");
    let relay = Process::start(&first);
    until_routed(&client).await;

    // Not sound.
    relay.reload(&first.replace("kind = \"webhook\"", "kind = \"webhok\""));
    relay.until_log(REFUSED, 1).await;
    assert!(relay.log().contains("sinks.crm.kind"), "{}", relay.log());
    // Sound, and no sink can be made of it.
    let certificates = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(certificates.path(), "-----BEGIN CERTIFICATE-----\nno\n").unwrap();
    let key = format!("ca_file = \"{}\"\n[[routes]]", certificates.path().display());
    relay.reload(&first.replacen("[[routes]]", &key, 1).replace("/first", "/second"));
    relay.until_log(REFUSED, 2).await;
    // The listener belongs to the process.
    relay.reload(&format!("{first}[admin]\nlisten = \"127.0.0.1:1\"\n"));
    relay.until_log("[admin] changes with a restart only", 1).await;
    // Another installation's.
    relay.reload(&first.replace("installation = \"shop\"", "installation = \"staging\""));
    relay.until_log(REFUSED, 4).await;
    assert!(relay.log().contains("belongs to installation"), "{}", relay.log());
    // Routes that were in force before and were replaced by hand or by another relay.
    let with = |kind: &str| format!("[[routes]]\ntype = \"{kind}\"\nsink = \"app\"\n");
    relay.reload(&to(&database, &peer, "/first", &with("more")));
    relay.until_log(IN_PLACE, 1).await;
    relay.reload(&first);
    relay.until_log(REFUSED, 5).await;
    assert!(relay.log().contains("outboxd route apply, then reload again"), "{}", relay.log());

    let id = send(&client, "more", "{}").await;
    until_closed(&client).await;
    let paths: Vec<String> = peer.received().into_iter().map(|request| request.path).collect();
    assert_eq!(paths.len(), 2, "message {id} went through crm and app: {paths:?}");
    assert_eq!(relay.says(&["route", "apply"]).0, 0);
    relay.signal("HUP");
    relay.until_log(IN_PLACE, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_is_not_cut_short_for_a_reload_however_long_it_takes() {
    let (database, peer) = (Database::migrated().await, HttpPeer::start().await);
    let client = database.connect().await;
    let gate = Gate::new();
    peer.script([Answer::Gated(gate.clone(), Box::new(Answer::status(200)))]);
    // No grace at all: a stop would cut it.
    let without_grace = |path| to(&database, &peer, path, "").replace("\"10s\"", "\"0s\"");
    let mut relay = Process::start(&without_grace("/first"));
    until_routed(&client).await;
    send(&client, "order.created", "{}").await;
    peer.until(|peer| peer.requests() == 1).await;
    relay.reload(&without_grace("/second"));
    relay.until_log(IN_PLACE, 1).await;
    // The other sink has gone over already, and works by the new config.
    send(&client, "app", "{}").await;
    peer.until(|peer| peer.received().iter().any(|request| request.path == "/app")).await;
    assert_eq!(number(&client, "SELECT count(*) FROM outbox.relay WHERE draining").await, 1);
    gate.open();
    until_closed(&client).await;
    plane::until_count(&client, "one relay", "SELECT count(*) FROM outbox.relay", 1).await;
    assert_eq!(message_ids(&peer.received()).iter().filter(|id| **id == 1).count(), 1);
    // Told to stop while another relay of the process still drains, both end.
    relay.signal("TERM");
    assert!(relay.ended().await.success());
    eventually("all relays have left", LONG, async || {
        match number(&client, "SELECT count(*) FROM outbox.relay").await {
            0 => Ok(()),
            left => Err(format!("{left} left")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_the_middle_of_a_reload_ends_both_relays() {
    let (database, peer) = (Database::migrated().await, HttpPeer::start().await);
    let client = database.connect().await;
    let gate = Gate::new();
    peer.script([Answer::Gated(gate.clone(), Box::new(Answer::status(200)))]);
    let config = |path| to(&database, &peer, path, "").replace("\"10s\"", "\"1s\"");
    let mut relay = Process::start(&config("/first"));
    until_routed(&client).await;
    send(&client, "order.created", "{}").await;
    peer.until(|peer| peer.requests() == 1).await;
    relay.reload(&config("/second"));
    relay.until_log(IN_PLACE, 1).await;
    relay.signal("TERM");
    let ended = tokio::time::timeout(Duration::from_secs(30), relay.ended()).await;
    assert!(ended.expect("the grace period ends it").success());
    assert!(relay.log().contains("the grace period is over"), "{}", relay.log());
    assert_eq!(number(&client, "SELECT count(*) FROM outbox.relay").await, 0);
    assert_eq!(
        number(&client, "SELECT count(*) FROM outbox.sink WHERE owner IS NOT NULL").await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_templates_are_taken_with_a_reload_all_or_none() {
    let (database, peer) = (Database::migrated().await, SmtpPeer::start().await);
    let client = database.connect().await;
    let files = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(files.path().join(name), text).unwrap();
    write("order.txt", "{% include 'bye.txt' %}");
    write("bye.txt", "one");
    let (root, address) = (files.path().display(), peer.address);
    let relay = Process::start(&toml(
        &database.url(),
        RELAY,
        &format!(
            "[templates]\nroot = \"{root}\"\n[sinks.mail]\nkind = \"smtp\"\nurl = \"smtp://{address}\"\n\
             from = \"shop@example.com\"\n[[routes]]\ntype = \"order\"\nsink = \"mail\"\n\
             to = \"ann@example.com\"\nsubject = \"s\"\ntext_template = \"order.txt\"\n"
        ),
    ));
    until_routed(&client).await;
    let mailed = async |body: &str| {
        send(&client, "order", "{}").await;
        until_closed(&client).await;
        let data = peer.mails().pop().expect("a mail came").data;
        let data = String::from_utf8(data).unwrap();
        assert!(data.ends_with(&format!("\r\n\r\n{body}\r\n")), "{body}: {data}");
    };
    // What is edited waits for the reload, and what is broken is refused.
    write("bye.txt", "\ntwo {{");
    mailed("one").await;
    relay.signal("HUP");
    relay.until_log(REFUSED, 1).await;
    assert!(relay.log().contains("(bye.txt line 2)"), "{}", relay.log());
    mailed("one").await;
    // The config's own text is what it was.
    write("bye.txt", "two");
    relay.signal("HUP");
    relay.until_log(IN_PLACE, 1).await;
    relay.until_log("\"left\"", 1).await;
    mailed("two").await;
}
