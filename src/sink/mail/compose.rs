//! The bytes of a mail: its headers as RFC 5322 has them, then its parts.
//!
//! lettre encodes what stands in a header and in a text, and no more: its builder reads the addresses
//! again with a parser that knows neither address literals nor quoted local parts, and puts headers of
//! ours where it likes.

use jiff::Timestamp;
use lettre::Address;
use lettre::message::header::{
    Cc, Date, From, HeaderName, HeaderValue, Headers, MIME_VERSION_1_0, MessageId, ReplyTo,
    Subject, To,
};
use lettre::message::{Mailbox, Mailboxes};

use super::PreparedMail;
use super::part::{Attachment, Part};

/// Longest line, without its CRLF (RFC 5322 section 2.1.1).
const LINE_MAX: usize = 998;

/// What a mail is made of. Nothing here has a control character but the texts and the files.
pub(super) struct Draft<'a> {
    pub from: &'a Mailbox,
    /// None for the null sender.
    pub return_path: Option<Address>,
    /// At least one.
    pub to: Vec<Mailbox>,
    pub cc: Vec<Mailbox>,
    pub bcc: Vec<Mailbox>,
    pub reply_to: Vec<Mailbox>,
    pub subject: &'a str,
    pub text: &'a str,
    pub html: Option<&'a str>,
    pub date: Timestamp,
    /// Without its angle brackets.
    pub message_id: &'a str,
    /// In ASCII.
    pub list_unsubscribe: Option<&'a str>,
    /// Names that are valid, and none of ours.
    pub headers: Vec<(String, String)>,
    pub files: Vec<Attachment>,
}

/// Writes a mail.
pub(super) fn compose(draft: Draft<'_>) -> Result<PreparedMail, String> {
    let mut data = head(&draft)?.into_bytes();
    let Draft { from, return_path, to, cc, bcc, reply_to, text, html, message_id, files, .. } =
        draft;
    Part::of(text, html, &files, message_id).write(&mut data);
    if !data.ends_with(b"\r\n") {
        data.extend_from_slice(b"\r\n");
    }
    let to = each_once([to, cc, bcc].into_iter().flatten());
    let is_wide = |address: &Address| !AsRef::<str>::as_ref(address).is_ascii();
    let named = reply_to.iter().map(|mailbox| &mailbox.email).chain([&from.email]);
    let utf8 = named.chain(&return_path).chain(&to).any(is_wide);
    Ok(PreparedMail {
        id: message_id.split('@').next().unwrap_or_default().to_owned(),
        from: return_path,
        to,
        from_domain: from.email.domain().to_owned(),
        utf8,
        made_sender: false,
        signatures: Vec::new(),
        data,
    })
}

/// The addresses of an envelope. A domain means the same in small letters, a local part may not.
fn each_once(mailboxes: impl Iterator<Item = Mailbox>) -> Vec<Address> {
    let mut seen = std::collections::BTreeSet::new();
    let once = |address: &Address| {
        seen.insert((address.user().to_owned(), address.domain().to_ascii_lowercase()))
    };
    mailboxes.map(|mailbox| mailbox.email).filter(once).collect()
}

/// The headers but those of the first part.
fn head(draft: &Draft<'_>) -> Result<String, String> {
    let list = |mailboxes: &[Mailbox]| mailboxes.iter().cloned().collect::<Mailboxes>();
    let mut headers = Headers::new();
    headers.set(From::from(Mailboxes::from(draft.from.clone())));
    headers.set(Subject::from(draft.subject.to_owned()));
    headers.set(Date::new(std::time::SystemTime::from(draft.date)));
    headers.set(MessageId::from(format!("<{}>", draft.message_id)));
    // Tells responders (out of office and the like) not to answer (RFC 3834 section 5).
    headers.insert_raw(as_it_is("Auto-Submitted", "auto-generated"));
    headers.set(To::from(list(&draft.to)));
    if !draft.cc.is_empty() {
        headers.set(Cc::from(list(&draft.cc)));
    }
    if !draft.reply_to.is_empty() {
        headers.set(ReplyTo::from(list(&draft.reply_to)));
    }
    if let Some(url) = draft.list_unsubscribe {
        // On one line: a URL that is folded is another one.
        headers.insert_raw(as_it_is("List-Unsubscribe", &format!("<{url}>")));
        headers.insert_raw(as_it_is("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"));
    }
    for (name, value) in &draft.headers {
        let valid = HeaderName::new_from_ascii(name.clone());
        let valid = valid.map_err(|_| format!("{name}: it is no name of a header"))?;
        headers.insert_raw(HeaderValue::new(valid, value.clone()));
    }
    headers.set(MIME_VERSION_1_0);
    let mut text = headers.to_string();
    if too_long(&text).is_some() {
        text = one_line_each(&text);
    }
    // A header's word without a blank cannot be folded.
    match too_long(&text) {
        Some(name) => Err(format!("{name}: a word is too long for a mail")),
        None => Ok(text),
    }
}

fn as_it_is(name: &'static str, value: &str) -> HeaderValue {
    let name = HeaderName::new_from_ascii_str(name);
    HeaderValue::dangerous_new_pre_encoded(name, value.to_owned(), value.to_owned())
}

/// The header that has too long a line, as it is called in the config.
fn too_long(headers: &str) -> Option<String> {
    let mut name = "";
    for line in headers.split("\r\n") {
        if !line.starts_with(' ') {
            name = line.split(':').next().unwrap_or_default();
        }
        if line.len() > LINE_MAX {
            return Some(name.to_ascii_lowercase().replace('-', "_"));
        }
    }
    None
}

/// Gives each address a line of its own: lettre writes them all on one.
fn one_line_each(headers: &str) -> String {
    const LISTS: [&str; 3] = ["To: ", "Cc: ", "Reply-To: "];
    let (mut out, mut is_list) = (String::with_capacity(headers.len() * 2), false);
    for line in headers.split_inclusive("\r\n") {
        if !line.starts_with(' ') {
            is_list = LISTS.iter().any(|name| line.starts_with(name));
        }
        let mut last = ' ';
        for c in line.chars() {
            // A blank after a comma may be folded, also within quotes.
            if is_list && last == ',' && c == ' ' {
                out.push_str("\r\n");
            }
            out.push(c);
            last = c;
        }
    }
    out
}
