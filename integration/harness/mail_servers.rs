//! Other people's mail servers, each run for one test on a port of 127.0.0.1: Postfix's `smtp-sink`,
//! Python's aiosmtpd, and Exim. They end when dropped.

#![allow(dead_code, reason = "each user reads only what it needs")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::eventually;
use super::postgres::{free_port, nobody};
use super::program::program;

const LIMIT: Duration = Duration::from_secs(30);

/// A certificate for 127.0.0.1 that it signed itself, and its key, in PEM.
pub struct Certificate {
    /// To be trusted by the client.
    pub certificate: String,
    /// The server's secret.
    pub key: String,
}

impl Certificate {
    /// Makes one for a host.
    pub fn for_host(host: &str) -> Certificate {
        let made = rcgen::generate_simple_self_signed([host.to_owned()]).expect("a certificate");
        Certificate { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    /// Writes both into a folder; gives their paths.
    pub fn write(&self, folder: &Path) -> (PathBuf, PathBuf) {
        let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
        fs::write(&certificate, &self.certificate).expect("write the certificate");
        fs::write(&key, &self.key).expect("write the key");
        (certificate, key)
    }
}

/// Waits until somebody listens.
async fn until_open(what: &str, port: u16) {
    eventually(what, LIMIT, async || {
        let connected = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
        connected.map(drop).map_err(|error| error.to_string())
    })
    .await;
}

/// Postfix's `smtp-sink`.
pub struct SmtpSink {
    /// Where it listens.
    pub port: u16,
    child: Child,
    folder: tempfile::TempDir,
}

impl SmtpSink {
    /// Starts one that keeps all mails, with further arguments.
    pub async fn start(arguments: &[&str]) -> SmtpSink {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dump = folder.path().join("dump");
        let mut all = vec!["-D", dump.to_str().expect("UTF-8")];
        all.extend(arguments);
        SmtpSink::run(folder, &all).await
    }

    /// Starts one that keeps nothing, which is faster.
    pub async fn start_forgetful(arguments: &[&str]) -> SmtpSink {
        SmtpSink::run(tempfile::tempdir().expect("a temporary folder"), arguments).await
    }

    async fn run(folder: tempfile::TempDir, arguments: &[&str]) -> SmtpSink {
        // It cannot choose a port by itself.
        let port = free_port();
        let mut command = Command::new(program("OUTBOXD_SMTP_SINK", "smtp-sink"));
        if rustix::process::getuid().is_root() {
            command.args(["-u", "root"]);
        }
        command.args(arguments).arg(format!("127.0.0.1:{port}")).arg("1000");
        let child = command.stdout(Stdio::null()).kill_on_drop(true).spawn();
        let sink = SmtpSink { port, child: child.expect("start smtp-sink"), folder };
        until_open("smtp-sink", port).await;
        sink
    }

    /// The mails that it has seen to their end, whatever it answered: without what it puts before each,
    /// lines ended by LF.
    pub fn mails(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join("dump")).unwrap_or_default();
        let mails = text.split("X-Client-Addr: ").skip(1);
        mails
            .map(|mail| {
                let (_, mail) = mail.split_once(" (UTC)\n").expect("its own headers");
                mail.strip_suffix('\n').expect("an empty line").to_owned()
            })
            .collect()
    }

    /// Waits for its end, which some of its options bring about.
    pub async fn ended(&mut self) {
        let ended = tokio::time::timeout(LIMIT, self.child.wait()).await;
        ended.expect("it ends").expect("wait for it");
    }
}

/// A mail that aiosmtpd took.
#[derive(Clone, Debug)]
pub struct TakenMail {
    /// The envelope's sender.
    pub from: String,
    /// The recipients that it took.
    pub to: Vec<String>,
    /// What came with MAIL.
    pub options: Vec<String>,
    /// Its bytes.
    pub data: Vec<u8>,
}

/// Python's aiosmtpd.
pub struct Aiosmtpd {
    /// Where it listens.
    pub port: u16,
    mails: Arc<Mutex<Vec<TakenMail>>>,
    _child: Child,
}

impl Aiosmtpd {
    /// Starts one with options: see `aiosmtpd.py`.
    pub async fn start(options: &Value) -> Aiosmtpd {
        let mut command = Command::new(program("OUTBOXD_PYTHON", "python3"));
        command.args(["-u", "-c", include_str!("aiosmtpd.py"), &options.to_string()]);
        if let Some(path) = std::env::var_os("OUTBOXD_AIOSMTPD").filter(|path| !path.is_empty()) {
            command.env("PYTHONPATH", path);
        }
        // It writes down every fault that it was told to make.
        command.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().expect("start python3");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is a pipe")).lines();
        let first = tokio::time::timeout(LIMIT, lines.next_line()).await.expect("it starts");
        let first = first.expect("read its port");
        let first = first.expect("aiosmtpd does not start; run integration/run.sh");
        let said: Value = serde_json::from_str(&first).expect("JSON");
        let port = said["port"].as_u64().and_then(|port| port.try_into().ok()).expect("a port");
        let mails: Arc<Mutex<Vec<TakenMail>>> = Arc::default();
        let taken = Arc::clone(&mails);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                taken.lock().unwrap_or_else(PoisonError::into_inner).push(read_mail(&line));
            }
        });
        Aiosmtpd { port, mails, _child: child }
    }

    /// The mails it has taken; they may come a moment after its answer.
    pub fn mails(&self) -> Vec<TakenMail> {
        self.mails.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has taken so many.
    pub async fn until_taken(&self, count: usize) {
        eventually("aiosmtpd has taken them", LIMIT, async || {
            let taken = self.mails().len();
            if taken >= count { Ok(()) } else { Err(format!("{taken} taken")) }
        })
        .await;
    }
}

