//! `run --capture`: for development everything is rendered and written, and nothing is sent.

use std::path::Path;

use crate::harness::dkim::{by_dkimpy, keys};
use crate::harness::eventually;
use crate::harness::http::HttpPeer;
use crate::harness::plane::{LONG, number, send, until_closed, until_count, until_routed};
use crate::harness::postgres::Database;
use crate::harness::relay::{Process, toml};
use crate::harness::smtp::SmtpPeer;

/// A shop's config: a mail, a signed webhook, and a file a second that goes out by mail.
fn shop(database: &Database, http: &HttpPeer, smtp: &SmtpPeer) -> String {
    let rest = format!(
        "[sinks.mail]\nkind = \"smtp\"\nurl = \"smtp://{}\"\nfrom = \"Shop <shop@example.com>\"\n\
         [sinks.mail.dkim]\ndomain = \"example.com\"\nselector = \"2026r\"\nkey_file = \"{}\"\n\
         [sinks.crm]\nkind = \"webhook\"\nurl = \"{}\"\nguarantee = \"at-most-once\"\n\
         secrets = [\"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"]\n\
         [sinks.orders]\nkind = \"csv\"\npath = \"orders-{{{{ period }}}}.csv\"\nevery = \"1s\"\n\
         columns = [{{ name = \"n\", value = \"payload.n\", as = \"integer\" }}]\n\
         [sinks.orders.mail]\nsink = \"mail\"\nto = \"office@example.com\"\n\
         [[routes]]\ntype = \"order\"\nsink = \"mail\"\nto = \"ann@example.com\"\nsubject = \"No {{{{ payload.n }}}}\"\ntext = \"x\"\n\
         [[routes]]\ntype = \"order\"\nsink = [\"crm\", \"orders\"]\n",
        smtp.address,
        concat!(env!("CARGO_MANIFEST_DIR"), "/integration/keys/rsa.pem"),
        http.url("/hook?a=1")
    );
    toml(&database.url(), "lease = \"1s\"\ngrace = \"5s\"", &rest)
}

fn capture(text: &str, directory: &Path) -> Process {
    Process::start_with(text, |command| {
        command.arg("--capture").arg(directory);
    })
}

