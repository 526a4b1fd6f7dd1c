//! replay and preview: what was closed goes out again, and what a message becomes.

use serde_json::{Value, json};

use super::Shop;
use crate::harness::http::HttpPeer;
use crate::harness::plane::{LONG, until_count};
use crate::harness::relay::Relay;

impl Shop {
    /// Closes open deliveries through crm, as a relay or the clock would.
    fn close(&self, outcome: &str, which: &str) {
        self.psql(&format!(
            "WITH gone AS (DELETE FROM outbox.delivery WHERE sink = 'crm' AND {which} RETURNING *)
             INSERT INTO outbox.ledger (message_id, sink, target, round, attempts, outcome, receipt)
             SELECT message_id, sink, target, round, 1, '{outcome}', 'HTTP 200' FROM gone"
        ));
    }

    fn open_rows(&self) -> String {
        self.psql(
            "SELECT coalesce(string_agg(concat_ws(' ', message_id, state, lane, round), ', '
                      ORDER BY message_id, target), '') FROM outbox.delivery WHERE sink = 'crm'",
        )
    }
}

async fn shop_with(count: usize) -> Shop {
    let shop = Shop::open().await;
    shop.psql(&format!(
        "INSERT INTO outbox.message (type, payload, key)
         SELECT CASE WHEN n % 2 = 0 THEN 'order.even' ELSE 'order.odd' END, '{{}}',
                CASE WHEN n = 3 THEN 'ann' END
           FROM generate_series(1, {count}) n"
    ));
    shop
}

#[tokio::test]
async fn a_closed_delivery_begins_another_life_and_no_more_than_one() {
    let shop = shop_with(4).await;
    let refused = shop.fails(1, &["replay", "1/crm"]);
    assert!(refused.contains("to replay: 1/crm is pending, due"), "{refused}");
    shop.close("delivered", "true");
    assert_eq!(shop.ok(&["replay", "1/crm"]), "1 delivery to be sent again now: 1/crm\n");
    assert_eq!(shop.open_rows(), "1 pending 0 2");
    let refused = shop.fails(1, &["replay", "1/crm"]);
    assert!(
        refused.contains("1/crm is pending, due") && refused.contains("replayed it"),
        "{refused}"
    );
    shop.close("delivered", "true");
    shop.ok(&["replay", "1"]);
    assert_eq!(shop.open_rows(), "1 pending 0 3");
    let notes =
        "SELECT string_agg(note, ', ' ORDER BY id) FROM outbox.action WHERE verb = 'replay'";
    assert_eq!(shop.psql(notes), "round 2, round 3");

    // The key orders the new life too.
    shop.ok(&["replay", "3/crm"]);
    assert_eq!(
        shop.psql("SELECT key FROM outbox.delivery WHERE message_id = 3 AND sink = 'crm'"),
        "ann"
    );
    // Without its message there is nothing to send; nor once its time has passed.
    shop.psql("UPDATE outbox.message SET expires_at = clock_timestamp() WHERE id = 2");
    shop.psql("DELETE FROM outbox.message WHERE id = 4");
    for id in ["2/crm", "4/crm"] {
        let refused = shop.fails(1, &["replay", id]);
        assert!(refused.contains("whose message is not gone or past its time"), "{refused}");
    }
    // Nor what went nowhere, nor a line of a file.
    shop.psql("INSERT INTO outbox.message (type, payload) VALUES ('debug.x', '{}')");
    assert!(shop.fails(1, &["replay", "5"]).contains("5 is skipped"));
    assert!(shop.fails(1, &["replay", "1/orders"]).contains("1/orders is pending"));
}

