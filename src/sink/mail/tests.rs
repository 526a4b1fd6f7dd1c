//! What goes out, byte by byte.

use super::*;
use crate::config::{AttachmentConfig, AttachmentSource};
use crate::name::Name;
use crate::template::Form;

fn template(source: &str) -> Template {
    Template::parse(source).unwrap()
}

fn html(source: &str) -> Template {
    Template::load("", source.to_owned(), Form::Html, &mut |_| Ok(None)).unwrap()
}

fn mail(to: &[&str], subject: &str, text: &str) -> Mail {
    Mail::new(to.iter().map(|to| template(to)).collect(), template(subject), template(text))
}

fn letterhead(from: &str) -> Letterhead {
    Letterhead {
        from: to_ascii(from.parse().unwrap()).unwrap(),
        return_path: None,
        idempotency_header: None,
        files: None,
        dkim: Vec::new(),
    }
}

fn prepare_by(letterhead: &Letterhead, mail: &Mail, payload: &str) -> Result<PreparedMail, NoMail> {
    let message = Message {
        id: 42,
        message_type: "order.created".to_owned(),
        payload: payload.to_owned(),
        key: None,
        headers: std::collections::BTreeMap::new(),
        created_at: "2026-11-20T10:15:30.123456Z".parse().unwrap(),
    };
    let name = |text| Name::parse(text).unwrap();
    let key = IdempotencyKey::new(&name("shop"), 42, &name("mail"), "");
    prepare(letterhead, mail, &message, &key)
}

fn prepare_from(from: &str, mail: &Mail, payload: &str) -> Result<PreparedMail, String> {
    prepare_by(&letterhead(from), mail, payload).map_err(|none| none.to_string())
}

fn render(mail: &Mail, payload: &str) -> Result<PreparedMail, String> {
    prepare_from("Shop <shop@example.com>", mail, payload)
}

fn text(prepared: &PreparedMail) -> &str {
    str::from_utf8(prepared.data()).unwrap()
}

