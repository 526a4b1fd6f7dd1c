//! Fault 24: rights that go away, rows that are hidden, a database that takes no writes. The relay must
//! be loud, must not take an outbox it cannot see for an empty one, and must go on when it may again.

use tokio_postgres::Client;

use crate::harness::eventually;
use crate::harness::http::HttpPeer;
use crate::harness::plane::{LONG, number, send, until_closed, until_count, until_routed};
use crate::harness::postgres::Database;
use crate::harness::relay::{Process, crm, toml};

/// A relay that works as a role which has what `outbox_relay` has, and no more.
struct Clerk {
    database: Database,
    client: Client,
    peer: HttpPeer,
    role: String,
    relay: Process,
}

impl Clerk {
    async fn start() -> Clerk {
        let database = Database::migrated().await;
        let client = database.connect().await;
        let peer = HttpPeer::start().await;
        let role = format!("clerk_{}", database.name());
        let create = format!("CREATE ROLE {role} LOGIN IN ROLE outbox_relay");
        client.batch_execute(&create).await.unwrap();
        let url = database.url().replace("user=postgres", &format!("user={role}"));
        let relay = Process::start(&toml(&url, "lease = \"1s\"", &crm(&peer.url("/"), "")));
        until_routed(&client).await;
        send(&client, "t", "{}").await;
        until_closed(&client).await;
        Clerk { database, client, peer, role, relay }
    }

    async fn does(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Waits for a warning or an error of the relay that holds these words.
    async fn until_loud(&self, after: usize, words: &str) {
        eventually(&format!("the relay says {words:?}"), LONG, async || {
            let log = self.relay.log();
            let loud = |line: &&str| line.contains("WARN") || line.contains("ERROR");
            let said = log[after..].lines().filter(loud).any(|line| line.contains(words));
            said.then_some(()).ok_or_else(|| log.lines().last().unwrap_or_default().to_owned())
        })
        .await;
    }

    /// Ends the relay's sessions, so that what roles are set to counts for it.
    async fn ends_sessions(&self) {
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                    WHERE application_name = 'outboxd' AND datname = current_database()";
        number(&self.client, sql).await;
    }

    async fn end(mut self) {
        self.relay.signal("TERM");
        assert!(self.relay.ended().await.success());
        let role = &self.role;
        self.does(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
        drop(self.database);
    }
}

/// Each right by itself is taken away under load and given back: what was accepted meanwhile is
/// recorded then, and nothing is sent twice for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_taken_away_is_told_and_costs_time_only() {
    let clerk = Clerk::start().await;
    for (right, words) in [
        ("SELECT ON outbox.delivery", "cannot fetch"),
        ("DELETE ON outbox.delivery", "cannot record outcomes yet"),
        ("SELECT ON outbox.message", "cannot fetch"),
        ("UPDATE ON outbox.relay", "cannot renew the lease"),
    ] {
        let before = clerk.relay.log().len();
        clerk.does(&format!("REVOKE {right} FROM outbox_relay")).await;
        send(&clerk.client, "t", "{}").await;
        clerk.until_loud(before, words).await;
        clerk.until_loud(before, "42501").await;
        let open = number(&clerk.client, "SELECT count(*) FROM outbox.delivery").await;
        assert!(open == 1 || right.contains("relay"), "without {right}: {open} open");
        clerk.does(&format!("GRANT {right} TO outbox_relay")).await;
        until_closed(&clerk.client).await;
    }
    assert_eq!(clerk.peer.requests(), 5, "nothing was sent twice");
    clerk.end().await;
}

/// A database that takes no writes any more is told and waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_turns_read_only_is_told_and_waited_for() {
    let clerk = Clerk::start().await;
    let role = &clerk.role;
    clerk.does(&format!("ALTER ROLE {role} SET default_transaction_read_only = on")).await;
    clerk.ends_sessions().await;
    clerk.until_loud(0, "25006").await;
    send(&clerk.client, "t", "{}").await;
    let living = "SELECT count(*) FROM outbox.relay WHERE heartbeat_at > clock_timestamp() - lease";
    until_count(&clerk.client, "its lease is over", living, 0).await;
    clerk.does(&format!("ALTER ROLE {role} RESET default_transaction_read_only")).await;
    until_closed(&clerk.client).await;
    assert_eq!(clerk.peer.requests(), 2);
    clerk.end().await;
}

/// Row security would show the relay an empty outbox, or deliveries without their messages. It must
/// believe neither.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_row_security_hides_are_not_taken_for_absent() {
    let clerk = Clerk::start().await;
    for (done, table) in (1..).zip(["delivery", "message", "sink"]) {
        let before = clerk.relay.log().len();
        clerk.does(&format!("ALTER TABLE outbox.{table} ENABLE ROW LEVEL SECURITY")).await;
        send(&clerk.client, "t", "{}").await;
        clerk.until_loud(before, &format!("row security hides rows of outbox.{table} ")).await;
        let waits = "SELECT count(*) FROM outbox.delivery WHERE state = 'pending'";
        assert_eq!(number(&clerk.client, waits).await, i64::from(table != "sink"), "{table}");
        assert!(!clerk.relay.log()[before..].contains("unseen messages"), "{table}");
        if table == "message" {
            // A policy that shows the role every row is as good as none.
            let role = &clerk.role;
            clerk
                .does(&format!("CREATE POLICY relay ON outbox.message TO {role} USING (true)"))
                .await;
        } else {
            clerk.does(&format!("ALTER TABLE outbox.{table} DISABLE ROW LEVEL SECURITY")).await;
        }
        until_closed(&clerk.client).await;
        assert_eq!(clerk.peer.requests(), 1 + done);
    }
    clerk.end().await;
}

/// And it does not start where it cannot see.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_does_not_start_where_rows_are_hidden_from_it() {
    let mut clerk = Clerk::start().await;
    clerk.relay.signal("TERM");
    clerk.relay.ended().await;
    clerk.does("ALTER TABLE outbox.delivery ENABLE ROW LEVEL SECURITY").await;
    let url = clerk.database.url().replace("user=postgres", &format!("user={}", clerk.role));
    let mut blind = Process::start(&toml(&url, "lease = \"1s\"", &crm(&clerk.peer.url("/"), "")));
    assert_eq!(blind.ended().await.code(), Some(1));
    assert!(blind.log().contains("row security hides rows of outbox.delivery "), "{}", blind.log());
    clerk.does("ALTER TABLE outbox.delivery DISABLE ROW LEVEL SECURITY").await;
    let role = &clerk.role;
    clerk.does(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}
