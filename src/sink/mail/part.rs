//! The parts of a mail as MIME has them (RFC 2045, 2046, 2183, 2231, 2387): texts, files, and what holds
//! them together.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lettre::message::Body;
use lettre::message::header::ContentTransferEncoding;

/// What every boundary begins with: neither base64 nor quoted-printable text has `=_`.
const BOUNDARY: &str = "=_outboxd_";
/// Bytes that become a line of base64, 76 characters (RFC 2045 section 6.8).
const LINE_BYTES: usize = 57;
/// Longest piece of an encoded file name on a line.
const PIECE_MAX: usize = 60;
/// Longest file name that is written as it is, on one line.
const PLAIN_MAX: usize = 200;

/// A file that goes along, read already.
pub(super) struct Attachment {
    /// Without control characters.
    pub name: String,
    /// With its parameters.
    pub media_type: String,
    /// By which the HTML shows it; none for one that is apart from the text.
    pub content_id: Option<String>,
    pub content: Vec<u8>,
}

/// A part of a mail.
pub(super) enum Part<'a> {
    /// `text/plain` or `text/html`; encoded so that it holds no boundary if it is one of several.
    Text {
        kind: &'static str,
        text: &'a str,
        is_alone: bool,
    },
    File(&'a Attachment),
    /// `multipart/…` with the rest of its media type.
    Many {
        kind: &'static str,
        boundary: String,
        parts: Vec<Part<'a>>,
    },
}

impl<'a> Part<'a> {
    /// The one part that holds all others: the files beside the text, the text beside the HTML, what the
    /// HTML shows along with it; none where there is but one.
    pub fn of(
        text: &'a str,
        html: Option<&'a str>,
        files: &'a [Attachment],
        message_id: &str,
    ) -> Part<'a> {
        let many = |kind, parts| Part::Many { kind, boundary: boundary(kind, message_id), parts };
        let is_alone = html.is_none() && files.is_empty();
        let (shown, apart): (Vec<_>, Vec<_>) =
            files.iter().partition(|file| html.is_some() && file.content_id.is_some());
        let mut part = Part::Text { kind: "plain", text, is_alone };
        if let Some(html) = html {
            let mut rich = Part::Text { kind: "html", text: html, is_alone: false };
            if !shown.is_empty() {
                let parts = [rich].into_iter().chain(shown.into_iter().map(Part::File)).collect();
                rich = many("related; type=\"text/html\"", parts);
            }
            part = many("alternative", vec![part, rich]);
        }
        if !apart.is_empty() {
            let parts = [part].into_iter().chain(apart.into_iter().map(Part::File)).collect();
            part = many("mixed", parts);
        }
        part
    }

    /// Writes headers and body.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Part::Text { kind, text, is_alone } => {
                let body = encoded(with_crlf(text), *is_alone);
                line(out, &format!("Content-Type: text/{kind}; charset=utf-8"));
                line(out, &format!("Content-Transfer-Encoding: {}", body.encoding()));
                line(out, "");
                out.extend_from_slice(body.as_ref());
                line(out, "");
            }
            Part::File(file) => file.write(out),
            Part::Many { kind, boundary, parts } => {
                line(out, &format!("Content-Type: multipart/{kind};\r\n boundary=\"{boundary}\""));
                line(out, "");
                for part in parts {
                    line(out, &format!("--{boundary}"));
                    part.write(out);
                }
                line(out, &format!("--{boundary}--"));
            }
        }
    }
}

