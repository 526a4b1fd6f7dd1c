//! Signatures of mails, in the eyes of others: what a mail server received is verified by OpenDKIM and by
//! dkimpy, and what somebody changed on the way is not.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use outboxd::config::{
    AttachmentConfig, AttachmentSource, Content, DkimConfig, Mail, SmtpConfig, Way,
};
use outboxd::sink::{Prepared, Sink};
use outboxd::template::Template;

use super::{LONG, SmtpPeer, assert_delivered, attempt, build, mail, message, prepare, smtp_to};
use crate::harness::dkim::{Verdicts, by_dkimpy, by_opendkim, keys, verified};

/// A sink that signs with these keys.
fn signing(port: u16, dkim: Vec<DkimConfig>) -> Sink {
    build(LONG, Way::Smtp(SmtpConfig { dkim, ..smtp_to(port) }))
}

fn letter(sink: &Sink, content: &Content, to: &str, text: &str) -> Prepared {
    let payload = serde_json::json!({ "to": to, "text": text }).to_string();
    prepare(sink, content, &message(7, &payload))
}

fn signed(letter: &Prepared) -> Vec<u8> {
    let Prepared::Mail(mail) = letter else { panic!("no mail") };
    mail.whole()
}

/// Both say of each mail that each of its signatures is good, or that none is.
async fn assert_verdicts(mails: &[Vec<u8>], good: bool) {
    let expected: Verdicts = mails.iter().map(|_| verified(good)).collect();
    let (dkimpy, opendkim) = (by_dkimpy(&keys(), mails).await, by_opendkim(&keys(), mails).await);
    for (at, mail) in mails.iter().enumerate() {
        let mail = String::from_utf8_lossy(mail);
        assert_eq!(dkimpy[at], expected[at], "dkimpy of {mail}");
        assert_eq!(opendkim[at], expected[at], "OpenDKIM of {mail}");
    }
}

#[tokio::test]
async fn two_others_verify_what_a_mail_server_received() {
    let peer = SmtpPeer::start().await;
    let sink = signing(peer.address.port(), keys());
    let many: Vec<String> = (0..300).map(|n| format!("\"Nr {n}, ä\" <a{n}@x.example>")).collect();
    let long = "Grüße, 3 € = teuer \t\n".repeat(2_000);
    for (to, text) in [
        ("bob@shop.example", "hello"),
        ("bob@shop.example", ""),
        ("bob@shop.example", "\n\n \t\n"),
        ("bob@shop.example", "..\n.x  y \t\n  z\n.\n\n\n"),
        ("J\u{f6}rg <j@ex\u{e4}mple.org>, \"Doe, Jane\" <jane@shop.example>", "a\tb \r\n"),
        (&many.join(", "), &long),
    ] {
        let letter = letter(&sink, &mail(), to, text);
        // Each attempt sends the same bytes.
        for _ in 0..2 {
            assert_delivered(&attempt(&sink, &letter, LONG).await, "250");
            assert_eq!(peer.mails().pop().unwrap().data, signed(&letter));
        }
    }
    let mails: Vec<Vec<u8>> = peer.mails().into_iter().map(|mail| mail.data).step_by(2).collect();
    assert_eq!(mails.len(), 6);
    assert_verdicts(&mails, true).await;
}

