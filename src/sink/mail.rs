//! Mails: a message and its route's templates become the bytes that are sent.
//!
//! Nothing here looks at a clock or a random number: date, id and boundaries derive from the row, so
//! every attempt sends the same bytes. That is what a server's own search for repeats goes by.

mod attach;
mod compose;
mod dkim;
mod files;
mod part;
mod plain;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use lettre::Address;
use lettre::message::Mailbox;

use self::compose::{Draft, compose};
pub use self::files::{Attached, FilesMail, prepare_files};
use crate::address;
use crate::config::{DkimConfig, Mail, SmtpConfig};
use crate::message::{IdempotencyKey, Message};
use crate::template::{Localised, Template, View};

/// Largest payload that mails are made of, in bytes. Read for templates it takes up to thirty times its
/// size in memory.
const PAYLOAD_MAX: usize = 4 * 1024 * 1024;
/// Most recipients of one mail, as mail servers have it by default.
const RECIPIENTS_MAX: usize = 1_000;
/// Longest URL to unsubscribe by, in bytes: it stands on one line of at most 998.
const URL_MAX: usize = 900;

/// What a sink says of all its mails.
pub struct Letterhead {
    /// In the form that every server takes.
    from: Mailbox,
    return_path: Option<Arc<Template>>,
    idempotency_header: Option<String>,
    files: Option<PathBuf>,
    dkim: Vec<DkimConfig>,
}

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

    /// Headers and body without signatures, lines ended by CRLF, all ASCII but for headers where SMTPUTF8 is
    /// needed, without the dots SMTP adds.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// All of it as it is sent: its signatures, then [`PreparedMail::data`].
    #[must_use]
    pub fn whole(&self) -> Vec<u8> {
        [&*self.signatures, &*self.data].concat()
    }

    /// How many bytes are sent, without the dots SMTP adds.
    #[must_use]
    pub fn size(&self) -> usize {
        self.signatures.len() + self.data.len()
    }

    /// Signs it with each of these keys.
    ///
    /// # Errors
    /// When a key signs nothing, which a config refuses.
    pub(super) fn sign(&mut self, keys: &[DkimConfig]) -> Result<(), String> {
        self.signatures = dkim::signatures(keys, &self.data)?;
        Ok(())
    }

    /// SHA-256 over envelope, headers and body; not over signatures: a new key makes no other mail.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        let addresses = std::iter::once(self.from()).chain(self.to());
        super::hash_parts(addresses.map(str::as_bytes).chain([self.data()]))
    }
}

/// Why there is no mail, in words for an operator; they name no value of the message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoMail {
    /// None can be made of this message and this config, however often it is tried.
    #[error("{0}")]
    Never(String),
    /// A file is not there, or is another one: it may be put back.
    #[error("{0}")]
    NotNow(String),
}

impl From<String> for NoMail {
    fn from(reason: String) -> NoMail {
        NoMail::Never(reason)
    }
}

impl Letterhead {
    /// Reads what a config says.
    ///
    /// # Errors
    /// When its sender cannot be written into a mail.
    pub(super) fn of(way: &SmtpConfig) -> Result<Letterhead, String> {
        let from = to_ascii(way.from.clone()).map_err(|e| format!("from: {e}"))?;
        if from.name.as_ref().is_some_and(|name| name.chars().any(char::is_control)) {
            return Err("from: a control character in the name".to_owned());
        }
        Ok(Letterhead {
            from,
            return_path: way.return_path.clone(),
            idempotency_header: way.idempotency_header.clone(),
            files: way.files.clone(),
            dkim: way.dkim.clone(),
        })
    }

    /// `From:` of the mails that say nothing else.
    pub(super) fn from(&self) -> &Mailbox {
        &self.from
    }

    /// The envelope's sender of a mail whose route says nothing of it; none for the null sender.
    fn return_path(&self, from: &Mailbox, view: &View) -> Result<Option<Address>, String> {
        match &self.return_path {
            Some(template) => return_path(template, view),
            None => Ok(Some(from.email.clone())),
        }
    }

    /// The header for providers that know repeats by one.
    fn idempotency(&self, key: &str) -> Option<(String, String)> {
        self.idempotency_header.clone().map(|name| (name, key.to_owned()))
    }
}

