//! Alerts: what is in trouble is told, once, and never through the sink that is the trouble.

mod calendar;
mod silent;

use std::time::Duration;

use outboxd::relay::watch::look;
use outboxd::store::routes::sweep;
use outboxd::store::{Link, Target};
use serde_json::Value;
use tokio_postgres::Client;

use crate::harness::eventually;
use crate::harness::http::{Answer, HttpPeer};
use crate::harness::plane::{LONG, number, send, until_closed, until_count, until_routed};
use crate::harness::postgres::Database;
use crate::harness::relay::{Relay, config};
use crate::harness::smtp::SmtpPeer;

/// What a test waits where the relay waits a minute.
const NO_PAUSE: Duration = Duration::ZERO;
const MINUTE: Duration = Duration::from_secs(60);

/// A database with routes of its own and no relay: looks are taken by hand.
struct Plane {
    database: Database,
    client: Client,
    link: Link,
}

impl Plane {
    /// Alerts go to these sinks; `work` goes to `crm`.
    async fn routed(alert_sinks: &[&str]) -> Plane {
        let database = Database::migrated().await;
        let client = database.connect().await;
        let link = Link::new(Target::new(&config(&database.url(), "").database));
        for sink in alert_sinks.iter().chain(&["crm"]) {
            let sql = format!(
                "INSERT INTO outbox.sink (name, kind) VALUES ('{sink}', 'webhook') ON CONFLICT DO NOTHING"
            );
            client.batch_execute(&sql).await.unwrap();
        }
        for (pattern, sink) in
            alert_sinks.iter().map(|sink| ("outboxd.alert", *sink)).chain([("work", "crm")])
        {
            let sql = format!(
                "INSERT INTO outbox.route (pattern, sink, target, exact, prefix, specificity)
                 VALUES ('{pattern}', '{sink}', '', true, '{pattern}', 1000000)"
            );
            client.batch_execute(&sql).await.unwrap();
        }
        Plane { database, client, link }
    }

    async fn look(&self, pause: Duration) -> i32 {
        look(&self.link, "shop", pause, NO_PAUSE).await.expect("look")
    }

    async fn sql(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Commits a message whose deliveries die at once through these sinks.
    async fn dead(&self, message_type: &str, sinks: &[&str]) {
        for sink in sinks {
            let id = send(&self.client, message_type, "{}").await;
            self.sql(&format!(
                "DELETE FROM outbox.delivery WHERE message_id = {id};
                 INSERT INTO outbox.delivery (message_id, sink, due_at, state, reason)
                 VALUES ({id}, '{sink}', 'infinity', 'dead', 'HTTP 410 Gone')"
            ))
            .await;
        }
    }

    /// Gives up whatever waits for its first attempt.
    async fn give_up_pending(&self) {
        self.sql(
            "UPDATE outbox.delivery SET state = 'dead', reason = 'no', due_at = 'infinity', rev = rev + 1
              WHERE state = 'pending'",
        )
        .await;
    }

    /// Each alert written so far: its title, and what became of its deliveries.
    async fn told(&self) -> Vec<(String, String)> {
        let sql = "SELECT m.payload ->> 'title' AS title,
                          string_agg(h.sink || ' ' || h.state, ', ' ORDER BY h.sink) AS went
                     FROM outbox.message m JOIN outbox.history h ON h.message_id = m.id
                    WHERE m.type = 'outboxd.alert'
                    GROUP BY m.id ORDER BY m.id";
        let rows = self.client.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| (row.get("title"), row.get("went"))).collect()
    }

    /// What is in trouble: causes, subjects and counts.
    fn troubles(&self) -> String {
        self.database.psql(
            "SELECT coalesce(string_agg(concat_ws(' ', cause, nullif(subject, ''), count), ', '
                                        ORDER BY cause, subject), '')
               FROM outbox.alert WHERE NOT gone",
        )
    }
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|&(a, b)| (a.to_owned(), b.to_owned())).collect()
}

