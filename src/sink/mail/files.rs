//! A mail that carries files: what a cut has published, as attachments.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::compose::{Draft, compose};
use super::part::Attachment;
use super::{NoMail, PreparedMail, RECIPIENTS_MAX, named, one_line, recipients};
use crate::config::MailingConfig;
use crate::hex::hex;
use crate::sink::smtp::Smtp;
use crate::template::View;

/// A file that goes along.
#[derive(Clone, Debug)]
pub struct Attached {
    /// Where it is, by the config of now; the mail calls it after that.
    pub path: PathBuf,
    /// Where it was published: read if there is none at `path`, which may have changed since.
    pub published: PathBuf,
    /// What it is called after.
    pub period: String,
    /// Its rows.
    pub rows: i64,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256 in hex; a file that has another one is not sent.
    pub sha256: String,
    /// Begin of the span, where there is one.
    pub from: Option<Timestamp>,
    /// Its end.
    pub to: Timestamp,
}

/// A mail that carries files.
pub struct FilesMail<'a> {
    /// The sink or export whose files they are.
    pub name: &'a str,
    /// The mail's period: that of the last file.
    pub period: &'a str,
    /// The part before the `@` of its Message-ID.
    pub message_id: &'a str,
    /// Its date.
    pub date: Timestamp,
    /// At least one, the oldest first.
    pub files: &'a [Attached],
}

/// Renders the mail and reads its files; blocks while it does. The same row and the same files give the
/// same bytes.
///
/// # Errors
/// As [`NoMail`] tells apart.
pub fn prepare_files(
    smtp: &Smtp,
    config: &MailingConfig,
    mail: &FilesMail<'_>,
) -> Result<PreparedMail, NoMail> {
    // Base64 in lines of 76 takes 4 bytes and a CRLF's share for 3.
    let encoded = mail.files.iter().map(|file| file.bytes.saturating_mul(78) / 57).sum::<u64>();
    too_large(config, usize::try_from(encoded).unwrap_or(usize::MAX))?;
    let view = &View::of_values(values(mail));
    let to = named(recipients("to", &config.to, view, &mut { RECIPIENTS_MAX })?)?;
    let subject = one_line("subject", &config.subject, view)?;
    let text = match &config.text {
        Some(text) => text.render(view).map_err(|e| format!("text: {e}"))?,
        None => words(mail),
    };
    let letterhead = smtp.letterhead();
    let from = letterhead.from();
    let return_path = letterhead.return_path(from, &View::of_values(named_id(mail)))?;
    let files = mail.files.iter().map(attach).collect::<Result<_, _>>().map_err(NoMail::NotNow)?;
    let mut prepared = compose(Draft {
        from,
        return_path,
        to,
        cc: Vec::new(),
        bcc: Vec::new(),
        reply_to: Vec::new(),
        subject: &subject,
        text: &text,
        html: None,
        date: mail.date,
        message_id: &format!("{}@{}", mail.message_id, from.email.domain()),
        list_unsubscribe: None,
        headers: letterhead.idempotency(mail.message_id).into_iter().collect(),
        files,
    })?;
    prepared.sign(&letterhead.dkim)?;
    too_large(config, prepared.size())?;
    Ok(prepared)
}

fn too_large(config: &MailingConfig, bytes: usize) -> Result<(), NoMail> {
    if bytes <= config.max_bytes {
        return Ok(());
    }
    let max = config.max_bytes;
    Err(NoMail::Never(format!(
        "the mail is too large: about {bytes} bytes with its files encoded, max_size is {max}; the files \
         stay where they are. Hand them over another way and run: outboxd discard; or raise max_size \
         and run: outboxd retry"
    )))
}

fn values(mail: &FilesMail<'_>) -> BTreeMap<String, serde_json::Value> {
    let file = |file: &Attached| {
        json!({
            "name": name(file), "period": file.period, "rows": file.rows, "bytes": file.bytes,
            "sha256": file.sha256,
        })
    };
    let first = mail.files.first().and_then(|file| file.from);
    let last = mail.files.last().map(|file| file.to);
    let instant = |at: Option<Timestamp>| at.map(|at| at.to_string());
    let fields = [
        ("sink", json!(mail.name)),
        ("period", json!(mail.period)),
        ("from", json!(instant(first))),
        ("to", json!(instant(last))),
        ("rows", json!(mail.files.iter().map(|file| file.rows).sum::<i64>())),
        ("files", mail.files.iter().map(file).collect()),
    ];
    fields.map(|(name, value)| (name.to_owned(), value)).into()
}

/// What the sink's `return_path` sees in the place of a message's id.
fn named_id(mail: &FilesMail<'_>) -> BTreeMap<String, serde_json::Value> {
    BTreeMap::from([("id".to_owned(), json!(mail.message_id))])
}

/// The body where the config has none.
fn words(mail: &FilesMail<'_>) -> String {
    let first = mail.files.first().map(|file| &*file.period).filter(|first| *first != mail.period);
    let mut text = match first {
        Some(first) => format!("{} {first} to {}\n", mail.name, mail.period),
        None => format!("{} {}\n", mail.name, mail.period),
    };
    for file in mail.files {
        let rows = if file.rows == 1 { "row" } else { "rows" };
        let (name, count, hash) = (name(file), file.rows, &file.sha256);
        let _ = write!(text, "\n{name}\n{count} {rows}\nSHA-256 {hash}\n");
    }
    text
}

fn name(file: &Attached) -> String {
    file.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn attach(file: &Attached) -> Result<Attachment, String> {
    let path = file.path.display();
    let mut content = Vec::new();
    // No more than it had: somebody may be writing to it.
    let open =
        File::open(&file.path).or_else(|error| File::open(&file.published).map_err(|_| error));
    let read =
        open.and_then(|open| open.take(file.bytes.saturating_add(1)).read_to_end(&mut content));
    read.map_err(|error| {
        format!(
            "cannot read {path}: {error}; put it back, or let this relay see the directory that the \
             file was published in"
        )
    })?;
    if hex(&Sha256::digest(&content)) != file.sha256 {
        return Err(format!(
            "{path} is not the file that was published: its SHA-256 is another one"
        ));
    }
    let media_type = "text/csv; charset=utf-8".to_owned();
    Ok(Attachment { name: name(file), media_type, content_id: None, content })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(period: &str, rows: i64) -> Attached {
        Attached {
            path: format!("out/orders-{period}.csv").into(),
            published: PathBuf::new(),
            period: period.to_owned(),
            rows,
            bytes: 1,
            sha256: "f00d".to_owned(),
            from: None,
            to: Timestamp::UNIX_EPOCH,
        }
    }

    fn words_of(files: &[Attached]) -> String {
        words(&FilesMail {
            name: "orders",
            period: "2026-11-20",
            message_id: "export_shop_orders_2026-11-20",
            date: Timestamp::UNIX_EPOCH,
            files,
        })
    }

    #[test]
    fn the_words_name_each_file_under_the_periods_that_they_are_of() {
        let day = "orders 2026-11-20\n\norders-2026-11-20.csv\n1 row\nSHA-256 f00d\n";
        assert_eq!(words_of(&[file("2026-11-20", 1)]), day);
        let week =
            "orders 2026-11-14 to 2026-11-20\n\norders-2026-11-14.csv\n2 rows\nSHA-256 f00d\n";
        let said = words_of(&[file("2026-11-14", 2), file("2026-11-20", 1)]);
        assert!(said.starts_with(week), "{said}");
    }
}
