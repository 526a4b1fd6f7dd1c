//! The same through a relay and a mail server that answers for each recipient as it is told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio_postgres::Client;

use crate::harness::eventually;
use crate::harness::http::Gate;
use crate::harness::plane::{LONG, number, send, until_closed, until_count, until_routed};
use crate::harness::postgres::{Cluster, Database};
use crate::harness::relay::{Process, Relay, config, toml};
use crate::harness::smtp::{Fate, Say, SmtpPeer, Step};

const RELAY: &str = "lease = \"1s\"\ngrace = \"10s\"";
const ONCE: &str = "guarantee = \"at-most-once\"";
/// Attempts that a test lets come when it wants them.
const FAR: &str = "retry = { delays = [\"1h\", \"1h\", \"1h\"] }";
const SOON: &str = "retry = { delays = [\"100ms\", \"100ms\", \"100ms\"] }";
const ACCEPTED: &str = "SELECT count(*) FROM outbox.delivery d
     WHERE jsonb_path_exists(d.recipients, '$.* ? (@.state == \"accepted\")')";

/// A sink that mails to whom the payload says.
fn mail(peer: &SmtpPeer, more: &str) -> String {
    format!(
        "[sinks.mail]\nkind = \"smtp\"\nurl = \"smtp://{}\"\nfrom = \"shop@example.com\"\n{more}\n\
         [[routes]]\ntype = \"t\"\nsink = \"mail\"\nto = \"{{{{ payload.to }}}}\"\n\
         subject = \"{{{{ id }}}}\"\ntext = \"x\"\n\
         [[routes]]\ntype = \"outboxd.alert\"\nsink = []\n",
        peer.address
    )
}

/// What the server says to whom, by the name before the `@`; it takes all others.
#[derive(Clone, Default)]
struct Book(Arc<Mutex<BTreeMap<String, String>>>);

impl Book {
    fn of(peer: &SmtpPeer) -> Book {
        let book = Book::default();
        let answers = Arc::clone(&book.0);
        peer.decide_recipient(move |address| {
            let name = address.split('@').next().unwrap_or_default();
            answers.lock().unwrap().get(name).map(|reply| Say::text(reply))
        });
        book
    }

    fn say(&self, name: &str, reply: &str) {
        self.0.lock().unwrap().insert(name.to_owned(), reply.to_owned());
    }

    fn take(&self, name: &str) {
        self.0.lock().unwrap().remove(name);
    }
}

/// A message to these.
async fn send_to(client: &Client, names: &[&str]) -> i64 {
    let to: Vec<String> = names.iter().map(|name| format!("{name}@x.example")).collect();
    send(client, "t", &serde_json::json!({ "to": to.join(", ") }).to_string()).await
}

/// How often the server was asked for a recipient, and how often it took a mail for it.
fn asked(peer: &SmtpPeer, name: &str) -> (usize, usize) {
    let address = format!("{name}@x.example");
    let command = format!("RCPT TO:<{address}>");
    let taken = peer.mails().into_iter().filter(|mail| mail.fate != Fate::Refused);
    (
        peer.lines().iter().filter(|line| line.starts_with(&command)).count(),
        taken.filter(|mail| mail.to.contains(&address)).count(),
    )
}

/// Makes what waits for its next attempt due now, as an operator would.
async fn hurry(client: &Client) {
    let hurry = "UPDATE outbox.delivery SET due_at = clock_timestamp(), rev = rev + 1
                  WHERE state = 'pending'";
    client.batch_execute(hurry).await.unwrap();
}

async fn until_attempt(client: &Client, attempt: i32) {
    let sql = format!("SELECT count(*) FROM outbox.delivery WHERE attempt = {attempt}");
    until_count(client, &format!("attempt {attempt} is recorded"), &sql, 1).await;
}

async fn until_state(client: &Client, state: &str) {
    let sql = format!("SELECT count(*) FROM outbox.delivery WHERE state = '{state}'");
    until_count(client, state, &sql, 1).await;
}

/// What is known of the recipients of the one delivery: `bad refused, good accepted`.
async fn known(client: &Client) -> String {
    let sql =
        "SELECT coalesce(string_agg(split_part(e.key, '@', 1) || ' ' || (e.value ->> 'state'), ', '
                                          ORDER BY e.key), '')
                 FROM outbox.delivery d LEFT JOIN LATERAL jsonb_each(d.recipients) e ON true";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// [good, 550, 451]: one has it at once and never again, one is asked alone until it has it, also after
