//! Exported files by mail: at most once a period, whatever the mail server or the relay does.

mod kills;
mod recipients;

use std::path::Path;
use std::time::Duration;

use outboxd::store::mailing::{self, Actor, Dialogue, MailingEnd};
use outboxd::store::{Link, Target};
use tokio_postgres::Client;

use crate::harness::eventually;
use crate::harness::plane::{LONG, number, until_count};
use crate::harness::postgres::Database;
use crate::harness::relay::{Process, Relay, config, toml};
use crate::harness::smtp::{Arrived, Fate, Say, SmtpPeer, Step};

const RELAY: &str = "lease = \"1s\"\ngrace = \"10s\"";
const FILES: &str = "SELECT count(*) FROM outbox.export WHERE state = 'published'";

/// A zone in which it is between noon and one o'clock: a cut at eleven has passed today, and the next is
/// tomorrow's.
pub(crate) async fn zone_at_noon(client: &Client) -> String {
    let hour = "SELECT extract(hour FROM now() AT TIME ZONE 'UTC')::bigint";
    let ahead = 12 - number(client, hour).await;
    // The sign of these names is the other way round.
    if ahead >= 0 { format!("Etc/GMT-{ahead}") } else { format!("Etc/GMT+{}", -ahead) }
}

/// A csv sink that is cut daily at eleven, and mailed.
fn daily(peer: &SmtpPeer, folder: &Path, zone: &str, mail: &str) -> String {
    format!(
        "[sinks.post]\nkind = \"smtp\"\nurl = \"smtp://{}\"\nfrom = \"Shop <shop@example.com>\"\n\
         retry = {{ delays = [\"100ms\", \"100ms\"] }}\n\
         [sinks.orders]\nkind = \"csv\"\npath = \"{}/orders-{{{{ period }}}}.csv\"\n\
         columns = [{{ name = \"id\", value = \"id\" }}]\n\
         every = {{ at = \"11:00\", time_zone = \"{zone}\" }}\n\
         [sinks.orders.mail]\nsink = \"post\"\nto = \"office@example.com\"\n\
         subject = \"Orders of {{{{ period }}}}\"\n{mail}\n\
         [[routes]]\ntype = \"order.*\"\nsink = \"orders\"\n",
        peer.address,
        folder.display()
    )
}

/// As if the sink had been there for so many days.
pub(crate) async fn was_there_for(client: &Client, days: u32) {
    let sql = format!(
        "INSERT INTO outbox.calendar (kind, name, rule, since)
         VALUES ('cut', 'orders', '', now() - interval '{days} days')"
    );
    client.batch_execute(&sql).await.expect("enter the calendar");
}

/// A database in which the sink has been there for so many days, its client, a mail server, a directory,
/// and the zone.
async fn there_for(days: u32) -> (Database, Client, SmtpPeer, tempfile::TempDir, String) {
    let database = Database::migrated().await;
    let client = database.connect().await;
    was_there_for(&client, days).await;
    let zone = zone_at_noon(&client).await;
    (database, client, SmtpPeer::start().await, tempfile::tempdir().unwrap(), zone)
}

/// The mails that a server had in full and did not refuse.
fn in_full(peer: &SmtpPeer) -> Vec<Arrived> {
    peer.mails().into_iter().filter(|mail| mail.fate != Fate::Refused).collect()
}

fn text(mail: &Arrived) -> String {
    String::from_utf8_lossy(&mail.data).into_owned()
}

fn header(mail: &Arrived, name: &str) -> String {
    let text = text(mail);
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
    line.unwrap_or_default().to_owned()
}

