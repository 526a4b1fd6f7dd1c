//! Fault 17: the database's clock is stepped by an hour, forwards and back, under two relays.
//!
//! The machine's clock cannot be stepped for a test, and PostgreSQL has no clock of its own. So the
//! functions that tell the time are put before PostgreSQL's for everything that the relay and the
//! routing functions ask; what they tell is stepped. The relay's own clock stays where it is: both
//! ways the two are an hour apart, and every decision about time must follow the database's.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::harness::http::HttpPeer;
use crate::harness::plane::{message_ids, number, until_closed, until_count, until_routed};
use crate::harness::postgres::Database;
use crate::harness::relay::{Process, crm, toml};

/// The stepped clock, and everything that is to go by it.
const STEPPED: &str = "CREATE SCHEMA stepped;
     CREATE TABLE stepped.step AS SELECT interval '0' AS by;
     CREATE FUNCTION stepped.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
       RETURN (SELECT pg_catalog.clock_timestamp() + s.by FROM stepped.step s);
     CREATE FUNCTION stepped.statement_timestamp() RETURNS timestamptz LANGUAGE sql STABLE
       RETURN (SELECT pg_catalog.statement_timestamp() + s.by FROM stepped.step s);
     GRANT USAGE ON SCHEMA stepped TO public;
     GRANT SELECT ON stepped.step TO public;
     ALTER TABLE outbox.relay ALTER heartbeat_at SET DEFAULT stepped.clock_timestamp();
     ALTER FUNCTION outbox.route_inserted() SET search_path = stepped, pg_catalog, pg_temp;
     ALTER FUNCTION outbox.route_existing(bigint[]) SET search_path = stepped, pg_catalog, pg_temp";

async fn step(client: &Client, by: &str) {
    client.batch_execute(&format!("UPDATE stepped.step SET by = '{by}'")).await.unwrap();
}

/// Sends a message that falls due so much later, by the database's clock; answers its id.
async fn send_due(client: &Client, later: &str) -> i64 {
    let sql = format!(
        "INSERT INTO outbox.message (type, payload, due_at)
         VALUES ('t', '{{}}', stepped.clock_timestamp() + interval '{later}') RETURNING id"
    );
    number(client, &sql).await
}

/// A database whose clock can be stepped, and how relays are started that go by it.
struct Stepped {
    database: Database,
    client: Client,
    peer: HttpPeer,
    role: String,
}

impl Stepped {
    async fn start() -> Stepped {
        let database = Database::migrated().await;
        let client = database.connect().await;
        let peer = HttpPeer::start().await;
        let role = format!("clock_{}", database.name());
        let (stepped, name) = (STEPPED, database.name());
        let setup = format!(
            "{stepped}; CREATE ROLE {role} LOGIN IN ROLE outbox_relay;
             ALTER ROLE {role} IN DATABASE {name} SET search_path = stepped, pg_catalog"
        );
        client.batch_execute(&setup).await.unwrap();
        Stepped { database, client, peer, role }
    }

    fn relay(&self) -> Process {
        let url = self.database.url().replace("user=postgres", &format!("user={}", self.role));
        Process::start(&toml(&url, "lease = \"2s\"", &crm(&self.peer.url("/"), "")))
    }

    async fn end(self) {
        let role = &self.role;
        self.client
            .batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_databases_clock_may_step_by_an_hour_and_alone_decides() {
    let stepped = Stepped::start().await;
    let (client, peer) = (&stepped.client, &stepped.peer);
    let relays = [stepped.relay(), stepped.relay()];
    until_routed(client).await;
    let entered = "SELECT count(*) FROM outbox.relay";
    until_count(client, "both are entered", entered, 2).await;
    send_due(client, "0").await;
    until_closed(client).await;

    // Each step with a message that is due half an hour later by the clock before it.
    let (mut arrived, mut waiting) = (1, Vec::new());
    for (by, hours) in [("1 hour", 1), ("-1 hour", -1), ("0", 0)] {
        waiting.push((send_due(client, "30 minutes").await, hours));
        let begun = Instant::now();
        step(client, by).await;
        // A relay whose lease is over by that clock enters anew, and goes on.
        let now = send_due(client, "0").await;
        until_arrived(peer, now).await;
        println!("stepped to {by}: {:?} until a new message arrived", begun.elapsed());
    }
    let ids = || message_ids(&peer.received());
    // The first fell due with the step forwards; the second, due by a clock an hour ahead, and the
    // third, due by one an hour behind, when the clock was there.
    let [(first, _), (second, _), (third, _)] = waiting[..] else { unreachable!() };
    for id in [first, third] {
        until_arrived(peer, id).await;
    }
    assert!(!ids().contains(&second), "due in an hour and a half");
    arrived += 3 + 2;
    step(client, "2 hours").await;
    until_arrived(peer, second).await;
    arrived += 1;
    until_closed(client).await;
    for mut relay in relays {
        relay.signal("TERM");
        assert!(relay.ended().await.success());
    }
    assert_eq!(peer.requests(), arrived, "nothing twice, nothing early: {:?}", ids());
    stepped.end().await;
}

/// A relay that ended before the clock was set back beat last in the future.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_relay_does_not_live_until_a_clock_that_was_set_back_is_there_again() {
    let stepped = Stepped::start().await;
    let (client, peer) = (&stepped.client, &stepped.peer);
    let first = stepped.relay();
    until_routed(client).await;
    let before = send_due(client, "0").await;
    until_arrived(peer, before).await;
    until_closed(client).await;
    first.kill();
    step(client, "-1 hour").await;
    let mut second = stepped.relay();
    let after = send_due(client, "0").await;
    until_arrived(peer, after).await;
    until_closed(client).await;
    second.signal("TERM");
    assert!(second.ended().await.success());
    assert_eq!(peer.requests(), 2);
    stepped.end().await;
}

async fn until_arrived(peer: &HttpPeer, id: i64) {
    let here = peer.until(|peer| message_ids(&peer.received()).contains(&id));
    tokio::time::timeout(Duration::from_secs(30), here).await.expect("it arrives");
}