/// a restart and after a kill, and one is on the list of a dead delivery, until an operator asks it again.
#[tokio::test(flavor = "multi_thread")]
async fn each_recipient_comes_to_its_own_end() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = SmtpPeer::start().await;
    let book = Book::of(&peer);
    book.say("bad", "550 5.1.1 <bad@x.example> unknown");
    book.say("later", "451 4.3.0 <later@x.example> later");
    let config = toml(&database.url(), RELAY, &mail(&peer, FAR));
    let mut relay = Process::start(&config);
    until_routed(&client).await;
    let id = send_to(&client, &["good", "bad", "later"]).await;
    until_attempt(&client, 1).await;
    assert_eq!(known(&client).await, "bad refused, good accepted, later deferred");
    relay.signal("TERM");
    assert!(relay.ended().await.success());
    let mut logs = relay.log();

    let relay = Process::start(&config);
    hurry(&client).await;
    until_attempt(&client, 2).await;
    logs += &relay.log();
    relay.kill();

    book.take("later");
    let relay = Process::start(&config);
    hurry(&client).await;
    until_state(&client, "dead").await;
    assert_eq!(known(&client).await, "bad refused, good accepted, later accepted");
    for (name, times) in [("good", (1, 1)), ("bad", (1, 0)), ("later", (3, 1))] {
        assert_eq!(asked(&peer, name), times, "{name}");
    }
    let (code, shown) = relay.says(&["show", &id.to_string()]);
    assert_eq!(code, 0);
    let list = format!("recipients of {id}/mail: 2 accepted, 1 refused\n");
    assert!(shown.contains(&list), "{shown}");
    assert!(shown.contains("bad@x.example    refused   550 5.1.1 <…> unknown"), "{shown}");
    let (_, listed) = relay.says(&["list", "--state", "dead"]);
    assert!(listed.contains("2 accepted, 1 refused"), "{listed}");
    assert_eq!(listed.matches("1 refused").count(), 1, "once: {listed}");
    let (code, _) = relay.says(&["status"]);
    assert_eq!(code, 1, "a dead one is wrong");

    book.take("bad");
    assert_eq!(relay.says(&["retry", &id.to_string()]).0, 0);
    until_closed(&client).await;
    for (name, times) in [("good", (1, 1)), ("bad", (2, 1)), ("later", (3, 1))] {
        assert_eq!(asked(&peer, name), times, "{name}");
    }
    logs += &relay.log();
    assert!(logs.contains("1 refused") && !logs.contains("x.example"), "no addresses: {logs}");
}

/// At most once, for each: who took the mail is asked once, who deferred it before anything went out is
/// asked again, and who is in doubt waits for an operator, whose word holds for it alone.
#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_holds_for_each_recipient() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = SmtpPeer::start().await;
    let book = Book::of(&peer);
    book.say("later", "451 4.3.0 later");
    peer.script(Step::Dot, [Say::text("250 ok"), Say::Cut]);
    let relay = Relay::start(config(&database.url(), &mail(&peer, &format!("{ONCE}\n{FAR}"))));
    until_routed(&client).await;
    let id = send_to(&client, &["good", "later"]).await;
    until_attempt(&client, 1).await;
    until_state(&client, "pending").await;
    book.take("later");
    hurry(&client).await;
    until_state(&client, "held").await;
    assert_eq!(known(&client).await, "good accepted, later in doubt");
    let not_delivered = format!("SELECT outbox.resolve({id}, 'mail', '', false)");
    client.batch_execute(&not_delivered).await.unwrap();
    until_closed(&client).await;
    assert_eq!(asked(&peer, "good"), (1, 1));
    assert_eq!(asked(&peer, "later"), (3, 2), "once more because an operator said so");

    // It did arrive at those in doubt: nobody is asked again but who deferred it.
    book.say("later", "451 4.3.0 later");
    peer.script(Step::Dot, [Say::Cut]);
    let id = send_to(&client, &["ann", "bob", "later"]).await;
    until_state(&client, "held").await;
    assert_eq!(known(&client).await, "ann in doubt, bob in doubt, later deferred");
    book.take("later");
    client.batch_execute(&format!("SELECT outbox.resolve({id}, 'mail', '', true)")).await.unwrap();
    until_closed(&client).await;
    relay.stop().await;
    for name in ["ann", "bob"] {
        assert_eq!(asked(&peer, name), (1, 1), "{name}");
    }
    assert_eq!(asked(&peer, "later").1, 3);
}

