//! The chapters on daily files and on schedules: their config and their commands, in the order they stand
//! in docs/calendar.md, against a database, a mail server and a receiver.

use std::path::Path;
use std::process::Stdio;

use super::{Background, CALENDAR, blocks_of, run, shell};
use crate::harness::http::HttpPeer;
use crate::harness::plane::until_count;
use crate::harness::postgres::Database;
use crate::harness::smtp::{Say, SmtpPeer, Step};
use crate::mailing::{was_there_for, zone_at_noon};

const FILES: &str = "Once a day, at most once";
const SCHEDULES: &str = "Messages by the calendar";

/// A chapter's text.
fn chapter(name: &str) -> &'static str {
    let (_, rest) = CALENDAR.split_once(&format!("\n## {name}\n")).expect(name);
    rest.split_once("\n## ").map_or(rest, |(chapter, _)| chapter)
}

/// A shop's database, and a folder with the config of a chapter.
struct Shop {
    database: Database,
    folder: tempfile::TempDir,
}

impl Shop {
    async fn open() -> Shop {
        let database = Database::migrated().await;
        database.psql(include_str!("../../examples/shop.sql"));
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("exports")).unwrap();
        Shop { database, folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Starts a relay with a chapter's config, in which each of these words stands and is another here.
    fn start(&self, chapter: &str, others: &[(&str, &str)]) -> Background {
        let mut toml = blocks_of(chapter, "toml").concat();
        for (word, other) in others {
            assert!(toml.contains(word), "{word}: {toml}");
            toml = toml.replace(word, other);
        }
        let head = "[database]\ninstallation = \"shop\"\n";
        std::fs::write(self.path().join("outboxd.toml"), format!("{head}{toml}")).unwrap();
        let log = std::fs::File::create(self.path().join("log")).unwrap();
        let mut command = shell(self.path(), &self.database.url(), super::RUN);
        Background(command.stdin(Stdio::null()).stderr(log).spawn().unwrap())
    }

    /// Runs a command, which must succeed and say this.
    fn says(&self, line: &str, words: &str) -> String {
        self.ends(0, line, words)
    }

    /// The same of one that must end with this code.
    fn ends(&self, code: i32, line: &str, words: &str) -> String {
        let said = run(self.path(), &self.database.url(), line, code);
        assert!(said.contains(words), "{line} lacks {words:?}:\n{said}");
        said
    }
}

/// The commands of a chapter; there are as many as `known`.
fn commands<const N: usize>(chapter: &str) -> [String; N] {
    let lines: Vec<String> = blocks_of(chapter, "sh").concat().lines().map(str::to_owned).collect();
    lines.try_into().expect("each command of the chapter is known here")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daily_file_is_made_mailed_held_and_resolved() {
    let (shop, peer) = (Shop::open().await, SmtpPeer::start().await);
    peer.always(Step::Dot, Say::Cut);
    let client = shop.database.connect().await;
    let zone = zone_at_noon(&client).await;
    was_there_for(&client, 1).await;
    shop.database.psql(
        "INSERT INTO shop.orders (created_at, customer, email, total)
         VALUES (now() - interval '3 h', 'ann', 'ann@example.com', 119.90)",
    );
    let server = format!("smtp://{}", peer.address);
    let relay = shop.start(
        chapter(FILES),
        &[
            ("smtp+starttls://relay.example.com", &server),
            ("17:00", "11:00"),
            ("Europe/Vienna", &zone),
            ("\"10m\"", "\"1s\""),
        ],
    );
    let held = "SELECT count(*) FROM outbox.mailing WHERE state = 'held'";
    until_count(&client, "the mail is held", held, 1).await;
    let period = shop.database.psql("SELECT period FROM outbox.export");
    let file = format!("exports/orders-{period}.csv");
    let text = std::fs::read_to_string(shop.path().join(&file)).unwrap();
    assert!(text.contains("\"ann\";119,90\r\n"), "{text}");
    assert!(shop.path().join(format!("{file}.json")).exists());

    let [list, steps, resolve, month, filtered] = commands(chapter(FILES));
    assert!(steps.contains("orders/2026-11-20") && resolve.contains("orders/2026-11-20"));
    let mine = |line: &str| line.replace("orders/2026-11-20", &format!("orders/{period}"));
    // It needs somebody.
    shop.ends(1, &list, "held");
    let said = shop.says(&mine(&steps), "< nothing: the server closed the connection");
    for state in ["planned", "built", "sending", "held"] {
        assert!(said.contains(&format!("  {state} ")), "{state}: {said}");
    }
    shop.says(&mine(&resolve), "recorded as delivered");
    shop.says(&mine(&steps), "is sent");
    shop.says(&list, "sent");
    shop.says(&month, "");
    let text = std::fs::read_to_string(shop.path().join("november.csv")).unwrap();
    assert!(text.starts_with("\u{feff}\"id\";\"created_at\";\"customer\";\"total\"\r\n"), "{text}");
    shop.says(&filtered, "id,created_at,customer,total\r\n");
    assert_eq!((relay.terminate(), peer.mails().len()), (0, 1), "sent once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_is_listed_and_run_by_hand_as_the_chapter_says() {
    let (shop, peer) = (Shop::open().await, HttpPeer::start().await);
    shop.database.psql(
        "INSERT INTO shop.orders (customer, email, total)
         VALUES ('ann', 'ann@example.com', 119.90), ('bob', 'bob@example.com', 5)",
    );
    let relay = shop.start(chapter(SCHEDULES), &[("http://127.0.0.1:8080", &peer.url(""))]);
    let client = shop.database.connect().await;
    let seen = "SELECT count(*) FROM outbox.calendar WHERE next_at IS NOT NULL";
    until_count(&client, "both schedules are seen", seen, 2).await;
    let [list, by_hand] = commands(chapter(SCHEDULES));
    // A Friday that is over whatever the clock says.
    let by_hand = by_hand.replace("2026-11-20", "2025-11-21");
    shop.says(&by_hand, "reminders: period 2025-11-21 ran, 1 message\n");
    let done =
        "SELECT count(*) FROM outbox.history WHERE type = 'reminder.due' AND state = 'delivered'";
    until_count(&client, "the reminder is delivered", done, 1).await;
    shop.says(&list, "at 08:00 on mon, tue, wed, thu, fri Europe/Vienna");
    shop.ends(1, &by_hand, "");
    assert_eq!(relay.terminate(), 0);
}
