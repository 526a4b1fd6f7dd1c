//! CSV: the rows of a file and how it is published.
//!
//! The form is RFC 4180: comma, CRLF, quotes doubled. A NULL is an empty field, an empty text is
//! `""`, as COPY has it. Numbers keep the digits PostgreSQL gave.

mod file;

use std::borrow::Cow;

use serde_json::Value;

pub use self::file::{Content, CsvFile, Finished, PublishError, path};
use crate::config::{Column, ColumnForm, CsvConfig, ValuePath};
use crate::message::Message;

/// How the lines of a file are made.
pub struct Layout<'a> {
    columns: &'a [Column],
}

impl<'a> Layout<'a> {
    /// The layout of a sink whose columns are configured.
    #[must_use]
    pub fn of(config: &'a CsvConfig) -> Layout<'a> {
        Layout { columns: &config.columns }
    }

    /// What the file begins with: the header line.
    #[must_use]
    pub fn header(&self) -> Vec<u8> {
        encode_header(self.columns)
    }

    /// A hash of the columns: two files with the same one have the same columns.
    #[must_use]
    pub fn hash(&self) -> String {
        let parts = self.columns.iter().map(|column| format!("{column:?}"));
        let parts: Vec<String> = parts.collect();
        crate::hex::hex(&super::hash_parts(parts.iter().map(String::as_bytes)))
    }

    /// One line for one message.
    ///
    /// # Errors
    /// The first column whose value is not what its form asks for, by name; never the value.
    pub fn line(&self, message: &Message) -> Result<Vec<u8>, String> {
        encode_row(self.columns, message)
    }
}

/// The header line.
#[must_use]
pub fn encode_header(columns: &[Column]) -> Vec<u8> {
    line(columns.iter().map(|column| Field::Text(Cow::Borrowed(&*column.name))))
}

/// One line for one message.
///
/// # Errors
/// The first column whose value is not what its form asks for, by name; never the value.
pub fn encode_row(columns: &[Column], message: &Message) -> Result<Vec<u8>, String> {
    let wanted = columns.iter().any(|column| matches!(column.value, ValuePath::Payload(_)));
    let payload = if wanted {
        serde_json::from_str(&message.payload).map_err(|e| format!("payload is not JSON: {e}"))?
    } else {
        Value::Null
    };
    let fields: Vec<Field> = columns
        .iter()
        .map(|column| {
            let found = find(&column.value, message, &payload);
            field(column.form, &found).map_err(|what| format!("column {}: {what}", column.name))
        })
        .collect::<Result<_, String>>()?;
    Ok(line(fields.into_iter()))
}

/// A field before it is quoted.
enum Field<'a> {
    Null,
    /// Digits, `true`, `false`: nothing to quote or guard.
    Bare(Cow<'a, str>),
    Text(Cow<'a, str>),
}

/// What stands where a column points to.
fn find<'a>(path: &ValuePath, message: &'a Message, payload: &'a Value) -> Cow<'a, Value> {
    let text = |text: &str| Cow::Owned(Value::from(text));
    match path {
        ValuePath::Id => Cow::Owned(Value::from(message.id)),
        ValuePath::Type => text(&message.message_type),
        ValuePath::Key => message.key.as_deref().map_or(Cow::Owned(Value::Null), text),
        ValuePath::CreatedAt => text(&message.created_at.to_string()),
        ValuePath::Header(name) => {
            message.headers.get(name).map_or(Cow::Owned(Value::Null), |value| text(value))
        }
        ValuePath::Query(_) => Cow::Owned(Value::Null),
        ValuePath::Payload(steps) => {
            let mut found = payload;
            for step in steps {
                match found.get(step) {
                    Some(inner) => found = inner,
                    None => return Cow::Owned(Value::Null),
                }
            }
            Cow::Borrowed(found)
        }
    }
}

/// Holds a value against its column's form. Text that is a number or a boolean passes for one, as
/// headers and keys are text only.
fn field(form: ColumnForm, value: &Value) -> Result<Field<'static>, &'static str> {
    let text = match value {
        Value::Null => return Ok(Field::Null),
        Value::Array(_) | Value::Object(_) => return Err("a nested value cannot stand in a field"),
        Value::Bool(truth) => truth.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
    };
    let (fits, otherwise) = match form {
        ColumnForm::Text if value.is_string() => return Ok(Field::Text(Cow::Owned(guarded(text)))),
        ColumnForm::Text => (true, ""),
        ColumnForm::Integer => (is_integer(&text), "not a whole number"),
        ColumnForm::Decimal => (is_decimal(&text), "not a number in plain digits"),
        ColumnForm::Date | ColumnForm::Timestamp | ColumnForm::Json => (false, "not there yet"),
        ColumnForm::Boolean => (text == "true" || text == "false", "neither true nor false"),
    };
    if fits { Ok(Field::Bare(Cow::Owned(text))) } else { Err(otherwise) }
}

/// Keeps spreadsheets from taking text for a formula: an apostrophe before `=`, `+`, `-`, `@`
/// (their full-width forms too), TAB, CR and LF. Numbers are never touched.
fn guarded(text: String) -> String {
    const STARTS: [char; 11] =
        ['=', '+', '-', '@', '\t', '\r', '\n', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}'];
    if text.starts_with(STARTS) { format!("'{text}") } else { text }
}

fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

fn is_decimal(text: &str) -> bool {
    match text.split_once('.') {
        None => is_integer(text),
        Some((whole, part)) => {
            is_integer(whole) && !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())
        }
    }
}

/// Joins and quotes. A line with a single NULL is written as `""`: most readers skip a blank line,
/// and a lost row is worse than a NULL that reads as an empty text.
fn line<'a>(fields: impl Iterator<Item = Field<'a>>) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, field) in fields.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        match field {
            Field::Text(text) if must_quote(&text) => {
                out.push(b'"');
                out.extend_from_slice(text.replace('"', "\"\"").as_bytes());
                out.push(b'"');
            }
            Field::Text(text) | Field::Bare(text) => out.extend_from_slice(text.as_bytes()),
            Field::Null => {}
        }
    }
    if out.is_empty() {
        out.extend_from_slice(b"\"\"");
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// Beside what RFC 4180 asks for: the empty text, which is no NULL; blanks at the edges, which
/// readers like to trim; and `\.`, which ends the data for COPY before PostgreSQL 18.
fn must_quote(text: &str) -> bool {
    text.is_empty()
        || text.contains([',', '"', '\r', '\n'])
        || text.starts_with(char::is_whitespace)
        || text.ends_with(char::is_whitespace)
        || text == "\\."
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, value: ValuePath, form: ColumnForm) -> Column {
        Column { name: name.to_owned(), value, form }
    }

    fn payload(path: &str, form: ColumnForm) -> Column {
        column(path, ValuePath::Payload(path.split('.').map(str::to_owned).collect()), form)
    }

    fn row(columns: &[Column], payload: &str) -> Result<String, String> {
        let message = Message {
            id: 42,
            message_type: "order.created".to_owned(),
            payload: payload.to_owned(),
            key: Some("+key".to_owned()),
            headers: [("lang".to_owned(), "de".to_owned())].into(),
            created_at: "2026-11-20T10:15:30Z".parse().unwrap(),
        };
        encode_row(columns, &message).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    fn one(form: ColumnForm, value: &str) -> Result<String, String> {
        let columns = [payload("v", form), column("id", ValuePath::Id, ColumnForm::Integer)];
        let line = row(&columns, &format!(r#"{{"v": {value}}}"#))?;
        Ok(line.strip_suffix(",42\r\n").unwrap().to_owned())
    }

    #[test]
    fn every_place_of_a_message_can_be_a_column() {
        let text = ColumnForm::Text;
        let columns = [
            column("id", ValuePath::Id, ColumnForm::Integer),
            column("type", ValuePath::Type, text),
            column("key", ValuePath::Key, text),
            column("at", ValuePath::CreatedAt, text),
            column("lang", ValuePath::Header("lang".to_owned()), text),
            column("none", ValuePath::Header("none".to_owned()), text),
            payload("a.b", text),
            payload("a.c.d", text),
        ];
        let line = row(&columns, r#"{"a": {"b": "x", "c": 1}}"#).unwrap();
        assert_eq!(line, "42,order.created,'+key,2026-11-20T10:15:30Z,de,,x,\r\n");
        let header = String::from_utf8(encode_header(&columns)).unwrap();
        assert_eq!(header, "id,type,key,at,lang,none,a.b,a.c.d\r\n");
    }

    #[test]
    fn numbers_keep_their_digits_and_are_not_guarded() {
        let digits = "-12345678901234567890123456789.0000000010";
        assert_eq!(one(ColumnForm::Decimal, digits).unwrap(), digits);
        assert_eq!(one(ColumnForm::Text, "-5").unwrap(), "-5");
        assert_eq!(one(ColumnForm::Integer, "9223372036854775808").unwrap(), "9223372036854775808");
        // As frameworks write decimals into JSON.
        assert_eq!(one(ColumnForm::Decimal, r#""19.90""#).unwrap(), "19.90");
        assert_eq!(one(ColumnForm::Text, r#""00123""#).unwrap(), "00123");
        assert_eq!(one(ColumnForm::Boolean, "true").unwrap(), "true");
    }

    #[test]
    fn text_is_quoted_where_a_reader_could_go_wrong() {
        let text = |value: &str| one(ColumnForm::Text, &Value::from(value).to_string()).unwrap();
        for (value, field) in [
            ("plain", "plain"),
            ("a,b", "\"a,b\""),
            ("a\"b", "\"a\"\"b\""),
            ("a\rb", "\"a\rb\""),
            ("a\nb", "\"a\nb\""),
            (" a", "\" a\""),
            ("a ", "\"a \""),
            ("\u{a0}a", "\"\u{a0}a\""),
            ("", "\"\""),
            ("\\.", "\"\\.\""),
        ] {
            assert_eq!(text(value), field);
        }
        assert_eq!(one(ColumnForm::Text, "null").unwrap(), "");
    }

    #[test]
    fn text_that_looks_like_a_formula_is_guarded() {
        for start in ["=", "+", "-", "@", "\t", "\r", "\n", "\u{ff1d}", "\u{ff20}"] {
            let value = Value::from(format!("{start}1")).to_string();
            let field = one(ColumnForm::Text, &value).unwrap();
            assert!(field.trim_start_matches('"').starts_with('\''), "{field}");
        }
    }

    #[test]
    fn a_single_null_is_not_a_blank_line() {
        assert_eq!(row(&[payload("v", ColumnForm::Text)], "{}").unwrap(), "\"\"\r\n");
        assert_eq!(row(&[payload("v", ColumnForm::Integer)], "{}").unwrap(), "\"\"\r\n");
    }

    #[test]
    fn what_does_not_fit_names_the_column_and_not_the_value() {
        for (form, value) in [
            (ColumnForm::Text, r#"["secret"]"#),
            (ColumnForm::Text, r#"{"secret": 1}"#),
            (ColumnForm::Integer, r#""secret""#),
            (ColumnForm::Integer, "1.5"),
            (ColumnForm::Integer, r#""""#),
            (ColumnForm::Integer, "true"),
            (ColumnForm::Decimal, r#""1e5""#),
            (ColumnForm::Decimal, r#"" 1""#),
            (ColumnForm::Decimal, r#""1.""#),
            (ColumnForm::Boolean, "1"),
            (ColumnForm::Boolean, r#""yes""#),
        ] {
            let error = one(form, value).unwrap_err();
            assert!(error.starts_with("column v: ") && !error.contains("secret"), "{error}");
        }
    }
}
