//! Whoever reads the admin listener: plain HTTP/1.1, one request a connection.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outboxd::config::{Admin, Config, Secret};
use outboxd::relay::Process;
use outboxd::relay::admin::Listener;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::eventually;
use super::relay::Relay;

/// An answer.
#[derive(Clone, Debug)]
pub struct Page {
    pub status: u16,
    /// The head as it came, lower case.
    pub head: String,
    pub body: String,
}

/// Asks for a page with these header lines beside `host`.
pub async fn ask(address: SocketAddr, request: &str, headers: &str) -> Page {
    let call = async {
        let mut stream = TcpStream::connect(address).await?;
        let text = format!("{request} HTTP/1.1\r\nhost: {address}\r\n{headers}\r\n");
        stream.write_all(text.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(Duration::from_secs(30), call).await;
    let answer = answer.expect("the listener answers").expect("it speaks HTTP");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    Page { status, head: head.to_lowercase(), body: body.to_owned() }
}

/// The series of a scrape, by name with labels as they are written.
#[derive(Clone, Debug)]
pub struct Series(pub BTreeMap<String, f64>);

impl Series {
    /// Reads the text.
    pub fn parse(text: &str) -> Series {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a value behind a series");
            (name.to_owned(), value.parse().expect("a number"))
        });
        Series(series.collect())
    }

    /// The value of a series that must be there.
    #[track_caller]
    pub fn of(&self, name: &str) -> f64 {
        *self.0.get(name).unwrap_or_else(|| panic!("no series {name}; there is {:?}", self.names()))
    }

    /// The names of all series.
    pub fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

/// A relay in this process with a listener.
pub struct Watched {
    pub relay: Relay,
    pub listener: Listener,
}

/// A listener on a free port of this machine, for a process.
pub fn listen(process: &Arc<Process>, stop: &CancellationToken, token: Option<&str>) -> Listener {
    let admin = Admin { listen: "127.0.0.1:0".parse().unwrap(), token: token.map(Secret::new) };
    Listener::start(&admin, process, stop).expect("a free port")
}

impl Watched {
    /// Starts both.
    pub fn start(config: Config) -> Watched {
        Watched::start_in(config, &Arc::default())
    }

    /// The same in a process that others may have been in before.
    pub fn start_in(config: Config, process: &Arc<Process>) -> Watched {
        let relay = Relay::start_in(config, process);
        let listener = listen(process, &relay.told_to_stop(), None);
        Watched { relay, listener }
    }

    /// Asks for a page.
    pub async fn page(&self, path: &str) -> Page {
        ask(self.listener.address(), &format!("GET {path}"), "").await
    }

    /// What the metrics say now.
    pub async fn series(&self) -> Series {
        let page = self.page("/metrics").await;
        assert_eq!(page.status, 200, "{}", page.body);
        Series::parse(&page.body)
    }

    /// Waits until a series has a value that will do, and answers it.
    pub async fn until(&self, name: &str, will_do: impl Fn(f64) -> bool) -> f64 {
        eventually(name, Duration::from_secs(60), async || {
            let value = self.series().await.of(name);
            if will_do(value) { Ok(value) } else { Err(value.to_string()) }
        })
        .await
    }
}