/// The whole way, as an operator meets it: a delivery dies, a mail says so within seconds; what dies
/// within the minute is told together after it; and that it is over is told too.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_delivery_is_told_by_mail_and_so_is_its_end() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let (crm, mail) = (HttpPeer::start().await, SmtpPeer::start().await);
    crm.always(Answer::status(410));
    let rest = format!(
        "[sinks.crm]\nkind = \"webhook\"\nurl = \"{}\"\n\
         [sinks.mail]\nkind = \"smtp\"\nurl = \"smtp://127.0.0.1:{}\"\nfrom = \"outboxd@example.com\"\n\
         [[routes]]\ntype = \"order.*\"\nsink = \"crm\"\n\
         [[routes]]\ntype = \"outboxd.alert\"\nsink = \"mail\"\nto = \"ops@example.com\"\n\
         subject = \"{{{{ payload.title }}}}\"\ntext = \"{{{{ payload.text }}}}\"\n",
        crm.url("/"),
        mail.address.port(),
    );
    let config = config(&database.url(), &rest);
    let link = Link::new(Target::new(&config.database));
    let relay = Relay::start(config);
    until_routed(&client).await;
    send(&client, "order.created", "{}").await;
    tokio::time::timeout(LONG, mail.until(|mail| mail.accepted() == 1)).await.expect("a mail");
    let text = |n: usize| String::from_utf8(mail.mails()[n].data.clone()).unwrap();
    for words in ["Subject: shop: crm: 1 dead", "1 delivery is dead", "outboxd retry --sink crm"] {
        assert!(text(0).contains(words), "{words}: {}", text(0));
    }

    // Two more within the minute: the relay sees them, and waits.
    send(&client, "order.created", "{}").await;
    send(&client, "order.created", "{}").await;
    let seen = "SELECT count FROM outbox.alert WHERE cause = 'dead'";
    until_count(&client, "the relay has seen all three", seen, 3).await;
    let messages = "SELECT count(*) FROM outbox.message WHERE type = 'outboxd.alert'";
    assert_eq!(number(&client, messages).await, 1);
    // The minute is over.
    assert_eq!(look(&link, "shop", NO_PAUSE, MINUTE).await.unwrap(), 1);
    tokio::time::timeout(LONG, mail.until(|mail| mail.accepted() == 2)).await.expect("a digest");
    assert!(text(1).contains("3 deliveries are dead"), "{}", text(1));
    assert_eq!(look(&link, "shop", NO_PAUSE, MINUTE).await.unwrap(), 0, "nothing new");

    crm.always(Answer::status(200));
    client
        .batch_execute(
            "UPDATE outbox.delivery SET state = 'pending', due_at = clock_timestamp(), attempt = 0,
                    rev = rev + 1 WHERE state = 'dead'",
        )
        .await
        .unwrap();
    until_closed(&client).await;
    assert_eq!(look(&link, "shop", NO_PAUSE, MINUTE).await.unwrap(), 1);
    tokio::time::timeout(LONG, mail.until(|mail| mail.accepted() == 3)).await.expect("an end");
    assert!(text(2).contains("Subject: shop: crm: none dead any more"), "{}", text(2));
    relay.stop().await;
}

