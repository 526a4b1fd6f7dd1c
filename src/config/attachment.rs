//! `[[routes.attachments]]`: what goes along with a mail, and where its bytes are.

use std::path::{Component, Path, PathBuf};

use lettre::message::header::ContentType;

use super::item::Item;
use super::template::inline;
use super::{AttachmentConfig, AttachmentSource, SmtpConfig};
use crate::template::{Form, MESSAGE_VIEW, Template};

/// Most attachments of a mail.
const ATTACHMENTS_MAX: usize = 20;
const CONTENT_ID_MAX: usize = 100;

/// Reads the attachments of a mail, with HTML or without, for a sink.
pub(super) fn read(
    item: &Item,
    sink: Option<&SmtpConfig>,
    has_html: bool,
) -> Option<Vec<AttachmentConfig>> {
    if item.is_table() {
        item.fault("is a table", "write [[routes.attachments]] with two brackets");
        return None;
    }
    let blocks = item.list()?;
    if blocks.len() > ATTACHMENTS_MAX {
        item.fault(format!("has {} attachments", blocks.len()), format!("up to {ATTACHMENTS_MAX}"));
    }
    let mut all: Vec<AttachmentConfig> = Vec::new();
    for block in &blocks {
        let Some(one) = one(block, sink, has_html) else { continue };
        let same = |other: &AttachmentConfig| other.content_id == one.content_id;
        if one.content_id.is_some() && all.iter().any(same) {
            block.fault("has the same inline as another", "give each its own");
        }
        all.push(one);
    }
    Some(all)
}

/// `files` of a sink: a directory.
pub(super) fn directory(item: &Item) -> Option<PathBuf> {
    let path = item.path()?;
    if path.is_dir() {
        return Some(path);
    }
    item.fault(format!("{} is no directory", item.shown()), "name one that is there");
    None
}

fn one(block: &Item, sink: Option<&SmtpConfig>, has_html: bool) -> Option<AttachmentConfig> {
    let mut section = block.section()?;
    let name = section.need("name", "write name = \"invoice.pdf\"");
    let name = name.and_then(|item| line(&item));
    let media_type = section.get("type").and_then(|item| media_type(&item));
    let content_id = section.get("inline").and_then(|item| content_id(&item, has_html));
    let (base64, file) = (section.get("base64"), section.get("file"));
    if base64.is_none() && file.is_none() {
        section.missing("base64", "write base64 = \"{{ payload.pdf }}\" or file = \"NAME\"");
    }
    section.close();
    let source = match (base64, file) {
        (Some(_), Some(file)) => {
            file.fault("base64 is there too", "keep one of the two");
            return None;
        }
        (Some(item), None) => AttachmentSource::Base64(inline(&item, Form::Text, &MESSAGE_VIEW)?),
        (None, file) => AttachmentSource::File(file_below(&file?, sink)?),
    };
    Some(AttachmentConfig { name: name?, media_type, source, content_id })
}

fn line(item: &Item) -> Option<Template> {
    if item.text()?.contains(char::is_control) {
        item.fault("has a line break or another control character", "write one line");
    }
    inline(item, Form::Text, &MESSAGE_VIEW)
}

fn file_below(item: &Item, sink: Option<&SmtpConfig>) -> Option<Template> {
    if sink.is_some_and(|sink| sink.files.is_none()) {
        let problem = "is read below a directory that the sink does not have";
        item.fault(problem, "write files = \"DIRECTORY\" in [sinks.NAME]");
    }
    let text = item.text()?;
    let is_below = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    if !Path::new(&text).components().all(is_below) {
        item.fault(
            format!("{} leads out of the sink's files", item.shown()),
            "write a path below it, without .. and without / at its begin",
        );
    }
    line(item)
}

/// A media type; none that holds other parts, which would not be base64.
fn media_type(item: &Item) -> Option<String> {
    let text = item.text()?;
    let is_plain = text.chars().all(|c| c == ' ' || c.is_ascii_graphic());
    let known = is_plain && ContentType::parse(&text).is_ok();
    let low = text.to_ascii_lowercase();
    if !known || low.starts_with("multipart/") || low.starts_with("message/") || text.len() > 200 {
        let remedy = "write it like application/pdf; messages and multiparts cannot be attached";
        item.fault(format!("{} is no media type", item.shown()), remedy);
        return None;
    }
    Some(text)
}

