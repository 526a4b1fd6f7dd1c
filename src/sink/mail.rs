//! Mails: a message and its route's templates become the bytes that are sent.
//!
//! Nothing here looks at a clock or a random number: date and id derive from the row, so every
//! attempt sends the same bytes. That is what a server's own search for repeats goes by.

mod compose;
mod files;

use lettre::Address;
use lettre::message::{Mailbox, Mailboxes};

use self::compose::{Draft, compose};
pub use self::files::{Attached, FilesMail, NoMail, prepare_files};
use crate::config::Mail;
use crate::message::{IdempotencyKey, Message};
use crate::template::{Template, View};

/// Largest payload that mails are made of, in bytes. Read for templates it takes up to thirty times its
/// size in memory.
const PAYLOAD_MAX: usize = 4 * 1024 * 1024;
/// Most recipients of one mail, as mail servers have it by default.
const RECIPIENTS_MAX: usize = 1_000;

/// A mail ready to be sent: an envelope and bytes. Not printable, because it is all addresses.
pub struct PreparedMail {
    /// The part of its Message-ID before the `@`.
    pub(super) id: String,
    /// The envelope's sender; none for the null sender (RFC 5321 section 4.5.5).
    pub(super) from: Option<Address>,
    pub(super) to: Vec<Address>,
    /// The domain in `From:`.
    pub(super) from_domain: String,
    /// Whether it can only be sent with SMTPUTF8 (RFC 6531).
    pub(super) utf8: bool,
    /// Whether the envelope's sender or `From:` holds something of the message's payload: then it is the
    /// mail's own trouble, and not the sink's, when it is refused.
    pub(super) made_sender: bool,
    /// DKIM-Signature headers, lines ended by CRLF; not part of the hash, since a new key makes no other mail.
    pub(super) signatures: Vec<u8>,
    pub(super) data: Vec<u8>,
}

impl PreparedMail {
    /// The envelope's sender; empty for the null sender.
    #[must_use]
    pub fn from(&self) -> &str {
        self.from.as_ref().map_or("", AsRef::as_ref)
    }

    /// The domain in `From:`, in A-labels.
    #[must_use]
    pub fn from_domain(&self) -> &str {
        &self.from_domain
    }

    /// The envelope's recipients; at least one, none twice.
    pub fn to(&self) -> impl Iterator<Item = &str> {
        self.to.iter().map(AsRef::as_ref)
    }

    /// Headers and body, lines ended by CRLF, all ASCII but for headers where SMTPUTF8 is needed, without
    /// the dots SMTP adds.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// How many bytes are sent, without the dots SMTP adds.
    #[must_use]
    pub fn size(&self) -> usize {
        self.signatures.len() + self.data.len()
    }

    /// SHA-256 over envelope, headers and body.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        let addresses = std::iter::once(self.from()).chain(self.to());
        super::hash_parts(addresses.map(str::as_bytes).chain([self.data()]))
    }
}

/// Renders a mail.
///
/// # Errors
/// Why no mail can be made of this message. The reason names the part of the mail, none of the
/// message's values.
pub(super) fn prepare(
    from: &Mailbox,
    content: &Mail,
    message: &Message,
    key: &IdempotencyKey,
) -> Result<PreparedMail, String> {
    if message.payload.len() > PAYLOAD_MAX {
        return Err(format!("the payload is too large for a mail: more than {PAYLOAD_MAX} bytes"));
    }
    let view = View::of(message)?;
    let recipients = recipients(&content.to, &view)?;
    let subject = &subject(content.subject.variant(None), &view)?;
    let Some(text) = &content.text else { return Err("text: there is none".to_owned()) };
    let text = text.variant(None).render(&view).map_err(|e| format!("text: {e}"))?;
    compose(Draft {
        from,
        recipients,
        subject,
        text: &text,
        date: message.created_at,
        message_id: &format!("{key}@{}", from.email.domain()),
        files: Vec::new(),
    })
}

