//! README and docs/ are tested: what they show is parsed or run. Blocks marked `text` are output and are not.

mod days;
mod pages;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use outboxd::config::{Config, DkimKey};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;

use crate::harness::eventually;
use crate::harness::http::{Answer, HttpPeer, signed_post};
use crate::harness::plane::{LONG, send, until_closed, until_count, until_routed};
use crate::harness::postgres::{Database, connect};
use crate::harness::relay::{Relay, config};
use crate::producers::python;
use pages::{BACKGROUND, CALENDAR, PAGES};

const README: &str = include_str!("../README.md");
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// The first message of a reader: it has all that README's own config takes from one.
const SEND: &str = "outboxd send order.created '{\"order_id\": 43, \"email\": \"ann@example.com\", \"total\": 19.90}'";
/// Commands of README and the pages that the test runs, with the exit code each must have there.
const COMMANDS: &[(&str, i32)] = &[
    ("outboxd init", 0),
    ("outboxd migrate", 0),
    ("outboxd check", 0),
    ("outboxd migrate --print > outbox.sql", 0),
    ("outboxd migrate --check", 0),
    (SEND, 0),
    ("psql \"$DATABASE_URL\" -f sql/audit.sql", 0),
    ("openssl genrsa -out dkim.pem 2048", 0),
    // Message 1 is dead by then, and that needs somebody.
    ("outboxd status", 1),
    ("outboxd list --state dead", 0),
    ("outboxd show 1", 0),
    ("outboxd retry 1", 0),
    ("outboxd list --state parked", 0),
    ("outboxd preview 1", 0),
    ("outboxd pause --sink hooks", 0),
    ("outboxd resume --sink hooks", 0),
    ("outboxd retry --sink hooks --reason 'HTTP 503' --yes", 0),
    ("outboxd replay --sink hooks --since 2026-11-20T08:00:00Z --rate 100/min --dry-run", 0),
];
/// Starts in the background and stays there.
const RUN: &str = "outboxd run";
/// What runs everything, this test included.
const SCRIPTS: &[&str] = &["examples/demo.sh", "integration/run.sh"];
/// Runs tests of ours, told by variables how many.
const TESTS: &str = "cargo test --test integration -- --nocapture ";

/// The fenced blocks of one language, of README and then of the pages.
fn blocks(language: &str) -> Vec<String> {
    let texts = std::iter::once(README).chain(PAGES.iter().map(|(_, text)| *text));
    let found: Vec<String> = texts.flat_map(|text| blocks_of(text, language)).collect();
    assert!(!found.is_empty(), "no block is marked {language}");
    found
}

/// The same of one text.
pub(crate) fn blocks_of(text: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(named) = line.trim_start().strip_prefix("```") else { continue };
        let known = ["toml", "sql", "python", "sh", "text"].contains(&named);
        assert!(known, "a block is marked {named:?}; nothing runs that");
        let inside: Vec<&str> =
            lines.by_ref().take_while(|line| !line.trim_start().starts_with("```")).collect();
        if named == language {
            found.push(inside.join("\n") + "\n");
        }
    }
    found
}