fn content_id(item: &Item, has_html: bool) -> Option<String> {
    let text = item.text()?;
    let is_valid = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    if text.is_empty() || text.len() > CONTENT_ID_MAX || !text.chars().all(is_valid) {
        let remedy = format!("use up to {CONTENT_ID_MAX} of letters, digits, - _ . and @");
        item.fault(format!("{} is no content id", item.shown()), remedy);
        return None;
    }
    if !has_html {
        item.fault("is shown by HTML only", "write html, or leave out inline");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Content;
    use crate::config::testing::{SINKS, parse, refuses, refuses_each};

    const ROUTE: &str = "[[routes]]\ntype = \"a\"\nsink = \"mail\"\nto = \"a@b.example\"\n\
        subject = \"S\"\nhtml = \"T\"\n[[routes.attachments]]\n";
    const GOOD: &str = "name = \"a.pdf\"\nbase64 = \"{{ payload.pdf }}\"\n";

    fn sinks() -> String {
        SINKS.replace("from = ", "files = \".\"\nfrom = ")
    }

    #[test]
    fn an_attachment_has_its_bytes_in_the_payload_or_in_a_file() {
        let text = format!(
            "{}{ROUTE}{GOOD}[[routes.attachments]]\nname = \"{{{{ id }}}}.png\"\n\
             file = \"logos/{{{{ id }}}}.png\"\ntype = \"image/x-icon\"\ninline = \"logo\"\n",
            sinks()
        );
        let route = parse(&text).unwrap().routes.remove(0);
        let Content::Mail(mail) = &route.content else { panic!("no mail") };
        let [pdf, png] = &mail.attachments[..] else { panic!("not two") };
        assert!(matches!(pdf.source, AttachmentSource::Base64(_)) && pdf.media_type.is_none());
        assert!(matches!(png.source, AttachmentSource::File(_)));
        assert_eq!(png.media_type.as_deref(), Some("image/x-icon"));
        assert_eq!(png.content_id.as_deref(), Some("logo"));
        assert!(route.content.reads_files());
    }

    #[test]
    fn faults_of_attachments() {
        let out = |name: &str| {
            format!(
                "23: file: \"{name}\" leads out of the sink's files; \
                 write a path below it, without .. and without / at its begin"
            )
        };
        let no_type = |name: &str| {
            format!(
                "24: type: \"{name}\" is no media type; \
                 write it like application/pdf; messages and multiparts cannot be attached"
            )
        };
        let before = format!("{}{ROUTE}", sinks());
        let before = before.replace("html = \"T\"\n", "html = \"T\"\n\n");
        let changes: &[(&str, &str)] = &[
            ("name", "21: name: is missing; write name = \"invoice.pdf\""),
            (
                "base64",
                "21: base64: is missing; write base64 = \"{{ payload.pdf }}\" or file = \"NAME\"",
            ),
            ("file = \"a.pdf\"", "24: file: base64 is there too; keep one of the two"),
            ("base64\nfile = \"/etc/passwd\"", &out("/etc/passwd")),
            ("base64\nfile = \"a/../../b\"", &out("a/../../b")),
            ("type = \"pdf\"", &no_type("pdf")),
            ("type = \"message/rfc822\"", &no_type("message/rfc822")),
            (
                "inline = \"a b\"",
                "24: inline: \"a b\" is no content id; \
                 use up to 100 of letters, digits, - _ . and @",
            ),
            (
                "name = \"a\\nb\"",
                "23: name: has a line break or another control character; write one line",
            ),
            ("nmae = \"x\"", "24: nmae: is unknown; did you mean name?"),
        ];
        refuses_each(&before, "routes[0].attachments[0]", GOOD, changes);
    }

    #[test]
    fn faults_that_attachments_have_with_others() {
        let block = "[[routes.attachments]]\n";
        let twice = format!("{SINKS}{ROUTE}{GOOD}inline = \"a\"\n{block}{GOOD}inline = \"a\"\n");
        let fault = "outboxd.toml:23: routes[0].attachments[1]: has the same inline as another; \
            give each its own";
        refuses(&twice, &[fault]);
        let text = format!("{SINKS}{ROUTE}{GOOD}inline = \"a\"\n").replace("html", "text");
        let fault = "outboxd.toml:22: routes[0].attachments[0].inline: is shown by HTML only; \
            write html, or leave out inline";
        refuses(&text, &[fault]);
        let file = format!("{SINKS}{ROUTE}name = \"a\"\nfile = \"a\"\n");
        let fault = "outboxd.toml:21: routes[0].attachments[0].file: is read below a directory that \
            the sink does not have; write files = \"DIRECTORY\" in [sinks.NAME]";
        refuses(&file, &[fault]);
        let many =
            format!("{SINKS}{}{}", ROUTE.replace(block, ""), format!("{block}{GOOD}").repeat(21));
        let fault = "outboxd.toml:19: routes[0].attachments: has 21 attachments; up to 20";
        refuses(&many, &[fault]);
        let table = format!("{SINKS}{}[routes.attachments]\n{GOOD}", ROUTE.replace(block, ""));
        let fault = "outboxd.toml:19: routes[0].attachments: is a table; \
            write [[routes.attachments]] with two brackets";
        refuses(&table, &[fault]);
        let none = SINKS.replace("from = ", "files = \"nowhere\"\nfrom = ");
        let fault = "outboxd.toml:7: sinks.mail.files: \"nowhere\" is no directory; \
            name one that is there";
        refuses(&none, &[fault]);
    }
}
