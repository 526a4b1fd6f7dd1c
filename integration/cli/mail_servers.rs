//! `outboxd check` at mail servers: what it says of them, and the one test mail it sends when told to.

use serde_json::json;

use super::{Said, Shop};
use crate::harness::smtp::{Say, Settings, SmtpPeer, Step};
use crate::sink_contract::smtp::certificate;

const LOGIN: &str = "username = \"shop\"\npassword = \"open sesame\"\n";

fn login() -> (String, String) {
    ("shop".to_owned(), "open sesame".to_owned())
}

/// Two sinks for mail: one with a second server, whose certificate is believed, and a bare one.
struct Stage {
    shop: Shop,
    first: SmtpPeer,
    second: SmtpPeer,
    bare: SmtpPeer,
    ca: tempfile::NamedTempFile,
}

impl Stage {
    async fn new() -> Stage {
        let (ca, tls) = certificate("localhost");
        let offers = vec!["PIPELINING", "SIZE 36700160", "8BITMIME", "SMTPUTF8"];
        let settings =
            Settings { tls: Some(tls), login: Some(login()), offers, ..Settings::default() };
        let first = SmtpPeer::start_with(settings).await;
        let offers = vec!["SIZE 1048576", "DSN"];
        let settings = Settings { login: Some(login()), offers, ..Settings::default() };
        let second = SmtpPeer::start_with(settings).await;
        let stage =
            Stage { shop: Shop::empty().await, first, second, bare: SmtpPeer::start().await, ca };
        stage.configure("");
        stage
    }

    fn configure(&self, more: &str) {
        let sinks = format!(
            "[sinks.bare]\nkind = \"smtp\"\nurl = \"smtp://{}\"\nfrom = \"Shop <shop@example.com>\"\n\
             guarantee = \"at-most-once\"\n{more}\n\
             [sinks.mail]\nkind = \"smtp\"\nurl = \"smtp+starttls://localhost:{}\"\n{LOGIN}\
             from = \"shop@example.com\"\nca_file = \"{}\"\n\
             [sinks.mail.fallback]\nurl = \"smtp://{}\"\n{LOGIN}\
             [sinks.crm]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:9/hook\"\n",
            self.bare.address,
            self.first.address.port(),
            self.ca.path().display(),
            self.second.address,
        );
        self.shop.configure(&self.shop.database.url(), "", &sinks);
    }

    /// What a command says, without what differs from run to run.
    fn says(&self, arguments: &[&str]) -> Said {
        let mut said = self.shop.run(arguments);
        for (name, peer) in [("FIRST", &self.first), ("SECOND", &self.second), ("BARE", &self.bare)]
        {
            said.out = said.out.replace(&format!(":{}", peer.address.port()), &format!(":{name}"));
        }
        said
    }
}

