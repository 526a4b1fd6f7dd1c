//! `outboxd health`: asks the running relay whether it gets on, for a container that has no other program.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Answer, Failure, Verdict, say, say_json};
use crate::config::{Admin, Config};

const EXAMPLES: &str = "\
Examples:
  outboxd health          does the relay of this config get on? Exit code 0: yes, 1: no
  outboxd health --live   only: does its process still turn? (for restarting it)
  outboxd health --json   each check with its figure";

/// How long the listener may take to answer.
const LIMIT: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes.
const ANSWER_MAX: u64 = 256 * 1024;

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Health {
    /// Ask only whether the process still turns, and not whether the relay gets on
    #[arg(long)]
    live: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Health {
    pub async fn run(&self, config: &Config) -> Answer {
        let Some(admin) = &config.admin else {
            return Err(Failure::Usage(format!(
                "{}: there is no [admin], so nothing can be asked; add: [admin] listen = \"127.0.0.1:9464\"",
                config.file.display()
            )));
        };
        let address = reachable(admin);
        let path = if self.live { "/livez" } else { "/readyz" };
        let asked = tokio::time::timeout(LIMIT, ask(address, path)).await;
        let answer = asked.unwrap_or_else(|_| Err(format!("no answer within {LIMIT:?}")));
        let (status, body) = answer.map_err(|problem| {
            Failure::Fault(format!("{address}{path}: {problem}; is outboxd run at work there?"))
        })?;
        let Ok(found) = serde_json::from_str::<Value>(&body) else {
            return Err(Failure::Fault(format!(
                "{address}{path}: HTTP {status}, and not the answer of outboxd; who listens there?"
            )));
        };
        let is_well = status == 200;
        if self.json {
            say_json(&found);
        } else {
            say(&words(is_well, self.live, &found));
        }
        Ok(Verdict::wrong_if(!is_well))
    }
}

/// A listener on all addresses is reached on this machine's own.
fn reachable(admin: &Admin) -> SocketAddr {
    let ip = match admin.listen.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, admin.listen.port())
}

/// Status and body.
async fn ask(address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    let mut stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut answer = String::new();
    let read = stream.take(ANSWER_MAX).read_to_string(&mut answer).await;
    read.map_err(|error| error.to_string())?;
    parse(&answer).ok_or_else(|| "no HTTP answer".to_owned())
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, body.to_owned()))
}

fn words(is_well: bool, live: bool, found: &Value) -> String {
    let word = match (live, is_well) {
        (true, true) => "live",
        (true, false) => "NOT LIVE",
        (false, true) => "ready",
        (false, false) => "NOT READY",
    };
    let mut text = format!("{word}\n");
    let checks = found["checks"].as_array().map(Vec::as_slice).unwrap_or_default();
    for check in checks.iter().filter(|check| is_well || check["ok"] == false) {
        let text_of = |key: &str| check[key].as_str().unwrap_or_default();
        let of = if text_of("sink").is_empty() { "" } else { " " };
        let mark = if check["ok"] == true { "ok  " } else { "FAIL" };
        let (check, sink, reason) = (text_of("check"), text_of("sink"), text_of("reason"));
        let _ = writeln!(text, "{mark}  {check}{of}{sink}: {reason}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_and_put_into_words() {
        let (status, body) = parse(
            "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\r\n\
             {\"ready\": false, \"checks\": [\
             {\"check\": \"loop\", \"ok\": true, \"reason\": \"the event loop turns\"}, \
             {\"check\": \"cycle\", \"sink\": \"crm\", \"ok\": false, \"reason\": \"cannot look for work\"}]}",
        )
        .unwrap();
        let found: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(status, 503);
        assert_eq!(
            words(false, false, &found),
            "NOT READY\nFAIL  cycle crm: cannot look for work\n"
        );
        assert!(
            words(true, false, &found).starts_with("ready\nok    loop: the event loop turns\n")
        );
        assert!(parse("SSH-2.0-OpenSSH\r\n").is_none());
    }

    #[test]
    fn a_listener_on_all_addresses_is_asked_on_this_machine() {
        let asked = |listen: &str| {
            reachable(&Admin { listen: listen.parse().unwrap(), token: None }).to_string()
        };
        assert_eq!(asked("0.0.0.0:1"), "127.0.0.1:1");
        assert_eq!(asked("[::]:1"), "[::1]:1");
        assert_eq!(asked("10.1.2.3:1"), "10.1.2.3:1");
    }
}