/// The bytes of the files that [`prepare`] would read for a message, as they are now.
pub(super) fn weigh(
    letterhead: &Letterhead,
    content: &Mail,
    message: &Message,
) -> Result<u64, NoMail> {
    attach::weigh(&content.attachments, letterhead.files.as_deref(), &view(message)?)
}

/// The domain in `From:`, where it holds nothing of a message.
pub(super) fn sender_domain(letterhead: &Letterhead, content: &Mail) -> Option<String> {
    let from = match &content.from {
        None => letterhead.from.clone(),
        Some(template) if template.unknown(&[]).is_none() => {
            sender(template, &View::of_values(BTreeMap::new())).ok()?
        }
        Some(_) => return None,
    };
    Some(from.email.domain().to_owned())
}

/// Renders a mail.
///
/// # Errors
/// Why no mail can be made of this message, or not now.
pub(super) fn prepare(
    letterhead: &Letterhead,
    content: &Mail,
    message: &Message,
    key: &IdempotencyKey,
) -> Result<PreparedMail, NoMail> {
    let view = &view(message)?;
    let from = match &content.from {
        Some(template) => sender(template, view)?,
        None => letterhead.from.clone(),
    };
    let return_path = match &content.return_path {
        Some(template) => return_path(template, view)?,
        None => letterhead.return_path(&from, view)?,
    };
    let mut room = RECIPIENTS_MAX;
    let to = recipients("to", &content.to, view, &mut room)?;
    let cc = recipients("cc", &content.cc, view, &mut room)?;
    let bcc = recipients("bcc", &content.bcc, view, &mut room)?;
    let reply_to =
        recipients("reply_to", content.reply_to.as_slice(), view, &mut { RECIPIENTS_MAX })?;
    let locale = locale(content, view)?;
    let subject = one_line("subject", content.subject.variant(locale.as_deref()), view)?;
    let (text, html) = bodies(content, locale.as_deref(), view)?;
    let list_unsubscribe = content.list_unsubscribe.as_ref();
    let list_unsubscribe = list_unsubscribe.map(|url| unsubscribe(url, view)).transpose()?;
    let mut headers: Vec<_> = letterhead.idempotency(&key.to_string()).into_iter().collect();
    headers.extend(more_headers(content, view)?);
    let files = attach::read(&content.attachments, letterhead.files.as_deref(), view)?;
    let mut prepared = compose(Draft {
        from: &from,
        return_path,
        to: named(to)?,
        cc,
        bcc,
        reply_to,
        subject: &subject,
        text: &text,
        html: html.as_deref(),
        date: message.created_at,
        message_id: &format!("{key}@{}", from.email.domain()),
        list_unsubscribe: list_unsubscribe.as_deref(),
        headers,
        files,
    })?;
    if list_unsubscribe.is_some() && prepared.to.len() > 1 {
        let reason = "list_unsubscribe: the mail has several recipients, and one of them would \
                      unsubscribe another; send each a mail of its own";
        return Err(NoMail::Never(reason.to_owned()));
    }
    let sender = content.return_path.as_ref().or(letterhead.return_path.as_deref());
    prepared.made_sender = sender.or(content.from.as_ref()).is_some_and(Template::asks_message);
    prepared.sign(&letterhead.dkim)?;
    Ok(prepared)
}

/// What the templates of a message see.
fn view(message: &Message) -> Result<View, String> {
    if message.payload.len() > PAYLOAD_MAX {
        return Err(format!(
            "the payload is too large for a mail: more than {PAYLOAD_MAX} bytes; large attachments go \
             as files"
        ));
    }
    View::of(message)
}

/// The text, derived where there is none, and the HTML.
fn bodies(
    content: &Mail,
    locale: Option<&str>,
    view: &View,
) -> Result<(String, Option<String>), String> {
    let render = |body: &Localised, key: &str| {
        body.variant(locale).render(view).map_err(|e| format!("{key}: {e}"))
    };
    let html = content.html.as_ref().map(|html| render(html, "html")).transpose()?;
    let text = match (&content.text, &html) {
        (Some(text), _) => render(text, "text")?,
        (None, Some(html)) => plain::of_html(html),
        (None, None) => return Err("text: there is none, and no html".to_owned()),
    };
    Ok((text, html))
}