fn read_mail(line: &str) -> TakenMail {
    let said: Value = serde_json::from_str(line).expect("JSON");
    let texts = |name: &str| {
        let list = said[name].as_array().expect("a list");
        list.iter().map(|text| text.as_str().expect("a text").to_owned()).collect()
    };
    TakenMail {
        from: said["sender"].as_str().expect("a sender").to_owned(),
        to: texts("to"),
        options: texts("options"),
        data: STANDARD.decode(said["data"].as_str().expect("its bytes")).expect("base64"),
    }
}

/// Exim, with a folder of its own. It takes mail for everybody, but refuses `nobody@…` with 550, puts
/// `later@…` off with 451, refuses mails about `spam` at their end, and the sender `banned@…`.
pub struct Exim {
    /// Where it listens.
    pub port: u16,
    folder: tempfile::TempDir,
    _child: Child,
}

impl Exim {
    /// Starts one; with a login it wants one, over TLS only.
    pub async fn start(tls: Option<&Certificate>, login: Option<(&str, &str)>) -> Exim {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (path, port) = (folder.path(), free_port());
        let given = std::env::var_os("OUTBOXD_EXIM")
            .expect("OUTBOXD_EXIM is not set; run integration/run.sh, which unpacks it");
        let mut copy = std::process::Command::new("cp");
        let copied = copy.arg("-a").arg(given).arg(path.join("bin")).status();
        assert!(copied.is_ok_and(|status| status.success()), "copy exim");
        for name in ["spool", "mail", "log"] {
            fs::create_dir(path.join(name)).expect("a folder");
        }
        if let Some(tls) = tls {
            tls.write(path);
        }
        fs::write(path.join("config"), config(path, tls.is_some(), login)).expect("the config");
        let user = nobody();
        let (uid, gid) = user.unwrap_or_else(|| {
            (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw())
        });
        let names = |last: &str| format!("Debian-exim:x:{uid}:{last}\n");
        fs::write(path.join("passwd"), names(&format!("{gid}::/:/bin/false"))).expect("passwd");
        fs::write(path.join("group"), format!("Debian-exim:x:{gid}:\n")).expect("group");
        let mut command = Command::new(path.join("bin/exim4"));
        if let Some((uid, gid)) = user {
            give_away(path, uid, gid);
            command.uid(uid).gid(gid);
        }
        command.arg("-C").arg(path.join("config")).args(["-bdf", "-oX"]);
        command.arg(format!("127.0.0.1.{port}"));
        command.env("LD_LIBRARY_PATH", path.join("bin"));
        command.env("LD_PRELOAD", path.join("bin/libnss_wrapper.so"));
        command.env("NSS_WRAPPER_PASSWD", path.join("passwd"));
        command.env("NSS_WRAPPER_GROUP", path.join("group"));
        let said = fs::File::create(path.join("said")).expect("create its log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).kill_on_drop(true);
        let child = command.spawn().expect("start exim");
        let exim = Exim { port, folder, _child: child };
        eventually("exim listens", LIMIT, async || {
            let connected = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
            connected.map(drop).map_err(|error| format!("{error}; {}", exim.log()))
        })
        .await;
        exim
    }

    /// The mails that it has delivered, each a file of one recipient.
    pub fn mails(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join("mail/new"));
        let read = |entry: std::io::Result<fs::DirEntry>| {
            fs::read_to_string(entry.expect("a file").path()).expect("read it")
        };
        entries.map(|entries| entries.map(read).collect()).unwrap_or_default()
    }

