//! What stands between a relay and PostgreSQL, and between their clocks.

use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixStream};

use super::Patient;
use crate::harness::pooler::Pooler;

/// NotificationResponse, as the protocol has it.
const NOTIFICATION: u8 = b'A';

/// A proxy that passes on everything but notifications; answers its port. Ends with the test.
async fn deaf_proxy(socket: PathBuf) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = UnixStream::connect(&socket).await.unwrap();
            let ((mut asks, told), (answers, mut asked)) =
                (client.into_split(), server.into_split());
            tokio::spawn(async move {
                let _ = tokio::io::copy(&mut asks, &mut asked).await;
            });
            tokio::spawn(async move {
                let _ = without_notifications(answers, told).await;
            });
        }
    });
    port
}

async fn without_notifications(
    mut answers: impl AsyncRead + Unpin,
    mut told: impl AsyncWrite + Unpin,
) -> std::io::Result<()> {
    loop {
        let kind = answers.read_u8().await?;
        let length = answers.read_u32().await?;
        let mut body = vec![0; usize::try_from(length).unwrap() - 4];
        answers.read_exact(&mut body).await?;
        if kind != NOTIFICATION {
            told.write_all(&[&[kind], &length.to_be_bytes()[..], &body].concat()).await?;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_swallows_notifications() {
    let patient = Patient::new().await;
    let port = deaf_proxy(patient.cluster.socket()).await;
    let url =
        format!("postgresql://postgres@127.0.0.1:{port}/{}?sslmode=disable", patient.database);
    patient.configure(&url, "");
    let said = patient.doctor(&[]);
    let remedies = said.finds(&["listen-deaf"]);
    assert!(said.text.contains("a notification did not come through within"), "{}", said.text);
    assert!(remedies[0].contains("listen_url"), "{remedies:?}");
    patient.configure(&patient.url(), "");
    patient.finds(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_clock_is_wrong() {
    let patient = Patient::new().await;
    let library = std::env::var("OUTBOXD_FAKETIME")
        .expect("OUTBOXD_FAKETIME is not set; run integration/run.sh, which provides libfaketime");
    for (wrong_by, cause, words) in [
        ("+600s", "clock-wrong", "ahead of the database"),
        ("-20s", "clock-skew", "behind the database"),
    ] {
        let said = patient.doctor_with(&[], |command| {
            command.env("LD_PRELOAD", &library).env("FAKETIME", wrong_by);
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        });
        said.finds(&[cause]);
        assert!(said.words("clock").contains(words), "{said:?}");
    }
    // Set right.
    patient.finds(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_in_transaction_mode_and_a_connection_past_it() {
    let patient = Patient::new().await;
    let pooler = Pooler::start(patient.cluster, "transaction", 12).await;
    let through = pooler.url(&patient.database);
    patient.configure(&through, "");
    let said = patient.doctor(&[]);
    let remedies = said.finds(&["pooler"]);
    assert!(remedies[0].contains("listen_url"), "{remedies:?}");
    let past = format!("{through}\"\nlisten_url = \"{}", patient.url());
    patient.configure(&past, "");
    let said = patient.doctor(&[]);
    said.finds(&[]);
    assert_eq!(said.words("pooler"), "there is one, and bells are heard past it");
    patient.configure(&format!("{through}\"\nlisten = false\n# \""), "");
    let said = patient.doctor(&[]);
    said.finds(&[]);
    assert!(said.words("pooler").ends_with("a relay polls, as [database] listen says"), "{said:?}");
    let pooler = Pooler::start(patient.cluster, "session", 12).await;
    patient.configure(&pooler.url(&patient.database), "");
    let said = patient.doctor(&[]);
    said.finds(&[]);
    assert_eq!(said.words("pooler"), "none: each session keeps its server process");
}
