//! Relays that do not agree, and relays that are not there.

use super::{Patient, Said};
use crate::harness::eventually;
use crate::harness::plane::LONG;
use crate::harness::relay::{Process, toml};

async fn until(patient: &Patient, causes: &[&str]) -> Said {
    eventually("doctor sees it", LONG, async || {
        let said = patient.doctor(&[]);
        if said.causes() == causes { Ok(said) } else { Err(format!("{said:?}")) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_with_different_configs_and_one_that_falls_silent() {
    let patient = Patient::new().await;
    let config =
        |more: &str| toml(&patient.url(), &format!("lease = \"1s\"\n{more}"), &patient.sinks());
    let live = "SELECT count(*) FROM outbox.relay WHERE heartbeat_at > clock_timestamp() - lease";
    let until_live = async |count: &str| {
        eventually("the relays live", LONG, async || match patient.psql(live) {
            found if found == count => Ok(()),
            found => Err(found),
        })
        .await;
    };
    patient.write(&config(""));
    let mut one = Process::start(&config(""));
    until_live("1").await;
    assert!(until(&patient, &[]).await.words("relays").contains("1 live, with this config"));

    // A relay in a crash loop leaves many behind.
    patient.psql(
        "INSERT INTO outbox.relay (id, started_at, heartbeat_at, lease, host, pid, version, routes_hash, sinks)
         SELECT 'gone ' || n, r.started_at - interval '2 minutes', r.heartbeat_at - interval '1 minute',
                r.lease, r.host, r.pid, r.version, r.routes_hash, r.sinks
           FROM outbox.relay r CROSS JOIN generate_series(1, 101) n",
    );
    assert!(until(&patient, &[]).await.words("relays").contains("1 live, with this config"));
    patient.psql("DELETE FROM outbox.relay WHERE id LIKE 'gone %'");

    let mut other = Process::start(&config("grace = \"29s\""));
    until_live("2").await;
    let said = until(&patient, &["relays-differ"]).await;
    for relay in [&one, &other] {
        assert!(said.text.contains(&format!("(pid {}) has ", relay.id())), "{}", said.text);
    }
    // As told: the one that has another is started again with the same.
    other.signal("TERM");
    other.ended().await;
    other = Process::start(&config(""));
    until_live("2").await;
    assert!(until(&patient, &[]).await.words("relays").contains("2 live"));

    patient.write(&config("grace = \"28s\""));
    let said = patient.doctor(&[]);
    said.finds(&["relays-other-config"]);
    patient.write(&config(""));

    one.signal("TERM");
    one.ended().await;
    other.kill();
    let said = until(&patient, &["relays-none"]).await;
    assert_eq!(said.code, 1);
    one = Process::start(&config(""));
    until_live("1").await;
    until(&patient, &[]).await;
    one.signal("TERM");
    one.ended().await;
}
