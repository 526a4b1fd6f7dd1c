//! TLS towards PostgreSQL: `verify-full` against a real server with a certificate of an authority.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::{outboxd, outboxd_ok};
use crate::harness::http::HttpPeer;
use crate::harness::plane::{number, send, until_closed, until_count, until_routed};
use crate::harness::postgres::{Cluster, fill_template};
use crate::harness::relay::{Process, crm, toml};

const RELAY: &str = "lease = \"2s\"\ngrace = \"10s\"";

/// An authority, by its certificate, and a certificate of its for `localhost` with its key.
struct Authority {
    root: String,
    certificate: String,
    key: String,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let server = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = server.signed_by(&key, &issuer).unwrap().pem();
        Authority { root, certificate, key: key.serialize_pem() }
    }
}

/// A server that speaks TLS, with the outbox in its database `shop`.
async fn server(authority: &Authority) -> Cluster {
    let cluster = tokio::task::spawn_blocking(Cluster::start_on_tcp).await.unwrap();
    let certificate = cluster.keep_private("server.pem", &authority.certificate);
    let key = cluster.keep_private("server.key", &authority.key);
    let postgres = cluster.connect("postgres").await;
    for (name, path) in [("ssl_cert_file", certificate), ("ssl_key_file", key)] {
        let sql = format!("ALTER SYSTEM SET {name} = '{}'", path.display());
        postgres.batch_execute(&sql).await.unwrap();
    }
    postgres.batch_execute("ALTER SYSTEM SET ssl = on").await.unwrap();
    postgres.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    postgres.batch_execute("CREATE DATABASE shop").await.unwrap();
    fill_template(&cluster, "shop").await;
    cluster
}

fn url(host: &str, port: u16, root: &std::path::Path) -> String {
    let root = root.display();
    format!("postgresql://postgres@{host}:{port}/shop?sslmode=verify-full&sslrootcert={root}")
}

/// Guard: the name and the authority are looked at, and what is refused says what would be right.
#[tokio::test(flavor = "multi_thread")]
async fn verify_full_refuses_what_is_not_the_server_that_was_named() {
    // Another of the same name, as one that was made anew, is another all the same.
    let namesake = Authority::new("ours");
    let (authority, other) = (Authority::new("ours"), Authority::new("theirs"));
    let cluster = server(&authority).await;
    let plain = tokio::task::spawn_blocking(Cluster::start_on_tcp).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let [root, wrong, anew] =
        [("root", &authority), ("other", &other), ("anew", &namesake)].map(|(name, authority)| {
            let path = folder.path().join(name);
            std::fs::write(&path, &authority.root).unwrap();
            path
        });
    let port = cluster.tcp_port();
    let rest = crm("http://127.0.0.1:9/", "");
    let good = toml(&url("localhost", port, &root), RELAY, &rest);
    assert!(outboxd_ok(&good, &["migrate", "--check"]).contains("is current"));
    for (url, words) in [
        (url("127.0.0.1", port, &root), "write the name that it is for"),
        (url("localhost", port, &wrong), "name the authority's certificate with sslrootcert"),
        (url("localhost", port, &anew), "name the authority's certificate with sslrootcert"),
        (url("localhost", plain.tcp_port(), &root), "set ssl = on at the server"),
    ] {
        let text = toml(&url, RELAY, &rest);
        for arguments in [&["migrate", "--check"][..], &["check"], &["status"]] {
            let said = outboxd(&text, arguments);
            assert_eq!(said.code, 1, "{url} {arguments:?}: {said:?}");
            assert!((said.out.clone() + &said.err).contains(words), "{url}: {said:?}");
        }
    }
}

/// Every connection of a relay is protected, the LISTEN session's too; the URL comes from a file.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_delivers_and_listens_over_tls() {
    let authority = Authority::new("ours");
    let cluster = server(&authority).await;
    let client = cluster.connect("shop").await;
    let peer = HttpPeer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (root, file) = (folder.path().join("root.pem"), folder.path().join("url"));
    std::fs::write(&root, &authority.root).unwrap();
    let url = url("localhost", cluster.tcp_port(), &root);
    std::fs::write(&file, format!("{url}\n")).unwrap();
    let text = toml("X", RELAY, &crm(&peer.url("/"), "")).replace(
        "url = \"X\"",
        &format!("url_file = \"{}\"\nlisten_url = \"{url}\"", file.display()),
    );
    let relay = Process::start(&text);
    until_routed(&client).await;
    until_count(&client, "it hears", "SELECT count(*) FROM outbox.relay WHERE listens", 1).await;
    send(&client, "t", "{}").await;
    until_closed(&client).await;
    let sessions = "SELECT count(*) FROM pg_stat_activity a JOIN pg_stat_ssl s USING (pid)
                     WHERE a.application_name = 'outboxd' AND s.ssl";
    let clear = sessions.replace("AND s.ssl", "AND NOT s.ssl");
    assert!(number(&client, sessions).await >= 4);
    assert_eq!(number(&client, &clear).await, 0);
    assert!(outboxd(&text, &["check"]).out.contains("a relay is woken"));
    drop(relay);
}
