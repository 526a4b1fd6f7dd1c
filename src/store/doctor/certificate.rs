//! When the certificate of PostgreSQL ends. The handshake is broken off before anything is said of us.

use std::io;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_postgres::Config as Connect;
use tokio_postgres::config::Host;

use crate::certificate::{Ends, Look};
use crate::config::{Database, DatabaseTls, Listen};

/// No look may take longer.
const LIMIT: Duration = Duration::from_secs(10);
/// SSLRequest: its length, and a version that there will never be.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const PORT: u16 = 5432;

/// Hosts of the database that are reached over the network, with the port of each.
#[must_use]
pub fn hosts(database: &Database) -> Vec<(String, u16)> {
    let mut found = hosts_of(&database.connect);
    if let Listen::Apart { connect, .. } = &database.listen {
        found.extend(hosts_of(connect));
    }
    found.sort();
    found.dedup();
    found
}

fn hosts_of(connect: &Connect) -> Vec<(String, u16)> {
    let (hosts, ports) = (connect.get_hosts(), connect.get_ports());
    let port = |at: usize| ports.get(at).or(ports.first()).copied().unwrap_or(PORT);
    let named = |(at, host): (usize, &Host)| match host {
        Host::Tcp(name) => Some((name.clone(), port(at))),
        Host::Unix(_) => None,
    };
    hosts.iter().enumerate().filter_map(named).collect()
}

/// The certificates that the database's hosts show, and when each ends; none of a host that shows none.
pub async fn shown(database: &Database) -> Vec<(String, Ends)> {
    if matches!(database.tls, DatabaseTls::Disable) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (host, port) in hosts(database) {
        if let Ok(Ok(Some(ends))) = timeout(LIMIT, look(&host, port)).await {
            found.push((host, ends));
        }
    }
    found
}

/// Whether the relay refuses a certificate that is over.
#[must_use]
pub fn is_checked(database: &Database) -> bool {
    !matches!(database.tls, DatabaseTls::Disable | DatabaseTls::Prefer | DatabaseTls::Require)
}

async fn look(host: &str, port: u16) -> io::Result<Option<Ends>> {
    let (config, look) = Look::client().map_err(io::Error::other)?;
    let mut stream = TcpStream::connect((host, port)).await?;
    stream.write_all(&SSL_REQUEST).await?;
    if stream.read_u8().await? != b'S' {
        return Ok(None);
    }
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let _ = tokio_rustls::TlsConnector::from(config).connect(name, stream).await;
    Ok(look.ends())
}
