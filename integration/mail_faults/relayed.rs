//! The same through the real relay, as a process, from INSERT to what an operator sees.

use crate::harness::mail_servers::{Certificate, Exim};
use crate::harness::plane::{number, send, until_count, until_routed};
use crate::harness::postgres::Database;
use crate::harness::relay::{Process, toml};

const RELAY: &str = "lease = \"2s\"\ngrace = \"10s\"";

/// A mail sink, and a route to whom the payload says.
pub fn mail(url: &str, more: &str) -> String {
    format!(
        "[sinks.mail]\nkind = \"smtp\"\nurl = \"{url}\"\nfrom = \"Shop <shop@example.com>\"\n\
         retry = {{ delays = [\"100ms\", \"100ms\"] }}\n{more}\n\
         [[routes]]\ntype = \"*\"\nsink = \"mail\"\nto = \"{{{{ payload.to }}}}\"\n\
         subject = \"Order {{{{ id }}}} {{{{ payload.about }}}}\"\ntext = \"hello\"\n\
         [[routes]]\ntype = \"outboxd.alert\"\nsink = []\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn exims_queue_id_is_our_receipt() {
    let ours = Certificate::for_host("127.0.0.1");
    let folder = tempfile::tempdir().unwrap();
    let (ca, _) = ours.write(folder.path());
    let exim = Exim::start(Some(&ours), Some(("shop", "secret"))).await;
    let database = Database::migrated().await;
    let client = database.connect().await;
    let rest = |password: &str| {
        let url = format!("smtp+starttls://127.0.0.1:{}", exim.port);
        let more = format!(
            "username = \"shop\"\npassword = \"{password}\"\nca_file = \"{}\"",
            ca.display()
        );
        toml(&database.url(), RELAY, &mail(&url, &more))
    };
    // With the wrong password nothing is spent and nothing dies, however many there are.
    let relay = Process::start(&rest("wrong"));
    until_routed(&client).await;
    for to in ["bob@shop.example", "nobody@shop.example"] {
        let payload = format!("{{\"to\": \"{to}\", \"about\": \"x\"}}");
        send(&client, "order.created", &payload).await;
    }
    send(&client, "order.created", r#"{"to": "eve@shop.example", "about": "spam"}"#).await;
    relay.until_log("Incorrect authentication data", 1).await;
    let untouched = "SELECT count(*) FROM outbox.delivery WHERE state = 'pending' AND attempt = 0";
    assert_eq!(number(&client, untouched).await, 3);
    relay.reload(&rest("secret"));
    let dead = "SELECT count(*) FROM outbox.delivery WHERE state = 'dead'";
    until_count(&client, "two are refused", dead, 2).await;
    let delivered = "SELECT count(*) FROM outbox.ledger WHERE outcome = 'delivered'";
    until_count(&client, "one is taken", delivered, 1).await;
    let (_, shown) = relay.says(&["show", "1"]);
    exim.until_delivered(1).await;
    let log = exim.log();
    let id = log.split_whitespace().find(|word| shown.contains(&format!("id={word}")));
    assert!(id.is_some(), "{shown}\n{log}");
    assert!(relay.says(&["show", "2"]).1.contains("5.1.1 no such user"));
    assert!(relay.says(&["show", "3"]).1.contains("5.7.1 looks like spam"));
}