/// A newsletter: what unsubscribes is signed and cannot be added to, whatever else the mail is made of.
#[tokio::test]
async fn a_newsletter_is_signed_with_what_unsubscribes_from_it() {
    let peer = SmtpPeer::start().await;
    let sink = signing(peer.address.port(), keys());
    let template = |text: &str| Template::parse(text).unwrap();
    let text = template("{{ payload.text }}");
    let mut news = Mail::new(
        vec![template("{{ payload.to }}")],
        template("Grüße aus dem Haus, {{ id }}"),
        text,
    );
    let url = format!("https://shop.example/u?t={}", "0123456789abcdef".repeat(40));
    news.list_unsubscribe = Some(template(&url));
    news.html = Some(template("<p>{{ payload.text }} <b>ä</b></p>").into());
    news.reply_to = Some(template("Büro <office@example.com>"));
    news.headers = vec![("List-Id".to_owned(), template("News <news.example.com>"))];
    news.attachments.push(AttachmentConfig {
        name: template("Größen.bin"),
        media_type: None,
        source: AttachmentSource::Base64(template("{{ payload.file }}")),
        content_id: None,
    });
    let file = STANDARD.encode((0..=255).cycle().take(100_000).collect::<Vec<u8>>());
    let payload =
        serde_json::json!({ "to": "bob@shop.example", "text": "a  b \t\n.\n", "file": file });
    let letter = prepare(&sink, &Content::Mail(Box::new(news)), &message(7, &payload.to_string()));
    assert_delivered(&attempt(&sink, &letter, LONG).await, "250");
    let received = peer.mails().pop().unwrap().data;
    assert_verdicts(&[received.clone()], true).await;
    let whole = String::from_utf8(received).unwrap();
    let replaced = |from: &str, to: &str| {
        assert_eq!(whole.matches(from).count(), 1, "{from}");
        whole.replace(from, to).into_bytes()
    };
    let changed = [
        replaced("<https://shop.example/u?t=", "<https://shop.example/v?t="),
        replaced("List-Unsubscribe=One-Click", "List-Unsubscribe=Two-Click"),
        replaced("<news.example.com>", "<olds.example.com>"),
        format!("List-Unsubscribe: <https://eve.example>\r\n{whole}").into_bytes(),
        format!("List-Unsubscribe-Post: x\r\n{whole}").into_bytes(),
        format!("Content-Type: text/plain\r\n{whole}").into_bytes(),
    ];
    assert_verdicts(&changed, false).await;
}

#[tokio::test]
async fn a_mail_that_was_changed_on_the_way_is_verified_by_nobody() {
    let sink = signing(25, keys());
    let whole =
        String::from_utf8(signed(&letter(&sink, &mail(), "bob@shop.example", "pay 10\n"))).unwrap();
    let replaced = |from: &str, to: &str| {
        assert_eq!(whole.matches(from).count(), 1, "{from}");
        whole.replace(from, to).into_bytes()
    };
    let topped = |header: &str| format!("{header}\r\n{whole}").into_bytes();
    let (head, body) = whole.split_once("\r\n\r\n").unwrap();
    let behind = |header: &str| format!("{head}\r\n{header}\r\n\r\n{body}").into_bytes();
    let changed = [
        replaced("pay 10", "pay 90"),
        replaced("pay 10\r\n", "pay 10\r\nat once\r\n"),
        replaced("Subject: Order 7", "Subject: Order 8"),
        replaced("\r\nTo: bob@", "\r\nTo: eve@"),
        replaced("From: Shop <shop@", "From: Shop <sh0p@"),
        replaced("Auto-Submitted: auto-generated", "Auto-Submitted: no"),
        replaced("Message-ID: <msg_shop_7", "Message-ID: <msg_shop_8"),
        topped("Subject: Order 8"),
        topped("To: eve@shop.example"),
        topped("Cc: eve@shop.example"),
        topped("Reply-To: eve@shop.example"),
        topped("Content-Type: text/html"),
        behind("Cc: eve@shop.example"),
        behind("Date: Sat, 21 Nov 2026 10:15:30 +0000"),
    ];
    assert_verdicts(&changed, false).await;
    // What servers add on the way does no harm.
    let untouched = [
        topped("Received: from a.example by b.example; Fri, 20 Nov 2026 10:16:00 +0000"),
        replaced("Subject: Order 7", "subject:  Order\r\n\t7"),
    ];
    assert_verdicts(&untouched, true).await;
    // Two who say that they wrote it: OpenDKIM does not even look at such a mail.
    for two in [topped("From: eve@shop.example"), behind("From: eve@shop.example")] {
        let mails = [two];
        assert_eq!(by_dkimpy(&keys(), &mails).await, [verified(false)]);
        let found = by_opendkim(&keys(), &mails).await;
        assert!(found[0].iter().all(|(_, good)| !good), "{found:?}");
    }
}

/// What a delivery is held for is another hash: neither a first key nor a new one makes one.
#[test]
fn a_key_makes_no_other_mail() {
    let [rsa, ed25519] = keys().try_into().unwrap();
    let letters = [vec![], vec![rsa], vec![ed25519]].map(|keys| {
        let letter = letter(&signing(25, keys), &mail(), "bob@shop.example", "hello");
        (letter.hash(), signed(&letter))
    });
    let [(bare, plain), first, second] = letters;
    assert_eq!((bare, bare), (first.0, second.0));
    assert!(first.1 != second.1 && first.1.ends_with(&plain) && second.1.ends_with(&plain));
}
