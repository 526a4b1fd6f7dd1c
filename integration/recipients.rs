//! What became of each recipient of a mail: stored, kept, and never sent again to those that accepted.

mod relay;

use std::time::Duration;

use outboxd::policy::Order;
use outboxd::recipients::{RecipientState, Recipients};
use outboxd::store::flow::sending;
use outboxd::store::work::{
    Accepted, Fetched, InHand, OpenSettlement, OpenState, fetch, fetch_below, heads, note_accepted,
    settle_open,
};
use outboxd::store::{Link, Target};
use tokio_postgres::Client;

use crate::harness::postgres::Database;
use crate::harness::relay::config;

use RecipientState::{Accepted as Took, Deferred, Refused};

/// What is known of recipients, by the names before their addresses' `@`.
fn known(states: &[(&str, RecipientState)]) -> Recipients {
    let mut recipients = Recipients::default();
    for (name, state) in states {
        recipients.note(&format!("{name}@x.example"), *state, "250 said");
    }
    recipients
}

/// A sink with one message to deliver, worked by this test.
async fn stage() -> (Database, Client, Link) {
    let database = Database::migrated().await;
    let client = database.connect().await;
    client
        .batch_execute(
            "INSERT INTO outbox.sink (name, kind, owner, epoch) VALUES ('mail', 'smtp', 'me', 1);
             INSERT INTO outbox.message (type, payload) VALUES ('t', '{}');
             DELETE FROM outbox.delivery;
             INSERT INTO outbox.delivery (message_id, sink, due_at) VALUES (1, 'mail', now())",
        )
        .await
        .unwrap();
    let link = Link::new(Target::new(&config(&database.url(), "").database));
    (database, client, link)
}

/// The end of an attempt that leaves the delivery open.
fn open_end(rev: i32, recipients: Option<Recipients>) -> [OpenSettlement; 1] {
    [OpenSettlement {
        message_id: 1,
        target: String::new(),
        rev,
        attempt: 1,
        state: OpenState::Pending,
        delay: Duration::ZERO,
        reason: "451 later".to_owned(),
        content_hash: None,
        recipients,
    }]
}

async fn fetched(link: &Link) -> Fetched {
    let epoch = jiff::Timestamp::UNIX_EPOCH;
    let in_hand = InHand::default();
    let walk = fetch(link, "mail", 0, epoch, 10, &in_hand, Order::default()).await;
    walk.unwrap().rows.remove(0)
}

fn accepted(round: i32, recipients: Recipients) -> [Accepted; 1] {
    [Accepted { message_id: 1, target: String::new(), round, recipients }]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_attempt_learned_comes_with_the_next_fetch_and_acceptances_stay() {
    let (_database, _, link) = stage().await;
    assert!(fetched(&link).await.recipients.is_empty());
    let first = known(&[("a", Took), ("b", Refused), ("c", Deferred)]);
    assert_eq!(
        settle_open(&link, "mail", 1, &open_end(0, Some(first.clone()))).await.unwrap().len(),
        1
    );
    assert_eq!(fetched(&link).await.recipients, first);
    // Nothing learned: nothing changes. An attempt that knew less takes nothing back.
    settle_open(&link, "mail", 1, &open_end(1, None)).await.unwrap();
    assert_eq!(fetched(&link).await.recipients, first);
    let second = known(&[("a", Deferred), ("c", Took)]);
    settle_open(&link, "mail", 1, &open_end(2, Some(second))).await.unwrap();
    assert_eq!(fetched(&link).await.recipients, known(&[("a", Took), ("b", Refused), ("c", Took)]));
}

/// Guard: a row that came without it would have its mail sent again to those that have it.
#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_a_row_brings_what_is_known_of_its_recipients() {
    let (_database, client, link) = stage().await;
    let states = known(&[("a", Took), ("b", Deferred)]);
    let json = states.json();
    let sql = format!("UPDATE outbox.delivery SET recipients = '{json}', key = 'k', rev = 1");
    client.batch_execute(&sql).await.unwrap();
    assert_eq!(fetched(&link).await.recipients, states, "the walk");
    let (start, none) = ((jiff::Timestamp::UNIX_EPOCH, 0), InHand::default());
    let now = jiff::Timestamp::now();
    let below = fetch_below(&link, "mail", 0, start, now, (10, 10), &none).await.unwrap();
    assert_eq!(below.0[0].recipients, states, "the full poll");
    let key = [(String::new(), "k".to_owned())];
    let heads = heads(&link, "mail", &key, Order::default()).await.unwrap();
    assert_eq!(heads[0].0.recipients, states, "the head of a key");
    client
        .batch_execute(
            "UPDATE outbox.delivery SET state = 'sending', due_at = 'infinity', epoch = 1,
                    repeatable = false, attempt = 1, rev = 2",
        )
        .await
        .unwrap();
    let intents = sending(&link, "mail", 1, 10).await.unwrap();
    assert_eq!(intents[0].0.recipients, states, "an intent whose answer was lost");
}

