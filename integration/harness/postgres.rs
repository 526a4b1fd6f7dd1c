//! A private PostgreSQL for the tests: a fresh cluster in a temporary folder, a database per test.
//!
//! A database per test and not a schema per test, because a notification reaches its whole database
//! and no further. The cluster ends and its folder goes whenever the test process ends, also by
//! kill -9: `supervisor.sh` runs the server and waits for the end of the pipe we hold. Statics are
//! never dropped, so nothing that the shared cluster needs may hang on `Drop`.
//!
//! `OUTBOXD_PG_BIN` names the folder of the server's programs, where the newest installed version is
//! not the one wanted; `OUTBOXD_PG_VERSIONS` one with a folder for each other major version. They have no
//! psql and no pg_dump. `OUTBOXD_TEST_KEEP=1` keeps the folder, with its log and databases.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use tokio_postgres::{Client, Config, NoTls};

const SUPERVISOR: &str = include_str!("supervisor.sh");
const TEMPLATE: &str = "outboxd_template";
/// Only names the socket file while the server listens on no network address.
const SOCKET_PORT: u16 = 5432;

/// What every cluster runs with. Nothing here changes what a statement means: the tests see the
/// server's defaults, only without waiting for the disk.
const SETTINGS: &[(&str, &str)] = &[
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("max_connections", "300"),
    ("shared_buffers", "128MB"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("log_line_prefix", "%m [%p] %d "),
    ("log_lock_waits", "on"),
    ("logging_collector", "off"),
];

/// One running server in its own folder.
pub struct Cluster {
    dir: PathBuf,
    bin: PathBuf,
    /// `None` while the server listens on its Unix socket only.
    tcp_port: Option<u16>,
    supervisor: Mutex<Supervisor>,
}

struct Supervisor {
    child: Child,
    /// `None` once closed, which tells the supervisor to end.
    words: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Cluster {
    /// Starts a server that listens on a Unix socket only.
    pub fn start() -> Self {
        Self::start_with(None, &[])
    }

    /// Starts a server that also listens on a free port of 127.0.0.1.
    pub fn start_on_tcp() -> Self {
        Self::start_with(Some(free_port()), &[])
    }

    /// Starts a server with settings of its own, which win over the house's.
    pub fn start_with(tcp_port: Option<u16>, settings: &[(&str, &str)]) -> Self {
        Self::start_on(tcp_port, settings, "init")
    }

    /// Starts a server on a copy of the files of another one, which must be stopped.
    pub fn start_copy_of(other: &Self) -> Self {
        Self::start_on(None, &[], &format!("copy {}", other.dir.display()))
    }

    /// Starts a server of another major version.
    pub fn start_version(major: &str) -> Self {
        let named = std::env::var_os("OUTBOXD_PG_VERSIONS")
            .expect("OUTBOXD_PG_VERSIONS is not set; run integration/run.sh, which fetches them");
        let from = Path::new(&named).join(major);
        assert!(is_server(&from.join("bin")), "{} holds no PostgreSQL", from.display());
        Self::start_from(&from.join("bin"), None, &[], "init")
    }

    /// Starts a standby that streams from a primary, over the network as a primary's own address says.
    pub fn start_standby_of(primary: &Self) -> Self {
        let first = format!("backup {} {}", primary.dir.display(), primary.port());
        Self::start_on(Some(free_port()), &[], &first)
    }

    /// Makes a standby a primary, and waits until it is.
    pub fn promote(&self) {
        assert_eq!(self.psql("postgres", "SELECT pg_promote(true, 60)"), "t");
    }

    /// Writes a file that only the server may read into its folder.
    pub fn keep_private(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let path = self.dir.join(name);
        fs::write(&path, text).expect("write into the server's folder");
        let owner = fs::metadata(&self.dir).expect("the folder is there");
        std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid()))
            .expect("give it away");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("close it");
        path
    }

    fn start_on(tcp_port: Option<u16>, settings: &[(&str, &str)], first: &str) -> Self {
        Self::start_from(&programs(), tcp_port, settings, first)
    }

    fn start_from(
        bin: &Path,
        tcp_port: Option<u16>,
        settings: &[(&str, &str)],
        first: &str,
    ) -> Self {
        let user = nobody();
        // From here on the folder belongs to the supervisor, which removes it.
        let dir = tempfile::Builder::new()
            .prefix("outboxd-pg-")
            .tempdir()
            .expect("create a temporary folder")
            .keep();
        let bin = within_reach(bin, &dir);
        let supervisor = Mutex::new(Supervisor::spawn(&bin, &dir, user));
        let cluster = Self { dir, bin, tcp_port, supervisor };
        cluster.say(first);
        cluster.write_settings(settings);
        cluster.say("start");
        cluster
    }

    /// The cluster all tests of this process share.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Stops at once, as a crash of the server would: the next start recovers from the log.
    pub fn stop_immediate(&self) {
        self.say("immediate");
    }

    /// Stops in order: sessions are ended, everything is written.
    pub fn stop_fast(&self) {
        self.say("fast");
    }

    /// Starts the stopped server again, on the same folder, socket and port.
    pub fn start_again(&self) {
        self.say("start");
    }

    /// The folder that holds data, log and socket.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The Unix socket, for a proxy to forward to.
    pub fn socket(&self) -> PathBuf {
        self.dir.join(format!(".s.PGSQL.{}", self.port()))
    }

    /// The port on 127.0.0.1.
    pub fn tcp_port(&self) -> u16 {
        self.tcp_port.expect("this cluster was started without TCP; use Cluster::start_on_tcp()")
    }

    /// The database as libpq, and so our own config, writes it.
    pub fn url(&self, db: &str) -> String {
        let (dir, port) = (self.dir.display(), self.port());
        format!("postgresql:///{db}?host={dir}&port={port}&user=postgres")
    }

    /// The database over TCP, through the server's own port or that of a proxy before it.
    pub fn tcp_url(port: u16, db: &str) -> String {
        format!("postgresql://postgres@127.0.0.1:{port}/{db}")
    }

    /// The database as tokio-postgres takes it.
    pub fn config(&self, db: &str) -> Config {
        self.url(db).parse().expect("our own URL parses")
    }

    /// Opens a session.
    pub async fn connect(&self, db: &str) -> Client {
        connect(&self.config(db)).await
    }

    /// Runs statements through psql, each in its own transaction, and returns the unaligned rows.
    /// Panics with what psql said when one fails.
    pub fn psql(&self, db: &str, sql: &str) -> String {
        self.try_psql(db, sql).unwrap_or_else(|said| panic!("psql on {db}: {said}\n{sql}"))
    }

    /// Runs statements through psql; the error is what psql said.
    pub fn try_psql(&self, db: &str, sql: &str) -> Result<String, String> {
        let mut psql = self.client_program("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &self.url(db)]);
        output_of(psql, sql)
    }

    /// Dumps a database as SQL text, with options such as `--schema-only`.
    pub fn pg_dump(&self, db: &str, options: &[&str]) -> String {
        let mut dump = self.client_program("pg_dump");
        dump.args(options).args(["-d", &self.url(db)]);
        output_of(dump, "").unwrap_or_else(|said| panic!("pg_dump of {db}: {said}"))
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn port(&self) -> u16 {
        self.tcp_port.unwrap_or(SOCKET_PORT)
    }

    fn client_program(&self, name: &str) -> Command {
        let beside = self.bin.join(name);
        let mut command = if beside.exists() { Command::new(beside) } else { Command::new(name) };
        without_pg_variables(&mut command);
        command
    }

    fn write_settings(&self, more: &[(&str, &str)]) {
        let listen = if self.tcp_port.is_some() { "127.0.0.1" } else { "" };
        let (dir, port) = (self.dir.display().to_string(), self.port().to_string());
        let own =
            [("listen_addresses", listen), ("port", &port), ("unix_socket_directories", &dir)];
        let mut text = String::new();
        for (name, value) in SETTINGS.iter().chain(&own).chain(more) {
            let value = value.replace('\'', "''");
            writeln!(text, "{name} = '{value}'").expect("writing to a string");
        }
        // Appended, not replaced: of two equal settings PostgreSQL takes the last.
        fs::OpenOptions::new()
            .append(true)
            .open(self.dir.join("data/postgresql.conf"))
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .expect("write postgresql.conf");
    }

    /// Says one word to the supervisor and waits for its answer.
    fn say(&self, word: &str) {
        let mut supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = supervisor.say(word);
        assert!(
            answer.trim() == "ok",
            "PostgreSQL from {}: {word} failed; its log:\n{}",
            self.bin.display(),
            self.log()
        );
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let supervisor = self.supervisor.get_mut().unwrap_or_else(PoisonError::into_inner);
        drop(supervisor.words.take());
        // Nothing to do about a failure here; the supervisor ends with its pipe in any case.
        let _ = supervisor.child.wait();
    }
}

impl Supervisor {
    fn spawn(bin: &Path, dir: &Path, user: Option<(u32, u32)>) -> Self {
        let keep = if keep_folders() { "keep" } else { "remove" };
        let mut command = Command::new("sh");
        command.arg("-c").arg(SUPERVISOR).arg("supervisor").args([bin, dir]).arg(keep);
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(dir, Some(uid), Some(gid)).expect("give the folder away");
            command.uid(uid).gid(gid);
        }
        without_pg_variables(&mut command);
        let log = fs::File::create(dir.join("log")).expect("create the log");
        if let Some((uid, gid)) = user {
            std::os::unix::fs::fchown(&log, Some(uid), Some(gid)).expect("give the log away");
        }
        // A group of its own: Ctrl-C in the terminal ends the tests, and through the pipe this.
        let mut child = command
            .current_dir(dir)
            .env("LC_ALL", "C")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("run sh");
        let words = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        Self { child, words, answers }
    }

    fn say(&mut self, word: &str) -> String {
        let words = self.words.as_mut().expect("the supervisor still listens");
        writeln!(words, "{word}").expect("write to the supervisor");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("read from the supervisor");
        answer
    }
}

/// A database of its own for one test, on the shared cluster. Dropped when the test succeeds.
pub struct Database {
    name: String,
}

impl Database {
    /// An empty database.
    pub async fn fresh() -> Self {
        Self::create(Self::shared_cluster().await, "template1").await
    }

    /// A database with the outbox in it, copied from a template that is made once.
    pub async fn migrated() -> Self {
        static TEMPLATE_FILLED: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
        let cluster = Self::shared_cluster().await;
        TEMPLATE_FILLED.get_or_init(|| create_template(cluster)).await;
        Self::create(cluster, TEMPLATE).await
    }

    async fn shared_cluster() -> &'static Cluster {
        tokio::task::spawn_blocking(Cluster::shared)
            .await
            .unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()))
    }

    async fn create(cluster: &Cluster, template: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        cluster
            .connect("postgres")
            .await
            .batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {template}"))
            .await
            .expect("copy the template");
        Self { name }
    }

    /// Its name on the shared cluster.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URL a config file takes.
    pub fn url(&self) -> String {
        Cluster::shared().url(&self.name)
    }

    /// The same for tokio-postgres.
    pub fn config(&self) -> Config {
        self.url().parse().expect("our own URL parses")
    }

    /// Opens a session.
    pub async fn connect(&self) -> Client {
        connect(&self.config()).await
    }

    /// Runs statements through psql; see [`Cluster::psql`].
    pub fn psql(&self, sql: &str) -> String {
        Cluster::shared().psql(&self.name, sql)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let cluster = Cluster::shared();
        if !std::thread::panicking() {
            cluster.psql("postgres", &format!("DROP DATABASE {} WITH (FORCE)", self.name));
        } else if keep_folders() {
            let (bin, dir) = (cluster.bin.display(), cluster.dir.display());
            eprintln!("database {} is kept; start {bin}/postgres -D {dir}/data", self.name);
        } else {
            let name = &self.name;
            eprintln!("database {name} goes with the tests; OUTBOXD_TEST_KEEP=1 keeps it");
        }
    }
}