/// A dialogue without our own name, the mail's size and the date of a certificate.
fn steady(text: &str) -> String {
    let line = |line: &str| match line.split_once("EHLO ") {
        Some((head, _)) => format!("{head}EHLO …"),
        None if line.starts_with("  = the mail, ") => "  = the mail, and its final dot".to_owned(),
        None => match line.split_once("SIZE=") {
            Some((head, _)) => format!("{head}SIZE=…"),
            None => line.to_owned(),
        },
    };
    text.lines().map(|text| line(text) + "\n").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_in_a_line_what_a_mail_server_is_like() {
    let stage = Stage::new().await;
    let said = stage.says(&["check"]);
    let lines: Vec<String> = said
        .out
        .lines()
        .filter(|line| line.contains("sink mail") || line.contains("sink bare"))
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let expected = [
        "ok sink bare 127.0.0.1:BARE takes mail (peer.example ESMTP); no TLS; no login; does not say \
         how large a mail may be; offers nothing; without PIPELINING each mail takes some round trips \
         more; without SMTPUTF8 addresses with other letters than those of ASCII before the @ are \
         refused",
        "ok sink mail localhost:FIRST takes mail (peer.example ESMTP); TLS 1.3, its certificate is good \
         until 4096-01-01; the login is good (PLAIN); takes mails up to 35 MB; offers PIPELINING, SIZE, \
         8BITMIME, SMTPUTF8, AUTH",
        "warn sink mail, fallback larger mails than 1 MB are refused, attachments included; \
         127.0.0.1:SECOND takes mail (peer.example ESMTP); no TLS; the login is good (PLAIN); takes \
         mails up to 1 MB; offers SIZE, DSN, AUTH; without PIPELINING each mail takes some round trips \
         more; without SMTPUTF8 addresses with other letters than those of ASCII before the @ are \
         refused",
    ];
    assert_eq!(lines, expected);
    assert!(!said.out.contains("sesame"), "{}", said.out);
    for peer in [&stage.first, &stage.second, &stage.bare] {
        assert!(!peer.commands().contains(&"MAIL".to_owned()), "nothing is sent");
        peer.until(|peer| peer.open_connections() == 0).await;
    }
    let said = stage.says(&["check", "--json"]);
    let all: Vec<serde_json::Value> = serde_json::from_str(&said.out).unwrap();
    let found = all.iter().find(|line| line["thing"] == "sink mail, fallback").unwrap();
    assert_eq!(
        found["detail"],
        json!({
            "server": "127.0.0.1:SECOND", "greeting": "peer.example ESMTP", "tls": null,
            "certificate_ends": null, "login": "PLAIN", "size_max": 1_048_576,
            "offers": ["SIZE", "DSN", "AUTH"],
        })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_what_keeps_us_out_and_what_to_do() {
    let stage = Stage::new().await;
    stage.first.admit("shop", "another");
    stage.bare.always(Step::Greeting, Say::text("554 5.7.1 not from there"));
    let said = stage.says(&["check"]);
    assert_eq!(said.code, 1);
    for words in [
        "localhost:FIRST: AUTH: 535 5.7.8 no; check username and password, or renew what is in token_file",
        "127.0.0.1:BARE: greeting: 554 5.7.1 not from there",
    ] {
        let line = said.out.lines().find(|line| line.contains(words));
        let line = line.unwrap_or_else(|| panic!("{words}: {}", said.out));
        assert!(line.starts_with("FAIL"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_test_mail_goes_through_each_server_and_its_dialogue_is_shown() {
    let stage = Stage::new().await;
    let arguments = ["check", "--mail-to", "bob@shop.example", "--sink", "mail", "--fallback"];
    let said = stage.says(&arguments);
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
    let took = "the server took it: 250 2.0.0 Ok: queued as PEER1\n\
                whether it reaches the mailbox, only a look there tells\n";
    let expected = format!(
        "sink mail, localhost:FIRST
  < 220 peer.example ESMTP
  > EHLO …
  < 250-peer.example
  < 250-PIPELINING
  < 250-SIZE 36700160
  < 250-8BITMIME
  < 250-SMTPUTF8
  < 250-STARTTLS
  < 250 AUTH PLAIN LOGIN
  > STARTTLS
  < 220 2.0.0 go on
  = TLS 1.3 from here on
  > EHLO …
  < 250-peer.example
  < 250-PIPELINING
  < 250-SIZE 36700160
  < 250-8BITMIME
  < 250-SMTPUTF8
  < 250 AUTH PLAIN LOGIN
  > AUTH PLAIN (secret)
  < 235 2.7.0 welcome
  > MAIL FROM:<shop@example.com> SIZE=…
  > RCPT TO:<bob@shop.example>
  > DATA
  < 250 2.1.0 Ok
  < 250 2.1.5 Ok
  < 354 go on
  = the mail, and its final dot
  < 250 2.0.0 Ok: queued as PEER1
{took}
sink mail, 127.0.0.1:SECOND
  < 220 peer.example ESMTP
  > EHLO …
  < 250-peer.example
  < 250-SIZE 1048576
  < 250-DSN
  < 250 AUTH PLAIN LOGIN
  > AUTH PLAIN (secret)
  < 235 2.7.0 welcome
  > MAIL FROM:<shop@example.com> SIZE=…
  < 250 2.1.0 Ok
  > RCPT TO:<bob@shop.example>
  < 250 2.1.5 Ok
  > DATA
  < 354 go on
  = the mail, and its final dot
  < 250 2.0.0 Ok: queued as PEER1
{took}"
    );
    assert_eq!(steady(&said.out), expected);
    for peer in [&stage.first, &stage.second] {
        let mails = peer.mails();
        assert_eq!(mails.len(), 1);
        assert_eq!(mails[0].to, ["bob@shop.example"]);
        let text = String::from_utf8(mails[0].data.clone()).unwrap();
        for words in ["Subject: outboxd: a test mail", "installation: shop-test", "sink: mail\r\n"]
        {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
    // Outside the outbox: there is not even a schema.
    assert_eq!(stage.shop.psql("SELECT to_regclass('outbox.message') IS NULL"), "t");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_mail_that_is_not_taken_is_told_with_the_dialogue_and_an_exit_code() {
    let stage = Stage::new().await;
    let arguments = ["check", "--mail-to", "bob@shop.example", "--sink", "bare"];
    for (step, say, end, outcome) in [
        (Step::Rcpt, Say::text("550 5.1.1 unknown"), "refused: recipient refused: 550", "refused"),
        (
            Step::Rcpt,
            Say::text("451 4.7.1 greylisted"),
            "not sent, another time it may be:",
            "not now",
        ),
        (
            Step::Greeting,
            Say::text("554 no"),
            "not sent, another time it may be: greeting",
            "not now",
        ),
        (Step::Dot, Say::Cut, "it may have been taken or not: no answer to the mail", "in doubt"),
    ] {
        stage.bare.script(step, [say.clone()]);
        let said = stage.says(&arguments);
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.out.lines().last().unwrap().starts_with(end), "{end}: {}", said.out);
        stage.bare.script(step, [say]);
        let said = stage.says(&[&arguments as &[&str], &["--json"]].concat());
        let told: serde_json::Value = serde_json::from_str(&said.out).unwrap();
        assert_eq!((said.code, &told[0]["outcome"]), (1, &json!(outcome)), "{told}");
        assert!(!told[0]["dialogue"].as_array().unwrap().is_empty());
    }
    let said = stage.says(&arguments);
    assert_eq!(said.code, 0, "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_mail_wants_one_sink_and_one_address() {
    let stage = Stage::new().await;
    let fails = |arguments: &[&str], words: &str| {
        let said = stage.says(&[&["check", "--mail-to"], arguments].concat());
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{said:?}");
        assert!(said.err.contains(words), "{words}: {}", said.err);
    };
    fails(&["bob@shop.example"], "which one? There are bare, mail; add --sink NAME");
    fails(&["bob@shop.example", "--sink", "crm"], "sink crm sends no mail");
    fails(&["bob@shop.example", "--sink", "post"], "no sink post; those for mail: bare, mail");
    fails(
        &["bob@shop.example", "--sink", "bare", "--fallback"],
        "sink bare has no second server; write a table [sinks.bare.fallback] for it",
    );
    fails(&["Bob <bob@shop.example>", "--sink", "bare"], "write one address, like me@example.com");
    fails(&["a@b.example>\r\nRCPT TO:<c@d.example"], "write one address");
    for peer in [&stage.first, &stage.second, &stage.bare] {
        assert_eq!(peer.connections(), 0);
    }
}
