//! What Python's `email` makes of mails with everything in them.

use outboxd::config::{AttachmentConfig, AttachmentSource, Content, Mail, Way};
use outboxd::sink::Prepared;
use outboxd::template::{Form, Template};
use serde_json::{Value, json};

use super::{LONG, build, message, prepare, smtp_to};
use crate::harness::program::python;

/// Names that mail programs stumble over.
const NAMES: [&str; 9] = [
    "invoice.pdf",
    "Rechnung für Jörg.pdf",
    "a \"quoted\" name; with=semicolons.pdf",
    "back\\slash, comma 'and' 100%.pdf",
    "utf-8''forged%22.pdf",
    "\u{1f600} smile.pdf",
    "=?utf-8?q?encoded?=.pdf",
    ".pdf",
    "ends in a dot.",
];

const SOURCE: &str = "
import base64, email, email.policy, json, sys
mail = email.message_from_binary_file(open(sys.argv[1], 'rb'), policy=email.policy.default)
def part(p):
    return {
        'type': p.get_content_type(), 'disposition': p.get_content_disposition(),
        'name': p.get_filename(), 'id': p['content-id'],
        'charset': p.get_content_charset(), 'defects': [str(d) for d in p.defects]
            + [str(d) for n in p.keys() for d in getattr(p[n], 'defects', [])],
        'content': None if p.is_multipart() else base64.b64encode(p.get_payload(decode=True)).decode(),
    }
def addresses(name):
    return [[a.display_name, a.addr_spec] for a in mail[name].addresses] if mail[name] else []
print(json.dumps({
    'headers': mail.keys(), 'parts': [part(p) for p in mail.walk()],
    'from': addresses('from'), 'to': addresses('to'), 'cc': addresses('cc'),
    'reply_to': addresses('reply-to'), 'subject': mail['subject'],
    'unsubscribe': mail['list-unsubscribe'], 'post': mail['list-unsubscribe-post'],
    'campaign': mail['x-campaign'],
    'best': [mail.get_body((k,)).get_content_type() for k in ('plain', 'html')],
    'attachments': [p.get_filename() for p in mail.iter_attachments()],
}))";

fn template(source: &str) -> Template {
    Template::parse(source).unwrap()
}

fn html(source: &str) -> Template {
    Template::load("", source.to_owned(), Form::Html, &mut |_| Ok(None)).unwrap()
}

fn attachment(name: &str, content_id: Option<&str>) -> AttachmentConfig {
    // The name comes from the message, so that no template reads it.
    AttachmentConfig {
        name: template(&format!("{{{{ payload.names[{name}] }}}}")),
        media_type: content_id.map(|_| "image/png".to_owned()),
        source: AttachmentSource::Base64(template("{{ payload.bytes }}")),
        content_id: content_id.map(str::to_owned),
    }
}

async fn read_by_python(content: Mail, payload: &Value) -> Value {
    let sink = build(LONG, Way::Smtp(smtp_to(25)));
    let content = Content::Mail(Box::new(content));
    let Prepared::Mail(mail) = prepare(&sink, &content, &message(7, &payload.to_string())) else {
        panic!("no mail")
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), mail.data()).unwrap();
    python(SOURCE, file.path()).await
}

/// A mail that has everything.
fn everything() -> Mail {
    let mut mail = Mail::new(vec![template("{{ payload.to }}")], template("S"), template(""));
    mail.from = Some(template("\"Bücher, {{ payload.brand }}\" <news@bücher.example>"));
    mail.subject = template("Ihre Bestellung für {{ payload.brand }}: {{ payload.long }}").into();
    mail.text = None;
    mail.html = Some(html("<h1>Grüße</h1><p>{{ payload.text }}<img src=\"cid:logo@x\">").into());
    mail.reply_to = Some(template("Hilfe <help@x.example>"));
    mail.list_unsubscribe = Some(template("https://x.example/u?t={{ payload.token }}&s=ä"));
    mail.headers =
        vec![("X-Campaign".to_owned(), template("Frühling {{ id }} {{ payload.long }}"))];
    mail.attachments = (0..NAMES.len()).map(|index| attachment(&index.to_string(), None)).collect();
    mail.attachments.push(attachment("9", Some("logo@x")));
    mail
}

const HEADERS: [&str; 12] = [
    "From",
    "Subject",
    "Date",
    "Message-ID",
    "Auto-Submitted",
    "To",
    "Reply-To",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "X-Campaign",
    "MIME-Version",
    "Content-Type",
];