/// More headers, those left out that come to nothing.
fn more_headers(content: &Mail, view: &View) -> Result<Vec<(String, String)>, String> {
    let mut headers = Vec::new();
    for (name, template) in &content.headers {
        let value = one_line(&format!("headers.{name}"), template, view)?;
        if !value.is_empty() {
            headers.push((name.clone(), value));
        }
    }
    Ok(headers)
}

/// The URL that unsubscribes a recipient, as it stands in a header.
fn unsubscribe(template: &Template, view: &View) -> Result<String, String> {
    let text = one_line("list_unsubscribe", template, view)?;
    let url = url::Url::parse(&text).ok().filter(|url| url.scheme() == "https");
    let url = url.ok_or("list_unsubscribe: it is no https URL")?;
    if url.as_str().len() > URL_MAX {
        return Err(format!("list_unsubscribe: it is longer than {URL_MAX} characters"));
    }
    if url.as_str().contains(['<', '>', ' ']) || !url.as_str().is_ascii() {
        return Err("list_unsubscribe: it has a character that ends it".to_owned());
    }
    Ok(url.into())
}

/// Gives an address the form that every mail server takes: the domain in A-labels. What stands before
/// the `@` has no such form; where it is not ASCII the mail needs SMTPUTF8.
///
/// # Errors
/// When the domain is none.
pub(super) fn to_ascii(mailbox: Mailbox) -> Result<Mailbox, String> {
    let (user, domain) = (mailbox.email.user(), mailbox.email.domain());
    if domain.is_ascii() {
        return Ok(mailbox);
    }
    let Ok(url::Host::Domain(domain)) = url::Host::parse(domain) else {
        return Err("an address has no valid domain".to_owned());
    };
    let email = Address::new(user, domain).map_err(|_| "an address is not valid".to_owned())?;
    Ok(Mailbox::new(mailbox.name, email))
}

/// The language that the mail is wanted in.
fn locale(content: &Mail, view: &View) -> Result<Option<String>, String> {
    let locale = content.locale.as_ref().map(|locale| locale.render(view));
    locale.transpose().map_err(|e| format!("locale: {e}"))
}

/// What a template comes to where nothing but one line may stand.
fn one_line(key: &str, template: &Template, view: &View) -> Result<String, String> {
    let text = template.render(view).map_err(|e| format!("{key}: {e}"))?;
    let text = text.trim();
    if text.chars().any(char::is_control) {
        return Err(format!("{key}: it has a line break or another control character"));
    }
    Ok(text.to_owned())
}

fn sender(template: &Template, view: &View) -> Result<Mailbox, String> {
    let from = address::one(&one_line("from", template, view)?);
    let from = from.map_err(|_| "from: not one mail address".to_owned())?;
    to_ascii(from).map_err(|e| format!("from: {e}"))
}

/// The envelope's sender; none for `<>`.
fn return_path(template: &Template, view: &View) -> Result<Option<Address>, String> {
    let text = one_line("return_path", template, view)?;
    if text == "<>" {
        return Ok(None);
    }
    let path = address::one(&text).ok().filter(|path| path.name.is_none());
    let path = path.ok_or("return_path: neither a mail address nor <>")?;
    Ok(Some(to_ascii(path).map_err(|e| format!("return_path: {e}"))?.email))
}

/// The addresses that templates come to, at most as many as there is room for.
fn recipients(
    key: &str,
    templates: &[Template],
    view: &View,
    room: &mut usize,
) -> Result<Vec<Mailbox>, String> {
    let mut all = Vec::new();
    for template in templates {
        let list = one_line(key, template, view)?;
        let list =
            address::list(&list).map_err(|_| format!("{key}: not a list of mail addresses"))?;
        *room = room.checked_sub(list.len()).ok_or_else(|| {
            format!(
                "{key}: it names more than there is room for: {RECIPIENTS_MAX} addresses in a mail; send several"
            )
        })?;
        for mailbox in list {
            all.push(to_ascii(mailbox).map_err(|e| format!("{key}: {e}"))?);
        }
    }
    Ok(all)
}

/// Whoever stands in `To:`; a mail without them looks like what is sent by nobody to everybody.
fn named(to: Vec<Mailbox>) -> Result<Vec<Mailbox>, String> {
    if to.is_empty() {
        return Err("to: it names nobody".to_owned());
    }
    Ok(to)
}
