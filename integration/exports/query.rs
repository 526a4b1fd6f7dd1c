//! Files from a query: what is in them, what is not, and what an operator is told.

use std::path::Path;

use tokio_postgres::Client;

use super::{files, text_of};
use crate::harness::eventually;
use crate::harness::plane::{LONG, number, until_count};
use crate::harness::postgres::Database;
use crate::harness::relay::{Process, Relay, config, toml};

/// A table of orders with one row a minute between two instants.
const ORDERS: &str =
    "CREATE TABLE orders (id integer PRIMARY KEY, ordered_at timestamptz NOT NULL)";
const LEDGER: &str = "SELECT id, ordered_at FROM orders
                       WHERE ordered_at >= $1 AND ordered_at < $2 ORDER BY id";

/// An export that is cut at a time of day in a zone.
pub(super) fn ledger(folder: &Path, query: &str, at: &str, zone: &str, more: &str) -> String {
    format!(
        "[exports.ledger]\npath = \"{}/ledger-{{{{ period }}}}.csv\"\n\
         query = '''\n{query}'''\n\
         every = {{ at = \"{at}\", time_zone = \"{zone}\" }}\n{more}\n",
        folder.display()
    )
}

/// Enters the export's rule as if a relay had seen it first then: with that the calendar begins.
pub(super) async fn since(client: &Client, instant: &str) {
    let sql = format!(
        "INSERT INTO outbox.calendar (kind, name, rule, since) \
         VALUES ('cut', 'ledger', 'as it was', {instant})"
    );
    client.batch_execute(&sql).await.unwrap();
}

