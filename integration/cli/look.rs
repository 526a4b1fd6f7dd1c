//! send, list, show, status, retry: what stands in the database, in words and as JSON.

use std::io::Write as _;
use std::process::Stdio;
use std::time::Instant;

use outboxd::config::Schema;
use outboxd::store::Queries;
use serde_json::json;

use super::{Shop, cell, command_in, said};

#[tokio::test]
async fn what_is_sent_is_seen_in_list_show_and_status() {
    let shop = Shop::open().await;
    let id = shop.ok(&["send", "order.created", r#"{"secret": 1.50}"#, "--key", "order-7"]);
    assert_eq!(id, "1\n");
    assert_eq!(shop.json(&["send", "order.paid", "{}", "--in", "2h", "--json"])["message_id"], 2);
    shop.ok(&["send", "user.created", "{}"]);

    let list = shop.ok(&["list"]);
    assert_eq!(list.lines().count(), 6, "{list}");
    assert!(list.lines().nth(1).unwrap().starts_with("3 "), "stuck first: {list}");
    assert_eq!(cell(&list, "3", 1), "unrouted");
    assert_eq!(cell(&list, "1/crm", 1), "pending");
    assert!(list.contains("in 2h") || list.contains("in 1h59m"), "{list}");
    let rows = shop.json(&["list", "--type", "order.*", "--sink", "crm", "--json"]);
    let names: Vec<_> = rows.as_array().unwrap().iter().map(|row| &row["delivery"]).collect();
    assert_eq!(names, ["1/crm", "2/crm"]);
    assert_eq!(
        shop.json(&["list", "--limit", "1", "--state", "pending", "--json"])[0]["message_id"],
        1
    );
    assert_eq!(shop.ok(&["list", "--state", "dead"]), "nothing open that fits\n");
    // A slip must not read as all clear.
    assert!(shop.fails(1, &["list", "--sink", "cmr"]).contains("there is no sink cmr; known: "));

    let shown = shop.ok(&["show", "1"]);
    for words in ["order.created", "order-7", "1/crm", "1/orders"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    assert!(!shown.contains("secret"), "{shown}");
    assert!(!shop.ok(&["show", "1/crm"]).contains("1/orders"));
    assert!(shop.ok(&["show", "1", "--payload"]).contains(r#"{"secret": 1.50}"#));
    let payload = &shop.json(&["show", "1", "--payload", "--json"])["payload"];
    assert_eq!(payload.to_string(), r#"{"secret":1.50}"#);
    assert!(shop.fails(1, &["show", "99"]).contains("there is no message 99"));
    assert!(shop.fails(1, &["show", "1/mail"]).contains("there is no delivery 1/mail"));

    let status = shop.run(&["status"]);
    assert_eq!(status.code, 1, "{status:?}");
    assert_eq!((cell(&status.out, "crm", 3), cell(&status.out, "crm", 4)), ("1", "1"));
    for words in [
        "1 unrouted: no route takes user.created (1)",
        "no relay runs, and there is work; run: outboxd run",
        "orders: 1 wait for the next cut; no export yet",
    ] {
        assert!(status.out.contains(words), "{words}: {}", status.out);
    }
    let status = shop.json(&["status", "--json"]);
    assert_eq!(status["sinks"][0]["due"], json!({ "count": 1, "more": false }));
    assert_eq!(status["unrouted_types"][0]["type"], "user.created");
}

#[tokio::test]
async fn priorities_become_lanes_and_every_lane_is_looked_at() {
    let shop = Shop::empty().await;
    shop.ok(&["migrate"]);
    let crm = "[sinks.crm]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:9/hook\"\n";
    let routes = [("high", "reset"), ("low", "news"), ("normal", "order")].map(|(lane, kind)| {
        format!("[[routes]]\ntype = \"{kind}\"\nsink = \"crm\"\npriority = \"{lane}\"\n")
    });
    let config = |routes: &str| shop.configure(&shop.database.url(), "", &format!("{crm}{routes}"));
    config(&routes.concat());
    shop.ok(&["route", "apply"]);
    for kind in ["order", "news", "reset"] {
        shop.ok(&["send", kind, "{}"]);
        shop.ok(&["send", kind, "{}", "--in", "2h"]);
    }
    let lanes = "SELECT string_agg(d.lane::text, ' ' ORDER BY d.message_id) FROM outbox.delivery d";
    assert_eq!(shop.psql(lanes), "0 0 -1 -1 1 1");
    let rows = shop.json(&["list", "--state", "pending", "--json"]);
    let ids: Vec<_> = rows.as_array().unwrap().iter().map(|row| &row["message_id"]).collect();
    assert_eq!(ids, [1, 3, 5, 2, 4, 6], "the oldest due first, whatever its lane");
    let sink = &shop.json(&["status", "--json"])["sinks"][0];
    let three = json!({ "count": 3, "more": false });
    assert_eq!((&sink["due"], &sink["later"]), (&three, &three));

    // Another priority is another set of routes.
    config(&routes.concat().replace("high", "normal"));
    assert_eq!(shop.json(&["route", "apply", "--json"])["changed"], true);
    shop.ok(&["send", "reset", "{}"]);
    assert_eq!(shop.psql(lanes), "0 0 -1 -1 1 1 0");
}

#[tokio::test]
async fn send_takes_what_the_contract_takes_and_says_what_it_does_not() {
    let shop = Shop::open().await;
    for (arguments, words) in [
        (&["send", "order.x", "{"][..], "the payload is not JSON"),
        (&["send", "order x", "{}"], "words between dots"),
        (&["send", "order.x", "{}", "--due-at", "tomorrow"], "with an offset"),
        (&["send", "order.x", "{}", "--in", "5"], "15s"),
        (&["send", "order.x", "{}", "--key", ""], "key must be 1 to 1000 bytes long"),
        (&["send", "order.x", r#""\u0000""#], "Unicode"),
        (&["send", "order.x"], "JSON"),
    ] {
        let said = shop.run(arguments);
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{said:?}");
        assert!(said.err.contains(words), "{words}: {said:?}");
    }
    assert_eq!(shop.psql("SELECT count(*) FROM outbox.message"), "0");

    let mut child = command_in(
        shop.directory.path(),
        &[
            "send",
            "order.x",
            "-",
            "--due-at",
            "2199-01-01T00:00:00+01:00",
            "--expires-at",
            "2199-01-02T00:00:00Z",
            "--dedupe-key",
            "d",
            "--header",
            "a=b=c",
            "--header",
            "x=",
        ],
        &[],
    )
    .stdin(Stdio::piped())
    .spawn()
    .unwrap();
    child.stdin.take().unwrap().write_all(b"[1e400]").unwrap();
    assert_eq!(said(child.wait_with_output().unwrap()).code, 0);
    let row = "SELECT concat_ws(' ', due_at, expires_at, dedupe_key, headers, payload = '[1e400]')
                 FROM outbox.message";
    assert_eq!(
        shop.psql(row),
        r#"2198-12-31 23:00:00+00 2199-01-02 00:00:00+00 d {"a": "b=c", "x": ""} t"#
    );
}

#[tokio::test]
async fn send_waits_for_the_outcome_and_its_exit_code_tells_it() {
    let shop = Shop::open().await;
    let nowhere = shop.ok(&["send", "debug.x", "{}", "--wait"]);
    assert!(nowhere.contains("skipped"), "{nowhere}");
    shop.ok(&["send", "debug.x", "{}", "--dedupe-key", "d"]);
    let again = shop.ok(&["send", "debug.x", "{}", "--dedupe-key", "d", "--wait"]);
    assert!(again.contains("duplicate of 2"), "{again}");

    let unrouted = shop.run(&["send", "user.created", "{}", "--wait"]);
    assert!(unrouted.code == 1 && unrouted.out.contains("unrouted"), "{unrouted:?}");
    let slow = shop.run(&["send", "order.x", "{}", "--wait=100ms"]);
    assert!(slow.code == 1 && slow.err.contains("not closed within 100ms"), "{slow:?}");
    assert!(slow.out.contains("5/crm") && slow.out.contains("pending"), "{slow:?}");

    // Closed while it waits.
    let child =
        command_in(shop.directory.path(), &["send", "order.x", "{}", "--wait", "--json"], &[])
            .spawn()
            .unwrap();
    let close = "WITH gone AS (DELETE FROM outbox.delivery WHERE message_id = 6 RETURNING *)
                 INSERT INTO outbox.ledger (message_id, sink, target, round, attempts, outcome, receipt)
                 SELECT message_id, sink, target, 1, 1, 'delivered', '200' FROM gone RETURNING 1";
    crate::harness::eventually("close it", std::time::Duration::from_secs(10), async || {
        if shop.psql(close).is_empty() { Err("not sent yet".to_owned()) } else { Ok(()) }
    })
    .await;
    let said = said(child.wait_with_output().unwrap());
    assert_eq!(said.code, 0, "{said:?}");
    let answer: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(answer["deliveries"][0]["outcome"], "delivered");
}

#[tokio::test]
async fn a_dead_delivery_is_retried_and_the_record_says_by_whom() {
    let shop = Shop::open().await;
    for _ in 0..3 {
        shop.ok(&["send", "order.x", "{}"]);
    }
    shop.psql(
        "UPDATE outbox.delivery SET state = 'dead', due_at = 'infinity', attempt = 10, rev = 4,
                reason = 'HTTP 410' WHERE sink = 'crm'",
    );
    let status = shop.run(&["status"]);
    assert!(status.out.contains("crm: 3 dead; look: outboxd list --sink crm --state dead"));
    assert!(shop.ok(&["list"]).lines().nth(1).unwrap().starts_with("3/crm"));

    let refused = shop.fails(1, &["retry", "1/orders"]);
    assert!(refused.contains("nothing dead to retry: 1/orders is pending, due"), "{refused}");
    assert!(shop.fails(1, &["retry", "99"]).contains("there is no message 99"));
    assert!(shop.fails(1, &["retry", "1/mail"]).contains("there is no delivery 1/mail"));
    assert!(shop.run(&["retry"]).code == 2 && shop.run(&["retry", "1", "--sink", "crm"]).code == 2);

    let retried = shop.ok(&["retry", "1"]);
    assert_eq!(retried, "1 delivery to be tried again now: 1/crm\n");
    let row = "SELECT concat_ws(' ', state, attempt, rev, reason, due_at <= clock_timestamp())
                 FROM outbox.delivery WHERE message_id = 1 AND sink = 'crm'";
    assert_eq!(shop.psql(row), "pending 0 5 HTTP 410 t");
    let shown = shop.ok(&["show", "1"]);
    assert!(shown.contains("retry") && shown.contains('@'), "{shown}");
    let again = shop.fails(1, &["retry", "1/crm"]);
    assert!(again.contains("nothing dead to retry: 1/crm is pending, due"), "{again}");

    let asked = shop.fails(2, &["retry", "--sink", "crm"]);
    assert!(asked.contains("2 dead deliveries of sink crm") && asked.contains("--yes"), "{asked}");
    assert_eq!(shop.psql("SELECT count(*) FROM outbox.delivery WHERE state = 'dead'"), "2");
    let all = shop.ok(&["retry", "--sink", "crm", "--yes"]);
    assert_eq!(all, "2 deliveries of sink crm to be tried again now\n");
    assert_eq!(shop.psql("SELECT count(*) FROM outbox.action WHERE verb = 'retry'"), "3");
    assert!(shop.ok(&["retry", "--sink", "crm"]).contains("nothing to do"));
    assert!(
        shop.fails(1, &["retry", "--sink", "crn"]).contains("there is no sink crn; known: crm")
    );
}

#[tokio::test]
async fn retry_goes_through_every_page_and_wakes_a_sleeping_sink() {
    let shop = Shop::open().await;
    shop.psql(
        "INSERT INTO outbox.delivery (message_id, sink, target, state, due_at, reason)
         SELECT (n + 1) / 2, 'crm', CASE WHEN n % 2 = 0 THEN '' ELSE 'office' END, 'dead', 'infinity', 'x'
           FROM generate_series(1, 2501) n",
    );
    let (client, mut connection) =
        shop.database.config().connect(tokio_postgres::NoTls).await.unwrap();
    let (heard, mut bells) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) =
            std::future::poll_fn(|context| connection.poll_message(context)).await
        {
            if let tokio_postgres::AsyncMessage::Notification(note) = message {
                let _ = heard.send(note.channel().to_owned());
            }
        }
    });
    let bell = shop.psql("SELECT bell FROM outbox.sink WHERE name = 'crm'");
    let sleep = format!(
        "LISTEN outbox_bell_{bell};
         SELECT pg_advisory_lock('outbox.sink'::regclass::oid::integer, {bell})"
    );
    client.batch_execute(&sleep).await.unwrap();
    let said = shop.json(&["retry", "--sink", "crm", "--yes", "--json"]);
    assert_eq!(said, json!({ "retried": 2501, "left": 0 }));
    let limit = std::time::Duration::from_secs(10);
    let rung = tokio::time::timeout(limit, bells.recv()).await.expect("a bell").unwrap();
    assert_eq!(rung, format!("outbox_bell_{bell}"));
}

#[tokio::test]
async fn unseen_messages_are_routed_on_request() {
    let shop = Shop::open().await;
    shop.psql(
        "ALTER TABLE outbox.message DISABLE TRIGGER route_inserted;
         INSERT INTO outbox.message (type, payload) VALUES ('order.x', '{}'), ('user.x', '{}');
         ALTER TABLE outbox.message ENABLE TRIGGER route_inserted;
         INSERT INTO outbox.unseen (message_id) SELECT id FROM outbox.message",
    );
    assert!(shop.ok(&["show", "1"]).contains("unseen"));
    let status = shop.run(&["status"]);
    assert!(status.code == 1 && status.out.contains("2 unseen, written past the trigger"));
    let routed = shop.ok(&["route", "unseen"]);
    assert!(routed.starts_with("looked at 2 unseen messages: 1 routed"), "{routed}");
    assert_eq!(shop.ok(&["route", "unseen"]), "no unseen message: nothing to do\n");
    assert!(shop.ok(&["show", "2"]).contains("unrouted"));
}

#[tokio::test]
async fn an_open_outbox_with_a_relay_is_fine_and_one_nobody_knows_is_not() {
    let shop = Shop::open().await;
    shop.ok(&["send", "order.x", "{}"]);
    shop.psql(
        "INSERT INTO outbox.relay (id, lease, host, pid, version, routes_hash, sinks)
         SELECT '0123456789abcdef', '1 h', 'web-1', 7, '0.1.0', hash, '{crm,orders}'
           FROM outbox.route_set;
         UPDATE outbox.sink SET owner = '0123456789abcdef', epoch = 1 WHERE name = 'crm';
         INSERT INTO outbox.flow (sink, in_flight, delivered_minute) VALUES ('crm', 64, 1200);
         INSERT INTO outbox.flow (sink, in_flight, updated_at)
         VALUES ('orders', 5, clock_timestamp() - interval '91 s');
         INSERT INTO outbox.export (sink, period, state, due_before, row_count, file, closed_at)
         VALUES ('orders', '2026-11-20', 'closed', now(), 7, 'f', now())",
    );
    let status = shop.ok(&["status"]);
    assert_eq!(cell(&status, "crm", 2), "01234567@web-1");
    assert_eq!((cell(&status, "crm", 6), cell(&status, "crm", 9)), ("64", "1200"));
    assert_eq!(cell(&status, "orders", 6), "-", "old news are none: {status}");
    assert!(status.contains("last export 2026-11-20: closed, 7 rows"), "{status}");
    assert_eq!(cell(&status, "01234567", 6), "alive", "{status}");

    shop.psql("UPDATE outbox.relay SET sinks = '{crm}', routes_hash = 'other'");
    let status = shop.run(&["status"]);
    assert_eq!(status.code, 1);
    assert!(status.out.contains("orders: orphaned"), "{}", status.out);
    assert!(status.out.contains("the routes in force are not those of the live relays"));
}

/// Status looks at millions of rows through indexes only. `OUTBOXD_TEST_ROWS=3000000` measures.
#[tokio::test]
async fn looking_reads_no_table_from_end_to_end() {
    let rows: u64 =
        std::env::var("OUTBOXD_TEST_ROWS").ok().and_then(|n| n.parse().ok()).unwrap_or(60_000);
    let shop = Shop::open().await;
    shop.psql(&format!(
        "INSERT INTO outbox.delivery (message_id, sink, target, state, due_at, reason)
         SELECT n, CASE WHEN n % 500 = 3 THEN '' ELSE 's' || n % 20 END, '',
                CASE n % 500 WHEN 1 THEN 'dead' WHEN 2 THEN 'held' WHEN 3 THEN 'unrouted' ELSE 'pending' END,
                CASE WHEN n % 500 IN (1, 2, 3) THEN 'infinity'
                     WHEN n % 3 = 0 THEN clock_timestamp() + interval '1 day'
                     ELSE clock_timestamp() - n * interval '1 ms' END,
                'x'
           FROM generate_series(1, {rows}) n;
         INSERT INTO outbox.message (type, payload) OVERRIDING SYSTEM VALUE
         SELECT 'debug.x', '{{}}' FROM generate_series(1, {rows} / 20);
         INSERT INTO outbox.calendar (kind, name, rule) SELECT 'schedule', 's' || n, '' FROM generate_series(1, 20) n;
         INSERT INTO outbox.occurrence (schedule, period, state, due_at, first_id, last_id, late_at, actor)
         SELECT 's' || n % 20, n, 'ran', clock_timestamp() - n * interval '1 min', n, n, clock_timestamp(), 'r'
           FROM generate_series(1, {rows}) n;
         INSERT INTO outbox.export (sink, period, state, due_before, closed_at)
         SELECT 's' || n % 20, n, 'empty', clock_timestamp() - n * interval '1 min', now()
           FROM generate_series(1, {rows}) n;
         VACUUM ANALYZE"
    ));
    shop.json(&["status", "--json"]);
    let start = Instant::now();
    let status = shop.run(&["status"]);
    let took = start.elapsed();
    assert_eq!(status.code, 1);
    let start = Instant::now();
    let listed = shop.run(&["list"]);
    assert_eq!(listed.code, 0);
    assert_eq!(listed.err, "the first 50 only, there may be more: --limit\n");
    // Straight to stderr: the test harness keeps to itself what a passing test prints.
    let _ = writeln!(
        std::io::stderr(),
        "{rows} open rows: status took {took:?}, list {:?}",
        start.elapsed()
    );

    let client = shop.database.connect().await;
    let settings =
        "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off;
                    SET enable_mergejoin = off";
    let queries = Queries::new(&Schema::parse("outbox").unwrap());
    for (name, sql) in queries.all() {
        let arguments = match name {
            "known_sinks" | "status_schedules" => "",
            "status_sinks" => "('{s1,s2}', '{0}', 10001)",
            "status_unrouted" => "(10001)",
            "status_mails" => "(100)",
            "list_stuck" => "('{dead,held}', '{s1,s2}', 50)",
            "list_pending" => "('{s1,s2}', '{0}', 50)",
            "deliveries" | "actions" | "message" => "(7)",
            "watch" => "(1001, 'outboxd.alert')",
            "sweep" => "(0, 5000, 1001)",
            "page_stuck" => "('dead', 's1', 0, 1000)",
            "page_pending" => "('s1', 0, NULL, 0, 1000)",
            "page_key" => "('s1', 'k', 0, 1000)",
            "page_closed" => "(0, 1000, now() - interval '3 d', now(), 's1', '{delivered}')",
            "list_parked" => "('{s1,s2}', '{1,0,-1}', 10000, 50, 10001)",
            _ => continue,
        };
        client.batch_execute(settings).await.unwrap();
        client.batch_execute(&format!("PREPARE {name} AS {sql}")).await.unwrap();
        let plan = client.query(&format!("EXPLAIN EXECUTE {name} {arguments}"), &[]).await.unwrap();
        let plan: String = plan.iter().map(|row| row.get::<_, String>(0) + "\n").collect();
        for table in ["delivery", "message", "action", "ledger", "occurrence", "export", "mailing"]
        {
            assert!(!plan.contains(&format!("Seq Scan on {table}")), "{name}:\n{plan}");
        }
    }
}
