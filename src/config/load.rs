//! From a file's text to a config: syntax, then every table, then the faults in order.

use std::cell::RefCell;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use toml::de::{DeTable, Error};

use super::fault::{ConfigError, Fault, Wrong};
use super::item::{MISSING, quote, read_file};
use super::read::{Section, Source};
use super::template::{self, Root};
use super::{Config, Names, admin, database, relay, retention, route, schedule, sink};
use crate::hex::hex;

/// Lines on which the parser would stop that are told at once.
const STOPS_MAX: usize = 20;

impl Config {
    /// What `outboxd init` writes: short, commented, and working once `DATABASE_URL` is set.
    pub const INIT: &str = include_str!("init.toml");

    /// Reads a config file, the files it names and the environment; touches nothing else.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once, sorted by line.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        Config::load_with(path, &|name| std::env::var(name).ok())
    }

    /// The same where nobody asks the database: `DATABASE_URL` need not be set.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_offline(path: &Path) -> Result<Config, ConfigError> {
        Config::load_with(path, &|name| match std::env::var(name) {
            Err(_) if name == "DATABASE_URL" => Some("postgres://localhost/outboxd".to_owned()),
            found => found.ok(),
        })
    }

    fn load_with(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
        let text = read_file(path).map_err(|problem| {
            let missing = "write one with: outboxd init; or name another with --config FILE";
            let remedy = if problem == MISSING { missing } else { "" }.to_owned();
            let fault = Fault { line: 0, key: String::new(), problem, remedy };
            ConfigError { file: path.to_owned(), faults: vec![fault] }
        })?;
        // In full, because paths are recorded and shown where nobody knows the directory that the program
        // was started in.
        let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Config::read(&text, path, directory(&whole), env)
    }

    /// Reads of a config file `[database] schema` and `installation`, and nothing else: no variable, secret
    /// or file has to be there that those two do not name. Without a file the defaults, and `false`.
    ///
    /// # Errors
    /// What is wrong with those two, and what is no TOML: it could hide them.
    pub fn names(path: &Path) -> Result<(Names, bool), ConfigError> {
        let (text, found) = match read_file(path) {
            Ok(text) => (text, true),
            Err(problem) if problem == MISSING => (String::new(), false),
            Err(problem) => {
                let fault = Fault { line: 0, key: String::new(), problem, remedy: String::new() };
                return Err(ConfigError { file: path.to_owned(), faults: vec![fault] });
            }
        };
        let (table, syntax) = DeTable::parse_recoverable(&text);
        let source = Source {
            text: &text,
            directory: directory(path),
            env: &|name| std::env::var(name).ok(),
            broken: !syntax.is_empty(),
            faults: RefCell::default(),
            hash: RefCell::default(),
            templates: RefCell::new(Root::Beside),
        };
        let empty = DeTable::new();
        let mut root = Section::new(&source, "", table.get_ref());
        let names = database::names(&mut root.section("database", &empty));
        let faults = in_order(&source, &syntax);
        match names {
            Some(names) if faults.is_empty() => Ok((names, found)),
            _ => Err(ConfigError { file: path.to_owned(), faults }),
        }
    }

    /// Reads a config from its text; `file` is named in faults and is where relative paths start.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once, sorted by line.
    pub fn parse(
        text: &str,
        file: &Path,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Config, ConfigError> {
        Config::read(text, file, directory(file), env)
    }

    fn read(
        text: &str,
        file: &Path,
        directory: &Path,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Config, ConfigError> {
        let (mended, mut syntax) = mend(text);
        let (table, more) = DeTable::parse_recoverable(&mended);
        syntax.extend(more);
        let source = Source {
            text,
            directory,
            env,
            broken: !syntax.is_empty(),
            faults: RefCell::new(Vec::new()),
            hash: RefCell::new(Sha256::new_with_prefix(text)),
            templates: RefCell::new(Root::Beside),
        };
        let empty = DeTable::new();
        let mut root = Section::new(&source, "", table.get_ref());
        let database = database::read(root.section("database", &empty));
        let relay = relay::read(root.section("relay", &empty));
        let admin = root.get("admin").and_then(|item| item.section()).and_then(admin::read);
        let retention = retention::read(root.section("retention", &empty));
        source.templates.replace(template::read(&mut root));
        let (sinks, exports) = (root.section("sinks", &empty), root.section("exports", &empty));
        let kinds = sink::kinds(&sinks, &exports);
        let sinks = sink::read(&sinks, &exports, &kinds);
        let schedules = schedule::read(&root.section("schedules", &empty));
        let routes = route::read(&mut root, &kinds, &sinks);
        root.close();

        let faults = in_order(&source, &syntax);
        match database {
            Some(database) if faults.is_empty() => Ok(Config {
                file: file.to_owned(),
                hash: hex(&source.hash.take().finalize()),
                database,
                relay,
                admin,
                retention,
                sinks,
                routes,
                schedules,
            }),
            _ => Err(ConfigError { file: file.to_owned(), faults }),
        }
    }
}

/// Where relative paths start.
fn directory(file: &Path) -> &Path {
    file.parent().unwrap_or(Path::new(""))
}

/// The text with blanks for the lines on which the parser would stop, and the faults of those: a
/// key without `=` ends its reading, and would hide the faults of all lines behind it.
fn mend(text: &str) -> (String, Vec<Error>) {
    let mut mended = text.to_owned();
    let mut found = Vec::new();
    while found.len() < STOPS_MAX {
        let (_, errors) = DeTable::parse_recoverable(&mended);
        let mut stops = errors.into_iter().filter(|e| e.message().starts_with("key with no value"));
        let Some((stop, span)) = stops.next().and_then(|stop| stop.span().map(|span| (stop, span)))
        else {
            break;
        };
        let start = mended[..span.start].rfind('\n').map_or(0, |at| at + 1);
        let end = mended[span.start..].find('\n').map_or(mended.len(), |at| span.start + at);
        mended.replace_range(start..end, &" ".repeat(end - start));
        found.push(stop);
    }
    (mended, found)
}

/// All faults by line. Where a line's syntax is broken, what its rest seemed to mean is not told.
fn in_order(source: &Source, syntax: &[Error]) -> Vec<Fault> {
    let mut faults: Vec<Fault> = syntax.iter().map(|error| syntax_fault(source, error)).collect();
    let broken: Vec<usize> = faults.iter().map(|fault| fault.line).collect();
    let meant = source.faults.take().into_iter().filter(|fault| !broken.contains(&fault.line));
    faults.extend(meant);
    faults.sort_by_key(|fault| fault.line);
    faults
}

fn syntax_fault(source: &Source, error: &Error) -> Fault {
    let span = error.span().unwrap_or(source.text.len()..source.text.len());
    let line = source.line_of(span.start);
    let wrong = match error.message() {
        "duplicate key" => {
            let key = source.text.get(span).unwrap_or_default();
            Wrong::new(format!("{} is written twice", quote(key)), "keep one of the two")
        }
        // The parser's words for nothing at all behind the `=`.
        "string values must be quoted, expected literal string" if span.is_empty() => {
            Wrong::new("is not TOML: a key without a value", "write it behind the =")
        }
        message => Wrong::new(format!("is not TOML: {message}"), ""),
    };
    Fault { line, key: String::new(), problem: wrong.problem, remedy: wrong.remedy }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::{parse, refuses};

    #[test]
    fn what_is_mistyped_at_the_top_is_told() {
        for (text, fault) in [
            ("[relays]\n", "relays: is unknown; did you mean relay?"),
            (
                "[queue]\n",
                "queue: is unknown; \
                 known here: database, relay, admin, retention, templates, sinks, exports, schedules, routes",
            ),
            ("relay = 3\n", "relay: is an integer; write a table"),
        ] {
            refuses(text, &[&format!("outboxd.toml:1: {fault}")]);
        }
    }

    #[test]
    fn all_faults_are_told_at_once_in_the_order_of_lines() {
        let text = r#"[[routes]]
type = "order..x"
sink = "crn"
[sinks.crm]
kind = "webhook"
url = "ftp://crm.example"
timeout = 15
retry = { delays = [
    "1s",
    "1x",
] }
timeout = "1s"
[relay]
grace = "1d"
lease =
"#;
        refuses(
            text,
            &[
                "outboxd.toml:2: routes[0].type: a segment is empty; write order.created, order.* or *",
                "outboxd.toml:3: routes[0].sink: there is no sink \"crn\"; did you mean \"crm\"?",
                "outboxd.toml:6: sinks.crm.url: is neither http nor https; write it like https://example.com/hooks",
                "outboxd.toml:7: sinks.crm.timeout: is an integer; write a duration, e.g. \"15s\"",
                "outboxd.toml:10: sinks.crm.retry.delays[1]: \"1x\" is no duration; write it like \"500ms\", \"15s\", \"1h30m\" or \"7d\"",
                "outboxd.toml:12: \"timeout\" is written twice; keep one of the two",
                "outboxd.toml:14: relay.grace: \"1d\" is out of range; 0s to 1h",
                "outboxd.toml:15: is not TOML: a key without a value; write it behind the =",
            ],
        );
    }

    #[test]
    fn what_broken_syntax_hides_is_not_called_missing() {
        refuses(
            "[[routes]]\ntype = \"a\"\nsink = \"crm\"\n[sinks.mail]\nkind = \"smtp\"\n\
             timeout = 5\nurl \"smtps://sesame\"\nfrom \"sesame\"\n[sinks.crm\n",
            &[
                "outboxd.toml:6: sinks.mail.timeout: is an integer; write a duration, e.g. \"15s\"",
                "outboxd.toml:7: is not TOML: key with no value, expected `=`",
                "outboxd.toml:8: is not TOML: key with no value, expected `=`",
                "outboxd.toml:9: is not TOML: unclosed table, expected `]`",
            ],
        );
    }

    #[test]
    fn a_file_that_is_missing_or_no_text_is_an_error_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("outboxd.toml");
        let said = |file: &Path| {
            let error = Config::load(file).unwrap_err().to_string();
            error.strip_prefix(&file.display().to_string()).unwrap().to_owned()
        };
        assert_eq!(
            said(&file),
            ": does not exist; write one with: outboxd init; or name another with --config FILE"
        );
        std::fs::write(&file, b"\xff\xfe").unwrap();
        assert_eq!(said(&file), ": is not UTF-8 text");
        std::fs::write(&file, "#".repeat(1024 * 1024 + 1)).unwrap();
        assert_eq!(said(&file), ": is larger than 1 MB");
        std::fs::write(&file, "[database]\nurl = \"postgres:///shop\"\n").unwrap();
        assert_eq!(Config::load(&file).unwrap().database.installation.as_str(), "default");
    }

    /// A printed migration needs no more, and a fault elsewhere is no matter to it.
    #[test]
    fn the_names_alone_want_neither_variables_nor_secrets_nor_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("outboxd.toml");
        let names = || {
            Config::names(&file).map(|(names, found)| {
                (names.schema.as_str().to_owned(), names.installation.to_string(), found)
            })
        };
        assert_eq!(names().unwrap(), ("outbox".to_owned(), "default".to_owned(), false));
        let text = "[database]\nurl = \"${NOWHERE}\"\nschema = \"shop\"\ninstallation = \"prod\"\n\
                    [sinks.crm]\nkind = 3\nsecrets_file = \"nowhere\"\n";
        std::fs::write(&file, text).unwrap();
        assert_eq!(names().unwrap(), ("shop".to_owned(), "prod".to_owned(), true));
        for (wrong, fault) in [
            ("schema = \"Shop\"", ":1: database.schema: \"Shop\" is no schema"),
            ("installation = \"${NOWHERE}\"", ":1: database.installation: "),
            ("installation = 3", ":1: database.installation: is an integer"),
            ("installation \"prod\"", ":1: is not TOML"),
        ] {
            let text = format!("database.{wrong}\n[sinks.crm]\nkind = 3\n");
            std::fs::write(&file, text).unwrap();
            let said = names().unwrap_err().to_string();
            assert!(said.contains(fault) && !said.contains("sinks"), "{wrong}: {said}");
        }
    }

    #[test]
    fn what_init_writes_works() {
        let config = parse(Config::INIT).unwrap();
        assert_eq!(config.sinks.len(), 1);
        assert!(config.routes[0].pattern.matches("order.created"));
    }

    #[test]
    fn the_example_shows_every_kind() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/outboxd.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let config = Config::parse(&text, &file, &|name| match name {
            "DATABASE_URL" => Some("postgres://shop@localhost/shop".to_owned()),
            "CRM_WEBHOOK_SECRET" => Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned()),
            "SMTP_PASSWORD" => Some("open-sesame".to_owned()),
            "DKIM_KEY" => Some(include_str!("../../integration/keys/rsa.pem").to_owned()),
            _ => None,
        });
        let config = config.unwrap_or_else(|error| panic!("{error}"));
        let sinks: Vec<&str> = config.sinks.keys().map(crate::name::Name::as_str).collect();
        assert_eq!(sinks, ["audit", "crm", "ledger", "mail", "orders", "thumbnails"]);
        assert_eq!((config.routes.len(), config.schedules.len()), (10, 1));
        assert!(!format!("{config:?}").contains("open-sesame"));
    }
}
