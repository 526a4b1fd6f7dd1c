//! Rooms as a container has them, without an engine that makes containers: a network of one's own, and an
//! empty, read-only root in which one static program is the first process.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

use super::arguments::PROGRAM;
use crate::harness::eventually;
use crate::harness::program::program;

/// Names the test that runs inside.
const INSIDE: &str = "OUTBOXD_TEST_INSIDE";
/// The static binary, where it is there already: the release one of the image, say.
const STATIC: &str = "OUTBOXD_STATIC";
/// The user that the image names.
pub const USER: &str = "65532";
/// Where the programs of a container find their files.
pub const CONFIG: &str = "/etc/outboxd/outboxd.toml";

/// Where files of csv sinks may be written.
const FILES: &str = "/var/lib/outboxd";

/// Runs the test of this name once more in a network and with mounts of its own, where all ports are free
/// and nobody else listens. `true` in there; outside, `false` once it has passed.
pub fn is_inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some_and(|name| name == test) {
        let up =
            Command::new(program("OUTBOXD_IP", "ip")).args(["link", "set", "lo", "up"]).status();
        assert!(up.is_ok_and(|status| status.success()), "the loopback device comes up");
        return true;
    }
    let mut command = unshare();
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-current-user", "--keep-caps"]);
    }
    command.args(["--net", "--mount", "--kill-child", "--"]);
    command.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
    let output = command.env(INSIDE, test).env(STATIC, binary()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("test result: ok. 1 passed"),
        "{said}\n{}\nNamespaces are needed, as root or as a user who may make them; see integration/run.sh",
        String::from_utf8_lossy(&output.stderr)
    );
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    false
}

fn unshare() -> Command {
    Command::new(program("OUTBOXD_UNSHARE", "unshare"))
}

/// outboxd as the image has it, linked statically. The Dockerfile's command does that in one step; here
/// the library that is built already is linked once more, with the same flags.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| std::env::var_os(STATIC).map_or_else(link, PathBuf::from))
}

fn link() -> PathBuf {
    let here = env!("CARGO_MANIFEST_DIR");
    let mut cargo = Command::new(env!("CARGO"));
    // What Cargo tells tests of their package it would take for a change of the dependencies' surroundings.
    for (name, _) in std::env::vars_os() {
        let told = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "OUT_DIR"];
        if told.iter().any(|word| name.to_string_lossy().starts_with(word)) {
            cargo.env_remove(name);
        }
    }
    let built = cargo
        .args(["build", "--locked", "--lib", "--message-format=json"])
        .current_dir(here)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let library = String::from_utf8_lossy(&built.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|word| word["target"]["name"] == "outboxd")
        .find_map(|word| word["filenames"][0].as_str().map(PathBuf::from))
        .expect("cargo says where the library is");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("outboxd-static");
    let dependencies = library.parent().unwrap().join("deps");
    let linked = Command::new("rustc")
        .args(["--edition=2024", "--crate-name=outboxd", "src/main.rs", "-o"])
        .arg(&out)
        .arg(format!("--extern=outboxd={}", library.display()))
        .arg(format!("-Ldependency={}", dependencies.display()))
        .args(super::image::static_flags())
        .current_dir(here)
        .output()
        .unwrap();
    assert!(linked.status.success(), "{}", String::from_utf8_lossy(&linked.stderr));
    out
}

/// An empty root with outboxd in it and these files, which nothing can be written to any more.
pub struct Root {
    folder: TempDir,
    /// What stands in the environment of what runs in here.
    variables: Vec<(String, String)>,
}

