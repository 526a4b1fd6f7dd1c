//! What others make of our mails: Postfix's `smtp-sink` and Python's `email`.

use outboxd::config::Way;
use outboxd::sink::{Prepared, Sink};

use super::{
    LONG, assert_delivered, assert_in_doubt, assert_permanent, attempt, build, mail, message,
    prepare, smtp_to,
};
use crate::harness::mail_servers::SmtpSink;
use crate::harness::program::python;

fn letter(sink: &Sink, id: i64, text: &str) -> Prepared {
    let payload = serde_json::json!({ "to": "bob@shop.example", "text": text }).to_string();
    prepare(sink, &mail(), &message(id, &payload))
}

fn sent(letter: &Prepared) -> String {
    let Prepared::Mail(mail) = letter else { panic!("no mail") };
    String::from_utf8(mail.data().to_vec()).unwrap().replace("\r\n", "\n")
}

#[tokio::test]
async fn smtp_sink_gets_the_bytes_we_sent() {
    let server = SmtpSink::start(&[]).await;
    let sink = build(LONG, Way::Smtp(smtp_to(server.port)));
    let texts = [".", "..\n.x\nfrom\n\n.\n", "Grüße\r.\rende", &"long ".repeat(4000), ""];
    let letters: Vec<Prepared> =
        texts.iter().zip(1..).map(|(text, id)| letter(&sink, id, text)).collect();
    for letter in &letters {
        assert_delivered(&attempt(&sink, letter, LONG).await, "250 2.0.0 Ok");
    }
    assert_eq!(server.mails(), letters.iter().map(sent).collect::<Vec<_>>());
}

/// It stores the mail and hangs up without a reply: whoever calls that failed sends it twice.
#[tokio::test]
async fn smtp_sink_that_stores_and_hangs_up_leaves_doubt() {
    let server = SmtpSink::start(&["-q", "."]).await;
    let sink = build(LONG, Way::Smtp(smtp_to(server.port)));
    let letter = letter(&sink, 1, "hello");
    let outcome = attempt(&sink, &letter, LONG).await;
    assert_in_doubt(&outcome, "no answer to the mail: the server closed the connection");
    assert_eq!(server.mails(), [sent(&letter)]);
}

#[tokio::test]
async fn smtp_sink_that_refuses_is_understood() {
    for (arguments, reason) in
        [(["-f", "RCPT"], "recipient refused: 500 5.3.0"), (["-f", "."], "mail refused: 500 5.3.0")]
    {
        let server = SmtpSink::start(&arguments).await;
        let sink = build(LONG, Way::Smtp(smtp_to(server.port)));
        assert_permanent(&attempt(&sink, &letter(&sink, 1, "x"), LONG).await, reason);
    }
}

/// More mails than one connection serves: none is lost or doubled where one follows the other.
#[tokio::test]
async fn smtp_sink_gets_each_mail_once_over_several_connections() {
    let server = SmtpSink::start(&[]).await;
    let sink = build(LONG, Way::Smtp(smtp_to(server.port)));
    let letters: Vec<Prepared> = (1..=250).map(|id| letter(&sink, id, "x")).collect();
    for letter in &letters {
        assert_delivered(&attempt(&sink, letter, LONG).await, "250");
    }
    assert_eq!(server.mails(), letters.iter().map(sent).collect::<Vec<_>>());
}

#[tokio::test]
async fn python_reads_the_mail_as_it_was_meant() {
    let sink = build(LONG, Way::Smtp(smtp_to(25)));
    let to = "Jörg Müller <joerg@exämple.org>, \"Doe, Jane\" <jane@shop.example>";
    for text in ["plain", "Grüße, 3 € = teuer\n.\n  eingerückt \n", &"ä".repeat(3000)] {
        let payload = serde_json::json!({ "to": to, "text": text }).to_string();
        let Prepared::Mail(mail) = prepare(&sink, &mail(), &message(7, &payload)) else {
            panic!("no mail")
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), mail.data()).unwrap();
        let source = "
import email, email.policy, json, sys
mail = email.message_from_binary_file(open(sys.argv[1], 'rb'), policy=email.policy.default)
print(json.dumps({
    'names': [a.display_name for a in mail['to'].addresses],
    'addresses': [a.addr_spec for a in mail['to'].addresses],
    'from': mail['from'], 'subject': mail['subject'], 'id': mail['message-id'],
    'date': mail['date'].datetime.isoformat(), 'headers': mail.keys(),
    'defects': [str(d) for d in mail.defects], 'type': mail.get_content_type(),
    'text': mail.get_content(),
}))";
        let read = python(source, file.path()).await;
        let expected = serde_json::json!({
            "names": ["Jörg Müller", "Doe, Jane"],
            "addresses": ["joerg@xn--exmple-cua.org", "jane@shop.example"],
            "from": "Shop <shop@example.com>", "subject": "Order 7",
            "id": "<msg_shop_7_out@example.com>", "date": "2026-11-20T10:15:30+00:00",
            "headers": ["From", "Subject", "Date", "Message-ID", "Auto-Submitted", "To",
                "MIME-Version", "Content-Type", "Content-Transfer-Encoding"],
            "defects": [], "type": "text/plain", "text": read["text"],
        });
        assert_eq!(read, expected);
        let read = read["text"].as_str().unwrap().replace("\r\n", "\n");
        assert_eq!(read.trim_end_matches('\n'), text.trim_end_matches('\n'));
    }
}
