//! The dead man's switch: a monitor elsewhere is pinged as long as the relay gets on.

use crate::harness::eventually;
use crate::harness::http::{Answer, HttpPeer};
use crate::harness::plane::{LONG, until_count};
use crate::harness::postgres::{Cluster, Database};
use crate::harness::proxy::{Proxy, Target};
use crate::harness::relay::{Process, toml};

fn relay(monitor: &HttpPeer) -> String {
    let url = monitor.url("/ping/sesame");
    format!("lease = \"1s\"\ngrace = \"5s\"\nping_url = \"{url}\"\nping_every = \"1s\"")
}

async fn until_pings(monitor: &HttpPeer, count: usize) {
    eventually("pings", LONG, async || {
        let pings = monitor.requests();
        if pings >= count { Ok(()) } else { Err(format!("{pings} of {count}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_monitor_is_pinged_until_the_relay_stops_or_hangs() {
    let (database, monitor) = (Database::migrated().await, HttpPeer::start().await);
    let client = database.connect().await;
    let relay = Process::start(&toml(&database.url(), &relay(&monitor), ""));
    until_pings(&monitor, 3).await;
    let ping = &monitor.received()[0];
    assert_eq!((ping.method.as_str(), ping.path.as_str()), ("GET", "/ping/sesame"));

    // It hangs: no ping, and no burst of them when it goes on.
    relay.signal("STOP");
    let pings = monitor.requests();
    let alive = "SELECT count(*) FROM outbox.relay WHERE heartbeat_at > clock_timestamp() - lease";
    until_count(&client, "its lease is over", alive, 0).await;
    assert!(monitor.requests() <= pings + 1);
    relay.signal("CONT");
    let pings = monitor.requests();
    until_pings(&monitor, pings + 2).await;

    // A monitor that refuses is said once, and so is its end; the URL is nobody's business.
    monitor.always(Answer::status(500));
    relay.until_log("the ping did not arrive: it answered 500", 1).await;
    let pings = monitor.requests();
    until_pings(&monitor, pings + 2).await;
    monitor.always(Answer::status(200));
    relay.until_log("pinged again", 1).await;
    assert_eq!(relay.log().matches("did not arrive").count(), 1);
    assert!(!relay.log().contains("sesame"), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_runs_and_does_not_get_on_is_not_well() {
    let (database, monitor) = (Database::migrated().await, HttpPeer::start().await);
    let proxy = Proxy::start(Target::Unix(Cluster::shared().socket())).await;
    let url = Cluster::tcp_url(proxy.port(), database.name());
    let relay = Process::start(&toml(&url, &relay(&monitor), ""));
    until_pings(&monitor, 2).await;
    // The database is away: the process is as alive as before, and nothing is delivered.
    proxy.go_down().await;
    relay.until_log("not pinged, as the relay does not get on", 1).await;
    let pings = monitor.requests();
    // Several times the pause between two pings.
    let tries = relay.log().matches("cannot renew the lease").count();
    relay.until_log("cannot renew the lease", tries + 8).await;
    assert_eq!(monitor.requests(), pings);
    proxy.resume();
    until_pings(&monitor, pings + 1).await;
}
