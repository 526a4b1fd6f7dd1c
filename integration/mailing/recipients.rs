//! Files by mail to several recipients, of whom some take it and others do not.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use outboxd::recipients::{RecipientState, Recipients};
use outboxd::store::mailing::{self, Actor, Dialogue, MailingEnd};
use outboxd::store::{Link, Target};
use tokio_postgres::Client;

use super::{daily, in_full, steps, there_for, until_state};
use crate::harness::plane::number;
use crate::harness::postgres::Database;
use crate::harness::relay::{Relay, config};
use crate::harness::smtp::{Say, SmtpPeer};

const DAY_IS_TAKEN: &str = "SELECT count(*) FROM outbox.mailing WHERE day IS NOT NULL";

/// How often the server was asked for a recipient, and how often it took a mail for it.
fn asked(peer: &SmtpPeer, name: &str) -> (usize, usize) {
    let address = format!("{name}@example.com");
    let command = format!("RCPT TO:<{address}>");
    (
        peer.lines().iter().filter(|line| line.starts_with(&command)).count(),
        in_full(peer).iter().filter(|mail| mail.to.contains(&address)).count(),
    )
}

/// Who has the file has it once; who deferred it is asked again alone, and who refused it by an operator
/// alone. The day is taken from the first one that has it.
#[tokio::test(flavor = "multi_thread")]
async fn each_recipient_of_a_file_comes_to_its_own_end() {
    let (database, client, peer, folder, zone) = there_for(1).await;
    let asked_before = std::sync::Mutex::new(0);
    let refuses = Arc::new(AtomicBool::new(true));
    let still = Arc::clone(&refuses);
    peer.decide_recipient(move |address| match address.split('@').next() {
        Some("bad") if still.load(SeqCst) => Some(Say::text("550 5.1.1 <bad@example.com> unknown")),
        Some("later") => {
            let mut asked = asked_before.lock().unwrap();
            *asked += 1;
            (*asked == 1).then(|| Say::text("451 4.3.0 later"))
        }
        _ => None,
    });
    let to = "to = [\"office@example.com\", \"bad@example.com\", \"later@example.com\"]";
    let text = daily(&peer, folder.path(), &zone, "").replace("to = \"office@example.com\"", to);
    let relay = Relay::start(config(&database.url(), &text));
    until_state(&client, "dead").await;
    assert_eq!(steps(&client).await, "planned built sending unsent built sending dead");
    assert_eq!(number(&client, DAY_IS_TAKEN).await, 1, "some have it");
    assert_eq!(
        (asked(&peer, "office"), asked(&peer, "bad"), asked(&peer, "later")),
        ((1, 1), (1, 0), (2, 1))
    );
    let known = "SELECT concat_ws('; ', outbox.recipient_counts(m.recipients),
                                  m.recipients -> 'bad@example.com' ->> 'reply', m.reason) FROM outbox.mailing m";
    let known: String = client.query_one(known, &[]).await.unwrap().get(0);
    assert!(
        known.starts_with("2 accepted, 1 refused; 550 5.1.1 <…> unknown; 2 accepted, 1 refused:"),
        "{known}"
    );

    refuses.store(false, SeqCst);
    let retry = "SELECT outbox.retry_mailing('orders', m.period) FROM outbox.mailing m";
    client.batch_execute(retry).await.unwrap();
    until_state(&client, "sent").await;
    relay.stop().await;
    assert_eq!(
        (asked(&peer, "office"), asked(&peer, "bad"), asked(&peer, "later")),
        ((1, 1), (2, 1), (2, 1))
    );
    assert_eq!(number(&client, DAY_IS_TAKEN).await, 1);
}

