//! What routes say of their attempts, end to end.

use crate::harness::http::{Answer, HttpPeer, Received};
use crate::harness::plane::{number, until_count, until_routed};
use crate::harness::postgres::Database;
use crate::harness::relay::{Relay, config};
use crate::harness::smtp::{Say, SmtpPeer, Step};

/// What became of each message, by type: its state or outcome, and the attempts it took.
async fn ends(client: &tokio_postgres::Client) -> Vec<(String, String, i32)> {
    let sql = "SELECT m.type, h.state, h.attempts FROM outbox.history h
                 JOIN outbox.message m ON m.id = h.message_id ORDER BY m.type, m.id";
    let rows = client.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

fn end(kind: &str, state: &str, attempts: i32) -> (String, String, i32) {
    (kind.to_owned(), state.to_owned(), attempts)
}

const PENDING: &str = "SELECT count(*) FROM outbox.delivery WHERE state IN ('pending', 'sending')";

/// Each route by its own keys, where they differ from the sink's.
#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_is_judged_by_the_policy_of_its_route() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    // The type says what is answered: refused.400, broken.500.
    peer.decide(|request: &Received| {
        let kind = request.header("outboxd-type").unwrap_or_default();
        Answer::status(kind.rsplit('.').next().unwrap_or_default().parse().unwrap_or(204))
    });
    let rest = format!(
        "[sinks.crm]\nkind = \"webhook\"\nurl = \"{}\"\npermanent = [400]\n\
         retry = {{ delays = [\"50ms\"], jitter = 0 }}\n\
         [[routes]]\ntype = \"plain.*\"\nsink = \"crm\"\n\
         [[routes]]\ntype = \"patient.*\"\nsink = \"crm\"\npermanent = []\n\
         retry = {{ delays = [\"50ms\", \"50ms\"], jitter = 0 }}\n\
         [[routes]]\ntype = \"once.*\"\nsink = \"crm\"\nguarantee = \"at-most-once\"\n",
        peer.url("/")
    );
    let relay = Relay::start(config(&database.url(), &rest));
    until_routed(&client).await;
    client
        .batch_execute(
            "INSERT INTO outbox.message (type, payload)
             SELECT t, '{}' FROM unnest(ARRAY['plain.400', 'plain.410', 'plain.500', 'patient.400',
               'once.204', 'once.400', 'once.404', 'once.500', 'once.503']) t",
        )
        .await
        .unwrap();
    until_count(&client, "all are settled", PENDING, 0).await;
    relay.stop().await;
    let ends = ends(&client).await;
    assert_eq!(
        ends,
        [
            end("once.204", "delivered", 1),
            end("once.400", "dead", 1),
            end("once.404", "dead", 1),
            end("once.500", "held", 1),
            end("once.503", "held", 1),
            end("patient.400", "dead", 3),
            end("plain.400", "dead", 1),
            end("plain.410", "dead", 2),
            end("plain.500", "dead", 2),
        ]
    );
    let attempts: i32 = ends.iter().map(|(.., attempts)| attempts).sum();
    assert_eq!(usize::try_from(attempts), Ok(peer.requests()), "an attempt is a request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_is_judged_by_the_policy_of_its_route() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = SmtpPeer::start().await;
    peer.always(Step::Rcpt, Say::text("550 5.1.1 unknown"));
    let route = |kind: &str, more: &str| {
        format!(
            "[[routes]]\ntype = \"{kind}\"\nsink = \"mail\"\nto = \"a@b.example\"\n\
             subject = \"S\"\ntext = \"T\"\n{more}"
        )
    };
    let rest = format!(
        "[sinks.mail]\nkind = \"smtp\"\nurl = \"smtp://{}\"\nfrom = \"shop@example.com\"\n\
         retry = {{ delays = [\"50ms\"], jitter = 0 }}\n{}{}",
        peer.address,
        route("plain", ""),
        route("patient", "permanent = [551]\n")
    );
    let relay = Relay::start(config(&database.url(), &rest));
    until_routed(&client).await;
    client
        .batch_execute(
            "INSERT INTO outbox.message (type, payload) VALUES ('plain', '{}'), ('patient', '{}')",
        )
        .await
        .unwrap();
    until_count(&client, "both are settled", PENDING, 0).await;
    relay.stop().await;
    assert_eq!(ends(&client).await, [end("patient", "dead", 2), end("plain", "dead", 1)]);
}

/// Guard: by the database's clock, from when the message was written; whichever of `expires_after`
/// and `expires_at` comes first, and with a key as without one.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_older_than_its_route_allows_expires_unsent() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let rest = format!(
        "[sinks.crm]\nkind = \"webhook\"\nurl = \"{}\"\nexpires_after = \"1d\"\n\
         [[routes]]\ntype = \"*\"\nsink = \"crm\"\n\
         [[routes]]\ntype = \"brief.*\"\nsink = \"crm\"\nexpires_after = \"1h\"\n",
        peer.url("/")
    );
    let relay = Relay::start(config(&database.url(), &rest));
    until_routed(&client).await;
    client
        .batch_execute(
            "INSERT INTO outbox.message (type, key, created_at, expires_at, payload)
             SELECT kind, key, now() - age::interval, now() + left_over::interval, '{}'
               FROM (VALUES ('brief.fresh', NULL, '59 min', NULL),
                            ('brief.old', NULL, '1 h', NULL),
                            ('brief.old', 'k', '2 h', NULL),
                            ('brief.over', NULL, '0', '-1 s'),
                            ('brief.tomorrow', NULL, '-1 d', NULL),
                            ('long.fresh', 'k', '2 h', NULL),
                            ('long.old', NULL, '25 h', '1 h')) m (kind, key, age, left_over)",
        )
        .await
        .unwrap();
    until_count(&client, "all are closed", "SELECT count(*) FROM outbox.delivery", 0).await;
    relay.stop().await;
    assert_eq!(
        ends(&client).await,
        [
            end("brief.fresh", "delivered", 1),
            end("brief.old", "expired", 0),
            end("brief.old", "expired", 0),
            end("brief.over", "expired", 0),
            end("brief.tomorrow", "delivered", 1),
            end("long.fresh", "delivered", 1),
            end("long.old", "expired", 0),
        ]
    );
    assert_eq!(peer.requests(), 3);
    assert_eq!(number(&client, "SELECT count(*) FROM outbox.ledger").await, 7);
}
