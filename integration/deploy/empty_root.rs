//! The static binary where there is nothing but itself: names, certificates and time zones.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
};
use tokio::net::UdpSocket;

use super::room::{Root, is_inside};
use crate::harness::eventually;
use crate::harness::http::HttpPeer;
use crate::harness::plane::{LONG, number, send, until_count};
use crate::harness::postgres::Cluster;
use crate::harness::smtp::{Settings, SmtpPeer};

/// Names that the DNS server of the test knows; mail.shop.example stands in /etc/hosts.
const KNOWN: [&str; 3] = ["db.shop.example", "hooks.shop.example", "wrong.shop.example"];
const HOSTS: &str = "127.0.0.1 localhost mail.shop.example\n";

/// One that signs certificates, and its own as a file has it.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "shop");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for a host, and its key.
    fn sign(&self, host: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([host.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn server(&self, host: &str) -> Arc<rustls::ServerConfig> {
        let (certificate, key) = self.sign(host);
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key);
        Arc::new(config.unwrap())
    }

    /// Has a running PostgreSQL answer as this host.
    fn certify(&self, cluster: &Cluster, host: &str) {
        let (certificate, key) = self.sign(host);
        let data = cluster.dir().join("data");
        let owner = std::fs::metadata(&data).unwrap();
        for (name, text) in [("server.crt", certificate.pem()), ("server.key", key.serialize_pem())]
        {
            let file = data.join(name);
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
            chown(&file, Some(owner.uid()), Some(owner.gid())).unwrap();
        }
        cluster.psql("postgres", "ALTER SYSTEM SET ssl = on; SELECT pg_reload_conf()");
    }
}

/// A DNS server on the port where /etc/resolv.conf has it. Keeps the names it is asked for.
async fn name_server() -> Arc<Mutex<BTreeSet<String>>> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).await.unwrap();
    let asked = Arc::new(Mutex::new(BTreeSet::new()));
    let names = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query).await {
            let (name, answer) = answer(&query[..length]);
            names.lock().unwrap().insert(name);
            let _ = socket.send_to(&answer, from).await;
        }
    });
    asked
}

/// The name in a query of one question, and the reply: 127.0.0.1 for a name that is known, no record for
/// its IPv6 address, and "no such name" for all others.
fn answer(query: &[u8]) -> (String, Vec<u8>) {
    let mut labels = Vec::new();
    let mut at = 12;
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).into_owned());
        at = end;
    }
    let question = &query[12..at + 5];
    let (name, is_a) = (labels.join("."), question[question.len() - 4..] == [0, 1, 0, 1]);
    let known = KNOWN.contains(&name.as_str());
    let count = u8::from(known && is_a);
    let mut reply = query[..2].to_vec();
    reply.extend([0x81, if known { 0x80 } else { 0x83 }, 0, 1, 0, count, 0, 0, 0, 0]);
    reply.extend(question);
    if count > 0 {
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, 1]);
    }
    (name, reply)
}

fn config(database: &str, port: u16, hooks: u16, wrong: u16, mail: u16) -> String {
    let webhook = |name: &str, url: &str, more: &str| {
        format!(
            "[sinks.{name}]\nkind = \"webhook\"\nurl = \"https://{url}/\"\n{more}\n\
             [[routes]]\ntype = \"{name}\"\nsink = \"{name}\"\n"
        )
    };
    let ca = "ca_file = \"ca.pem\"";
    format!(
        "[database]\nurl = \"postgresql://postgres@{database}:{port}/shop?sslmode=verify-full&\
         sslrootcert=/etc/outboxd/ca.pem\"\ninstallation = \"shop\"\n[relay]\nlease = \"2s\"\n"
    ) + &webhook("hooks", &format!("hooks.shop.example:{hooks}"), ca)
        + &webhook("wrong", &format!("wrong.shop.example:{wrong}"), ca)
        + &webhook("strange", &format!("hooks.shop.example:{hooks}"), "")
        + &webhook("nobody", "nobody.shop.example", "")
        + &format!(
            "[sinks.mail]\nkind = \"smtp\"\nurl = \"smtp+starttls://mail.shop.example:{mail}\"\n\
             from = \"shop@example.com\"\n{ca}\n[[routes]]\ntype = \"hooks\"\nsink = \"mail\"\n\
             to = \"ann@example.org\"\nsubject = \"s\"\ntext = \"t\"\n\
             [[routes]]\ntype = \"outboxd.alert\"\nsink = []\n\
             [schedules.daily]\ntype = \"daily\"\n\
             every = {{ at = \"08:00\", time_zone = \"Australia/Lord_Howe\" }}\n"
        )
}

