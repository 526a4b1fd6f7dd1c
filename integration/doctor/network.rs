//! Names, certificates, directories.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use super::{HEALTHY, Patient};
use crate::harness::postgres::Cluster;
use crate::harness::smtp::{Settings, SmtpPeer};

const NOBODY: u32 = 65_534;

/// A certificate for localhost that ends so many hours from now, and its key.
fn certificate(hours: i64) -> (rcgen::Certificate, rcgen::KeyPair) {
    let mut parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let now = std::time::SystemTime::now();
    let hour = std::time::Duration::from_secs(3_600);
    let span = hour * u32::try_from(hours.unsigned_abs()).unwrap();
    parameters.not_before = (now - hour * 24_000).into();
    parameters.not_after = if hours < 0 { now - span } else { now + span }.into();
    let key = rcgen::KeyPair::generate().unwrap();
    (parameters.self_signed(&key).unwrap(), key)
}

/// A mail server with such a certificate, and the sink that trusts it.
async fn mail_server(patient: &Patient, hours: i64) -> (SmtpPeer, String) {
    let (certificate, key) = certificate(hours);
    let file = patient.directory.path().join("mail.pem");
    fs::write(&file, certificate.pem()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let peer =
        SmtpPeer::start_with(Settings { tls: Some(Arc::new(tls)), ..Settings::default() }).await;
    let sink = format!(
        "[sinks.mail]\nkind = \"smtp\"\nurl = \"smtp+starttls://localhost:{}\"\nfrom = \"shop@example.com\"\n\
         ca_file = \"{}\"\n",
        peer.address.port(),
        file.display()
    );
    (peer, sink)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_server_whose_certificate_is_over_or_will_be_soon() {
    let patient = Patient::new().await;
    let (_over, sink) = mail_server(&patient, -49).await;
    patient.configure(&patient.url(), &sink);
    let said = patient.doctor(&[]);
    let remedies = said.finds(&["sink mail", "certificate-over"]);
    assert_eq!(remedies, ["renew it there"]);
    assert!(said.words("sink mail").contains("xpired"), "{said:?}");
    assert!(said.words("certificate").contains("that of localhost expired on "), "{said:?}");
    assert!(said.words("certificate").ends_with(", 2d1h ago"), "{said:?}");

    let (peer, sink) = mail_server(&patient, 10 * 24).await;
    patient.configure(&patient.url(), &sink);
    let said = patient.doctor(&[]);
    said.finds(&["certificate-soon"]);
    assert!(said.words("certificate").ends_with(", in 9d23h"), "{said:?}");
    assert_eq!(peer.mails().len(), 0);

    let (_renewed, sink) = mail_server(&patient, 90 * 24).await;
    patient.configure(&patient.url(), &sink);
    patient.finds(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_whose_certificate_is_over_though_nobody_checks_it() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let write = |hours| {
        let (certificate, key) = certificate(hours);
        for (name, text) in [("pem", certificate.pem()), ("key", key.serialize_pem())] {
            let file = folder.path().join(name);
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            if rustix::process::geteuid().is_root() {
                chown(&file, Some(NOBODY), None).unwrap();
            }
        }
    };
    write(-24);
    let [pem, key] = ["pem", "key"].map(|name| folder.path().join(name).display().to_string());
    let start = move || {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let tls = [("ssl", "on"), ("ssl_cert_file", &pem), ("ssl_key_file", &key)];
        Cluster::start_with(Some(port), &[HEALTHY, &tls].concat())
    };
    // Ends with the tests, as the one that they share.
    let cluster: &Cluster = Box::leak(Box::new(tokio::task::spawn_blocking(start).await.unwrap()));
    let patient = Patient::on(cluster).await;
    let url = format!(
        "postgresql://postgres@localhost:{}/{}?sslmode=require",
        cluster.tcp_port(),
        patient.database
    );
    patient.configure(&url, "");
    let said = patient.doctor(&[]);
    said.finds(&["certificate-unchecked"]);
    assert!(said.words("certificate").starts_with("that of localhost (database) expired on "));
    write(90 * 24);
    patient.psql("SELECT pg_reload_conf()");
    crate::harness::eventually(
        "it is renewed",
        crate::harness::plane::LONG,
        async || match patient.doctor(&[]).causes() {
            causes if causes.is_empty() => Ok(()),
            causes => Err(format!("{causes:?}")),
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_resolve() {
    let patient = Patient::new().await;
    let sink = |host: &str| {
        let url = patient.peer.url("/").replace("127.0.0.1", host);
        format!("[sinks.erp]\nkind = \"webhook\"\nurl = \"{url}\"\n")
    };
    patient.configure(&patient.url(), &sink("erp.invalid"));
    let said = patient.doctor(&[]);
    let remedies = said.finds(&["sink erp", "name-unknown"]);
    assert!(remedies[0].starts_with("correct it in the config"), "{remedies:?}");
    assert!(said.words("name").starts_with("erp.invalid does not resolve: "), "{said:?}");
    patient.configure(&patient.url(), &sink("localhost"));
    let said = patient.doctor(&[]);
    said.finds(&[]);
    assert!(said.words("name").starts_with("localhost: addresses: "), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_may_not_be_written_in() {
    let patient = Patient::new().await;
    let out = patient.directory.path().join("out");
    for folder in [patient.directory.path(), &out] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        fs::set_permissions(&out, fs::Permissions::from_mode(0o555)).unwrap();
    }
    let mine = patient.directory.path().join("outboxd");
    fs::copy(env!("CARGO_BIN_EXE_outboxd"), &mine).unwrap();
    // Nothing keeps root out.
    let as_nobody = |command: &mut Command| {
        if is_root {
            let mut other = Command::new(&mine);
            other.args(command.get_args()).current_dir(patient.directory.path());
            other.uid(NOBODY).gid(NOBODY).env_remove("DATABASE_URL");
            *command = other;
        }
    };
    let said = patient.doctor_with(&[], as_nobody);
    assert_eq!((said.causes(), said.code), (vec!["sink orders"], 1), "{said:?}");
    let words = said.words("sink orders");
    assert!(words.contains("cannot be written to: Permission denied"), "{words}");
    let remedy = words.rsplit_once("give it to who runs this: ").unwrap().1.to_owned();
    assert_eq!(remedy.split(' ').next(), Some("chown"), "{remedy}");
    if is_root {
        assert!(remedy.starts_with(&format!("chown {NOBODY} ")), "{remedy}");
        let ran = Command::new("sh").args(["-c", &remedy]).status().unwrap();
        assert!(ran.success(), "{remedy}");
    } else {
        fs::set_permissions(Path::new(&out), fs::Permissions::from_mode(0o755)).unwrap();
    }
    patient.doctor_with(&[], as_nobody).finds(&[]);
}
