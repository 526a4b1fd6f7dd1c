//! What the real binary logs: one JSON object a line, one wide line for each attempt, and nothing of what
//! is in a message, an address or a secret, however much is asked for.

use std::collections::BTreeMap;

use serde_json::Value;
use tokio_postgres::Client;

use crate::harness::eventually;
use crate::harness::http::{Answer, HttpPeer};
use crate::harness::plane::{LONG, number, until_count, until_routed};
use crate::harness::postgres::{Cluster, Database};
use crate::harness::proxy::{self, Proxy};
use crate::harness::relay::{Process, toml};
use crate::harness::scrape::ask;
use crate::harness::smtp::{Say, SmtpPeer, Step};

/// Whatever holds this must not be told.
const CANARY: &str = "canary";

fn shop(url: &str, http: &HttpPeer, smtp: &SmtpPeer, listen: &str) -> String {
    let rest = format!(
        "[admin]\nlisten = \"{listen}\"\ntoken = \"canary-token-0123456789\"\n\
         [sinks.mail]\nkind = \"smtp\"\nurl = \"smtp://{}\"\nfrom = \"Shop <shop-canary@example.com>\"\n\
         retry = {{ delays = [\"100ms\"] }}\n\
         [sinks.crm]\nkind = \"webhook\"\nurl = \"{}\"\nretry = {{ delays = [\"100ms\"] }}\n\
         secrets = [\"whsec_{}\"]\n\
         [[routes]]\ntype = \"order\"\nsink = \"mail\"\nto = \"{{{{ payload.to }}}}\"\n\
         subject = \"{{{{ payload.subject }}}}\"\ntext = \"{{{{ payload.text }}}}\"\n\
         [[routes]]\ntype = \"order\"\nsink = \"crm\"\n",
        smtp.address,
        http.url("/canary-path?token=canary-query"),
        // The base64 of a secret that begins with the canary, and may be told in neither form.
        SECRET
    );
    toml(url, "lease = \"2s\"\ngrace = \"5s\"", &rest)
}

/// base64 of "canary-canary-canary-canary".
const SECRET: &str = "Y2FuYXJ5LWNhbmFyeS1jYW5hcnktY2FuYXJ5";

const ORDER: &str = "INSERT INTO outbox.message (type, payload, key, headers) \
                     VALUES ('order', $1::text::jsonb, $2, '{\"x-canary\": \"canary-header\"}')";
const PAYLOAD: &str = "{\"to\": \"ann-canary@example.com\", \"subject\": \"canary-subject\", \
                       \"text\": \"canary-text\", \"note\": \"canary-payload\"}";

/// Two orders that are refused first, by receivers that quote them, and one that no mail can be made of.
async fn refuse_some(client: &Client, http: &HttpPeer, smtp: &SmtpPeer) {
    // Whoever refuses quotes what it was sent. The words of a mail server are told, but for addresses.
    http.script([
        Answer::status(500).body("no: canary-payload, canary-key"),
        Answer::status(410).body("gone: canary-payload"),
    ]);
    smtp.script(
        Step::Rcpt,
        [
            Say::text("451 4.2.1 <ann-canary@example.com> is busy"),
            Say::text("550 5.1.1 <ann-canary@example.com>: no such user"),
        ],
    );
    for key in ["canary-key", "canary-key-2"] {
        client.execute(ORDER, &[&PAYLOAD, &key]).await.unwrap();
    }
    // What no template can make a mail of.
    client
        .execute(
            ORDER,
            &[&"{\"to\": \"canary at nowhere\", \"subject\": [\"canary\"]}", &"canary-key-3"],
        )
        .await
        .unwrap();
    let done = "SELECT count(*) FROM outbox.ledger WHERE outcome = 'delivered'";
    eventually("deliveries, dead and delivered", LONG, async || {
        let (closed, dead) = (
            number(client, done).await,
            number(client, "SELECT count(*) FROM outbox.delivery WHERE state = 'dead'").await,
        );
        if closed >= 2 && dead >= 2 && closed + dead == 6 {
            Ok(())
        } else {
            Err(format!("{closed} {dead}"))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_with_failures_is_told_in_json_and_gives_nothing_away() {
    let database = Database::migrated().await;
    let (http, smtp) = (HttpPeer::start().await, SmtpPeer::start().await);
    let client = database.connect().await;
    let wire = Proxy::start(proxy::Target::Unix(Cluster::shared().socket())).await;
    let url = Cluster::tcp_url(wire.port(), database.name())
        .replace("postgres@", "postgres:canary-password@");
    assert!(url.contains("canary"), "{url}");
    let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let toml = shop(&url, &http, &smtp, &listen.to_string());
    let relay = Process::start_with(&toml, |command| {
        command.env("OUTBOXD_LOG", "trace");
    });
    until_routed(&client).await;

    refuse_some(&client, &http, &smtp).await;
    // The settlement that fails meets the rows of the message.
    client
        .batch_execute(
            "ALTER TABLE outbox.ledger ADD CONSTRAINT no_more CHECK (sink <> 'crm') NOT VALID",
        )
        .await
        .unwrap();
    client.execute(ORDER, &[&PAYLOAD, &"canary-key-4"]).await.unwrap();
    relay.until_log("cannot record outcomes yet", 1).await;
    client.batch_execute("ALTER TABLE outbox.ledger DROP CONSTRAINT no_more").await.unwrap();
    ask(listen, "GET /metrics", "Authorization: Bearer canary-token-wrong\r\n").await;
    let page =
        ask(listen, "GET /metrics", "Authorization: Bearer canary-token-0123456789\r\n").await;
    assert!(page.status == 200 && !page.body.contains(CANARY), "{}", page.body);
    let page = ask(listen, "GET /readyz", "").await;
    assert!(!page.body.contains(CANARY), "{}", page.body);
    wire.cut().await;
    until_count(
        &client,
        "it is back",
        "SELECT count(*) FROM outbox.delivery WHERE state = 'pending'",
        0,
    )
    .await;
    relay.signal("TERM");
    relay.until_log("left", 1).await;

    read(&relay.log());
}

/// Every line is JSON and gives nothing away; each attempt says what it was about.
fn read(log: &str) {
    let mut attempts: BTreeMap<String, usize> = BTreeMap::new();
    for line in log.lines() {
        let said: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for key in ["timestamp", "level", "message"] {
            assert!(said[key].is_string(), "{key} is missing: {line}");
        }
        assert!(!line.contains(CANARY) && !line.contains(SECRET), "{line}");
        if let Some(outcome) = said["outcome"].as_str() {
            *attempts.entry(outcome.to_owned()).or_default() += 1;
            for key in ["message_id", "type", "sink", "target", "attempt"] {
                assert!(!said[key].is_null(), "{key} is missing: {line}");
            }
            let end = if outcome == "delivered" { "receipt" } else { "reason" };
            assert!(said[end].is_string() && said["took"].is_string(), "{line}");
        }
    }
    assert!(
        attempts["delivered"] >= 2 && attempts["dead"] >= 2 && attempts["retry"] >= 2,
        "{attempts:?}"
    );
    assert!(log.contains("\"level\":\"DEBUG\""), "asked for, and told");
}