#[test]
fn every_config_in_readme_and_docs_parses() {
    // Where the templates are that a config may name.
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/README.toml");
    let env = |name: &str| match name {
        "DATABASE_URL" => Some("postgres://shop@localhost/shop".to_owned()),
        "DKIM_KEY" => Some(include_str!("keys/rsa.pem").to_owned()),
        "DKIM_KEY_ED25519" => Some(include_str!("keys/ed25519.pem").to_owned()),
        _ if name.ends_with("_PASSWORD") => Some("open sesame".to_owned()),
        _ => name.ends_with("_SECRET").then(|| SECRET.to_owned()),
    };
    for text in blocks("toml") {
        let config = Config::parse(&text, &file, &env).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert!(!config.sinks.is_empty(), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_in_readme_and_docs_runs() {
    const ROLES: [&str; 3] = ["shop_app", "shop_relay", "shop_support"];
    let database = Database::migrated().await;
    database.psql(include_str!("../examples/shop.sql"));
    let client = database.connect().await;
    for role in ROLES {
        client.batch_execute(&format!("CREATE ROLE {role}")).await.unwrap();
    }
    for sql in blocks("sql") {
        client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    for role in ROLES {
        let gone = format!("DROP OWNED BY {role}; DROP ROLE {role}");
        client.batch_execute(&gone).await.unwrap();
    }
    let types = database.psql("SELECT string_agg(type, ' ' ORDER BY id) FROM outbox.message");
    assert_eq!(types, "order.created reminder.due");
}

/// A relay that runs in the background of a test.
struct Background(Child);

impl Background {
    fn terminate(mut self) -> i32 {
        let pid = Pid::from_raw(self.0.id().cast_signed()).expect("a process has an id");
        kill_process(pid, Signal::TERM).unwrap();
        self.0.wait().unwrap().code().expect("it ends by itself")
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A shell's line in a folder, with our program on the path.
fn shell(folder: &Path, database_url: &str, line: &str) -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_outboxd")).parent().unwrap().to_owned();
    let rest = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([program].into_iter().chain(std::env::split_paths(&rest)));
    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec {line}")]).current_dir(folder);
    command.env("PATH", path.unwrap()).env("DATABASE_URL", database_url);
    command.env_remove("OUTBOXD_CONFIG").env_remove("OUTBOXD_LOG");
    command
}

/// Runs a line to its end and holds its exit code against what it must be.
fn run(folder: &Path, database_url: &str, line: &str, code: i32) -> String {
    let said = shell(folder, database_url, line).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert_eq!(said.status.code(), Some(code), "{line}\n{out}\n{err}");
    out.into_owned()
}

/// A test of the chaos suite, and a number it takes.
fn assert_is_ours(variable: &str, test: &str) {
    let source = include_str!("chaos/mod.rs");
    let (name, count) = variable.trim().split_once('=').expect("a variable and its number");
    assert!(count.parse::<u32>().is_ok(), "{variable}");
    assert!(source.contains(&format!("from_env(\"{name}\")")), "nobody asks for {name}");
    let test = test.strip_prefix("chaos::").expect("a test of the chaos suite");
    assert!(source.contains(&format!("async fn {test}")), "there is no test {test}");
}

/// Whether the audit's answer has its checks and none that is violated.
fn audited(said: &str) -> bool {
    said.contains("message_on_record") && said.contains("| ok ") && !said.contains("VIOLATED")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_in_readme_and_docs_runs_in_the_order_it_stands_there() {
    let (database, peer) = (Database::fresh().await, HttpPeer::start().await);
    // So that there is something to look at and to try again.
    peer.always(Answer::status(410));
    let (folder, url) = (tempfile::tempdir().unwrap(), database.url());
    let folder = folder.path();
    std::fs::create_dir(folder.join("sql")).unwrap();
    std::fs::write(folder.join("sql/audit.sql"), include_str!("../sql/audit.sql")).unwrap();
    let client = database.connect().await;
    let dead = "SELECT count(*) FROM outbox.delivery WHERE state = 'dead'";
    let mut background = None;
    let mut ran = Vec::new();
    let mut lines = blocks("sh").concat();
    let of_the_calendar = blocks_of(CALENDAR, "sh").concat();
    assert!(lines.contains(&of_the_calendar));
    lines = lines.replace(&of_the_calendar, "");
    for line in lines.lines() {
        if SCRIPTS.contains(&line) {
            continue;
        }
        if let Some((variable, test)) = line.split_once(TESTS) {
            assert_is_ours(variable, test);
            continue;
        }
        if line == RUN {
            let mut command = shell(folder, &url, line);
            let log = std::fs::File::create(folder.join("log")).unwrap();
            let child = command.stdin(Stdio::null()).stderr(log).spawn().unwrap();
            background = Some(Background(child));
            until_routed(&client).await;
            continue;
        }
        let known = COMMANDS.iter().find(|(known, _)| *known == line);
        let &(_, code) = known.unwrap_or_else(|| panic!("it says {line:?}; nothing runs it"));
        let said = run(folder, &url, line, code);
        assert!(!line.contains("audit") || audited(&said), "{said}");
        if line.starts_with("openssl") {
            let made = std::fs::read_to_string(folder.join("dkim.pem")).unwrap();
            assert_eq!(DkimKey::parse(&made).unwrap().algorithm(), "rsa-sha256");
        }
        ran.push(line);
        if line == "outboxd init" {
            // As its reader would: the application listens somewhere else.
            let file = folder.join("outboxd.toml");
            let text = std::fs::read_to_string(&file).unwrap();
            std::fs::write(&file, text.replace("http://127.0.0.1:8080", &peer.url(""))).unwrap();
        }
        if line.starts_with("outboxd send") {
            until_count(&client, "message 1 is dead", dead, 1).await;
        }
    }
    let wanted: Vec<&str> = COMMANDS.iter().map(|(line, _)| *line).collect();
    assert_eq!(ran, wanted, "it lacks a command that is run here");
    until_count(&client, "message 1 is dead again", dead, 1).await;
    assert_eq!(peer.requests(), 2, "the attempt and the retry");

    // Who may do what, as docs/operations.md says.
    let support = format!("support_{}", database.name());
    database.psql(&format!("CREATE ROLE {support} LOGIN IN ROLE outbox_operator"));
    let as_support = url.replace("user=postgres", &format!("user={support}"));
    run(folder, &as_support, "outboxd status", 1);
    run(folder, &as_support, "outboxd list", 0);
    run(folder, &as_support, "outboxd show 1", 0);
    run(folder, &as_support, "outboxd retry 1", 0);
    run(folder, &as_support, "outboxd preview 1", 1);
    assert_eq!(background.expect("README says outboxd run").terminate(), 0);
    let log = std::fs::read_to_string(folder.join("log")).unwrap();
    let attempt = log.lines().find(|line| line.contains("\"message_id\":1,")).expect(&log);
    for key in ["message", "message_id", "type", "sink", "target", "attempt", "outcome"] {
        assert_eq!(attempt.matches(&format!("\"{key}\":")).count(), 1, "{key}: {attempt}");
    }
}

/// What the receiver of docs/background.md runs as.
struct Receiver {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Receiver {
    async fn start() -> Receiver {
        let folder = tempfile::tempdir().unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let child = Command::new(python())
            .args(["-c", &blocks_of(BACKGROUND, "python").concat()])
            .env("PORT", port.to_string())
            .env("WEBHOOK_SECRET", SECRET)
            .current_dir(folder.path())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 runs; integration/run.sh installs it");
        eventually("the receiver listens", LONG, async || {
            let stream = TcpStream::connect(("127.0.0.1", port)).await;
            stream.map(|_| ()).map_err(|error| error.to_string())
        })
        .await;
        Receiver { child, port, folder }
    }

    /// Posts a body as outboxd does; the status line's code, or none without an answer.
    async fn post(
        &self,
        id: &'static str,
        secret: &'static str,
        body: &'static str,
    ) -> Option<u16> {
        signed_post(self.port, id, secret, body).await
    }

    fn invoices(&self) -> String {
        let look = "import sqlite3; print([n for (n,) in sqlite3.connect('shop.db')\
                    .execute('SELECT number FROM invoice ORDER BY number')])";
        let said =
            Command::new(python()).args(["-c", look]).current_dir(self.folder.path()).output();
        String::from_utf8(said.unwrap().stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_receiver_in_docs_verifies_and_does_repeated_work_once() {
    let receiver = Receiver::start().await;
    let database = Database::migrated().await;
    let toml = format!(
        "[sinks.app]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:{}/background\"\n\
         secrets = [\"{SECRET}\"]\nretry = {{ delays = [\"100ms\"] }}\n\
         [[routes]]\ntype = \"invoice.*\"\nsink = \"app\"\n",
        receiver.port
    );
    let relay = Relay::start(config(&database.url(), &toml));
    let client = connect(&database.config()).await;
    until_routed(&client).await;
    send(&client, "invoice.paid", r#"{"invoice": 7}"#).await;
    tokio::time::timeout(Duration::from_secs(30), until_closed(&client)).await.unwrap();
    relay.stop().await;
    assert_eq!(receiver.invoices(), "[7]");

    let (id, body) = ("msg_shop_2_app", r#"{"invoice": 8}"#);
    let stranger = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX";
    assert_eq!(receiver.post(id, stranger, body).await, Some(401), "a wrong signature");
    assert_eq!(receiver.post(id, SECRET, "{}").await, None, "work that fails is not answered");
    assert_eq!(receiver.invoices(), "[7]");
    for _ in 0..2 {
        assert_eq!(receiver.post(id, SECRET, body).await, Some(200));
    }
    assert_eq!(receiver.post("msg_shop_1_app", SECRET, body).await, Some(200), "a repeat");
    assert_eq!(receiver.invoices(), "[7, 8]");
}
