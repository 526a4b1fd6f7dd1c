//! HTML in pieces: tags and what is between them, as far as a mail's text asks for it.

use super::entity::decoded;

/// A piece of HTML.
pub(super) enum Token<'a> {
    /// As written, entities and all.
    Text(&'a str),
    Open(Tag<'a>),
    /// The name, in lower case.
    Close(String),
}

/// The begin of an element.
pub(super) struct Tag<'a> {
    /// In lower case.
    pub name: String,
    attributes: &'a str,
}

/// The pieces of a text, in order. What never ends is left out.
pub(super) fn tokens(html: &str) -> impl Iterator<Item = Token<'_>> {
    let mut rest = html;
    std::iter::from_fn(move || {
        loop {
            if rest.is_empty() {
                return None;
            }
            let Some(markup) = rest.strip_prefix('<').filter(|after| is_markup(after)) else {
                // A `<` that begins nothing is text.
                let length = find_after_first(rest, |c| c == '<');
                return Some(Token::Text(take(&mut rest, length)));
            };
            if let Some(comment) = markup.strip_prefix("!--") {
                rest = comment.split_once("-->").map_or("", |(_, after)| after);
                continue;
            }
            let Some(length) = tag_length(markup) else {
                rest = "";
                return None;
            };
            let tag = &markup[..length];
            rest = &markup[length + 1..];
            if tag.starts_with(['!', '?']) {
                continue;
            }
            let is_close = tag.starts_with('/');
            let tag = tag.trim_start_matches('/');
            let end = tag.find(|c: char| c.is_whitespace() || c == '/').unwrap_or(tag.len());
            let name = tag[..end].to_ascii_lowercase();
            if is_close {
                return Some(Token::Close(name));
            }
            if matches!(&*name, "script" | "style" | "title" | "textarea") {
                rest = after_raw(rest, &name);
                continue;
            }
            return Some(Token::Open(Tag { name, attributes: &tag[end..] }));
        }
    })
}

fn take<'a>(rest: &mut &'a str, length: usize) -> &'a str {
    let (taken, after) = rest.split_at(length);
    *rest = after;
    taken
}

/// Where the first such character is, the very first one left out; else the end.
fn find_after_first(text: &str, is_it: impl Fn(char) -> bool) -> usize {
    text.char_indices().skip(1).find(|(_, c)| is_it(*c)).map_or(text.len(), |(at, _)| at)
}

fn is_markup(after: &str) -> bool {
    let after = after.strip_prefix('/').unwrap_or(after);
    after.starts_with(|c: char| c.is_ascii_alphabetic() || c == '!' || c == '?')
}

/// Up to the `>` that is in no quotes.
fn tag_length(tag: &str) -> Option<usize> {
    let mut quote = None;
    // Only a quote right after `=` begins a value.
    let mut is_value = false;
    for (at, byte) in tag.bytes().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Some(at),
            (None, b'"' | b'\'') if is_value => quote = Some(byte),
            (Some(open), byte) if open == byte => quote = None,
            _ => {}
        }
        is_value = byte == b'=' || (is_value && byte.is_ascii_whitespace());
    }
    None
}

/// What follows the end of an element whose text is not HTML.
fn after_raw<'a>(rest: &'a str, name: &str) -> &'a str {
    let mut from = 0;
    while let Some(at) = rest[from..].find("</") {
        let after = from + at + 2;
        let is_end = rest[after..].get(..name.len()).is_some_and(|n| n.eq_ignore_ascii_case(name));
        if is_end {
            return rest[after..].split_once('>').map_or("", |(_, after)| after);
        }
        from = after;
    }
    ""
}

impl Tag<'_> {
    /// The value of an attribute, its entities decoded.
    pub fn attribute(&self, wanted: &str) -> Option<String> {
        let mut rest = self.attributes;
        loop {
            rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '/');
            if rest.is_empty() {
                return None;
            }
            let length = find_after_first(rest, |c| c.is_whitespace() || c == '=' || c == '/');
            let name = take(&mut rest, length);
            rest = rest.trim_start();
            let mut value = "";
            if let Some(after) = rest.strip_prefix('=') {
                rest = after.trim_start();
                let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''));
                if let Some(quote) = quote {
                    (value, rest) = rest[1..].split_once(quote).unwrap_or((&rest[1..], ""));
                } else {
                    let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                    value = take(&mut rest, end);
                }
            }
            if name.eq_ignore_ascii_case(wanted) {
                return Some(decoded(value).into_owned());
            }
        }
    }

    /// Whether it has no end, and nothing within.
    pub fn is_void(&self) -> bool {
        const VOID: [&str; 9] =
            ["area", "br", "col", "hr", "img", "input", "link", "meta", "source"];
        VOID.contains(&&*self.name) || (self.name == "svg" && self.attributes.ends_with('/'))
    }

    /// Whether nobody sees it.
    pub fn is_hidden(&self) -> bool {
        if matches!(&*self.name, "head" | "template" | "svg" | "map" | "object") {
            return true;
        }
        let style = self.attribute("style").unwrap_or_default().to_ascii_lowercase();
        let style: String = style.split_whitespace().collect();
        style.contains("display:none") || self.attribute("hidden").is_some()
    }
}