/// States of a mail in order, as its steps have them.
async fn steps(client: &Client) -> String {
    let sql = "SELECT coalesce(string_agg(s.state, ' ' ORDER BY s.mailing, s.step), '') FROM outbox.mailing_step s";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

async fn until_state(client: &Client, state: &str) {
    let sql = format!("SELECT count(*) FROM outbox.mailing WHERE state = '{state}'");
    let seen = "SELECT coalesce(string_agg(concat_ws(': ', state, reason), '; '), 'none') FROM outbox.mailing";
    eventually(&format!("a mail is {state}"), LONG, async || match number(client, &sql).await {
        0 => Err(client.query_one(seen, &[]).await.unwrap().get(0)),
        _ => Ok(()),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_missed_days_give_five_files_in_one_mail() {
    let (database, client, peer, folder, zone) = there_for(5).await;
    let text_of = daily(&peer, folder.path(), &zone, "");
    let relay = Relay::start(config(&database.url(), &text_of));
    until_state(&client, "sent").await;
    relay.stop().await;
    assert_eq!(number(&client, FILES).await, 5);
    let mails = in_full(&peer);
    assert_eq!(mails.len(), 1);
    let names = std::fs::read_dir(folder.path()).unwrap();
    let mut names: Vec<String> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let mail = text(&mails[0]);
    for name in &names {
        assert!(mail.contains(&format!("filename=\"{name}\"")), "{name} in {mail}");
        let content = std::fs::read(folder.path().join(name)).unwrap();
        assert_eq!(content, b"id\r\n", "a day without orders is a header");
    }
    assert_eq!(mail.matches("aWQNCg==").count(), 5, "each file's bytes");
    let last = names[4].trim_start_matches("orders-").trim_end_matches(".csv").to_owned();
    assert_eq!(header(&mails[0], "Subject"), format!("Orders of {last}"));
    assert_eq!(header(&mails[0], "Message-ID"), format!("<export_shop_orders_{last}@example.com>"));
    assert_eq!(steps(&client).await, "planned built sending sent");
    let first = names[0].trim_start_matches("orders-").trim_end_matches(".csv");
    let refused = client.execute("SELECT outbox.discard_mailing('orders', $1)", &[&first]).await;
    let refused = refused.unwrap_err();
    let said = refused.as_db_error().unwrap().message();
    assert!(said.contains("is sent, not"), "each of its files names the mail: {said}");
    let record =
        "SELECT count(*) FROM outbox.mailing_step s JOIN outbox.mailing m ON m.id = s.mailing
                   WHERE s.hash = m.hash AND s.actor ~ '^[0-9a-f]{16}$'";
    assert_eq!(number(&client, record).await, 3, "relay and hash from built on");

    // Another relay, later the same day: nothing is due, nothing is sent.
    let relay = Relay::start(config(&database.url(), &text_of));
    until_count(&client, "it looks", "SELECT count(*) FROM outbox.relay", 1).await;
    relay.stop().await;
    assert_eq!(in_full(&peer).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_server_that_is_away_costs_nothing() {
    let (database, client, peer, folder, zone) = there_for(1).await;
    peer.always(Step::Greeting, Say::text("421 4.3.2 closed for lunch"));
    let relay = Relay::start(config(&database.url(), &daily(&peer, folder.path(), &zone, "")));
    let told = "SELECT count(*) FROM outbox.mailing
                 WHERE state = 'built' AND attempt = 0 AND reason LIKE '%closed for lunch%'";
    until_count(&client, "the record tells why", told, 1).await;
    peer.until(|peer| peer.connections() > 2).await;
    assert_eq!(steps(&client).await, "planned built", "asking in is no step and no attempt");
    peer.usual(Step::Greeting);
    until_state(&client, "sent").await;
    relay.stop().await;
    assert_eq!(in_full(&peer).len(), 1);
    assert_eq!(steps(&client).await, "planned built sending sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_for_now_is_tried_again_and_one_for_good_is_an_operators() {
    let (database, client, peer, folder, zone) = there_for(1).await;
    peer.script(Step::Dot, [Say::text("451 4.3.0 later"), Say::text("554 5.7.1 never")]);
    let relay = Relay::start(config(&database.url(), &daily(&peer, folder.path(), &zone, "")));
    until_state(&client, "dead").await;
    assert_eq!(steps(&client).await, "planned built sending unsent built sending dead");
    let period: String =
        client.query_one("SELECT period FROM outbox.mailing", &[]).await.unwrap().get(0);
    let was = client.query_one("SELECT outbox.retry_mailing('orders', $1)", &[&period]).await;
    assert_eq!(was.unwrap().get::<_, String>(0), "dead");
    until_state(&client, "sent").await;
    relay.stop().await;
    let mails = peer.mails();
    assert_eq!(mails.len(), 3);
    assert_eq!(mails[0].data, mails[2].data, "the same row gives the same bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_up_after_the_dot_leaves_a_doubt_that_only_an_operator_ends() {
    let (database, client, peer, folder, zone) = there_for(2).await;
    peer.script(Step::Dot, [Say::Cut]);
    let text = daily(&peer, folder.path(), &zone, "");
    let relay = Relay::start(config(&database.url(), &text));
    until_state(&client, "held").await;
    relay.stop().await;
    // Nobody sends it again, whoever comes and looks.
    let relay = Relay::start(config(&database.url(), &text));
    until_count(&client, "it looks", "SELECT count(*) FROM outbox.relay", 1).await;
    relay.stop().await;
    assert_eq!(in_full(&peer).len(), 1);
    let transcript: String =
        client.query_one("SELECT transcript FROM outbox.mailing", &[]).await.unwrap().get(0);
    assert!(transcript.contains("> RCPT\n< 250") && transcript.contains("closed"), "{transcript}");
    assert!(!transcript.contains("office@"), "{transcript}");

    let relay = Relay::start(config(&database.url(), &text));
    let not_delivered =
        "SELECT outbox.resolve_mailing('orders', m.period, false) FROM outbox.mailing m";
    client.batch_execute(not_delivered).await.unwrap();
    until_state(&client, "sent").await;
    relay.stop().await;
    assert_eq!(in_full(&peer).len(), 2, "once more, because an operator said so");
    assert_eq!(steps(&client).await, "planned built sending held unsent built sending sent");
    let again = client.batch_execute(not_delivered).await.unwrap_err();
    assert!(again.as_db_error().unwrap().message().contains("is sent, not held"), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_relay_was_sending_is_held_and_sent_again_by_nobody() {
    let (database, client, peer, folder, zone) = there_for(1).await;
    peer.script(Step::Dot, [Say::Hang]);
    let text = toml(&database.url(), RELAY, &daily(&peer, folder.path(), &zone, ""));
    let first = Process::start(&text);
    peer.until(|peer| peer.mails().len() == 1).await;
    first.kill();
    let second = Process::start(&text);
    until_state(&client, "held").await;
    let early = "SELECT outbox.resolve_mailing('orders', m.period, false) FROM outbox.mailing m";
    let early = client.batch_execute(early).await.unwrap_err();
    assert!(early.as_db_error().unwrap().message().contains("not before"), "{early:?}");
    let delivered = "SELECT outbox.resolve_mailing('orders', m.period, true) FROM outbox.mailing m";
    client.batch_execute(delivered).await.unwrap();
    second.kill();
    assert_eq!(in_full(&peer).len(), 1);
    assert_eq!(steps(&client).await, "planned built sending held sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_is_too_large_is_a_failure_that_shows() {
    let (database, client, peer, folder, zone) = there_for(1).await;
    peer.script(Step::Ehlo, [Say::text("250-peer.example\r\n250 SIZE 600")]);
    let relay = Relay::start(config(&database.url(), &daily(&peer, folder.path(), &zone, "")));
    until_state(&client, "dead").await;
    let reason: String =
        client.query_one("SELECT reason FROM outbox.mailing", &[]).await.unwrap().get(0);
    assert!(reason.contains("the mail server takes 600"), "{reason}");
    assert!(!peer.commands().contains(&"MAIL".to_owned()), "known before MAIL");
    assert_eq!(steps(&client).await, "planned built dead");
    relay.stop().await;

    let file: String =
        client.query_one("SELECT file FROM outbox.export", &[]).await.unwrap().get(0);
    std::fs::write(&file, vec![b'x'; 70_000]).unwrap();
    let hash = outboxd::hex::hex(&<sha2::Sha256 as sha2::Digest>::digest(vec![b'x'; 70_000]));
    let larger = "UPDATE outbox.export SET bytes = 70000, sha256 = $1";
    client.execute(larger, &[&hash]).await.unwrap();
    client
        .batch_execute("SELECT outbox.retry_mailing('orders', period) FROM outbox.mailing")
        .await
        .unwrap();
    let small = daily(&peer, folder.path(), &zone, "max_size = \"64KB\"");
    let relay = Relay::start(config(&database.url(), &small));
    until_state(&client, "dead").await;
    let reason: String =
        client.query_one("SELECT reason FROM outbox.mailing", &[]).await.unwrap().get(0);
    assert!(reason.contains("max_size is 65536"), "{reason}");
    relay.stop().await;
    assert!(in_full(&peer).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_gone_or_another_one_is_waited_for() {
    let (database, client, peer, folder, zone) = there_for(1).await;
    peer.always(Step::Greeting, Say::text("421 4.3.2 not yet"));
    let text = daily(&peer, folder.path(), &zone, "");
    let relay = Relay::start(config(&database.url(), &text));
    until_state(&client, "built").await;
    relay.stop().await;
    peer.usual(Step::Greeting);
    let file: String =
        client.query_one("SELECT file FROM outbox.export", &[]).await.unwrap().get(0);
    std::fs::write(&file, "another").unwrap();
    client.batch_execute("UPDATE outbox.mailing SET due_at = now()").await.unwrap();
    let relay = Relay::start(config(&database.url(), &text));
    let told = "SELECT count(*) FROM outbox.mailing WHERE reason LIKE '%SHA-256 is another%'";
    until_count(&client, "the record tells why", told, 1).await;
    // Not for ever: the mails of the days after it wait behind it.
    let long = "UPDATE outbox.mailing SET due_at = now(), planned_at = planned_at - interval '1 h'";
    client.batch_execute(long).await.unwrap();
    until_state(&client, "dead").await;
    relay.stop().await;
    std::fs::write(&file, "id\r\n").unwrap();
    let retry = "SELECT outbox.retry_mailing('orders', period) FROM outbox.mailing";
    client.batch_execute(retry).await.unwrap();
    let relay = Relay::start(config(&database.url(), &text));
    until_state(&client, "sent").await;
    relay.stop().await;
    assert_eq!(in_full(&peer).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_newest_goes_out_where_the_config_says_so_and_the_others_are_on_record() {
    let (database, client, peer, folder, zone) = there_for(3).await;
    // One that could not go in time.
    client
        .batch_execute(
            "INSERT INTO outbox.mailing (sink, period, actor, epoch) VALUES ('orders', '2000-01-01', 'r', 0);
             UPDATE outbox.mailing SET state = 'unsent'",
        )
        .await
        .unwrap();
    let text = daily(&peer, folder.path(), &zone, "catch_up = \"latest\"");
    let relay = Relay::start(config(&database.url(), &text));
    until_state(&client, "sent").await;
    relay.stop().await;
    let states = "SELECT string_agg(state, ' ' ORDER BY period) FROM outbox.mailing";
    let states: String = client.query_one(states, &[]).await.unwrap().get(0);
    assert_eq!(states, "discarded discarded discarded sent");
    assert_eq!(in_full(&peer).len(), 1);
}

/// The intent is a relay's word that it, and nobody else, is about to send: each of its guards by itself.
#[tokio::test(flavor = "multi_thread")]
async fn an_intent_is_the_owners_alone_once_a_day_and_not_while_anything_is_paused() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    client
        .batch_execute(
            "INSERT INTO outbox.sink (name, kind, owner, epoch) VALUES ('orders', 'csv', 'a', 7),
               ('post', 'smtp', 'a', 1);
             INSERT INTO outbox.export (sink, period, state, due_before, closed_at, published_at, file, bytes, sha256)
             SELECT 'orders', p, 'published', now(), now(), now(), p, 1, p FROM unnest('{d1,d2}'::text[]) p",
        )
        .await
        .unwrap();
    let link = Link::new(Target::new(&config(&database.url(), "").database));
    let at = |epoch| Actor { sink: "orders", epoch, relay: "a" };
    let day = Some("2026-11-20".parse().unwrap());
    let begin = async |actor: &Actor<'_>, id| {
        mailing::begin(&link, actor, id, day, "post", "hash").await.map_err(|e| e.to_string())
    };
    assert_eq!(mailing::plan(&link, &at(6), "d1", &[1]).await.unwrap(), None, "another epoch");
    let first = mailing::plan(&link, &at(7), "d1", &[1]).await.unwrap().unwrap();
    assert!(mailing::build(&link, &at(7), first, "hash").await.unwrap());
    assert_eq!(begin(&at(6), first).await, Ok(None), "another epoch");
    for (pause, resume) in [
        ("SELECT outbox.pause_all()", "SELECT outbox.pause_all(false)"),
        ("SELECT outbox.pause_sink('orders')", "SELECT outbox.pause_sink('orders', false)"),
        ("SELECT outbox.pause_sink('post')", "SELECT outbox.pause_sink('post', false)"),
    ] {
        client.batch_execute(pause).await.unwrap();
        assert_eq!(begin(&at(7), first).await, Ok(None), "{pause}");
        assert!(mailing::look(&link, "orders", "post").await.unwrap().is_none(), "{pause}");
        client.batch_execute(resume).await.unwrap();
    }
    // An answer that was lost, and what is said of that dialogue comes only when another has begun.
    let unsent = MailingEnd::Unsent { delay: Duration::ZERO, spent: false };
    let end = async |actor: &Actor<'_>, since, end: &MailingEnd| {
        let (reason, transcript) = ("?".to_owned(), String::new());
        let (end, recipients) = (end.clone(), None);
        let dialogue = Dialogue { begun: since, end, reason, transcript, recipients };
        mailing::end(&link, actor, first, &dialogue).await.unwrap()
    };
    let lost = begin(&at(7), first).await.unwrap().unwrap();
    assert!(end(&at(7), lost, &unsent).await);
    assert!(mailing::build(&link, &at(7), first, "hash").await.unwrap());
    let second_try = begin(&at(7), first).await.unwrap().unwrap();
    assert!(!end(&at(7), lost, &unsent).await, "of an earlier dialogue");
    assert_eq!(begin(&at(7), first).await, Ok(None), "it has begun");
    // What is said of a dialogue is said by the relay that holds it, but that it was sent by anybody.
    assert!(!end(&at(6), second_try, &MailingEnd::Held).await);
    assert!(end(&at(6), second_try, &MailingEnd::Sent).await);
    assert!(!end(&at(7), second_try, &unsent).await, "it was sent");

    let second = mailing::plan(&link, &at(7), "d2", &[2]).await.unwrap().unwrap();
    assert!(mailing::build(&link, &at(7), second, "hash").await.unwrap());
    let twice = begin(&at(7), second).await.unwrap_err();
    assert!(twice.contains("mailing_one_a_day"), "{twice}");
    let again = mailing::plan(&link, &at(7), "d1", &[1]).await.unwrap_err().to_string();
    assert!(again.contains("mailing_one_at_work") || again.contains("mailing_period"), "{again}");
    client.batch_execute("SELECT outbox.discard_mailing('orders', 'd2')").await.unwrap();
    let back = "UPDATE outbox.mailing SET state = 'planned', day = NULL WHERE period = 'd1'";
    let back = client.batch_execute(back).await.unwrap_err();
    assert!(
        back.as_db_error().unwrap().message().contains("that is sent cannot become"),
        "{back:?}"
    );
}

/// A sink that gets a mail does not send all that was published before.
#[tokio::test(flavor = "multi_thread")]
async fn files_that_were_cut_before_the_sink_had_a_mail_are_not_mailed() {
    let (database, client, peer, folder, zone) = there_for(3).await;
    let text = daily(&peer, folder.path(), &zone, "");
    let (before, behind) = text.split_once("[sinks.orders.mail]").unwrap();
    let (_, behind) = behind.split_once("[[routes]]").unwrap();
    let without = format!("{before}[[routes]]{behind}");
    let relay = Relay::start(config(&database.url(), &without));
    until_count(&client, "files are published", FILES, 3).await;
    relay.stop().await;
    // One more day is due once the mail is there.
    client
        .batch_execute(
            "DELETE FROM outbox.export e WHERE e.id = (SELECT max(x.id) FROM outbox.export x)",
        )
        .await
        .unwrap();
    for name in std::fs::read_dir(folder.path()).unwrap() {
        std::fs::remove_file(name.unwrap().path()).unwrap();
    }
    let relay = Relay::start(config(&database.url(), &text));
    until_state(&client, "sent").await;
    relay.stop().await;
    let mails = in_full(&peer);
    assert_eq!((mails.len(), self::text(&mails[0]).matches("filename=").count()), (1, 1));
}

/// Where nobody mails the files any more there is still somebody to say that a mail is in doubt.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_being_sent_is_held_also_where_the_config_has_no_mail_any_more() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let folder = tempfile::tempdir().unwrap();
    client
        .batch_execute(
            "INSERT INTO outbox.mailing (sink, period, actor, epoch) VALUES ('orders', 'd1', 'r', 0);
             UPDATE outbox.mailing SET state = 'built', hash = 'h';
             UPDATE outbox.mailing SET state = 'sending'",
        )
        .await
        .unwrap();
    let text = format!(
        "[sinks.orders]\nkind = \"csv\"\npath = \"{}/o-{{{{ period }}}}.csv\"\nevery = \"1h\"\n\
         columns = [{{ name = \"id\", value = \"id\" }}]\n",
        folder.path().display()
    );
    let relay = Relay::start(config(&database.url(), &text));
    until_state(&client, "held").await;
    let early = "SELECT outbox.resolve_mailing('orders', 'd1', false)";
    let early = client.batch_execute(early).await.unwrap_err();
    assert!(early.as_db_error().unwrap().message().starts_with("not before"), "{early:?}");
    client.batch_execute("SELECT outbox.resolve_mailing('orders', 'd1', true)").await.unwrap();
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_goes_out_though_its_path_was_changed_since_it_was_published() {
    let (database, client, peer, folder, zone) = there_for(1).await;
    peer.always(Step::Greeting, Say::text("421 4.3.2 closed for lunch"));
    let text = daily(&peer, folder.path(), &zone, "");
    let relay = Relay::start(config(&database.url(), &text));
    until_state(&client, "built").await;
    relay.stop().await;
    peer.usual(Step::Greeting);
    let other = tempfile::tempdir().unwrap();
    let text = daily(&peer, other.path(), &zone, "").replace("/orders-", "/sales-");
    let relay = Relay::start(config(&database.url(), &text));
    until_state(&client, "sent").await;
    relay.stop().await;
    let mails = in_full(&peer);
    assert!(
        self::text(&mails[0]).contains("filename=\"sales-2"),
        "it is called as it would be now"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_is_not_brought_back_while_another_is_at_work_and_that_is_said() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    client
        .batch_execute(
            "INSERT INTO outbox.mailing (sink, period, actor, epoch) VALUES ('orders', 'd1', 'r', 0);
             UPDATE outbox.mailing SET state = 'dead';
             INSERT INTO outbox.mailing (sink, period, actor, epoch) VALUES ('orders', 'd2', 'r', 0)",
        )
        .await
        .unwrap();
    let retry = "SELECT outbox.retry_mailing('orders', 'd1')";
    let refused = client.batch_execute(retry).await.unwrap_err();
    let said = refused.as_db_error().unwrap().message();
    assert!(said.starts_with("the mail of orders for d2 is at work"), "{said}");
    client.batch_execute("SELECT outbox.discard_mailing('orders', 'd2')").await.unwrap();
    client.batch_execute(retry).await.unwrap();
}
