//! From INSERT to a mail with HTML, files and a click to unsubscribe; and files that are late.

use std::path::Path;
use std::time::Duration;

use crate::harness::plane::{send, until_closed, until_count, until_routed};
use crate::harness::postgres::Database;
use crate::harness::program::python;
use crate::harness::relay::{Relay, config};
use crate::harness::smtp::{Say, SmtpPeer, Step};

const READ: &str = "
import email, email.policy, json, sys
mail = email.message_from_binary_file(open(sys.argv[1], 'rb'), policy=email.policy.default)
html = mail.get_body(('html',))
print(json.dumps({
    'plain': mail.get_body(('plain',)).get_content(), 'html': html.get_content(),
    'unsubscribe': mail['list-unsubscribe'], 'post': mail['list-unsubscribe-post'],
    'key': mail['x-key'], 'cc': mail['cc'], 'bcc': mail['bcc'],
    'files': [[p.get_filename(), p.get_content_type(), p.get_payload(decode=True).decode()]
        for p in mail.walk() if p.get_filename()],
}))";

fn newsletter(address: std::net::SocketAddr, files: &Path) -> String {
    let files = files.display();
    format!(
        r#"[sinks.mail]
kind = "smtp"
url = "smtp://{address}"
from = "Shop <shop@example.com>"
return_path = "bounce+{{{{ id }}}}@example.com"
idempotency_header = "X-Key"
files = "{files}"
retry = {{ delays = ["100ms", "100ms"] }}
[[routes]]
type = "news"
sink = "mail"
to = "{{{{ payload.name }}}} <{{{{ payload.email }}}}>"
subject = "News for {{{{ payload.name }}}}"
html = "<p>Dear {{{{ payload.name }}}}, <a href='https://shop.example/{{{{ id }}}}'>read on</a><img src='cid:logo'>"
list_unsubscribe = "https://shop.example/u/{{{{ payload.token }}}}"
[[routes.attachments]]
name = "prices.csv"
base64 = "{{{{ payload.csv }}}}"
[[routes.attachments]]
name = "logo.svg"
file = "brand/{{{{ payload.logo }}}}"
inline = "logo"
[[routes]]
type = "order"
sink = "mail"
to = "a@x.example"
cc = "c@x.example"
bcc = ["b@x.example", "a@x.example"]
subject = "Order"
text = "Thanks"
html_template = "order.html"
"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_becomes_a_mail_with_html_files_and_a_click_to_unsubscribe() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = SmtpPeer::start().await;
    let files = tempfile::tempdir().unwrap();
    std::fs::create_dir(files.path().join("brand")).unwrap();
    std::fs::write(files.path().join("brand/shop.svg"), "<svg/>").unwrap();
    let page = files.path().join("order.html");
    std::fs::write(&page, "<p>{{ payload.note }}</p>").unwrap();
    let text = newsletter(peer.address, files.path());
    let relay = Relay::start(config(
        &database.url(),
        &text.replace("\"order.html\"", &format!("\"{}\"", page.display())),
    ));
    until_routed(&client).await;
    let payload = r#"{"name": "Ann & Bob", "email": "ann@example.org", "token": "t1", "csv": "YTtiCg==", "logo": "shop.svg"}"#;
    send(&client, "news", payload).await;
    send(&client, "order", r#"{"note": "<b>now</b>"}"#).await;
    until_closed(&client).await;
    relay.stop().await;
    let mut mails = peer.mails();
    mails.sort_by_key(|mail| mail.to.len());
    let [news, order] = &mails[..] else { panic!("{} mails", mails.len()) };
    assert_eq!(
        (&*news.from, &news.to[..]),
        ("bounce+1@example.com", &["ann@example.org".to_owned()][..])
    );
    assert_eq!(order.to, ["a@x.example", "c@x.example", "b@x.example"]);
    let read = read(&news.data).await;
    let escaped =
        "<p>Dear Ann &amp; Bob, <a href='https://shop.example/1'>read on</a><img src='cid:logo'>";
    let expected = serde_json::json!({
        "plain": "Dear Ann & Bob, read on (https://shop.example/1)\n",
        "html": escaped,
        "unsubscribe": "<https://shop.example/u/t1>",
        "post": "List-Unsubscribe=One-Click",
        "key": "msg_shop_1_mail", "cc": null, "bcc": null,
        "files": [["logo.svg", "image/svg+xml", "<svg/>"], ["prices.csv", "text/csv", "a;b\n"]],
    });
    assert_eq!(read, expected);
    let read = self::read(&order.data).await;
    assert_eq!((&read["cc"], &read["bcc"]), (&"c@x.example".into(), &serde_json::Value::Null));
    assert_eq!(read["html"], "<p>&lt;b&gt;now&lt;&#x2f;b&gt;</p>");
    assert_eq!(read["plain"], "Thanks");
}

async fn read(data: &[u8]) -> serde_json::Value {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), data).unwrap();
    python(READ, file.path()).await
}

