//! 100,000 mails from INSERT to accepted by Postfix's smtp-sink, beside smtp-source with as many
//! connections and the same mail in the same run; near, and over a line of 10 ms each way.
//! `OUTBOXD_BENCH_ROWS` stands in for the 100,000, `OUTBOXD_BENCH_CONNECTIONS` for the 64.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use outboxd::config::Config;
use outboxd::message::IdempotencyKey;
use outboxd::sink::{Prepared, Sink};
use tokio::process::Command;
use tokio_postgres::Client;

use super::harness::eventually;
use super::harness::mail_servers::SmtpSink;
use super::harness::plane::{number, until_routed};
use super::harness::postgres::Database;
use super::harness::program::program;
use super::harness::relay::{Process, toml};
use super::line::{long_line, round_trip};
use super::plane::{memory_of, rows};
use super::{bare_loop, bench_message, config, per_second};

const EACH_WAY: Duration = Duration::from_millis(10);
const LIMIT: Duration = Duration::from_secs(1_200);

fn connections() -> usize {
    let said = std::env::var("OUTBOXD_BENCH_CONNECTIONS").ok();
    said.map_or(64, |said| said.parse().expect("OUTBOXD_BENCH_CONNECTIONS is a number"))
}

/// A newsletter of one page.
fn newsletter_to(address: SocketAddr, connections: usize) -> String {
    let page = "The shop has news for you, and this line is as long as lines are. ".repeat(20);
    format!(
        "[sinks.mail]\nkind = \"smtp\"\nurl = \"smtp://{address}\"\n\
         from = \"Shop <shop@example.com>\"\nconcurrency = {connections}\n\
         [[routes]]\ntype = \"*\"\nsink = \"mail\"\n\
         to = \"reader-{{{{ payload.order_id }}}}@example.org\"\n\
         subject = \"News {{{{ payload.order_id }}}}\"\n\
         text = \"Dear {{{{ payload.customer }}}}\\n{page}\\n\"\n"
    )
}

