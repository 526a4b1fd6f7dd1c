//! A line: fields are quoted and joined.

use std::borrow::Cow;

/// A field before it is quoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Field<'a> {
    Null,
    /// Digits, truth, times: nothing to quote.
    Bare(Cow<'a, str>),
    Text(Cow<'a, str>),
}

/// When text is quoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quoting {
    /// Where a reader could go wrong without.
    Needed,
    /// Always: quotes tell a spreadsheet's import, if it is asked to mind them, text from numbers.
    Always,
}

/// Joins and quotes as RFC 4180 has it. A line with a single NULL is written as `""`: most readers
/// skip a blank line, and a lost row is worse than a NULL that reads as an empty text.
pub(super) fn line<'a>(
    fields: impl Iterator<Item = Field<'a>>,
    separator: char,
    quoting: Quoting,
) -> Vec<u8> {
    let mut out = String::new();
    for (index, field) in fields.enumerate() {
        if index > 0 {
            out.push(separator);
        }
        match field {
            Field::Null => {}
            Field::Text(text) if quoting == Quoting::Always || must_quote(&text, separator) => {
                out.push('"');
                out.push_str(&text.replace('"', "\"\""));
                out.push('"');
            }
            Field::Text(text) | Field::Bare(text) => out.push_str(&text),
        }
    }
    if out.is_empty() {
        out.push_str("\"\"");
    }
    out.push_str("\r\n");
    out.into_bytes()
}

/// Beside what RFC 4180 asks for: the empty text, which is no NULL; blanks at the edges, which
/// readers like to trim; a byte order mark, which at the head of a file would be taken for its own;
/// and `\.`, which ends the data for COPY before PostgreSQL 18.
fn must_quote(text: &str, separator: char) -> bool {
    text.is_empty()
        || text.contains([separator, '"', '\r', '\n'])
        || text.starts_with(char::is_whitespace)
        || text.ends_with(char::is_whitespace)
        || text.starts_with('\u{feff}')
        || text == "\\."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_separator_is_quoted_whichever_it_is() {
        for (separator, expected) in [(',', "\"a,b\",a;b\r\n"), (';', "a,b;\"a;b\"\r\n")] {
            let fields = ["a,b", "a;b"].map(|text| Field::Text(text.into()));
            let line = line(fields.into_iter(), separator, Quoting::Needed);
            assert_eq!(String::from_utf8(line).unwrap(), expected);
        }
    }
}