impl Root {
    pub fn new(files: &[(&str, &str)]) -> Root {
        let root = Root { folder: tempfile::tempdir().unwrap(), variables: Vec::new() };
        root.mount(&["-t", "tmpfs", "-o", "mode=755", "tmpfs"], "/");
        fs::create_dir_all(root.path(PROGRAM).parent().unwrap()).unwrap();
        fs::copy(binary(), root.path(PROGRAM)).unwrap();
        for (name, text) in files {
            let file = root.path(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        fs::create_dir_all(root.path(FILES)).unwrap();
        root.mount(&["-o", "remount,ro"], "/");
        root
    }

    /// Puts a volume there, which the image's user may write to.
    pub fn with_volume(self) -> Root {
        let owner = format!("uid={USER},gid={USER}");
        let root = rustix::process::geteuid().is_root();
        let options = if root { &owner } else { "mode=755" };
        self.mount(&["-t", "tmpfs", "-o", options, "tmpfs"], FILES);
        self
    }

    /// The same root with this in the environment.
    pub fn with(mut self, name: &str, value: &str) -> Root {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    fn mount(&self, arguments: &[&str], inside: &str) {
        let mut mount = Command::new("mount");
        let mounted = mount.args(arguments).arg(self.path(inside)).status();
        assert!(mounted.is_ok_and(|status| status.success()), "mount {arguments:?}");
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.folder.path().join(inside.trim_start_matches('/'))
    }

    /// outboxd as the first process in here, as the image's user and with nothing in its environment.
    fn command(&self, before: &[&str], arguments: &[&str]) -> Command {
        let mut command = match before {
            [] => unshare(),
            [name, more @ ..] => {
                let mut command = Command::new(program("OUTBOXD_PRLIMIT", name));
                command.args(more).arg(unshare().get_program());
                command
            }
        };
        command.args(["--pid", "--kill-child", "--root"]).arg(self.folder.path());
        if rustix::process::geteuid().is_root() {
            command.args(["--setuid", USER, "--setgid", USER]);
        }
        command.args(["--", PROGRAM]).args(arguments);
        command.env_clear().stdin(Stdio::null());
        command.env("OUTBOXD_CONFIG", CONFIG).envs(self.variables.iter().cloned());
        command
    }

    /// What a command says; its exit code, its answer, and what it says besides.
    pub fn says(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.command(&[], arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().expect("not killed"), text(output.stdout), text(output.stderr))
    }

    /// Runs what must succeed.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let (code, out, err) = self.says(arguments);
        assert_eq!(code, 0, "{arguments:?}: {out}{err}");
        out
    }

    /// Starts what goes on until told to stop. `before` is a program with its arguments that starts it.
    pub async fn start(&self, before: &[&str], arguments: &[&str]) -> First {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut command = self.command(before, arguments);
        command.stdout(Stdio::null()).stderr(log.reopen().unwrap());
        let mut outer = command.process_group(0).spawn().unwrap();
        let id = eventually("outboxd is there", Duration::from_secs(60), async || {
            assert_eq!(outer.try_wait().unwrap(), None, "{}", fs::read_to_string(&log).unwrap());
            let child = children(outer.id()).first().copied().ok_or("no child yet")?;
            let name = fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
            if name.trim() == "outboxd" { Ok(child) } else { Err(name) }
        });
        let id = id.await;
        First { outer, id, log }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // With what is mounted within.
        let _ = Command::new("umount").args(["-l", "-R"]).arg(self.folder.path()).status();
    }
}

/// A program that is the first process of its container.
pub struct First {
    outer: Child,
    /// As it is seen from outside.
    id: u32,
    log: tempfile::NamedTempFile,
}

impl First {
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub async fn until_log(&self, words: &str) {
        eventually(words, Duration::from_secs(60), async || {
            let log = self.log();
            let last = log.lines().last().unwrap_or_default();
            if log.contains(words) { Ok(()) } else { Err(last.to_owned()) }
        })
        .await;
    }

    /// A line of what the kernel says of it, without its name.
    pub fn status(&self, name: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        line.unwrap_or_else(|| panic!("{name} in {status}")).trim().to_owned()
    }

    /// Megabytes it held at most since it began.
    pub fn peak_megabytes(&self) -> u64 {
        self.status("VmHWM").split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
    }

    /// Processes that it started.
    pub fn children(&self) -> Vec<u32> {
        children(self.id)
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_raw(self.id.cast_signed()).unwrap();
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// Its exit code, once it has ended.
    pub async fn ended(&mut self) -> Option<i32> {
        let ended = eventually("it ends", Duration::from_secs(60), async || {
            self.outer.try_wait().unwrap().ok_or("it runs".to_owned())
        });
        ended.await.code()
    }
}

impl Drop for First {
    fn drop(&mut self) {
        let _ = self.outer.kill();
        let _ = self.outer.wait();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("the end of its log, last line first:\n{}", tail.join("\n"));
        }
    }
}

fn children(id: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    children.split_whitespace().map(|id| id.parse().unwrap()).collect()
}
