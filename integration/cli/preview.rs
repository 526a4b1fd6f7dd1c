//! preview for whoever writes templates: without a database, as a file, with errors that name the line.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::{Said, Shop, run_in};
use crate::harness::plane::until_count;
use crate::harness::relay::Relay;
use crate::harness::smtp::SmtpPeer;

const CONFIG: &str = r#"
[database]
installation = "shop"
[templates]
root = "mail"
[sinks.mail]
kind = "smtp"
url = "smtp://127.0.0.1:9"
from = "Shop <shop@example.com>"
[sinks.crm]
kind = "webhook"
url = "http://127.0.0.1:9/hook"
[[routes]]
type = "order.created"
sink = "mail"
to = "{{ payload.customer.email }}"
locale = "{{ payload.locale }}"
subject_template = "order.subject.txt"
text_template = "order.txt"
html_template = "order.html"
[[routes]]
type = "order.created"
sink = "mail"
name = "office"
to = ["a@example.com, b@example.com", "c@example.com, d@example.com", "e@example.com, f@example.com"]
subject = "{{ type }} {{ key }} {{ headers.lang }}"
text = "{{ payload.order_id }}"
[[routes]]
type = "*"
sink = "crm"
"#;

/// The example's templates beside a config, and no database anywhere.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Desk {
        let desk = Desk(tempfile::tempdir().unwrap());
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/mail");
        let copied = std::process::Command::new("cp")
            .arg("-r")
            .args([&examples, &desk.path("mail")])
            .status();
        assert!(copied.unwrap().success());
        std::fs::write(desk.path("outboxd.toml"), CONFIG).unwrap();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Previews an order with these arguments more.
    fn order(&self, more: &str) -> Said {
        let order = "preview --type order.created --payload-file mail/order.json";
        let arguments: Vec<&str> = order.split(' ').chain(more.split_whitespace()).collect();
        run_in(self.0.path(), &arguments, &[])
    }

    fn run(&self, arguments: &[&str]) -> Said {
        run_in(self.0.path(), arguments, &[])
    }
}