/// The time of day that is farthest from now, so that no cut comes while a test runs.
pub(super) async fn far(client: &Client) -> String {
    let sql = "SELECT to_char((now() AT TIME ZONE 'UTC') + interval '12 hours', 'HH24:MI')";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// A database with an export of which exactly one cut is due: the one of twelve hours ago.
pub(super) async fn one_due(folder: &Path, query: &str, more: &str) -> (Database, Client, String) {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let text = ledger(folder, query, &far(&client).await, "UTC", more);
    since(&client, "now() - interval '14 hours'").await;
    (database, client, text)
}

pub(super) async fn until_state(client: &Client, state: &str) {
    let sql = format!("SELECT count(*) FROM outbox.export WHERE state = '{state}'");
    until_count(client, &format!("it is {state}"), &sql, 1).await;
}

pub(super) async fn until_reason(client: &Client, part: &str) -> String {
    eventually("the reason stands on the export", LONG, async || {
        let sql = "SELECT coalesce(max(reason), 'none') FROM outbox.export";
        let reason: String = client.query_one(sql, &[]).await.unwrap().get(0);
        if reason.contains(part) { Ok(reason) } else { Err(reason) }
    })
    .await
}

/// Days of 23, 24 and 25 hours, each row in one file.
#[tokio::test(flavor = "multi_thread")]
async fn the_days_on_which_clocks_change_are_whole_and_meet() {
    for (eve, days) in [
        ("2025-03-29", [("2025-03-29", 1440), ("2025-03-30", 1380), ("2025-03-31", 1440)]),
        ("2025-10-25", [("2025-10-25", 1440), ("2025-10-26", 1500), ("2025-10-27", 1440)]),
    ] {
        let database = Database::migrated().await;
        let client = database.connect().await;
        let folder = tempfile::tempdir().unwrap();
        client
            .batch_execute(&format!(
                "{ORDERS};
                 INSERT INTO orders SELECT row_number() OVER (ORDER BY m), m
                   FROM generate_series('{eve} 00:00 Europe/Vienna'::timestamptz - interval '1 day',
                          '{eve} 00:00 Europe/Vienna'::timestamptz + interval '5 days', '1 min') m"
            ))
            .await
            .unwrap();
        since(&client, &format!("'{eve} 12:00 Europe/Vienna'")).await;
        let text = ledger(folder.path(), LEDGER, "00:00", "Europe/Vienna", "");
        let relay = Relay::start(config(&database.url(), &text));
        let last = days[2].0;
        let sql = format!(
            "SELECT count(*) FROM outbox.export WHERE period = '{last}' AND state = 'published'"
        );
        until_count(&client, "the day after is published", &sql, 1).await;
        relay.stop().await;
        let mut ids = Vec::new();
        for (day, rows) in days {
            let sql = format!("SELECT row_count FROM outbox.export WHERE period = '{day}'");
            assert_eq!(number(&client, &sql).await, rows, "{day}");
            let path = folder.path().join(format!("ledger-{day}.csv"));
            let of_day: Vec<i64> = csv::Reader::from_path(path)
                .unwrap()
                .records()
                .map(|row| row.unwrap()[0].parse().unwrap())
                .collect();
            assert_eq!(i64::try_from(of_day.len()).unwrap(), rows, "{day}");
            ids.extend(of_day);
        }
        // The day before has 1,440 rows, which are in no file.
        let whole = 1_440 + days.iter().map(|(_, rows)| rows).sum::<i64>();
        assert_eq!(ids, (1_441..=whole).collect::<Vec<i64>>());
    }
}

/// Every type, as PostgreSQL has it, whatever the database has set for it.
#[tokio::test(flavor = "multi_thread")]
async fn values_are_exact_whatever_the_database_has_set() {
    let folder = tempfile::tempdir().unwrap();
    let query = "SELECT true AS yes, 12345678901234567890.10 AS n, 0.1::float8 + 0.2 AS f,
                        1e300::float8 AS big, 1e-7::float4 AS small, date '2026-11-20' AS d,
                        timestamptz '2026-11-20 10:15:30.25+01' AS tz, timestamp '2026-11-20 10:15:30' AS t,
                        '{\"b\": 1.10}'::json AS j, array[1, NULL, 3] AS a, row(1, 'x') AS r,
                        interval '-1 day 2 hours' AS i, '\\x00ff'::bytea AS bytes, '-5'::text AS minus,
                        NULL::integer AS nothing, '' AS \"the \"\"empty\"\"\" -- a comment ends it";
    let (database, client, text) = one_due(folder.path(), query, "").await;
    client
        .batch_execute(&format!(
            "ALTER DATABASE {0} SET extra_float_digits = -5; ALTER DATABASE {0} SET timezone = 'Asia/Tokyo';
             ALTER DATABASE {0} SET datestyle = 'German'; ALTER DATABASE {0} SET bytea_output = 'escape'",
            database.name()
        ))
        .await
        .unwrap();
    let relay = Relay::start(config(&database.url(), &text));
    until_state(&client, "published").await;
    relay.stop().await;
    let path = folder.path().join(files(folder.path()).remove(0));
    let mut reader = csv::Reader::from_path(&path).unwrap();
    let row = reader.records().next().unwrap().unwrap();
    let values: Vec<&str> = row.iter().collect();
    let big = format!("1{}", "0".repeat(300));
    assert_eq!(
        values,
        [
            "true",
            "12345678901234567890.10",
            "0.30000000000000004",
            &big,
            "0.0000001",
            "2026-11-20",
            "2026-11-20T09:15:30.25Z",
            "2026-11-20T10:15:30",
            "{\"b\": 1.10}",
            "[1,null,3]",
            "{\"f1\":1,\"f2\":\"x\"}",
            "P-1DT2H",
            "\\x00ff",
            "'-5",
            "",
            ""
        ]
    );
    assert!(text_of(&path).ends_with(",,\"\"\r\n"), "NULL and the empty text are told apart");
    assert!(text_of(&path).starts_with("yes,n,f,big,"), "headers are the query's own");
}

/// A row that its column cannot hold: by number and column, without the value; and then mended.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_does_not_fit_keeps_the_file_back_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let query = "SELECT id, total FROM orders ORDER BY id";
    let (database, client, text) = one_due(folder.path(), query, "").await;
    client
        .batch_execute(
            "CREATE TABLE orders (id integer, total numeric);
             INSERT INTO orders VALUES (1, 1.5), (2, 2), (3, 'NaN')",
        )
        .await
        .unwrap();
    let relay = Relay::start(config(&database.url(), &text));
    let reason = until_reason(&client, "row 3: column total: ").await;
    assert!(!reason.contains("NaN"), "{reason}");
    assert!(files(folder.path()).is_empty(), "{:?}", files(folder.path()));
    client.batch_execute("UPDATE orders SET total = 3 WHERE id = 3").await.unwrap();
    until_state(&client, "published").await;
    relay.stop().await;
    assert_eq!(files(folder.path()).len(), 1);
    let sql = "SELECT count(*) FROM outbox.export WHERE reason IS NULL AND row_count = 3";
    assert_eq!(number(&client, sql).await, 1);
}

