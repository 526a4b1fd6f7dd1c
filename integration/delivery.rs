//! What becomes of attempts: retries, dead rows, mails end to end, and bad input.

use std::time::Duration;

use outboxd::relay::RunError;

use crate::harness::http::{Answer, HttpPeer};
use crate::harness::plane::{number, send, until_closed, until_count, until_routed};
use crate::harness::postgres::{Cluster, Database};
use crate::harness::relay::{Relay, config, config_with, crm};
use crate::harness::smtp::{Say, SmtpPeer, Step};

fn mail(address: std::net::SocketAddr, text: &str) -> String {
    format!(
        "[sinks.mail]\nkind = \"smtp\"\nurl = \"smtp://{address}\"\nfrom = \"Shop <shop@example.com>\"\n\
         retry = {{ delays = [\"100ms\", \"100ms\"] }}\n\
         [[routes]]\ntype = \"order.*\"\nsink = \"mail\"\nto = \"{{{{ payload.email }}}}\"\n\
         subject = \"Order {{{{ payload.id }}}}\"\ntext = \"{text}\"\n"
    )
}

async fn dead_reason(client: &tokio_postgres::Client) -> (i32, String) {
    let dead = "SELECT count(*) FROM outbox.delivery WHERE state = 'dead'";
    until_count(client, "it is dead", dead, 1).await;
    let row = client.query_one("SELECT attempt, reason FROM outbox.delivery", &[]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_is_tried_again_under_the_same_key_and_given_up_in_the_end() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    peer.always(Answer::status(500));
    let relay = Relay::start(config(&database.url(), &crm(&peer.url("/"), "")));
    until_routed(&client).await;
    send(&client, "t", "{}").await;
    let (attempts, reason) = dead_reason(&client).await;
    assert_eq!((attempts, peer.requests()), (4, 4), "three delays mean four attempts");
    assert!(reason.contains("HTTP 500") && reason.contains("gave up after 4"), "{reason}");
    let ids: std::collections::BTreeSet<Option<String>> =
        peer.received().iter().map(|r| r.header("webhook-id").map(str::to_owned)).collect();
    assert_eq!(ids.len(), 1);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_becomes_a_mail_and_a_retry_is_the_same_bytes() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = SmtpPeer::start().await;
    peer.script(Step::Dot, [Say::text("451 4.3.0 later"), Say::text("250 2.0.0 Ok: queued as 7F")]);
    let relay =
        Relay::start(config(&database.url(), &mail(peer.address, "Total: {{ payload.total }}")));
    until_routed(&client).await;
    send(
        &client,
        "order.created",
        r#"{"id": 7, "email": "Ann <ann@example.org>", "total": 19.90}"#,
    )
    .await;
    until_closed(&client).await;
    relay.stop().await;
    let mails = peer.mails();
    assert_eq!(mails.len(), 2);
    assert_eq!(mails[0].data, mails[1].data, "a retry is the same bytes");
    assert_eq!(mails[1].to, ["ann@example.org"]);
    let text = String::from_utf8(mails[1].data.clone()).unwrap();
    for line in ["Subject: Order 7", "Message-ID: <msg_shop_1_mail@example.com>", "Total: 19.90"] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    let receipt: String =
        client.query_one("SELECT receipt FROM outbox.ledger", &[]).await.unwrap().get(0);
    assert_eq!(receipt, "250 2.0.0 Ok: queued as 7F");
}

/// The mail server stores the mail and drops the connection instead of answering: in doubt, so
/// again, under the same Message-ID.
#[tokio::test(flavor = "multi_thread")]
async fn a_mail_in_doubt_is_repeated_under_the_same_message_id() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = SmtpPeer::start().await;
    peer.script(Step::Dot, [Say::Cut]);
    let relay = Relay::start(config(&database.url(), &mail(peer.address, "x")));
    until_routed(&client).await;
    send(&client, "order.created", r#"{"id": 7, "email": "ann@example.org"}"#).await;
    let doubt = "SELECT count(*) FROM outbox.delivery WHERE reason LIKE 'in doubt%'";
    until_count(
        &client,
        "it is in doubt, or through again",
        &format!("SELECT ({doubt}) + (SELECT count(*) FROM outbox.ledger)"),
        1,
    )
    .await;
    until_closed(&client).await;
    relay.stop().await;
    let mails = peer.mails();
    assert_eq!((mails.len(), peer.accepted()), (2, 1));
    assert_eq!(mails[0].data, mails[1].data);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_lacks_what_the_template_needs_is_dead_and_nothing_is_sent() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = SmtpPeer::start().await;
    let relay = Relay::start(config(&database.url(), &mail(peer.address, "{{ payload.total }}")));
    until_routed(&client).await;
    send(&client, "order.created", r#"{"id": 7, "email": "ann@example.org"}"#).await;
    let (attempts, reason) = dead_reason(&client).await;
    assert_eq!(attempts, 1);
    assert!(reason.contains("lacks what the template needs: payload.total"), "{reason}");
    relay.stop().await;
    assert_eq!(peer.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_none_is_dead_and_not_printed() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = SmtpPeer::start().await;
    let relay = Relay::start(config(&database.url(), &mail(peer.address, "x")));
    until_routed(&client).await;
    send(&client, "order.created", r#"{"id": 7, "email": "no such thing"}"#).await;
    let (_, reason) = dead_reason(&client).await;
    assert!(reason.contains("address") && !reason.contains("no such thing"), "{reason}");
    relay.stop().await;
    assert_eq!(peer.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_injection_is_dead_and_nothing_is_sent() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = SmtpPeer::start().await;
    let rest = mail(peer.address, "x").replace("{{ payload.id }}", "{{ payload.subject }}");
    let relay = Relay::start(config(&database.url(), &rest));
    until_routed(&client).await;
    let payload = r#"{"subject": "hi\r\nBcc: everybody@example.org", "email": "ann@example.org"}"#;
    send(&client, "order.created", payload).await;
    dead_reason(&client).await;
    relay.stop().await;
    assert_eq!(peer.connections(), 0);
}

/// 50 MB travel, alone, and byte for byte.
#[tokio::test(flavor = "multi_thread")]
async fn a_payload_of_fifty_megabytes_arrives_whole_among_small_ones() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let relay = Relay::start(config(&database.url(), &crm(&peer.url("/"), "timeout = \"60s\"")));
    until_routed(&client).await;
    client
        .batch_execute(
            "INSERT INTO outbox.message (type, payload) VALUES ('t', '{}');
             INSERT INTO outbox.message (type, payload)
             VALUES ('t', jsonb_build_object('big', repeat('0123456789', 5000000)));
             INSERT INTO outbox.message (type, payload) VALUES ('t', '{}')",
        )
        .await
        .unwrap();
    until_closed(&client).await;
    relay.stop().await;
    let mut sizes: Vec<usize> = peer.received().iter().map(|r| r.body.len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [2, 2, 50_000_000 + "{\"big\": \"\"}".len()]);
}

/// Guard: payloads that are fetched alone wait for room, and keep no small one from going.
#[tokio::test(flavor = "multi_thread")]
async fn large_payloads_wait_for_room_and_hold_up_no_small_one() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    peer.count_only();
    // Slow enough that whatever may run at the same time does.
    peer.always(Answer::Delayed(Duration::from_millis(500), Box::new(Answer::status(200))));
    let more = "timeout = \"60s\"\nconcurrency = 8";
    let relay = Relay::start(config(&database.url(), &crm(&peer.url("/"), more)));
    until_routed(&client).await;
    client
        .batch_execute(
            "INSERT INTO outbox.message (type, payload)
             SELECT 't', jsonb_build_object('big', repeat('0123456789', 2000000))
               FROM generate_series(1, 5);
             INSERT INTO outbox.message (type, payload) VALUES ('t', '{}')",
        )
        .await
        .unwrap();
    until_closed(&client).await;
    relay.stop().await;
    assert_eq!(peer.requests(), 6);
    // 20 MB each, 32 MB for a sink: one large and the small one at a time.
    assert!(peer.peak_at_once() <= 2, "{} at once", peer.peak_at_once());
}

/// NUL and invalid text are refused by PostgreSQL itself, at the producer, with nothing written.
#[tokio::test(flavor = "multi_thread")]
async fn nul_and_malformed_columns_are_refused_at_the_producer() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    for (insert, constraint) in [
        (r#"(type, payload) VALUES ('t', '{"a": "\u0000"}')"#, ""),
        ("(type, payload) VALUES (E't\\x00', '{}')", ""),
        ("(type, payload) VALUES (E'\\xff', '{}')", ""),
        ("(type, payload) VALUES ('', '{}')", "message_type_form"),
        ("(type, payload) VALUES ('a b', '{}')", "message_type_form"),
        ("(type, payload) VALUES ('a..b', '{}')", "message_type_form"),
        ("(type, payload) VALUES ('a.*', '{}')", "message_type_form"),
        ("(type, payload, due_at) VALUES ('t', '{}', 'infinity')", "message_due_at_finite"),
        ("(type, payload, headers) VALUES ('t', '{}', '{\"a\": 1}')", "message_headers_form"),
        ("(type, payload, headers) VALUES ('t', '{}', '[]')", "message_headers_form"),
        ("(type, payload, key) VALUES ('t', '{}', repeat('x', 1001))", "message_key_length"),
    ] {
        let error = client
            .batch_execute(&format!("INSERT INTO outbox.message {insert}"))
            .await
            .expect_err(insert);
        let found = error.as_db_error().map(|e| e.constraint().unwrap_or_default().to_owned());
        assert_eq!(found.as_deref(), Some(constraint), "{insert}");
    }
    assert_eq!(number(&client, "SELECT count(*) FROM outbox.message").await, 0);
    // An explicit NULL in an optional column means the same as leaving it out.
    client
        .batch_execute(
            "INSERT INTO outbox.message (type, payload, key, due_at, expires_at, dedupe_key, headers)
             VALUES ('t', '{}', NULL, NULL, NULL, NULL, NULL)",
        )
        .await
        .unwrap();
    assert_eq!(number(&client, "SELECT count(*) FROM outbox.delivery").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_type_waits_and_is_routed_once_a_route_exists() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let only_orders = crm(&peer.url("/"), "").replace("\"*\"", "\"order.*\"");
    let relay = Relay::start(config(&database.url(), &only_orders));
    until_routed(&client).await;
    send(&client, "user.created", "{}").await;
    let unrouted =
        "SELECT count(*) FROM outbox.open WHERE state = 'unrouted' AND type = 'user.created'";
    until_count(&client, "it is seen as unrouted", unrouted, 1).await;
    relay.stop().await;
    assert_eq!(peer.requests(), 0);
    let relay = Relay::start(config(&database.url(), &crm(&peer.url("/"), "")));
    until_closed(&client).await;
    relay.stop().await;
    assert_eq!(peer.requests(), 1);
}

/// An old config that starts again does not put its routes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_superseded_config_does_not_come_back_by_a_start() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let new = crm(&peer.url("/"), "");
    let old = new.replace("\"*\"", "\"order.*\"");
    for (rest, pattern) in [(&old, "order.*"), (&new, "*"), (&old, "*")] {
        let relay = Relay::start(config(&database.url(), rest));
        let entered = "SELECT count(*) FROM outbox.relay";
        until_count(&client, "the relay is entered", entered, 1).await;
        let found: String = client
            .query_one("SELECT pattern FROM outbox.route WHERE sink <> ''", &[])
            .await
            .unwrap()
            .get(0);
        assert_eq!(found, pattern);
        relay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_may_not_work_a_database_says_so_and_ends() {
    let empty = Database::fresh().await;
    let rest = crm("http://127.0.0.1:9/", "");
    let error = Relay::start(config(&empty.url(), &rest)).outcome().await.unwrap_err();
    assert!(error.to_string().contains("run: outboxd migrate"), "{error}");

    let database = Database::migrated().await;
    let client = database.connect().await;
    let mut other = config(&database.url(), &rest);
    other.database.installation = outboxd::name::Name::parse("staging").unwrap();
    let error = Relay::start(other).outcome().await.unwrap_err();
    assert!(matches!(error, RunError::Installation { .. }), "{error}");
    assert!(error.to_string().contains("\"shop\""), "{error}");

    client
        .batch_execute("INSERT INTO outbox.migration (number, name, sha256, works_from) VALUES (99, 'new', '', 99)")
        .await
        .unwrap();
    let error = Relay::start(config(&database.url(), &rest)).outcome().await.unwrap_err();
    assert!(error.to_string().contains("newer outboxd (migration 99)"), "{error}");
    client
        .batch_execute("DELETE FROM outbox.migration WHERE number = 99; UPDATE outbox.migration SET sha256 = 'x'")
        .await
        .unwrap();
    let error = Relay::start(config(&database.url(), &rest)).outcome().await.unwrap_err();
    assert!(error.to_string().contains("another text"), "{error}");
    client.batch_execute("DELETE FROM outbox.migration").await.unwrap();
    let error = Relay::start(config(&database.url(), &rest)).outcome().await.unwrap_err();
    assert!(error.to_string().contains("older"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_grant_or_database_is_named() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let role = format!("nobody_{}", database.name());
    client.batch_execute(&format!("CREATE ROLE {role} LOGIN")).await.unwrap();
    let rest = crm("http://127.0.0.1:9/", "");
    let url = database.url().replace("user=postgres", &format!("user={role}"));
    assert!(url.contains(&role), "{url}");
    let error = Relay::start(config(&url, &rest)).outcome().await.unwrap_err();
    assert!(error.to_string().contains("GRANT outbox_relay"), "{error}");
    client.batch_execute(&format!("DROP ROLE {role}")).await.unwrap();

    let url = database.url().replace(database.name(), "no_such_database");
    let error = Relay::start(config(&url, &rest)).outcome().await.unwrap_err();
    assert!(error.to_string().contains("no such database"), "{error}");
}

/// A relay with no more than the relay's group role can do all of its work.
#[tokio::test(flavor = "multi_thread")]
async fn the_relay_role_is_enough() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let role = format!("relay_{}", database.name());
    client
        .batch_execute(&format!("CREATE ROLE {role} LOGIN; GRANT outbox_relay TO {role}"))
        .await
        .unwrap();
    let peer = HttpPeer::start().await;
    peer.script([Answer::status(500)]);
    let folder = tempfile::tempdir().unwrap();
    let rest = crm(&peer.url("/"), "")
        + &format!(
            "[sinks.file]\nkind = \"csv\"\nmax_rows = 1\npath = \"{}/{{{{ period }}}}.csv\"\n\
             columns = [{{ name = \"id\", value = \"id\" }}]\n[[routes]]\ntype = \"*\"\nsink = \"file\"\n\
             [[routes]]\ntype = \"quiet\"\nsink = []\n",
            folder.path().display()
        );
    let url = database.url().replace("user=postgres", &format!("user={role}"));
    // Before the routes: it is unrouted first.
    send(&client, "t", "{}").await;
    let relay = Relay::start(config_with(&url, "lease = \"2s\"", &rest));
    until_closed(&client).await;
    send(&client, "quiet", "{}").await;
    send(&client, "t", "{}").await;
    until_closed(&client).await;
    let published = "SELECT count(*) FROM outbox.export WHERE state = 'published'";
    until_count(&client, "files stand", published, 2).await;
    relay.stop().await;
    assert_eq!(peer.requests(), 3);
    client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}

/// What is due later is not sent before, and not long after.
#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_message_is_sent_when_it_is_due() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let relay = Relay::start(config(&database.url(), &crm(&peer.url("/"), "")));
    until_routed(&client).await;
    client
        .batch_execute(
            "INSERT INTO outbox.message (type, payload, due_at)
             VALUES ('t', '{}', clock_timestamp() + interval '4 s')",
        )
        .await
        .unwrap();
    until_closed(&client).await;
    relay.stop().await;
    let late: f64 = client
        .query_one(
            "SELECT extract(epoch FROM l.closed_at - m.due_at)::float8 FROM outbox.ledger l
               JOIN outbox.message m ON m.id = l.message_id",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    assert!((0.0..2.0).contains(&late), "{late} s after it was due");
    assert!(Duration::from_secs_f64(late.max(0.0)) < Duration::from_secs(2));
}

/// A receipt that the database's encoding cannot hold must not keep its batch, and all after it, from
/// being recorded.
#[tokio::test(flavor = "multi_thread")]
async fn words_that_the_database_cannot_hold_are_recorded_as_far_as_they_can() {
    let cluster = Cluster::shared();
    cluster.psql(
        "postgres",
        "CREATE DATABASE latin1 ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'",
    );
    let peer = SmtpPeer::start().await;
    // The address is cut out of the receipt, and an ellipsis stands in its place.
    peer.always(Step::Dot, Say::text("250 2.0.0 taken for <ann@example.org>"));
    let settings = config(&cluster.url("latin1"), &mail(peer.address, "Hello"));
    let target = outboxd::store::Target::new(&settings.database);
    outboxd::store::migrate::migrate(&target, &settings.database).await.unwrap();
    let client = cluster.connect("latin1").await;
    let relay = Relay::start(settings);
    until_routed(&client).await;
    send(&client, "order.created", r#"{"id": 7, "email": "ann@example.org"}"#).await;
    until_closed(&client).await;
    relay.stop().await;
    let receipt: String =
        client.query_one("SELECT receipt FROM outbox.ledger", &[]).await.unwrap().get(0);
    assert_eq!(receipt, "250 2.0.0 taken for <?>");
    assert_eq!(peer.accepted(), 1);
}
