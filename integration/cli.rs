//! The command line as an operator meets it: the real binary, its words and its exit codes.

mod calendar;
mod check;
mod export;
mod look;
mod mail_servers;
mod operate;
mod preview;
mod recipients;
mod replay;
mod schedule;
mod schema;
mod trouble;

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::postgres::Database;

/// A database, and a directory with the config of a small shop.
struct Shop {
    database: Database,
    directory: TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

const SINKS: &str = r#"
[sinks.crm]
kind = "webhook"
url = "http://127.0.0.1:9/hook"
[sinks.orders]
kind = "csv"
path = "out/orders-{{ period }}.csv"
columns = [{ name = "id", value = "id" }]
every = "1h"
[[routes]]
type = "order.*"
sink = ["crm", "orders"]
[[routes]]
type = "debug.*"
sink = []
"#;

impl Shop {
    /// A shop whose database holds nothing yet.
    async fn empty() -> Shop {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("out")).unwrap();
        let shop = Shop { database: Database::fresh().await, directory };
        shop.configure(&shop.database.url(), "", SINKS);
        shop
    }

    /// A shop whose schema is there and whose routes are in force.
    async fn open() -> Shop {
        let shop = Shop::empty().await;
        shop.ok(&["migrate"]);
        shop.ok(&["route", "apply"]);
        shop
    }

    fn configure(&self, url: &str, more: &str, sinks: &str) {
        let text =
            format!("[database]\nurl = \"{url}\"\ninstallation = \"shop-test\"\n{more}\n{sinks}");
        std::fs::write(self.directory.path().join("outboxd.toml"), text).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Said {
        run_in(self.directory.path(), arguments, &[])
    }

    /// Runs what must succeed; its answer.
    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let said = self.run(arguments);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{arguments:?}: {said:?}");
        said.out
    }

    /// Runs what must fail; what it says on stderr.
    #[track_caller]
    fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let said = self.run(arguments);
        assert_eq!((said.code, said.out.as_str()), (code, ""), "{arguments:?}: {said:?}");
        assert_eq!(said.err.matches("outboxd: ").count(), 1, "told once: {said:?}");
        said.err
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        let said = self.run(arguments);
        serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"))
    }

    fn psql(&self, sql: &str) -> String {
        self.database.psql(sql)
    }
}

fn command_in(directory: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outboxd"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("PG") || name.starts_with("OUTBOXD_") || name == "DATABASE_URL" {
            command.env_remove(&*name);
        }
    }
    command.args(arguments).current_dir(directory).envs(variables.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub fn run_in(directory: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Said {
    said(command_in(directory, arguments, variables).output().expect("run outboxd"))
}

fn said(output: std::process::Output) -> Said {
    Said {
        code: output.status.code().expect("not killed"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A word of a line, by the head of the line: `cell(table, "crm", 3)`.
#[track_caller]
fn cell<'t>(table: &'t str, head: &str, at: usize) -> &'t str {
    let line = table
        .lines()
        .find(|line| line.split_whitespace().next() == Some(head))
        .unwrap_or_else(|| panic!("no line {head} in:\n{table}"));
    line.split_whitespace().nth(at).unwrap_or_else(|| panic!("no word {at} in: {line}"))
}