impl Attachment {
    fn write(&self, out: &mut Vec<u8>) {
        let (how, id) = match &self.content_id {
            Some(id) => ("inline", Some(id)),
            None => ("attachment", None),
        };
        line(out, &format!("Content-Disposition: {how};{}", file_name(&self.name)));
        let media_type = &self.media_type;
        // For readers that know nothing of RFC 2231.
        let fallback = if is_plain(&self.name) {
            String::new()
        } else {
            format!(";\r\n name=\"{}\"", in_ascii(&self.name))
        };
        line(out, &format!("Content-Type: {media_type}{fallback}"));
        if let Some(id) = id {
            line(out, &format!("Content-ID: <{id}>"));
        }
        line(out, "Content-Transfer-Encoding: base64");
        line(out, "");
        out.reserve(self.content.len() / LINE_BYTES * 78 + 100);
        let mut encoded = [0; 76];
        for bytes in self.content.chunks(LINE_BYTES) {
            let length = STANDARD.encode_slice(bytes, &mut encoded).unwrap_or_default();
            out.extend_from_slice(&encoded[..length]);
            line(out, "");
        }
    }
}

fn line(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Parts the parts of a mail: from the row, like everything else.
fn boundary(kind: &str, message_id: &str) -> String {
    let hash = crate::sink::hash_parts([message_id.as_bytes(), kind.as_bytes()]);
    format!("{BOUNDARY}{}", crate::hex::hex(&hash[..16]))
}

/// A text that may be sent: the shortest encoding. One of several is never written as it is where it
/// might hold a boundary, which whoever knows the row can foresee.
fn encoded(text: String, is_alone: bool) -> Body {
    if !is_alone && text.contains(BOUNDARY) {
        let encoding = ContentTransferEncoding::QuotedPrintable;
        return Body::new_with_encoding(text, encoding).unwrap_or_else(Body::new);
    }
    Body::new(text)
}

/// Whether a file name can be written as it is, and every reader takes it as it is.
fn is_plain(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || " !#$&+-.,@^_`{}~()=[]".contains(c);
    name.len() <= PLAIN_MAX && name.chars().all(is_plain)
}

/// A file name for readers that know no better: in ASCII, and not longer than they bear.
fn in_ascii(name: &str) -> String {
    let plain = |c: char| if is_plain(c.encode_utf8(&mut [0; 4])) { c } else { '_' };
    let (head, ending) = name.rsplit_once('.').unwrap_or((name, ""));
    let ending = if ending.len() > 10 || ending.is_empty() { "" } else { &name[head.len()..] };
    let head = if ending.is_empty() { name } else { head };
    head.chars().take(PIECE_MAX).chain(ending.chars()).map(plain).collect()
}

/// The parameter for a file name, with the blank before it; in pieces where it is long (RFC 2231).
fn file_name(name: &str) -> String {
    if is_plain(name) {
        let fold = if name.len() > 40 { "\r\n" } else { "" };
        return format!("{fold} filename=\"{name}\"");
    }
    let mut pieces = vec![String::new()];
    for c in name.chars() {
        let mut written = String::new();
        if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') {
            written.push(c);
        } else {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                written.push('%');
                written.push_str(&crate::hex::hex(&[byte]).to_ascii_uppercase());
            }
        }
        if pieces.last().is_none_or(|piece| piece.len() + written.len() > PIECE_MAX) {
            pieces.push(String::new());
        }
        if let Some(last) = pieces.last_mut() {
            last.push_str(&written);
        }
    }
    if let [only] = &pieces[..] {
        return format!("\r\n filename*=utf-8''{only}");
    }
    let numbered = pieces.iter().enumerate().map(|(number, piece)| {
        let charset = if number == 0 { "utf-8''" } else { "" };
        format!("\r\n filename*{number}*={charset}{piece}")
    });
    numbered.collect::<Vec<_>>().join(";")
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

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, content_id: Option<&str>) -> Attachment {
        Attachment {
            name: name.to_owned(),
            media_type: "image/png".to_owned(),
            content_id: content_id.map(str::to_owned),
            content: b"png".to_vec(),
        }
    }

    fn written(html: Option<&str>, files: &[Attachment], text: &str) -> String {
        let mut out = Vec::new();
        Part::of(text, html, files, "msg_shop_42_mail@example.com").write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn parts_stand_within_each_other_as_readers_expect_them() {
        let [mixed, alternative, related] = ["mixed", "alternative", "related; type=\"text/html\""]
            .map(|kind| boundary(kind, "msg_shop_42_mail@example.com"));
        let files = [file("a.png", None), file("l.png", Some("logo"))];
        let expected = format!(
            "Content-Type: multipart/mixed;\r\n boundary=\"{mixed}\"\r\n\r\n\
             --{mixed}\r\n\
             Content-Type: multipart/alternative;\r\n boundary=\"{alternative}\"\r\n\r\n\
             --{alternative}\r\n\
             Content-Type: text/plain; charset=utf-8\r\n\
             Content-Transfer-Encoding: 7bit\r\n\r\n\
             text\r\n\
             --{alternative}\r\n\
             Content-Type: multipart/related; type=\"text/html\";\r\n boundary=\"{related}\"\r\n\r\n\
             --{related}\r\n\
             Content-Type: text/html; charset=utf-8\r\n\
             Content-Transfer-Encoding: 7bit\r\n\r\n\
             <p>html\r\n\
             --{related}\r\n\
             Content-Disposition: inline; filename=\"l.png\"\r\n\
             Content-Type: image/png\r\n\
             Content-ID: <logo>\r\n\
             Content-Transfer-Encoding: base64\r\n\r\n\
             cG5n\r\n\
             --{related}--\r\n\
             --{alternative}--\r\n\
             --{mixed}\r\n\
             Content-Disposition: attachment; filename=\"a.png\"\r\n\
             Content-Type: image/png\r\n\
             Content-Transfer-Encoding: base64\r\n\r\n\
             cG5n\r\n\
             --{mixed}--\r\n"
        );
        assert_eq!(written(Some("<p>html"), &files, "text"), expected);
        assert!(written(None, &files[..1], "text").starts_with("Content-Type: multipart/mixed;"));
        assert!(
            written(Some("x"), &[], "text").starts_with("Content-Type: multipart/alternative;")
        );
    }

    /// Whoever writes a payload can foresee the boundary: it must not become one.
    #[test]
    fn a_text_cannot_hold_a_boundary() {
        let alternative = boundary("alternative", "msg_shop_42_mail@example.com");
        let forged = format!("a\n--{alternative}\nContent-Type: text/html\n\n<b>forged\n");
        let written = written(Some("x"), &[], &forged);
        assert_eq!(written.matches(&format!("\r\n--{alternative}")).count(), 3, "{written}");
        assert!(written.contains("Content-Transfer-Encoding: quoted-printable"), "{written}");
    }

    #[test]
    fn names_are_written_so_that_each_reader_has_one() {
        for (name, disposition, fallback) in [
            ("invoice 1.pdf", " filename=\"invoice 1.pdf\"", ""),
            ("R\u{fc}ck.pdf", "\r\n filename*=utf-8''R%C3%BCck.pdf", ";\r\n name=\"R_ck.pdf\""),
            (
                "a\"b;c\\d.pdf",
                "\r\n filename*=utf-8''a%22b%3Bc%5Cd.pdf",
                ";\r\n name=\"a_b_c_d.pdf\"",
            ),
        ] {
            let written = written(None, &[file(name, None)], "t");
            let expected = format!(
                "\r\nContent-Disposition: attachment;{disposition}\r\nContent-Type: image/png{fallback}\r\n"
            );
            assert!(written.contains(&expected), "{written}");
        }
        let long = written(None, &[file(&"\u{e4}".repeat(200), None)], "t");
        assert!(long.contains("\r\n filename*0*=utf-8''%C3%A4"), "{long}");
        assert!(long.contains(";\r\n filename*19*="), "{long}");
        assert!(long.lines().all(|line| line.len() <= 90), "{long}");
    }

    #[test]
    fn files_are_base64_in_lines_of_76() {
        let mut long = file("a.png", None);
        long.content = (0..=255).cycle().take(1000).collect();
        let mut out = Vec::new();
        long.write(&mut out);
        let text = String::from_utf8(out).unwrap();
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(body.lines().rev().skip(1).all(|line| line.len() == 76), "{body}");
        assert_eq!(STANDARD.decode(body.replace("\r\n", "")).unwrap(), long.content);
    }
}
