//! More headers of a mail, and the one that carries the idempotency key: their names.

use super::SmtpConfig;
use super::item::{Item, quote};
use super::template::inline;
use crate::template::{Form, MESSAGE_VIEW, Template};

/// Most headers that a route may add.
const HEADERS_MAX: usize = 20;
const NAME_MAX: usize = 70;

/// Headers that are ours, say what the others mean, or are written by servers on the way.
const OURS: [&str; 24] = [
    "apparently-to",
    "authentication-results",
    "auto-submitted",
    "bcc",
    "bounces-to",
    "cc",
    "date",
    "dkim-signature",
    "domainkey-signature",
    "envelope-to",
    "errors-to",
    "from",
    "list-unsubscribe",
    "list-unsubscribe-post",
    "message-id",
    "mime-version",
    "received",
    "received-spf",
    "reply-to",
    "return-path",
    "return-receipt-to",
    "sender",
    "subject",
    "to",
];
const FAMILIES: [&str; 3] = ["content-", "resent-", "arc-"];

/// Reads the headers that a route adds; none of them is the one of its sink.
pub(super) fn read(item: &Item, sink: Option<&SmtpConfig>) -> Option<Vec<(String, Template)>> {
    let section = item.section()?;
    let entries: Vec<(&str, Item)> = section.entries().collect();
    if entries.len() > HEADERS_MAX {
        section.fault(format!("has {} headers", entries.len()), format!("up to {HEADERS_MAX}"));
    }
    let sinks = sink.and_then(|sink| sink.idempotency_header.as_deref());
    let mut headers: Vec<(String, Template)> = Vec::new();
    for (name, value) in entries {
        check(name, &value);
        if sinks.is_some_and(|sinks| sinks.eq_ignore_ascii_case(name)) {
            value.fault("is the idempotency_header of the sink", "remove it");
        }
        if headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
            value.fault(format!("{} is there twice", quote(name)), "keep one of the two");
        }
        if value.text()?.contains(['\r', '\n']) {
            value.fault("has more than one line", "a header is one line");
        }
        headers.push((name.to_owned(), inline(&value, Form::Text, &MESSAGE_VIEW)?));
    }
    Some(headers)
}

/// The name of the header that carries the idempotency key.
pub(super) fn idempotency(item: &Item) -> Option<String> {
    let name = item.text()?;
    check(&name, item);
    Some(name)
}

/// Notes what is wrong with the name of a header.
fn check(name: &str, item: &Item) {
    let is_valid = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(is_valid) {
        let remedy = format!("use up to {NAME_MAX} of letters, digits, - and _");
        item.fault(format!("{} is no name of a header", quote(name)), remedy);
        return;
    }
    let name = name.to_ascii_lowercase();
    if OURS.contains(&&*name) || FAMILIES.iter().any(|family| name.starts_with(family)) {
        let remedy = "leave it to outboxd and the mail servers; some have a key of their own";
        item.fault(format!("{} is not free", quote(&name)), remedy);
    }
}

#[cfg(test)]
mod tests {
    use crate::config::testing::{SINKS, refuses_each};

    #[test]
    fn headers_that_are_not_free() {
        let before = format!("{SINKS}[[routes]]\ntype = \"a\"\nsink = \"mail\"\n");
        let good = "to = \"a@b.example\"\nsubject = \"S\"\ntext = \"T\"\n";
        let leave = "leave it to outboxd and the mail servers; some have a key of their own";
        let many: Vec<String> = (0..21).map(|n| format!("X-{n} = \"x\"")).collect();
        let many = format!("headers = {{ {} }}", many.join(", "));
        let taken = |name: &str| {
            let low = name.to_lowercase();
            let change = format!("headers = {{ {name} = \"x\" }}");
            (change, format!("19: headers.{name}: \"{low}\" is not free; {leave}"))
        };
        let names = ["From", "bcc", "Content-Type", "Resent-To", "DKIM-Signature", "Return-Path"];
        let names = names.map(taken);
        let mut changes: Vec<(&str, &str)> =
            names.iter().map(|(change, fault)| (&**change, &**fault)).collect();
        changes.extend([
            (
                "headers = { \"X Y\" = \"x\" }",
                "19: headers.\"X Y\": \"X Y\" is no name of a header; \
                 use up to 70 of letters, digits, - and _",
            ),
            (
                "headers = { X-A = \"1\", x-a = \"2\" }",
                "19: headers.x-a: \"x-a\" is there twice; keep one of the two",
            ),
            (
                "headers = { X-A = \"a\\nb\" }",
                "19: headers.X-A: has more than one line; a header is one line",
            ),
            ("headers = { X-A = 1 }", "19: headers.X-A: is an integer; write a string"),
            ("headers = \"X-A: 1\"", "19: headers: is a string; write a table"),
            (&many, "19: headers: has 21 headers; up to 20"),
        ]);
        refuses_each(&before, "routes[0]", good, &changes);
        let sinks = SINKS.replace("from = ", "idempotency_header = \"X-Key\"\nfrom = ");
        let before = format!("{sinks}[[routes]]\ntype = \"a\"\nsink = \"mail\"\n");
        let fault = "20: headers.x-key: is the idempotency_header of the sink; remove it";
        refuses_each(&before, "routes[0]", good, &[("headers = { x-key = \"1\" }", fault)]);
    }
}
