//! Retention: what is closed and old enough goes, on the evidence of the ledger alone, and nobody waits
//! for it.

use std::time::{Duration, Instant};

use outboxd::config::Config;
use outboxd::store::prune::{drop_ledger, forget, forget_calendar, forget_dedupe, kinds, prune};
use outboxd::store::routes::sweep;
use outboxd::store::{Link, Target};
use tokio_postgres::Client;

use crate::harness::plane::{LONG, number, until_count};
use crate::harness::postgres::Database;
use crate::harness::relay::config;

const DAY: Duration = Duration::from_secs(24 * 3600);

struct Plane {
    database: Database,
    client: Client,
    link: Link,
    config: Config,
}

impl Plane {
    /// A database whose ledger reaches back so many days, everything routed to `crm`.
    async fn with_days(days: u32, retention: &str) -> Plane {
        let database = Database::migrated().await;
        let client = database.connect().await;
        let config = config(&database.url(), &format!("[retention]\n{retention}\n"));
        let link = Link::new(Target::new(&config.database));
        let plane = Plane { database, client, link, config };
        plane
            .sql(&format!(
                "INSERT INTO outbox.route (pattern, sink, target, exact, prefix, specificity)
                 VALUES ('*', 'crm', '', false, '', 99);
                 DO $$
                 DECLARE day date;
                 BEGIN
                   FOR n IN 1..{days} LOOP
                     day := (now() AT TIME ZONE 'UTC')::date - n;
                     EXECUTE format('CREATE TABLE outbox.%I PARTITION OF outbox.ledger FOR VALUES FROM (%L) TO (%L)',
                       'ledger_' || to_char(day, 'YYYYMMDD'), day || ' 00:00:00+00', day + 1 || ' 00:00:00+00');
                   END LOOP;
                 END $$"
            ))
            .await;
        plane
    }

