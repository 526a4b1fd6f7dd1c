//! A relay in this process, and the configs the tests write for it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use outboxd::config::Config;
use outboxd::relay::{self, Life, RunError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Reads a config for a database; `rest` is everything but `[database]` and `[relay]`. The lease
/// is short, so that take-overs are.
pub fn config(url: &str, rest: &str) -> Config {
    config_with(url, "lease = \"2s\"\ngrace = \"10s\"", rest)
}

/// The same with a `[relay]` table of one's own.
pub fn config_with(url: &str, relay: &str, rest: &str) -> Config {
    let toml = toml(url, relay, rest);
    match Config::parse(&toml, Path::new("test.toml"), &|_| None) {
        Ok(config) => config,
        Err(error) => panic!("{error}\n{toml}"),
    }
}

/// The text of such a config, for the real binary.
pub fn toml(url: &str, relay: &str, rest: &str) -> String {
    format!("[database]\nurl = \"{url}\"\ninstallation = \"shop\"\n[relay]\n{relay}\n{rest}")
}

/// A webhook sink named `crm` that takes everything but alerts, with one short retry delay after another.
pub fn crm(url: &str, more: &str) -> String {
    format!(
        "[sinks.crm]\nkind = \"webhook\"\nurl = \"{url}\"\n\
         retry = {{ delays = [\"100ms\", \"100ms\", \"100ms\"] }}\n{more}\n\
         [[routes]]\ntype = \"*\"\nsink = \"crm\"\n\
         [[routes]]\ntype = \"outboxd.alert\"\nsink = []\n"
    )
}

/// A relay that runs in this process.
pub struct Relay {
    life: Life,
    task: JoinHandle<Result<(), RunError>>,
}

impl Relay {
    /// Starts one.
    pub fn start(config: Config) -> Relay {
        Relay::start_in(config, &Arc::default())
    }

    /// Starts one in a process that others may have been in before.
    pub fn start_in(config: Config, process: &Arc<relay::Process>) -> Relay {
        log();
        let life = Life::default();
        let task = tokio::spawn(relay::run(config, Arc::clone(process), life.clone()));
        Relay { life, task }
    }

    /// Stops it as SIGTERM would, and waits for the end of its drain.
    pub async fn stop(self) {
        self.life.stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(60), self.task).await;
        ended.expect("the relay drains").expect("the relay does not panic").expect("it ran");
    }

    /// What tells it to stop.
    pub fn told_to_stop(&self) -> CancellationToken {
        self.life.stop.clone()
    }

    /// Asks it to stop and does not wait.
    pub fn ask_to_stop(&self) {
        self.life.stop.cancel();
    }

    /// Ends it at once, as a second signal would.
    pub async fn stop_now(self) {
        self.life.stop.cancel();
        self.life.now.cancel();
        let _ = self.task.await;
    }

    /// How it ended, if it did not start.
    pub async fn outcome(self) -> Result<(), RunError> {
        let ended = tokio::time::timeout(Duration::from_secs(60), self.task).await;
        ended.expect("the relay ends").expect("the relay does not panic")
    }
}

/// Shows the relays' log of a test that fails; `OUTBOXD_LOG` widens or narrows it.
fn log() {
    let wanted = std::env::var("OUTBOXD_LOG").unwrap_or_else(|_| "warn,outboxd=info".to_owned());
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(wanted))
        .with_test_writer()
        .with_ansi(false)
        .try_init();
}

/// The real binary, `outboxd run`, as a child process.
pub struct Process {
    child: std::process::Child,
    /// Its config and its log; goes with it.
    folder: tempfile::TempDir,
}

impl Process {
    /// Starts it with this config.
    pub fn start(toml: &str) -> Process {
        Process::start_with(toml, |_| {})
    }

    /// The same, after a last word on how: as another user, or with less to spare.
    pub fn start_with(toml: &str, prepare: impl FnOnce(&mut std::process::Command)) -> Process {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("outboxd.toml"), toml).expect("write the config");
        let log = std::fs::File::create(folder.path().join("log")).expect("create the log");
        let mut command = command_in(folder.path(), &["run"]);
        command.stdout(std::process::Stdio::null()).stderr(log);
        prepare(&mut command);
        Process { child: command.spawn().expect("start outboxd"), folder }
    }

    /// What the command line says with the same config: exit code and stdout.
    pub fn says(&self, arguments: &[&str]) -> (i32, String) {
        let output = command_in(self.folder.path(), arguments).output().expect("run outboxd");
        let code = output.status.code().expect("not killed");
        (code, String::from_utf8(output.stdout).expect("UTF-8"))
    }

    /// Puts another config in place of its own, and tells it to read it.
    pub fn reload(&self, toml: &str) {
        std::fs::write(self.folder.path().join("outboxd.toml"), toml).expect("write the config");
        self.signal("HUP");
    }

    /// Waits until its log says this so many times.
    pub async fn until_log(&self, words: &str, times: usize) {
        super::eventually(words, Duration::from_secs(60), async || {
            let said = self.log().matches(words).count();
            if said >= times { Ok(()) } else { Err(format!("said {said} times")) }
        })
        .await;
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let sent = std::process::Command::new("kill")
            .args([&format!("-{name}"), &self.id().to_string()])
            .status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{name}");
    }

    /// Ends it as a crash would.
    pub fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("it is dead");
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> std::process::ExitStatus {
        super::eventually("the process ends", Duration::from_secs(60), async || {
            self.child.try_wait().expect("wait").ok_or_else(|| "it runs".to_owned())
        })
        .await
    }
}

/// The real binary, with the config in a folder.
pub fn command_in(folder: &Path, arguments: &[&str]) -> std::process::Command {
    // Cargo says it to tests only; the demonstration, which shares this file, finds it itself.
    let Some(binary) = option_env!("CARGO_BIN_EXE_outboxd") else {
        panic!("cargo builds the binary for tests and benchmarks only");
    };
    let mut command = std::process::Command::new(binary);
    command.arg("--config").arg(folder.join("outboxd.toml")).args(arguments);
    command.stdin(std::process::Stdio::null());
    command
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("the end of its log, last line first:\n{}", tail.join("\n"));
        }
    }
}
