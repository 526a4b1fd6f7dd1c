//! retry, discard, resolve, pause and resume: what an operator does to what is open.

use std::io::Write as _;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::json;

use super::{Said, Shop, command_in, said};
use crate::harness::http::{Answer, Gate, HttpPeer};
use crate::harness::plane::{LONG, until_count};
use crate::harness::relay::Relay;

const WAITING: &str = "SELECT count(*) FROM pg_stat_activity
     WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%outbox.%'";

impl Shop {
    /// A role of this database that is an operator and nothing else; the config connects as it.
    pub fn as_operator(&self) -> String {
        let role = format!("support_{}", self.database.name());
        self.psql(&format!("CREATE ROLE {role} LOGIN IN ROLE outbox_operator"));
        let url = self.database.url().replace("user=postgres", &format!("user={role}"));
        self.configure(&url, "", super::SINKS);
        role
    }

    /// Makes deliveries through crm dead or held.
    fn put(&self, state: &str, more: &str, which: &str) {
        self.psql(&format!(
            "UPDATE outbox.delivery SET state = '{state}', due_at = 'infinity', attempt = 3,
                    rev = rev + 1, reason = 'HTTP 410 Gone' {more} WHERE sink = 'crm' AND {which}"
        ));
    }

    fn send(&self, count: usize, key: Option<&str>) {
        let key = key.map_or("NULL".to_owned(), |key| format!("'{key}'"));
        self.psql(&format!(
            "INSERT INTO outbox.message (type, payload, key)
             SELECT 'order.x', '{{}}', {key} FROM generate_series(1, {count})"
        ));
    }

    /// The ledger's rows of a message through crm.
    fn closed(&self, id: i64) -> String {
        self.psql(&format!(
            "SELECT concat_ws(' ', round, attempts, outcome, receipt) FROM outbox.ledger
              WHERE message_id = {id} AND sink = 'crm' ORDER BY closed_at"
        ))
    }

    /// One delivery through crm, as it stands.
    fn row(&self, id: i64) -> String {
        self.psql(&format!(
            "SELECT concat_ws(' ', state, attempt, rev, due_at <= clock_timestamp())
               FROM outbox.delivery WHERE message_id = {id} AND sink = 'crm'"
        ))
    }

    pub fn spawn(&self, arguments: &[&str]) -> Child {
        command_in(self.directory.path(), arguments, &[]).spawn().unwrap()
    }
}

fn ended(child: Child) -> Said {
    said(child.wait_with_output().unwrap())
}

