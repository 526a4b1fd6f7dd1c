//! `[sinks.NAME.mail]` and `[exports.NAME.mail]`: the mail that a published file goes out with.

use std::ops::RangeInclusive;

use super::item::Item;
use super::mail;
use super::sink::{self, Kind, Kinds};
use crate::name::Name;
use crate::template::{FILES_VIEW, Template};

/// `[sinks.NAME.mail]`: the mail that a published file goes out with, at most once.
#[derive(Debug)]
pub struct MailingConfig {
    /// The smtp sink whose server, login and sender it uses.
    pub sink: Name,
    /// 1 to 100; each an address or a comma-separated list.
    pub to: Vec<Template>,
    /// One line. Default `NAME {{ period }}`.
    pub subject: Template,
    /// The body, plain text. Default: one paragraph with the names, counts and hashes of the files.
    pub text: Option<Template>,
    /// How files that could not be mailed in time go out. Default together.
    pub catch_up: MailCatchUp,
    /// Largest mail, attachments encoded, in bytes. Default 20 MiB, up to 100 MiB.
    pub max_bytes: usize,
}

/// `catch_up` of a mail: what happens when several files wait, after an outage. Where the cut is at times
/// of the calendar and daily, not more than one mail goes out on one day, but under `each`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MailCatchUp {
    /// `together`: one mail carries them all.
    #[default]
    Together,
    /// `each`: a mail for each file, all at once.
    Each,
    /// `latest`: the newest file alone; the others stay on disk, and their mails are closed as discarded.
    Latest,
}

const CATCH_UPS: [(&str, MailCatchUp); 3] = [
    ("together", MailCatchUp::Together),
    ("each", MailCatchUp::Each),
    ("latest", MailCatchUp::Latest),
];

/// In bytes.
const SIZE_DEFAULT: usize = 20 * 1024 * 1024;
const SIZE: RangeInclusive<usize> = 64 * 1024..=100 * 1024 * 1024;

/// Reads the mail of the sink or export `name`.
pub(super) fn read(item: &Item, name: &str, kinds: &Kinds) -> Option<MailingConfig> {
    let mut section = item.section()?;
    let sink = section
        .need("sink", "write sink = \"NAME\", a sink of kind \"smtp\"")
        .and_then(|item| server(&item, kinds));
    let to = section
        .need("to", "write to = \"orders@example.com\"")
        .and_then(|item| mail::recipients(item, &FILES_VIEW));
    let subject = match section.get("subject") {
        Some(item) => mail::subject_line(&item, &FILES_VIEW),
        None => Template::parse(&format!("{name} {{{{ period }}}}")).ok(),
    };
    let text = mail::body(&mut section, &FILES_VIEW);
    let catch_up = section.get("catch_up").and_then(|item| item.choice(&CATCH_UPS));
    let max_bytes = section.get("max_size").and_then(|item| item.size(SIZE));
    section.close();
    Some(MailingConfig {
        sink: sink?,
        to: to?,
        subject: subject?,
        text,
        catch_up: catch_up.unwrap_or_default(),
        max_bytes: max_bytes.unwrap_or(SIZE_DEFAULT),
    })
}

/// The sink whose server the mail goes through.
fn server(item: &Item, kinds: &Kinds) -> Option<Name> {
    let text = item.text()?;
    match kinds.get(&text) {
        // What is wrong with the sink is told there.
        Some(Some(Kind::Smtp) | None) => Name::parse(&text).ok(),
        Some(Some(_)) => {
            item.fault(
                format!("{} is no mail server", item.shown()),
                "name a sink of kind \"smtp\"",
            );
            None
        }
        None => {
            sink::refuse_unknown(item, &text, kinds);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Way;
    use crate::config::testing::{SINKS, parse, refuses, refuses_each};

    const MAIL: &str = "sink = \"mail\"\nto = \"a@b.example\"\n";

    #[test]
    fn a_mail_of_files_has_defaults() {
        let config = parse(&format!("{SINKS}[sinks.file.mail]\n{MAIL}")).unwrap();
        let file = config.sinks.into_values().find(|sink| sink.name.as_str() == "file").unwrap();
        let Way::Csv(csv) = file.way else { panic!("not csv") };
        let mail = csv.mail.unwrap();
        assert_eq!((mail.sink.as_str(), mail.to.len(), mail.text.is_none()), ("mail", 1, true));
        assert_eq!((mail.catch_up, mail.max_bytes), (MailCatchUp::Together, 20 * 1024 * 1024));
        let view = [("period".to_owned(), "2026-11-20".into())].into();
        let subject = mail.subject.render(&crate::template::View::of_values(view));
        assert_eq!(subject.unwrap(), "file 2026-11-20");
    }

    #[test]
    fn faults_of_a_mail_of_files() {
        let sees = "it sees period, from, to, rows, files, sink";
        refuses_each(
            &format!("{SINKS}[sinks.file.mail]\n"),
            "sinks.file.mail",
            MAIL,
            &[
                ("sink", "13: sink: is missing; write sink = \"NAME\", a sink of kind \"smtp\""),
                (
                    "sink = \"crm\"",
                    "15: sink: \"crm\" is no mail server; name a sink of kind \"smtp\"",
                ),
                (
                    "sink = \"file\"",
                    "15: sink: \"file\" is no mail server; name a sink of kind \"smtp\"",
                ),
                ("sink = \"mial\"", "15: sink: there is no sink \"mial\"; did you mean \"mail\"?"),
                ("to", "13: to: is missing; write to = \"orders@example.com\""),
                ("to = []", "15: to: has 0 addresses; 1 to 100"),
                ("to = \"{{ payload.to }}\"", &format!("15: to: sees no payload; {sees}")),
                ("subject = \"{{ perriod }}\"", &format!("16: subject: sees no perriod; {sees}")),
                (
                    "text = \"x\"\ntext_template = \"x\"",
                    "17: text_template: text is there too; keep one of the two",
                ),
                (
                    "catch_up = \"all\"",
                    "16: catch_up: \"all\" is unknown; use \"together\", \"each\", \"latest\"",
                ),
                (
                    "max_size = \"20 MB\"",
                    "16: max_size: \"20 MB\" is no size; \
                     write it like \"512KB\" or \"20MB\"; 1MB is 1024 times 1024 bytes",
                ),
                ("max_size = \"1KB\"", "16: max_size: \"1KB\" is out of range; 64KB to 100MB"),
                ("max_size = 20", "16: max_size: is an integer; write a size, e.g. \"20MB\""),
                (
                    "html = \"x\"",
                    "16: html: is unknown; \
                     known here: sink, to, subject, text, text_template, catch_up, max_size",
                ),
            ],
        );
    }

    #[test]
    fn a_file_that_is_cut_by_rows_is_not_mailed() {
        let mail = format!("[sinks.file.mail]\n{MAIL}");
        let rows = format!("{SINKS}max_rows = 5\n{mail}");
        refuses(
            &rows,
            &["outboxd.toml:13: sinks.file.max_rows: does not go with a mail, \
               which is sent once for a period; write every alone"],
        );
        refuses(
            &rows.replace("every = \"1h\"\n", ""),
            &[
                "outboxd.toml:12: sinks.file.max_rows: does not go with a mail, \
                 which is sent once for a period; write every alone",
                "outboxd.toml:13: sinks.file.mail: goes out once for each period, and a file that is \
                 cut by rows has none; write every = \"24h\" or { at = …, time_zone = … }",
            ],
        );
    }
}
