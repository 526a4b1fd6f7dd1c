//! What a route makes of a message for a mail server: who gets it, subject and bodies.

use super::fault::Wrong;
use super::item::Item;
use super::read::Section;
use super::template::{self, inline};
use super::{Mail, SmtpConfig, attachment, header};
use crate::address;
use crate::template::{Form, Localised, MESSAGE_VIEW, Template};

/// Addresses or templates for addresses one route may list.
const TO_MAX: usize = 100;

/// A part of a mail that stands in the config or in a file.
#[derive(Clone, Copy, PartialEq, Eq)]
struct PartKeys {
    inline: &'static str,
    file: &'static str,
    form: Form,
}

const SUBJECT: PartKeys =
    PartKeys { inline: "subject", file: "subject_template", form: Form::Text };
const TEXT: PartKeys = PartKeys { inline: "text", file: "text_template", form: Form::Text };

const HTML: PartKeys = PartKeys { inline: "html", file: "html_template", form: Form::Html };

/// Keys that make a mail.
pub(super) const KEYS: [&str; 16] = [
    "from",
    "return_path",
    "to",
    "cc",
    "bcc",
    "reply_to",
    "locale",
    "subject",
    "subject_template",
    "text",
    "text_template",
    "html",
    "html_template",
    "attachments",
    "list_unsubscribe",
    "headers",
];

/// Reads the keys that make a mail, for a sink; none where that has faults of its own. A key with a fault
/// is read like one that is absent: the fault is noted.
pub(super) fn read(section: &mut Section, sink: Option<&SmtpConfig>) -> Option<Mail> {
    let view = &MESSAGE_VIEW;
    let to = section.need("to", "write to = \"{{ payload.email }}\"");
    let to = to.and_then(|item| recipients(item, view));
    let mut more = |key| section.get(key).and_then(|item| recipients(item, view));
    let (cc, bcc) = (more("cc").unwrap_or_default(), more("bcc").unwrap_or_default());
    let from = section.get("from").and_then(|item| sender(&item));
    let return_path = section.get("return_path").and_then(|item| return_path(&item));
    let reply_to = section.get("reply_to").and_then(|item| addresses(&item, view));
    let headers = section.get("headers").and_then(|item| header::read(&item, sink));
    let unsubscribe = section.get("list_unsubscribe");
    let list_unsubscribe = unsubscribe.as_ref().and_then(list_unsubscribe);
    if let (Some(item), Some(to)) = (&unsubscribe, &to)
        && to.len() + cc.len() + bcc.len() > 1
    {
        let problem = "goes with a mail to one recipient, or one would unsubscribe another";
        item.fault(problem, "name one in to, without cc and bcc");
    }
    let (locale, parts) = parts(section);
    let files = section.get("attachments");
    let files = files.and_then(|item| attachment::read(&item, sink, parts.html.is_some()));
    Some(Mail {
        from,
        return_path,
        to: to?,
        cc,
        bcc,
        reply_to,
        locale,
        subject: parts.subject?,
        text: parts.text,
        html: parts.html,
        attachments: files.unwrap_or_default(),
        list_unsubscribe,
        headers: headers.unwrap_or_default(),
    })
}

/// What is read in a mail.
struct Parts {
    subject: Option<Localised>,
    text: Option<Localised>,
    html: Option<Localised>,
}

/// Reads subject and bodies, and in which language they are wanted.
fn parts(section: &mut Section) -> (Option<Template>, Parts) {
    let locale = section.get("locale");
    let language = locale.as_ref().and_then(|item| inline(item, Form::Text, &MESSAGE_VIEW));
    let all = [SUBJECT, TEXT, HTML];
    let [subject, text, html] = all.map(|keys| part(section, keys, locale.is_some()));
    let has = |keys: PartKeys| section.has(keys.inline) || section.has(keys.file);
    if !has(SUBJECT) {
        section.missing("subject", "write subject = \"Your order\" or subject_template = \"FILE\"");
    }
    if !has(TEXT) && !has(HTML) {
        section.missing(
            "text",
            "write text or html = \"…\", text_template or html_template = \"FILE\"",
        );
    }
    let written = all.into_iter().filter(|keys| has(*keys)).count();
    let read = all.into_iter().zip([&subject, &text, &html]);
    let read: Vec<_> = read.filter_map(|(keys, part)| Some((keys, part.as_ref()?))).collect();
    if let Some(locale) = locale.as_ref().filter(|_| read.len() == written) {
        has_variants(section, locale, &read);
    }
    (language, Parts { subject, text, html })
}

