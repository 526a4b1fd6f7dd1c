//! `outboxd doctor` before set-ups that are really broken: each fault is made on a real PostgreSQL, found, and
//! mended by the remedy that was told; after which nothing is found.

mod environment;
mod network;
mod relays;
mod schema;
mod sessions;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::http::HttpPeer;
use crate::harness::postgres::Cluster;

/// A small shop in good health: its own database, a receiver that listens, a directory for files.
struct Patient {
    cluster: &'static Cluster,
    database: String,
    directory: TempDir,
    peer: HttpPeer,
}

/// What doctor said.
#[derive(Debug)]
struct Said {
    code: i32,
    lines: Vec<Value>,
    text: String,
}

impl Patient {
    /// One on the cluster that the doctor's tests share: it has what a healthy server has.
    async fn new() -> Patient {
        Patient::on(tokio::task::spawn_blocking(cluster).await.unwrap()).await
    }

    async fn on(cluster: &'static Cluster) -> Patient {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let database = format!("patient_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        cluster.psql("postgres", &format!("CREATE DATABASE {database}"));
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("out")).unwrap();
        let patient = Patient { cluster, database, directory, peer: HttpPeer::start().await };
        patient.configure(&patient.url(), "");
        patient.ok(&["migrate"]);
        patient.ok(&["route", "apply"]);
        patient
    }

    fn url(&self) -> String {
        self.cluster.url(&self.database)
    }

    /// Writes the config; `more` are sinks beside the two that work.
    fn configure(&self, url: &str, more: &str) {
        self.write(&format!(
            "[database]\nurl = \"{url}\"\ninstallation = \"shop\"\n{}{more}",
            self.sinks()
        ));
    }

    fn write(&self, toml: &str) {
        std::fs::write(self.directory.path().join("outboxd.toml"), toml).unwrap();
    }

    fn sinks(&self) -> String {
        format!(
            "[sinks.crm]\nkind = \"webhook\"\nurl = \"{}\"\n\
             [sinks.orders]\nkind = \"csv\"\npath = \"{}/orders-{{{{ period }}}}.csv\"\nevery = \"1h\"\n\
             columns = [{{ name = \"id\", value = \"id\" }}]\n\
             [[routes]]\ntype = \"*\"\nsink = [\"crm\", \"orders\"]\n",
            self.peer.url("/"),
            self.directory.path().join("out").display()
        )
    }

    fn psql(&self, sql: &str) -> String {
        self.cluster.psql(&self.database, sql)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        command(self.directory.path(), arguments)
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("run outboxd");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn doctor(&self, arguments: &[&str]) -> Said {
        self.doctor_with(arguments, |_| {})
    }

    fn doctor_with(&self, arguments: &[&str], prepare: impl Fn(&mut Command)) -> Said {
        let mut command = self.command(&[&["doctor", "--json"], arguments].concat());
        prepare(&mut command);
        let output = command.output().expect("run outboxd");
        let lines = serde_json::from_slice(&output.stdout);
        let lines: Vec<Value> = lines.unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let text: String = lines.iter().map(told).collect();
        // To be looked at where a test fails.
        println!("$ outboxd doctor {}\n{text}", arguments.join(" "));
        Said { code: output.status.code().unwrap(), lines, text }
    }

    /// What people are told.
    fn says(&self) -> (i32, String) {
        let output = self.command(&["doctor"]).output().expect("run outboxd");
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    }

    /// What is found is this and nothing else; what to do about it.
    #[track_caller]
    fn finds(&self, causes: &[&str]) -> Vec<String> {
        self.doctor(&[]).finds(causes)
    }
}

impl Drop for Patient {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let sql = format!("DROP DATABASE {} WITH (FORCE)", self.database);
            self.cluster.psql("postgres", &sql);
        }
    }
}

impl Said {
    fn causes(&self) -> Vec<&str> {
        let bad = |line: &&Value| line["ok"] == false || line["warning"] == true;
        let cause = |line| -> &str {
            let line: &Value = line;
            line["cause"].as_str().unwrap_or_else(|| line["thing"].as_str().unwrap())
        };
        self.lines.iter().filter(bad).map(cause).collect()
    }