/// What the server says of a query reaches the operator, with the line; what it says of a value does not.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_query_is_told_without_its_values() {
    for (query, more, told) in [
        ("SELECT id,\n  nix\nFROM orders", "", "line 2 of the query"),
        ("SELECT id, id FROM orders", "", "two columns named id"),
        (
            "SELECT id FROM orders",
            "columns = [{ name = \"sum\" }]",
            "the query has no column sum; it has id",
        ),
        ("SELECT note::integer AS n FROM orders", "", "after row 1: the query met a value"),
        ("SELECT 1 / (id - 2) AS n FROM orders", "", "after row 1: division by zero"),
        ("SELECT id, pg_sleep(60)::text AS s FROM orders", "timeout = \"1s\"", "raise its timeout"),
        ("SELECT nextval('numbers') AS n", "", "read-only"),
        ("SELECT id FROM nowhere", "", "search_path"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (database, client, text) = one_due(folder.path(), query, more).await;
        client
            .batch_execute(
                "CREATE TABLE orders (id integer, note text); CREATE SEQUENCE numbers;
                 INSERT INTO orders VALUES (1, '7'), (2, 'secret')",
            )
            .await
            .unwrap();
        let relay = Relay::start(config(&database.url(), &text));
        let reason = until_reason(&client, told).await;
        assert!(!reason.contains("secret"), "{reason}");
        relay.stop().await;
        assert!(files(folder.path()).is_empty(), "{:?}", files(folder.path()));
    }
}

/// A period without rows: no file, or one with a header.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_period_gives_a_header_or_nothing_as_the_config_says() {
    for (empty, state, count) in [("skip", "empty", 0), ("header", "published", 1)] {
        let folder = tempfile::tempdir().unwrap();
        let query = "SELECT 1 AS one WHERE false";
        let more = format!("empty = \"{empty}\"");
        let (database, client, text) = one_due(folder.path(), query, &more).await;
        let relay = Relay::start(config(&database.url(), &text));
        until_state(&client, state).await;
        relay.stop().await;
        let names = files(folder.path());
        assert_eq!(names.len(), count, "{names:?}");
        for name in names {
            assert_eq!(text_of(&folder.path().join(name)), "one\r\n");
        }
    }
}

/// A row that commits after its file was made: in no file, counted once by the next run, and the next
/// file is made though the counting fails.
#[tokio::test(flavor = "multi_thread")]
async fn late_rows_are_counted_by_the_next_run_and_stand_in_its_way_never() {
    // Whoever looks for a day that is over sees what the counting sees.
    let query = "SELECT id FROM orders WHERE ordered_at >= $1 AND ordered_at < $2
                    AND CASE WHEN $2 < now() - interval '30 hours' THEN 1 / divisor > 0 ELSE true END";
    for (divisor, late) in [(1, Some(2)), (0, None)] {
        let folder = tempfile::tempdir().unwrap();
        let (database, mut client, text) = one_due(folder.path(), query, "").await;
        let sql = "CREATE TABLE orders (id serial, ordered_at timestamptz, divisor integer);
                   INSERT INTO orders (ordered_at, divisor)
                   SELECT now() - interval '13 hours', 1 FROM generate_series(1, 3)";
        client.batch_execute(sql).await.unwrap();
        let relay = Relay::start(config(&database.url(), &text));
        until_state(&client, "published").await;
        relay.stop().await;
        let name = folder.path().join(files(folder.path()).remove(0));
        std::fs::rename(&name, name.with_extension("before")).unwrap();
        // A transaction that was open over the cut, and then a day goes by.
        let day = client.transaction().await.unwrap();
        day.batch_execute(&format!(
            "INSERT INTO orders (ordered_at, divisor)
             SELECT now() - interval '13 hours', {divisor} FROM generate_series(1, 2);
             UPDATE orders SET ordered_at = ordered_at - interval '1 day';
             INSERT INTO orders (ordered_at, divisor) VALUES (now() - interval '13 hours', 1);
             UPDATE outbox.export SET due_from = due_from - interval '1 day',
                    due_before = due_before - interval '1 day', period = 'the day before'"
        ))
        .await
        .unwrap();
        day.commit().await.unwrap();
        let relay = Relay::start(config(&database.url(), &text));
        until_count(
            &client,
            "the next file is there",
            "SELECT count(*) FROM outbox.export WHERE state = 'published'",
            2,
        )
        .await;
        relay.stop().await;
        let row = client
            .query_one(
                "SELECT max(late_rows) FILTER (WHERE period = 'the day before'),
                        max(row_count) FILTER (WHERE period = 'the day before'),
                        max(row_count) FILTER (WHERE period <> 'the day before'),
                        count(late_rows)
                   FROM outbox.export",
                &[],
            )
            .await
            .unwrap();
        assert_eq!(row.get::<_, Option<i64>>(0), late);
        assert_eq!((row.get::<_, i64>(1), row.get::<_, i64>(2)), (3, 1));
        assert_eq!(row.get::<_, i64>(3), i64::from(late.is_some()));
    }
}