    async fn sql(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// A message of a type, written and closed so many days ago.
    async fn closed(&self, message_type: &str, days: u32) -> i64 {
        let id = self.opened(message_type, days).await;
        self.sql(&format!(
            "WITH gone AS (DELETE FROM outbox.delivery WHERE message_id = {id} RETURNING *)
             INSERT INTO outbox.ledger (message_id, sink, target, round, attempts, outcome, closed_at)
             SELECT message_id, sink, target, 1, 1, 'delivered', now() - interval '{days} days' FROM gone"
        ))
        .await;
        id
    }

    /// The same, still open.
    async fn opened(&self, message_type: &str, days: u32) -> i64 {
        let sql = format!(
            "INSERT INTO outbox.message (type, payload) VALUES ('{message_type}', '{{}}') RETURNING id"
        );
        let id: i64 = self.client.query_one(&sql, &[]).await.unwrap().get(0);
        self.sql(&format!(
            "UPDATE outbox.message SET created_at = now() - interval '{days} days' WHERE id = {id}"
        ))
        .await;
        id
    }

    /// A whole round over all messages; how many went.
    async fn round(&self) -> i64 {
        let (mut after, mut total) = (0, 0);
        let retention = &self.config.retention;
        loop {
            let kinds = kinds(retention);
            let (reached, pruned) =
                prune(&self.link, after, 2_000, retention.default, &kinds).await.expect("prune");
            total += pruned;
            match reached {
                Some(reached) => after = reached,
                None => return total,
            }
        }
    }

    fn left(&self) -> String {
        self.database.psql(
            "SELECT coalesce(string_agg(id::text, ' ' ORDER BY id), 'nothing') FROM outbox.message",
        )
    }

    async fn drop_ledger(&self) -> Option<String> {
        drop_ledger(&self.link, self.config.retention.longest()).await.expect("drop")
    }

    async fn partitions(&self) -> i64 {
        let sql = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'outbox.ledger'::regclass";
        number(&self.client, sql).await
    }
}

#[tokio::test]
async fn a_message_goes_on_the_evidence_of_the_ledger_and_of_nothing_open() {
    let plane = Plane::with_days(9, "").await;
    let old = plane.closed("t", 8).await;
    let open = plane.opened("t", 8).await;
    let unseen = plane.opened("t", 8).await;
    plane.sql(&format!("DELETE FROM outbox.delivery WHERE message_id = {unseen}")).await;
    let half = plane.closed("t", 8).await;
    plane
        .sql(&format!(
            "INSERT INTO outbox.delivery (message_id, sink, state, due_at, reason)
             VALUES ({half}, 'mail', 'dead', 'infinity', 'no')"
        ))
        .await;
    let late = plane.closed("t", 8).await;
    plane
        .sql(&format!(
            "INSERT INTO outbox.ledger (message_id, sink, target, round, attempts, outcome)
             VALUES ({late}, 'mail', '', 1, 1, 'delivered')"
        ))
        .await;
    let young = plane.closed("t", 6).await;
    assert_eq!(plane.round().await, 1);
    assert_eq!(plane.left(), format!("{open} {unseen} {half} {late} {young}"));
    assert!(old < open, "the one that went is the old one");
    assert_eq!(plane.round().await, 0);
    // What was open is closed: now it may go.
    plane.sql("DELETE FROM outbox.delivery WHERE sink = 'mail'").await;
    assert_eq!(plane.round().await, 1);
    assert_eq!(plane.left(), format!("{open} {unseen} {late} {young}"));
}

#[tokio::test]
async fn what_a_file_holds_is_kept_until_the_file_is_published() {
    let plane = Plane::with_days(9, "").await;
    let id = plane.closed("t", 8).await;
    plane
        .sql(&format!(
            "INSERT INTO outbox.export (sink, period, state, due_before, closed_at)
             VALUES ('orders', 'p', 'closed', now(), now());
             UPDATE outbox.ledger SET outcome = 'exported', export_id = 1 WHERE message_id = {id}"
        ))
        .await;
    assert_eq!(plane.round().await, 0);
    // Its bytes may be on the disk of a relay that is gone: then it is written again.
    plane
        .sql("UPDATE outbox.export SET state = 'built', file = 'f', sha256 = 'x', bytes = 1")
        .await;
    assert_eq!(plane.round().await, 0);
    assert_eq!(plane.left(), id.to_string());
    plane.sql("UPDATE outbox.export SET state = 'published', published_at = now()").await;
    assert_eq!(plane.round().await, 1);
}

#[tokio::test]
async fn the_most_specific_type_says_how_long() {
    let types =
        "types = { \"order.*\" = \"30d\", \"order.noise\" = \"1d\", \"order.*.log\" = \"2d\" }";
    let plane = Plane::with_days(32, types).await;
    let mut kept = Vec::new();
    for (message_type, days, goes) in [
        ("order.created", 31, true),
        ("order.created", 29, false),
        ("order.x.log", 29, true),
        ("other", 8, true),
        ("other", 6, false),
        ("order.noise", 2, true),
        ("order.x.log", 1, false),
    ] {
        let id = plane.closed(message_type, days).await;
        if !goes {
            kept.push(id.to_string());
        }
    }
    assert_eq!(plane.round().await, 4);
    assert_eq!(plane.left(), kept.join(" "));
}

/// A replay makes a closed message open again. It locks its message, so that either the replay is seen
/// here or the message is gone there.
#[tokio::test]
async fn a_message_that_is_replayed_just_now_stays() {
    let plane = Plane::with_days(9, "").await;
    let id = plane.closed("t", 8).await;
    let mut other = plane.database.connect().await;
    let replay = other.transaction().await.unwrap();
    replay
        .batch_execute(&format!(
            "SELECT FROM outbox.message WHERE id = {id} FOR KEY SHARE;
             INSERT INTO outbox.delivery (message_id, sink, due_at, round) VALUES ({id}, 'crm', now(), 2)"
        ))
        .await
        .unwrap();
    assert_eq!(plane.round().await, 0);
    replay.commit().await.unwrap();
    assert_eq!(plane.round().await, 0);
    assert_eq!(plane.left(), id.to_string());
}

#[tokio::test]
async fn a_partition_goes_when_it_speaks_of_no_message_any_more() {
    let plane = Plane::with_days(10, "").await;
    let before = plane.partitions().await;
    plane.closed("t", 10).await;
    let kept = plane.closed("t", 9).await;
    plane
        .sql(&format!(
            "INSERT INTO outbox.delivery (message_id, sink, due_at) VALUES ({kept}, 'mail', now())"
        ))
        .await;
    plane.closed("t", 1).await;
    plane.round().await;
    // Days 10, 9 and 8 are past; day 9 speaks of a message that is left.
    let mut done = Vec::new();
    while let Some(one) = plane.drop_ledger().await {
        done.push(one.split(['_', ' ']).next().unwrap().to_owned());
    }
    assert_eq!(done, ["detached", "dropped", "detached", "dropped"]);
    assert_eq!(plane.partitions().await, before - 2);
    let speaks = format!("SELECT count(*) FROM outbox.ledger WHERE message_id = {kept}");
    assert_eq!(number(&plane.client, &speaks).await, 1);
    // Tables of others are left alone.
    plane.sql("CREATE TABLE outbox.ledger_20200101 ()").await;
    assert_eq!(plane.drop_ledger().await, None);
}

/// Whoever reads the ledger keeps its partition from going, and nobody waits behind that for long.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_being_read_is_left_for_later() {
    let plane = Plane::with_days(9, "").await;
    let before = plane.partitions().await;
    let mut other = plane.database.connect().await;
    let reader = other.transaction().await.unwrap();
    reader.query("SELECT count(*) FROM outbox.ledger", &[]).await.unwrap();
    let insert_client = plane.database.connect().await;
    let writes = tokio::spawn(async move {
        let mut longest = Duration::ZERO;
        let end = Instant::now() + Duration::from_secs(1);
        while Instant::now() < end {
            let begun = Instant::now();
            let insert =
                "INSERT INTO outbox.ledger (message_id, sink, target, round, attempts, outcome)
                          VALUES (1, 'crm', '', 1, 1, 'delivered')";
            insert_client.batch_execute(insert).await.unwrap();
            longest = longest.max(begun.elapsed());
        }
        longest
    });
    let begun = Instant::now();
    while !writes.is_finished() {
        let tried = Instant::now();
        assert_eq!(plane.drop_ledger().await, None);
        assert!(tried.elapsed() < Duration::from_secs(3), "gave up after {:?}", tried.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let longest = writes.await.unwrap();
    eprintln!("an insert into the ledger waited {longest:?} at most, in {:?}", begun.elapsed());
    assert!(longest < Duration::from_secs(3), "{longest:?}");
    assert_eq!(plane.partitions().await, before);
    reader.commit().await.unwrap();
    let done = plane.drop_ledger().await;
    assert!(done.as_deref().is_some_and(|done| done.starts_with("detached")), "{done:?}");
}

/// A month that nobody pruned: producers do not notice. `OUTBOXD_TEST_ROWS` makes it another size.
#[tokio::test(flavor = "multi_thread")]
async fn a_months_backlog_is_pruned_while_producers_insert() {
    let rows: i64 =
        std::env::var("OUTBOXD_TEST_ROWS").ok().and_then(|n| n.parse().ok()).unwrap_or(300_000);
    let plane = Plane::with_days(30, "").await;
    plane
        .sql(&format!(
            "ALTER TABLE outbox.message DISABLE TRIGGER route_inserted;
             INSERT INTO outbox.message (type, payload, created_at)
             SELECT 't', '{{}}', now() - interval '30 days' * (1 - n / {rows}.0)
               FROM generate_series(1, {rows}) n;
             ALTER TABLE outbox.message ENABLE TRIGGER route_inserted;
             INSERT INTO outbox.ledger (message_id, sink, target, round, attempts, outcome, closed_at)
             SELECT id, 'crm', '', 1, 1, 'delivered', created_at FROM outbox.message"
        ))
        .await;
    let before = plane.partitions().await;
    let producer = plane.database.connect().await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let inserts = tokio::spawn(async move {
        let (mut longest, mut count) = (Duration::ZERO, 0);
        while stopped.try_recv().is_err() {
            let begun = Instant::now();
            let insert = "INSERT INTO outbox.message (type, payload) VALUES ('t', '{}')";
            producer.batch_execute(insert).await.unwrap();
            longest = longest.max(begun.elapsed());
            count += 1;
        }
        (longest, count)
    });
    let begun = Instant::now();
    let pruned = plane.round().await;
    let took = begun.elapsed();
    while plane.drop_ledger().await.is_some() {}
    stop.send(()).unwrap();
    let (longest, count) = inserts.await.unwrap();
    eprintln!(
        "{pruned} messages pruned in {took:?}; of {count} inserts meanwhile the longest took {longest:?}"
    );
    assert!(pruned > rows * 22 / 30 && pruned < rows * 24 / 30, "{pruned}");
    // Twenty-three or twenty-two days are past as a whole.
    assert!((21..=23).contains(&(before - plane.partitions().await)), "{before}");
    assert!(longest < Duration::from_millis(500), "{longest:?}");
    // Some more have grown old enough meanwhile.
    assert!(plane.round().await < rows / 1_000);
    let kept = "SELECT count(*) FROM outbox.message m WHERE NOT EXISTS
                  (SELECT FROM outbox.ledger l WHERE l.message_id = m.id)
                 AND NOT EXISTS (SELECT FROM outbox.delivery d WHERE d.message_id = m.id)";
    assert_eq!(number(&plane.client, kept).await, 0, "no message lost its evidence");
    // What is read is spans of ids through indexes: nothing from end to end.
    let scans = "SELECT coalesce(sum(seq_tup_read), 0)::bigint FROM pg_stat_user_tables
                  WHERE relname = 'message' OR relname = 'delivery'";
    let scanned = number(&plane.client, scans).await;
    plane.round().await;
    drop(plane.link);
    until_count(&plane.client, "no table is read from end to end", scans, scanned).await;
}

/// Between two messages that are kept there may be the ledger rows of any number that are gone.
#[tokio::test]
async fn a_step_reads_a_span_of_ids_and_not_what_lies_between_messages() {
    let plane = Plane::with_days(9, "").await;
    plane
        .sql(
            "INSERT INTO outbox.ledger (message_id, sink, target, round, attempts, outcome, closed_at)
             SELECT n, 'crm', '', 1, 1, 'delivered', now() - interval '8 days' FROM generate_series(1, 50000) n;
             ALTER TABLE outbox.message DISABLE TRIGGER route_inserted;
             INSERT INTO outbox.message (id, type, payload, created_at) OVERRIDING SYSTEM VALUE
             VALUES (1, 't', '{}', now() - interval '8 days'), (49999, 't', '{}', now() - interval '8 days');
             ANALYZE",
        )
        .await;
    let fetched =
        "SELECT coalesce(sum(idx_tup_fetch + seq_tup_read), 0)::bigint FROM pg_stat_user_tables
                    WHERE relname ~ '^ledger_'";
    let spent = number(&plane.client, fetched).await;
    let link = Link::new(Target::new(&plane.config.database));
    assert_eq!(sweep(&link, 0, 500).await.unwrap(), (Some(500), 0));
    assert_eq!(sweep(&link, 500, 500).await.unwrap(), (Some(50_498), 0));
    assert_eq!(sweep(&link, 50_498, 500).await.unwrap(), (None, 0));
    // A session's statistics are written when it ends.
    drop(link);
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()";
    until_count(&plane.client, "the session ended", sessions, 1).await;
    let read = number(&plane.client, fetched).await - spent;
    assert!(read < 2_000, "{read} ledger rows read");
    assert_eq!(plane.round().await, 2);
}

#[tokio::test]
async fn one_relay_prunes_at_a_time_and_the_rule_is_the_databases() {
    let plane = Plane::with_days(9, "").await;
    plane.closed("t", 8).await;
    let mut other = plane.database.connect().await;
    let busy = other.transaction().await.unwrap();
    busy.batch_execute("SELECT outbox.prune(0, 1, interval '9 days', '[]')").await.unwrap();
    assert_eq!(plane.round().await, 0);
    assert_eq!(plane.drop_ledger().await, None);
    busy.commit().await.unwrap();

    let role = format!("prunes_{}", plane.database.name());
    plane.sql(&format!("CREATE ROLE {role} IN ROLE outbox_relay; SET ROLE {role}")).await;
    let refused = plane.client.batch_execute("DELETE FROM outbox.message").await.unwrap_err();
    assert_eq!(refused.code().map(tokio_postgres::error::SqlState::code), Some("42501"));
    plane.sql("SELECT outbox.prune(0, 10, interval '7 days', '[]'); RESET ROLE").await;
    assert_eq!(plane.left(), "nothing");
    plane.sql(&format!("DROP ROLE {role}")).await;
}

#[tokio::test]
async fn records_that_are_of_no_more_use_are_forgotten() {
    let plane = Plane::with_days(1, "").await;
    plane
        .sql(
            "INSERT INTO outbox.message (type, payload, dedupe_key)
             SELECT 't', '{}', 'key ' || n FROM generate_series(1, 25) n;
             UPDATE outbox.dedupe SET expires_at = now() - interval '1 s' WHERE message_id % 5 <> 0;
             INSERT INTO outbox.action (acted_at, actor, verb)
             VALUES (now() - interval '91 days', 'ann', 'retry'), (now() - interval '89 days', 'ann', 'retry');
             INSERT INTO outbox.route_set (hash, applied_by) SELECT n, 'r' FROM generate_series(1, 1005) n;
             INSERT INTO outbox.spent (sink, span, bucket, used)
             VALUES ('mail', 'day', now() - interval '4 days', 1), ('mail', 'day', now(), 1)",
        )
        .await;
    assert_eq!(forget(&plane.link, 90 * DAY).await.unwrap(), 7);
    let mut after = (String::new(), String::new());
    let mut steps = 0;
    while let Some(reached) = forget_dedupe(&plane.link, &after, 10).await.unwrap() {
        after = reached;
        steps += 1;
    }
    assert_eq!(steps, 3);
    for (table, left) in [("action", 1), ("route_set", 1_000), ("spent", 1), ("dedupe", 5)] {
        let sql = format!("SELECT count(*) FROM outbox.{table}");
        assert_eq!(number(&plane.client, &sql).await, left, "{table}");
    }
    let last = "SELECT hash::bigint FROM outbox.route_set ORDER BY generation DESC LIMIT 1";
    assert_eq!(number(&plane.client, last).await, 1_005);
}

/// Old runs, files and mails go; what the calendar goes on from, what the ledger speaks of and what is
/// not done stay.
#[tokio::test]
async fn what_the_calendar_did_long_ago_is_forgotten() {
    const KEPT: Duration = Duration::from_secs(400 * 24 * 3600);
    let plane = Plane::with_days(1, "").await;
    plane
        .sql(
            "INSERT INTO outbox.sink (name, kind) VALUES ('orders', 'csv'), ('ledger', 'export'), ('count', 'csv');
             INSERT INTO outbox.calendar (kind, name, rule)
             VALUES ('schedule', 'gone', ''), ('schedule', 'daily', ''), ('schedule', 'caught-up', '');
             -- Days ago: 402 is past; of `gone` the last run is.
             INSERT INTO outbox.occurrence (schedule, period, state, due_at, ran_at, actor)
             SELECT v.schedule, v.due::text, 'ran', now() - v.due * interval '1 day',
                    now() - v.ran * interval '1 day', 'r'
               FROM (VALUES ('gone', 403, 403), ('gone', 402, 402), ('daily', 402, 402), ('daily', 398, 398),
                            ('caught-up', 402, 3), ('caught-up', 2, 2)) v (schedule, due, ran);
             INSERT INTO outbox.mailing (sink, period, actor, epoch)
             SELECT v.sink, v.period, 'r', 1 FROM (VALUES ('orders', 'sent'), ('count', 'open')) v (sink, period);
             UPDATE outbox.mailing SET state = 'built', hash = 'h';
             UPDATE outbox.mailing SET state = 'sent', changed_at = now() - interval '402 days'
              WHERE period = 'sent';
             INSERT INTO outbox.export (sink, period, state, due_before, opened_at, closed_at, rows_max, mailing)
             SELECT v.sink, v.period, 'empty', now() - v.days * interval '1 day',
                    now() - v.days * interval '1 day', now(), v.rows_max, m.id
               FROM (VALUES ('orders', 'past', 403, NULL), ('orders', 'ledger', 402, NULL),
                            ('orders', 'sent', 402, NULL), ('orders', 'young', 398, NULL),
                            ('orders', 'today', 0, NULL),
                            ('ledger', 'past', 403, NULL), ('ledger', 'last', 402, NULL),
                            ('count', 'past', 404, NULL), ('count', 'last-by-time', 403, NULL),
                            ('count', 'open', 402, 10), ('count', 'by-count', 402, 10), ('count', 'last', 401, 10))
                    v (sink, period, days, rows_max)
               LEFT JOIN outbox.mailing m ON m.sink = v.sink AND m.period = v.period;
             INSERT INTO outbox.ledger (message_id, sink, target, round, attempts, outcome, export_id)
             SELECT 1, 'orders', '', 1, 1, 'exported', e.id FROM outbox.export e WHERE e.period = 'ledger'",
        )
        .await;
    // Two runs, the three files `past`, `sent` with its mail, and `by-count` make eight.
    let runs = "SELECT string_agg(schedule || ' ' || period, ', ' ORDER BY schedule, period)
                  FROM outbox.occurrence";
    let files =
        "SELECT string_agg(sink || ' ' || period, ', ' ORDER BY sink, period) FROM outbox.export";
    let mails = "SELECT string_agg(m.period || ' ' || s.step, ', ' ORDER BY s.step)
                   FROM outbox.mailing m FULL JOIN outbox.mailing_step s ON s.mailing = m.id";
    // Of the long kept none is old enough.
    assert_eq!(forget_calendar(&plane.link, KEPT * 2).await.unwrap(), 0);
    assert_eq!(forget_calendar(&plane.link, KEPT).await.unwrap(), 8);
    assert_eq!(plane.database.psql(runs), "caught-up 2, caught-up 402, daily 398, gone 402");
    assert_eq!(
        plane.database.psql(files),
        "count last, count last-by-time, count open, ledger last, orders ledger, orders today, orders young"
    );
    assert_eq!(plane.database.psql(mails), "open 1, open 2");
    assert_eq!(forget_calendar(&plane.link, KEPT).await.unwrap(), 0);
    // What held them is done.
    plane
        .sql(
            "DELETE FROM outbox.ledger;
             UPDATE outbox.mailing SET state = 'discarded', changed_at = now() - interval '401 days'",
        )
        .await;
    assert_eq!(forget_calendar(&plane.link, KEPT).await.unwrap(), 3);
    assert_eq!(number(&plane.client, "SELECT count(*) FROM outbox.mailing_step").await, 0);
}

/// The relay does it by itself, by its config.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_prunes_by_its_config() {
    let plane = Plane::with_days(9, "").await;
    plane.closed("newsletter.sent", 2).await;
    let kept = plane.closed("t", 2).await;
    plane.closed("t", 8).await;
    let before = plane.partitions().await;
    let rest = "[retention]\ntypes = { \"newsletter.*\" = \"1d\" }\n";
    let relay = crate::harness::relay::Relay::start(config(&plane.database.url(), rest));
    let messages = "SELECT count(*) FROM outbox.message";
    until_count(&plane.client, "the old ones go", messages, 1).await;
    assert_eq!(plane.left(), kept.to_string());
    let parts = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'outbox.ledger'::regclass";
    tokio::time::timeout(LONG, until_count(&plane.client, "days 9 and 8 go", parts, before - 2))
        .await
        .unwrap();
    relay.stop().await;
}
