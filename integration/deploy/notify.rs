//! What a service manager is told, by the real binary over a real socket.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram as Datagram};
use std::time::Duration;

use tokio::net::UnixDatagram;

use crate::harness::plane::{LONG, number};
use crate::harness::postgres::{Cluster, Database};
use crate::harness::proxy::{Proxy, Target};
use crate::harness::relay::{Process, toml};

const RELAY: &str = "lease = \"2s\"\ngrace = \"10s\"";
const NOWHERE: &str = "[[routes]]\ntype = \"*\"\nsink = []\n";
const WATCHDOG: &str = "WATCHDOG=1";

/// A service manager that only listens.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn listen(address: &SocketAddr) -> Manager {
        let socket = Datagram::bind_addr(address).unwrap();
        socket.set_nonblocking(true).unwrap();
        Manager { socket: UnixDatagram::from_std(socket).unwrap() }
    }

    async fn hear(&self) -> String {
        let mut words = [0; 500];
        let heard = tokio::time::timeout(LONG, self.socket.recv(&mut words)).await;
        let length = heard.expect("the service manager is told something").unwrap();
        String::from_utf8(words[..length].to_vec()).unwrap()
    }

    /// The next that is no sign of the watchdog.
    async fn hear_news(&self) -> String {
        // Signs of the watchdog alone must not be waited for for ever.
        let news = async {
            loop {
                let words = self.hear().await;
                if words != WATCHDOG {
                    return words;
                }
            }
        };
        tokio::time::timeout(LONG, news).await.expect("the service manager is told something new")
    }

    /// The next ones are signs of the watchdog, so many.
    async fn hear_signs(&self, count: usize) {
        for _ in 0..count {
            assert_eq!(self.hear().await, WATCHDOG);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_is_told_what_the_relay_does_and_never_what_the_database_does() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let proxy = Proxy::start(Target::Unix(Cluster::shared().socket())).await;
    proxy.go_down().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = Manager::listen(&SocketAddr::from_pathname(&path).unwrap());
    let url = Cluster::tcp_url(proxy.port(), database.name());
    let config = toml(&url, RELAY, NOWHERE);
    let mut relay = Process::start_with(&config, |command| {
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    });
    assert_eq!(manager.hear().await, "STATUS=waiting for PostgreSQL");
    manager.hear_signs(5).await;

    proxy.resume();
    assert_eq!(manager.hear_news().await, "READY=1\nSTATUS=at work");
    assert_eq!(number(&client, "SELECT count(*) FROM outbox.relay").await, 1);

    // Away for longer than its lease, and it goes round all the same.
    proxy.go_down().await;
    relay.until_log("the lease ran out", 1).await;
    manager.hear_signs(20).await;
    proxy.resume();
    relay.until_log("\"entered\"", 2).await;

    relay.reload(&config.replace("\"*\"", "\"order.*\""));
    reloaded(&manager).await;
    assert!(relay.log().contains("reloaded: the new config is at work"), "{}", relay.log());
    relay.reload("nonsense");
    reloaded(&manager).await;
    assert!(relay.log().contains("reload refused"), "{}", relay.log());

    relay.signal("TERM");
    assert_eq!(manager.hear_news().await, "STOPPING=1\nSTATUS=draining");
    assert_eq!(relay.ended().await.code(), Some(0));
}

async fn reloaded(manager: &Manager) {
    let words = manager.hear_news().await;
    let since = words.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&words);
    let since: i64 = since.strip_suffix("\nSTATUS=reloading").expect(&words).parse().unwrap();
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec;
    assert!((now - 60..=now).contains(&(since / 1_000_000)), "{since} at {now} s");
    assert_eq!(manager.hear_news().await, "READY=1\nSTATUS=at work");
}

/// A socket without a file; and a watchdog that is meant for another process.
#[tokio::test(flavor = "multi_thread")]
async fn a_socket_in_the_abstract_namespace_will_do_and_anothers_watchdog_is_left_alone() {
    let database = Database::migrated().await;
    let name = format!("outboxd-test-{}", std::process::id());
    let manager = Manager::listen(&SocketAddr::from_abstract_name(&name).unwrap());
    let mut relay = Process::start_with(&toml(&database.url(), RELAY, NOWHERE), |command| {
        command.env("NOTIFY_SOCKET", format!("@{name}"));
        command.env("WATCHDOG_USEC", "1000").env("WATCHDOG_PID", "1");
    });
    assert_eq!(manager.hear().await, "STATUS=waiting for PostgreSQL");
    assert_eq!(manager.hear().await, "READY=1\nSTATUS=at work");
    let silence = tokio::time::timeout(Duration::from_millis(100), manager.hear()).await;
    assert!(silence.is_err(), "{silence:?}");
    relay.signal("TERM");
    assert_eq!(manager.hear().await, "STOPPING=1\nSTATUS=draining");
    assert_eq!(relay.ended().await.code(), Some(0));
}

/// The variable may be there for another program. A relay that nobody listens to works.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_that_is_not_there_is_no_reason_not_to_work() {
    let database = Database::migrated().await;
    let mut relay = Process::start_with(&toml(&database.url(), RELAY, NOWHERE), |command| {
        command.env("NOTIFY_SOCKET", "/nowhere/notify");
    });
    relay.until_log("\"entered\"", 1).await;
    assert!(relay.log().contains("NOTIFY_SOCKET cannot be reached"), "{}", relay.log());
    relay.signal("TERM");
    assert_eq!(relay.ended().await.code(), Some(0));
}