/// A relay is killed in the middle: what is in doubt is all that was open, and nothing else is.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_relay_was_sending_is_in_doubt_for_those_who_were_left() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = SmtpPeer::start().await;
    let book = Book::of(&peer);
    book.say("later", "451 4.3.0 later");
    let text = toml(&database.url(), RELAY, &mail(&peer, &format!("{ONCE}\n{FAR}")));
    let relay = Process::start(&text);
    until_routed(&client).await;
    let id = send_to(&client, &["good", "later"]).await;
    until_attempt(&client, 1).await;
    until_state(&client, "pending").await;
    book.take("later");
    peer.always(Step::Dot, Say::Hang);
    hurry(&client).await;
    peer.until(|peer| peer.mails().len() == 2).await;
    relay.kill();
    peer.usual(Step::Dot);
    let heir = Process::start(&text);
    until_state(&client, "held").await;
    assert_eq!(known(&client).await, "good accepted, later deferred");
    assert_eq!(heir.says(&["resolve", &format!("{id}/mail"), "--delivered"]).0, 0);
    until_closed(&client).await;
    assert_eq!((asked(&peer, "good"), asked(&peer, "later")), ((1, 1), (2, 1)));
}

/// Guard (`note_accepted.sql`): an operator changed the row while the attempt was under way, so its end
/// is not recorded; who took the mail is.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_an_operator_overtook_keeps_who_accepted() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = SmtpPeer::start().await;
    let book = Book::of(&peer);
    let gate = Gate::new();
    book.say("later", "451 4.3.0 later");
    peer.script(Step::Dot, [Say::Gated(gate.clone(), Box::new(Say::text("250 ok")))]);
    let relay = Relay::start(config(&database.url(), &mail(&peer, FAR)));
    until_routed(&client).await;
    send_to(&client, &["good", "later"]).await;
    peer.until(|peer| peer.mails().len() == 1).await;
    hurry(&client).await;
    book.take("later");
    gate.open();
    until_closed(&client).await;
    relay.stop().await;
    assert_eq!((asked(&peer, "good"), asked(&peer, "later")), ((1, 1), (2, 1)));
    let attempts = "SELECT attempts::bigint FROM outbox.ledger";
    assert_eq!(number(&client, attempts).await, 1, "the end of the first was not recorded");
}

/// Guard (`note_accepted.sql`): another relay has the sink when the answer comes, so the end of the
/// attempt is not the former owner's to record; who took the mail is.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_a_take_over_overtook_keeps_who_accepted() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = SmtpPeer::start().await;
    let book = Book::of(&peer);
    let gate = Gate::new();
    book.say("later", "451 4.3.0 later");
    peer.script(Step::Dot, [Say::Gated(gate.clone(), Box::new(Say::text("250 ok")))]);
    let text = toml(&database.url(), RELAY, &mail(&peer, SOON));
    let zombie = Process::start(&text);
    until_routed(&client).await;
    send_to(&client, &["good", "later"]).await;
    peer.until(|peer| peer.mails().len() == 1).await;
    let heir = Process::start(&text);
    until_count(&client, "both are entered", "SELECT count(*) FROM outbox.relay", 2).await;
    // The heir is to begin nothing before the zombie has said what it knows.
    client.batch_execute("SELECT outbox.pause_sink('mail')").await.unwrap();
    let epoch = number(&client, "SELECT epoch FROM outbox.sink WHERE name = 'mail'").await;
    zombie.signal("STOP");
    let taken = format!("SELECT count(*) FROM outbox.sink WHERE name = 'mail' AND epoch > {epoch}");
    until_count(&client, "the heir takes over", &taken, 1).await;
    gate.open();
    peer.until(|peer| peer.accepted() == 1).await;
    zombie.signal("CONT");
    until_count(&client, "who accepted is noted", ACCEPTED, 1).await;
    let row = "SELECT count(*) FROM outbox.delivery WHERE attempt = 0 AND state = 'pending'";
    assert_eq!(number(&client, row).await, 1, "and nothing else is");
    book.take("later");
    client.batch_execute("SELECT outbox.pause_sink('mail', false)").await.unwrap();
    until_closed(&client).await;
    drop((zombie, heir));
    assert_eq!((asked(&peer, "good"), asked(&peer, "later")), ((1, 1), (2, 1)));
}