/// The application commits before its file is written: the mail waits for it, and then goes out once.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_late_is_waited_for_and_one_that_never_comes_is_told() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = SmtpPeer::start().await;
    let files = tempfile::tempdir().unwrap();
    std::fs::create_dir(files.path().join("brand")).unwrap();
    let text = newsletter(peer.address, files.path());
    let (news, _) = text.split_once("[[routes]]\ntype = \"order\"").unwrap();
    let news = news.replace("[\"100ms\", \"100ms\"]", &format!("[{}]", "\"300ms\", ".repeat(100)));
    let relay = Relay::start(config(&database.url(), &news));
    until_routed(&client).await;
    let payload = |logo: &str| {
        format!(
            r#"{{"name": "Ann", "email": "ann@example.org", "token": "t", "csv": "YQ==", "logo": "{logo}"}}"#
        )
    };
    send(&client, "news", &payload("late.svg")).await;
    send(&client, "news", &payload("../../etc/passwd")).await;
    let tried = "SELECT count(*) FROM outbox.delivery WHERE attempt >= 2 AND state = 'pending'";
    until_count(&client, "it was looked for twice", tried, 1).await;
    let dead = "SELECT reason FROM outbox.delivery WHERE state = 'dead'";
    until_count(&client, "the other is dead", &format!("SELECT count(*) FROM ({dead}) d"), 1).await;
    let reason: String = client.query_one(dead, &[]).await.unwrap().get(0);
    assert!(
        reason.starts_with("attachments[1].file: it leads out of the sink's files"),
        "{reason}"
    );
    let waiting = "SELECT reason FROM outbox.delivery WHERE state = 'pending'";
    let reason: String = client.query_one(waiting, &[]).await.unwrap().get(0);
    assert!(reason.contains("No such file") && !reason.contains("late.svg"), "{reason}");
    assert_eq!(peer.mails().len(), 0);
    std::fs::write(files.path().join("brand/late.svg"), "<svg/>").unwrap();
    until_count(&client, "it is delivered", "SELECT count(*) FROM outbox.ledger", 1).await;
    relay.stop().await;
    assert_eq!(peer.mails().len(), 1);
}

/// Files are large, and all attempts at once would hold them all: those that find no room wait.
#[tokio::test(flavor = "multi_thread")]
async fn no_more_files_are_in_memory_than_there_is_room_for() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = SmtpPeer::start().await;
    let slow = Say::After(Duration::from_millis(500), Box::new(Say::text("250 2.0.0 Ok")));
    peer.always(Step::Dot, slow);
    let files = tempfile::tempdir().unwrap();
    std::fs::create_dir(files.path().join("brand")).unwrap();
    // The room is 32 MB for a sink.
    let large = std::fs::File::create(files.path().join("brand/large")).unwrap();
    large.set_len(11 * 1024 * 1024).unwrap();
    let text = newsletter(peer.address, files.path());
    let (news, _) = text.split_once("[[routes]]\ntype = \"order\"").unwrap();
    let relay = Relay::start(config(&database.url(), news));
    until_routed(&client).await;
    let payload = r#"{"name": "Ann", "email": "ann@example.org", "token": "t", "csv": "YQ==", "logo": "large"}"#;
    let all = "INSERT INTO outbox.message (type, payload) SELECT 'news', $1::text::jsonb FROM generate_series(1, 3)";
    client.execute(all, &[&payload]).await.unwrap();
    until_count(&client, "all are delivered", "SELECT count(*) FROM outbox.ledger", 3).await;
    relay.stop().await;
    assert_eq!((peer.mails().len(), peer.peak_connections()), (3, 2));
}