/// A sink that cannot be reached is told through another, with two relays there; nothing of it waits in
/// the sink itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_is_away_is_told_through_another_and_once() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let (crm, chat) = (HttpPeer::start().await, HttpPeer::start().await);
    crm.always(Answer::status(503));
    let rest = format!(
        "[sinks.crm]\nkind = \"webhook\"\nurl = \"{}\"\n[sinks.chat]\nkind = \"webhook\"\nurl = \"{}\"\n\
         [[routes]]\ntype = \"order.*\"\nsink = \"crm\"\n\
         [[routes]]\ntype = \"outboxd.alert\"\nsink = [\"crm\", \"chat\"]\n",
        crm.url("/"),
        chat.url("/"),
    );
    let link = Link::new(Target::new(&config(&database.url(), &rest).database));
    let relays = [(); 2].map(|()| Relay::start(config(&database.url(), &rest)));
    until_routed(&client).await;
    for _ in 0..4 {
        send(&client, "order.created", "{}").await;
    }
    let told = "SELECT count(*) FROM outbox.alert WHERE cause = 'open' AND told_news IS NOT NULL";
    until_count(&client, "it is told", told, 1).await;
    tokio::time::timeout(LONG, chat.until(|chat| chat.requests() == 1)).await.expect("a message");
    let body = |n: usize| serde_json::from_slice::<Value>(&chat.received()[n].body).unwrap();
    assert_eq!(
        (&body(0)["cause"], &body(0)["subjects"][0]["subject"]),
        (&"open".into(), &"crm".into())
    );

    crm.always(Answer::status(200));
    until_closed(&client).await;
    let open = "SELECT count(*) FROM outbox.flow WHERE open_since IS NOT NULL";
    until_count(&client, "the breaker is closed", open, 0).await;
    assert_eq!(look(&link, "shop", NO_PAUSE, MINUTE).await.unwrap(), 1);
    tokio::time::timeout(LONG, chat.until(|chat| chat.requests() == 2)).await.expect("the end");
    assert_eq!(body(1)["recovered"], true);
    until_closed(&client).await;
    for relay in relays {
        relay.stop().await;
    }
    // That it is over goes through both; that it was away through the other alone.
    let through = "SELECT string_agg(sink || ' ' || outcome, ', ' ORDER BY l.message_id, sink)
                     FROM outbox.ledger l JOIN outbox.message m ON m.id = l.message_id
                    WHERE m.type = 'outboxd.alert'";
    assert_eq!(
        database.psql(through),
        "chat delivered, crm skipped, chat delivered, crm delivered"
    );
}

#[tokio::test]
async fn an_alert_never_goes_through_the_sink_it_speaks_of() {
    let plane = Plane::routed(&["a", "b"]).await;
    plane.dead("work", &["a", "crm"]).await;
    assert_eq!(plane.look(NO_PAUSE).await, 1);
    assert_eq!(
        plane.told().await,
        pairs(&[("shop: a: 1 dead, crm: 1 dead", "a skipped, b pending")]),
        "through the one that is well"
    );
    let receipt = "SELECT receipt FROM outbox.ledger";
    let receipt: String = plane.client.query_one(receipt, &[]).await.unwrap().get(0);
    assert_eq!(receipt, "an alert does not go through the sink it speaks of");

    // Now all of them are in trouble: each is told of the other, and of the third.
    let plane = Plane::routed(&["a", "b"]).await;
    plane.dead("work", &["a", "b"]).await;
    assert_eq!(plane.look(NO_PAUSE).await, 2);
    assert_eq!(
        plane.told().await,
        pairs(&[
            ("shop: b: 1 dead", "a pending, b skipped"),
            ("shop: a: 1 dead", "a skipped, b pending")
        ])
    );
}

#[tokio::test]
async fn what_nobody_can_be_told_is_noted_and_piles_up_nowhere() {
    for sinks in [&[][..], &["crm"]] {
        let plane = Plane::routed(sinks).await;
        plane.dead("work", &["crm"]).await;
        for _ in 0..3 {
            assert_eq!(plane.look(NO_PAUSE).await, 0);
        }
        assert_eq!(plane.troubles(), "dead crm 1");
        assert_eq!(number(&plane.client, "SELECT count(*) FROM outbox.message").await, 1);
        // As soon as somebody can be told, they are.
        plane
            .sql(
                "INSERT INTO outbox.route (pattern, sink, target, exact, prefix, specificity)
                 VALUES ('outboxd.alert', 'mail', '', true, 'outboxd.alert', 1000000)",
            )
            .await;
        assert_eq!(plane.look(NO_PAUSE).await, 1);
    }
}

/// Two sinks that refuse alerts must not tell of each other for ever.
#[tokio::test]
async fn alerts_that_die_raise_no_endless_chain() {
    let plane = Plane::routed(&["a", "b"]).await;
    plane.dead("work", &["a"]).await;
    let mut messages = 0;
    for _ in 0..8 {
        messages += plane.look(NO_PAUSE).await;
        plane.give_up_pending().await;
    }
    // Of a through b; then b, whose alert died, through a; nothing of a's dead alert.
    assert_eq!(messages, 2, "{:?}", plane.told().await);
    assert_eq!(plane.troubles(), "dead a 2, dead b 1");
    // What is not an alert is news as before.
    plane.dead("work", &["a"]).await;
    assert_eq!(plane.look(NO_PAUSE).await, 1);
}

