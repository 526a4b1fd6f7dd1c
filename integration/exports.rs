//! CSV: deliveries gather, and at the cut they become one file, whatever crashes.

mod faults;
mod query;

use std::path::Path;

use outboxd::store::{Link, Target, export};

use crate::harness::eventually;
use crate::harness::plane::{LONG, number, until_closed, until_count, until_routed};
use crate::harness::postgres::Database;
use crate::harness::relay::{Relay, config};

fn orders(folder: &Path, cut: &str) -> String {
    format!(
        "[sinks.orders]\nkind = \"csv\"\npath = \"{}/orders-{{{{ period }}}}.csv\"\n{cut}\n\
         columns = [{{ name = \"id\", value = \"id\" }},\n\
         {{ name = \"total\", value = \"payload.total\", as = \"decimal\" }},\n\
         {{ name = \"note\", value = \"payload.note\" }}]\n\
         [[routes]]\ntype = \"*\"\nsink = \"orders\"\n",
        folder.display()
    )
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn text_of(path: &Path) -> String {
    String::from_utf8(std::fs::read(path).unwrap()).unwrap()
}

async fn until_published(client: &tokio_postgres::Client, count: i64) {
    let sql = "SELECT count(*) FROM outbox.export WHERE state = 'published'";
    until_count(client, "files are published", sql, count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_by_count_makes_files_that_hold_each_message_once() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(config(&database.url(), &orders(folder.path(), "max_rows = 1500")));
    until_routed(&client).await;
    client
        .batch_execute(
            "INSERT INTO outbox.message (type, payload)
             SELECT 'order.created', jsonb_build_object('total', (g || '.50')::numeric,
                      'note', CASE g % 3 WHEN 0 THEN '=1+1' WHEN 1 THEN 'say \"hi\", ok' END)
               FROM generate_series(1, 3000) g",
        )
        .await
        .unwrap();
    until_published(&client, 2).await;
    relay.stop().await;
    let names = files(folder.path());
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names[0].ends_with("-2.csv") && !names[1].ends_with("-2.csv"), "{names:?}");
    let mut ids = Vec::new();
    for name in &names {
        let mut reader = csv::Reader::from_path(folder.path().join(name)).unwrap();
        for row in reader.records() {
            let row = row.unwrap();
            let id: i64 = row[0].parse().unwrap();
            assert_eq!(&row[1], format!("{id}.50"), "digits are kept");
            let note = match id % 3 {
                0 => "'=1+1",
                1 => "say \"hi\", ok",
                _ => "",
            };
            assert_eq!(&row[2], note);
            ids.push(id);
        }
    }
    ids.sort_unstable();
    assert_eq!(ids, (1..=3000).collect::<Vec<i64>>());
    let exported = "SELECT count(*) FROM outbox.ledger WHERE outcome = 'exported'";
    assert_eq!(number(&client, exported).await, 3000);
    assert_eq!(number(&client, "SELECT sum(row_count)::bigint FROM outbox.export").await, 3000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_by_time_waits_for_the_period_to_end() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(config(&database.url(), &orders(folder.path(), "every = \"2s\"")));
    until_routed(&client).await;
    let insert =
        "INSERT INTO outbox.message (type, payload) VALUES ('order.created', '{\"total\": 1}')";
    client.batch_execute(insert).await.unwrap();
    until_closed(&client).await;
    until_published(&client, 1).await;
    client.batch_execute(insert).await.unwrap();
    until_published(&client, 2).await;
    relay.stop().await;
    let row = client
        .query_one(
            "SELECT bool_and(l.closed_at >= e.due_before), count(DISTINCT e.file) FROM outbox.export e
               JOIN outbox.ledger l ON l.export_id = e.id",
            &[],
        )
        .await
        .unwrap();
    assert!(row.get::<_, bool>(0), "no row left before its period was over");
    assert_eq!(row.get::<_, i64>(1), 2);
    assert_eq!(files(folder.path()).len(), 2);
}

/// A crash between the rename and its note in the database: the file stands, the row says closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_rename_and_commit_leaves_the_same_file_and_one_export() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let folder = tempfile::tempdir().unwrap();
    let text = orders(folder.path(), "max_rows = 10");
    let relay = Relay::start(config(&database.url(), &text));
    until_routed(&client).await;
    client
        .batch_execute(
            "INSERT INTO outbox.message (type, payload) SELECT 'order.created',
             jsonb_build_object('total', g) FROM generate_series(1, 10) g",
        )
        .await
        .unwrap();
    until_published(&client, 1).await;
    relay.stop().await;
    let name = files(folder.path()).remove(0);
    let before = std::fs::read(folder.path().join(&name)).unwrap();
    client
        .batch_execute(
            "UPDATE outbox.export SET state = 'closed', published_at = NULL, sha256 = NULL, bytes = NULL",
        )
        .await
        .unwrap();
    let relay = Relay::start(config(&database.url(), &text));
    until_published(&client, 1).await;
    relay.stop().await;
    assert_eq!(
        files(folder.path()),
        std::slice::from_ref(&name),
        "no second file, no temporary one"
    );
    assert_eq!(std::fs::read(folder.path().join(&name)).unwrap(), before);
    assert_eq!(number(&client, "SELECT count(*) FROM outbox.export").await, 1);
}

/// The folder is missing: nothing is lost, the reason is on the row, and the file comes later.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_written_waits_and_says_why() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let relay = Relay::start(config(&database.url(), &orders(&missing, "max_rows = 1")));
    until_routed(&client).await;
    client
        .batch_execute("INSERT INTO outbox.message (type, payload) VALUES ('t', '{\"total\": 1}')")
        .await
        .unwrap();
    eventually("the reason stands on the export", LONG, async || {
        let row = client
            .query_opt("SELECT reason FROM outbox.export WHERE reason IS NOT NULL", &[])
            .await
            .unwrap();
        row.map(|row| row.get::<_, String>(0)).ok_or_else(|| "no reason".to_owned())
    })
    .await;
    std::fs::create_dir(&missing).unwrap();
    until_published(&client, 1).await;
    relay.stop().await;
    assert_eq!(files(&missing).len(), 1);
}

