//! The harness keeps its own promises: what the other tests lean on is tested first.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::eventually;
use crate::harness::postgres::{Cluster, Database, connect};
use crate::harness::proxy::{Direction, Proxy, Target};

const LIMIT: Duration = Duration::from_secs(30);
/// Long enough for a reply on loopback, so that silence for as long means it is held.
const SILENCE: Duration = Duration::from_millis(150);

#[tokio::test]
async fn a_cluster_survives_a_crash_and_an_orderly_stop() {
    let cluster = Cluster::start_on_tcp();
    cluster.psql("postgres", "CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)");
    assert!(cluster.pg_dump("postgres", &["--schema-only"]).contains("CREATE TABLE public.kept"));

    cluster.stop_immediate();
    let error = cluster.try_psql("postgres", "SELECT 1").expect_err("the server is down");
    assert!(error.contains("Is the server running"), "{error}");
    cluster.start_again();
    assert!(cluster.log().contains("automatic recovery in progress"), "{}", cluster.log());

    cluster.stop_fast();
    cluster.start_again();
    let over_tcp = Cluster::tcp_url(cluster.tcp_port(), "postgres").parse().unwrap();
    let row = connect(&over_tcp).await.query_one("SELECT n FROM kept", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 1);
}

#[test]
fn a_cluster_takes_settings_of_its_own_and_its_folder_goes_with_it() {
    let cluster = Cluster::start_with(None, &[("max_prepared_transactions", "5")]);
    assert_eq!(cluster.psql("postgres", "SHOW max_prepared_transactions"), "5");
    assert_eq!(cluster.psql("postgres", "SHOW listen_addresses"), "");
    let dir = cluster.dir().to_path_buf();
    drop(cluster);
    let keep = std::env::var_os("OUTBOXD_TEST_KEEP").is_some_and(|value| !value.is_empty());
    assert_eq!(dir.exists(), keep, "{}", dir.display());
}

/// Plays two parts: started by itself with a cluster to lose, it waits to be killed.
#[tokio::test]
async fn kill_nine_takes_the_cluster_and_its_folder_away() {
    const PART: &str = "OUTBOXD_TEST_VICTIM";
    if std::env::var_os(PART).is_some() {
        let cluster = Cluster::start();
        println!("\nfolder {}", cluster.dir().display());
        std::thread::park();
    }
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("harness_test::kill_nine_takes_the_cluster_and_its_folder_away")
        .env(PART, "1")
        .env_remove("OUTBOXD_TEST_KEEP")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let folder = BufReader::new(victim.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("folder ").map(PathBuf::from))
        .expect("the victim names its folder");
    let server = server_process(&folder);
    assert!(server.exists());

    victim.kill().unwrap();
    victim.wait().unwrap();
    eventually("the server and its folder are gone", LIMIT, async || {
        match (server.exists(), folder.exists()) {
            (false, false) => Ok(()),
            (server, folder) => Err(format!("server there: {server}, folder there: {folder}")),
        }
    })
    .await;
}

fn server_process(folder: &Path) -> PathBuf {
    let text = std::fs::read_to_string(folder.join("data/postmaster.pid")).unwrap();
    Path::new("/proc").join(text.lines().next().unwrap())
}

#[tokio::test]
async fn each_test_has_a_database_of_its_own_and_leaves_none() {
    let (one, two) = tokio::join!(Database::fresh(), Database::fresh());
    let client = one.connect().await;
    client.batch_execute("CREATE TABLE mine ()").await.unwrap();
    assert_eq!(one.psql("SELECT to_regclass('mine')"), "mine");
    assert_eq!(two.psql("SELECT to_regclass('mine')"), "");

    let name = one.name().to_owned();
    // Also with a session still open, as a failed relay would leave it.
    drop(one);
    assert!(!exists(&name));
    assert!(client.simple_query("SELECT 1").await.is_err());
}

#[tokio::test]
async fn a_failed_test_keeps_its_database() {
    let database = Database::fresh().await;
    let name = database.name().to_owned();
    let failed = tokio::spawn(async move {
        let _held = database;
        panic!("on purpose: a test that fails");
    });
    assert!(failed.await.is_err());
    assert!(exists(&name));
    Cluster::shared().psql("postgres", &format!("DROP DATABASE {name}"));
}

fn exists(database: &str) -> bool {
    let sql = format!("SELECT count(*) FROM pg_database WHERE datname = '{database}'");
    Cluster::shared().psql("postgres", &sql) == "1"
}

#[tokio::test]
#[should_panic(expected = "not within 30ms: the impossible; last seen: still 1")]
async fn eventually_tells_the_last_state_it_saw() {
    eventually("the impossible", Duration::from_millis(30), async || {
        Err::<(), _>("still 1".to_owned())
    })
    .await;
}