/// Words that the database cannot hold keep no recipient from being recorded.
#[tokio::test(flavor = "multi_thread")]
async fn replies_that_the_database_cannot_hold_are_recorded_as_far_as_they_can() {
    let cluster = Cluster::shared();
    cluster.psql(
        "postgres",
        "CREATE DATABASE latin1_recipients ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'",
    );
    let peer = SmtpPeer::start().await;
    let book = Book::of(&peer);
    // The address is cut out, and an ellipsis stands in its place.
    book.say("bad", "550 5.1.1 <bad@x.example> unknown");
    let settings = config(&cluster.url("latin1_recipients"), &mail(&peer, FAR));
    let target = outboxd::store::Target::new(&settings.database);
    outboxd::store::migrate::migrate(&target, &settings.database).await.unwrap();
    let client = cluster.connect("latin1_recipients").await;
    let relay = Relay::start(settings);
    until_routed(&client).await;
    send_to(&client, &["good", "bad"]).await;
    until_state(&client, "dead").await;
    relay.stop().await;
    let sql = "SELECT recipients -> 'bad@x.example' ->> 'reply' FROM outbox.delivery";
    let reply: String = client.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(reply, "550 5.1.1 <?> unknown");
    assert_eq!(asked(&peer, "good"), (1, 1));
}

/// Guard (the row, not the process, knows): stopped wherever it is, with recipients that defer once, twice
/// or never and one that refuses, each comes to exactly one end and is asked no more than that takes.
#[tokio::test(flavor = "multi_thread")]
async fn stopped_again_and_again_each_recipient_has_exactly_one_end() {
    const MAILS: usize = 20;
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = SmtpPeer::start().await;
    let turn = Arc::new(Mutex::new(BTreeMap::<String, usize>::new()));
    peer.decide_recipient(move |address| {
        let mut turn = turn.lock().unwrap();
        let asked = turn.entry(address.to_owned()).or_default();
        *asked += 1;
        let number: usize = address[1..].split('@').next().unwrap_or_default().parse().unwrap_or(0);
        match number % 4 {
            0 => None,
            3 => Some(Say::text("550 5.1.1 no")),
            defers => (*asked <= defers).then(|| Say::text("451 4.3.0 later")),
        }
    });
    let rest = mail(&peer, SOON);
    let mut relay = Relay::start(config(&database.url(), &rest));
    until_routed(&client).await;
    for mail in 0..MAILS {
        let names: Vec<String> = (0..4).map(|n| format!("r{}", mail * 4 + n)).collect();
        send_to(&client, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    for stop in 1..=3 {
        eventually("some are settled", LONG, async || {
            let attempts = "SELECT coalesce(sum(attempt), 0)::bigint FROM outbox.delivery";
            let made = number(&client, attempts).await;
            if made >= 12 * stop { Ok(()) } else { Err(format!("{made} attempts")) }
        })
        .await;
        relay.stop().await;
        relay = Relay::start(config(&database.url(), &rest));
    }
    let dead = "SELECT count(*) FROM outbox.delivery WHERE state = 'dead'";
    until_count(&client, "each has one who refused", dead, i64::try_from(MAILS).unwrap()).await;
    relay.stop().await;
    let ends = "SELECT count(*) FROM outbox.delivery d, jsonb_each(d.recipients) e
                 WHERE e.value ->> 'state' = ";
    let mails = i64::try_from(MAILS).unwrap();
    assert_eq!(number(&client, &format!("{ends}'accepted'")).await, 3 * mails);
    assert_eq!(number(&client, &format!("{ends}'refused'")).await, mails);
    for number in 0..MAILS * 4 {
        let times = [(1, 1), (2, 1), (3, 1), (1, 0)][number % 4];
        assert_eq!(asked(&peer, &format!("r{number}")), times, "r{number}");
    }
}