/// Every relay looks; of those that see the same one tells, even where no pause keeps them apart.
#[tokio::test(flavor = "multi_thread")]
async fn two_relays_tell_once() {
    let plane = Plane::routed(&["mail"]).await;
    let other = Link::new(Target::new(&config(&plane.database.url(), "").database));
    let (mut messages, rounds) = (0, 20);
    for _ in 0..rounds {
        plane.dead("work", &["crm"]).await;
        let look = |link| look(link, "shop", NO_PAUSE, NO_PAUSE);
        let (one, two) = tokio::join!(look(&plane.link), look(&other));
        messages += one.unwrap() + two.unwrap();
    }
    assert_eq!(messages, rounds);
    assert_eq!(plane.told().await.len(), 20);
    // And within the pause nobody tells.
    plane.dead("work", &["crm"]).await;
    assert_eq!(plane.look(MINUTE).await, 0);
    assert_eq!(plane.look(NO_PAUSE).await, 1);
}

/// A trouble that went before it was told is not told; one that came back is.
#[tokio::test]
async fn troubles_that_come_and_go() {
    let plane = Plane::routed(&["mail"]).await;
    let open =
        "INSERT INTO outbox.flow (sink, open_since, open_reason) VALUES ('crm', now(), 'refused')
                ON CONFLICT ON CONSTRAINT flow_pk DO UPDATE SET open_since = now()";
    let shut = "UPDATE outbox.flow SET open_since = NULL";
    plane.sql(open).await;
    assert_eq!(plane.look(NO_PAUSE).await, 1);
    plane.sql(shut).await;
    assert_eq!(plane.look(MINUTE).await, 0, "the end waits for its minute");
    plane.sql(open).await;
    assert_eq!(plane.look(NO_PAUSE).await, 1, "again");
    plane.sql(shut).await;
    assert_eq!(plane.look(NO_PAUSE).await, 1, "over");
    plane.sql(open).await;
    assert_eq!(plane.look(MINUTE).await, 0);
    plane.sql(shut).await;
    assert_eq!(plane.look(NO_PAUSE).await, 0, "nobody knew of it");
    let titles: Vec<String> = plane.told().await.into_iter().map(|(title, _)| title).collect();
    assert_eq!(
        titles,
        [
            "shop: crm cannot be reached",
            "shop: crm cannot be reached",
            "shop: crm can be reached again"
        ]
    );
}

#[tokio::test]
async fn every_cause_is_seen_and_its_end_too() {
    let plane = Plane::routed(&["mail"]).await;
    plane
        .sql(
            "INSERT INTO outbox.relay (id, lease, host, pid, version, routes_hash, sinks)
             VALUES ('r', '1 h', 'web-1', 7, '0', 'h', '{mail}');
             INSERT INTO outbox.flow (sink, open_since, open_reason, horizon)
             VALUES ('crm', now(), 'connection refused', '3 days');
             INSERT INTO outbox.message (type, payload) VALUES ('work', '{}'), ('work', '{}'), ('work', '{}'),
                                                               ('nobody.takes', '{}'), ('nobody.takes', '{}');
             UPDATE outbox.message SET created_at = now() - interval '3 days 1 minute' WHERE id = 2;
             UPDATE outbox.message SET created_at = now() - interval '9 days', due_at = now() - interval '1 h'
              WHERE id = 3;
             UPDATE outbox.delivery SET state = 'held', reason = 'in doubt', due_at = 'infinity', rev = 1
              WHERE message_id = 1;
             SET session_replication_role = replica;
             INSERT INTO outbox.message (type, payload) VALUES ('work', '{}');
             SET session_replication_role = DEFAULT",
        )
        .await;
    let (reached, found) = sweep(&plane.link, 0, 5_000).await.unwrap();
    assert_eq!((reached, found), (Some(5_000), 1));
    // What is late because its sink cannot be reached is told as that.
    assert_eq!(plane.look(NO_PAUSE).await, 5);
    assert_eq!(
        plane.troubles(),
        "held crm 1, open crm 1, orphaned crm 1, unrouted nobody.takes 2, unseen 1"
    );
    plane.sql("UPDATE outbox.flow SET open_since = NULL").await;
    assert_eq!(plane.look(NO_PAUSE).await, 2);
    assert_eq!(
        plane.troubles(),
        "held crm 1, late crm 1, orphaned crm 1, unrouted nobody.takes 2, unseen 1"
    );
    let payload = "SELECT payload::text FROM outbox.message WHERE payload ->> 'cause' = 'late'";
    let payload: String = plane.client.query_one(payload, &[]).await.unwrap().get(0);
    let payload: Value = serde_json::from_str(&payload).unwrap();
    assert_eq!(payload["subjects"][0]["example"], "2/crm");

    plane
        .sql(
            "UPDATE outbox.relay SET sinks = '{mail,crm}';
             DELETE FROM outbox.delivery WHERE sink IN ('crm', '');
             INSERT INTO outbox.ledger (message_id, sink, target, round, attempts, outcome)
             SELECT id, 'crm', '', 1, 1, 'delivered' FROM outbox.message WHERE type <> 'outboxd.alert'",
        )
        .await;
    assert_eq!(sweep(&plane.link, 0, 5_000).await.unwrap(), (Some(5_000), 0));
    assert_eq!(plane.look(NO_PAUSE).await, 5);
    assert_eq!(plane.troubles(), "");
    assert_eq!(number(&plane.client, "SELECT count(*) FROM outbox.late").await, 0);
    assert_eq!(number(&plane.client, "SELECT count(*) FROM outbox.unseen").await, 0);
}

