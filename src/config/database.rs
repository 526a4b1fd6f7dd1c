//! `[database]`: a DATABASE_URL as Rails, Django, Heroku and libpq write it, and what the PG*
//! variables add to it.

use super::read::{Section, Source};
use super::{Database, DatabaseTls, Listen, Names, Schema, connect, dsn};
use crate::name::Name;

const FORM: &str = "write postgres://user:password@host:5432/database";

/// What the outbox is called, without where it is; none where a fault of that was noted.
pub(super) fn names(section: &mut Section) -> Option<Names> {
    let schema = match section.get("schema") {
        None => Some(Schema("outbox".to_owned())),
        Some(item) => item.text().and_then(|text| {
            let fault = |remedy| item.fault(format!("{} is no schema", item.shown()), remedy);
            Schema::parse(&text).map_err(fault).ok()
        }),
    };
    let installation = match section.get("installation") {
        None => Name::parse("default").ok(),
        Some(item) => item.name(),
    };
    Some(Names { schema: schema?, installation: installation? })
}

/// Reads the section; what the URL lacks comes from the environment.
pub(super) fn read(mut section: Section) -> Option<Database> {
    let source = section.source;
    let names = names(&mut section);
    let url = url(&mut section);
    let listen = listen(&mut section);
    section.close();
    let reached = url.and_then(|(line, key, text)| reach(source, line, &key, &text));
    let Names { schema, installation } = names?;
    let (connect, tls) = reached?;
    Some(Database { connect, tls, schema, installation, listen: listen? })
}

/// From the text of a URL to a connection; its faults are told of the key that it came from.
fn reach(
    source: &Source,
    line: usize,
    key: &str,
    text: &str,
) -> Option<(tokio_postgres::Config, DatabaseTls)> {
    let mut sound = true;
    let mut fault = |wrong| {
        source.fault(line, key, wrong);
        sound = false;
    };
    let parameters = dsn::parse(text).map_err(&mut fault).ok()?;
    let reached = connect::read(source, parameters, &mut fault);
    sound.then_some(reached)
}

/// Where to listen, if at all.
fn listen(section: &mut Section) -> Option<Listen> {
    let source = section.source;
    let switch = section.get("listen");
    let wanted = match &switch {
        Some(item) => item.boolean()?,
        None => true,
    };
    let apart = section.has("listen_url") || section.has("listen_url_file");
    let url = section.secret("listen_url", "listen_url_file");
    if let (Some(item), true, false) = (&switch, apart, wanted) {
        item.fault("is false, and listen_url is there too", "keep one of the two");
        return None;
    }
    let Some((item, text)) = url else {
        // A file that cannot be read was told of.
        let way = if wanted { Listen::Here } else { Listen::Off };
        return (!apart).then_some(way);
    };
    if text.trim().is_empty() {
        item.fault("is empty", FORM);
        return None;
    }
    let (connect, tls) = reach(source, item.line, &item.path, text.trim())?;
    Some(Listen::Apart { connect: Box::new(connect), tls })
}

