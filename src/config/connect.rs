//! From parameters to a connection: what libpq would do with them, said in the driver's words.

use std::path::Path;
use std::time::Duration;

use tokio_postgres::Config as Connect;
use tokio_postgres::config::{
    ChannelBinding, LoadBalanceHosts, SslMode, SslNegotiation, TargetSessionAttrs,
};

use super::DatabaseTls;
use super::dsn::Parameters;
use super::fault::Wrong;
use super::item::{PEM_CERTIFICATE, read_file};
use super::read::Source;

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
    "krbsrvname",
    "sslcompression",
    "sslsni",
];

/// Fills in the environment's part and turns the parameters into a connection.
pub(super) fn read(
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
    if sockets {
        return Ok(DatabaseTls::Disable);
    }
    if let DatabaseTls::Verify { root: Some(path), .. } = &tls {
        check_root(path)?;
    }
    Ok(tls)
}

fn check_root(path: &Path) -> Result<(), Wrong> {
    let remedy = "name a PEM file; paths start at the config file's directory";
    let wrong = |problem| Wrong::new(format!("the file of sslrootcert {problem}"), remedy);
    if read_file(path).map_err(wrong)?.contains(PEM_CERTIFICATE) {
        return Ok(());
    }
    Err(wrong("holds no certificate".to_owned()))
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
        // There is no GSS encryption here; only `require` would be broken by that.
        ("gssencmode", "disable" | "prefer") => connect,
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
        "gssencmode" => "use disable or prefer: GSS encryption is not there",
        _ => "remove it",
    };
    Wrong::new(format!("{key} is unknown"), remedy)
}

fn number(key: &str, value: &str) -> Result<u64, Wrong> {
    value.parse().map_err(|_| Wrong::new(format!("{key} is no number"), "write a whole number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::{parse, refuses};

    fn database(url: &str) -> Connect {
        parse(&format!("[database]\nurl = \"{url}\"\n")).expect(url).database.connect
    }

    #[test]
    fn the_connection_notices_a_dead_server() {
        let connect = database("postgres://h/d");
        assert_eq!(connect.get_application_name(), Some("outboxd"));
        assert_eq!(connect.get_connect_timeout(), Some(&Duration::from_secs(10)));
        assert_eq!(connect.get_keepalives_idle(), Duration::from_secs(30));
        assert_eq!(connect.get_keepalives_interval(), Some(Duration::from_secs(10)));
        assert_eq!(connect.get_keepalives_retries(), Some(3));
        assert_eq!(connect.get_tcp_user_timeout(), Some(&Duration::from_secs(15)));
        let query = "connect_timeout=3&keepalives_idle=7&tcp_user_timeout=2500&application_name=x\
                     &keepalives_count=9&keepalives_interval=8&keepalives=1&options=-c%20a%3Db\
                     &channel_binding=require&load_balance_hosts=random&sslnegotiation=direct";
        let connect = database(&format!("postgres://h/d?{query}"));
        assert_eq!(connect.get_application_name(), Some("x"));
        assert_eq!(connect.get_connect_timeout(), Some(&Duration::from_secs(3)));
        assert_eq!(connect.get_tcp_user_timeout(), Some(&Duration::from_millis(2500)));
        assert_eq!(connect.get_options(), Some("-c a=b"));
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
            (
                "gssencmode=require",
                "gssencmode is unknown; use disable or prefer: GSS encryption is not there",
            ),
            ("sslcert=sesame", "sslcert is unknown; remove it"),
            (
                "sslmode=require&sslrootcert=sesame.pem",
                &format!("the file of sslrootcert does not exist; {file}"),
            ),
            (
                "sslmode=verify-ca&sslrootcert=Cargo.toml",
                &format!("the file of sslrootcert holds no certificate; {file}"),
            ),
        ] {
            let text = format!("[database]\nurl = \"postgres://u:sesame@h/d?{query}\"\n");
            refuses(&text, &[&format!("outboxd.toml:2: database.url: {fault}")]);
        }
    }
}
