//! `sql/audit.sql`: clean on an outbox that has seen everything, and each of its checks fires on the
//! violation it is there for, and on no other.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use crate::harness::http::{Answer, HttpPeer};
use crate::harness::plane::{number, until_count, until_routed};
use crate::harness::postgres::Database;
use crate::harness::relay::{Relay, config, crm};

/// As shipped.
pub const AUDIT: &str = include_str!("../sql/audit.sql");

/// What the audit found, by check: how much, an example, and the verdict. Checks that found nothing
/// are left out.
pub async fn findings(client: &Client) -> BTreeMap<String, String> {
    let rows = client.query(AUDIT, &[]).await.unwrap_or_else(|error| panic!("{error:?}"));
    assert!(rows.len() >= 20, "one row a check");
    rows.iter()
        .filter(|row| row.get::<_, i64>("found") > 0)
        .map(|row| {
            let (found, verdict): (i64, String) = (row.get("found"), row.get("verdict"));
            let example: String = row.get("example");
            (row.get("name"), format!("{verdict}: {found}, e.g. {example}"))
        })
        .collect()
}

/// What must not be.
pub async fn violations(client: &Client) -> Vec<String> {
    let found = findings(client).await;
    let violated = found.iter().filter(|(_, said)| said.starts_with("VIOLATED"));
    violated.map(|(name, said)| format!("{name} {said}")).collect()
}

