//! What a route makes of a message for a mail server: recipients, subject and text.

use lettre::message::Mailboxes;

use super::Mail;
use super::fault::Wrong;
use super::item::Item;
use super::read::Section;
use crate::template::{Localised, MESSAGE_VIEW, Template};

/// Addresses or templates for addresses one route may list.
const TO_MAX: usize = 100;
const JINJA: &str = "templates are written in Jinja, e.g. {{ payload.order_id }}";

/// Reads the keys that make a mail; all must be there.
pub(super) fn read(section: &mut Section) -> Option<Mail> {
    let to = section.need("to", "write to = \"{{ payload.email }}\"");
    let to = to.and_then(|item| recipients(item, &MESSAGE_VIEW));
    let subject = section.need("subject", "write subject = \"Your order\"");
    let subject = subject.and_then(|item| subject_line(&item, &MESSAGE_VIEW));
    let text = body(section, &MESSAGE_VIEW);
    if !section.has("text") && !section.has("text_template") {
        section.missing("text", "write text = \"…\" or text_template = \"FILE\"");
    }
    Some(Mail::new(to?, subject?, text?))
}

impl Mail {
    /// Plain text, everything else by default.
    #[must_use]
    pub fn new(to: Vec<Template>, subject: Template, text: Template) -> Mail {
        Mail {
            from: None,
            return_path: None,
            to,
            cc: Vec::new(),
            bcc: Vec::new(),
            reply_to: None,
            locale: None,
            subject: Localised::only(subject),
            text: Some(Localised::only(text)),
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
    let one = |item: &Item| {
        let text = item.text()?;
        // Without a placeholder the address is known now, and so is what is wrong with it.
        if !text.contains("{{") && !text.contains("{%") && !is_addresses(&text) {
            let remedy = "write office@example.com or {{ payload.email }}";
            item.fault(format!("{} is no mail address", item.shown()), remedy);
        }
        template(item, &text, view)
    };
    let templates: Vec<Option<Template>> = items.iter().map(one).collect();
    templates.into_iter().collect()
}

/// The subject.
pub(super) fn subject_line(item: &Item, view: &[&str]) -> Option<Template> {
    let text = item.text()?;
    if text.contains(['\r', '\n']) {
        item.fault("has more than one line", "a subject is one line");
    }
    template(item, &text, view)
}

/// The body: `text`, or the file that `text_template` names; none also where neither is written.
pub(super) fn body(section: &mut Section, view: &[&str]) -> Option<Template> {
    match (section.get("text"), section.get("text_template")) {
        (Some(_), Some(file)) => {
            file.fault("text is there too", "keep one of the two");
            None
        }
        (Some(text), None) => template(&text, &text.text()?, view),
        (None, Some(file)) => template(&file, &file.file()?, view),
        (None, None) => None,
    }
}

fn is_addresses(text: &str) -> bool {
    text.parse::<Mailboxes>().is_ok_and(|list| list.iter().next().is_some())
}

fn template(item: &Item, text: &str, view: &[&str]) -> Option<Template> {
    let template = Template::parse(text).map_err(|problem| item.fault(problem, JINJA)).ok()?;
    if let Some(name) = template.unknown(view) {
        item.fault(format!("sees no {name}"), format!("it sees {}", view.join(", ")));
    }
    Some(template)
}

#[cfg(test)]
mod tests {
    use super::*;
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
        assert!(fault.problem.ends_with("(template line 2)"), "{fault}");
    }

    #[test]
    fn faults_of_mails() {
        let many = format!("to = [{}]", "\"a@b.example\",".repeat(101));
        let jinja = |problem: &str| {
            format!("syntax error: unexpected {problem} (template line 1); {JINJA}")
        };
        let before = format!("{SINKS}[[routes]]\ntype = \"a\"\nsink = \"mail\"\n");
        let changes: &[(&str, &str)] = &[
            ("to", "13: to: is missing; write to = \"{{ payload.email }}\""),
            ("subject", "13: subject: is missing; write subject = \"Your order\""),
            ("text", "13: text: is missing; write text = \"…\" or text_template = \"FILE\""),
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
        ];
        refuses_each(&before, "routes[0]", MAIL, changes);
    }
}