async fn create_template(cluster: &Cluster) {
    let postgres = cluster.connect("postgres").await;
    // A test that was cancelled while it filled the template leaves half of one behind.
    for sql in [
        format!("DROP DATABASE IF EXISTS {TEMPLATE} WITH (FORCE)"),
        format!("CREATE DATABASE {TEMPLATE}"),
    ] {
        postgres.batch_execute(&sql).await.expect("create the template");
    }
    fill_template(cluster, TEMPLATE).await;
    // A database that somebody is connected to cannot be copied.
    postgres
        .batch_execute(&format!(
            "ALTER DATABASE {TEMPLATE} ALLOW_CONNECTIONS false;
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{TEMPLATE}'"
        ))
        .await
        .expect("close the template");
}

/// What a migrated database holds: outboxd's own migration, run as a user would.
pub async fn fill_template(cluster: &Cluster, db: &str) {
    let toml = format!("[database]\nurl = \"{}\"\ninstallation = \"shop\"\n", cluster.url(db));
    let config = outboxd::config::Config::parse(&toml, Path::new("test.toml"), &|_| None)
        .expect("the template's config parses");
    let target = outboxd::store::Target::new(&config.database);
    outboxd::store::migrate::migrate(&target, &config.database).await.expect("migrate");
}

/// Opens a session and drives it in the background until the client is dropped.
pub async fn connect(config: &Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.expect("connect to PostgreSQL");
    // The end of a connection shows in the client's next statement.
    tokio::spawn(connection);
    client
}

