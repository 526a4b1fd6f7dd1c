//! The server: settings, transactions that hold back vacuum, vacuum itself, another cluster.

use std::time::Duration;

use super::{HEALTHY, Patient, sql_of};
use crate::harness::eventually;
use crate::harness::plane::LONG;
use crate::harness::postgres::{Cluster, connect};

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_transaction_is_named_by_process_and_application() {
    let patient = Patient::new().await;
    let report = format!("{}&application_name=report", patient.url());
    let holder = connect(&report.parse().unwrap()).await;
    holder.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await.unwrap();
    let pid: i32 = holder.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    // The usual five minutes are not waited for.
    let look = || patient.doctor(&["--held-over", "1s"]);
    let said = eventually("the transaction is old", LONG, async || {
        let said = look();
        if said.causes().is_empty() { Err("it is young".to_owned()) } else { Ok(said) }
    })
    .await;
    let remedies = said.finds(&["snapshot-session"]);
    let words = format!("pid {pid}, application report, idle in transaction");
    assert!(said.text.contains(&words), "{words}: {}", said.text);
    patient.finds(&[]);
    assert_eq!(sql_of(&remedies[0]), format!("SELECT pg_terminate_backend({pid})"));
    patient.psql(sql_of(&remedies[0]));
    eventually("it is over", LONG, async || {
        if look().causes().is_empty() { Ok(()) } else { Err("it is there".to_owned()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_role_may_not_see_is_told_with_the_grant_and_is_no_fault() {
    let patient = Patient::new().await;
    let role = format!("blind_{}", patient.database);
    patient.psql(&format!("CREATE ROLE {role} LOGIN IN ROLE outbox_relay"));
    patient.configure(&patient.url().replace("user=postgres", &format!("user={role}")), "");
    patient.psql("REVOKE SELECT ON SEQUENCE outbox.message_id_seq FROM outbox_relay");
    let said = patient.doctor(&[]);
    let remedies = said.finds(&["ages-hidden"]);
    assert_eq!(said.code, 0);
    let hidden = "where it stands is hidden: GRANT SELECT ON outbox.message_id_seq";
    assert!(said.words("sequence").contains(hidden), "{said:?}");
    patient.psql(sql_of(&remedies[0]));
    patient.finds(&[]);
    patient.psql(&format!("DROP ROLE {role}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_autovacuum_leaves_out_and_dead_rows_that_stay() {
    let patient = Patient::new().await;
    patient.psql(
        "ALTER TABLE outbox.delivery SET (autovacuum_enabled = false);
         INSERT INTO outbox.message (type, payload) SELECT 't', '{}' FROM generate_series(1, 30000);
         DELETE FROM outbox.delivery WHERE message_id > 1;
         DELETE FROM outbox.message WHERE id > 1",
    );
    patient.psql("ALTER TABLE outbox.delivery RESET (autovacuum_vacuum_scale_factor)");
    let said = eventually("the statistics arrive", LONG, async || {
        let said = patient.doctor(&[]);
        if said.causes().contains(&"dead-rows") { Ok(said) } else { Err(format!("{said:?}")) }
    })
    .await;
    let remedies = said.finds(&["autovacuum-off-table", "autovacuum-late", "dead-rows"]);
    for remedy in remedies {
        patient.psql(sql_of(&remedy));
    }
    eventually("all is well", LONG, async || match patient.doctor(&[]).causes() {
        causes if causes.is_empty() => Ok(()),
        causes => Err(format!("{causes:?}")),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_hurt_are_altered_where_they_were_set() {
    let patient = Patient::new().await;
    let (database, role) = (&patient.database, format!("slow_{}", patient.database));
    patient.psql(&format!(
        "CREATE ROLE {role} LOGIN IN ROLE outbox_relay; GRANT pg_read_all_stats TO {role};
         ALTER ROLE {role} SET statement_timeout = '2s';
         ALTER ROLE {role} IN DATABASE {database} SET lock_timeout = '100ms';
         ALTER DATABASE {database} SET synchronous_commit = off;
         ALTER DATABASE {database} SET idle_session_timeout = '1min';
         ALTER ROLE {role} SET default_transaction_read_only = on;
         ALTER DATABASE {database} CONNECTION LIMIT 13"
    ));
    patient.configure(&patient.url().replace("user=postgres", &format!("user={role}")), "");
    let said = patient.doctor(&[]);
    let causes = said.causes();
    let (settings, connections) = causes.split_at(5);
    assert_eq!(
        settings,
        ["read-only", "commit-asynchronous", "timeout-short", "timeout-short", "timeout-short"],
        "{said:?}"
    );
    assert!(matches!(connections, ["connections-few" | "connections-none"]), "{said:?}");
    let remedies = said.lines.iter().filter_map(|line| line["remedy"].as_str());
    for remedy in remedies.take(5) {
        patient.psql(sql_of(remedy));
    }
    patient.psql(&format!("ALTER DATABASE {database} CONNECTION LIMIT 50"));
    patient.finds(&[]);
    patient.psql(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

/// A cluster of its own: what is wrong here is wrong for the whole server.
#[tokio::test(flavor = "multi_thread")]
async fn prepared_transactions_a_server_without_fsync_and_a_restored_clone() {
    let origin = Patient::new().await;
    origin.psql("INSERT INTO outbox.message (type, payload) VALUES ('t', '{}')");
    let settings = [HEALTHY, &[("max_prepared_transactions", "5")]].concat();
    let start = move || Cluster::start_with(None, &settings);
    // Ends with the tests, as the one that they share.
    let cluster: &Cluster = Box::leak(Box::new(tokio::task::spawn_blocking(start).await.unwrap()));
    let patient = Patient::on(cluster).await;
    patient.finds(&[]);
    patient.psql("UPDATE outbox.installation SET doorbell = true");
    let remedies = patient.finds(&["doorbell-prepared"]);
    patient.psql(sql_of(&remedies[0]));

    patient.psql("BEGIN; INSERT INTO outbox.message (type, payload) VALUES ('t', '{}'); PREPARE TRANSACTION 'two'");
    let look = || patient.doctor(&["--held-over", "1s"]);
    let said = eventually("the prepared transaction is old", LONG, async || {
        let said = look();
        if said.causes().is_empty() { Err("it is young".to_owned()) } else { Ok(said) }
    })
    .await;
    let remedies = said.finds(&["prepared-transaction"]);
    assert!(said.text.contains("prepared transaction two of postgres"), "{}", said.text);
    patient.psql(sql_of(&remedies[0]));
    look().finds(&[]);

    let reload = "SELECT pg_reload_conf()";
    let is_wrong = async |wanted: &[&str]| {
        eventually("the server took it", Duration::from_secs(20), async || {
            let said = patient.doctor(&[]);
            if said.causes() == wanted { Ok(said) } else { Err(format!("{:?}", said.causes())) }
        })
        .await
    };
    for setting in ["fsync", "full_page_writes", "autovacuum", "track_counts"] {
        patient.psql(&format!("ALTER SYSTEM SET {setting} = off"));
    }
    patient.psql(reload);
    let said =
        is_wrong(&["crash-unsafe", "crash-unsafe", "autovacuum-off", "autovacuum-off"]).await;
    for remedy in said.finds(&said.causes()) {
        patient.psql(sql_of(&remedy));
    }
    patient.psql(reload);
    is_wrong(&[]).await;

    let dump = origin.cluster.pg_dump(&origin.database, &[]);
    cluster.psql(
        "postgres",
        &format!("DROP DATABASE {0} WITH (FORCE); CREATE DATABASE {0}", patient.database),
    );
    patient.psql(&dump);
    // The original's doorbell came along, and here transactions may be prepared.
    let remedies = patient.finds(&["copy", "doorbell-prepared"]);
    patient.psql(sql_of(&remedies[1]));
    assert!(remedies[0].contains("outboxd resume --restored"));
    patient.ok(&["resume", "--restored", "--yes"]);
    patient.finds(&[]);
}