impl Mail {
    /// Plain text, everything else by default.
    #[must_use]
    pub fn new(
        to: Vec<Template>,
        subject: impl Into<Localised>,
        text: impl Into<Localised>,
    ) -> Mail {
        Mail {
            from: None,
            return_path: None,
            to,
            cc: Vec::new(),
            bcc: Vec::new(),
            reply_to: None,
            locale: None,
            subject: subject.into(),
            text: Some(text.into()),
            html: None,
            attachments: Vec::new(),
            list_unsubscribe: None,
            headers: Vec::new(),
        }
    }
}

/// The recipients; `view` are the names that the templates see.
pub(super) fn recipients(item: Item, view: &[&str]) -> Option<Vec<Template>> {
    let (line, path, source) = (item.line, item.path.clone(), item.source);
    let items = item.one_or_many()?;
    if items.is_empty() || items.len() > TO_MAX {
        let (problem, remedy) =
            (format!("has {} addresses", items.len()), format!("1 to {TO_MAX}"));
        source.fault(line, &path, Wrong::new(problem, remedy));
        return None;
    }
    let templates: Vec<Option<Template>> = items.iter().map(|item| addresses(item, view)).collect();
    templates.into_iter().collect()
}

/// One address, or a comma-separated list.
fn addresses(item: &Item, view: &[&str]) -> Option<Template> {
    let text = item.text()?;
    // Without a placeholder the address is known now, and so is what is wrong with it.
    if !is_template(&text) && address::list(&text).unwrap_or_default().is_empty() {
        no_address(item, "write office@example.com or {{ payload.email }}");
    }
    inline(item, Form::Text, view)
}

fn sender(item: &Item) -> Option<Template> {
    let text = item.text()?;
    if !is_template(&text) && address::one(&text).is_err() {
        no_address(item, "write shop@example.com or Shop <shop@example.com>");
    }
    inline(item, Form::Text, &MESSAGE_VIEW)
}

/// The sender in the envelope.
pub(super) fn return_path(item: &Item) -> Option<Template> {
    let text = item.text()?;
    let is_bare = |text: &str| address::one(text).is_ok_and(|path| path.name.is_none());
    if !is_template(&text) && text != "<>" && !is_bare(&text) {
        no_address(item, "write bounce+{{ id }}@example.com, or <> for nobody");
    }
    inline(item, Form::Text, &MESSAGE_VIEW)
}

fn list_unsubscribe(item: &Item) -> Option<Template> {
    let text = item.text()?;
    if !text.starts_with("{{") && !text.starts_with("{%") && !text.starts_with("https://") {
        item.fault(format!("{} is no https URL", item.shown()), "write https://…");
    }
    inline(item, Form::Text, &MESSAGE_VIEW)
}

fn no_address(item: &Item, remedy: &str) {
    item.fault(format!("{} is no mail address", item.shown()), remedy);
}

/// Whether a text is known only when it is rendered.
fn is_template(text: &str) -> bool {
    text.contains("{{") || text.contains("{%")
}

/// The subject of a mail of files.
pub(super) fn subject_line(item: &Item, view: &[&str]) -> Option<Template> {
    one_line(item, &item.text()?);
    inline(item, Form::Text, view)
}

fn one_line(item: &Item, text: &str) {
    if text.contains(['\r', '\n']) {
        item.fault("has more than one line", "a subject is one line");
    }
}

/// The body of a mail of files: `text`, or the file that `text_template` names; none also where neither is
/// written.
pub(super) fn body(section: &mut Section, view: &[&str]) -> Option<Template> {
    match one_of(section, TEXT)? {
        Place::Here(item) => inline(&item, Form::Text, view),
        Place::File(item) => template::file(&item, Form::Text, view),
    }
}

