//! deploy/compose.yaml without Compose: what its services say and run, at the addresses that they name.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use yaml_rust2::YamlLoader;

use super::manifests::{COMPOSE, compose_file, probed, text};
use super::room::{CONFIG, Root, is_inside};
use crate::harness::eventually;
use crate::harness::plane::LONG;
use crate::harness::postgres::Cluster;
use crate::harness::smtp::SmtpPeer;

/// The names that Compose gives its services.
const HOSTS: &str = "127.0.0.1 localhost postgres mail\n";

/// The status of a page of the admin listener.
async fn status(path: &str) -> String {
    let mut stream = TcpStream::connect("127.0.0.1:9464").await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_compose_starts_works_together_and_is_healthy_until_it_stops() {
    if !is_inside(
        "deploy::compose::what_compose_starts_works_together_and_is_healthy_until_it_stops",
    ) {
        return;
    }
    let compose = YamlLoader::load_from_str(COMPOSE).unwrap().remove(0);
    let services = &compose["services"];
    let cluster = Cluster::start_with(Some(5432), &[]);
    let database = text(&services["postgres"]["environment"]["POSTGRES_DB"]);
    cluster.psql("postgres", &format!("CREATE DATABASE {database}"));
    let mail = SmtpPeer::start_on(TcpListener::bind("127.0.0.1:1025").await.unwrap());
    let url = |service: &str| text(&services[service]["environment"]["DATABASE_URL"]).to_owned();

    let files = [("/etc/hosts", HOSTS), (CONFIG, &compose_file(&compose, "outboxd"))];
    let root = Root::new(&files).with_volume().with("DATABASE_URL", &url("migrate"));
    // Each `up` runs both steps again.
    for _ in 0..2 {
        root.ok(&["migrate"]);
        cluster.psql(database, &compose_file(&compose, "users"));
    }
    let root = root.with("DATABASE_URL", &url("relay"));
    root.ok(&["check"]);
    assert_eq!(root.says(&["health"]).0, 1, "nobody is there");

    let mut relay = root.start(&[], &["run"]).await;
    eventually("it is healthy", LONG, async || match root.says(&["health"]) {
        (0, _, _) => Ok(()),
        (_, out, err) => Err(out + &err),
    })
    .await;
    let paths = probed();
    assert_eq!(paths.iter().map(String::as_str).collect::<Vec<_>>(), ["/livez", "/readyz"]);
    for path in &paths {
        assert_eq!(status(path).await, "200", "{path}");
    }

    // psql does it again and again; once is enough here.
    let order = compose_file(&compose, "order").replace("\\watch 5", ";");
    let app = text(&services["app"]["environment"]["PGUSER"]);
    cluster.psql(database, &format!("SET SESSION AUTHORIZATION {app};\n{order}"));
    eventually("the mail is there", LONG, async || match mail.accepted() {
        1 => Ok(()),
        count => Err(format!("{count}: {}", relay.log())),
    })
    .await;
    assert_eq!(mail.mails()[0].to, ["ann@example.org"]);

    relay.signal(rustix::process::Signal::TERM);
    assert_eq!(relay.ended().await, Some(0));
    assert_eq!(root.says(&["health"]).0, 1, "it has ended");
}
