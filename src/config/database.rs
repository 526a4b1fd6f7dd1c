//! `[database]`: a DATABASE_URL as Rails, Django, Heroku and libpq write it, and what the PG*
//! variables add to it.

use std::path::Path;
use std::time::Duration;

use tokio_postgres::Config as Connect;
use tokio_postgres::config::{
    ChannelBinding, LoadBalanceHosts, SslMode, SslNegotiation, TargetSessionAttrs,
};

use super::dsn::{self, Parameters};
use super::fault::Wrong;
use super::read::{PEM_CERTIFICATE, Section, Source, read_file};
use super::{Database, DatabaseTls, Schema};
use crate::name::Name;

/// What libpq takes from the environment where the URL does not say.
const VARIABLES: [(&str, &str); 7] = [
    ("host", "PGHOST"),
    ("port", "PGPORT"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("dbname", "PGDATABASE"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
];

/// Where libpq looks for a socket when nothing names a host: as Debian and Red Hat build it, and
/// as PostgreSQL itself does.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// Parameters that belong to a web framework's own pool and adapter, or to libpq where we have
/// nothing to choose; the same URL serves both, so they are passed over.
const IGNORED: &[&str] = &[
    // Rails
    "adapter",
    "advisory_locks",
    "checkout_timeout",
    "collation",
    "database_tasks",
    "encoding",
    "idle_timeout",
    "insert_returning",
    "keepalive",
    "max_age",
    "max_connections",
    "migrations_paths",
    "min_connections",
    "min_messages",
    "pool",
    "prepared_statements",
    "query_cache",
    "reaping_frequency",
    "reconnect",
    "replica",
    "schema_search_path",
    "statement_limit",
    "template",
    "timeout",
    "variables",
    // Django
    "atomic_requests",
    "autocommit",
    "conn_health_checks",
    "conn_max_age",
    "currentSchema",
    "disable_server_side_cursors",
    // libpq
    "client_encoding",
    "fallback_application_name",
    "gssencmode",
    "krbsrvname",
    "sslcompression",
    "sslsni",
];

/// Reads the section; what the URL lacks comes from the environment.
pub(super) fn read(mut section: Section) -> Option<Database> {
    let source = section.source;
    let schema = section.get("schema").and_then(|item| {
        let schema = Schema::parse(&item.text()?);
        schema.map_err(|remedy| item.fault(format!("{} is no schema", item.shown()), remedy)).ok()
    });
    let installation = section.get("installation").and_then(|item| {
        let name = Name::parse(&item.text()?);
        name.map_err(|_| item.fault(format!("{} is no name", item.shown()), super::NAME_FORM)).ok()
    });
    let url = url(&mut section);
    section.close();
    let (line, key, text) = url?;
    let mut sound = true;
    let mut fault = |wrong| {
        source.fault(line, &key, wrong);
        sound = false;
    };
    let parameters = dsn::parse(&text).map_err(&mut fault).ok()?;
    let (connect, tls) = connection(source, parameters, &mut fault);
    let schema = schema.unwrap_or_else(|| Schema("outbox".to_owned()));
    let installation = installation.or_else(|| Name::parse("default").ok())?;
    sound.then_some(Database { connect, tls, schema, installation })
}

/// The URL with the line and key it came from: `url`, `url_file`, else `$DATABASE_URL`; with
/// PGHOST or PGDATABASE set it may be empty.
fn url(section: &mut Section) -> Option<(usize, String, String)> {
    if let Some((item, text)) = section.secret("url", "url_file") {
        if text.is_empty() {
            item.fault("is empty", "write postgres://user:password@host:5432/database");
            return None;
        }
        return Some((item.line, item.path, text));
    }
    if section.has("url") || section.has("url_file") {
        return None;
    }
    let env = |name| (section.source.env)(name).filter(|value| !value.is_empty());
    if let Some(text) = env("DATABASE_URL") {
        return Some((section.line, "DATABASE_URL".to_owned(), text));
    }
    if env("PGHOST").or_else(|| env("PGDATABASE")).is_some() {
        return Some((section.line, "database".to_owned(), String::new()));
    }
    section.missing("url", "write url = \"postgres://user@host/database\" or set DATABASE_URL");
    None
}

/// Fills in the environment's part and turns the parameters into a connection.
fn connection(
    source: &Source,
    mut parameters: Parameters,
    fault: &mut dyn FnMut(Wrong),
) -> (Connect, DatabaseTls) {
    for (key, variable) in VARIABLES {
        let said = parameters.contains_key(key)
            || (key == "host" && parameters.contains_key("hostaddr"))
            || (key == "sslmode" && parameters.contains_key("ssl"));
        if let Some(value) = (source.env)(variable).filter(|value| !value.is_empty() && !said) {
            parameters.insert(key.to_owned(), value);
        }
    }
    if !parameters.contains_key("host") && !parameters.contains_key("hostaddr") {
        parameters.insert("host".to_owned(), SOCKET_DIRECTORIES.join(","));
    }
    let tls = tls(&mut parameters, source.directory).unwrap_or_else(|wrong| {
        fault(wrong);
        DatabaseTls::Disable
    });
    // Without a user the driver asks the system for the name of the process's user, as libpq does.
    let mut connect = Connect::new();
    connect
        .application_name("outboxd")
        .connect_timeout(Duration::from_secs(10))
        .keepalives_idle(Duration::from_secs(30))
        .keepalives_interval(Duration::from_secs(10))
        .keepalives_retries(3)
        .tcp_user_timeout(Duration::from_secs(15))
        .ssl_mode(match tls {
            DatabaseTls::Disable => SslMode::Disable,
            DatabaseTls::Prefer => SslMode::Prefer,
            DatabaseTls::Require | DatabaseTls::Verify { .. } => SslMode::Require,
        });
    for (key, value) in &parameters {
        if let Err(wrong) = apply(&mut connect, key, value) {
            fault(wrong);
        }
    }
    let (hosts, addresses) = (connect.get_hosts().len(), connect.get_hostaddrs().len());
    if hosts > 0 && addresses > 0 && hosts != addresses {
        fault(Wrong::new("host and hostaddr differ in number", "write one address for each host"));
    }
    let ports = connect.get_ports().len();
    if ports > 1 && ports != hosts.max(addresses) {
        fault(Wrong::new("host and port differ in number", "write one port, or one for each host"));
    }
    (connect, tls)
}

/// Takes out what the driver's own parser does not know: `sslmode` and `sslrootcert`.
fn tls(parameters: &mut Parameters, directory: &Path) -> Result<DatabaseTls, Wrong> {
    let jdbc = parameters.remove("ssl").filter(|value| value == "true").map(|_| "require".into());
    let mode: Option<String> = parameters.remove("sslmode").or(jdbc);
    let root = parameters.remove("sslrootcert");
    let system = root.as_deref() == Some("system");
    let root = root.filter(|_| !system).map(|path| directory.join(path));
    if let Some(path) = root.as_ref() {
        let remedy = "name a PEM file; paths start at the config file's directory";
        let text = read_file(path)
            .map_err(|problem| Wrong::new(format!("the file of sslrootcert {problem}"), remedy))?;
        if !text.contains(PEM_CERTIFICATE) {
            return Err(Wrong::new("the file of sslrootcert holds no certificate", remedy));
        }
    }
    let default = if system { "verify-full" } else { "prefer" };
    let tls = match mode.as_deref().unwrap_or(default) {
        "disable" => DatabaseTls::Disable,
        // `allow` asks for clear text first; a server that takes both may as well encrypt.
        "allow" | "prefer" => DatabaseTls::Prefer,
        // As in libpq, a root that is named is also checked.
        "require" if root.is_none() && !system => DatabaseTls::Require,
        "require" | "verify-ca" => DatabaseTls::Verify { root, host: system },
        "verify-full" => DatabaseTls::Verify { root, host: true },
        _ => {
            let modes = "use disable, allow, prefer, require, verify-ca or verify-full";
            return Err(Wrong::new("sslmode is unknown", modes));
        }
    };
    let hosts = parameters.get("host").map_or("", String::as_str);
    let sockets = !parameters.contains_key("hostaddr") && hosts.split(',').all(is_socket);
    Ok(if sockets { DatabaseTls::Disable } else { tls })
}

fn is_socket(host: &str) -> bool {
    host.starts_with('/')
}

/// Hands one parameter to the driver.
fn apply(connect: &mut Connect, key: &str, value: &str) -> Result<(), Wrong> {
    match key {
        "user" => connect.user(value),
        "password" => connect.password(value),
        "dbname" => connect.dbname(value),
        "options" => connect.options(value),
        "application_name" => connect.application_name(value),
        "host" => value.split(',').fold(connect, |connect, host| match host {
            "" => connect.host("localhost"),
            host if is_socket(host) => connect.host_path(host),
            host => connect.host(host),
        }),
        "hostaddr" => {
            for address in value.split(',') {
                let remedy = "write an IP address, or host";
                let wrong = |_| Wrong::new("hostaddr is no IP address", remedy);
                connect.hostaddr(address.parse().map_err(wrong)?);
            }
            connect
        }
        "port" => {
            for port in value.split(',') {
                let number = if port.is_empty() { Ok(5432) } else { port.parse::<u16>() };
                let number = number.ok().filter(|number| *number > 0);
                connect.port(number.ok_or_else(|| {
                    Wrong::new("port is no port", "write a number from 1 to 65535, e.g. 5432")
                })?);
            }
            connect
        }
        "connect_timeout" => match number(key, value)? {
            0 => connect,
            seconds => connect.connect_timeout(Duration::from_secs(seconds)),
        },
        // libpq counts this one in milliseconds, the driver's parser would take seconds.
        "tcp_user_timeout" => match number(key, value)? {
            0 => connect,
            millis => connect.tcp_user_timeout(Duration::from_millis(millis)),
        },
        "keepalives" => connect.keepalives(number(key, value)? != 0),
        "keepalives_idle" => connect.keepalives_idle(Duration::from_secs(number(key, value)?)),
        "keepalives_interval" => {
            connect.keepalives_interval(Duration::from_secs(number(key, value)?))
        }
        "keepalives_count" => {
            connect.keepalives_retries(u32::try_from(number(key, value)?).unwrap_or(u32::MAX))
        }
        _ => return apply_choice(connect, key, value),
    };
    Ok(())
}

/// Parameters that take one of a few words.
fn apply_choice(connect: &mut Connect, key: &str, value: &str) -> Result<(), Wrong> {
    match (key, value) {
        ("target_session_attrs", "any") => connect.target_session_attrs(TargetSessionAttrs::Any),
        ("target_session_attrs", "read-write" | "primary") => {
            connect.target_session_attrs(TargetSessionAttrs::ReadWrite)
        }
        ("channel_binding", "disable") => connect.channel_binding(ChannelBinding::Disable),
        ("channel_binding", "prefer") => connect.channel_binding(ChannelBinding::Prefer),
        ("channel_binding", "require") => connect.channel_binding(ChannelBinding::Require),
        ("load_balance_hosts", "disable") => connect.load_balance_hosts(LoadBalanceHosts::Disable),
        ("load_balance_hosts", "random") => connect.load_balance_hosts(LoadBalanceHosts::Random),
        ("sslnegotiation", "postgres") => connect.ssl_negotiation(SslNegotiation::Postgres),
        ("sslnegotiation", "direct") => connect.ssl_negotiation(SslNegotiation::Direct),
        _ if IGNORED.contains(&key) => connect,
        _ => return Err(refused(key)),
    };
    Ok(())
}

fn refused(key: &str) -> Wrong {
    let remedy = match key {
        "target_session_attrs" => "the relay writes: use any, read-write or primary",
        "channel_binding" => "use disable, prefer or require",
        "load_balance_hosts" => "use disable or random",
        "sslnegotiation" => "use postgres or direct",
        _ => "remove it",
    };
    Wrong::new(format!("{key} is unknown"), remedy)
}

fn number(key: &str, value: &str) -> Result<u64, Wrong> {
    value.parse().map_err(|_| Wrong::new(format!("{key} is no number"), "write a whole number"))
}

#[cfg(test)]
mod tests {
    use tokio_postgres::config::Host;

    use super::*;
    use crate::config;

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
    fn the_connection_notices_a_dead_server() {
        let connect = database("postgres://h/d", &[]).connect;
        assert_eq!(connect.get_application_name(), Some("outboxd"));
        assert_eq!(connect.get_connect_timeout(), Some(&Duration::from_secs(10)));
        assert_eq!(connect.get_keepalives_idle(), Duration::from_secs(30));
        assert_eq!(connect.get_keepalives_interval(), Some(Duration::from_secs(10)));
        assert_eq!(connect.get_keepalives_retries(), Some(3));
        assert_eq!(connect.get_tcp_user_timeout(), Some(&Duration::from_secs(15)));
        let query = "connect_timeout=3&keepalives_idle=7&tcp_user_timeout=2500&application_name=x\
                     &keepalives_count=9&keepalives_interval=8&keepalives=1&options=-c%20a%3Db\
                     &channel_binding=require&load_balance_hosts=random&sslnegotiation=direct";
        let connect = database(&format!("postgres://h/d?{query}"), &[]).connect;
        assert_eq!(connect.get_application_name(), Some("x"));
        assert_eq!(connect.get_connect_timeout(), Some(&Duration::from_secs(3)));
        assert_eq!(connect.get_tcp_user_timeout(), Some(&Duration::from_millis(2500)));
        assert_eq!(connect.get_options(), Some("-c a=b"));
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
    fn faults_never_show_the_url() {
        let modes = "use disable, allow, prefer, require, verify-ca or verify-full";
        let file = "name a PEM file; paths start at the config file's directory";
        for (query, fault) in [
            ("sslmode=sesame", &*format!("sslmode is unknown; {modes}")),
            ("port=sesame", "port is no port; write a number from 1 to 65535, e.g. 5432"),
            ("port=1,2", "host and port differ in number; write one port, or one for each host"),
            ("hostaddr=sesame", "hostaddr is no IP address; write an IP address, or host"),
            (
                "hostaddr=::1,::2",
                "host and hostaddr differ in number; write one address for each host",
            ),
            ("connect_timeout=sesame", "connect_timeout is no number; write a whole number"),
            (
                "target_session_attrs=standby",
                "target_session_attrs is unknown; the relay writes: use any, read-write or primary",
            ),
            ("channel_binding=x", "channel_binding is unknown; use disable, prefer or require"),
            ("load_balance_hosts=x", "load_balance_hosts is unknown; use disable or random"),
            ("sslnegotiation=x", "sslnegotiation is unknown; use postgres or direct"),
            ("sslcert=sesame", "sslcert is unknown; remove it"),
            ("sslrootcert=sesame.pem", &format!("the file of sslrootcert does not exist; {file}")),
            (
                "sslrootcert=Cargo.toml",
                &format!("the file of sslrootcert holds no certificate; {file}"),
            ),
        ] {
            let text = format!("[database]\nurl = \"postgres://u:sesame@h/d?{query}\"\n");
            let error = parse(&text, &[]).unwrap_err().to_string();
            assert_eq!(error, format!("outboxd.toml:2: database.url: {fault}"));
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
