//! `examples/daily-orders`: its config parses, its README is replayed, and what README shows is what the
//! replay says.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use outboxd::config::Config;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use crate::readme::blocks_of;

const README: &str = include_str!("../examples/daily-orders/README.md");
/// Short days, so that the tests are not long.
const DAY: &str = "3s";
/// Beyond this something hangs; the replay itself gives up after a minute of waiting for one thing.
const LIMIT: Duration = Duration::from_secs(150);

#[test]
fn the_shops_config_parses_and_the_replays_differs_where_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/daily-orders");
    let env = |name: &str| match name {
        "REPLAY_DAY" => Some("5s".to_owned()),
        "REPLAY_SMTP_URL" => Some("smtp://127.0.0.1:25".to_owned()),
        "DATABASE_URL" => Some("postgres:///shop".to_owned()),
        "REPLAY_FOLDER" | "SMTP_PASSWORD" => Some("x".to_owned()),
        _ => None,
    };
    let [shop, replay] = ["outboxd.toml", "replay.toml"].map(|name| {
        let text = fs::read_to_string(folder.join(name)).unwrap();
        if let Err(error) = Config::parse(&text, &folder.join(name), &env) {
            panic!("{error}");
        }
        text
    });
    // Whoever improves the one improves the other.
    let differs = ["path", "every", "settle_after"];
    let export = |text: &str| -> Vec<String> {
        let lines = text.lines().skip_while(|line| *line != "[exports.orders]");
        let told = lines.filter(|line| !line.starts_with('#') && !line.is_empty());
        told.filter(|line| !differs.iter().any(|key| line.starts_with(&format!("{key} ="))))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(export(&shop), export(&replay));
}

/// A line without what differs from run to run: digits, and names of relays.
fn form(line: &str) -> String {
    let mut form = String::new();
    for c in line.trim().chars() {
        if !(c.is_ascii_digit() && form.ends_with('0')) {
            form.push(if c.is_ascii_digit() { '0' } else { c });
        }
    }
    form
}

/// What README shows of the replay and must be said in that order: steps, commands, verdicts.
fn shown() -> Vec<String> {
    let telling = ["* ", "$ ", "ok ", "mail orders/", "recorded as", "Subject: ", "Content-Disp"];
    let lines = blocks_of(README, "text").concat();
    let told = lines.lines().filter(|line| telling.iter().any(|head| line.starts_with(head)));
    told.map(form).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_replay_in_its_readme_adds_up_and_says_what_is_shown() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/daily-orders/replay.sh");
    assert_eq!(blocks_of(README, "sh"), ["examples/daily-orders/replay.sh\n"]);
    let folder = tempfile::tempdir().unwrap();
    // PostgreSQL and smtp-sink do not stay root.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(script);
    command.env("REPLAY_PROGRAM", env!("CARGO_BIN_EXE_outboxd")).env("REPLAY_DAY", DAY);
    command.env("TMPDIR", folder.path()).env_remove("OUTBOXD_LOG").stdin(Stdio::null());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).unwrap();
    let mut ended = Box::pin(child.wait_with_output());
    let output = match tokio::time::timeout(LIMIT, &mut ended).await {
        Ok(output) => output.unwrap(),
        Err(_) => {
            // It tidies up.
            kill_process(pid, Signal::TERM).unwrap();
            ended.await.unwrap()
        }
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let trouble = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}\n{said}\n{trouble}", output.status);
    let mut lines = said.lines().map(form);
    for shown in shown() {
        assert!(lines.any(|line| line == shown), "README shows {shown:?}\n{said}");
    }
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "the folder with files, mails and logs is all that stays: {left:?}");
}
