//! Faults of files: what the operator sees, and that after the remedy the file is there, with nothing lost
//! or doubled.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tokio_postgres::Client;

use super::files;
use super::query::until_reason;
use crate::harness::plane::{until_count, until_routed};
use crate::harness::postgres::Database;
use crate::harness::relay::{Process, toml};

const RELAY: &str = "lease = \"1s\"";
const ROWS: i64 = 3_000;
/// Less than the rows take.
const SMALL: &str = "64k";
const NOBODY: u32 = 65_534;

fn orders(database: &Database, folder: &Path) -> String {
    let sink = format!(
        "[sinks.orders]\nkind = \"csv\"\npath = \"{}/orders-{{{{ period }}}}.csv\"\n\
         max_rows = {ROWS}\ncolumns = [{{ name = \"id\", value = \"id\" }},\n\
         {{ name = \"note\", value = \"payload.note\" }}]\n[[routes]]\ntype = \"*\"\nsink = \"orders\"\n",
        folder.display()
    );
    toml(&database.url(), RELAY, &sink)
}

/// As many rows as make a file, about 300 kB.
async fn send_all(client: &Client) {
    let sql = format!(
        "INSERT INTO outbox.message (type, payload)
         SELECT 't', jsonb_build_object('note', repeat('x', 100)) FROM generate_series(1, {ROWS})"
    );
    client.batch_execute(&sql).await.unwrap();
}

async fn until_published(client: &Client) {
    let sql = "SELECT count(*) FROM outbox.export WHERE state = 'published' AND reason IS NULL";
    until_count(client, "the file is published", sql, 1).await;
}

async fn until_built(client: &Client) {
    let sql = "SELECT count(*) FROM outbox.export WHERE state = 'built' AND reason IS NOT NULL";
    until_count(client, "it is built and has no name", sql, 1).await;
}

/// One file, which holds each message once.
#[track_caller]
fn is_whole(folder: &Path) -> PathBuf {
    let names = files(folder);
    let [name] = &names[..] else { panic!("one file: {names:?}") };
    let path = folder.join(name);
    let mut ids: Vec<i64> = csv::Reader::from_path(&path)
        .unwrap()
        .records()
        .map(|row| row.unwrap()[0].parse().unwrap())
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=ROWS).collect::<Vec<i64>>());
    path
}

/// Log, row and list all say it.
#[track_caller]
fn is_told(relay: &Process, reason: &str) {
    assert!(relay.log().contains(reason), "{reason} is not in:\n{}", relay.log());
    let (code, list) = relay.says(&["export", "list", "orders"]);
    assert_eq!(code, 1, "{list}");
    assert!(list.contains(reason), "{reason} is not in:\n{list}");
}

/// A file system in memory.
struct Disk(PathBuf);

impl Disk {
    /// None where this user may not mount.
    fn mount(at: &Path) -> Option<Disk> {
        let disk = Disk(at.to_owned());
        disk.mounted(&["-t", "tmpfs", "-o", &format!("size={SMALL},mode=777"), "tmpfs"])
            .then_some(disk)
    }

    fn again(&self, options: &str) {
        assert!(self.mounted(&["-o", &format!("remount,{options}"), "tmpfs"]), "remount {options}");
    }