/// A part of a mail of a message, in all its languages where the route has a locale; none also where
/// neither key is written.
fn part(section: &mut Section, keys: PartKeys, languages: bool) -> Option<Localised> {
    let view = &MESSAGE_VIEW;
    let part = match one_of(section, keys)? {
        Place::Here(item) if keys == SUBJECT => subject_line(&item, view)?.into(),
        Place::Here(item) => inline(&item, keys.form, view)?.into(),
        Place::File(item) if languages => template::localised(&item, keys.form, view)?,
        Place::File(item) => template::file(&item, keys.form, view)?.into(),
    };
    Some(part)
}

/// Where a part stands.
enum Place<'a> {
    Here(Item<'a>),
    File(Item<'a>),
}

/// The one of two keys that is written.
fn one_of<'a>(section: &mut Section<'a>, keys: PartKeys) -> Option<Place<'a>> {
    match (section.get(keys.inline), section.get(keys.file)) {
        (Some(_), Some(file)) => {
            file.fault(format!("{} is there too", keys.inline), "keep one of the two");
            None
        }
        (Some(item), None) => Some(Place::Here(item)),
        (None, file) => file.map(Place::File),
    }
}

/// A route with a locale has a variant of at least one part.
fn has_variants(section: &mut Section, locale: &Item, parts: &[(PartKeys, &Localised)]) {
    if parts.iter().any(|(_, part)| part.has_variants()) {
        return;
    }
    let named = parts.iter().find_map(|(keys, _)| section.get(keys.file)?.text());
    let remedy = match named {
        Some(file) => {
            let [any, german] = ["LANGUAGE", "de"].map(|tag| template::variant_of(&file, tag));
            format!("beside {file}, {any} is looked for, e.g. {german}")
        }
        None => "name a file, text_template = \"order.txt\", and have an order.de.txt beside it"
            .to_owned(),
    };
    locale.fault("has no variant to choose", remedy);
}

#[cfg(test)]
mod tests {
    use crate::config::testing::{SINKS, parse_in, refuses_each};

    const MAIL: &str = "to = \"a@b.example\"\nsubject = \"S\"\ntext = \"T\"\n";