/// The whole of it.
pub async fn newsletter() {
    let count = rows(100_000);
    println!("newsletter: load of the machine before: {}", load());
    near(count, connections()).await;
    one_connection(count / 5).await;
    far(count, connections()).await;
    println!("newsletter: load of the machine after: {}", load());
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// On loopback: the producer in one transaction, and in batches.
async fn near(count: usize, connections: usize) {
    let server = SmtpSink::start_forgetful(&[]).await;
    let address = SocketAddr::from(([127, 0, 0, 1], server.port));
    let (mut baseline, mut whole, mut batched) = (Vec::new(), Vec::new(), Vec::new());
    let letter = a_letter(address);
    println!("newsletter: {count} mails of {} bytes, {connections} connections", letter.len());
    for _ in 0..3 {
        baseline.push(smtp_source(address, &letter, count, connections).await);
        whole.push(relayed(address, count, count, connections).await);
        batched.push(relayed(address, count, 1_000, connections).await);
    }
    let baseline = median(&mut baseline);
    println!("  smtp-source: {:.1} s = {:.0}/s", baseline, rate(count, baseline));
    for (what, mut took) in [("one transaction", whole), ("batches of 1,000", batched)] {
        took.sort_by(|a, b| a.whole.total_cmp(&b.whole));
        let middle = &took[took.len() / 2];
        println!(
            "  outboxd, INSERT in {what}: {:.1} s from the first INSERT to the last reply recorded = {:.0}/s \
             (all runs {}), the producer's part {:.1} s; from its commit {:.1} s = {:.0}/s; {:.2} of \
             smtp-source from the commit, {:.2} from the first INSERT; {}",
            middle.whole,
            rate(count, middle.whole),
            took.iter().map(|t| format!("{:.1}", t.whole)).collect::<Vec<_>>().join(" "),
            middle.insert,
            middle.whole - middle.insert,
            rate(count, middle.whole - middle.insert),
            baseline / (middle.whole - middle.insert),
            baseline / middle.whole,
            middle.spent,
        );
    }
}

/// One connection on loopback, the dialogue alone and through the relay.
async fn one_connection(count: usize) {
    let server = SmtpSink::start_forgetful(&[]).await;
    let address = SocketAddr::from(([127, 0, 0, 1], server.port));
    let letter = a_letter(address);
    let source = smtp_source(address, &letter, count, 1).await;
    let database = Database::migrated().await;
    let bare = bare_loop(&config(&database, &newsletter_to(address, 1)), "mail", count).await;
    let took = relayed(address, count, count, 1).await;
    println!(
        "newsletter: one connection: smtp-source {:.0}/s, our dialogue alone {bare:.0}/s, through the relay \
         {:.0}/s from the commit",
        rate(count, source),
        rate(count, took.whole - took.insert),
    );
}

/// Over a long line; as many as take about a minute.
async fn far(count: usize, connections: usize) {
    let server = SmtpSink::start_forgetful(&[]).await;
    let address = SocketAddr::from(([127, 0, 0, 1], server.port));
    let letter = a_letter(address);
    let line = long_line(address, EACH_WAY);
    println!("newsletter: over a line with a round trip of {:.1?}", round_trip(EACH_WAY));
    let few = 200;
    let source = smtp_source(line, &letter, few, 1).await;
    let took = relayed(line, few, few, 1).await;
    println!(
        "  one connection: smtp-source {:.1}/s, outboxd {:.1}/s",
        rate(few, source),
        rate(few, took.whole - took.insert)
    );
    // Many more connections than either uses: what the line itself can do.
    let most = smtp_source(line, &letter, count / 5, 256).await;
    println!(
        "  the line itself, by smtp-source with 256 connections: {:.0}/s",
        rate(count / 5, most)
    );
    let source = smtp_source(line, &letter, count / 5, connections).await;
    let took = relayed(line, count, count, connections).await;
    println!(
        "  {connections} connections: smtp-source {:.0}/s ({} mails), outboxd {count} mails in {:.1} s = \
         {:.0}/s from the commit, {:.1}/s a connection; {}",
        rate(count / 5, source),
        count / 5,
        took.whole - took.insert,
        rate(count, took.whole - took.insert),
        rate(count, took.whole - took.insert) / rate(connections, 1.0),
        took.spent,
    );
}

fn rate(count: usize, seconds: f64) -> f64 {
    per_second(count, Duration::from_secs_f64(seconds))
}

fn median(took: &mut [f64]) -> f64 {
    took.sort_by(f64::total_cmp);
    took[took.len() / 2]
}

/// A mail as the relay makes it.
fn a_letter(address: SocketAddr) -> Vec<u8> {
    let text = toml("postgresql:///none", "lease = \"10s\"", &newsletter_to(address, 1));
    let config = Config::parse(&text, Path::new("bench.toml"), &|_| None).expect("a config");
    let (name, settings) = config.sinks.iter().next().expect("the sink");
    let sink = Sink::build(settings).expect("build").expect("a sink with attempts");
    let key = IdempotencyKey::new(&config.database.installation, 1, name, "");
    let prepared = sink.prepare(&bench_message(1), &config.routes[0].content, &key);
    let Ok(Prepared::Mail(mail)) = prepared else { panic!("no mail") };
    mail.data().to_vec()
}

/// Seconds that smtp-source takes, every connection used for many mails.
async fn smtp_source(to: SocketAddr, letter: &[u8], count: usize, connections: usize) -> f64 {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let lines = String::from_utf8_lossy(letter).replace("\r\n", "\n");
    std::fs::write(file.path(), lines).expect("write the mail");
    let mut command = Command::new(program("OUTBOXD_SMTP_SOURCE", "smtp-source"));
    command.args(["-d", "-s", &connections.to_string(), "-m", &count.to_string()]);
    command.args(["-f", "shop@example.com", "-t", "reader@example.org", "-F"]);
    command.arg(file.path()).arg(to.to_string()).stdin(Stdio::null());
    let begun = Instant::now();
    let ended = command.status().await.expect("run smtp-source");
    assert!(ended.success(), "smtp-source: {ended}");
    begun.elapsed().as_secs_f64()
}

/// What sending all of them took, in seconds.
struct Took {
    whole: f64,
    insert: f64,
    spent: String,
}

/// Through the relay, as a process, with a producer that commits `batch` messages at a time.
async fn relayed(to: SocketAddr, count: usize, batch: usize, connections: usize) -> Took {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let text = toml(&database.url(), "lease = \"10s\"", &newsletter_to(to, connections));
    let relay = Process::start(&text);
    until_routed(&client).await;
    let owned = "SELECT count(*) FROM outbox.sink WHERE owner IS NULL";
    eventually("the sink is worked", LIMIT, async || match number(&client, owned).await {
        0 => Ok(()),
        _ => Err("it is not".to_owned()),
    })
    .await;
    let before = cpu(relay.id());
    let begun = Instant::now();
    let mut left = count;
    while left > 0 {
        let now = left.min(batch);
        super::insert(&client, now).await;
        left -= now;
    }
    let insert = begun.elapsed().as_secs_f64();
    until_empty(&client).await;
    let whole = begun.elapsed().as_secs_f64();
    let spent = format!(
        "CPU of the relay {:.1} s, its memory {}",
        cpu(relay.id()) - before,
        memory_of(relay.id())
    );
    let accepted = "SELECT count(*) FROM outbox.ledger WHERE outcome = 'delivered' AND attempts = 1
                       AND receipt LIKE '250 %'";
    let accepted = number(&client, accepted).await;
    assert_eq!(usize::try_from(accepted), Ok(count), "each accepted at its first attempt");
    relay.kill();
    Took { whole, insert, spent }
}

/// Until nothing is open; asked so that the answer costs little.
async fn until_empty(client: &Client) {
    let any = "SELECT count(*) FROM (SELECT FROM outbox.delivery LIMIT 1) open";
    let limit = Instant::now() + LIMIT;
    while number(client, any).await > 0 {
        assert!(Instant::now() < limit, "not within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Seconds of a processor that a process has used.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("its statistics");
    let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
    let ticks = |at: usize| fields.split(' ').nth(at).and_then(|f| f.parse::<u32>().ok());
    f64::from(ticks(11).expect("user time") + ticks(12).expect("system time")) / 100.0
}
