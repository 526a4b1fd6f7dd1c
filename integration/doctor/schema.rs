//! The outbox itself: objects, triggers, rights, ids.

use std::path::Path;

use outboxd::config::Config;
use outboxd::store::doctor::catalog::{Catalog, EXPECTED, live, write};
use outboxd::store::{Link, Target};

use super::{Patient, sql_of};
use crate::harness::postgres::Database;

const HEAD: &str = "# What the migrations make, as sql/queries/doctor_catalog.sql has it; written anew by\n\
                    # OUTBOXD_WRITE_CATALOG=1 cargo test --test integration doctor::schema::the_catalog\n";

async fn catalog(url: &str, schema: &str) -> Catalog {
    let toml = format!("[database]\nurl = \"{url}\"\nschema = \"{schema}\"\n");
    let config = Config::parse(&toml, Path::new("test.toml"), &|_| None).unwrap();
    let target = Target::new(&config.database);
    outboxd::store::migrate::migrate(&target, &config.database).await.expect("migrate");
    live(&Link::new(target)).await.expect("the catalog")
}

#[tokio::test]
async fn the_catalog_is_what_the_migrations_make_whatever_the_schema_is_called() {
    let database = Database::fresh().await;
    let made = HEAD.to_owned() + &write(&catalog(&database.url(), "outbox").await);
    if std::env::var_os("OUTBOXD_WRITE_CATALOG").is_some() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/catalog.txt");
        std::fs::write(file, &made).unwrap();
        return;
    }
    for (is, made) in EXPECTED.lines().zip(made.lines()) {
        assert_eq!(
            is, made,
            "sql/catalog.txt is of other migrations; its head says how to write it anew"
        );
    }
    assert_eq!(EXPECTED, made, "sql/catalog.txt is of other migrations");
    for schema in ["order", "o", "outbox_relay"] {
        let database = Database::fresh().await;
        assert_eq!(
            HEAD.to_owned() + &write(&catalog(&database.url(), schema).await),
            made,
            "{schema}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_drifted_is_named_and_put_back_by_the_sql_that_doctor_writes() {
    let patient = Patient::new().await;
    patient.psql(
        "ALTER TABLE outbox.delivery DROP COLUMN content_hash;
         ALTER TABLE outbox.delivery DROP CONSTRAINT delivery_due_if_pending;
         ALTER TABLE outbox.flow SET UNLOGGED;
         DROP INDEX outbox.delivery_fetch; DROP TABLE outbox.late; DROP VIEW outbox.parked;
         DROP TRIGGER delivery_state_fits ON outbox.delivery; DROP FUNCTION outbox.wake;
         CREATE OR REPLACE FUNCTION outbox.fault_of(type text, key text, due_at timestamptz,
           expires_at timestamptz, dedupe_key text, headers jsonb) RETURNS text
         LANGUAGE sql IMMUTABLE AS 'SELECT NULL'",
    );
    let said = patient.doctor(&[]);
    let mut causes = vec!["rights"];
    causes.extend(["schema-missing"; 2]);
    causes.extend(["schema-changed"]);
    causes.extend(["schema-missing"; 3]);
    causes.extend(["schema-changed", "schema-missing", "schema-missing"]);
    for object in [
        "column delivery.content_hash is missing",
        "constraint delivery.delivery_due_if_pending is missing",
        "index delivery.delivery_fetch is missing",
        "table late is missing",
        "view parked is missing",
        "trigger delivery.delivery_state_fits is missing",
        "function wake(sinks text[]) is missing",
        "it has another body",
        "table flow is not as the migrations make it: it is unlogged",
    ] {
        assert!(said.text.contains(object), "{object}: {}", said.text);
    }
    assert!(said.code == 1 && said.text.contains("outboxd doctor --repair"), "{said:?}");
    let sql = patient.ok(&["doctor", "--repair"]);
    patient.psql(&sql);
    let may = "SELECT has_function_privilege('outbox_producer', 'outbox.wake(text[])', 'EXECUTE')";
    assert_eq!(patient.psql(may), "f", "what was made anew is not for everybody");
    let left = patient.doctor(&[]);
    // What was made anew has nobody's rights yet.
    assert!(left.causes().iter().all(|cause| *cause == "roles"), "{left:?}");
    assert!(left.text.contains("outbox_relay lacks DELETE on late"), "{left:?}");
    assert!(left.text.contains("run as the owner, postgres: outboxd migrate --rights"), "{left:?}");
    patient.ok(&["migrate", "--rights"]);
    patient.finds(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_migration_made_is_told_and_harms_nobody() {
    let patient = Patient::new().await;
    patient.psql(
        "ALTER TABLE outbox.message ADD COLUMN tenant text; CREATE TABLE outbox.notes (note text)",
    );
    let said = patient.doctor(&[]);
    said.finds(&["schema-foreign", "schema-foreign"]);
    assert!(said.text.contains("column message.tenant is made by no migration"), "{}", said.text);
    patient.psql("ALTER TABLE outbox.message DROP COLUMN tenant; DROP TABLE outbox.notes");
    patient.finds(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_trigger_and_what_it_missed() {
    let patient = Patient::new().await;
    patient.psql(
        "ALTER TABLE outbox.message DISABLE TRIGGER route_inserted;
         INSERT INTO outbox.message (type, payload) SELECT 't', '{}' FROM generate_series(1, 30000)",
    );
    let said = patient.doctor(&[]);
    let remedies = said.finds(&["trigger-disabled", "unseen"]);
    assert!(said.text.contains("route_inserted does not fire on outbox.message"), "{}", said.text);
    assert!(
        said.text.contains("messages that nothing routed: 30000, the first is 1"),
        "{}",
        said.text
    );
    let (code, text) = patient.says();
    assert_eq!(code, 1);
    let squeeze = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n";
    assert_eq!(
        text.lines().filter(|l| l.starts_with("FAIL")).map(squeeze).collect::<String>(),
        said.text.lines().filter(|l| l.starts_with("FAIL")).map(squeeze).collect::<String>()
    );
    let partly = patient.doctor(&["--sweep", "1ms"]);
    assert!(partly.causes().contains(&"unseen-partly"), "{partly:?}");
    patient.psql(sql_of(&remedies[0]));
    let remedies = patient.finds(&["unseen"]);
    assert_eq!(remedies, ["outboxd route unseen"]);
    patient.ok(&["route", "unseen"]);
    patient.finds(&[]);
    assert_eq!(patient.psql("SELECT count(*) FROM outbox.delivery"), "60000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_whose_sessions_begin_in_replica_mode() {
    let patient = Patient::new().await;
    let database = &patient.database;
    patient.psql(&format!("ALTER DATABASE {database} SET session_replication_role = replica"));
    let remedies = patient.finds(&["replica-mode"]);
    patient.psql(sql_of(&remedies[0]));
    patient.finds(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_lack_and_rights_that_are_too_many() {
    let patient = Patient::new().await;
    let role = format!("clerk_{}", patient.database);
    patient.psql(&format!(
        "CREATE ROLE {role} LOGIN; GRANT pg_read_all_stats TO {role}; GRANT USAGE ON SCHEMA outbox TO {role}"
    ));
    let url = patient.url().replace("user=postgres", &format!("user={role}"));
    patient.configure(&url, "");
    let said = patient.doctor(&[]);
    assert!(said.code == 1 && said.words("rights").contains("lacks"), "{said:?}");
    let grant = said.words("rights").rsplit_once("run as the owner, postgres: ").unwrap().1;
    patient.psql(grant);
    patient.finds(&[]);

    patient.psql(&format!(
        "CREATE ROLE app_{role}; GRANT DELETE, TRUNCATE ON outbox.message TO app_{role};
         GRANT UPDATE ON outbox.delivery TO PUBLIC; ALTER TABLE outbox.export ENABLE ROW LEVEL SECURITY"
    ));
    let said = patient.doctor(&[]);
    let remedies = said.finds(&["rights", "grants-too-many", "grants-too-many", "row-security"]);
    assert!(
        said.text.contains(&format!("app_{role} may DELETE, TRUNCATE on outbox.message")),
        "{said:?}"
    );
    for remedy in remedies {
        patient.psql(sql_of(&remedy));
    }
    patient.finds(&[]);
    patient.psql(&format!("DROP ROLE app_{role}; DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_out_of_order_ids_that_come_again_and_a_ledger_without_tomorrow() {
    let patient = Patient::new().await;
    patient.psql(
        "INSERT INTO outbox.message (type, payload) SELECT 't', '{}' FROM generate_series(1, 9);
         ALTER SEQUENCE outbox.message_id_seq CACHE 20",
    );
    patient.psql("SELECT setval('outbox.message_id_seq', 3)");
    let tomorrow = patient.psql(
        "SELECT 'outbox.ledger_' || to_char((clock_timestamp() AT TIME ZONE 'UTC')::date + 1, 'YYYYMMDD')",
    );
    patient.psql(&format!("DROP TABLE {tomorrow}"));
    let said = patient.doctor(&[]);
    let remedies = said.finds(&["ledger-day", "sequence-cache", "sequence-behind"]);
    assert!(said.text.contains("stands at 3, ids up to 9 are in use"), "{}", said.text);
    for remedy in &remedies[..2] {
        patient.psql(sql_of(remedy));
    }
    assert!(remedies[2].contains("outboxd resume --restored"), "{remedies:?}");
    patient.ok(&["resume", "--restored", "--yes"]);
    patient.finds(&[]);
    let next = "INSERT INTO outbox.message (type, payload) VALUES ('t', '{}') RETURNING id";
    assert_eq!(patient.psql(next), "1000000010", "10 may have been given away and pruned");
}
