//! What a newcomer meets first: each error says what to do, once, and nothing that is secret.

use super::{SINKS, Shop, run_in};
use crate::harness::postgres::Cluster;

#[tokio::test]
async fn usage_and_config_are_told_from_the_rest_by_the_exit_code() {
    let empty = tempfile::tempdir().unwrap();
    let said = run_in(empty.path(), &["status"], &[]);
    assert_eq!(said.code, 2);
    assert!(said.err.starts_with("outboxd: outboxd.toml: does not exist"), "{said:?}");
    assert!(said.err.contains("write one with: outboxd init"), "{said:?}");
    assert_eq!(run_in(empty.path(), &["nonsense"], &[]).code, 2);
    assert_eq!(run_in(empty.path(), &[], &[]).code, 2);
    assert_eq!(run_in(empty.path(), &["status"], &[("OUTBOXD_LOG", "a=b=c")]).code, 2);
    let help = run_in(empty.path(), &["send", "--help"], &[]);
    assert_eq!(help.code, 0);
    assert!(help.out.contains("outboxd send order.created"), "{help:?}");

    // All faults at once.
    std::fs::write(empty.path().join("outboxd.toml"), "[relay]\nlease = 3\nx = 1\n").unwrap();
    let said = run_in(empty.path(), &["check"], &[]);
    assert_eq!(said.code, 2);
    for fault in ["relay.lease", "relay.x", "database"] {
        assert!(said.err.contains(fault), "{fault}: {said:?}");
    }
}

#[tokio::test]
async fn a_database_that_cannot_be_used_is_told_with_the_remedy() {
    let shop = Shop::empty().await;
    let missing = shop.fails(1, &["status"]);
    assert!(missing.contains("the outbox is missing in this database; run: outboxd migrate"));

    let url = shop.database.url();
    shop.configure(&url.replace(shop.database.name(), "nowhere"), "", SINKS);
    let nowhere = shop.fails(1, &["status"]);
    assert!(nowhere.contains("there is no such database; check [database] url"), "{nowhere}");

    shop.configure("postgres://u:sesame@127.0.0.1:1/shop", "", SINKS);
    let unreachable = shop.fails(1, &["status"]);
    assert!(unreachable.contains("connect to PostgreSQL") && unreachable.contains("refused"));
    assert!(!unreachable.contains("sesame"));
}