/// The words of a line of `check`.
#[track_caller]
fn line<'t>(checked: &'t str, thing: &str) -> &'t str {
    let found = checked.lines().find(|line| line.contains(&format!(" {thing} ")));
    found.unwrap_or_else(|| panic!("no {thing} in:\n{checked}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_empty_root_names_resolve_certificates_are_verified_and_time_zones_are_known() {
    if !is_inside(
        "deploy::empty_root::in_an_empty_root_names_resolve_certificates_are_verified_and_time_zones_are_known",
    ) {
        return;
    }
    let (asked, authority) = (name_server().await, Authority::new());
    let cluster = Cluster::start_on_tcp();
    authority.certify(&cluster, "db.shop.example");
    cluster.psql("postgres", "CREATE DATABASE shop");
    let hooks = HttpPeer::start_tls(authority.server("hooks.shop.example")).await;
    let wrong = HttpPeer::start_tls(authority.server("hooks.shop.example")).await;
    let tls = Some(authority.server("mail.shop.example"));
    let mail = SmtpPeer::start_with(Settings { tls, ..Settings::default() }).await;
    let configured = |database: &str| {
        let (hooks, wrong) = (hooks.address.port(), wrong.address.port());
        config(database, cluster.tcp_port(), hooks, wrong, mail.address.port())
    };
    let rooted = |database: &str| {
        Root::new(&[
            ("/etc/hosts", HOSTS),
            ("/etc/resolv.conf", "nameserver 127.0.0.1\n"),
            ("/etc/outboxd/ca.pem", &authority.pem),
            (super::room::CONFIG, &configured(database)),
        ])
    };

    let root = rooted("db.shop.example");
    root.ok(&["migrate"]);
    let encrypted = "SELECT count(*) FROM pg_stat_ssl WHERE ssl";
    let client = cluster.connect("shop").await;
    let (code, checked, _) = root.says(&["check"]);
    assert_eq!(code, 1, "{checked}");
    assert!(line(&checked, "database").starts_with("ok"), "{checked}");
    assert!(line(&checked, "sink hooks").starts_with("ok"), "{checked}");
    assert!(line(&checked, "sink mail").starts_with("ok"), "{checked}");
    for (sink, words) in
        [("wrong", "not valid for name"), ("strange", "UnknownIssuer"), ("nobody", "lookup")]
    {
        let line = line(&checked, &format!("sink {sink}"));
        assert!(line.starts_with("FAIL") && line.contains(words), "{words}: {checked}");
    }
    assert!(line(&checked, "schedule daily").contains(" 08:00+1"), "10:30 or 11 hours: {checked}");

    let mut relay = root.start(&[], &["run"]).await;
    relay.until_log("routes are in force").await;
    for sort in ["hooks", "wrong", "strange", "nobody"] {
        send(&client, sort, "{}").await;
    }
    until_count(&client, "two are delivered", "SELECT count(*) FROM outbox.ledger", 2).await;
    eventually("the others are not", LONG, async || {
        let sql = "SELECT count(*) FROM outbox.delivery WHERE reason IS NOT NULL";
        match number(&client, sql).await {
            3 => Ok(()),
            count => Err(format!("{count} with a reason: {}", relay.log())),
        }
    })
    .await;
    assert!(number(&client, encrypted).await > 3, "the relay's sessions are encrypted");
    assert_eq!((hooks.requests(), wrong.requests(), mail.accepted()), (1, 0, 1));
    assert!(mail.mails()[0].encrypted);
    relay.signal(rustix::process::Signal::TERM);
    assert_eq!(relay.ended().await, Some(0));
    let asked = asked.lock().unwrap().clone();
    for name in KNOWN.into_iter().chain(["nobody.shop.example"]) {
        assert!(asked.contains(name), "{asked:?}");
    }
    assert!(!asked.contains("mail.shop.example"), "/etc/hosts knows it: {asked:?}");

    // The server is the same, and its certificate names another host.
    let (code, _, err) = rooted("wrong.shop.example").says(&["status"]);
    assert!(code == 1 && err.contains("not valid for name"), "{err}");
}