/// The URL with the line and key it came from: `url`, `url_file`, else `$DATABASE_URL`; with
/// PGHOST or PGDATABASE set it may be empty.
fn url(section: &mut Section) -> Option<(usize, String, String)> {
    if let Some((item, text)) = section.secret("url", "url_file") {
        if text.trim().is_empty() {
            item.fault("is empty", FORM);
            return None;
        }
        return Some((item.line, item.path, text.trim().to_owned()));
    }
    if section.has("url") || section.has("url_file") {
        return None;
    }
    let env = |name| (section.source.env)(name).filter(|value| !value.trim().is_empty());
    if let Some(text) = env("DATABASE_URL") {
        return Some((section.line, "DATABASE_URL".to_owned(), text.trim().to_owned()));
    }
    if env("PGHOST").or_else(|| env("PGDATABASE")).is_some() {
        return Some((section.line, "database".to_owned(), String::new()));
    }
    section.missing("url", "write url = \"postgres://user@host/database\" or set DATABASE_URL");
    None
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio_postgres::config::Host;

    use super::*;
    use crate::config::{self, DatabaseTls};

    type Env = &'static [(&'static str, &'static str)];

    fn parse(text: &str, env: Env) -> Result<config::Config, config::ConfigError> {
        let get = |name: &str| {
            let found = env.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        config::Config::parse(text, Path::new("outboxd.toml"), &get)
    }

    fn database(url: &str, env: Env) -> Database {
        parse(&format!("[database]\nurl = \"{url}\"\n"), env).expect(url).database
    }

    /// `user:password@host:port/database tls`, `-` for what is left to the server or driver.
    fn summary(database: &Database) -> String {
        let connect = &database.connect;
        let host = |host: &Host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        };
        let hosts: Vec<String> = connect.get_hosts().iter().map(host).collect();
        let ports: Vec<String> = connect.get_ports().iter().map(u16::to_string).collect();
        let password = connect.get_password().map_or("-".into(), String::from_utf8_lossy);
        let tls = match &database.tls {
            DatabaseTls::Disable => "disable".to_owned(),
            DatabaseTls::Prefer => "prefer".to_owned(),
            DatabaseTls::Require => "require".to_owned(),
            DatabaseTls::Verify { root, host } => {
                let root = root.as_ref().map_or("system".to_owned(), |p| p.display().to_string());
                format!("verify {root} {host}")
            }
        };
        format!(
            "{}:{password}@{}:{}/{} {tls}",
            connect.get_user().unwrap_or("-"),
            hosts.join(","),
            if ports.is_empty() { "-".to_owned() } else { ports.join(",") },
            connect.get_dbname().unwrap_or("-"),
        )
    }

    #[test]
    fn a_url_works_as_frameworks_and_libpq_write_it() {
        for (url, want) in [
            ("postgres://u:p@h:6432/d", "u:p@h:6432/d prefer"),
            ("postgresql://u@h/d", "u:-@h:-/d prefer"),
            ("postgis://u:p@h/d", "u:p@h:-/d prefer"),
            ("postgres://u:p%40ss@h/d?sslmode=disable", "u:p@ss@h:-/d disable"),
            ("postgres://u:p@h/d?sslmode=allow", "u:p@h:-/d prefer"),
            ("postgres://u:p@h/d?sslmode=require", "u:p@h:-/d require"),
            ("postgres://u:p@h/d?ssl=true", "u:p@h:-/d require"),
            ("postgres://u:p@h/d?sslmode=verify-ca", "u:p@h:-/d verify system false"),
            ("postgres://u:p@h/d?sslmode=verify-full", "u:p@h:-/d verify system true"),
            ("postgres://u:p@h/d?sslrootcert=system", "u:p@h:-/d verify system true"),
            ("postgresql:///shop?host=/run/postgresql", "-:-@/run/postgresql:-/shop disable"),
            ("postgres://%2Frun%2Fpg/d?sslmode=require", "-:-@/run/pg:-/d disable"),
            ("postgresql:///shop", "-:-@/var/run/postgresql,/tmp:-/shop disable"),
            ("postgres://u@a:1,b:2/d?target_session_attrs=primary", "u:-@a,b:1,2/d prefer"),
            ("postgres://u@[::1]:1/d", "u:-@::1:1/d prefer"),
            (
                "postgres://u:p@h/d?pool=5&timeout=5000&encoding=unicode&prepared_statements=false",
                "u:p@h:-/d prefer",
            ),
            ("postgres://u:p@h/d?conn_max_age=600&currentSchema=app", "u:p@h:-/d prefer"),
            ("host=h port=5433 dbname=d user=u password='p q'", "u:p q@h:5433/d prefer"),
            ("host=/tmp dbname=d sslmode=verify-full", "-:-@/tmp:-/d disable"),
            ("hostaddr=10.0.0.1 dbname=d", "-:-@:-/d prefer"),
        ] {
            assert_eq!(summary(&database(url, &[])), want, "{url}");
        }
    }

    #[test]
    fn variables_fill_in_what_the_url_lacks() {
        let all: Env = &[
            ("PGHOST", "eh"),
            ("PGPORT", "1"),
            ("PGUSER", "eu"),
            ("PGPASSWORD", "ep"),
            ("PGDATABASE", "ed"),
            ("PGSSLMODE", "require"),
        ];
        assert_eq!(summary(&parse("", all).unwrap().database), "eu:ep@eh:1/ed require");
        assert_eq!(summary(&database("postgres://h", all)), "eu:ep@h:1/ed require");
        let full = "postgres://u:p@h:2/d?sslmode=disable";
        assert_eq!(summary(&database(full, all)), "u:p@h:2/d disable");
        let env: Env = &[("DATABASE_URL", "postgres://h/d"), ("PGUSER", "")];
        assert_eq!(summary(&parse("", env).unwrap().database), "-:-@h:-/d prefer");
        assert_eq!(summary(&database("${DATABASE_URL}", env)), "-:-@h:-/d prefer");
    }

    #[test]
    fn a_root_and_a_url_may_stand_in_files() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name, text| std::fs::write(directory.path().join(name), text).unwrap();
        write("root.pem", "-----BEGIN CERTIFICATE-----\n");
        write("url", "postgres://u:p@h/d?sslmode=require&sslrootcert=root.pem\n");
        let file = directory.path().join("outboxd.toml");
        let text = "[database]\nurl_file = \"url\"\nschema = \"box\"\ninstallation = \"shop-1\"\n";
        let database = config::Config::parse(text, &file, &|_| None).unwrap().database;
        let root = directory.path().join("root.pem");
        assert_eq!(summary(&database), format!("u:p@h:-/d verify {} false", root.display()));
        assert_eq!((database.schema.as_str(), database.installation.as_str()), ("box", "shop-1"));
    }

    #[test]
    fn where_to_listen() {
        let good = "[database]\nurl = \"postgres://u:p@pooler:6432/d\"\n";
        let listen = |more: &str| parse(&format!("{good}{more}"), &[]).expect(more).database.listen;
        assert!(matches!(listen(""), Listen::Here));
        assert!(matches!(listen("listen = true"), Listen::Here));
        assert!(matches!(listen("listen = false"), Listen::Off));
        let url = "postgres://u:p@h:5432/d?sslmode=require";
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("url");
        std::fs::write(&file, format!("{url}\n")).unwrap();
        let in_file = format!("listen_url_file = \"{}\"", file.display());
        for more in [format!("listen_url = \"{url}\""), in_file] {
            let Listen::Apart { connect, tls } = listen(&more) else { panic!("{more}") };
            assert_eq!(connect.get_ports(), [5432]);
            assert_eq!(tls, DatabaseTls::Require);
        }
    }

    #[test]
    fn faults_of_the_section() {
        let form = "write it like postgres://user:password@host:5432/database";
        let good = "[database]\nurl = \"postgres://h\"\n";
        for (text, fault) in [
            (
                String::new(),
                "1: database.url: is missing; \
                 write url = \"postgres://user@host/database\" or set DATABASE_URL",
            ),
            (
                "[database]\nurl = \"\"\n".to_owned(),
                "2: database.url: is empty; write postgres://user:password@host:5432/database",
            ),
            (
                "[database]\nurl = \"mysql://sesame\"\n".to_owned(),
                &format!("2: database.url: is no PostgreSQL URL; {form}"),
            ),
            (
                format!("{good}url_file = \"x\"\n"),
                "3: database.url_file: url is there too; keep one of the two",
            ),
            (
                "[database]\nurl = \"${DATABASE_URL}\"\n".to_owned(),
                "2: database.url: the environment variable DATABASE_URL is not set; set it",
            ),
            (
                format!("{good}schema = \"Out\"\n"),
                "3: database.schema: \"Out\" is no schema; \
                 use up to 40 of a-z, 0-9 and _, not starting with a digit or pg_",
            ),
            (
                format!("{good}installation = \"shop_1\"\n"),
                "3: database.installation: \"shop_1\" is no name; \
                 use a lower-case letter, then up to 39 of a-z, 0-9 and -",
            ),
            (
                format!("{good}listen_url = \"mysql://sesame\"\n"),
                &format!("3: database.listen_url: is no PostgreSQL URL; {form}"),
            ),
            (
                format!("{good}listen_url = \"\"\n"),
                "3: database.listen_url: is empty; write postgres://user:password@host:5432/database",
            ),
            (
                format!("{good}listen = false\nlisten_url = \"postgres://h\"\n"),
                "3: database.listen: is false, and listen_url is there too; keep one of the two",
            ),
            (format!("{good}ulr = 1\n"), "3: database.ulr: is unknown; did you mean url?"),
        ] {
            let error = parse(&text, &[]).expect_err(&text).to_string();
            assert_eq!(error, format!("outboxd.toml:{fault}"));
        }
        let error = parse("", &[("DATABASE_URL", "mysql://u:sesame@h")]).unwrap_err();
        let fault = format!("outboxd.toml:1: DATABASE_URL: is no PostgreSQL URL; {form}");
        assert_eq!(error.to_string(), fault);
    }
}
