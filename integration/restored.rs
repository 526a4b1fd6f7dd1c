//! Copies of a database: one that was restored delivers nothing until it is told to, one of its files
//! under another name never does.

use std::collections::BTreeSet;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use outboxd::relay::RunError;
use outboxd::store::restored::{Copy, resume_restored, standing};
use outboxd::store::{Link, Target, migrate};

use crate::harness::http::HttpPeer;
use crate::harness::plane::{message_ids, number, send, until_closed, until_count, until_routed};
use crate::harness::postgres::{Cluster, Database};
use crate::harness::relay::{Relay, config, crm, toml};

const ROLES: &str =
    "CREATE ROLE outbox_producer; CREATE ROLE outbox_relay; CREATE ROLE outbox_operator";
const PAUSED: &str =
    "SELECT count(*) FROM outbox.installation WHERE paused AND paused_for = 'restored'";
const OWNED: &str = "SELECT count(*) FROM outbox.sink s JOIN outbox.relay r ON r.id = s.owner
                      WHERE r.heartbeat_at > clock_timestamp() - r.lease";
/// All that is open and all that is closed, as text.
const TABLES: &str = "SELECT string_agg(d::text, E'\\n' ORDER BY d) FROM outbox.delivery d;
                      SELECT string_agg(l::text, E'\\n' ORDER BY l) FROM outbox.ledger l;
                      SELECT string_agg(e::text, E'\\n' ORDER BY e) FROM outbox.export e";

async fn cluster() -> Cluster {
    tokio::task::spawn_blocking(Cluster::start).await.unwrap()
}

/// The webhook sink crm, and two CSV sinks in a folder that cut whatever there is.
fn settings(peer: &HttpPeer, folder: &std::path::Path) -> String {
    let csv = |name: &str| {
        format!(
            "[sinks.{name}]\nkind = \"csv\"\npath = \"{}/{name}-{{{{ period }}}}.csv\"\n\
             max_rows = 1\nevery = \"1s\"\ncolumns = [{{ name = \"id\", value = \"id\" }}]\n\
             [[routes]]\ntype = \"*\"\nsink = \"{name}\"\n",
            folder.display()
        )
    };
    crm(&peer.url("/"), "") + &csv("gathering") + &csv("waiting")
}

fn outboxd(folder: &std::path::Path, toml: &str, arguments: &[&str]) -> Output {
    let file = folder.join("outboxd.toml");
    std::fs::write(&file, toml).unwrap();
    Command::new(env!("CARGO_BIN_EXE_outboxd"))
        .arg("--config")
        .arg(&file)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("run outboxd")
}

