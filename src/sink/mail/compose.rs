//! The bytes of a mail: headers and parts as RFC 5322 and RFC 2045 have them.

use jiff::Timestamp;
use lettre::Address;
use lettre::message::header::{ContentType, HeaderName, HeaderValue, To};
use lettre::message::{Mailbox, Mailboxes, MultiPart, SinglePart};

use super::PreparedMail;

/// Longest line, with its CR (RFC 5322 section 2.1.1).
const LINE_MAX: usize = 999;

/// What a mail is made of.
pub(super) struct Draft<'a> {
    pub from: &'a Mailbox,
    pub recipients: Vec<Mailbox>,
    /// Without control characters.
    pub subject: &'a str,
    pub text: &'a str,
    pub date: Timestamp,
    pub message_id: &'a str,
    pub files: Vec<SinglePart>,
}

/// Writes a mail.
pub(super) fn compose(draft: Draft<'_>) -> Result<PreparedMail, String> {
    let Draft { from, recipients, subject, text, date, message_id, files } = draft;
    let builder = lettre::Message::builder()
        .from(from.clone())
        .subject(subject)
        .date(std::time::SystemTime::from(date))
        .message_id(Some(format!("<{message_id}>")))
        .raw_header(auto_submitted());
    let mut to: Vec<Address> = Vec::new();
    for mailbox in &recipients {
        if !to.contains(&mailbox.email) {
            to.push(mailbox.email.clone());
        }
    }
    // All at once: one by one each would be parsed again for the next.
    let builder = builder.mailbox(To::from(recipients.into_iter().collect::<Mailboxes>()));
    let part = SinglePart::builder().header(ContentType::TEXT_PLAIN).body(with_crlf(text));
    let mail = if files.is_empty() {
        builder.singlepart(part)
    } else {
        let parts = MultiPart::mixed().boundary(boundary(message_id)).singlepart(part);
        builder.multipart(files.into_iter().fold(parts, MultiPart::singlepart))
    };
    let mail = mail.map_err(|e| format!("the mail cannot be built: {e}"))?;
    let mut data = mail.formatted();
    if !data.ends_with(b"\r\n") {
        data.extend_from_slice(b"\r\n");
    }
    let is_too_long = |data: &[u8]| data.split(|b| *b == b'\n').any(|line| line.len() > LINE_MAX);
    if is_too_long(&data) {
        data = one_line_each(&data);
    }
    // The body is encoded to short lines; a header's word without a blank cannot be folded.
    if is_too_long(&data) {
        return Err("subject or to: a word is too long for a mail".to_owned());
    }
    if !data.is_ascii() {
        return Err("the mail cannot be written in ASCII".to_owned());
    }
    let id = message_id.split('@').next().unwrap_or_default().to_owned();
    Ok(PreparedMail {
        id,
        from: Some(from.email.clone()),
        to,
        from_domain: from.email.domain().to_owned(),
        utf8: false,
        made_sender: false,
        signatures: Vec::new(),
        data,
    })
}

/// Parts two parts of a mail: from the row, like everything else, and unlike any line of a part, since
/// neither base64 nor quoted-printable text has `=_`.
fn boundary(message_id: &str) -> String {
    let hash = crate::sink::hash_parts([message_id.as_bytes()]);
    format!("=_outboxd_{}", crate::hex::hex(&hash[..16]))
}

/// Gives each recipient a line of its own: lettre writes them all on one.
fn one_line_each(data: &[u8]) -> Vec<u8> {
    let (mut out, mut is_to, mut is_head) = (Vec::with_capacity(data.len()), false, true);
    for line in data.split_inclusive(|b| *b == b'\n') {
        is_head &= line != b"\r\n";
        if !line.starts_with(b" ") {
            is_to = is_head && line.starts_with(b"To: ");
        }
        let mut last = 0;
        for byte in line {
            // A blank after a comma may be folded, also within quotes.
            if is_to && last == b',' && *byte == b' ' {
                out.extend_from_slice(b"\r\n");
            }
            out.push(*byte);
            last = *byte;
        }
    }
    out
}

/// Tells responders (out of office and the like) not to answer (RFC 3834 section 5).
fn auto_submitted() -> HeaderValue {
    let name = HeaderName::new_from_ascii_str("Auto-Submitted");
    HeaderValue::new(name, "auto-generated".to_owned())
}

/// Ends every line with CRLF: a bare CR or LF would be seen differently by each server.
fn with_crlf(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 32);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' => {
                chars.next_if_eq(&'\n');
                out.push_str("\r\n");
            }
            '\n' => out.push_str("\r\n"),
            other => out.push(other),
        }
    }
    out
}