    #[test]
    fn a_template_may_stand_in_a_file() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.txt"), "{{ payload.a }} ${NOT_EXPANDED}").unwrap();
        std::fs::write(directory.path().join("bad.txt"), "\n{{ payload.").unwrap();
        let route = |file: &str| {
            let mail = MAIL.replace("text = \"T\"", &format!("text_template = \"{file}\""));
            let text = format!("{SINKS}[[routes]]\ntype = \"a\"\nsink = \"mail\"\n{mail}");
            parse_in(directory.path(), &text)
        };
        assert_eq!(route("a.txt").unwrap().routes.len(), 1);
        let fault = route("bad.txt").unwrap_err().faults.remove(0);
        assert_eq!((fault.line, &*fault.key), (18, "routes[0].text_template"));
        assert!(fault.problem.ends_with("(bad.txt line 2)"), "{fault}");
    }

    #[test]
    fn faults_of_mails() {
        let many = format!("to = [{}]", "\"a@b.example\",".repeat(101));
        let jinja = |problem: &str| {
            format!(
                "syntax error: unexpected {problem} (template line 1); \
                 templates are written in Jinja, e.g. {{{{ payload.order_id }}}}"
            )
        };
        let before = format!("{SINKS}[[routes]]\ntype = \"a\"\nsink = \"mail\"\n");
        let changes: &[(&str, &str)] = &[
            ("to", "13: to: is missing; write to = \"{{ payload.email }}\""),
            (
                "subject",
                "13: subject: is missing; \
                 write subject = \"Your order\" or subject_template = \"FILE\"",
            ),
            (
                "text",
                "13: text: is missing; \
                 write text or html = \"…\", text_template or html_template = \"FILE\"",
            ),
            ("to = []", "18: to: has 0 addresses; 1 to 100"),
            (&many, "18: to: has 101 addresses; 1 to 100"),
            ("to = 1", "18: to: is an integer; write a string or a list of strings"),
            ("to = [1]", "18: to[0]: is an integer; write a string"),
            (
                "to = \"office\"",
                "18: to: \"office\" is no mail address; \
                 write office@example.com or {{ payload.email }}",
            ),
            (
                "to = \"\"",
                "18: to: \"\" is no mail address; write office@example.com or {{ payload.email }}",
            ),
            ("subject = \"a\\nb\"", "18: subject: has more than one line; a subject is one line"),
            ("subject = \"{% if %}\"", &format!("18: subject: {}", jinja("end of block"))),
            ("text = \"{{\"", &format!("18: text: {}", jinja("end of input, expected expression"))),
            (
                "subject = \"{{ paylod.id }}\"",
                "18: subject: sees no paylod; \
                 it sees id, type, key, created_at, headers, payload",
            ),
            ("to = [\"{{ }}\"]", &format!("18: to[0]: {}", jinja("end of variable block"))),
            (
                "text\ntext_template = \"none.txt\"",
                "18: text_template: \"none.txt\" does not exist; \
                 paths start at the config file's directory",
            ),
            (
                "text = \"x\"\ntext_template = \"x\"",
                "19: text_template: text is there too; keep one of the two",
            ),
            (
                "subject = \"x\"\nsubject_template = \"x\"",
                "19: subject_template: subject is there too; keep one of the two",
            ),
            (
                "text\ntext_template = \"order.HTML\"",
                "18: text_template: \"order.HTML\" is HTML; \
                 name a file for plain text here, e.g. order.txt",
            ),
            (
                "text = \"{% include 'a' ~ 'b' %}\"",
                "18: text: a file must be named in quotes, so that it can be read before it is needed \
                 (template line 1); \
                 names start at [templates] root, by default the config file's directory",
            ),
        ];
        refuses_each(&before, "routes[0]", MAIL, changes);
    }

    #[test]
    fn faults_of_what_a_mail_may_have() {
        let before = format!("{SINKS}[[routes]]\ntype = \"a\"\nsink = \"mail\"\n");
        let changes: &[(&str, &str)] = &[
            (
                "locale = \"de\"",
                "19: locale: has no variant to choose; name a file, text_template = \"order.txt\", \
                 and have an order.de.txt beside it",
            ),
            ("cc = []", "19: cc: has 0 addresses; 1 to 100"),
            (
                "bcc = [\"b@c.example\", \"x\"]",
                "19: bcc[1]: \"x\" is no mail address; \
                 write office@example.com or {{ payload.email }}",
            ),
            (
                "from = \"a@b.example, c@b.example\"",
                "19: from: \"a@b.example, c@b.example\" is no mail address; \
                 write shop@example.com or Shop <shop@example.com>",
            ),
            (
                "return_path = \"A <a@b.example>\"",
                "19: return_path: \"A <a@b.example>\" is no mail address; \
                 write bounce+{{ id }}@example.com, or <> for nobody",
            ),
            (
                "reply_to = \"x\"",
                "19: reply_to: \"x\" is no mail address; \
                 write office@example.com or {{ payload.email }}",
            ),
            (
                "list_unsubscribe = \"mailto:u@b.example\"",
                "19: list_unsubscribe: \"mailto:u@b.example\" is no https URL; write https://…",
            ),
            (
                "list_unsubscribe = \"https://b.example\"\ncc = \"c@b.example\"",
                "19: list_unsubscribe: goes with a mail to one recipient, or one would unsubscribe \
                 another; name one in to, without cc and bcc",
            ),
            (
                "html = \"x\"\nhtml_template = \"x\"",
                "20: html_template: html is there too; keep one of the two",
            ),
            (
                "html = \"{{ paylod }}\"",
                "19: html: sees no paylod; it sees id, type, key, created_at, headers, payload",
            ),
        ];
        refuses_each(&before, "routes[0]", MAIL, changes);
    }
}
