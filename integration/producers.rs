//! The producer contract: the examples as they stand, and what a producer may and may not do.

mod languages;
mod migrations;

use std::path::{Path, PathBuf};

use tokio::process::Command;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::harness::plane::number;
use crate::harness::postgres::{Cluster, Database, connect};
use crate::harness::program::run;
use crate::harness::proxy::{Proxy, Target};
use crate::harness::relay::command_in;

/// A database with the shop in it, and a role that sells and is a member of `outbox_producer`.
struct Stage {
    database: Database,
    role: String,
    /// Drivers in Java know no Unix sockets.
    proxy: Proxy,
}

impl Stage {
    async fn build() -> Stage {
        let stage = Stage::of(Database::migrated().await).await;
        stage.database.psql(include_str!("../examples/shop.sql"));
        let role = stage.role.as_str();
        stage.database.psql(&format!(
            "GRANT USAGE ON SCHEMA shop TO {role};
             GRANT SELECT, INSERT ON shop.orders TO {role};"
        ));
        stage
    }

    /// Without a shop.
    async fn of(database: Database) -> Stage {
        // Roles belong to the whole cluster, so each test has its own.
        let role = format!("seller_{}", database.name());
        // The group too, if no migration ran before.
        database.psql(&format!(
            "DO $$ BEGIN CREATE ROLE outbox_producer NOLOGIN;
             EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
             CREATE ROLE {role} LOGIN IN ROLE outbox_producer;"
        ));
        let proxy = Proxy::start(Target::Unix(Cluster::shared().socket())).await;
        Stage { database, role, proxy }
    }

    fn url(&self) -> String {
        Cluster::tcp_url(self.proxy.port(), self.database.name())
    }

    fn seller_url(&self) -> String {
        self.url().replace("postgres@", &format!("{}@", self.role))
    }

    async fn seller(&self) -> Client {
        connect(&self.seller_url().parse().unwrap()).await
    }

    /// Another program, on behalf of the role that sells.
    fn seller_runs(&self, program: &Path) -> Command {
        command(program, &self.seller_url())
    }

    /// The same on behalf of the database's owner.
    fn owner_runs(&self, program: &Path) -> Command {
        command(program, &self.url())
    }

    /// What outboxd says with a config for this database, and its exit code.
    fn says(&self, arguments: &[&str]) -> (i32, String) {
        let folder = tempfile::tempdir().unwrap();
        let toml = format!("[database]\nurl = \"{}\"\ninstallation = \"shop\"\n", self.url());
        std::fs::write(folder.path().join("outboxd.toml"), toml).unwrap();
        let output = command_in(folder.path(), arguments).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    }

    /// What it says where all is well.
    #[track_caller]
    fn outboxd(&self, arguments: &[&str]) -> String {
        let (code, said) = self.says(arguments);
        assert_eq!(code, 0, "{arguments:?}: {said}");
        said
    }

    /// The outbox's schema: all but its rows, and the days of the ledger, which go by the date.
    fn dump(&self) -> String {
        let options = ["--schema-only", "--schema=outbox", "--exclude-table=outbox.ledger_*"];
        let dump = Cluster::shared().pg_dump(self.database.name(), &options);
        // A dump is sealed with a random word.
        dump.lines().filter(|line| !line.contains("restrict ")).collect::<Vec<_>>().join("\n")
    }

    /// As if nothing had been sold.
    fn empty(&self) {
        self.database.psql("TRUNCATE shop.orders, outbox.message, outbox.delivery");
    }

    /// Each message: its type, its key, and where it stands.
    fn messages(&self) -> Vec<String> {
        let sql = "SELECT type || ' ' || coalesce(key, '-') || ' ' || state
                     FROM outbox.history h ORDER BY message_id";
        self.database.psql(sql).lines().map(str::to_owned).collect()
    }

    fn customers(&self) -> String {
        self.database.psql("SELECT string_agg(customer || ' ' || total, ', ') FROM shop.orders")
    }
}