/// Gives an address the form that every mail server takes: the domain in A-labels.
///
/// # Errors
/// When the part before the `@` is not ASCII, or the domain is none.
pub(super) fn to_ascii(mailbox: Mailbox) -> Result<Mailbox, String> {
    let (user, domain) = (mailbox.email.user(), mailbox.email.domain());
    if !user.is_ascii() {
        return Err("an address has a non-ASCII character before the @".to_owned());
    }
    if domain.is_ascii() {
        return Ok(mailbox);
    }
    let Ok(url::Host::Domain(domain)) = url::Host::parse(domain) else {
        return Err("an address has no valid domain".to_owned());
    };
    let email = Address::new(user, domain).map_err(|_| "an address is not valid".to_owned())?;
    Ok(Mailbox::new(mailbox.name, email))
}

/// A subject, one line.
pub(super) fn subject(template: &Template, view: &View) -> Result<String, String> {
    let subject = template.render(view).map_err(|e| format!("subject: {e}"))?;
    let subject = subject.trim();
    if subject.chars().any(char::is_control) {
        return Err("subject: it has a line break or another control character".to_owned());
    }
    Ok(subject.to_owned())
}

pub(super) fn recipients(templates: &[Template], view: &View) -> Result<Vec<Mailbox>, String> {
    let mut all = Vec::new();
    for template in templates {
        let list = template.render(view).map_err(|e| format!("to: {e}"))?;
        let list = list.trim();
        if list.chars().any(char::is_control) {
            return Err("to: it has a line break or another control character".to_owned());
        }
        if list.is_empty() {
            continue;
        }
        let parsed: Mailboxes =
            list.parse().map_err(|_| "to: not a list of mail addresses".to_owned())?;
        let count = all.len() + parsed.iter().count();
        if count > RECIPIENTS_MAX {
            return Err(format!("to: it names more than {RECIPIENTS_MAX} addresses"));
        }
        for mailbox in parsed {
            all.push(to_ascii(mailbox).map_err(|e| format!("to: {e}"))?);
        }
    }
    if all.is_empty() {
        return Err("to: it names nobody".to_owned());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Name;

    fn mail(to: &[&str], subject: &str, text: &str) -> Mail {
        let parse = |source: &str| Template::parse(source).unwrap();
        Mail::new(to.iter().map(|t| parse(t)).collect(), parse(subject), parse(text))
    }

    fn prepare_from(from: &str, mail: &Mail, payload: &str) -> Result<PreparedMail, String> {
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
        prepare(&to_ascii(from.parse().unwrap())?, mail, &message, &key)
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
        assert!(render(&mail, &to(1_001)).err().unwrap().contains("more than 1000 addresses"));
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
            ("j\u{f6}eve@x.example", "s"),
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
        const NASTY: [&str; 20] = [
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
            "\u{e4}",
            "\u{1f600}",
            "\u{2028}",
        ];
        let mut random = fastrand::Rng::with_seed(7);
        let mail = mail(&["{{ payload.to }}"], "{{ payload.subject }}", "{{ payload.text }}");
        let mut made = 0;
        for _ in 0..5000 {
            let mut any = |most| -> String {
                (0..random.usize(..most)).map(|_| NASTY[random.usize(..NASTY.len())]).collect()
            };
            let (to, subject) = (format!("\"{}\" <a@x.example>", any(4)), any(5));
            let payload = serde_json::json!({ "to": to, "subject": subject, "text": any(40) });
            let Ok(prepared) = render(&mail, &payload.to_string()) else { continue };
            made += 1;
            let (headers, _) = text(&prepared).split_once("\r\n\r\n").unwrap();
            let starts = headers.split("\r\n").filter(|line| !line.starts_with([' ', '\t']));
            let names: Vec<&str> = starts.map(|line| line.split(':').next().unwrap()).collect();
            assert_eq!(names, NAMES, "{payload}");
            assert!(!text(&prepared).replace("\r\n", "").contains(['\r', '\n']), "{payload}");
            assert_eq!(prepared.to().collect::<Vec<_>>(), ["a@x.example"], "{payload}");
        }
        assert!(made > 500, "{made}");
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
}