    /// Waits until it has delivered so many.
    pub async fn until_delivered(&self, count: usize) {
        eventually("exim delivers", LIMIT, async || {
            let there = self.mails().len();
            if there >= count { Ok(()) } else { Err(format!("{there} there; {}", self.log())) }
        })
        .await;
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        let read = |name| fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        ["said", "log/main", "log/panic"].map(read).concat()
    }
}

/// Everything in a folder, and the folder, to another user.
fn give_away(path: &Path, uid: u32, gid: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("open the folder");
    for entry in fs::read_dir(path).expect("read the folder") {
        std::os::unix::fs::chown(entry.expect("an entry").path(), Some(uid), Some(gid))
            .expect("give it away");
    }
    std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("give the folder away");
}

fn config(path: &Path, tls: bool, login: Option<(&str, &str)>) -> String {
    let path = path.display();
    let tls = if tls {
        format!(
            "tls_advertise_hosts = *\ntls_certificate = {path}/certificate.pem\n\
             tls_privatekey = {path}/key.pem\n"
        )
    } else {
        "tls_advertise_hosts =\n".to_owned()
    };
    let (wanted, authenticators) = login.map_or_else(Default::default, |(user, password)| {
        let right = |user_at: &str, password_at: &str| {
            format!(
                "server_condition = ${{if and{{{{eq{{${user_at}}}{{{user}}}}}\
                 {{eq{{${password_at}}}{{{password}}}}}}}}}\n\
                 server_advertise_condition = ${{if def:tls_in_cipher}}\n"
            )
        };
        let wanted = "deny !authenticated = *\nmessage = 5.7.1 log in first\n";
        let plain = "plain:\ndriver = plaintext\npublic_name = PLAIN\nserver_prompts = :\n";
        let by_steps = "login:\ndriver = plaintext\npublic_name = LOGIN\n\
                        server_prompts = Username:: : Password::\n";
        let (first, second) = (right("auth2", "auth3"), right("auth1", "auth2"));
        (wanted, format!("begin authenticators\n{plain}{first}{by_steps}{second}"))
    });
    format!(
        "primary_hostname = mx.example\nexim_path = {path}/bin/exim4\n\
         spool_directory = {path}/spool\nlog_file_path = {path}/log/%s\n\
         pid_file_path = {path}/pid\nlocal_interfaces = 127.0.0.1\n{tls}\
         auth_advertise_hosts = *\nhost_lookup =\nkeep_environment =\ndeliver_drop_privilege\n\
         smtp_accept_queue_per_connection = 0\nmessage_size_limit = 1M\n\
         acl_smtp_mail = mail\nacl_smtp_rcpt = rcpt\nacl_smtp_data = data\n\
         begin acl\n\
         mail:\n{wanted}deny senders = banned@*\nmessage = 5.7.1 this sender is banned\naccept\n\
         rcpt:\ndeny local_parts = nobody\nmessage = 5.1.1 no such user\n\
         defer local_parts = later\nmessage = 4.2.1 mailbox busy\naccept\n\
         data:\ndeny condition = ${{if match{{$h_Subject:}}{{spam}}}}\n\
         message = 5.7.1 looks like spam\naccept\n\
         begin routers\nall:\ndriver = accept\ntransport = file\n\
         begin transports\nfile:\ndriver = appendfile\ndirectory = {path}/mail\nmaildir_format\n\
         envelope_to_add\nreturn_path_add\n{authenticators}"
    )
}