/// The Python that `provision.sh` found, or the system's.
pub fn python() -> PathBuf {
    std::env::var_os("OUTBOXD_PYTHON").map_or_else(|| "/usr/bin/python3".into(), PathBuf::from)
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// A program that finds the database where applications look for it, and nothing of ours.
fn command(program: &Path, database_url: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG"))
    {
        command.env_remove(name);
    }
    command.env("DATABASE_URL", database_url).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sql_example_commits_what_it_says_and_nothing_it_rolled_back() {
    let stage = Stage::build().await;
    let text = std::fs::read_to_string(example("producer.sql")).unwrap();
    stage.database.psql(&format!("SET ROLE {};\n{text}", stage.role));
    assert_eq!(stage.customers(), "ann 19.90");
    assert_eq!(
        stage.messages(),
        [
            "order.created ann unrouted",
            "reminder.due - unrouted",
            "order.paid - unrouted",
            "order.paid - duplicate",
            "newsletter.sent - unrouted",
            "order.shipped ann unrouted",
            "order.shipped ann unrouted",
        ]
    );
    let total = "SELECT payload->>'total' FROM outbox.message WHERE type = 'order.created'";
    assert_eq!(stage.database.psql(total), "19.90", "decimals are exact");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_example_commits_one_order_and_rolls_one_back() {
    // Both of its drivers: where psycopg 3 is kept from it, it takes psycopg2.
    for hide in ["", "sys.modules['psycopg'] = None"] {
        let stage = Stage::build().await;
        let source = "import runpy, sys; exec(sys.argv[2]); runpy.run_path(sys.argv[1]);
print([name for name in ('psycopg', 'psycopg2') if sys.modules.get(name)])";
        let mut python = stage.seller_runs(&python());
        python.args(["-c", source]).arg(example("producer.py")).arg(hide);
        let said = run(&mut python).await;
        let driver = if hide.is_empty() { "psycopg" } else { "psycopg2" };
        let expected = "committed: message 1\nrolled back: the payment was declined\n";
        assert_eq!(said, format!("{expected}['{driver}']\n"));
        assert_eq!(stage.customers(), "carol 7.50");
        assert_eq!(stage.messages(), ["order.created carol unrouted"]);
        let payload = "SELECT payload FROM outbox.message";
        assert_eq!(
            stage.database.psql(payload),
            "{\"email\": \"carol@example.com\", \"total\": \"7.50\", \"order_id\": 1}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_insert_works_for_a_producer() {
    let stage = Stage::build().await;
    let seller = stage.seller().await;
    let owner = stage.database.connect().await;
    let version = number(&owner, "SELECT current_setting('server_version_num')::bigint").await;
    let insert = "INSERT INTO outbox.message (type, payload)";
    let mut expected = 0;
    let ways = [
        ("returning", 1, format!("{insert} VALUES ('t', '{{}}') RETURNING id")),
        ("bulk", 1_000, format!("{insert} SELECT 't', '{{}}' FROM generate_series(1, 1000)")),
        ("conflict", 1, format!("{insert} VALUES ('t', '{{}}') ON CONFLICT DO NOTHING")),
        (
            "conflict on id",
            1,
            format!("{insert} VALUES ('t', '{{}}') ON CONFLICT (id) DO NOTHING RETURNING id"),
        ),
        (
            "savepoints",
            2,
            format!(
                "BEGIN; {insert} VALUES ('t', '{{}}');
                 SAVEPOINT a; {insert} VALUES ('t', '{{}}'); ROLLBACK TO a;
                 {insert} VALUES ('t', '{{}}'); RELEASE a; COMMIT"
            ),
        ),
        (
            "every column",
            1,
            "INSERT INTO outbox.message
               (type, payload, key, due_at, expires_at, dedupe_key, headers)
             VALUES ('t', '{}', NULL, NULL, NULL, NULL, NULL)"
                .to_owned(),
        ),
        ("function", 1, "SELECT outbox.send('t', '{}', key => 'k', headers => '{}')".to_owned()),
    ];
    let merge = "MERGE INTO outbox.message m USING (VALUES (1), (2)) v (n) ON m.id = -v.n
                 WHEN NOT MATCHED THEN INSERT (type, payload) VALUES ('t', '{}')";
    let merge = (version >= 150_000).then(|| ("merge", 2, merge.to_owned()));
    for (way, rows, sql) in ways.into_iter().chain(merge) {
        seller.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{way}: {error:?}"));
        expected += rows;
        for table in ["message", "delivery"] {
            let count = number(&owner, &format!("SELECT count(*) FROM outbox.{table}")).await;
            assert_eq!(count, expected, "{way}: rows in {table}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_may_insert_and_learn_the_id_and_nothing_else() {
    let stage = Stage::build().await;
    let seller = stage.seller().await;
    seller.batch_execute("SELECT outbox.send('t', '{}')").await.unwrap();
    seller.batch_execute("SELECT id FROM outbox.message").await.unwrap();
    for sql in [
        "UPDATE outbox.message SET payload = '{}'",
        "DELETE FROM outbox.message",
        "TRUNCATE outbox.message",
        "SELECT payload FROM outbox.message",
        "SELECT * FROM outbox.message",
        "INSERT INTO outbox.message (type, payload) VALUES ('t', '{}') RETURNING payload",
        "INSERT INTO outbox.message (type, payload, id) OVERRIDING SYSTEM VALUE VALUES ('t', '{}', 9)",
        "INSERT INTO outbox.message (type, payload, created_at) VALUES ('t', '{}', now())",
        "SELECT FROM outbox.delivery",
        "SELECT FROM outbox.ledger",
        "SELECT FROM outbox.open",
        "SELECT FROM outbox.history",
        "INSERT INTO outbox.route VALUES ('*', 'x', '', 0, false, '', NULL, 0, NULL)",
        "SELECT outbox.extend_ledger()",
        "SELECT outbox.route_existing('{1}')",
        "SELECT outbox.close_undelivered('{1}', 'skipped', '{}')",
    ] {
        let error = seller.batch_execute(sql).await.expect_err(sql);
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{sql}: {error:?}");
    }
    assert_eq!(stage.messages(), ["t - unrouted"]);
}

/// A type was once refused for its letter v: `\v` is no escape in PostgreSQL's strings.
#[tokio::test(flavor = "multi_thread")]
async fn a_type_may_hold_every_letter_and_no_white_space() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let insert = "INSERT INTO outbox.message (type, payload) VALUES ($1, '{}')";
    for letter in (33..=126_u8).map(char::from).filter(|c| !matches!(c, '*' | '.')) {
        let name = format!("a{letter}.b");
        client.execute(insert, &[&name]).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
    }
    for wrong in ["", "a b", "a\tb", "a\nb", "a\rb", "a\u{b}b", "a\u{c}b", "a*", ".a", "a.", "a..b"]
    {
        let error = client.execute(insert, &[&wrong]).await.expect_err(wrong);
        assert_eq!(error.code(), Some(&SqlState::CHECK_VIOLATION), "{wrong:?}");
    }
}

/// What docs/producers.md shows stands in an example, which is run.
#[test]
fn the_page_shows_what_is_run() {
    assert_shows_what_is_run("docs/producers.md", 10);
}

/// Whether each block of a page is a piece of a file in `examples/`, where a line of a comment will do for a
/// command.
pub fn assert_shows_what_is_run(page: &str, at_least: usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join(page)).unwrap();
    let mut files = Vec::new();
    read_all(&root.join("examples"), &mut files);
    let mut blocks = 0;
    for (number, fenced) in text.split("```").enumerate().filter(|(number, _)| number % 2 == 1) {
        let (language, block) = fenced.split_once('\n').unwrap();
        let commands = language == "sh";
        let stands = |piece: &str| files.iter().any(|file| file.contains(piece));
        let found = if commands || block.lines().count() == 1 {
            block.lines().all(stands)
        } else {
            files.iter().any(|file| file.contains(&format!("\n{block}")))
        };
        assert!(found, "{page}, block {}: no example has it:\n{block}", number / 2 + 1);
        blocks += 1;
    }
    assert!(blocks >= at_least, "only {blocks} blocks in {page}");
}

fn read_all(folder: &Path, files: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            read_all(&entry.path(), files);
        } else if let Ok(text) = std::fs::read_to_string(entry.path()) {
            files.push(text);
        }
    }
}
