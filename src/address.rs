//! Mail addresses as they stand in a header (RFC 5322 section 3.4): lists, names, quoted local parts,
//! address literals. Pure.
//!
//! Comments and groups are not read. Where people write names without quotes this is lenient, and
//! nowhere else: each address must be valid as a whole.

use core::net::{Ipv4Addr, Ipv6Addr};

use lettre::Address;
use lettre::message::Mailbox;

/// Reads a comma-separated list; empty places in it are passed over, as a loop in a template leaves them.
///
/// # Errors
/// When something in it is no address.
pub fn list(text: &str) -> Result<Vec<Mailbox>, NoAddress> {
    let parts = split(text).into_iter().map(str::trim).filter(|part| !part.is_empty());
    parts.map(one).collect()
}

/// Reads a single one: `shop@example.com` or `Shop <shop@example.com>`.
///
/// # Errors
/// When it is none, or several.
pub fn one(text: &str) -> Result<Mailbox, NoAddress> {
    let text = text.trim();
    let Some(inner) = text.strip_suffix('>') else {
        return Ok(Mailbox::new(None, address(text)?));
    };
    let open = outside_quotes(inner).find(|(_, c)| *c == '<').map(|(at, _)| at).ok_or(NoAddress)?;
    let name = name(&inner[..open])?;
    Ok(Mailbox::new(name, address(inner[open + 1..].trim())?))
}

/// It is no mail address; which one is not said, as it is somebody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a mail address")]
pub struct NoAddress;

/// The pieces between commas that separate addresses.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut is_inside) = (Vec::new(), 0, false);
    for (at, c) in outside_quotes(text) {
        match c {
            '<' | '[' => is_inside = true,
            '>' | ']' => is_inside = false,
            ',' if !is_inside => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// The characters that are in no quoted string, with their places.
fn outside_quotes(text: &str) -> impl Iterator<Item = (usize, char)> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    text.char_indices().filter(move |(_, c)| {
        let was_quoted = is_quoted;
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            _ => {}
        }
        !was_quoted && *c != '"'
    })
}

/// A display name without its quotes; none if nothing is left.
fn name(text: &str) -> Result<Option<String>, NoAddress> {
    let (mut name, mut is_quoted, mut chars) = (String::new(), false, text.chars());
    while let Some(c) = chars.next() {
        match c {
            '"' => is_quoted = !is_quoted,
            '\\' if is_quoted => name.push(chars.next().ok_or(NoAddress)?),
            '<' | '>' | '@' | ',' | ';' | ':' | '[' | ']' | '\\' if !is_quoted => {
                return Err(NoAddress);
            }
            other => name.push(other),
        }
    }
    if is_quoted {
        return Err(NoAddress);
    }
    let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
    Ok((!name.is_empty()).then_some(name))
}

fn address(text: &str) -> Result<Address, NoAddress> {
    let at = outside_quotes(text).filter(|(_, c)| *c == '@').last().ok_or(NoAddress)?.0;
    let (user, domain) = (&text[..at], &text[at + 1..]);
    if let Some(literal) = domain.strip_prefix('[') {
        let literal = literal.strip_suffix(']').ok_or(NoAddress)?;
        let is_one = match literal.strip_prefix("IPv6:") {
            Some(six) => six.parse::<Ipv6Addr>().is_ok(),
            None => literal.parse::<Ipv4Addr>().is_ok(),
        };
        if !is_one {
            return Err(NoAddress);
        }
    }
    Address::new(user, domain).map_err(|_| NoAddress)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(Option<String>, String)> {
        let list = list(text).unwrap_or_else(|_| panic!("{text}"));
        list.into_iter().map(|one| (one.name, one.email.to_string())).collect()
    }

    #[test]
    fn lists_names_quotes_and_literals() {
        let named = |name: &str, email: &str| (Some(name.to_owned()), email.to_owned());
        let bare = |email: &str| (None, email.to_owned());
        assert_eq!(
            read("a@x.example, B C <b@x.example>,, \"Doe, \\\"J\\\"\" <j@x.example> ,"),
            [bare("a@x.example"), named("B C", "b@x.example"), named("Doe, \"J\"", "j@x.example"),]
        );
        assert_eq!(
            read("M\u{fc}ller GmbH (Wien)  & Co. <m@x.example>"),
            [named("M\u{fc}ller GmbH (Wien) & Co.", "m@x.example")]
        );
        assert_eq!(read("\"john @ doe, a\"@x.example"), [bare("\"john @ doe, a\"@x.example")]);
        assert_eq!(
            read("<a@[192.0.2.1]>, b@[IPv6:2001:db8::1]"),
            [bare("a@[192.0.2.1]"), bare("b@[IPv6:2001:db8::1]")]
        );
        assert_eq!(read("j\u{f6}rg@ex\u{e4}mple.org"), [bare("j\u{f6}rg@ex\u{e4}mple.org")]);
        assert_eq!(read(" , "), []);
    }

    #[test]
    fn what_is_no_address() {
        for text in [
            "bob",
            "@x.example",
            "bob@",
            "a@x.example b@x.example",
            "a@x.example>, <b@x.example",
            "a@x.example <b@x.example>",
            "\"open <a@x.example>",
            "A <a@x.example",
            "A <<a@x.example>>",
            "A: a@x.example;",
            "a b@x.example",
            "a@b@x.example",
            "a@x..example",
            "a@[nowhere]",
            "a@x.example\r\nBcc: b@x.example",
        ] {
            assert_eq!(list(text), Err(NoAddress), "{text}");
        }
        assert!(one("a@x.example, b@x.example").is_err());
    }
}