fn files(folder: &std::path::Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_dump_delivers_nothing_until_it_is_resumed() {
    let original = Database::migrated().await;
    let (peer, out, home) =
        (HttpPeer::start().await, tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let rest = settings(&peer, out.path());
    let client = original.connect().await;
    let relay = Relay::start(config(&original.url(), &rest));
    until_routed(&client).await;
    for _ in 0..5 {
        send(&client, "t", "{}").await;
    }
    until_closed(&client).await;
    relay.stop().await;
    let (requests, published) = (peer.requests(), files(out.path()));
    assert_eq!((requests, published > 0), (5, true));
    for _ in 0..20 {
        send(&client, "t", "{}").await;
    }
    client
        .batch_execute(
            "INSERT INTO outbox.export (sink, period, due_before)
             VALUES ('gathering', 'restored', clock_timestamp())
                 ON CONFLICT (sink) WHERE state NOT IN ('published', 'empty') DO NOTHING",
        )
        .await
        .unwrap();
    let dump = Cluster::shared().pg_dump(original.name(), &[]);

    let other = cluster().await;
    other.psql("postgres", &format!("{ROLES}; CREATE DATABASE shop"));
    other.psql("shop", &dump);
    assert_eq!(other.psql("shop", TABLES), original.psql(TABLES), "nothing was routed anew");
    let copy = other.connect("shop").await;
    let start = || Relay::start(config(&other.url("shop"), &rest));
    for _ in 0..2 {
        let relay = start();
        until_count(&copy, "the copy is paused", PAUSED, 1).await;
        until_count(&copy, "the relay is at work", OWNED, 3).await;
        send(&copy, "t", "{}").await;
        // Several looks of every sink.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        relay.stop().await;
    }
    let open = "SELECT count(*) FROM outbox.delivery WHERE state = 'pending' AND attempt = 0";
    assert_eq!(number(&copy, open).await, 3 * (20 + 2), "all that was open is open");
    assert_eq!((peer.requests(), files(out.path())), (requests, published));
    let actions =
        "SELECT count(*) FROM outbox.action WHERE verb = 'pause' AND note LIKE 'restored%'";
    assert_eq!(number(&copy, actions).await, 1, "paused once");

    let text = toml(&other.url("shop"), "", &rest);
    let asked = outboxd(home.path(), &text, &["resume", "--restored"]);
    assert_eq!(asked.status.code(), Some(2), "{asked:?}");
    assert!(String::from_utf8_lossy(&asked.stderr).contains("open deliveries: 66;"), "{asked:?}");
    assert_eq!(number(&copy, PAUSED).await, 1, "nothing was changed");
    let relay = start();
    until_count(&copy, "the relay is at work", OWNED, 3).await;
    let resumed = outboxd(home.path(), &text, &["resume", "--restored", "--yes"]);
    let said = String::from_utf8_lossy(&resumed.stdout).into_owned();
    assert!(resumed.status.success(), "{resumed:?}");
    assert!(said.contains("66 open before") && said.contains("from 1000000028"), "{said}");
    until_closed(&copy).await;
    let id = send(&copy, "t", "{}").await;
    assert_eq!(id, 1_000_000_028);
    until_closed(&copy).await;
    relay.stop().await;
    let ids: BTreeSet<i64> = message_ids(&peer.received()[requests..]).into_iter().collect();
    assert_eq!(ids, (6..=27).chain([id]).collect(), "each once");
    assert_eq!(peer.requests(), requests + 23);
    let relay = start();
    until_count(&copy, "the relay is at work", OWNED, 3).await;
    assert_eq!(number(&copy, PAUSED).await, 0, "it is at home now");
    relay.stop().await;
}

/// A database that is exchanged under a running relay is looked at with the next connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_takes_the_place_of_the_original_is_met_with_the_next_connection() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let relay = Relay::start(config(&database.url(), &crm(&peer.url("/"), "")));
    until_count(&client, "the relay is at work", OWNED, 1).await;
    client
        .batch_execute(
            "UPDATE outbox.installation SET system_identifier = system_identifier + 1;
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE application_name = 'outboxd' AND datname = current_database()",
        )
        .await
        .unwrap();
    until_count(&client, "it is paused", PAUSED, 1).await;
    relay.stop().await;
}

/// The identifier is there for any role, and ids never go back.
#[tokio::test(flavor = "multi_thread")]
async fn ids_go_on_above_all_that_was_seen() {
    let database = Database::fresh().await;
    let name = database.name();
    database.psql(&format!(
        "CREATE ROLE plain_{name} LOGIN CREATEROLE; GRANT CREATE ON DATABASE {name} TO plain_{name}"
    ));
    let url = database.url().replace("user=postgres", &format!("user=plain_{name}"));
    let settings = config(&url, "");
    let target = Target::new(&settings.database);
    migrate::migrate(&target, &settings.database).await.unwrap();
    let link = Link::new(target);
    let client = database.connect().await;
    let told = "SELECT count(*) FROM outbox.installation, pg_control_system() c
                 WHERE outbox.installation.system_identifier = c.system_identifier";
    assert_eq!(number(&client, told).await, 1, "a plain owner may read it");
    let found = standing(&link).await.unwrap();
    assert_eq!((found.copy, found.is_paused, found.highest_id), (Copy::Original, false, 0));

    send(&client, "t", "{}").await;
    assert_eq!(resume_restored(&link, "me", Some(0)).await.unwrap(), 2, "never below");
    assert_eq!(resume_restored(&link, "me", Some(500)).await.unwrap(), 501);
    assert_eq!(send(&client, "t", "{}").await, 501);
    // Whatever is left of an id counts.
    for (number, left) in [
        "DELETE FROM outbox.delivery; INSERT INTO outbox.action (actor, verb, message_id) VALUES ('a', 'v', 1000)",
        "INSERT INTO outbox.ledger (message_id, sink, target, round, attempts, outcome) VALUES (2000, '', '', 1, 0, 'skipped')",
        "INSERT INTO outbox.dedupe VALUES ('t', 'k', 3000, clock_timestamp())",
        "INSERT INTO outbox.unseen (message_id) VALUES (4000)",
        "INSERT INTO outbox.delivery (message_id, sink, due_at) VALUES (5000, 'x', clock_timestamp())",
    ]
    .iter()
    .enumerate()
    {
        client.batch_execute(left).await.unwrap();
        let first = 1_000 * (i64::try_from(number).unwrap() + 1) + 1;
        assert_eq!(resume_restored(&link, "me", Some(0)).await.unwrap(), first, "{left}");
    }
    assert_eq!(resume_restored(&link, "me", None).await.unwrap(), 1_000_005_001);

    // A producer that has taken an id and not committed is waited for, but not for long.
    let mut producer = database.connect().await;
    let open = producer.transaction().await.unwrap();
    open.batch_execute("INSERT INTO outbox.message (type, payload) VALUES ('t', '{}')")
        .await
        .unwrap();
    assert!(resume_restored(&link, "me", Some(0)).await.is_err(), "its id could be given twice");
    open.rollback().await.unwrap();
    drop(link);
    database
        .psql(&format!("REASSIGN OWNED BY plain_{name} TO postgres; DROP OWNED BY plain_{name}"));
}

/// A copy of the files has the cluster's identifier: there the name tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_files_under_another_name_is_inert() {
    let original = cluster().await;
    original.psql("postgres", "CREATE DATABASE shop");
    let peer = HttpPeer::start().await;
    let settings = config(&original.url("shop"), &crm(&peer.url("/"), ""));
    let target = Target::new(&settings.database);
    migrate::migrate(&target, &settings.database).await.unwrap();
    original.psql(
        "shop",
        "INSERT INTO outbox.message (type, payload) SELECT 't', '{}' FROM generate_series(1, 10)",
    );
    original.stop_fast();
    let copy =
        tokio::task::spawn_blocking(move || Cluster::start_copy_of(&original)).await.unwrap();
    // Without the lines that are other ones with each dump.
    let dump = || {
        let dump = copy.pg_dump("shop", &["--data-only"]);
        let is_kept =
            |line: &&str| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict");
        dump.lines().filter(is_kept).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = dump();
    let text = toml(&copy.url("shop"), "lease = \"2s\"", &crm(&peer.url("/"), ""))
        .replace("installation = \"shop\"", "installation = \"shop-staging\"");
    let parse = || {
        outboxd::config::Config::parse(&text, std::path::Path::new("test.toml"), &|_| None).unwrap()
    };
    let error = Relay::start(parse()).outcome().await.unwrap_err();
    assert!(matches!(error, RunError::Installation { .. }), "{error}");
    assert!(error.to_string().contains("nothing is worked"), "{error}");
    let home = tempfile::tempdir().unwrap();
    let resumed = outboxd(home.path(), &text, &["resume", "--restored", "--yes"]);
    assert_eq!(resumed.status.code(), Some(1), "{resumed:?}");
    assert_eq!(dump(), before, "nothing was written");
    assert_eq!(peer.requests(), 0);
}