#[tokio::test]
async fn a_cut_resets_every_connection_and_lets_new_ones_in() {
    let proxy = Proxy::start(Target::Tcp(echo_server().await)).await;
    let (mut one, mut two) = (client(&proxy).await, client(&proxy).await);
    echoes(&mut one).await;
    echoes(&mut two).await;
    assert_eq!((proxy.accepted(), proxy.open()), (2, 2));

    proxy.cut().await;
    assert_eq!(proxy.open(), 0);
    for stream in [&mut one, &mut two] {
        let error = stream.read_u8().await.expect_err("the line is cut");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    echoes(&mut client(&proxy).await).await;

    proxy.go_down().await;
    assert!(client(&proxy).await.read_u8().await.is_err(), "nobody is served while down");
    proxy.resume();
    echoes(&mut client(&proxy).await).await;
    assert_eq!(proxy.accepted(), 5);
}

#[tokio::test]
async fn a_stalled_direction_is_silent_and_loses_nothing() {
    for direction in [Direction::Requests, Direction::Replies] {
        let proxy = Proxy::start(Target::Tcp(echo_server().await)).await;
        let mut stream = client(&proxy).await;
        echoes(&mut stream).await;
        proxy.stall(direction);
        stream.write_all(b"x").await.unwrap();
        assert!(silent(&mut stream).await, "{direction:?}");
        proxy.resume();
        assert_eq!(stream.read_u8().await.unwrap(), b'x', "{direction:?}");
    }
}

#[tokio::test]
async fn replies_are_delayed_side_by_side() {
    let proxy = Proxy::start(Target::Tcp(echo_server().await)).await;
    let mut stream = client(&proxy).await;
    proxy.delay_replies(SILENCE);
    let start = Instant::now();
    for byte in b"abc" {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut replies = [0; 3];
    stream.read_exact(&mut replies).await.unwrap();
    assert_eq!(&replies, b"abc");
    let took = start.elapsed();
    assert!(took >= SILENCE, "{took:?}");
    proxy.delay_replies(Duration::ZERO);
    echoes(&mut stream).await;
}

#[tokio::test]
async fn a_half_closed_connection_stays_one() {
    let proxy = Proxy::start(Target::Tcp(echo_server().await)).await;
    let mut stream = client(&proxy).await;
    stream.write_all(b"last words").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "last words");
    eventually("the connection is closed", LIMIT, async || match proxy.open() {
        0 => Ok(()),
        open => Err(format!("{open} open")),
    })
    .await;
}

/// What a fetch whose reply comes after its settlement needs: the server has done the work, the
/// client does not know yet, and another connection goes on meanwhile.
#[tokio::test]
async fn the_reply_to_one_statement_is_held_while_others_flow() {
    let database = Database::fresh().await;
    let proxy = Proxy::start(Target::Unix(Cluster::shared().socket())).await;
    let config = Cluster::tcp_url(proxy.port(), database.name()).parse().unwrap();
    let (slow, quick) = (connect(&config).await, connect(&config).await);
    quick.batch_execute("CREATE TABLE seen (n int)").await.unwrap();

    proxy.hold_replies_after(b"INSERT INTO seen");
    let held = tokio::spawn(async move { slow.simple_query("INSERT INTO seen VALUES (1)").await });
    assert_eq!(proxy.snared().await, 1);
    eventually("the server has done the work", LIMIT, async || {
        let row = quick.query_one("SELECT count(*) FROM seen", &[]).await.unwrap();
        match row.get::<_, i64>(0) {
            1 => Ok(()),
            n => Err(format!("{n} rows")),
        }
    })
    .await;
    assert!(!held.is_finished());
    proxy.release();
    held.await.unwrap().unwrap();

    proxy.hold_replies_of(2);
    assert!(tokio::time::timeout(SILENCE, quick.simple_query("SELECT 1")).await.is_err());
    proxy.release();
    proxy.hold_replies();
    assert!(tokio::time::timeout(SILENCE, quick.simple_query("SELECT 1")).await.is_err());
    proxy.release();
    quick.simple_query("SELECT 1").await.unwrap();
}

async fn echo_server() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                // A reset ends it, which is what the tests are about.
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    });
    address
}

async fn client(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.address()).await.unwrap()
}

async fn echoes(stream: &mut TcpStream) {
    stream.write_all(b"?").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'?');
}

async fn silent(stream: &mut TcpStream) -> bool {
    tokio::time::timeout(SILENCE, stream.read_u8()).await.is_err()
}