/// A message of which no line can be made is dead with the reason; the others go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_does_not_fit_its_column_is_dead_and_keeps_nobody() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(config(&database.url(), &orders(folder.path(), "max_rows = 3")));
    until_routed(&client).await;
    client
        .batch_execute(
            "INSERT INTO outbox.message (type, payload) VALUES
             ('t', '{\"total\": 1}'), ('t', '{\"total\": \"many\"}'), ('t', '{\"total\": 3}')",
        )
        .await
        .unwrap();
    until_count(
        &client,
        "it is dead",
        "SELECT count(*) FROM outbox.delivery WHERE state = 'dead'",
        1,
    )
    .await;
    until_published(&client, 1).await;
    relay.stop().await;
    let reason: String =
        client.query_one("SELECT reason FROM outbox.delivery", &[]).await.unwrap().get(0);
    assert!(reason.contains("total"), "{reason}");
    assert!(!reason.contains("many"), "no value in the reason: {reason}");
    assert_eq!(number(&client, "SELECT row_count FROM outbox.export").await, 2);
}

/// A row that commits after its period was cut goes into the next file, and into no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_commit_goes_into_the_next_file() {
    let database = Database::migrated().await;
    let mut late = database.connect().await;
    let client = database.connect().await;
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(config(&database.url(), &orders(folder.path(), "every = \"1s\"")));
    until_routed(&client).await;
    let insert = "INSERT INTO outbox.message (type, payload) VALUES ('t', '{\"total\": 1}')";
    let open = late.transaction().await.unwrap();
    open.batch_execute(insert).await.unwrap();
    client.batch_execute(insert).await.unwrap();
    until_published(&client, 1).await;
    open.commit().await.unwrap();
    until_published(&client, 2).await;
    relay.stop().await;
    let twice = "SELECT count(*) FROM (SELECT message_id FROM outbox.ledger
                  GROUP BY message_id HAVING count(*) <> 1) x";
    assert_eq!(number(&client, twice).await, 0);
    assert_eq!(number(&client, "SELECT count(*) FROM outbox.ledger").await, 2);
}