#[test]
fn a_mail_is_previewed_without_a_database() {
    let desk = Desk::new();
    let said = desk.order("--sink mail/office --key k-1 --header lang=de --eml -");
    assert_eq!((said.code, &*said.err), (0, ""), "{said:?}");
    assert!(said.out.starts_with("From: Shop <shop@example.com>\r\n"), "{said:?}");
    assert!(said.out.contains("\r\nMessage-ID: <msg_shop_0_mail_office@example.com>\r\n"));
    assert!(said.out.contains("\r\nSubject: order.created k-1 de\r\n"), "{said:?}");
    assert!(said.out.ends_with("\r\n\r\n2026-00042\r\n"), "{said:?}");

    // In the language that the payload asks for, the payload's own marks escaped.
    std::fs::write(desk.path("outboxd.toml"), CONFIG.replace("name = \"office\"", "name = \"o\""))
        .unwrap();
    std::fs::write(desk.path("mail/order.de.html"), "<b>{{ payload.customer.name }}</b>").unwrap();
    let said = desk.order("--key k --header lang=x --eml out/");
    assert_eq!((said.code, &*said.err), (0, ""), "{said:?}");
    let mail = desk.read("out/msg_shop_0_mail.eml");
    for words in [
        "\r\nSubject: Ihre Bestellung 2026-00042\r\n",
        "\r\nContent-Type: multipart/alternative;",
        "vielen Dank f=C3=BCr Ihre Bestellung 2026-00042.\r\n",
        "\r\n1 x Gie=C3=9Fkanne <10 l>, 24,50 EUR\r\n",
        "<b>J=C3=B6rg M=C3=BCller &amp; S=C3=B6hne</b>",
    ] {
        assert!(mail.contains(words), "{words}: {mail}");
    }
    std::fs::write(desk.path("outboxd.toml"), CONFIG).unwrap();

    // Without --eml everything that the message becomes is shown.
    let all = desk.order("--key k --header lang=de");
    assert_eq!((all.code, &*all.err), (0, ""), "{all:?}");
    let headings = all.out.lines().filter(|line| line.starts_with("== ")).collect::<Vec<_>>();
    assert_eq!(headings, ["== crm", "== mail", "== mail/office"]);
    let payload = ["preview", "--type", "other", "--payload", r#"{"a": 1}"#];
    let said = desk.run(&payload);
    assert!(said.code == 0 && said.out.contains("POST /hook") && said.out.contains(r#"{"a": 1}"#));
}

#[test]
fn mails_become_files_and_nothing_else_is_written_over() {
    let desk = Desk::new();
    let said = desk.order("--sink mail --key k --header lang=x --eml out/");
    assert_eq!((said.code, &*said.err), (0, ""), "{said:?}");
    let lines: Vec<&str> = said.out.lines().collect();
    let to = |line: &str, words: &str| assert!(line.starts_with(words), "{line}");
    to(lines[0], "out/msg_shop_0_mail.eml: mail, from <shop@example.com> to joerg@example.com, ");
    let five =
        "a@example.com, b@example.com, c@example.com, d@example.com, e@example.com and 1 more, ";
    to(
        lines[1],
        &format!("out/msg_shop_0_mail_office.eml: mail/office, from <shop@example.com> to {five}"),
    );
    assert_eq!(lines.len(), 2);
    for name in ["out", "out/msg_shop_0_mail.eml"] {
        let mode = desk.path(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name} is for nobody else: {mode:o}");
    }
    assert!(
        desk.read("out/msg_shop_0_mail.eml")
            .contains("\r\nSubject: Ihre Bestellung 2026-00042\r\n")
    );

    // Again, after a change: a preview gives way to the next.
    std::fs::write(desk.path("mail/order.subject.de.txt"), "Neu\n").unwrap();
    let said = desk.order("--sink mail --key k --header lang=x --eml out");
    assert_eq!((said.code, said.out.lines().count()), (0, 2), "{said:?}");
    assert!(desk.read("out/msg_shop_0_mail.eml").contains("\r\nSubject: Neu\r\n"));
    assert_eq!(std::fs::read_dir(desk.path("out")).unwrap().count(), 2, "nothing is left over");

    // Everything else stays as it is.
    let other = desk.read("out/msg_shop_0_mail.eml").replace("<msg_shop_", "<msg_other_");
    let cited = format!("From: a@example.com\r\n\r\n{}", desk.read("out/msg_shop_0_mail.eml"));
    for (name, text) in [("other.eml", &*other), ("cited.eml", &cited), ("empty", "")] {
        std::fs::write(desk.path(name), text).unwrap();
        let said = desk.order(&format!("--sink mail/office --key k --header lang=x --eml {name}"));
        let words = format!("outboxd: {name} exists and is no preview of this installation");
        assert!(said.code == 2 && said.err.starts_with(&words) && said.out.is_empty(), "{said:?}");
        assert_eq!(desk.read(name), text);
    }
    let said = desk.order("--sink mail/office --key k --header lang=x --eml outboxd.toml");
    assert_eq!((said.code, &*desk.read("outboxd.toml")), (2, CONFIG), "{said:?}");
    let said = desk.order("--sink mail/office --key k --header lang=x --eml none/a.eml");
    assert!(
        said.code == 1 && said.err.contains("cannot write none/a.eml: No such file"),
        "{said:?}"
    );
    // In JSON too.
    let said = desk.order("--sink mail/office --key k --header lang=x --eml a.eml --json");
    let json: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&json[0]["file"], &json[0]["to"][5]), (&"a.eml".into(), &"f@example.com".into()));
    assert_eq!(json[0]["bytes"], desk.read("a.eml").len());
}

#[test]
fn what_is_wrong_with_a_template_is_told_with_file_and_line() {
    let desk = Desk::new();
    std::fs::write(desk.path("mail/parts/signature.txt"), "\n{{ payload.nmae }}").unwrap();
    let reason = "mail cannot be made: text: the message lacks what the template needs: payload.nmae \
                  (parts/signature.txt line 2)\n";
    let said = desk.order("--sink mail --key k --header lang=x --eml -");
    assert!(
        said.code == 2 && said.err.contains("these are several mails, mail, mail/office"),
        "{said:?}"
    );
    std::fs::write(desk.path("outboxd.toml"), CONFIG.replace("name = \"office\"", "name = \"o\""))
        .unwrap();
    let said = desk.order("--sink mail/o --eml -");
    assert!(
        said.out.is_empty() && said.err.starts_with("mail/o cannot be made: subject: "),
        "{said:?}"
    );
    let said = desk.order("--sink mail --key k --header lang=x --eml out/");
    assert_eq!((said.code, &*said.err), (1, ""), "{said:?}");
    assert!(
        said.out.starts_with(reason) && said.out.contains("out/msg_shop_0_mail_o.eml: "),
        "{said:?}"
    );

    std::fs::write(desk.path("mail/parts/signature.txt"), "\n\n{{ paylod }}").unwrap();
    let said = desk.order("");
    let fault = "text_template: sees no paylod (parts/signature.txt line 3); it sees id, ";
    assert!(said.code == 2 && said.err.contains(fault), "{said:?}");
    assert!(said.err.contains("outboxd.toml:19: routes[0]."), "{said:?}");
}

#[test]
fn what_is_asked_for_wrongly_is_said() {
    let desk = Desk::new();
    for (arguments, code, words) in [
        ("preview", 2, "MESSAGE"),
        ("preview --type order.created", 2, "--payload"),
        ("preview --payload {}", 2, "--type"),
        ("preview 42 --type a --payload {}", 2, "cannot be used with"),
        ("preview 42 --sink mail", 2, "--type"),
        ("preview --type a --payload {} --payload-file b", 2, "cannot be used with"),
        ("preview --type order.* --payload {}", 2, "a type is words between dots"),
        ("preview --type a --payload {", 2, "the payload is not JSON: EOF"),
        ("preview --type a --payload-file none", 2, "cannot read none: No such file"),
        ("preview --type a --payload {} --sink mail", 1, "no route takes a there; it goes to: crm"),
        ("preview --type a --payload {} --eml a.eml", 2, "no mail is among crm"),
        ("preview --type a --payload {} --eml - --json", 2, "two answers on one stdout"),
        // A stored message is asked for in the database.
        ("preview 42", 2, "DATABASE_URL"),
    ] {
        let said = desk.run(&arguments.split(' ').collect::<Vec<_>>());
        assert_eq!((said.code, &*said.out), (code, ""), "{arguments}: {said:?}");
        assert!(said.err.contains(words), "{arguments}: {said:?}");
    }
    let text = CONFIG.replace("type = \"*\"", "type = \"x\"");
    std::fs::write(desk.path("outboxd.toml"), text).unwrap();
    let said = desk.run(&["preview", "--type", "a", "--payload", "{}"]);
    assert!(said.code == 1 && said.err.contains("no route takes a anywhere"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_of_a_stored_message_is_what_the_mail_server_gets() {
    let (desk, shop, peer) = (Desk::new(), Shop::empty().await, SmtpPeer::start().await);
    std::fs::rename(desk.path("mail"), shop.directory.path().join("mail")).unwrap();
    let sinks = CONFIG
        .split_once("[templates]")
        .unwrap()
        .1
        .split_once("[[routes]]\ntype = \"*\"")
        .unwrap()
        .0;
    let sinks = format!(
        "[templates]{}",
        sinks.replace("127.0.0.1:9\"\nfrom", &format!("{}\"\nfrom", peer.address))
    );
    shop.configure(&shop.database.url(), "", &sinks);
    shop.ok(&["migrate"]);
    shop.ok(&["route", "apply"]);
    let payload = std::fs::read_to_string(shop.directory.path().join("mail/order.json")).unwrap();
    let file = shop.directory.path().join("outboxd.toml");
    let relay = Relay::start(outboxd::config::Config::load(&file).unwrap());
    let client = shop.database.connect().await;
    shop.ok(&["send", "order.created", &payload, "--key", "k", "--header", "lang=x"]);
    until_count(&client, "both are delivered", "SELECT count(*) FROM outbox.ledger", 2).await;
    relay.stop().await;
    shop.ok(&["preview", "1", "--eml", "out/"]);
    for mail in peer.mails() {
        let name = if mail.to.len() > 1 { "mail_office" } else { "mail" };
        let file = shop.directory.path().join(format!("out/msg_shop-test_1_{name}.eml"));
        assert_eq!(
            String::from_utf8_lossy(&std::fs::read(file).unwrap()),
            String::from_utf8_lossy(&mail.data)
        );
    }
    assert_eq!(peer.accepted(), 2);
}