    fn mounted(&self, arguments: &[&str]) -> bool {
        let mount = Command::new("mount").args(arguments).arg(&self.0).output();
        mount.is_ok_and(|output| output.status.success())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_read_only_and_then_full_keeps_the_file_back() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    fs::create_dir(&path).unwrap();
    let config = orders(&database, &path);
    match Disk::mount(&path) {
        Some(disk) => {
            disk.again("ro");
            let relay = Process::start(&config);
            until_routed(&client).await;
            send_all(&client).await;
            until_reason(&client, "Read-only file system").await;
            is_told(&relay, "Read-only file system");
            disk.again("rw");
            let reason = until_reason(&client, "No space left on device").await;
            assert!(reason.contains(path.to_str().unwrap()), "{reason}");
            is_told(&relay, "No space left on device");
            disk.again("size=4m");
            until_published(&client).await;
            is_whole(&path);
        }
        // Who may not mount has as little room in every file of theirs.
        None => {
            let relay = Process::start_with(&config, |command| {
                let mut limited = Command::new("sh");
                limited.args(["-c", "trap '' XFSZ; ulimit -f 128; exec \"$0\" \"$@\""]);
                limited.arg(command.get_program()).args(command.get_args());
                limited.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                *command = limited;
            });
            until_routed(&client).await;
            send_all(&client).await;
            until_reason(&client, "File too large").await;
            relay.kill();
            let relay = Process::start(&config);
            until_published(&client).await;
            is_whole(&path);
            drop(relay);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_may_not_be_written_in_keeps_the_file_back() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = folder.path().join("out");
    fs::create_dir(&path).unwrap();
    let rights = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    rights(0o555);
    let config = orders(&database, &path);
    let relay = Process::start_with(&config, |command| {
        // Nothing keeps root out.
        if rustix::process::geteuid().is_root() {
            let mine = folder.path().join("outboxd");
            fs::copy(command.get_program(), &mine).unwrap();
            let file = command.get_args().nth(1).unwrap().to_owned();
            let within = Path::new(&file).parent().unwrap();
            fs::set_permissions(within, fs::Permissions::from_mode(0o755)).unwrap();
            let mut other = Command::new(mine);
            other.args(command.get_args()).uid(NOBODY).gid(NOBODY);
            other.stdin(Stdio::null()).stdout(Stdio::null());
            other.stderr(fs::File::options().append(true).open(within.join("log")).unwrap());
            *command = other;
        }
    });
    until_routed(&client).await;
    send_all(&client).await;
    until_reason(&client, "Permission denied").await;
    is_told(&relay, "Permission denied");
    rights(0o777);
    until_published(&client).await;
    is_whole(&path);
}

/// The bytes are there and their hash is on record; only the name is taken. They are not written again, not
/// after kill -9 either: the file that gets the name is the one that waited.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_keeps_the_built_file_back_also_over_kill_9() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let folder = tempfile::tempdir().unwrap();
    let config = orders(&database, folder.path());
    let theirs = take_names(&client, folder.path()).await;
    let relay = Process::start(&config);
    until_routed(&client).await;
    send_all(&client).await;
    until_built(&client).await;
    is_told(&relay, "exists with other content and is not overwritten");
    relay.kill();
    let hidden = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let hidden: Vec<_> =
        hidden.filter(|path| path.extension().is_some_and(|e| e == "tmp")).collect();
    let [hidden] = &hidden[..] else { panic!("{hidden:?}") };
    let node = fs::metadata(hidden).unwrap().ino();
    let relay = Process::start(&config);
    let told = "SELECT count(*) FROM outbox.sink WHERE epoch = 2";
    until_count(&client, "it is taken over", told, 1).await;
    for path in theirs {
        assert_eq!(fs::read(&path).unwrap(), b"theirs");
        fs::remove_file(path).unwrap();
    }
    until_published(&client).await;
    assert!(!relay.log().contains("writing it again"), "{}", relay.log());
    assert_eq!(fs::metadata(is_whole(folder.path())).unwrap().ino(), node);
}

/// Killed between the record of the hash and the name, and the next owner has another disk: it writes the
/// file again, with the same rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_built_file_of_a_lost_disk_is_written_again() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    take_names(&client, first.path()).await;
    let relay = Process::start(&orders(&database, first.path()));
    until_routed(&client).await;
    send_all(&client).await;
    until_built(&client).await;
    relay.kill();
    let relay = Process::start(&orders(&database, second.path()));
    until_published(&client).await;
    assert!(relay.log().contains("writing it again"), "{}", relay.log());
    is_whole(second.path());
    let sql = "SELECT count(*) FROM outbox.export WHERE row_count = 3000";
    until_count(&client, "its rows are counted", sql, 1).await;
}

/// Files of other content under the names that today's file may get, by the database's clock.
async fn take_names(client: &Client, folder: &Path) -> Vec<PathBuf> {
    let sql = "SELECT to_char(now() AT TIME ZONE 'UTC' + d * interval '1 day', 'YYYY-MM-DD')
                 FROM generate_series(0, 1) d";
    let days = client.query(sql, &[]).await.unwrap();
    let take = |row: &tokio_postgres::Row| {
        let path = folder.join(format!("orders-{}.csv", row.get::<_, &str>(0)));
        fs::write(&path, "theirs").unwrap();
        path
    };
    days.iter().map(take).collect()
}