/// A crash between the file and its sidecar, and one between the sidecar and the note in the database: the
/// same sidecar comes again, beside the same file. It is never written over another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_tells_what_is_in_the_file_whatever_crashes() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let folder = tempfile::tempdir().unwrap();
    let text = orders(folder.path(), "max_rows = 3\nsidecar = true");
    let relay = Relay::start(config(&database.url(), &text));
    until_routed(&client).await;
    client
        .batch_execute(
            "INSERT INTO outbox.message (type, payload) SELECT 'order.created',
             jsonb_build_object('total', g) FROM generate_series(1, 3) g",
        )
        .await
        .unwrap();
    until_published(&client, 1).await;
    relay.stop().await;
    let [file, sidecar] = &files(folder.path())[..] else { panic!("a file and its sidecar") };
    assert_eq!(*sidecar, format!("{file}.json"));
    let told = std::fs::read_to_string(folder.path().join(sidecar)).unwrap();
    let read: serde_json::Value = serde_json::from_str(&told).unwrap();
    let bytes = std::fs::read(folder.path().join(file)).unwrap();
    let row = client
        .query_one(
            "SELECT jsonb_build_object('file', regexp_replace(file, '.*/', ''), 'sink', sink,
               'period', period, 'from', due_from, 'rows', row_count, 'bytes', bytes, 'layout', layout,
               'sha256', encode(sha256($1), 'hex'), 'first_id', first_id, 'last_id', last_id)::text,
               due_before FROM outbox.export",
            &[&bytes],
        )
        .await
        .unwrap();
    let mut expected: serde_json::Value = serde_json::from_str(row.get(0)).unwrap();
    expected["to"] = row.get::<_, jiff::Timestamp>(1).to_string().into();
    assert_eq!(read, expected);
    let path = folder.path().join(sidecar);
    let unpublish = "UPDATE outbox.export SET state = 'built', published_at = NULL";
    for is_there in [false, true] {
        if !is_there {
            std::fs::remove_file(&path).unwrap();
        }
        client.batch_execute(unpublish).await.unwrap();
        let relay = Relay::start(config(&database.url(), &text));
        until_published(&client, 1).await;
        relay.stop().await;
        assert_eq!(files(folder.path()), [file.clone(), sidecar.clone()]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), told);
    }
    // Somebody's file stands where it belongs.
    std::fs::write(&path, "theirs").unwrap();
    client.batch_execute(unpublish).await.unwrap();
    let relay = Relay::start(config(&database.url(), &text));
    let waits = "SELECT count(*) FROM outbox.export
                  WHERE state = 'built' AND reason LIKE '%.csv.json exists with other content%'";
    until_count(&client, "the reason stands on the export", waits, 1).await;
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "theirs");
    std::fs::remove_file(&path).unwrap();
    until_published(&client, 1).await;
    relay.stop().await;
    assert_eq!(std::fs::read_to_string(&path).unwrap(), told);
}

/// The look for a due cut, once a second, costs the same after any number of files.
#[tokio::test(flavor = "multi_thread")]
async fn the_look_for_a_cut_walks_past_no_files_that_were_cut_by_count() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    client
        .batch_execute(
            "INSERT INTO outbox.export (sink, period, state, due_before, rows_max, closed_at, published_at,
                                        file, bytes, sha256)
             SELECT 'orders', 'p' || n, 'published', now(), 1, now(), now(), 'f', 1, 'x'
               FROM generate_series(1, 2000) n;
             ANALYZE outbox.export;
             SET enable_seqscan = off; SET enable_bitmapscan = off",
        )
        .await
        .unwrap();
    let look = include_str!("../sql/queries/csv_waiting.sql");
    client.batch_execute(&format!("PREPARE look (text, bigint) AS {look}")).await.unwrap();
    let rows = client.query("EXPLAIN ANALYZE EXECUTE look('orders', 1)", &[]).await.unwrap();
    let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let plan = plan.join("\n");
    assert!(!plan.contains("Rows Removed by Filter: 2000"), "{plan}");
}

/// A former owner that says late that its file stands says it of its own bytes.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_written_anew_with_other_bytes_is_not_published_by_word_of_the_first() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    client
        .batch_execute(
            "INSERT INTO outbox.export (sink, period, state, due_before, closed_at, file, bytes, sha256)
             VALUES ('orders', 'p', 'built', now(), now(), 'f', 1, 'new')",
        )
        .await
        .unwrap();
    let link = Link::new(Target::new(&config(&database.url(), "").database));
    let built = "SELECT count(*) FROM outbox.export WHERE state = 'built'";
    export::publish(&link, 1, "old").await.unwrap();
    assert_eq!(number(&client, built).await, 1);
    export::publish(&link, 1, "new").await.unwrap();
    assert_eq!(number(&client, built).await, 0);
}
