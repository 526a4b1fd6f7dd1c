//! A relay that falls silent is told of by another one.

use std::time::Duration;

use outboxd::relay::watch::look;
use outboxd::store::{Link, Target};

use super::{NO_PAUSE, Plane, pairs};
use crate::harness::eventually;
use crate::harness::http::HttpPeer;
use crate::harness::plane::{LONG, until_count, until_routed};
use crate::harness::postgres::Database;
use crate::harness::relay::{Process, config, crm, toml};

const ENTER: &str = "INSERT INTO outbox.relay (id, lease, host, pid, version, routes_hash, sinks, started_at, heartbeat_at)";

impl Plane {
    /// A relay that entered and last beat so many seconds ago.
    async fn relay(&self, id: &str, host: &str, entered: i32, beat: i32) {
        self.relay_of(id, host, entered, entered, beat).await;
    }

    /// One of a process with this id.
    async fn relay_of(&self, id: &str, host: &str, pid: i32, entered: i32, beat: i32) {
        self.sql(&format!(
            "{ENTER} VALUES ('{id}', '10s', '{host}', {pid}, '0', '', '{{crm,chat}}',
                     now() - interval '{entered} s', now() - interval '{beat} s')"
        ))
        .await;
    }
}

#[tokio::test]
async fn a_relay_that_stops_beating_is_told_of_until_one_is_back_on_its_host() {
    let plane = Plane::routed(&["chat"]).await;
    plane.relay("living", "web-1", 3600, 0).await;
    plane.relay("dead", "web-2", 3600, 70).await;
    // Within its lease, and one whose place on the host was taken since.
    plane.relay("late", "web-3", 3600, 9).await;
    plane.relay("before", "web-1", 7200, 4000).await;
    // One that reloaded while another of its host was there: its former could not leave, and is no other.
    plane.relay_of("former", "web-5", 7, 300, 200).await;
    plane.relay_of("new", "web-5", 7, 210, 0).await;
    // One that crashed again and again, and runs.
    plane.relay("crash-1", "web-4", 300, 290).await;
    plane.relay("crash-2", "web-4", 280, 270).await;
    plane.relay("crash-3", "web-4", 260, 0).await;
    assert_eq!(plane.look(NO_PAUSE).await, 1);
    assert_eq!(plane.troubles(), "silent web-2 1");
    let reason = "SELECT reason FROM outbox.alert";
    assert_eq!(plane.database.psql(reason), "its sinks have other owners");
    plane.sql("UPDATE outbox.sink SET owner = 'dead' WHERE name = 'crm'").await;
    plane.look(NO_PAUSE).await;
    assert_eq!(plane.database.psql(reason), "nobody has taken its sinks yet");
    // Two are missing, one comes back.
    plane.relay("dead too", "web-2", 3601, 60).await;
    plane.look(NO_PAUSE).await;
    assert_eq!(plane.troubles(), "silent web-2 2");
    plane.relay("again", "web-2", 30, 0).await;
    plane.look(NO_PAUSE).await;
    assert_eq!(plane.troubles(), "silent web-2 1");
    plane.relay("again too", "web-2", 1, 0).await;
    assert_eq!(plane.look(NO_PAUSE).await, 1);
    let told = [
        ("shop: web-2: 1 silent", "chat pending"),
        ("shop: web-2: none silent any more", "chat pending"),
    ];
    assert_eq!(plane.told().await, pairs(&told));
}

/// Of two processes of one host, one is gone, and the other reloads: that is not the first one's return.
#[tokio::test]
async fn a_reload_of_one_process_is_not_the_return_of_another() {
    let plane = Plane::routed(&["chat"]).await;
    plane.relay_of("gone", "web-1", 7, 300, 200).await;
    plane.relay_of("other", "web-1", 8, 300, 90).await;
    plane.relay_of("other, reloaded", "web-1", 8, 95, 0).await;
    plane.look(NO_PAUSE).await;
    assert_eq!(plane.troubles(), "silent web-1 1");
}

#[tokio::test]
async fn a_relay_that_is_forgotten_is_no_recovery() {
    let plane = Plane::routed(&["chat"]).await;
    plane.relay("living", "web-1", 3600, 0).await;
    plane.relay("dead", "web-2", 3600, 70).await;
    assert_eq!(plane.look(NO_PAUSE).await, 1);
    plane.sql("DELETE FROM outbox.relay WHERE id = 'dead'").await;
    assert_eq!(plane.look(NO_PAUSE).await, 0);
    assert_eq!(plane.troubles(), "");
}

/// As it happens: of two processes one is killed, and the other has it told.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_relays_the_one_that_lives_has_it_told_that_the_other_was_killed() {
    let (database, peer) = (Database::migrated().await, HttpPeer::start().await);
    let client = database.connect().await;
    let more = format!("[sinks.ops]\nkind = \"webhook\"\nurl = \"{}\"\n", peer.url("/ops"));
    let rest = crm(&peer.url("/"), &more).replace("sink = []", "sink = \"ops\"");
    let text = toml(&database.url(), "lease = \"2s\"\ngrace = \"10s\"", &rest);
    let (first, second) = (Process::start(&text), Process::start(&text));
    until_routed(&client).await;
    let alive = "SELECT count(*) FROM outbox.relay WHERE heartbeat_at > now() - lease";
    until_count(&client, "two relays", alive, 2).await;
    // Known to live after both have entered: which of them was first is not told by their host.
    let settled = "SELECT count(*) FROM outbox.relay
                    WHERE heartbeat_at > (SELECT max(started_at) FROM outbox.relay)";
    until_count(&client, "both beat", settled, 2).await;
    // A clean stop is no trouble.
    let link = Link::new(Target::new(&config(&database.url(), "").database));
    let mut third = Process::start(&text);
    until_count(&client, "three relays", alive, 3).await;
    third.signal("TERM");
    third.ended().await;
    second.kill();
    let messages = eventually("it is told", LONG, async || {
        match look(&link, "shop", NO_PAUSE, Duration::ZERO).await.unwrap() {
            0 => Err("nothing is told".to_owned()),
            messages => Ok(messages),
        }
    })
    .await;
    assert_eq!(messages, 1);
    let told = eventually("somebody is told", LONG, async || {
        let told = peer.received().into_iter().find(|request| request.path == "/ops");
        told.ok_or_else(|| format!("{} requests", peer.requests()))
    })
    .await;
    let payload: serde_json::Value = serde_json::from_slice(&told.body).unwrap();
    assert_eq!(payload["cause"], "silent");
    assert_eq!(payload["subjects"][0]["count"], 1);
    let (code, said) = first.says(&["status"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("fell silent without stopping"), "{said}");
}