/// A mail that some have keeps its day and gets no further file; and who accepted is noted also by a
/// relay that has lost the sink.
#[tokio::test(flavor = "multi_thread")]
async fn what_some_have_keeps_its_day_and_gets_no_further_file() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    client
        .batch_execute(
            "INSERT INTO outbox.sink (name, kind, owner, epoch) VALUES ('orders', 'csv', 'a', 7)",
        )
        .await
        .unwrap();
    let link = Link::new(Target::new(&config(&database.url(), "").database));
    let mine = Actor { sink: "orders", epoch: 7, relay: "a" };
    let day = Some("2026-11-20".parse().unwrap());
    let id = mailing::plan(&link, &mine, "d1", &[1]).await.unwrap().unwrap();
    let begin = async |day| {
        assert!(mailing::build(&link, &mine, id, "hash").await.unwrap());
        mailing::begin(&link, &mine, id, day, "post", "hash").await.unwrap().unwrap()
    };
    let end = async |actor: &Actor<'_>, since, end, learned: &[(&str, RecipientState)]| {
        let mut recipients = Recipients::default();
        for (name, state) in learned {
            recipients.note(name, *state, "said");
        }
        let (reason, transcript) = ("?".to_owned(), String::new());
        let recipients = Some(recipients);
        let dialogue = Dialogue { begun: since, end, reason, transcript, recipients };
        mailing::end(&link, actor, id, &dialogue).await.unwrap()
    };
    let unsent = || MailingEnd::Unsent { delay: Duration::ZERO, spent: true };
    let row = async |client: &Client| -> String {
        let sql = "SELECT concat_ws(' ', m.state, coalesce(m.day::text, 'free'),
                                    outbox.recipient_counts(m.recipients)) FROM outbox.mailing m";
        client.query_one(sql, &[]).await.unwrap().get(0)
    };
    let since = begin(day).await;
    assert!(end(&mine, since, unsent(), &[("a", RecipientState::Deferred)]).await);
    assert_eq!(row(&client).await, "unsent free 1 deferred");
    assert!(mailing::add(&link, &mine, id, "d2", &[2]).await.unwrap(), "nobody has it");

    let since = begin(day).await;
    let half = [("a", RecipientState::Deferred), ("b", RecipientState::Accepted)];
    assert!(end(&mine, since, unsent(), &half).await);
    assert_eq!(row(&client).await, "unsent 2026-11-20 1 accepted, 1 deferred");
    assert!(!mailing::add(&link, &mine, id, "d3", &[3]).await.unwrap(), "b would never get it");
    let since = begin(Some("2026-11-21".parse().unwrap())).await;
    assert_eq!(row(&client).await, "sending 2026-11-20 1 accepted, 1 deferred");

    // The former owner knows more than its successor, who holds it.
    client.batch_execute("UPDATE outbox.sink SET owner = 'b', epoch = 8").await.unwrap();
    let heir = Actor { sink: "orders", epoch: 8, relay: "b" };
    mailing::hold_silent(&link, &heir, Duration::ZERO).await.unwrap();
    let rest = [("a", RecipientState::Accepted), ("c", RecipientState::Deferred)];
    assert!(!end(&mine, since, unsent(), &rest).await, "not its to say");
    assert_eq!(row(&client).await, "held 2026-11-20 2 accepted");
}

/// Guard (the day): who deferred the day's mail is asked again on that day, though the next attempt would
/// come later; after that it is an operator who has it sent to them, and to nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_some_have_is_given_up_for_the_others_when_its_day_is_over() {
    let (database, client, peer, folder, zone) = there_for(1).await;
    let defers = Arc::new(AtomicBool::new(true));
    let still = Arc::clone(&defers);
    peer.decide_recipient(move |address| {
        let defers = still.load(SeqCst) && address.starts_with("later@");
        defers.then(|| Say::text("451 4.3.0 later"))
    });
    let to = "to = \"office@example.com, later@example.com\"";
    let text = daily(&peer, folder.path(), &zone, "")
        .replace("to = \"office@example.com\"", to)
        .replace("\"100ms\", \"100ms\"", "\"1h\", \"1h\"");
    let relay = Relay::start(config(&database.url(), &text));
    until_state(&client, "unsent").await;
    let past = "UPDATE outbox.mailing SET day = day - 1 RETURNING day::text";
    let day: String = client.query_one(past, &[]).await.unwrap().get(0);
    until_state(&client, "dead").await;
    let reason: String =
        client.query_one("SELECT reason FROM outbox.mailing", &[]).await.unwrap().get(0);
    assert_eq!(reason, "the next mail is due; recipients: 1 accepted, 1 deferred");
    assert_eq!((asked(&peer, "office"), asked(&peer, "later")), ((1, 1), (1, 0)));

    defers.store(false, SeqCst);
    let retry = "SELECT outbox.retry_mailing('orders', m.period) FROM outbox.mailing m";
    client.batch_execute(retry).await.unwrap();
    until_state(&client, "sent").await;
    relay.stop().await;
    assert_eq!((asked(&peer, "office"), asked(&peer, "later")), ((1, 1), (2, 1)));
    let kept: String =
        client.query_one("SELECT day::text FROM outbox.mailing", &[]).await.unwrap().get(0);
    assert_eq!(kept, day, "the day on which the first one had it");
}