#[tokio::test]
async fn python_reads_every_part_as_it_was_meant() {
    let bytes: Vec<u8> = (0..=255).cycle().take(3000).collect();
    let encoded = base64_of(&bytes);
    let long_name = format!("{}.pdf", "ä".repeat(196));
    let names: Vec<&str> = NAMES.into_iter().chain([&*long_name]).collect();
    let (long, token) = ("Wörter ".repeat(60), "t".repeat(800));
    let payload = json!({
        "to": "\"Doe, Jörg\" <j@exämple.org>", "brand": "Ä & <b>", "names": names, "bytes": encoded,
        "text": "1 < 2 & <script>alert(1)</script>\n.\n", "long": long, "token": token,
    });
    let read = read_by_python(everything(), &payload).await;
    assert_eq!(read["headers"], json!(HEADERS));
    assert_eq!(read["from"], json!([["Bücher, Ä & <b>", "news@xn--bcher-kva.example"]]));
    assert_eq!(read["to"], json!([["Doe, Jörg", "j@xn--exmple-cua.org"]]));
    assert_eq!(read["reply_to"], json!([["Hilfe", "help@x.example"]]));
    assert_eq!(read["subject"], json!(format!("Ihre Bestellung für Ä & <b>: {}", long.trim())));
    assert_eq!(read["unsubscribe"], json!(format!("<https://x.example/u?t={token}&s=%C3%A4>")));
    assert_eq!(read["post"], "List-Unsubscribe=One-Click");
    assert_eq!(read["campaign"], json!(format!("Frühling 7 {}", long.trim())));
    assert_eq!(read["best"], json!(["text/plain", "text/html"]));
    let attached: Vec<&str> = names[..NAMES.len()].to_vec();
    assert_eq!(read["attachments"], json!(attached));
    let parts = read["parts"].as_array().unwrap();
    let types: Vec<&str> = parts.iter().map(|part| part["type"].as_str().unwrap()).collect();
    let files = ["application/pdf"; 8].into_iter().chain(["application/octet-stream"]);
    let expected: Vec<&str> = [
        "multipart/mixed",
        "multipart/alternative",
        "text/plain",
        "multipart/related",
        "text/html",
        "image/png",
    ]
    .into_iter()
    .chain(files)
    .collect();
    assert_eq!(types, expected);
    for part in parts {
        assert_eq!(part["defects"], json!([]), "{}", part["name"]);
    }
    let text = |index: usize| content_of(&parts[index]).replace("\r\n", "\n");
    assert_eq!(text(2).trim(), "Grüße\n=====\n\n1 < 2 & <script>alert(1)</script> .");
    let escaped = "<p>1 &lt; 2 &amp; &lt;script&gt;alert(1)&lt;&#x2f;script&gt;\n.\n<img";
    assert!(text(4).contains(escaped), "{}", text(4));
    let logo = &parts[5];
    assert_eq!((&logo["disposition"], &logo["id"]), (&json!("inline"), &json!("<logo@x>")));
    for (part, name) in parts[6..].iter().zip(&names).chain([(logo, &&*long_name)]) {
        assert_eq!(part["name"], json!(name));
        assert_eq!(part["content"], json!(encoded), "{name}");
    }
}

/// Every body as it was, whatever encoding it got; beside others and alone.
#[tokio::test]
async fn python_reads_bodies_that_make_trouble() {
    for body in [
        "\n.\n\n.\r\n..x\rend\n",
        "--=_outboxd_00000000000000000000000000000000\n",
        &"long ".repeat(3000),
        &"ü".repeat(3000),
        "= =3D trailing blank \n\tTab\t\nFrom here\n",
        "\u{1f600}",
    ] {
        let mut mail =
            Mail::new(vec![template("a@x.example")], template("S"), template("{{ payload.text }}"));
        mail.html = Some(html("<p>{{ payload.text | safe }}").into());
        let read = read_by_python(mail, &json!({ "text": body })).await;
        let lines = |text: &str| text.replace("\r\n", "\n").replace('\r', "\n");
        let (plain, html) = (content_of(&read["parts"][1]), content_of(&read["parts"][2]));
        assert_eq!(lines(&plain).trim_end_matches('\n'), lines(body).trim_end_matches('\n'));
        let expected = format!("<p>{}", lines(body));
        assert_eq!(lines(&html).trim_end_matches('\n'), expected.trim_end_matches('\n'));
        for part in read["parts"].as_array().unwrap() {
            assert_eq!(part["defects"], json!([]), "{body}");
        }
    }
}

fn base64_of(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn content_of(part: &Value) -> String {
    use base64::Engine as _;
    let encoded = part["content"].as_str().expect("it has a content");
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap();
    String::from_utf8(bytes).unwrap()
}
