//! A mail server that does not let us in, and a second one behind it: what becomes of the rows, and what an
//! operator is told.

use crate::harness::eventually;
use crate::harness::http::{HttpPeer, Received};
use crate::harness::plane::{LONG, number, until_closed, until_count, until_routed};
use crate::harness::postgres::Database;
use crate::harness::relay::{Process, toml};
use crate::harness::smtp::{Settings, SmtpPeer};

const ROUTE: &str = "[[routes]]\ntype = \"order.*\"\nsink = \"mail\"\nto = \"{{ payload.to }}\"\n\
                     subject = \"s\"\ntext = \"t\"\n\
                     [[routes]]\ntype = \"outboxd.alert\"\nsink = \"chat\"\n";

fn config(database: &Database, servers: &str, chat: &HttpPeer) -> String {
    let rest = format!(
        "[sinks.mail]\nkind = \"smtp\"\nfrom = \"shop@example.com\"\n{servers}\
         [sinks.chat]\nkind = \"webhook\"\nurl = \"{}\"\n{ROUTE}",
        chat.url("/")
    );
    toml(&database.url(), "lease = \"2s\"\ngrace = \"10s\"", &rest)
}

async fn send_mails(client: &tokio_postgres::Client, count: usize) {
    let sql = format!(
        "INSERT INTO outbox.message (type, payload)
         SELECT 'order.created', jsonb_build_object('to', 'a' || n || '@x.example')
           FROM generate_series(1, {count}) AS n"
    );
    client.batch_execute(&sql).await.unwrap();
}

/// The alerts that speak of this sink.
fn told_of(chat: &HttpPeer, words: &str) -> usize {
    let speaks = |told: &Received| String::from_utf8_lossy(&told.body).contains(words);
    chat.received().iter().filter(|told| speaks(told)).count()
}

/// S7: a thousand mails and a password that is wrong. One alert, no dead row, no attempt spent, one login;
/// with the right one, put in place by SIGHUP, all go out at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_costs_no_mail_and_is_told_once() {
    let login = Some(("shop".to_owned(), "new".to_owned()));
    let peer = SmtpPeer::start_with(Settings { login, ..Settings::default() }).await;
    let chat = HttpPeer::start().await;
    let database = Database::migrated().await;
    let client = database.connect().await;
    let with = |password: &str| {
        let login = format!("username = \"shop\"\npassword = \"{password}\"\n");
        config(&database, &format!("url = \"smtp://{}\"\n{login}", peer.address), &chat)
    };
    let logins = || peer.commands().iter().filter(|command| *command == "AUTH").count();
    let relay = Process::start(&with("old"));
    until_routed(&client).await;
    send_mails(&client, 1_000).await;
    eventually("an alert", LONG, async || match told_of(&chat, "AUTH: 535 5.7.8 no") {
        1 => Ok(()),
        count => Err(format!("told {count} times")),
    })
    .await;
    // Whatever was in the hands of the relay is back.
    let open = "SELECT count(*) FROM outbox.delivery
                 WHERE sink = 'mail' AND state = 'pending' AND attempt = 0";
    until_count(&client, "all wait", open, 1_000).await;
    assert_eq!((logins(), peer.accepted()), (1, 0));
    let changed = "SELECT count(*) FROM outbox.delivery WHERE state <> 'pending' OR attempt > 0";
    assert_eq!(number(&client, changed).await, 0);
    let (_, said) = relay.says(&["status"]);
    assert!(said.contains("AUTH: 535 5.7.8 no"), "{said}");

    relay.reload(&with("new"));
    until_closed(&client).await;
    assert_eq!(peer.accepted(), 1_000);
    // One that finds out, and then one a connection, which serves a hundred mails; of four one at a time.
    assert!((11..=14).contains(&logins()), "{}", logins());
    let attempts = "SELECT count(*) FROM outbox.ledger
                     WHERE sink = 'mail' AND (outcome <> 'delivered' OR attempts <> 1)";
    assert_eq!(number(&client, attempts).await, 0);
    assert_eq!(told_of(&chat, "AUTH: 535 5.7.8 no"), 1);
}

/// S24, as an operator sees it: mails go the second way without a pause, the log and the ledger say so.
#[tokio::test(flavor = "multi_thread")]
async fn mails_go_the_second_way_and_somebody_is_told() {
    let login = Some(("shop".to_owned(), "new".to_owned()));
    let first = SmtpPeer::start_with(Settings { login, ..Settings::default() }).await;
    let (second, chat) = (SmtpPeer::start().await, HttpPeer::start().await);
    let database = Database::migrated().await;
    let client = database.connect().await;
    let with = |password: &str| {
        let servers = format!(
            "url = \"smtp://{}\"\nusername = \"shop\"\npassword = \"{password}\"\n\
             [sinks.mail.fallback]\nurl = \"smtp://{}\"\n",
            first.address, second.address
        );
        config(&database, &servers, &chat)
    };
    let relay = Process::start(&with("old"));
    until_routed(&client).await;
    send_mails(&client, 100).await;
    until_closed(&client).await;
    assert_eq!((first.accepted(), second.accepted()), (0, 100));
    assert_eq!(first.commands().iter().filter(|command| *command == "AUTH").count(), 1);
    relay.until_log("mails go through the fallback server", 1).await;
    let through = format!(
        "SELECT count(*) FROM outbox.ledger WHERE receipt LIKE 'fallback {}: 250 %'",
        second.address
    );
    assert_eq!(number(&client, &through).await, 100);
    let log = relay.log();
    assert!(log.contains("AUTH: 535 5.7.8 no") && !log.contains("x.example"), "{log}");

    relay.reload(&with("new"));
    relay.until_log("the new config is at work", 1).await;
    send_mails(&client, 10).await;
    until_closed(&client).await;
    assert_eq!((first.accepted(), second.accepted()), (10, 100));
    assert!(!relay.log().contains("new\"") && !relay.log().contains("old\""));
}