#[test]
fn the_bytes_derive_from_the_row_alone() {
    let mail = mail(&["{{ payload.to }}"], "Order {{ id }}", "Dear {{ payload.to }}\nbye");
    let payload = r#"{"to": "bob@shop.example"}"#;
    let prepared = render(&mail, payload).unwrap();
    let expected = "From: Shop <shop@example.com>\r\n\
        Subject: Order 42\r\n\
        Date: Fri, 20 Nov 2026 10:15:30 +0000\r\n\
        Message-ID: <msg_shop_42_mail@example.com>\r\n\
        Auto-Submitted: auto-generated\r\n\
        To: bob@shop.example\r\n\
        MIME-Version: 1.0\r\n\
        Content-Type: text/plain; charset=utf-8\r\n\
        Content-Transfer-Encoding: 7bit\r\n\
        \r\n\
        Dear bob@shop.example\r\nbye\r\n";
    assert_eq!(text(&prepared), expected);
    assert_eq!(prepared.hash(), render(&mail, payload).unwrap().hash());
    // On the rows of an earlier version: if this changes, an upgrade holds them all.
    assert_eq!(
        crate::hex::hex(&prepared.hash()),
        "b1db5bf2138b7a2f5ea0d40166bc15ed4e183a669da88cf9d2b49189f5eda467"
    );
    let other = render(&mail, r#"{"to": "eve@shop.example"}"#).unwrap();
    assert_ne!(prepared.hash(), other.hash());
}

#[test]
fn each_recipient_template_is_an_address_or_a_list() {
    let mail = mail(&["a@x.example, B <b@x.example>", "a@x.example", ""], "s", "t");
    let prepared = render(&mail, "{}").unwrap();
    assert_eq!(prepared.to().collect::<Vec<_>>(), ["a@x.example", "b@x.example"]);
    assert!(render(&self::mail(&["", " "], "s", "t"), "{}").err().unwrap().contains("nobody"));
}

#[test]
fn payloads_and_recipients_have_a_limit() {
    let mail = mail(&["{{ payload.to }}"], "s", "t");
    let to = |count: usize| {
        let all: Vec<String> = (0..count).map(|n| format!("a{n}@x.example")).collect();
        serde_json::json!({ "to": all.join(", ") }).to_string()
    };
    let many = render(&mail, &to(1_000)).unwrap();
    assert_eq!(many.to().count(), 1_000);
    assert!(text(&many).contains("\r\nTo: a0@x.example,\r\n a1@x.example,\r\n a2@"));
    assert!(text(&many).contains(",\r\n a999@x.example\r\nMIME-Version: 1.0\r\n"));
    assert!(render(&mail, &to(1_001)).err().unwrap().contains("1000 addresses in a mail"));
    let big = format!(r#"{{"to": "a@x.example", "big": "{}"}}"#, "x".repeat(PAYLOAD_MAX));
    assert!(render(&mail, &big).err().unwrap().contains("too large for a mail"));
}

#[test]
fn no_value_reaches_a_header_or_a_reason_by_force() {
    let mail = mail(&["{{ payload.to }}"], "{{ payload.subject }}", "t");
    let broken = [
        ("a@x.example\\r\\nBcc: eve@x.example", "s"),
        ("a@x.example\\u0000", "s"),
        ("a@x.example>, <eve@x.example", "s"),
        ("eve@x.example eve@y.example", "s"),
        ("eve", "s"),
        ("a@x.example", "s\\r\\nBcc: eve@x.example"),
        ("a@x.example", "s\\neve"),
        ("a@x.example", "s\\u0000eve"),
    ];
    for (to, subject) in broken {
        let payload = format!(r#"{{"to": "{to}", "subject": "{subject}"}}"#);
        let reason = render(&mail, &payload).err().unwrap_or_else(|| panic!("{payload}"));
        assert!(!reason.contains("eve") && !reason.contains("x.example"), "{reason}");
    }
}

#[test]
fn addresses_get_the_form_every_server_takes() {
    let mail = mail(&["J\u{f6}rg <j@ex\u{e4}mple.org>"], "Gr\u{fc}\u{df}e", "t");
    let prepared = prepare_from("Shop <shop@b\u{fc}cher.example>", &mail, "{}").unwrap();
    assert_eq!(prepared.from(), "shop@xn--bcher-kva.example");
    assert_eq!(prepared.to().collect::<Vec<_>>(), ["j@xn--exmple-cua.org"]);
    assert!(prepared.data().is_ascii());
    assert!(text(&prepared).contains("Message-ID: <msg_shop_42_mail@xn--bcher-kva.example>"));
}

#[test]
fn bodies_are_crlf_ascii_and_short_lined() {
    let long = "\u{e4}".repeat(10_000);
    for body in ["\n.\n", "\n.\r\n", "\r.\r\n", "\r\n.x", "a\rb", "\u{e4}\r.\n", "", &long] {
        let payload = serde_json::json!({ "body": body }).to_string();
        let prepared = render(&mail(&["a@x.example"], "s", "{{ payload.body }}"), &payload);
        let prepared = prepared.unwrap();
        let text = text(&prepared);
        assert!(text.is_ascii() && text.ends_with("\r\n"), "{body:?}");
        let bare = text.replace("\r\n", "");
        assert!(!bare.contains(['\r', '\n']), "{body:?}: {text:?}");
        assert!(text.lines().all(|line| line.len() <= 998));
    }
}

#[test]
fn whatever_is_written_there_are_only_our_headers() {
    let mut random = fastrand::Rng::with_seed(7);
    let mail = mail(&["{{ payload.to }}"], "{{ payload.subject }}", "{{ payload.text }}");
    let mut made = 0;
    for _ in 0..5000 {
        let mut any = |most| nasty(&mut random, most);
        let (to, subject) = (format!("\"{}\" <a@x.example>", any(4)), any(5));
        let payload = serde_json::json!({ "to": to, "subject": subject, "text": any(40) });
        let Ok(prepared) = render(&mail, &payload.to_string()) else { continue };
        made += 1;
        assert_eq!(names(text(&prepared)), NAMES, "{payload}");
        assert!(!text(&prepared).replace("\r\n", "").contains(['\r', '\n']), "{payload}");
        assert_eq!(prepared.to().collect::<Vec<_>>(), ["a@x.example"], "{payload}");
    }
    assert!(made > 500, "{made}");
}

/// The same of everything else that a row can reach.
#[test]
fn whatever_else_is_written_there_are_only_our_headers() {
    let mut random = fastrand::Rng::with_seed(8);
    let mut mail = mail(&["a@x.example"], "s", "{{ payload.text }}");
    mail.from = Some(template("\"{{ payload.name }}\" <shop@x.example>"));
    mail.return_path = Some(template("bounce+{{ payload.tag }}@x.example"));
    mail.cc = vec![template("{{ payload.name }} <a@x.example>")];
    mail.reply_to = Some(template("{{ payload.name }} <r@x.example>"));
    mail.html = Some(html("<p>{{ payload.text }}").into());
    mail.list_unsubscribe = Some(template("https://x.example/{{ payload.tag }}"));
    mail.headers = vec![("X-Campaign".to_owned(), template("c{{ payload.header }}"))];
    mail.attachments = vec![AttachmentConfig {
        name: template("a{{ payload.file }}.pdf"),
        media_type: None,
        source: AttachmentSource::Base64(template("cGRm")),
        content_id: None,
    }];
    let mut made = 0;
    for _ in 0..4_000 {
        let mut any = |most| nasty(&mut random, most);
        let payload = serde_json::json!({
            "name": any(2), "tag": any(2), "header": any(4), "file": any(4), "text": any(30),
        });
        let Ok(prepared) = render(&mail, &payload.to_string()) else { continue };
        made += 1;
        let text = text(&prepared);
        let parts: Vec<&str> = text.split("\r\n--=_outboxd_").collect();
        let all: Vec<Vec<&str>> = parts.iter().map(|part| names(part)).collect();
        let expected: [&[&str]; 7] = [
            &[
                "From",
                "Subject",
                "Date",
                "Message-ID",
                "Auto-Submitted",
                "To",
                "Cc",
                "Reply-To",
                "List-Unsubscribe",
                "List-Unsubscribe-Post",
                "X-Campaign",
                "MIME-Version",
                "Content-Type",
            ],
            &["Content-Type"],
            &["Content-Type", "Content-Transfer-Encoding"],
            &["Content-Type", "Content-Transfer-Encoding"],
            &[],
            &["Content-Disposition", "Content-Type", "Content-Transfer-Encoding"],
            &[],
        ];
        assert_eq!(all, expected, "{payload}");
        assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "{payload}");
        assert!(text.lines().all(|line| line.len() <= 998), "{payload}");
        assert_eq!(prepared.to().collect::<Vec<_>>(), ["a@x.example"], "{payload}");
        assert!(prepared.from().ends_with("@x.example"), "{payload}");
        let is_wide = !prepared.from().is_ascii();
        assert_eq!((prepared.utf8, text.is_ascii()), (is_wide, true), "{payload}");
    }
    assert!(made > 500, "{made}");
}

/// Pieces that make trouble, as many as they may be.
fn nasty(random: &mut fastrand::Rng, most: usize) -> String {
    const NASTY: [&str; 22] = [
        "a",
        "Z",
        " ",
        "\t",
        "\r",
        "\n",
        "\r\n",
        "\r\n.",
        ":",
        "\"",
        "\\",
        "<",
        ">",
        "@",
        ",",
        ";",
        "=?utf-8?q?x?=",
        "\r\n--=_outboxd_",
        "%0d%0a",
        "\u{e4}",
        "\u{1f600}",
        "\u{2028}",
    ];
    (0..random.usize(..most)).map(|_| NASTY[random.usize(..NASTY.len())]).collect()
}

/// The names of the headers that a part begins with, its boundary before them.
fn names(part: &str) -> Vec<&str> {
    let headers = part.split_once("\r\n\r\n").map_or(part, |(headers, _)| headers);
    let starts = headers.split("\r\n").filter(|line| !line.starts_with([' ', '\t']));
    starts.filter_map(|line| Some(line.split_once(':')?.0)).collect()
}

const NAMES: [&str; 9] = [
    "From",
    "Subject",
    "Date",
    "Message-ID",
    "Auto-Submitted",
    "To",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
];

#[test]
fn long_headers_are_folded_or_refused() {
    let long = format!("shop@{}.{}.example", "a".repeat(60), "b".repeat(60));
    let subject = "word ".repeat(100);
    let prepared = prepare_from(&long, &mail(&["a@x.example"], &subject, "t"), "{}").unwrap();
    let unfolded = text(&prepared).replace("\r\n ", " ").replace("  ", " ");
    assert!(unfolded.contains(&format!("Message-ID: <msg_shop_42_mail@{}>", &long[5..])));
    assert!(unfolded.contains(&format!("Subject: {}\r\n", subject.trim())));
    let endless = mail(&["a@x.example"], &"x".repeat(2000), "t");
    assert!(render(&endless, "{}").err().unwrap().contains("too long"));
}

#[test]
fn a_missing_value_names_the_part() {
    let reason = |mail: &Mail| render(mail, "{}").err().unwrap();
    assert!(reason(&mail(&["{{ payload.a }}"], "s", "t")).starts_with("to: "));
    assert!(reason(&mail(&["a@x.example"], "{{ payload.a }}", "t")).starts_with("subject: "));
    assert!(reason(&mail(&["a@x.example"], "s", "{{ payload.a }}")).starts_with("text: "));
}

#[test]
fn the_envelope_is_apart_from_the_headers() {
    let mut mail = mail(&["To <a@x.example>"], "s", "t");
    mail.from = Some(template("{{ payload.brand }} <news@brand.example>"));
    mail.return_path = Some(template("bounce+{{ id }}@x.example"));
    mail.cc = vec![template("c@x.example, a@X.example")];
    mail.bcc = vec![template("B <hidden@x.example>"), template("{{ payload.none }}")];
    mail.reply_to = Some(template("Help <help@x.example>, h@x.example"));
    let payload = r#"{"brand": "Br\u00e4nd", "none": ""}"#;
    let prepared = render(&mail, payload).unwrap();
    assert_eq!(prepared.from(), "bounce+42@x.example");
    assert_eq!(prepared.from_domain(), "brand.example");
    let to = ["a@x.example", "c@x.example", "hidden@x.example"];
    assert_eq!(prepared.to().collect::<Vec<_>>(), to);
    let bytes = text(&prepared);
    assert!(!bytes.contains("hidden") && !bytes.contains("bounce"), "{bytes}");
    assert!(bytes.starts_with("From: =?utf-8?b?QnLDpG5k?= <news@brand.example>\r\n"), "{bytes}");
    assert!(bytes.contains("\r\nCc: c@x.example, a@X.example\r\n"), "{bytes}");
    assert!(bytes.contains("\r\nReply-To: Help <help@x.example>, h@x.example\r\n"), "{bytes}");
    assert!(bytes.contains("Message-ID: <msg_shop_42_mail@brand.example>"), "{bytes}");
    mail.return_path = Some(template("<>"));
    assert_eq!(render(&mail, payload).unwrap().from(), "");
    for (path, reason) in [
        ("A <a@x.example>", "return_path: neither a mail address nor <>"),
        ("a@x.example, b@x.example", "return_path: neither a mail address nor <>"),
    ] {
        mail.return_path = Some(template(path));
        assert_eq!(render(&mail, payload).err().unwrap(), reason);
    }
    mail.from = Some(template("a@x.example, b@x.example"));
    assert_eq!(render(&mail, payload).err().unwrap(), "from: not one mail address");
}

#[test]
fn what_a_sink_says_holds_where_a_route_says_nothing() {
    let mut letterhead = letterhead("Shop <shop@example.com>");
    letterhead.return_path = Some(Arc::new(template("bounce+{{ id }}@example.com")));
    letterhead.idempotency_header = Some("X-Idempotency-Key".to_owned());
    let mut mail = mail(&["a@x.example"], "s", "t");
    let prepared = prepare_by(&letterhead, &mail, "{}").unwrap();
    assert_eq!((prepared.from(), prepared.made_sender), ("bounce+42@example.com", false));
    assert!(text(&prepared).contains("\r\nX-Idempotency-Key: msg_shop_42_mail\r\n"));
    mail.return_path = Some(template("other@example.com"));
    let prepared = prepare_by(&letterhead, &mail, "{}").unwrap();
    assert_eq!((prepared.from(), prepared.made_sender), ("other@example.com", false));
    mail.return_path = Some(template("{{ payload.path }}"));
    let prepared = prepare_by(&letterhead, &mail, r#"{"path": "other@example.com"}"#).unwrap();
    assert!(prepared.made_sender);
}

#[test]
fn the_limit_of_recipients_is_for_all_of_them_together() {
    let mut mail = mail(&["{{ payload.to }}"], "s", "t");
    mail.cc = vec![template("c@x.example")];
    mail.bcc = vec![template("b@x.example")];
    let to = |count: usize| {
        let all: Vec<String> = (0..count).map(|n| format!("a{n}@x.example")).collect();
        serde_json::json!({ "to": all.join(", ") }).to_string()
    };
    assert_eq!(render(&mail, &to(998)).unwrap().to().count(), 1_000);
    let reason = render(&mail, &to(999)).err().unwrap();
    assert_eq!(
        reason,
        "bcc: it names more than there is room for: 1000 addresses in a mail; send several"
    );
}

#[test]
fn unusual_addresses_stay_as_they_are() {
    let to = "\"john @ doe, a\"@x.example, <a@[192.0.2.1]>, L <a@[IPv6:2001:db8::1]>";
    let prepared = render(&mail(&[to], "s", "t"), "{}").unwrap();
    let expected = ["\"john @ doe, a\"@x.example", "a@[192.0.2.1]", "a@[IPv6:2001:db8::1]"];
    assert_eq!(prepared.to().collect::<Vec<_>>(), expected);
    assert!(!prepared.utf8 && text(&prepared).is_ascii());
    let head = text(&prepared).replace("\r\n ", " ");
    assert!(head.contains("To: \"john @ doe, a\"@x.example, a@[192.0.2.1], L <a@[IPv6:"), "{head}");
}

#[test]
fn an_address_that_is_not_ascii_needs_smtputf8_and_stands_as_it_is() {
    let to = "J\u{f6}rg <j\u{f6}rg@ex\u{e4}mple.org>";
    let prepared = render(&mail(&[to], "s", "t"), "{}").unwrap();
    assert!(prepared.utf8);
    assert_eq!(prepared.to().collect::<Vec<_>>(), ["j\u{f6}rg@xn--exmple-cua.org"]);
    let expected = "\r\nTo: =?utf-8?b?SsO2cmc=?= <j\u{f6}rg@xn--exmple-cua.org>\r\n";
    assert!(text(&prepared).contains(expected), "{}", text(&prepared));
    for key in ["bcc", "reply_to", "return_path", "from"] {
        let mut mail = mail(&["a@x.example"], "s", "t");
        let wide = template("j\u{f6}rg@x.example");
        match key {
            "bcc" => mail.bcc = vec![wide],
            "reply_to" => mail.reply_to = Some(wide),
            "return_path" => mail.return_path = Some(wide),
            _ => mail.from = Some(wide),
        }
        assert!(render(&mail, "{}").unwrap().utf8, "{key}");
    }
}

#[test]
fn a_sender_that_the_application_wrote_is_known_whichever_it_is() {
    let made = |from: Option<&str>, route: Option<&str>, sink: Option<&str>| {
        let mut mail = mail(&["a@x.example"], "s", "t");
        mail.from = from.map(template);
        mail.return_path = route.map(template);
        let mut letterhead = letterhead("shop@example.com");
        letterhead.return_path = sink.map(|sink| Arc::new(template(sink)));
        prepare_by(&letterhead, &mail, r#"{"from": "b@x.example"}"#).unwrap().made_sender
    };
    let (payload, verp) = (Some("{{ payload.from }}"), Some("bounce+{{ id }}@example.com"));
    assert!(!made(None, None, None) && !made(None, verp, None) && !made(None, None, verp));
    assert!(made(payload, None, None) && made(payload, None, verp) && made(payload, verp, None));
    assert!(made(None, payload, None) && made(None, None, payload));
}

#[test]
fn one_click_unsubscribes_one_recipient() {
    let mut mail = mail(&["{{ payload.to }}"], "s", "t");
    mail.list_unsubscribe = Some(template("https://x.example/u?t={{ payload.t }}"));
    let payload = |to: &str, t: &str| serde_json::json!({ "to": to, "t": t }).to_string();
    let long = "y".repeat(870);
    let prepared = render(&mail, &payload("a@x.example, a@x.example", &long)).unwrap();
    let expected = format!(
        "\r\nList-Unsubscribe: <https://x.example/u?t={long}>\r\n\
         List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
    );
    assert!(text(&prepared).contains(&expected), "{}", text(&prepared));
    let reason = |mail: &Mail, payload: &str| render(mail, payload).err().unwrap();
    let several = reason(&mail, &payload("a@x.example, b@x.example", "1"));
    assert!(several.starts_with("list_unsubscribe: the mail has several recipients"), "{several}");
    let longer = reason(&mail, &payload("a@x.example", &"y".repeat(900)));
    assert_eq!(longer, "list_unsubscribe: it is longer than 900 characters");
    let folded = reason(&mail, &payload("a@x.example", "a\nb"));
    assert!(folded.contains("line break"), "{folded}");
    let url = |mail: &mut Mail, url: &str| mail.list_unsubscribe = Some(template(url));
    for none in ["http://x.example/", "mailto:u@x.example", "", "https://"] {
        url(&mut mail, none);
        let reason = reason(&mail, &payload("a@x.example", "1"));
        assert_eq!(reason, "list_unsubscribe: it is no https URL", "{none}");
    }
    url(&mut mail, "https://x.example/\u{e4} <b>");
    let prepared = render(&mail, &payload("a@x.example", "1")).unwrap();
    assert!(text(&prepared).contains("List-Unsubscribe: <https://x.example/%C3%A4%20%3Cb%3E>\r\n"));
}

#[test]
fn more_headers_are_one_line_and_left_out_where_they_are_nothing() {
    let mut mail = mail(&["a@x.example"], "s", "t");
    let header = |name: &str, value: &str| (name.to_owned(), template(value));
    mail.headers = vec![
        header("X-Campaign", "Fr\u{fc}hling {{ id }}"),
        header("X-None", " "),
        header("In-Reply-To", "<msg_{{ id }}@x.example>"),
    ];
    let prepared = render(&mail, "{}").unwrap();
    let expected = "\r\nX-Campaign: =?utf-8?b?RnLDvGhsaW5n?= 42\r\n\
                    In-Reply-To: <msg_42@x.example>\r\nMIME-Version";
    assert!(text(&prepared).contains(expected), "{}", text(&prepared));
    mail.headers = vec![header("X-Campaign", "{{ payload.c }}")];
    let reason = render(&mail, r#"{"c": "a\r\nBcc: eve@x.example"}"#).err().unwrap();
    assert_eq!(reason, "headers.X-Campaign: it has a line break or another control character");
    let reason = render(&mail, &serde_json::json!({ "c": "x".repeat(999) }).to_string());
    assert_eq!(reason.err().unwrap(), "x_campaign: a word is too long for a mail");
}

#[test]
fn a_sender_is_the_mails_own_where_the_application_wrote_it() {
    let payload = r#"{"to": "bob@shop.example", "from": "eve@y.example"}"#;
    let with = |from: Option<&str>, return_path: Option<&str>| {
        let template = |text: &str| Template::parse(text).unwrap();
        let mail = mail(&["{{ payload.to }}"], "s", "t");
        Mail { from: from.map(template), return_path: return_path.map(template), ..mail }
    };
    for (from, return_path, is_made, domain) in [
        (None, None, false, Some("example.com")),
        (Some("a@x.example"), None, false, Some("x.example")),
        (Some("a@exämple.org"), None, false, Some("xn--exmple-cua.org")),
        (None, Some("b+{{ id }}@x.example"), false, Some("example.com")),
        (None, Some("{{ payload.from }}"), true, Some("example.com")),
        (Some("{{ payload.from }}"), None, true, None),
    ] {
        let mail = with(from, return_path);
        let label = format!("{from:?} {return_path:?}");
        assert_eq!(render(&mail, payload).unwrap().made_sender, is_made, "{label}");
        let letterhead = letterhead("Shop <shop@example.com>");
        assert_eq!(sender_domain(&letterhead, &mail).as_deref(), domain, "{label}");
    }
}