/// Guard: an attempt that was overtaken, by another owner or by an operator, records nothing but who
/// accepted; and that without the rev, by which the present attempt is yet to be recorded.
#[tokio::test(flavor = "multi_thread")]
async fn who_accepted_is_noted_whoever_owns_the_sink_and_whatever_an_operator_did() {
    let (_database, client, link) = stage().await;
    let mine = known(&[("a", Took), ("b", Refused), ("c", Deferred)]);
    for overtaken in [
        "UPDATE outbox.sink SET owner = 'other', epoch = 2",
        "UPDATE outbox.delivery SET rev = rev + 1, recipients = NULL",
    ] {
        client.batch_execute(overtaken).await.unwrap();
        let before = fetched(&link).await;
        note_accepted(&link, "mail", &accepted(1, mine.accepted())).await.unwrap();
        note_accepted(&link, "mail", &accepted(1, mine.accepted())).await.unwrap();
        assert_eq!(
            settle_open(&link, "mail", 1, &open_end(0, Some(mine.clone()))).await.unwrap(),
            []
        );
        let row = fetched(&link).await;
        assert_eq!(row.recipients, known(&[("a", Took)]), "{overtaken}");
        assert_eq!((row.rev, row.attempt), (before.rev, 0), "{overtaken}");
    }
    // Whoever fetched the row before that did not know it, and takes nothing back.
    let other = known(&[("a", Deferred), ("b", Took)]);
    let end = open_end(fetched(&link).await.rev, Some(other));
    assert_eq!(settle_open(&link, "mail", 2, &end).await.unwrap().len(), 1);
    assert_eq!(fetched(&link).await.recipients, known(&[("a", Took), ("b", Took)]));
    // Another life of the delivery is for everybody again.
    client
        .batch_execute("UPDATE outbox.delivery SET round = 2, rev = rev + 1, recipients = NULL")
        .await
        .unwrap();
    note_accepted(&link, "mail", &accepted(1, mine.accepted())).await.unwrap();
    assert!(fetched(&link).await.recipients.is_empty());
}

/// Guard: nothing but that changes a row without counting up its rev, and what is known has its form.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_changed_by_its_rev_and_what_is_known_is_an_object() {
    let (_database, client, _) = stage().await;
    for refused in [
        "UPDATE outbox.delivery SET reason = 'x'",
        "UPDATE outbox.delivery SET recipients = '{}', attempt = 1",
        "UPDATE outbox.delivery SET recipients = '{}', due_at = now() + interval '1 h'",
        "UPDATE outbox.delivery SET recipients = '[]', rev = 1",
    ] {
        let error = client.batch_execute(refused).await.unwrap_err();
        let error = error.as_db_error().unwrap().clone();
        assert_eq!(error.constraint(), Some("delivery_state_fits"), "{refused}: {error}");
    }
    client.batch_execute("UPDATE outbox.delivery SET recipients = '{}'").await.unwrap();
}

/// What expires after some have it is closed, and the record says who came to which end.
#[tokio::test(flavor = "multi_thread")]
async fn what_expires_half_delivered_says_so() {
    let (_database, client, link) = stage().await;
    let first = known(&[("a", Took), ("b", Deferred)]);
    settle_open(&link, "mail", 1, &open_end(0, Some(first))).await.unwrap();
    let over =
        outboxd::store::work::ExpiredSettlement { message_id: 1, target: String::new(), rev: 1 };
    outboxd::store::work::settle_expired(&link, "mail", 1, &[over]).await.unwrap();
    let receipt: String =
        client.query_one("SELECT receipt FROM outbox.ledger", &[]).await.unwrap().get(0);
    assert_eq!(receipt, "recipients: 1 accepted, 1 deferred");
}