/// The folder of the newest server, as `OUTBOXD_PG_BIN`, PATH and Debian's layout have it.
fn programs() -> PathBuf {
    if let Some(named) = std::env::var_os("OUTBOXD_PG_BIN") {
        let bin = PathBuf::from(named);
        assert!(is_server(&bin), "OUTBOXD_PG_BIN={} holds no initdb and postgres", bin.display());
        return bin;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    // PATH may hold links; the other programs stand beside what they point to.
    let on_path = std::env::split_paths(&path)
        .filter(|dir| is_server(dir))
        .find_map(|dir| Some(dir.join("postgres").canonicalize().ok()?.parent()?.to_path_buf()));
    on_path.or_else(newest_installed).expect(
        "PostgreSQL's server programs (initdb, postgres) are neither on PATH nor in \
         /usr/lib/postgresql; run integration/run.sh, which installs them, or set OUTBOXD_PG_BIN",
    )
}

fn newest_installed() -> Option<PathBuf> {
    fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, bin)| is_server(bin))
        .max()
        .map(|(_, bin)| bin)
}

fn is_server(bin: &Path) -> bool {
    bin.join("initdb").exists() && bin.join("postgres").exists()
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind a free port");
    listener.local_addr().expect("read the port").port()
}

/// The server may run as somebody who cannot look into a cache of ours, so what is no system folder is
/// copied beside the server's files.
fn within_reach(bin: &Path, dir: &Path) -> PathBuf {
    if bin.starts_with("/usr") {
        return bin.to_path_buf();
    }
    let copied =
        Command::new("cp").arg("-a").arg(bin.join("..")).arg(dir.join("programs")).status();
    assert!(copied.is_ok_and(|status| status.success()), "copy {}", bin.display());
    dir.join("programs/bin")
}

/// Some servers refuse to run as root, so root runs them as `nobody`; everybody else as themselves.
pub fn nobody() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").expect("read /etc/passwd");
    let ids = passwd.lines().find_map(|line| {
        let mut fields = line.strip_prefix("nobody:")?.split(':').skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    Some(
        ids.expect("this server refuses root and there is no user nobody; run the tests as a user"),
    )
}

fn keep_folders() -> bool {
    std::env::var_os("OUTBOXD_TEST_KEEP").is_some_and(|value| value != OsStr::new(""))
}

/// What a developer's shell says about their own databases is not meant for ours.
fn without_pg_variables(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("PG")) {
            command.env_remove(name);
        }
    }
}

/// Runs a program to its end; the error is its stderr.
fn output_of(mut command: Command, input: &str) -> Result<String, String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{command:?} does not run: {error}; run integration/run.sh"))?;
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    // A thread of its own, as both sides may wait for full pipes to drain.
    let output = std::thread::scope(|scope| {
        // A program that stops reading says why on its stderr.
        scope.spawn(move || stdin.write_all(input.as_bytes()));
        child.wait_with_output()
    });
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned())
    }
}