/// A key's head that is dead is told; its followers are late because of that, and are not told as well.
#[tokio::test]
async fn what_waits_behind_a_dead_head_is_not_told_as_late() {
    let plane = Plane::routed(&["mail"]).await;
    plane
        .sql(
            "INSERT INTO outbox.flow (sink, horizon) VALUES ('crm', '1 h');
             INSERT INTO outbox.message (type, payload, key) VALUES ('work', '{}', 'ann'), ('work', '{}', 'ann'),
                                                                    ('work', '{}', 'bob');
             UPDATE outbox.message SET created_at = now() - interval '2 h';
             UPDATE outbox.delivery SET state = 'dead', reason = 'no', due_at = 'infinity', rev = 1
              WHERE message_id = 1",
        )
        .await;
    sweep(&plane.link, 0, 900).await.unwrap();
    assert_eq!(plane.look(NO_PAUSE).await, 2);
    assert_eq!(plane.troubles(), "dead crm 1, late crm 1");
    let example = "SELECT example FROM outbox.alert WHERE cause = 'late'";
    assert_eq!(plane.database.psql(example), "3/crm");
}

/// A flood past its horizon is counted, not copied.
#[tokio::test]
async fn late_deliveries_are_noted_up_to_a_limit() {
    let plane = Plane::routed(&["mail"]).await;
    plane
        .sql(
            "INSERT INTO outbox.flow (sink, horizon) VALUES ('crm', '1 h');
             INSERT INTO outbox.message (type, payload) SELECT 'work', '{}' FROM generate_series(1, 2500);
             UPDATE outbox.message SET created_at = now() - interval '2 h'",
        )
        .await;
    for after in [0, 900, 0] {
        sweep(&plane.link, after, 900).await.unwrap();
    }
    assert_eq!(number(&plane.client, "SELECT count(*) FROM outbox.late").await, 1_001);
    assert_eq!(plane.look(NO_PAUSE).await, 1);
    assert_eq!(plane.troubles(), "late crm 1001");
    // With a longer horizon they are not late.
    plane.sql("UPDATE outbox.flow SET horizon = '3 h'").await;
    assert_eq!(plane.look(NO_PAUSE).await, 1);
    assert_eq!(plane.troubles(), "");
}

/// While all is paused nothing would carry a message, and a restored copy must not draw ids.
#[tokio::test]
async fn a_paused_installation_is_noted_and_writes_no_message() {
    let plane = Plane::routed(&["mail"]).await;
    plane.dead("work", &["crm"]).await;
    plane.sql("UPDATE outbox.installation SET paused = true, paused_for = 'restored'").await;
    assert_eq!(plane.look(NO_PAUSE).await, 0);
    assert_eq!(plane.troubles(), "dead crm 1, paused 1");
    plane.sql("UPDATE outbox.installation SET paused = false").await;
    assert_eq!(plane.look(NO_PAUSE).await, 1);
    assert_eq!(plane.told().await, pairs(&[("shop: crm: 1 dead", "mail pending")]));
}