/// For each check something that is found by it alone. Messages 1 to 4 are delivered, 1 and 3 with
/// the key `k`; 5 is dead, 6 a duplicate of 2, 7 skipped, 8 unrouted, 9 exported, 10 due in an hour.
/// Message 4 is the run of a schedule, the file of 9 went out by mail 1, and export 2 has rows of a query.
const PLANTED: &[(&str, &str)] = &[
    ("message_on_record", "INSERT INTO outbox.message (type, payload) VALUES ('order.late', '{}')"),
    ("routing_trigger", "ALTER TABLE outbox.message DISABLE TRIGGER route_inserted"),
    // The ledger row keeps the message's other traces in order.
    ("delivery_has_message", "DELETE FROM outbox.message WHERE id = 5"),
    ("delivery_has_key", "UPDATE outbox.delivery SET key = 'other' WHERE message_id = 10"),
    ("delivery_has_sink", "UPDATE outbox.delivery SET sink = 'crn' WHERE message_id = 10"),
    (
        "delivery_state",
        "UPDATE outbox.delivery SET state = 'dead', due_at = 'infinity' WHERE message_id = 10",
    ),
    ("delivery_state", "UPDATE outbox.delivery SET state = 'unrouted' WHERE message_id = 5"),
    (
        "recipients_form",
        "UPDATE outbox.delivery SET recipients = '{\"a@x.example\": {\"state\": \"lost\"}}' WHERE message_id = 5",
    ),
    ("recipients_form", "UPDATE outbox.mailing SET recipients = '{\"a@x.example\": 1}'"),
    ("delivery_attempts", "UPDATE outbox.delivery SET attempt = 1 WHERE message_id = 10"),
    (
        "unrouted_alone",
        "INSERT INTO outbox.delivery (message_id, sink, due_at) VALUES (8, 'crm', now())",
    ),
    (
        "intent_has_owner",
        "UPDATE outbox.delivery SET state = 'sending', due_at = 'infinity', epoch = 99, repeatable = false
          WHERE message_id = 10",
    ),
    (
        "intent_has_owner",
        "UPDATE outbox.delivery SET state = 'sending', due_at = 'infinity', epoch = 0, repeatable = false
          WHERE message_id = 10;
         UPDATE outbox.sink SET taken_at = now() - interval '5 minutes'",
    ),
    (
        "one_sending_a_key",
        "UPDATE outbox.message SET key = 'k' WHERE id IN (5, 10);
         UPDATE outbox.delivery d SET state = 'sending', due_at = 'infinity', repeatable = false, key = 'k',
                epoch = (SELECT epoch FROM outbox.sink WHERE name = 'crm') WHERE message_id IN (5, 10)",
    ),
    (
        "closed_or_open",
        "INSERT INTO outbox.delivery (message_id, sink, due_at) VALUES (2, 'crm', now())",
    ),
    ("round_was_closed", "UPDATE outbox.delivery SET round = 2 WHERE message_id = 10"),
    (
        "closed_once",
        "INSERT INTO outbox.ledger (message_id, sink, target, round, attempts, outcome)
         VALUES (2, 'crm', '', 1, 1, 'expired'), (2, 'crm', '', 1, 1, 'discarded')",
    ),
    ("ledger_shape", "UPDATE outbox.ledger SET attempts = 0 WHERE message_id = 2"),
    (
        "duplicate_alone",
        "INSERT INTO outbox.delivery (message_id, sink, due_at) VALUES (6, 'crm', now())",
    ),
    ("not_before_due", "UPDATE outbox.message SET due_at = now() + interval '1 hour' WHERE id = 2"),
    ("sequence_is_ahead", "SELECT setval('outbox.message_id_seq', 9)"),
    ("export_has_its_rows", "DELETE FROM outbox.ledger WHERE outcome = 'exported';
         DELETE FROM outbox.message WHERE id = 9"),
    ("export_has_its_rows", "UPDATE outbox.export SET row_count = row_count + 1"),
    (
        "exported_has_export",
        "INSERT INTO outbox.ledger (message_id, sink, target, round, attempts, outcome, export_id)
         VALUES (2, 'orders', '', 1, 1, 'exported', 99)",
    ),
    ("export_spans", "UPDATE outbox.export SET due_from = due_before WHERE id = 1"),
    (
        "export_spans",
        "INSERT INTO outbox.export (sink, period, state, due_from, due_before, closed_at)
         SELECT 'orders', 'again', 'empty', due_before - interval '1 ms', due_before + interval '1 s', now()
           FROM outbox.export WHERE id = 1",
    ),
    ("export_has_its_mail", "UPDATE outbox.export SET mailing = 1 WHERE sink = 'ledger'"),
    ("export_has_its_mail", "UPDATE outbox.export SET mailing = 99 WHERE id = 1"),
    (
        "mail_a_day",
        "ALTER TABLE outbox.mailing DROP CONSTRAINT mailing_one_a_day;
         INSERT INTO outbox.mailing (sink, period, state, day, actor, epoch)
         SELECT sink, 'again', state, day, actor, epoch FROM outbox.mailing;
         INSERT INTO outbox.mailing_step (mailing, step, state, actor, hash)
         SELECT m.id, s.step, s.state, s.actor, s.hash FROM outbox.mailing_step s, outbox.mailing m
          WHERE m.period = 'again'",
    ),
    ("mail_steps", "UPDATE outbox.mailing SET state = 'held'"),
    ("mail_steps", "DELETE FROM outbox.mailing_step WHERE step = 2"),
    ("mail_steps", "DELETE FROM outbox.mailing_step WHERE step = 1"),
    ("mail_steps", "UPDATE outbox.mailing_step SET state = 'planned' WHERE state = 'built'"),
    ("mail_steps", "INSERT INTO outbox.mailing_step (mailing, step, state, actor) VALUES (9, 1, 'planned', 'r')"),
    ("mail_steps", "DELETE FROM outbox.mailing_step"),
    ("mail_intent", "UPDATE outbox.mailing_step SET state = 'unsent' WHERE state = 'sending'"),
    ("mail_intent", "UPDATE outbox.mailing_step SET hash = NULL WHERE state = 'sending'"),
    ("occurrence_shape", "UPDATE outbox.occurrence SET state = 'missed'"),
    ("occurrence_shape", "UPDATE outbox.occurrence SET first_id = NULL, ran_at = now() - interval '2 h'"),
    ("occurrence_shape", "UPDATE outbox.occurrence SET messages = 0"),
    ("occurrence_shape", "UPDATE outbox.occurrence SET messages = 2, ran_at = now() - interval '2 h'"),
    (
        "occurrence_once",
        "INSERT INTO outbox.occurrence (schedule, period, state, due_at, actor)
         SELECT schedule, 'again', 'ran', due_at, actor FROM outbox.occurrence",
    ),
    (
        "occurrence_has_messages",
        "DELETE FROM outbox.message WHERE id = 4; DELETE FROM outbox.ledger WHERE message_id = 4",
    ),
    (
        "accepted_again",
        "INSERT INTO outbox.ledger (message_id, sink, target, round, attempts, outcome)
         VALUES (2, 'crm', '', 1, 2, 'delivered')",
    ),
    (
        "key_in_order",
        "UPDATE outbox.ledger SET closed_at = closed_at + interval '1 minute' WHERE message_id = 1",
    ),
];

/// These say the same twice: a second row of the same end is also a second acceptance.
const RECORDED_TWICE: &str =
    "INSERT INTO outbox.ledger SELECT * FROM outbox.ledger WHERE message_id = 2";

/// Something after the end is also a step that does not follow.
const SENT_AGAIN: &str =
    "INSERT INTO outbox.mailing_step (mailing, step, state, actor) VALUES (1, 6, 'sent', 'r')";

/// An outbox with an example of everything in it, worked by a relay.
async fn stage() -> (Database, Client) {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let folder = tempfile::tempdir().unwrap();
    let peer = HttpPeer::start().await;
    peer.decide(|request| {
        let bad = request.header("outboxd-type") == Some("order.bad");
        Answer::status(if bad { 410 } else { 204 })
    });
    let rest = crm(&peer.url("/"), "").replace("\"*\"", "\"order.*\"")
        + &format!(
            "[[routes]]\ntype = \"noise.*\"\nsink = []\n\
             [[routes]]\ntype = \"row.*\"\nsink = \"orders\"\n\
             [sinks.orders]\nkind = \"csv\"\npath = \"{}/orders-{{{{ period }}}}.csv\"\nevery = \"1s\"\n\
             columns = [{{ name = \"id\", value = \"id\" }}]\n",
            folder.path().display()
        );
    let relay = Relay::start(config(&database.url(), &rest));
    until_routed(&client).await;
    for (kind, key, dedupe, due) in [
        ("order.created", "'k'", "NULL", "NULL"),
        ("order.created", "NULL", "'a'", "NULL"),
        ("order.created", "'k'", "NULL", "NULL"),
        ("order.created", "NULL", "NULL", "NULL"),
        ("order.bad", "NULL", "NULL", "NULL"),
        ("order.created", "NULL", "'a'", "NULL"),
        ("noise.x", "NULL", "NULL", "NULL"),
        ("unknown", "NULL", "NULL", "NULL"),
        ("row.x", "NULL", "NULL", "NULL"),
        ("order.created", "NULL", "NULL", "now() + interval '1 hour'"),
    ] {
        let sql = format!(
            "INSERT INTO outbox.message (type, payload, key, dedupe_key, due_at)
             VALUES ('{kind}', '{{}}', {key}, {dedupe}, {due})"
        );
        client.batch_execute(&sql).await.unwrap();
    }
    let closed = "SELECT count(*) FROM outbox.ledger";
    until_count(&client, "the rest is closed", closed, 7).await;
    let dead = "SELECT count(*) FROM outbox.delivery WHERE state = 'dead'";
    until_count(&client, "one is dead", dead, 1).await;
    // Its row is recorded before the file is made.
    let files = "SELECT count(*) FROM outbox.export WHERE state = 'published'";
    until_count(&client, "the file stands", files, 1).await;
    relay.stop().await;
    client.batch_execute(CALENDAR).await.unwrap();
    (database, client)
}

/// What no relay of the stage does: message 4 becomes a run of a schedule; the file goes out by mail,
/// which was built twice; and an export has rows of a query.
const CALENDAR: &str = "
    INSERT INTO outbox.occurrence (schedule, period, state, due_at, messages, first_id, last_id, actor)
    VALUES ('reminders', '2026-11-20', 'ran', now(), 1, 4, 4, 'r');
    INSERT INTO outbox.mailing (sink, period, actor, epoch) VALUES ('orders', '2026-11-20', 'r', 1);
    UPDATE outbox.mailing SET state = 'built', hash = 'first';
    UPDATE outbox.mailing SET hash = 'h';
    UPDATE outbox.mailing SET state = 'sending', day = '2026-11-20';
    UPDATE outbox.mailing SET state = 'sent';
    UPDATE outbox.export SET mailing = 1;
    INSERT INTO outbox.sink (name, kind) VALUES ('ledger', 'export');
    INSERT INTO outbox.export (sink, period, state, due_from, due_before, row_count, file, bytes, sha256, closed_at)
    VALUES ('ledger', '2026-11-20', 'built', now() - interval '1 day', now(), 7, 'f', 1, 'x', now())";

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_is_clean_where_nothing_is_wrong_and_an_operator_may_run_it() {
    let (database, client) = stage().await;
    assert_eq!(findings(&client).await, BTreeMap::new());
    // An operator sees the same, and psql takes the file as it is.
    let role = format!("auditor_{}", database.name());
    let said = database.psql(&format!(
        "CREATE ROLE {role} IN ROLE outbox_operator; SET ROLE {role};\n{AUDIT}; RESET ROLE; DROP ROLE {role}"
    ));
    assert!(said.lines().count() >= 20 && said.lines().all(|line| line.contains("|ok|")), "{said}");
    assert_eq!(number(&client, "SELECT count(*) FROM outbox.delivery").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_violation_is_found_by_its_check_and_by_no_other() {
    let (_database, mut client) = stage().await;
    let names: Vec<String> = {
        let rows = client.query(AUDIT, &[]).await.unwrap();
        rows.iter().map(|row| row.get("name")).collect()
    };
    let mut fired = Vec::new();
    for (name, sql) in PLANTED {
        let found = planted(&mut client, sql).await;
        assert_eq!(found.keys().collect::<Vec<_>>(), [name], "{sql}\n{found:?}");
        fired.push((*name).to_owned());
    }
    let found = planted(&mut client, RECORDED_TWICE).await;
    assert_eq!(found.keys().collect::<Vec<_>>(), ["accepted_again", "recorded_once"]);
    fired.push("recorded_once".to_owned());
    let found = planted(&mut client, SENT_AGAIN).await;
    assert_eq!(found.keys().collect::<Vec<_>>(), ["mail_sent_once", "mail_steps"]);
    fired.push("mail_sent_once".to_owned());
    let unplanted: Vec<&String> = names.iter().filter(|name| !fired.contains(name)).collect();
    assert_eq!(unplanted, Vec::<&String>::new(), "every check has its violation here");
}

/// What the audit finds once this is done behind everybody's back.
async fn planted(client: &mut Client, sql: &str) -> BTreeMap<String, String> {
    let transaction = client.transaction().await.unwrap();
    // No trigger fires: neither the routing of new messages nor the guard of the states.
    transaction.batch_execute("SET LOCAL session_replication_role = replica").await.unwrap();
    transaction.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let rows = transaction.query(AUDIT, &[]).await.unwrap();
    transaction.rollback().await.unwrap();
    // A sequence is not rolled back.
    client.batch_execute("SELECT setval('outbox.message_id_seq', 10)").await.unwrap();
    rows.iter()
        .filter(|row| row.get::<_, i64>("found") > 0)
        .map(|row| (row.get("name"), row.get("verdict")))
        .collect()
}
