//! What the tests of the config's rooms share.

use std::path::Path;

use super::{Config, ConfigError, SinkConfig};

/// Parses with a database in the environment, so that a test may leave `[database]` out.
pub(super) fn parse(text: &str) -> Result<Config, ConfigError> {
    parse_in(Path::new(""), text)
}

/// The same, with the config file in a directory.
pub(super) fn parse_in(directory: &Path, text: &str) -> Result<Config, ConfigError> {
    let env = |name: &str| match name {
        "DATABASE_URL" => Some("postgres://shop@localhost/shop".to_owned()),
        "SESAME" => Some("open-sesame".to_owned()),
        _ => None,
    };
    Config::parse(text, &directory.join("outboxd.toml"), &env)
}

/// A sink of each kind, eleven lines that end where a test's own begin.
pub(super) const SINKS: &str = r#"[sinks.crm]
kind = "webhook"
url = "https://crm.example/hooks"
[sinks.mail]
kind = "smtp"
url = "smtps://mail.example"
from = "shop@example.com"
[sinks.file]
kind = "csv"
path = "f-{{ period }}.csv"
columns = [{ name = "id", value = "id" }]
every = "1h"
"#;

/// What a text with faults is told. Secrets in a test are called sesame and are never told.
pub(super) fn refusal(text: &str) -> String {
    let error = parse(text).expect_err(text).to_string();
    assert!(!error.contains("sesame"), "{error}");
    error
}

/// Asserts that a text has exactly these faults, in this order.
pub(super) fn refuses(text: &str, faults: &[&str]) {
    assert_eq!(refusal(text).lines().collect::<Vec<_>>(), faults, "{text}");
}

/// Reads one sink, written without its header.
pub(super) fn sink(text: &str) -> SinkConfig {
    parse(&format!("[sinks.a]\n{text}")).unwrap().sinks.into_values().next().unwrap()
}

/// Asserts a fault for each change of a good table.
///
/// Each line of a change takes the place of the good line with the same key, or is added; a mere
/// key takes the good line away. A fault is written `LINE: KEY: PROBLEM`, its key below `path`.
pub(super) fn refuses_each(before: &str, path: &str, good: &str, changes: &[(&str, &str)]) {
    let key = |line: &str| line.split(" =").next().map(str::to_owned);
    for (change, fault) in changes {
        let gone: Vec<_> = change.lines().map(key).collect();
        let kept = good.lines().filter(|line| !gone.contains(&key(line)));
        let lines: Vec<&str> =
            kept.chain(change.lines().filter(|line| line.contains('='))).collect();
        let fault = fault.replacen(": ", &format!(": {path}."), 1);
        let text = format!("{before}{}\n", lines.join("\n"));
        refuses(&text, &[&format!("outboxd.toml:{fault}")]);
    }
}