/// What a relay's role is granted is enough to look, to tell and to sweep.
#[tokio::test]
async fn the_relays_role_may_look_and_tell() {
    let plane = Plane::routed(&["mail", "crm"]).await;
    let role = format!("watches_{}", plane.database.name());
    plane.sql(&format!("CREATE ROLE {role} LOGIN IN ROLE outbox_relay")).await;
    let url = plane.database.url().replace("user=postgres", &format!("user={role}"));
    let link = Link::new(Target::new(&config(&url, "").database));
    plane.dead("work", &["crm"]).await;
    sweep(&link, 0, 5_000).await.unwrap();
    assert_eq!(look(&link, "shop", NO_PAUSE, NO_PAUSE).await.unwrap(), 1);
    assert_eq!(plane.told().await, pairs(&[("shop: crm: 1 dead", "crm skipped, mail pending")]));
    let _ = outboxd::store::prune::forget(&link, MINUTE).await.unwrap();
    let _ = outboxd::store::prune::forget_calendar(&link, MINUTE).await.unwrap();
    let none = outboxd::store::prune::forget_dedupe(&link, &Default::default(), 10).await;
    assert_eq!(none.unwrap(), None);
    assert_eq!(outboxd::store::prune::drop_ledger(&link, MINUTE).await.unwrap(), None);
    assert!(outboxd::store::inspect::wanting_rights(&link).await.unwrap().is_empty());
    drop(link);
    plane.sql(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'; DROP ROLE {role}")).await;
}

/// What may pass by itself is told once it has lasted: a relay that restarts may bring the route.
#[tokio::test]
async fn a_type_without_a_route_is_told_once_it_has_waited() {
    let plane = Plane::routed(&["mail"]).await;
    send(&plane.client, "nobody.takes", "{}").await;
    assert_eq!(look(&plane.link, "shop", NO_PAUSE, MINUTE).await.unwrap(), 0);
    plane.sql("UPDATE outbox.alert SET since = since - interval '61 s'").await;
    assert_eq!(look(&plane.link, "shop", NO_PAUSE, MINUTE).await.unwrap(), 1);
}

/// A look costs the same with hundreds of thousands of dead deliveries as with a thousand.
/// `OUTBOXD_TEST_ROWS=3000000` measures.
#[tokio::test]
async fn a_look_stops_counting() {
    let rows: u64 =
        std::env::var("OUTBOXD_TEST_ROWS").ok().and_then(|n| n.parse().ok()).unwrap_or(50_000);
    let plane = Plane::routed(&["mail"]).await;
    plane
        .sql(&format!(
            "INSERT INTO outbox.delivery (message_id, sink, state, due_at, reason)
             SELECT n, 'crm', 'dead', 'infinity', 'no' FROM generate_series(1, {rows}) n"
        ))
        .await;
    assert_eq!(plane.look(NO_PAUSE).await, 1);
    assert_eq!(plane.troubles(), "dead crm 1001");
    let scans = "SELECT seq_scan, seq_tup_read, idx_tup_fetch FROM pg_stat_user_tables
                  WHERE schemaname = 'outbox' AND relname = 'delivery'";
    let read = async || {
        eventually("statistics arrive", LONG, async || {
            let row = plane.client.query_one(scans, &[]).await.map_err(|e| e.to_string())?;
            let fetched: i64 = row.get("idx_tup_fetch");
            if fetched == 0 {
                Err("none yet".to_owned())
            } else {
                Ok((row.get::<_, i64>("seq_tup_read"), fetched))
            }
        })
        .await
    };
    let begun = std::time::Instant::now();
    plane.look(NO_PAUSE).await;
    let took = begun.elapsed();
    drop(plane.link);
    let (in_order, by_index) = read().await;
    eprintln!("{rows} dead: a look took {took:?}, {by_index} rows by index in two");
    assert_eq!(in_order, 0);
    assert!(by_index <= 3_000, "{by_index}");
}
