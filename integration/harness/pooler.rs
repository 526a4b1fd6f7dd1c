//! A private PgBouncer before a cluster.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio_postgres::SimpleQueryMessage;

use super::eventually;
use super::postgres::{Cluster, connect, free_port};
use super::program::program;

/// A pooler; it ends when dropped.
pub struct Pooler {
    child: Child,
    folder: tempfile::TempDir,
    port: u16,
}

impl Pooler {
    /// Starts one with this `pool_mode` and so many server connections for each database and user.
    pub async fn start(cluster: &Cluster, mode: &str, size: u32) -> Pooler {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (dir, at, port) = (cluster.dir().display(), cluster.socket(), free_port());
        let server_port = at.extension().expect("a socket ends with its port").to_string_lossy();
        let users = folder.path().join("users");
        fs::write(&users, "\"postgres\" \"\"\n").expect("write the users");
        let ini = format!(
            "[databases]\n* = host={dir} port={server_port}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = trust\nauth_file = {}\nadmin_users = postgres\npool_mode = {mode}\n\
             default_pool_size = {size}\nmax_client_conn = 500\n",
            users.display()
        );
        fs::write(folder.path().join("ini"), ini).expect("write the config");
        // It reads the users as whom it becomes.
        open_folder(&folder.path().to_path_buf());
        let child = spawn(&folder.path().join("ini"), &folder.path().join("log"));
        let pooler = Pooler { child, folder, port };
        pooler.until_ready().await;
        pooler
    }

    /// The database through it.
    pub fn url(&self, db: &str) -> String {
        Cluster::tcp_url(self.port, db)
    }

    /// Ends it as a crash would and starts it anew.
    pub async fn restart(&mut self) {
        self.child.kill().expect("kill the pooler");
        self.child.wait().expect("it is dead");
        let path = self.folder.path();
        self.child = spawn(&path.join("ini"), &path.join("log"));
        self.until_ready().await;
    }

    /// Says something to its console; what stands in a column of the answer.
    pub async fn console(&self, words: &str, column: &str) -> Vec<String> {
        let console = connect(&self.url("pgbouncer").parse().expect("a URL")).await;
        let answer = console.simple_query(words).await.unwrap_or_else(|e| panic!("{words}: {e:?}"));
        let cell = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => row.get(column).map(str::to_owned),
            _ => None,
        };
        answer.iter().filter_map(cell).collect()
    }

    async fn until_ready(&self) {
        eventually("the pooler answers", Duration::from_secs(30), async || {
            let config: tokio_postgres::Config = self.url("pgbouncer").parse().expect("a URL");
            let log = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            config
                .connect(tokio_postgres::NoTls)
                .await
                .map(drop)
                .map_err(|e| format!("{e:?} {}", log()))
        })
        .await;
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn open_folder(path: &PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("open the folder");
}

fn spawn(ini: &PathBuf, log: &PathBuf) -> Child {
    let mut command = Command::new(program("OUTBOXD_PGBOUNCER", "pgbouncer"));
    // It refuses to stay root.
    if rustix::process::geteuid().is_root() {
        command.args(["-u", "nobody"]);
    }
    let log = fs::OpenOptions::new().create(true).append(true).open(log).expect("open its log");
    command.arg(ini).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().expect("start pgbouncer")
}