#[tokio::test]
async fn a_wrong_password_is_told_without_it() {
    let shop = Shop::empty().await;
    let cluster = tokio::task::spawn_blocking(Cluster::start_on_tcp).await.unwrap();
    cluster.psql("postgres", "CREATE ROLE shop LOGIN SUPERUSER PASSWORD 'open sesame'");
    let rules = "host all shop 127.0.0.1/32 scram-sha-256\nlocal all all trust\n";
    std::fs::write(cluster.dir().join("data/pg_hba.conf"), rules).unwrap();
    cluster.psql("postgres", "SELECT pg_reload_conf()");

    let url =
        |password| format!("postgres://shop:{password}@127.0.0.1:{}/postgres", cluster.tcp_port());
    // The server reads the new rules in its own time.
    let mut said = String::new();
    for _ in 0..100 {
        shop.configure(&url("open%20barley"), "", SINKS);
        said = shop.fails(1, &["status"]);
        if said.contains("password") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(said.contains("check user and password in [database] url, and pg_hba.conf"), "{said}");
    assert!(!said.contains("barley"), "{said}");
    shop.configure(&url("open%20sesame"), "", SINKS);
    shop.ok(&["migrate"]);
}

#[tokio::test]
async fn a_role_without_rights_is_told_what_to_grant() {
    let shop = Shop::open().await;
    let role = format!("app_{}", shop.database.name());
    shop.psql(&format!("CREATE ROLE {role} LOGIN"));
    let url = shop.database.url().replace("user=postgres", &format!("user={role}"));
    shop.configure(&url, "", SINKS);
    assert!(shop.fails(1, &["status"]).contains("GRANT outbox_relay TO"));
    let checked = shop.run(&["check"]);
    assert_eq!(checked.code, 1);
    assert!(checked.out.contains("lacks USAGE on schema outbox"), "{}", checked.out);
    assert!(checked.out.contains(&format!("GRANT outbox_relay TO {role}")), "{}", checked.out);

    // An operator looks and acts.
    shop.psql(&format!("GRANT outbox_operator TO {role}"));
    shop.ok(&["status"]);
    shop.ok(&["list"]);
    assert!(shop.fails(1, &["retry", "1"]).contains("there is no message 1"));
    assert!(shop.fails(1, &["send", "debug.x", "{}"]).contains("the role lacks a right"));
    // A producer sends.
    shop.psql(&format!("REVOKE outbox_operator FROM {role}; GRANT outbox_producer TO {role}"));
    assert_eq!(shop.ok(&["send", "debug.x", "{}"]), "1\n");
    // A relay does it all.
    shop.psql(&format!("REVOKE outbox_producer FROM {role}; GRANT outbox_relay TO {role}"));
    shop.ok(&["show", "1"]);
    assert!(shop.fails(1, &["retry", "1"]).contains("nothing dead to retry: 1 is skipped"));
    let checked = shop.run(&["check"]).out;
    assert!(checked.contains(&format!("{role} may do what a relay does")), "{checked}");
    shop.psql(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[tokio::test]
async fn another_installations_outbox_is_not_touched() {
    let shop = Shop::open().await;
    shop.psql("UPDATE outbox.installation SET name = 'shop-prod'");
    let words = "this database belongs to installation shop-prod, the config says shop-test";
    for arguments in [&["retry", "1"][..], &["retry", "--sink", "crm"], &["route", "apply"]] {
        assert!(shop.fails(1, arguments).contains(words), "{arguments:?}");
    }
    let status = shop.run(&["status"]);
    assert!(status.code == 1 && status.out.contains(words), "{status:?}");
    let checked = shop.run(&["check"]);
    assert!(checked.code == 1 && checked.out.contains(words), "{checked:?}");
    for said in [status.out, checked.out] {
        assert!(said.contains("run outboxd migrate to name it shop-test"), "{said}");
    }

    // A copy of what sends has that on record, and keeps its name, whatever else is empty.
    shop.psql("UPDATE outbox.installation SET sends_since = now()");
    let migrated = shop.run(&["migrate"]);
    assert!(migrated.code == 1 && migrated.err.contains(words), "{migrated:?}");
    assert!(migrated.err.contains("write installation = \"shop-prod\""), "{migrated:?}");
    assert!(!shop.run(&["check"]).out.contains("to name it"));
    // So has what was closed before there was such a record.
    shop.psql("UPDATE outbox.installation SET sends_since = NULL");
    shop.ok(&["migrate", "--check"]);
    shop.psql("SELECT outbox.send('debug.x', '{}')");
    let migrated = shop.run(&["migrate"]);
    assert!(migrated.code == 1 && migrated.err.contains(words), "{migrated:?}");
    assert_eq!(shop.psql("SELECT name FROM outbox.installation"), "shop-prod");
}

/// One printed migration runs in every database, and two that have one name would send under the same keys.
#[tokio::test]
async fn a_database_that_nothing_was_sent_from_is_given_the_configs_name() {
    let shop = Shop::empty().await;
    let sql = shop.ok(&["migrate", "--print"]);
    assert!(sql.starts_with("-- It names the installation shop-test,"), "{sql}");
    shop.psql(&format!("BEGIN;\n{sql}\nCOMMIT;"));
    shop.psql(
        "UPDATE outbox.installation SET name = 'shop-prod'; SELECT outbox.send('order.x', '{}')",
    );
    let refused = shop.fails(1, &["route", "apply"]);
    assert!(refused.contains("run outboxd migrate to name it shop-test"), "{refused}");
    let refused = shop.fails(1, &["run"]);
    assert!(refused.contains("run outboxd migrate to give it the config's name"), "{refused}");

    let migrated = shop.ok(&["migrate"]);
    let words = "installation shop-prod is named shop-test now: nothing was sent from it yet\n";
    assert_eq!(migrated, format!("schema outbox is current: nothing to do\n{words}"));
    assert_eq!(shop.psql("SELECT name FROM outbox.installation"), "shop-test");
    assert_eq!(shop.json(&["migrate", "--json"])["renamed_from"], serde_json::Value::Null);
    assert!(shop.run(&["check"]).out.contains("installation  shop-test\n"));
    shop.psql("UPDATE outbox.installation SET name = 'shop-prod'");
    let migrated = shop.json(&["migrate", "--json"]);
    assert_eq!(
        (&migrated["renamed_from"], &migrated["installation"]),
        (&"shop-prod".into(), &"shop-test".into())
    );
}

#[tokio::test]
async fn check_has_a_line_for_each_thing_and_sends_nothing() {
    let shop = Shop::empty().await;
    let receiver = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = receiver.local_addr().unwrap().port();
    let sinks = SINKS.replace("127.0.0.1:9/", &format!("127.0.0.1:{port}/"));
    shop.configure(&shop.database.url(), "", &sinks);
    let before = shop.run(&["check"]);
    assert_eq!(before.code, 1);
    assert!(before.out.contains("schema outbox is missing"), "{}", before.out);

    shop.ok(&["migrate"]);
    let checked = shop.ok(&["check"]);
    let words = "a starting relay puts the config's routes in force; a running one on SIGHUP\n";
    assert!(checked.contains(words), "{checked}");
    shop.ok(&["route", "apply"]);
    let checked = shop.ok(&["check"]);
    let lines: Vec<&str> = checked.lines().collect();
    assert_eq!(lines.len(), 10, "{checked}");
    assert!(lines.iter().all(|line| line.starts_with("ok ")), "{checked}");
    for words in ["in force as the config", "accepts connections", "out can be written to"] {
        assert!(checked.contains(words), "{words}: {checked}");
    }
    assert_eq!(shop.json(&["check", "--json"]).as_array().unwrap().len(), 10);

    // Each trouble has its own line, and the others stay.
    drop(receiver);
    std::fs::remove_dir(shop.directory.path().join("out")).unwrap();
    shop.psql("INSERT INTO outbox.route_set (hash, applied_by) VALUES ('other', 'x')");
    let said = shop.run(&["check"]);
    assert_eq!(said.code, 1);
    assert_eq!(said.out.lines().filter(|line| line.starts_with("FAIL")).count(), 3, "{}", said.out);
    for words in ["cannot connect to", "make it with: mkdir -p", "to go back: outboxd route apply"]
    {
        assert!(said.out.contains(words), "{words}: {}", said.out);
    }
    assert!(shop.ok(&["route", "apply"]).contains("are in force now"));
    assert!(shop.ok(&["route", "apply"]).contains("in force already"));
}
