//! The real relay: the program that cargo built beside this one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::DATABASE;
use crate::harness::postgres::Cluster;
use crate::receivers::Receivers;

const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo/outboxd.toml");

/// The program with its environment.
pub struct Program {
    binary: PathBuf,
    database_url: String,
    variables: Vec<(&'static str, String)>,
    log: PathBuf,
}

/// A running relay. It ends with this.
pub struct Running(Child);

impl Program {
    /// Finds the program and works out what its config needs.
    pub fn new(cluster: &Cluster, receivers: &Receivers, folder: &Path) -> anyhow::Result<Program> {
        // target/debug/examples/demo and target/debug/outboxd.
        let binary = std::env::current_exe()?
            .ancestors()
            .nth(2)
            .map(|target| target.join("outboxd"))
            .filter(|binary| binary.is_file())
            .context("there is no outboxd beside this program; run examples/demo.sh")?;
        let mut variables = receivers.variables().to_vec();
        variables.push(("DEMO_FOLDER", folder.display().to_string()));
        let log = folder.join("relay.log");
        Ok(Program { binary, database_url: cluster.url(DATABASE), variables, log })
    }

    /// Puts the outbox into the database, as its owner.
    pub async fn migrate(&self) -> anyhow::Result<()> {
        let status = self.command(&self.database_url)?.arg("migrate").status().await?;
        if !status.success() {
            bail!("outboxd migrate: {status}\n{}", self.said());
        }
        Ok(())
    }

    /// Starts a relay, as a role that may do what a relay does and no more.
    pub fn run(&self) -> anyhow::Result<Running> {
        let url = self.database_url.replace("user=postgres", "user=relay");
        let child = self.command(&url)?.arg("run").spawn().context("outboxd run")?;
        Ok(Running(child))
    }

    fn command(&self, database_url: &str) -> anyhow::Result<Command> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.binary);
        command
            .args(["--config", CONFIG])
            .env("DEMO_DATABASE_URL", database_url)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        Ok(command)
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Running {
    /// Fails when it ended by itself.
    pub fn still_runs(&mut self) -> anyhow::Result<()> {
        match self.0.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the relay ended by itself: {status}; see its log"),
        }
    }

    /// Ends it in the middle of whatever it does, and waits.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.0.kill().await.context("kill the relay")
    }

    /// Tells it to finish and end, and waits.
    pub async fn terminate(&mut self) -> anyhow::Result<()> {
        let pid = self.0.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        kill_process(pid.context("the relay is gone")?, Signal::TERM)?;
        let status = self.0.wait().await?;
        if !status.success() {
            bail!("the relay, told to end: {status}; see its log");
        }
        Ok(())
    }
}