/// A relay that ends at once leaves no query of its own running on the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_ends_at_once_leaves_no_query_behind() {
    let folder = tempfile::tempdir().unwrap();
    let query = "SELECT pg_sleep(600)::text AS s";
    let (database, client, text) = one_due(folder.path(), query, "timeout = \"1h\"").await;
    let relay = Relay::start(config(&database.url(), &text));
    let running = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND query LIKE '%pg_sleep(600)%'
                      AND state = 'active' AND pid <> pg_backend_pid()";
    until_count(&client, "the query runs", running, 1).await;
    relay.stop_now().await;
    until_count(&client, "the query has ended", running, 0).await;
    assert!(files(folder.path()).is_empty(), "{:?}", files(folder.path()));
}

/// A paused export makes no file and does not try, and goes on where it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_export_waits() {
    let folder = tempfile::tempdir().unwrap();
    let (database, client, text) = one_due(folder.path(), "SELECT 1 AS one", "").await;
    let paused = "INSERT INTO outbox.sink (name, kind, paused) VALUES ('ledger', 'export', true)";
    client.batch_execute(paused).await.unwrap();
    let relay = Process::start(&toml(&database.url(), "lease = \"2s\"", &text));
    let noted = "SELECT count(*) FROM outbox.calendar WHERE next_at IS NOT NULL";
    until_count(&client, "the cut was looked at", noted, 1).await;
    // It looks once a second, and is alive.
    let beats = "SELECT extract(epoch FROM max(heartbeat_at))::bigint FROM outbox.relay";
    let begun = number(&client, beats).await;
    eventually("it goes on", LONG, async || match number(&client, beats).await - begun {
        seconds if seconds >= 3 => Ok(()),
        seconds => Err(format!("{seconds} s")),
    })
    .await;
    assert!(!relay.log().contains("no file opened"), "{}", relay.log());
    assert_eq!(number(&client, "SELECT count(*) FROM outbox.export").await, 0);
    client.batch_execute("UPDATE outbox.sink SET paused = false").await.unwrap();
    until_state(&client, "published").await;
}

/// A csv sink that became an export: what still waited for its cut is in no file of the query, and not
/// recorded as if it were.
#[tokio::test(flavor = "multi_thread")]
async fn what_waited_for_a_csv_sink_is_not_taken_for_rows_of_a_query() {
    let folder = tempfile::tempdir().unwrap();
    let (database, client, text) = one_due(folder.path(), "SELECT 1 AS one", "").await;
    client
        .batch_execute(
            "INSERT INTO outbox.message (type, payload) VALUES ('order.created', '{}');
             UPDATE outbox.delivery SET sink = 'ledger', state = 'pending', rev = 1,
                    due_at = now() - interval '13 hours'",
        )
        .await
        .unwrap();
    let relay = Relay::start(config(&database.url(), &text));
    until_state(&client, "published").await;
    relay.stop().await;
    let waiting =
        "SELECT count(*) FROM outbox.delivery WHERE sink = 'ledger' AND state = 'pending'";
    assert_eq!(number(&client, waiting).await, 1);
    assert_eq!(number(&client, "SELECT count(*) FROM outbox.ledger").await, 0);
}
