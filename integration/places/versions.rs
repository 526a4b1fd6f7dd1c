//! The core path on each major version of PostgreSQL.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_postgres::Client;

use super::{latencies, outboxd, outboxd_ok, shown};
use crate::audit::violations;
use crate::data_plane::fetch_plan;
use crate::harness::http::{Answer, HttpPeer};
use crate::harness::plane::{message_ids, number, until_closed, until_count, until_routed};
use crate::harness::postgres::Cluster;
use crate::harness::relay::{Process, toml};
use crate::harness::smtp::SmtpPeer;

/// Each is a test of its own, as one version must not hide the others.
macro_rules! versions {
    ($($name:ident $major:literal)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            let cluster = tokio::task::spawn_blocking(|| Cluster::start_version($major));
            core_path(&cluster.await.unwrap(), $major).await;
        }
    )*};
}

versions! {
    postgresql_16 "16"
    postgresql_17 "17"
    postgresql_18 "18"
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_of_the_system() {
    let cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
    core_path(&cluster, "").await;
}

/// A webhook, one at most once, mails and files, everything with short delays and retention.
fn config(url: &str, peer: &HttpPeer, once: &HttpPeer, mail: &SmtpPeer, folder: &str) -> String {
    let rest = format!(
        "[retention]\ndefault = \"1h\"\n\
         [sinks.crm]\nkind = \"webhook\"\nurl = \"{}\"\n\
         [sinks.once]\nkind = \"webhook\"\nurl = \"{}\"\nguarantee = \"at-most-once\"\n\
         [sinks.mail]\nkind = \"smtp\"\nurl = \"smtp://{}\"\nfrom = \"shop@example.com\"\n\
         [sinks.orders]\nkind = \"csv\"\npath = \"{folder}/orders-{{{{ period }}}}.csv\"\nevery = \"1s\"\n\
         columns = [{{ name = \"id\", value = \"id\" }}]\n\
         [[routes]]\ntype = \"*\"\nsink = \"crm\"\n\
         [[routes]]\ntype = \"order.*\"\nsink = \"orders\"\n\
         [[routes]]\ntype = \"order.*\"\nsink = \"mail\"\nto = \"ann@example.org\"\n\
         subject = \"{{{{ id }}}}\"\ntext = \"x\"\n\
         [[routes]]\ntype = \"once\"\nsink = \"once\"\n\
         [[routes]]\ntype = \"outboxd.alert\"\nsink = []\n",
        peer.url("/"),
        once.url("/"),
        mail.address
    );
    toml(url, "lease = \"2s\"\ngrace = \"5s\"", &rest)
}

async fn core_path(cluster: &Cluster, major: &str) {
    let postgres = cluster.connect("postgres").await;
    postgres.batch_execute("CREATE DATABASE shop").await.unwrap();
    let client = cluster.connect("shop").await;
    let version: String = client.query_one("SHOW server_version", &[]).await.unwrap().get(0);
    assert!(version.starts_with(major), "{version}");
    let (peer, once) = (HttpPeer::start().await, HttpPeer::start().await);
    let (mail, folder) = (SmtpPeer::start().await, tempfile::tempdir().unwrap());
    let config = config(&cluster.url("shop"), &peer, &once, &mail, &shown(folder.path()));

    assert!(outboxd_ok(&config, &["migrate"]).contains("ran migration 1"));
    let first = Process::start(&config);
    until_routed(&client).await;
    let checked = outboxd(&config, &["check"]);
    assert_eq!(checked.code, 0, "{checked:?}");
    assert!(checked.out.contains("a relay is woken"), "{checked:?}");
    let plan = fetch_plan(&client).await;
    assert!(
        plan.contains("Index Scan using delivery_fetch") && !plan.contains("Seq Scan"),
        "{plan}"
    );

    produce(&client).await;
    until_closed(&client).await;
    assert_eq!(peer.requests(), 300);
    assert_eq!(mail.accepted(), 100);
    let unpublished =
        "SELECT count(*) FROM outbox.export WHERE state NOT IN ('published', 'empty')";
    until_count(&client, "files stand", unpublished, 0).await;
    assert_eq!(rows_of_files(folder.path()), 100);
    in_order(&client, &message_ids(&peer.received())).await;

    // Under way at most once when its relay is killed: held, and never asked again.
    once.always(Answer::Hang);
    client
        .batch_execute("INSERT INTO outbox.message (type, payload) VALUES ('once', '{}')")
        .await
        .unwrap();
    once.until(|peer| peer.requests() == 1).await;
    until_count(
        &client,
        "the intent is on record",
        "SELECT count(*) FROM outbox.delivery WHERE state = 'sending'",
        1,
    )
    .await;
    first.kill();
    client.batch_execute(AGED).await.unwrap();
    let second = Process::start(&config);
    until_count(
        &client,
        "it is held",
        "SELECT count(*) FROM outbox.delivery WHERE state = 'held'",
        1,
    )
    .await;
    let old = "SELECT count(*) FROM outbox.message WHERE type = 't'";
    until_count(&client, "what is older than its retention goes", old, 0).await;
    assert_eq!(number(&client, "SELECT count(*) FROM outbox.message").await, 101, "and no other");
    let woken = latencies(&client, &peer, 9, true).await;
    println!(
        "PostgreSQL {version}: woken within {:?} (median), {:?} (worst of 9)",
        woken[4], woken[8]
    );
    assert!(woken[4] < Duration::from_millis(500), "{woken:?}");
    assert_eq!(once.requests(), 1);
    assert_eq!(violations(&client).await, Vec::<String>::new());
    let status = outboxd(&config, &["status"]);
    assert!(status.code == 1 && status.out.contains("once"), "one is held: {status:?}");
    drop(second);
}

/// Ordinary producers with the least rights: in bulk, one by one, with keys.
async fn produce(client: &Client) {
    client.batch_execute("SET ROLE outbox_producer").await.unwrap();
    client
        .batch_execute(
            "INSERT INTO outbox.message (type, payload)
             SELECT 't', jsonb_build_object('n', g) FROM generate_series(1, 199) g;
             SELECT outbox.send('t', '{\"n\": 200}')",
        )
        .await
        .unwrap();
    let one = "INSERT INTO outbox.message (type, payload, key) VALUES ('order.created', '{}', $1) RETURNING id";
    for n in 0..100 {
        let _: i64 = client.query_one(one, &[&format!("k{}", n % 5)]).await.unwrap().get(0);
    }
    client.batch_execute("RESET ROLE").await.unwrap();
}

/// Keys came in order.
async fn in_order(client: &Client, arrived: &[i64]) {
    let rows = client.query("SELECT id, key FROM outbox.message WHERE key IS NOT NULL", &[]).await;
    let keys: BTreeMap<i64, String> =
        rows.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut last: BTreeMap<&str, i64> = BTreeMap::new();
    for id in arrived {
        if let Some(key) = keys.get(id) {
            let before = last.insert(key, *id).unwrap_or_default();
            assert!(before < *id, "{before} before {id}");
        }
    }
    assert_eq!(last.len(), 5);
}

/// Lines of all files, their heads left out.
fn rows_of_files(folder: &std::path::Path) -> usize {
    let files = std::fs::read_dir(folder).unwrap().flatten();
    files.map(|file| std::fs::read_to_string(file.path()).unwrap().lines().count() - 1).sum()
}

/// Everything of the type `t`, which was first, seems to be of yesterday.
const AGED: &str = "
    DO $$
    DECLARE day date := (now() AT TIME ZONE 'UTC')::date - 1;
    BEGIN
      EXECUTE format('CREATE TABLE outbox.%I PARTITION OF outbox.ledger FOR VALUES FROM (%L) TO (%L)',
        'ledger_' || to_char(day, 'YYYYMMDD'), day || ' 00:00:00+00', day + 1 || ' 00:00:00+00');
    END $$;
    UPDATE outbox.message SET created_at = created_at - interval '1 day' WHERE type = 't';
    UPDATE outbox.ledger SET closed_at = closed_at - interval '1 day'
     WHERE message_id IN (SELECT id FROM outbox.message WHERE type = 't')";
