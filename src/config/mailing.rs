//! `[sinks.NAME.mail]` and `[exports.NAME.mail]`: the mail that a published file goes out with.

use std::ops::RangeInclusive;

use super::item::Item;
use super::sink::{self, Kind, Kinds};
use super::{MailCatchUp, MailingConfig, mail};
use crate::name::Name;
use crate::template::{FILES_VIEW, Template};

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