#[tokio::test]
async fn many_are_replayed_by_span_type_and_outcome_at_a_rate() {
    let shop = shop_with(2500).await;
    shop.close("delivered", "message_id <= 2400");
    shop.close("discarded", "message_id <= 2450");
    // One was replayed already, and one is open again.
    shop.ok(&["replay", "1/crm"]);
    shop.close("delivered", "message_id = 1");
    shop.ok(&["replay", "2/crm"]);
    shop.psql("DELETE FROM outbox.message WHERE id = 4");
    shop.psql(
        "UPDATE outbox.ledger SET closed_at = clock_timestamp() - interval '1 min'
          WHERE message_id = 6",
    );
    let now = shop.psql(
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
    );
    let since = shop.psql(
        "SELECT to_char((clock_timestamp() - interval '30 s') AT TIME ZONE 'UTC',
                        'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
    );
    let base = ["replay", "--sink", "crm", "--since", &since, "--until", &now];
    for (arguments, words) in [
        (&["replay"][..], "name what to replay"),
        (&["replay", "--sink", "crm"], "--since"),
        (&["replay", "--since", &since], "--sink"),
        (&["replay", "1", "--sink", "crm", "--since", &since], "not both"),
        (&["replay", "--sink", "crm", "--since", "yesterday"], "with an offset"),
        (&["replay", "--sink", "crm", "--since", &since, "--rate", "fast"], "100/min"),
    ] {
        let said = shop.run(arguments);
        assert!(said.code == 2 && said.err.contains(words), "{arguments:?}: {said:?}");
    }
    let even = [&base[..], &["--type", "order.even"]].concat();
    let dry = shop.ok(&[&even[..], &["--dry-run", "--rate", "100/min"]].concat());
    assert!(
        dry.starts_with(
            "would send 1197 delivered deliveries of sink crm, type order.even again, over 11m"
        ),
        "{dry}"
    );
    assert_eq!(dry.lines().count(), 11, "{dry}");
    assert!(dry.contains("  8/crm  order.even  delivered 2") && !dry.contains(" 6/crm"), "{dry}");
    let dry = shop.json(&[&even[..], &["--dry-run", "--json"]].concat());
    assert_eq!((&dry["would_replay"], &dry["first"][0]), (&json!(1197), &json!("8/crm")));
    let asked = shop.fails(2, &even);
    assert!(asked.contains("this would send 1197 delivered deliveries") && asked.contains("--yes"));
    assert_eq!(shop.open_rows().matches("pending -1").count(), 0, "nothing was begun");

    let said = shop.ok(&[&even[..], &["--yes", "--rate", "100/min"]].concat());
    assert_eq!(said, "1197 deliveries of sink crm, type order.even to be sent again\n");
    let spaced = "SELECT count(*), extract(epoch FROM max(due_at) - min(due_at)), max(gap)
                    FROM (SELECT due_at, extract(epoch FROM due_at - lag(due_at) OVER (ORDER BY message_id)) AS gap
                            FROM outbox.delivery WHERE sink = 'crm' AND lane = -1) x";
    let spaced = shop.psql(spaced);
    let parts: Vec<f64> = spaced.split('|').map(|part| part.parse().unwrap()).collect();
    assert!(spaced.starts_with("1197|"), "{spaced}");
    // The first falls due when it is written, and pages begin a little after the one before.
    let wanted = 1196.0 * 0.6;
    assert!(parts[1] > wanted - 5.0 && parts[1] < wanted + 30.0 && parts[2] < 10.0, "{spaced}");
    let said = shop.ok(&[&even[..], &["--yes"]].concat());
    assert!(said.ends_with("to send again: nothing to do\n"), "{said}");

    let discarded = [&base[..], &["--outcome", "discarded", "--yes", "--json"]].concat();
    assert_eq!(shop.json(&discarded), json!({ "replayed": 50 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_and_the_removal_of_its_message_see_each_other() {
    let shop = shop_with(1).await;
    shop.close("delivered", "true");
    let mut client = shop.database.connect().await;
    let watcher = shop.database.connect().await;
    let removal = client.transaction().await.unwrap();
    removal.batch_execute("DELETE FROM outbox.message WHERE id = 1").await.unwrap();
    let replay = shop.spawn(&["replay", "1/crm"]);
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                    AND wait_event_type = 'Lock'";
    until_count(&watcher, "the replay waits for what becomes of the message", waiting, 1).await;
    removal.commit().await.unwrap();
    let said = super::said(replay.wait_with_output().unwrap());
    assert_eq!(said.code, 1, "{said:?}");
    assert_eq!(shop.open_rows(), "", "no delivery without a message");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_replay_the_same_begin_it_once() {
    let shop = shop_with(50).await;
    shop.close("delivered", "true");
    let mut client = shop.database.connect().await;
    let watcher = shop.database.connect().await;
    let gate = client.transaction().await.unwrap();
    gate.batch_execute("LOCK TABLE outbox.delivery IN SHARE MODE").await.unwrap();
    let command = ["replay", "--sink", "crm", "--since", "2026-01-01T00:00:00Z", "--yes", "--json"];
    let one = shop.spawn(&command);
    let other = shop.spawn(&command);
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                    AND wait_event_type = 'Lock'";
    until_count(&watcher, "both are at it", waiting, 2).await;
    gate.rollback().await.unwrap();
    let mut done = 0;
    for child in [one, other] {
        let said = super::said(child.wait_with_output().unwrap());
        let answer: Value =
            serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"));
        done += answer["replayed"].as_u64().unwrap();
    }
    assert_eq!(done, 50, "each once");
    assert_eq!(
        shop.psql("SELECT count(*) FROM outbox.delivery WHERE sink = 'crm' AND round = 2"),
        "50"
    );
}

/// The same page, looked at before the first replay was delivered again.
#[tokio::test]
async fn a_replay_that_comes_late_does_not_begin_what_was_replayed_and_delivered_meanwhile() {
    let shop = shop_with(1).await;
    shop.close("delivered", "true");
    let page = "SELECT count(*) FROM outbox.replay_these('{1}', '{crm}', '{\"\"}', '{1}')";
    assert_eq!(shop.psql(page), "1");
    assert_eq!(shop.psql(page), "0", "one is open");
    shop.close("delivered", "true");
    assert_eq!(shop.psql(page), "0", "that life has had its successor");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_arrives_under_the_id_it_had() {
    let shop = Shop::open().await;
    let peer = HttpPeer::start().await;
    let sinks = super::SINKS.replace("http://127.0.0.1:9", &peer.url(""));
    shop.configure(&shop.database.url(), "", &sinks);
    let file = shop.directory.path().join("outboxd.toml");
    let relay = Relay::start(outboxd::config::Config::load(&file).unwrap());
    shop.psql("INSERT INTO outbox.message (type, payload) VALUES ('order.x', '{\"n\": 1}')");
    let client = shop.database.connect().await;
    let closed = "SELECT count(*) FROM outbox.ledger WHERE sink = 'crm' AND outcome = 'delivered'";
    until_count(&client, "it is delivered", closed, 1).await;
    shop.ok(&["replay", "1/crm"]);
    tokio::time::timeout(LONG, peer.until(|peer| peer.requests() == 2)).await.unwrap();
    until_count(&client, "and again", closed, 2).await;
    relay.stop().await;
    let received = peer.received();
    assert_eq!(received[0].header("webhook-id"), received[1].header("webhook-id"));
    assert_eq!(received[0].body, received[1].body);
    assert_eq!(shop.psql("SELECT max(round) FROM outbox.ledger WHERE sink = 'crm'"), "2");
    assert!(shop.ok(&["show", "1"]).contains("round 2"));

    // What was sent is what preview shows, but for what is made afresh.
    let shown = shop.json(&["preview", "1/crm", "--json"]);
    let sent = &received[1];
    assert_eq!(shown[0]["body"].as_str().unwrap().as_bytes(), sent.body);
    assert_eq!((&shown[0]["path"], &shown[0]["method"]), (&json!(sent.path), &json!(sent.method)));
    for pair in shown[0]["headers"].as_array().unwrap() {
        let (name, value) = (pair[0].as_str().unwrap(), pair[1].as_str().unwrap());
        if name != "webhook-timestamp" {
            assert_eq!(sent.header(name), Some(value), "{name}");
        }
    }
}

const PREVIEWED: &str = r#"
[sinks.crm]
kind = "webhook"
url = "http://127.0.0.1:9/hook?token=hidden"
secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]
[sinks.mail]
kind = "smtp"
url = "smtp://127.0.0.1:9"
from = "Shop <shop@example.com>"
[sinks.orders]
kind = "csv"
path = "out/orders-{{ period }}.csv"
columns = [{ name = "id", value = "id" }, { name = "total", value = "payload.total", as = "decimal" }]
every = "1h"
[[routes]]
type = "order.*"
sink = ["crm", "orders"]
[[routes]]
type = "order.*"
sink = "mail"
to = "{{ payload.email }}"
subject = "Order {{ id }}"
text = "Total {{ payload.total }}"
[[routes]]
name = "office"
type = "order.*"
sink = "mail"
to = "office@example.com"
subject = "New order"
text = "{{ payload.note }}"
"#;

#[tokio::test]
async fn a_preview_is_what_would_be_sent_and_sends_nothing() {
    let shop = Shop::empty().await;
    shop.configure(&shop.database.url(), "", PREVIEWED);
    shop.ok(&["migrate"]);
    shop.ok(&["route", "apply"]);
    let payload = r#"{"email": "ann@example.com", "total": 19.90, "note": "\u001b[31m"}"#;
    shop.ok(&["send", "order.created", payload]);
    let mail = shop.ok(&["preview", "1/mail/office"]);
    assert!(mail.starts_with("From: Shop <shop@example.com>\r\n"), "{mail}");
    assert!(mail.contains("Message-ID: <msg_shop-test_1_mail_office@example.com>"), "{mail}");
    assert!(!mail.contains("== "), "one alone is a file: {mail}");

    let all = shop.ok(&["preview", "1"]);
    let headings: Vec<&str> = all.lines().filter(|line| line.starts_with("== ")).collect();
    assert_eq!(headings, ["== 1/crm", "== 1/mail", "== 1/mail/office", "== 1/orders"]);
    for words in [
        "POST /hook HTTP/1.1\n",
        "webhook-id: msg_shop-test_1_crm\n",
        "webhook-timestamp: (made at each attempt)\n",
        "webhook-signature: (made at each attempt)\n",
        "Total 19.90",
        "id,total\r\n1,19.90\r\n",
    ] {
        assert!(all.contains(words), "{words}: {all}");
    }
    assert!(!all.contains("hidden") && !all.contains("whsec"), "{all}");
    let json = shop.json(&["preview", "1/mail", "--json"]);
    assert_eq!(json[0]["to"], json!(["ann@example.com"]));
    assert_eq!(json[1]["delivery"], "1/mail/office");

    // A closed one is still there to look at; one that cannot be made says why.
    shop.ok(&["discard", "1/crm"]);
    assert!(shop.ok(&["preview", "1/crm"]).starts_with("POST /hook"));
    shop.ok(&["send", "order.created", "{}"]);
    let said = shop.run(&["preview", "2"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.out.contains("2/mail cannot be made: to: the message lacks"), "{said:?}");
    assert!(said.out.contains("POST /hook"), "the others are shown: {said:?}");

    // What no route in force took goes by this config's routes.
    shop.ok(&["send", "user.created", "{}"]);
    assert!(
        shop.fails(1, &["preview", "3"])
            .contains("message 3 goes nowhere: no route takes user.created")
    );
    let more = format!("{PREVIEWED}[[routes]]\ntype = \"user.*\"\nsink = \"crm\"\n");
    shop.configure(&shop.database.url(), "", &more);
    assert!(shop.ok(&["preview", "3"]).contains("webhook-id: msg_shop-test_3_crm"));
    // A sink that this config lacks.
    shop.configure(&shop.database.url(), "", super::SINKS);
    let said = shop.run(&["preview", "1/mail"]);
    assert!(said.code == 1 && said.out.contains("this config has no sink mail"), "{said:?}");
    assert!(shop.fails(1, &["preview", "1/fax"]).contains("there is no delivery 1/fax"));
    assert!(shop.fails(1, &["preview", "9"]).contains("there is no message 9"));
    assert_eq!(shop.psql("SELECT count(*) FROM outbox.delivery WHERE attempt > 0"), "0");
}