/// The only file with this ending that is there, once it is.
async fn file(folder: &Path, ending: &str) -> String {
    eventually(&format!("a file *{ending}"), LONG, async || {
        let names: Vec<_> = std::fs::read_dir(folder)
            .map_err(|error| error.to_string())?
            .map(|entry| entry.unwrap().path())
            .filter(|path| {
                // What begins with a dot is still being written.
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.ends_with(ending) && !name.starts_with('.')
            })
            .collect();
        match names.as_slice() {
            [one] => Ok(std::fs::read_to_string(one).unwrap()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_rendered_and_nothing_is_sent() {
    let database = Database::migrated().await;
    let (http, smtp) = (HttpPeer::start().await, SmtpPeer::start().await);
    let client = database.connect().await;
    let folder = tempfile::tempdir().unwrap();
    let captured = folder.path().join("captured");
    let relay = capture(&shop(&database, &http, &smtp), &captured);
    until_routed(&client).await;
    let id = send(&client, "order", "{\"n\": 7}").await;
    until_closed(&client).await;

    let mail = file(&captured.join("mail"), &format!("msg_shop_{id}_mail.eml")).await;
    assert!(
        mail.contains("Subject: No 7\r\n") && mail.contains("To: ann@example.com\r\n"),
        "{mail}"
    );
    // As it would be sent, signatures and all; a preview is no other.
    let (code, preview) = relay.says(&["preview", &format!("{id}/mail")]);
    assert_eq!((code, &preview), (0, &mail));
    let mut mails = vec![mail.into_bytes()];
    let request = file(&captured.join("crm"), &format!("msg_shop_{id}_crm.http")).await;
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /hook?a=1 HTTP/1.1\r\nhost: 127.0.0.1:"), "{head}");
    assert!(
        head.contains("webhook-signature: v1,") && head.contains("webhook-timestamp: "),
        "{head}"
    );
    assert_eq!((body, head.contains("content-length: 8")), ("{\"n\": 7}", true));
    assert_eq!(file(&captured.join("orders"), ".csv").await, "n\r\n7\r\n");
    // The mail that carries the file.
    let mailed = "SELECT count(*) FROM outbox.mailing WHERE state = 'sent'";
    until_count(&client, "the file is mailed", mailed, 1).await;
    let period = database.psql("SELECT period FROM outbox.mailing");
    let mail = file(&captured.join("mail"), &format!("{period}.eml")).await;
    assert!(mail.contains("To: office@example.com"), "{mail}");
    mails.push(mail.into_bytes());
    let good = [("rsa-sha256".to_owned(), true)];
    assert_eq!(by_dkimpy(&keys(), &mails).await, [good.clone(), good]);

    let receipts = database.psql("SELECT string_agg(receipt, ', ' ORDER BY sink) FROM outbox.ledger WHERE outcome = 'delivered'");
    let expected = format!(
        "captured, not sent: msg_shop_{id}_crm.http, captured, not sent: msg_shop_{id}_mail.eml"
    );
    assert_eq!(receipts, expected);
    assert_eq!((http.connections(), smtp.connections()), (0, 0));
    assert!(relay.log().contains("nothing is sent"), "{}", relay.log());
    assert!(relay.says(&["status"]).1.contains("captures"));
    // A reload captures on.
    relay.reload(&shop(&database, &http, &smtp).replace("No {{", "Nr {{"));
    relay.until_log("reloaded: the new config is at work", 1).await;
    let id = send(&client, "order", "{\"n\": 8}").await;
    let mail = file(&captured.join("mail"), &format!("msg_shop_{id}_mail.eml")).await;
    assert!(mail.contains("Subject: Nr 8"), "{mail}");
    assert_eq!((http.connections(), smtp.connections()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_captures_and_what_sends_never_share_an_outbox() {
    let database = Database::migrated().await;
    let (http, smtp) = (HttpPeer::start().await, SmtpPeer::start().await);
    let client = database.connect().await;
    let folder = tempfile::tempdir().unwrap();
    let text = shop(&database, &http, &smtp);
    let mut captures = capture(&text, folder.path());
    until_count(&client, "it is entered", "SELECT count(*) FROM outbox.relay", 1).await;
    let mut sends = Process::start(&text);
    assert_eq!(sends.ended().await.code(), Some(1));
    // What the command says goes to stderr, which is its log here.
    assert!(sends.log().contains("stop it first"), "{}", sends.log());
    // Two that capture may.
    let second = capture(&text, folder.path());
    until_count(&client, "two capture", "SELECT count(*) FROM outbox.relay", 2).await;
    second.kill();
    // A captured past is no hindrance; it is not one of messages that were sent.
    captures.signal("TERM");
    assert!(captures.ended().await.success());
    until_count(
        &client,
        "the killed one is silent",
        "SELECT count(*) FROM outbox.relay WHERE heartbeat_at > clock_timestamp() - lease",
        0,
    )
    .await;
    let mut sends = Process::start(&text);
    until_count(
        &client,
        "it sends",
        "SELECT count(*) FROM outbox.installation WHERE sends_since IS NOT NULL",
        1,
    )
    .await;
    for stop in [false, true] {
        if stop {
            sends.signal("TERM");
            assert!(sends.ended().await.success());
        }
        let mut captures = capture(&text, folder.path());
        assert_eq!(captures.ended().await.code(), Some(1));
        assert!(captures.log().contains("a database of its own"), "{}", captures.log());
        assert!(captures.log().contains("drop and create your development database"));
    }
    assert_eq!(number(&client, "SELECT count(*) FROM outbox.relay WHERE captures").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_captures_and_lost_its_lease_to_one_that_sends_ends() {
    let database = Database::migrated().await;
    let (http, smtp) = (HttpPeer::start().await, SmtpPeer::start().await);
    let client = database.connect().await;
    let folder = tempfile::tempdir().unwrap();
    let text = shop(&database, &http, &smtp);
    let mut captures = capture(&text, folder.path());
    until_count(&client, "it is entered", "SELECT count(*) FROM outbox.relay", 1).await;
    captures.signal("STOP");
    let alive = "SELECT count(*) FROM outbox.relay WHERE heartbeat_at > clock_timestamp() - lease";
    until_count(&client, "its lease is over", alive, 0).await;
    let sends = Process::start(&text);
    until_count(&client, "one that sends is at work", alive, 1).await;
    captures.signal("CONT");
    assert_eq!(captures.ended().await.code(), Some(1));
    send(&client, "order", "{\"n\": 1}").await;
    http.until(|http| http.requests() == 1).await;
    drop(sends);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_written_is_said_and_nothing_is_lost() {
    let database = Database::migrated().await;
    let (http, smtp) = (HttpPeer::start().await, SmtpPeer::start().await);
    let client = database.connect().await;
    let folder = tempfile::tempdir().unwrap();
    let text = shop(&database, &http, &smtp);
    let occupied = folder.path().join("occupied");
    std::fs::write(&occupied, "").unwrap();
    let mut refused = capture(&text, &occupied);
    assert_eq!(refused.ended().await.code(), Some(1));
    assert!(refused.log().contains("cannot make the folder"), "{}", refused.log());

    let captured = folder.path().join("captured");
    let relay = capture(&text, &captured);
    until_routed(&client).await;
    std::fs::remove_dir_all(captured.join("crm")).unwrap();
    let id = send(&client, "order", "{\"n\": 1}").await;
    relay.until_log("cannot capture into", 1).await;
    std::fs::create_dir(captured.join("crm")).unwrap();
    file(&captured.join("crm"), &format!("msg_shop_{id}_crm.http")).await;
    assert_eq!(http.connections(), 0);
}