#[tokio::test]
async fn an_operator_needs_no_more_than_its_role() {
    let shop = Shop::open().await;
    shop.send(6, None);
    shop.put("dead", "", "message_id IN (1, 2, 3)");
    shop.put("held", "", "message_id IN (4, 5)");
    let role = shop.as_operator();
    shop.ok(&["retry", "1"]);
    shop.ok(&["discard", "2/crm"]);
    shop.ok(&["resolve", "4", "--delivered"]);
    shop.ok(&["resolve", "5", "--not-delivered"]);
    shop.ok(&["replay", "2/crm"]);
    shop.ok(&["retry", "--sink", "crm", "--yes"]);
    shop.ok(&["pause", "--sink", "crm"]);
    shop.ok(&["resume", "--sink", "crm"]);
    shop.ok(&["pause", "--route", "crm"]);
    shop.ok(&["resume", "--route", "crm"]);
    shop.ok(&["pause", "--all"]);
    shop.ok(&["list", "--state", "parked"]);
    shop.ok(&["show", "2"]);
    shop.json(&["status", "--json"]);
    shop.ok(&["resume", "--all"]);
    // And has no more: neither payloads nor the tables themselves.
    assert!(shop.fails(1, &["preview", "1"]).contains("the role lacks a right"));
    let direct = shop.database.url().replace("user=postgres", &format!("user={role}"));
    let client = crate::harness::postgres::connect(&direct.parse().unwrap()).await;
    for sql in [
        "UPDATE outbox.delivery SET rev = rev + 1",
        "DELETE FROM outbox.delivery",
        "INSERT INTO outbox.action (actor, verb) VALUES ('x', 'x')",
        "SELECT outbox.close_open(NULL, 'delivered', 'x')",
        "SELECT outbox.extend_ledger()",
    ] {
        let refused = client.batch_execute(sql).await.unwrap_err();
        assert!(refused.as_db_error().unwrap().message().contains("denied"), "{sql}: {refused:?}");
    }
    drop(client);
    // Through SQL alike; who it was is the role.
    shop.put("dead", "", "message_id = 6");
    let sql = format!("SET ROLE {role}; SELECT was, became FROM outbox.retry(6)");
    assert_eq!(shop.psql(&sql), "dead|pending");
    let actors = "SELECT count(DISTINCT actor) FROM outbox.action WHERE actor NOT LIKE '%@%'";
    assert_eq!(shop.psql(actors), "1", "those without a label have the session's role");
    shop.psql(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[tokio::test]
async fn whatever_operators_do_the_audit_finds_nothing_against_it() {
    let shop = Shop::open().await;
    shop.send(12, Some("ann"));
    shop.psql(
        "INSERT INTO outbox.message (type, payload) VALUES ('user.x', '{}');
         UPDATE outbox.delivery SET state = 'dead', due_at = 'infinity', attempt = 3, rev = 4, reason = 'x'
          WHERE sink = 'crm' AND message_id <= 4;
         UPDATE outbox.delivery SET state = 'held', due_at = 'infinity', attempt = 1, rev = 4, reason = 'x'
          WHERE sink = 'crm' AND message_id IN (5, 6);
         UPDATE outbox.delivery SET state = 'held', due_at = 'infinity', rev = 4, reason = 'x'
          WHERE sink = 'crm' AND message_id = 7;
         UPDATE outbox.delivery SET due_at = clock_timestamp() + interval '1 h', attempt = 2, rev = 4,
                reason = 'route paused' WHERE sink = 'crm' AND message_id = 8",
    );
    shop.ok(&["retry", "1"]);
    shop.ok(&["retry", "--key", "ann", "--yes"]);
    shop.ok(&["discard", "4"]);
    shop.ok(&["discard", "--state", "unrouted", "--yes"]);
    shop.ok(&["resolve", "5", "--not-delivered"]);
    shop.ok(&["resolve", "--sink", "crm", "--delivered", "--yes"]);
    assert!(shop.ok(&["resume", "--route", "crm"]).contains("due now: 1 delivery"));
    shop.ok(&["replay", "6/crm"]);
    shop.ok(&["discard", "6/crm"]);
    shop.ok(&["replay", "6/crm"]);
    let client = shop.database.connect().await;
    assert_eq!(crate::audit::violations(&client).await, Vec::<String>::new());
    assert_eq!(shop.closed(7).split(" resolved").next(), Some("1 1 delivered"));
}

#[tokio::test]
async fn a_producer_may_not_operate() {
    let shop = Shop::open().await;
    for function in ["retry(1)", "discard(1)", "resolve(1, NULL, NULL, true)", "pause_all()"] {
        let sql = format!(
            "SELECT has_function_privilege('outbox_producer', p.oid, 'EXECUTE')
             FROM pg_proc p WHERE p.pronamespace = 'outbox'::regnamespace AND p.proname = '{}'",
            function.split('(').next().unwrap()
        );
        assert_eq!(shop.psql(&sql), "f", "{function}");
    }
}

#[tokio::test]
async fn what_is_discarded_is_closed_and_says_by_whom() {
    let shop = Shop::open().await;
    shop.send(3, None);
    shop.psql("INSERT INTO outbox.message (type, payload) VALUES ('user.x', '{}')");
    shop.put("dead", "", "message_id = 1");
    let said = shop.ok(&["discard", "1/crm"]);
    assert_eq!(said, "1 delivery discarded: 1/crm\n");
    let closed = shop.closed(1);
    assert!(closed.starts_with("1 3 discarded discarded by ") && closed.contains('@'), "{closed}");
    let note = "SELECT concat_ws(' ', verb, sink, note) FROM outbox.action WHERE message_id = 1";
    assert_eq!(shop.psql(note), "discard crm it was dead: HTTP 410 Gone");

    // Whatever may be under way is not recalled.
    let said = shop.ok(&["discard", "2"]);
    assert_eq!(
        said,
        "2 deliveries discarded: 2/crm, 2/orders\nwhat is in flight is not recalled\n"
    );
    shop.psql(
        "UPDATE outbox.delivery SET state = 'sending', due_at = 'infinity', epoch = 1,
                repeatable = false, attempt = 1, rev = rev + 1 WHERE message_id = 3 AND sink = 'crm'",
    );
    assert!(shop.ok(&["show", "3"]).contains("begun, its end is not recorded yet"));
    let said = shop.ok(&["discard", "3/crm"]);
    assert!(said.contains("3/crm is in flight and not recalled"), "{said}");
    let said = shop.json(&["discard", "4", "--json"]);
    let (was, became) = (["unrouted"], ["discarded"]);
    assert_eq!(said, json!({ "discarded": 1, "deliveries": ["4"], "was": was, "became": became }));

    let refused = shop.fails(1, &["discard", "1/crm"]);
    assert!(refused.contains("nothing open to discard: 1/crm is discarded; "), "{refused}");
    assert!(refused.contains(" discarded it at 2"), "{refused}");
    assert!(shop.fails(1, &["discard", "9"]).contains("there is no message 9"));
    assert!(shop.fails(1, &["discard", "1/mail"]).contains("there is no delivery 1/mail"));
}

#[tokio::test]
async fn many_are_asked_for_counted_and_done_page_by_page() {
    let shop = Shop::open().await;
    shop.psql(
        "INSERT INTO outbox.message (type, payload, key)
         SELECT CASE WHEN n % 2 = 0 THEN 'order.even' ELSE 'order.odd' END, '{}', 'k' || n % 3
           FROM generate_series(1, 2600) n",
    );
    shop.put("dead", "", "true");
    shop.psql(
        "UPDATE outbox.delivery SET reason = 'HTTP 503', rev = rev + 1
          WHERE sink = 'crm' AND message_id <= 10",
    );
    for (arguments, words) in [
        (&["discard"][..], "name what to discard"),
        (&["discard", "--sink", "crm"], "--state"),
        (&["discard", "--sink", "crm", "--state", "parked"], "discard its head"),
        (&["discard", "1", "--state", "dead"], "leave --state out"),
        (&["retry", "1", "--type", "order.x"], "not both"),
        (&["resolve", "1"], "--delivered"),
        (&["resolve", "1", "--delivered", "--not-delivered"], "cannot be used with"),
    ] {
        let said = shop.run(arguments);
        assert!(said.code == 2 && said.err.contains(words), "{arguments:?}: {said:?}");
    }
    let asked = shop.fails(2, &["retry", "--type", "order.even", "--key", "k0"]);
    let words =
        "this would retry 433 dead deliveries of type order.even, key k0; say so with --yes";
    assert!(asked.contains(words), "{asked}");
    let dead = "SELECT count(*) FROM outbox.delivery WHERE state = 'dead'";
    assert_eq!(shop.psql(dead), "2600", "asking changes nothing");

    let said = shop.json(&["retry", "--type", "order.even", "--key", "k0", "--yes", "--json"]);
    assert_eq!(said, json!({ "retried": 433, "left": 0 }));
    let said = shop.ok(&["retry", "--reason", "http 503", "--yes"]);
    assert_eq!(said, "9 deliveries with \"http 503\" in the reason to be tried again now\n");
    let said = shop.ok(&["discard", "--state", "dead", "--sink", "crm", "--yes"]);
    assert_eq!(said, "2158 deliveries of sink crm discarded\n");
    assert_eq!(shop.psql(dead), "0");
    assert_eq!(
        shop.ok(&["discard", "--state", "dead", "--sink", "crm"]),
        "no dead deliveries of sink crm: nothing to do\n"
    );
    // What is pending goes by lane and due time, and its pages have no gap.
    let said = shop.ok(&["discard", "--state", "pending", "--yes"]);
    assert_eq!(said, "3042 deliveries discarded\n");
    assert_eq!(shop.psql("SELECT count(*) FROM outbox.delivery"), "0");
    assert_eq!(shop.psql("SELECT count(*) FROM outbox.action"), "5642");
    assert!(
        shop.fails(1, &["retry", "--sink", "crn"]).contains("there is no sink crn; known: crm")
    );
}

#[tokio::test]
async fn a_page_leaves_alone_what_changed_since_it_was_looked_at() {
    let shop = Shop::open().await;
    shop.send(3, None);
    shop.put("dead", "", "true");
    let mut client = shop.database.connect().await;
    // Somebody is changing 2, and has changed 3.
    let other = client.transaction().await.unwrap();
    other
        .execute("SELECT FROM outbox.delivery WHERE message_id = 2 FOR UPDATE", &[])
        .await
        .unwrap();
    let sql = "SET lock_timeout = '10 s';
               SELECT string_agg(message_id::text, ' ') FROM outbox.discard_these(
                 '{1,2,3}', '{crm,crm,crm}', '{\"\",\"\",\"\"}', '{1,1,0}')";
    assert_eq!(shop.psql(sql), "1");
    other.rollback().await.unwrap();
    assert_eq!(shop.psql("SELECT count(*) FROM outbox.delivery WHERE sink = 'crm'"), "2");
}

#[tokio::test]
async fn an_attempts_end_does_not_undo_what_an_operator_did() {
    let shop = Shop::open().await;
    shop.send(1, None);
    shop.put("dead", "", "true");
    let client = shop.database.connect().await;
    let rev: i32 = client
        .query_one("SELECT rev FROM outbox.delivery WHERE sink = 'crm'", &[])
        .await
        .unwrap()
        .get(0);
    let end = async |rev: i32| {
        let sql = include_str!("../../sql/queries/settle_open.sql");
        let (epoch, hash): (i64, Option<Vec<u8>>) = (0, None);
        client
            .query(
                sql,
                &[
                    &"crm",
                    &epoch,
                    &vec![1_i64],
                    &vec![""],
                    &vec![rev],
                    &vec![9_i32],
                    &vec!["dead"],
                    &vec![0_i64],
                    &vec!["late"],
                    &vec![hash],
                    &vec![None::<String>],
                ],
            )
            .await
            .unwrap()
            .len()
    };
    shop.ok(&["retry", "1"]);
    assert_eq!(end(rev).await, 0, "the end of an attempt that began before");
    assert_eq!(shop.row(1), "pending 0 2 t");
    // A replay's new life does not begin where an attempt of the former one could meet it.
    shop.ok(&["discard", "1/crm"]);
    shop.ok(&["replay", "1/crm"]);
    for former in 0..10 {
        assert_eq!(end(former).await, 0, "rev {former}");
    }
    assert!(shop.row(1).starts_with("pending 0 "));
}

#[tokio::test]
async fn the_next_of_a_key_goes_on_when_its_head_is_dealt_with() {
    let shop = Shop::open().await;
    shop.send(3, Some("ann"));
    shop.send(3, Some("bob"));
    shop.put("dead", "", "message_id = 1");
    shop.put("held", "", "message_id = 4");
    shop.psql(
        "UPDATE outbox.delivery SET due_at = clock_timestamp() - interval '1 h', rev = rev + 1
          WHERE sink = 'crm' AND state = 'pending'",
    );
    let fresh = "SELECT string_agg(message_id::text, ' ' ORDER BY message_id) FROM outbox.delivery
                  WHERE sink = 'crm' AND due_at > clock_timestamp() - interval '1 min'
                    AND due_at <= clock_timestamp()";
    assert_eq!(shop.psql(fresh), "");
    shop.ok(&["discard", "1/crm"]);
    assert_eq!(shop.psql(fresh), "2", "the next one, and no other");
    // One from the middle is nobody's head, and the head may be in flight.
    let head = shop.row(2);
    shop.ok(&["discard", "3/crm"]);
    assert_eq!(shop.row(2), head);
    shop.ok(&["resolve", "4", "--delivered"]);
    assert_eq!(shop.psql(fresh), "2 5");
    // What waits for a time of its own goes on waiting.
    shop.psql(
        "UPDATE outbox.delivery SET due_at = '2199-01-01', rev = rev + 1
          WHERE message_id = 6 AND sink = 'crm'",
    );
    shop.ok(&["discard", "5/crm"]);
    assert!(shop.row(6).ends_with(" f"), "{}", shop.row(6));
}

#[tokio::test]
async fn what_is_held_is_resolved_either_way() {
    let shop = Shop::open().await;
    shop.send(3, None);
    shop.put("held", ", content_hash = '\\x01', crashes = 2", "true");
    let said = shop.ok(&["resolve", "1", "--delivered"]);
    assert_eq!(said, "1 delivery recorded as delivered: 1/crm\n");
    let closed = shop.closed(1);
    assert!(closed.starts_with("1 3 delivered resolved by "), "{closed}");
    assert!(closed.ends_with(": delivered"), "{closed}");

    let said = shop.ok(&["resolve", "2/crm", "--not-delivered"]);
    assert_eq!(said, "1 delivery to be sent again now: 2/crm\n");
    assert_eq!(shop.row(2), "pending 0 2 t");
    let anew = "SELECT content_hash IS NULL AND crashes IS NULL FROM outbox.delivery
                 WHERE message_id = 2 AND sink = 'crm'";
    assert_eq!(shop.psql(anew), "t", "made anew");

    // A relay that fell silent may yet be sending it.
    shop.psql(
        "UPDATE outbox.delivery SET hold_until = clock_timestamp() + interval '1 h', rev = rev + 1
          WHERE state = 'held'",
    );
    let refused = shop.fails(1, &["resolve", "3", "--not-delivered"]);
    assert!(refused.contains("3/crm cannot be sent again before 2"), "{refused}");
    assert!(refused.contains("the relay that fell silent"), "{refused}");
    assert!(shop.ok(&["show", "3"]).contains("not to be sent again before"));
    let many = shop.run(&["resolve", "--sink", "crm", "--not-delivered", "--yes", "--json"]);
    assert_eq!(many.code, 1, "{many:?}");
    assert!(many.err.contains("1 delivery left as they are"), "{many:?}");
    let direct = shop.database.connect().await;
    let sql = "SELECT FROM outbox.resolve(3, 'crm', '', false)";
    let refused = direct.batch_execute(sql).await.unwrap_err();
    assert!(refused.as_db_error().unwrap().message().contains("may yet be sending it"));
    assert_eq!(shop.row(3).split(' ').next(), Some("held"));
    // That it arrived can be said at any time.
    assert_eq!(
        shop.json(&["resolve", "--sink", "crm", "--delivered", "--yes", "--json"]),
        json!({ "resolved": 1, "left": 0 })
    );
    let refused = shop.fails(1, &["resolve", "2", "--delivered"]);
    assert!(refused.contains("nothing held to resolve: 2/crm is pending, due"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_operators_who_resolve_at_once_the_second_is_told_what_the_first_did() {
    let shop = Shop::open().await;
    shop.send(1, None);
    shop.put("held", "", "true");
    let mut client = shop.database.connect().await;
    let watcher = shop.database.connect().await;
    // Both are at the row before either gets it.
    let gate = client.transaction().await.unwrap();
    gate.execute("SELECT FROM outbox.delivery FOR UPDATE", &[]).await.unwrap();
    let one = shop.spawn(&["resolve", "1/crm", "--delivered"]);
    let other = shop.spawn(&["resolve", "1/crm", "--not-delivered"]);
    until_count(&watcher, "both wait", WAITING, 2).await;
    gate.rollback().await.unwrap();
    let (one, other) = (ended(one), ended(other));
    assert_eq!(one.code + other.code, 1, "{one:?} {other:?}");
    let late = if one.code == 1 { &one } else { &other };
    assert!(late.err.contains("nothing held to resolve: 1/crm is "), "{late:?}");
    assert!(late.err.contains(" resolved it at 2"), "{late:?}");
    let first =
        if one.code == 0 { "(delivered; it was held" } else { "(not delivered; it was held" };
    assert!(late.err.contains(first), "{late:?}");
    assert_eq!(shop.psql("SELECT count(*) FROM outbox.action WHERE verb = 'resolve'"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_discarded_in_flight_and_arrives_is_recorded_as_both() {
    let shop = Shop::open().await;
    let (peer, gate) = (HttpPeer::start().await, Gate::new());
    peer.always(Answer::Gated(gate.clone(), Box::new(Answer::status(204))));
    let sinks = super::SINKS.replace("http://127.0.0.1:9", &peer.url(""));
    shop.configure(&shop.database.url(), "", &sinks);
    let file = shop.directory.path().join("outboxd.toml");
    let relay = Relay::start(outboxd::config::Config::load(&file).unwrap());
    shop.send(1, None);
    tokio::time::timeout(LONG, peer.until(|peer| peer.requests() == 1)).await.unwrap();
    let said = shop.ok(&["discard", "1/crm"]);
    assert!(said.contains("not recalled"), "{said}");
    gate.open();
    let client = shop.database.connect().await;
    let both = "SELECT count(*) FROM outbox.ledger WHERE sink = 'crm'";
    until_count(&client, "the late answer is recorded too", both, 2).await;
    let outcomes = "SELECT string_agg(outcome, ' ' ORDER BY closed_at) FROM outbox.ledger
                     WHERE sink = 'crm' AND round = 1";
    assert_eq!(shop.psql(outcomes), "discarded delivered");
    // It was no error: the next one goes through.
    shop.send(1, None);
    until_count(&client, "the next is delivered", both, 3).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_sink_a_route_or_all_is_paused_and_goes_on() {
    let shop = Shop::open().await;
    assert_eq!(
        shop.ok(&["pause", "--sink", "crm"]),
        "sink crm is paused; what is in flight is not recalled\n"
    );
    assert_eq!(shop.ok(&["pause", "--sink", "crm"]), "sink crm is paused already: nothing to do\n");
    assert_eq!(shop.psql("SELECT paused FROM outbox.sink WHERE name = 'crm'"), "t");
    let status = shop.run(&["status"]);
    assert!(
        status.out.contains("! crm: paused; to go on: outboxd resume --sink crm"),
        "{status:?}"
    );
    assert_eq!(shop.ok(&["resume", "--sink", "crm"]), "sink crm goes on\n");
    assert_eq!(shop.ok(&["resume", "--sink", "crm"]), "sink crm is not paused: nothing to do\n");
    assert!(
        shop.fails(1, &["pause", "--sink", "crn"]).contains("there is no sink crn; known: crm")
    );
    for wrong in [&["pause"][..], &["pause", "--all", "--sink", "crm"], &["resume", "--yes"]] {
        assert_eq!(shop.run(wrong).code, 2, "{wrong:?}");
    }

    let said = shop.json(&["pause", "--all", "--json"]);
    assert_eq!(said, json!({ "paused": "everything", "changed": true }));
    let all = "SELECT concat_ws(' ', paused, paused_for) FROM outbox.installation";
    assert_eq!(shop.psql(all), "t operator");
    assert_eq!(shop.json(&["status", "--json"])["paused"], json!(true));
    // What has a pause of its own waits on, and is named.
    shop.ok(&["pause", "--sink", "crm"]);
    let said = shop.run(&["resume", "--all"]);
    assert_eq!((said.code, said.out.as_str()), (0, "everything goes on\n"));
    assert!(said.err.contains("still: sink crm;"), "{said:?}");
    shop.ok(&["resume", "--sink", "crm"]);
    assert_eq!(shop.psql(all), "f");
    // What paused because it was restored does not go on by the way.
    shop.psql("UPDATE outbox.installation SET paused = true, paused_for = 'restored'");
    let refused = shop.fails(1, &["resume", "--all"]);
    assert!(refused.contains("use: outboxd resume --restored"), "{refused}");
    let direct = shop.database.connect().await;
    let refused = direct.batch_execute("SELECT outbox.pause_all(false)").await.unwrap_err();
    let words = refused.as_db_error().unwrap().message().to_owned();
    assert!(words.contains("use: outboxd resume --restored"), "{words}");
    shop.ok(&["pause", "--all"]);
    assert_eq!(shop.psql(all), "t restored");
    let actions = "SELECT string_agg(concat_ws(' ', verb, sink, note), ', ' ORDER BY id)
                     FROM outbox.action";
    assert_eq!(
        shop.psql(actions),
        "pause crm, resume crm, pause all, pause crm, resume all, resume crm"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_goes_on_with_a_key_whose_dead_head_is_discarded() {
    let shop = Shop::open().await;
    let peer = HttpPeer::start().await;
    peer.decide(|request| {
        let first = request.header("webhook-id").is_some_and(|id| id.ends_with("_1_crm"));
        Answer::status(if first { 410 } else { 204 })
    });
    let sinks = super::SINKS.replace("http://127.0.0.1:9", &peer.url(""));
    shop.configure(&shop.database.url(), "", &sinks);
    let file = shop.directory.path().join("outboxd.toml");
    let relay = Relay::start(outboxd::config::Config::load(&file).unwrap());
    let client = shop.database.connect().await;
    shop.send(3, Some("ann"));
    let dead = "SELECT count(*) FROM outbox.delivery WHERE state = 'dead'";
    until_count(&client, "the head is dead", dead, 1).await;
    assert_eq!(peer.requests(), 1, "the others of its key wait");
    shop.ok(&["discard", "1/crm"]);
    let delivered = "SELECT count(*) FROM outbox.ledger WHERE outcome = 'delivered'";
    until_count(&client, "the others go on", delivered, 2).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_starts_nothing_through_what_is_paused() {
    let shop = Shop::open().await;
    let (peer, other) = (HttpPeer::start().await, HttpPeer::start().await);
    let more = format!(
        "{}[sinks.app]\nkind = \"webhook\"\nurl = \"{}\"\n\
         [[routes]]\ntype = \"order.*\"\nsink = \"app\"\n",
        super::SINKS.replace("http://127.0.0.1:9", &peer.url("")),
        other.url("/hook")
    );
    shop.configure(&shop.database.url(), "", &more);
    shop.ok(&["route", "apply"]);
    let file = shop.directory.path().join("outboxd.toml");
    let relay = Relay::start(outboxd::config::Config::load(&file).unwrap());
    let client = shop.database.connect().await;
    let delivered = "SELECT count(*) FROM outbox.ledger WHERE outcome = 'delivered'";
    shop.send(1, None);
    until_count(&client, "both sinks are at work", delivered, 2).await;
    shop.ok(&["pause", "--sink", "crm"]);
    shop.send(20, None);
    until_count(&client, "the other sink goes on", delivered, 22).await;
    assert_eq!(peer.requests(), 1);
    shop.ok(&["resume", "--sink", "crm"]);
    until_count(&client, "what waited goes out", delivered, 42).await;

    shop.ok(&["pause", "--all"]);
    shop.send(1, None);
    shop.ok(&["resume", "--all"]);
    until_count(&client, "all go on", delivered, 44).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_paused_route_holds_back_its_own_and_lets_them_go_together() {
    let shop = Shop::open().await;
    let more = "[[routes]]\ntype = \"user.*\"\nsink = \"crm\"\n[[routes]]\nname = \"office\"\n\
                type = \"order.*\"\nsink = \"crm\"\n";
    shop.configure(&shop.database.url(), "", &format!("{}{more}", super::SINKS));
    shop.ok(&["route", "apply"]);
    let refused = shop.fails(1, &["pause", "--route", "crm"]);
    let words = "name one with --type: route order.* to crm, route user.* to crm";
    assert!(refused.contains(words), "{refused}");
    let refused = shop.fails(1, &["pause", "--route", "crm", "--type", "order.x"]);
    assert!(refused.contains("route order.* to crm/office"), "{refused}");
    shop.ok(&["pause", "--route", "crm/office"]);
    let said = shop.ok(&["pause", "--route", "crm", "--type", "order.*"]);
    assert_eq!(said, "route order.* to crm is paused; what is in flight is not recalled\n");
    let said = shop.ok(&["pause", "--route", "crm", "--type", "order.*"]);
    assert_eq!(said, "route order.* to crm is paused already: nothing to do\n");
    let paused = "SELECT string_agg(concat_ws(' ', pattern, sink, target), ', ' ORDER BY target)
                    FROM outbox.paused_route WHERE actor LIKE '%@%'";
    assert_eq!(shop.psql(paused), "order.* crm , order.* crm office");
    let words = "to go on: outboxd resume --route crm/office --type 'order.*'";
    assert!(shop.run(&["status"]).out.contains(words));

    // As a relay puts back what such a route takes: in both lanes, and more than a page of it.
    shop.send(1200, None);
    shop.psql(
        "UPDATE outbox.delivery SET due_at = clock_timestamp() + interval '1 h', rev = rev + 1,
                lane = -(message_id % 2),
                reason = CASE WHEN message_id = 7 THEN 'HTTP 503' ELSE 'route paused' END
          WHERE sink = 'crm'",
    );
    let said = shop.ok(&["resume", "--route", "crm"]);
    assert_eq!(said, "route order.* to crm goes on; due now: 1199 deliveries that waited for it\n");
    let due = "SELECT count(*) FROM outbox.delivery
                WHERE sink = 'crm' AND target = '' AND due_at <= clock_timestamp()
                  AND reason IS DISTINCT FROM 'route paused'";
    assert_eq!(shop.psql(due), "1199");
    // What waits for another reason goes on waiting.
    let release = "SELECT count(*) FROM outbox.delivery d CROSS JOIN LATERAL outbox.release_these(
                     ARRAY[d.message_id], ARRAY[d.sink], ARRAY[d.target], ARRAY[d.rev])
                    WHERE d.message_id = 7 AND d.sink = 'crm'";
    assert_eq!(shop.psql(release), "0");
    let office = "SELECT count(*) FROM outbox.delivery
                   WHERE target = 'office' AND due_at > clock_timestamp()";
    assert_eq!(shop.psql(office), "1200");
    assert_eq!(shop.ok(&["resume", "--route", "crm"]), "route crm is not paused: nothing to do\n");
    // A route that is no longer in force can still be let go.
    shop.configure(&shop.database.url(), "", super::SINKS);
    shop.ok(&["route", "apply"]);
    assert!(shop.ok(&["resume", "--route", "crm/office"]).contains("goes on; due now: 1199"));
}

#[tokio::test]
async fn lists_are_narrowed_by_key_age_and_reason() {
    let shop = Shop::open().await;
    shop.send(2, Some("ann"));
    shop.send(1, Some("bob"));
    shop.put("dead", "", "message_id = 1");
    shop.put("held", ", hold_until = '2199-01-01'", "message_id = 3");
    shop.psql(
        "UPDATE outbox.message SET created_at = clock_timestamp() - interval '2 h' WHERE id = 2",
    );
    let names = |arguments: &[&str]| -> Vec<String> {
        let rows = shop.json(&[&["list", "--json"], arguments].concat());
        let name = |row: &serde_json::Value| row["delivery"].as_str().unwrap().to_owned();
        rows.as_array().unwrap().iter().map(name).collect()
    };
    assert_eq!(names(&["--key", "ann"]), ["1/crm", "2/crm", "1/orders", "2/orders"]);
    assert_eq!(names(&["--key", "ann", "--state", "dead"]), ["1/crm"]);
    assert_eq!(names(&["--key", "ann", "--limit", "1"]), ["1/crm"]);
    assert_eq!(names(&["--older-than", "1h"]), ["2/crm", "2/orders"]);
    assert_eq!(names(&["--reason", "410 gone"]), ["3/crm", "1/crm"]);
    assert_eq!(names(&["--reason", "410 gone", "--state", "held"]), ["3/crm"]);
    assert_eq!(names(&["--key", "nobody"]), Vec::<String>::new());
    let held = shop.json(&["list", "--state", "held", "--json"]);
    assert!(held[0]["held_until"].as_str().unwrap().starts_with("2199"), "{held}");
}

#[tokio::test]
async fn parked_keys_show_their_head_and_how_many_wait() {
    let shop = Shop::open().await;
    shop.send(4, Some("ann"));
    shop.send(1, Some("bob"));
    shop.send(2, None);
    shop.psql(
        "INSERT INTO outbox.message (type, payload, key, due_at)
         SELECT 'order.x', '{}', 'late', '2199-01-01' FROM generate_series(1, 2)",
    );
    assert_eq!(shop.ok(&["list", "--state", "parked", "--key", "nobody"]), "no key is parked\n");
    shop.put("dead", "", "message_id IN (2, 5, 6)");
    let heads = |arguments: &[&str]| -> Vec<String> {
        let command =
            [&["list", "--state", "parked", "--sink", "crm", "--json"], arguments].concat();
        let rows = shop.json(&command);
        let head =
            |row: &serde_json::Value| format!("{} {}", row["delivery"], row["followers"]["count"]);
        rows.as_array().unwrap().iter().map(head).collect()
    };
    // 2 is not its key's head, 5 has nobody behind it, 6 has no key.
    assert_eq!(heads(&[]), ["\"8/crm\" 1"]);
    shop.put("dead", "", "message_id = 1");
    assert_eq!(heads(&[]), ["\"1/crm\" 3", "\"8/crm\" 1"]);
    assert_eq!(heads(&["--key", "ann"]), ["\"1/crm\" 3"]);
    assert_eq!(heads(&["--limit", "1"]), ["\"1/crm\" 3"]);
    assert_eq!(heads(&["--key", "late", "--limit", "1"]), ["\"8/crm\" 1"]);
    // Where dead heads are skipped, nobody waits for them.
    let skip =
        super::SINKS.replacen("kind = \"webhook\"", "kind = \"webhook\"\norder = \"skip\"", 1);
    shop.configure(&shop.database.url(), "", &skip);
    assert_eq!(heads(&[]), ["\"8/crm\" 1"]);
    shop.configure(&shop.database.url(), "", super::SINKS);
    let view = "SELECT string_agg(concat_ws(' ', message_id, state, key), ', ' ORDER BY message_id)
                  FROM outbox.parked WHERE sink = 'crm'";
    assert_eq!(shop.psql(view), "1 dead ann, 8 pending late");
    let text = shop.ok(&["list", "--state", "parked", "--sink", "crm"]);
    assert!(text.contains("BEHIND IT") && text.contains("HTTP 410 Gone"), "{text}");
}

#[tokio::test]
async fn status_tells_what_the_owner_says_of_a_sink() {
    let shop = Shop::open().await;
    shop.psql(
        "INSERT INTO outbox.flow (sink, parked, open_since, open_reason, waits_until, waits_for)
         VALUES ('crm', 3, clock_timestamp() - interval '5 min', 'connection refused',
                 clock_timestamp() + interval '30 s', 'the next probe')",
    );
    let status = shop.run(&["status"]).out;
    for words in [
        "crm: cannot be reached, for 5m now: connection refused",
        "crm: takes nothing for another ",
        ": the next probe",
        "crm: 3 keys have a head that waits; what waits behind one: outboxd list --state parked --sink crm",
    ] {
        assert!(status.contains(words), "{words}: {status}");
    }
    let status = shop.json(&["status", "--json"]);
    let crm = &status["sinks"][0];
    assert_eq!(crm["open"]["reason"], "connection refused");
    assert_eq!(crm["parked"], 3);
    assert_eq!(crm["waits"]["for"], "the next probe");
}

/// Runs a command on a terminal of its own (`script` of Debian's bsdutils), and answers its question.
fn on_terminal(shop: &Shop, arguments: &str, answer: &str) -> Said {
    let line = format!("{} {arguments}", env!("CARGO_BIN_EXE_outboxd"));
    let mut command = std::process::Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).current_dir(shop.directory.path());
    command.env_remove("OUTBOXD_CONFIG").env_remove("OUTBOXD_LOG");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("script runs");
    child.stdin.take().unwrap().write_all(format!("{answer}\n").as_bytes()).unwrap();
    ended(child)
}

#[tokio::test]
async fn on_a_terminal_it_asks_and_does_what_it_is_told() {
    let shop = Shop::open().await;
    shop.send(2, None);
    shop.put("dead", "", "true");
    let said = on_terminal(&shop, "retry --sink crm", "n");
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains("retry 2 dead deliveries of sink crm? [y/N]"), "{said:?}");
    assert!(said.out.contains("nothing was changed"), "{said:?}");
    let dead = "SELECT count(*) FROM outbox.delivery WHERE state = 'dead'";
    assert_eq!(shop.psql(dead), "2");
    let said = on_terminal(&shop, "retry --sink crm", "y");
    assert!(said.out.contains("2 deliveries of sink crm to be tried again now"), "{said:?}");
    assert_eq!(shop.psql(dead), "0");
    // A payload is no command to the terminal.
    shop.ok(&["send", "order.x", "{\"note\": \"a\u{9b}31mb\"}"]);
    let said = on_terminal(&shop, "preview 3/crm", "");
    assert!(said.out.contains("a?31mb"), "{said:?}");
    assert!(shop.ok(&["preview", "3/crm"]).contains("a\u{9b}31mb"));
}

/// Nobody can answer where there is no terminal; a long wait would be a bug of ours.
#[tokio::test]
async fn without_a_terminal_nothing_waits_for_an_answer() {
    let shop = Shop::open().await;
    shop.send(1, None);
    shop.put("dead", "", "true");
    let child = command_in(shop.directory.path(), &["retry", "--sink", "crm"], &[])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let ended = tokio::time::timeout(
        Duration::from_secs(30),
        tokio::task::spawn_blocking(move || ended(child)),
    );
    assert_eq!(ended.await.unwrap().unwrap().code, 2);
}