    /// See [`Patient::finds`].
    #[track_caller]
    fn finds(&self, causes: &[&str]) -> Vec<String> {
        assert_eq!(self.causes(), causes, "{}", self.text);
        let fails = self.lines.iter().any(|line| line["ok"] == false);
        assert_eq!(self.code, i32::from(fails), "{}", self.text);
        let remedy = |line: &&Value| line["remedy"].as_str().map(str::to_owned);
        self.lines.iter().filter_map(|line| remedy(&line)).collect()
    }

    #[track_caller]
    fn words(&self, thing: &str) -> &str {
        let line = self.lines.iter().find(|line| line["thing"] == thing);
        line.unwrap_or_else(|| panic!("no line {thing}: {self:?}"))["words"].as_str().unwrap()
    }
}

/// A line as people are told it, but for its columns.
fn told(line: &Value) -> String {
    let text = |key: &str| line[key].as_str().unwrap_or_default();
    let word = match (line["ok"] == true, line["warning"] == true) {
        (false, _) => "FAIL",
        (true, true) => "warn",
        (true, false) => "ok",
    };
    let remedy = line["remedy"].as_str().map(|remedy| format!("; {remedy}")).unwrap_or_default();
    format!("{word} {} {}{remedy}\n", text("thing"), text("words"))
}

/// The SQL within a remedy.
fn sql_of(remedy: &str) -> &str {
    let begins = ["ALTER", "REVOKE", "UPDATE", "SELECT", "VACUUM", "GRANT", "ROLLBACK PREPARED"];
    let begin = begins.iter().filter_map(|word| remedy.find(&format!("{word} "))).min();
    let sql = &remedy[begin.unwrap_or_else(|| panic!("no SQL in {remedy}"))..];
    let end = sql.find("; then").or_else(|| sql.find(", and ")).unwrap_or(sql.len());
    &sql[..end]
}

fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outboxd"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("PG") || name.starts_with("OUTBOXD_") || name == "DATABASE_URL" {
            command.env_remove(&*name);
        }
    }
    command.args(arguments).current_dir(directory).stdin(Stdio::null());
    command
}

/// The house's clusters do not wait for the disk, which doctor rightly minds.
const HEALTHY: &[(&str, &str)] = &[("fsync", "on"), ("full_page_writes", "on")];

fn cluster() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| Cluster::start_with(None, HEALTHY))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_set_up_is_well_in_every_line_and_nothing_is_changed_by_the_look() {
    let patient = Patient::new().await;
    patient.psql(
        "INSERT INTO outbox.message (type, payload) SELECT 't', '{}' FROM generate_series(1, 50)",
    );
    patient.psql("SELECT outbox.discard(7)");
    let state = "SELECT count(*), sum(rev), max(due_at) FROM outbox.delivery;
                 SELECT count(*) FROM outbox.unseen; SELECT last_value FROM outbox.message_id_seq";
    let before = patient.psql(state);
    let said = patient.doctor(&[]);
    said.finds(&[]);
    assert_eq!(patient.psql(state), before);
    for thing in [
        "database",
        "schema",
        "installation",
        "rights",
        "routes",
        "settings",
        "connections",
        "snapshots",
        "objects",
        "trigger",
        "ledger",
        "sequence",
        "copy",
        "relays",
        "grants",
        "vacuum",
        "doorbell",
        "unseen",
        "pooler",
        "listen",
        "clock",
        "sink crm",
        "sink orders",
        "disk",
    ] {
        assert!(!said.words(thing).is_empty());
    }
    let text = patient.ok(&["doctor"]);
    assert!(text.lines().all(|line| line.starts_with("ok ")), "{text}");
}

/// Catalogs differ between versions; what is read from them does not.
#[tokio::test(flavor = "multi_thread")]
async fn each_version_of_postgresql_is_looked_at_alike() {
    for major in ["16", "17", "18"] {
        let start = move || Cluster::start_version(major);
        // Ends with the tests, as the one that they share.
        let cluster: &Cluster =
            Box::leak(Box::new(tokio::task::spawn_blocking(start).await.unwrap()));
        let patient = Patient::on(cluster).await;
        let said = patient.doctor(&[]);
        // The house's clusters do not wait for the disk.
        said.finds(&["crash-unsafe", "crash-unsafe"]);
        assert!(said.words("database").contains(&format!("PostgreSQL {major}")), "{said:?}");
    }
}
