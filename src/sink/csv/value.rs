//! A value: where it stands in a message, and what kind it is of.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::fmt::temporal::Pieces;
use serde_json::value::RawValue;

use crate::config::ValuePath;
use crate::message::Message;

/// Never of what PostgreSQL keeps as jsonb.
const NO_JSON: &str = "the payload is not JSON";

/// What stands where a column points to.
pub(super) enum Value<'a> {
    /// Plain text.
    Text(Cow<'a, str>),
    /// An instant that PostgreSQL gave as one.
    Instant(Timestamp),
    /// JSON as PostgreSQL wrote it: its digits, its order of keys.
    Json(Cow<'a, str>),
}

impl Value<'_> {
    pub(super) fn is_null(&self) -> bool {
        match self {
            Value::Json(json) => json == "null",
            Value::Text(_) | Value::Instant(_) => false,
        }
    }
}

/// An object whose values are left as they are written.
type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// A message whose payload is taken apart as far as its columns ask.
pub(super) struct Source<'a> {
    message: &'a Message,
    /// The objects on the way, by the steps that lead to them: each is taken apart once.
    objects: BTreeMap<&'a [String], Fields<'a>>,
}

impl<'a> Source<'a> {
    pub(super) fn of(message: &'a Message) -> Source<'a> {
        Source { message, objects: BTreeMap::new() }
    }

    /// The value that a path leads to; none where it leads into nothing.
    ///
    /// # Errors
    /// When the payload is no JSON.
    pub(super) fn find(&mut self, path: &'a ValuePath) -> Result<Option<Value<'a>>, &'static str> {
        let message = self.message;
        let text = |text: &'a str| Value::Text(Cow::Borrowed(text));
        Ok(match path {
            ValuePath::Id => Some(Value::Json(Cow::Owned(message.id.to_string()))),
            ValuePath::Type => Some(text(&message.message_type)),
            ValuePath::Key => message.key.as_deref().map(text),
            ValuePath::CreatedAt => Some(Value::Instant(message.created_at)),
            ValuePath::Header(name) => message.headers.get(name).map(|value| text(value)),
            ValuePath::Payload(steps) => {
                self.inside(steps)?.map(|json| Value::Json(Cow::Borrowed(json)))
            }
            ValuePath::Query(_) => None,
        })
    }

    fn inside(&mut self, steps: &'a [String]) -> Result<Option<&'a str>, &'static str> {
        let Some((last, before)) = steps.split_last() else { return Ok(None) };
        if !self.objects.contains_key(before) {
            let text = match before {
                [] => Some(self.message.payload.as_str()),
                _ => self.inside(before)?,
            };
            // What is no object has no fields.
            let fields = match text.filter(|text| text.starts_with('{')) {
                Some(object) => serde_json::from_str(object).map_err(|_| NO_JSON)?,
                None => Fields::new(),
            };
            self.objects.insert(before, fields);
        }
        Ok(self.objects.get(before).and_then(|fields| fields.get(last)).map(|json| json.get()))
    }
}

/// A value whose kind is known.
pub(super) enum Scalar<'a> {
    Text(Cow<'a, str>),
    Number(Cow<'a, str>),
    Truth(bool),
    Instant(Timestamp),
}

/// When something was.
pub(super) enum Time {
    /// Text with an offset names an instant.
    Instant(Timestamp),
    /// Text without one is the time of some clock, and stays that.
    Clock(DateTime),
}

impl<'a> Scalar<'a> {
    /// Tells what kind a value is of; what is nested is of none.
    pub(super) fn of(value: Value<'a>) -> Result<Scalar<'a>, &'static str> {
        let json = match value {
            Value::Text(text) => return Ok(Scalar::Text(text)),
            Value::Instant(at) => return Ok(Scalar::Instant(at)),
            Value::Json(json) => json,
        };
        match json.as_bytes().first() {
            Some(b'{' | b'[') => Err("a nested value cannot stand in a field"),
            Some(b't') => Ok(Scalar::Truth(true)),
            Some(b'f') => Ok(Scalar::Truth(false)),
            Some(b'"') => {
                let text = serde_json::from_str(&json).map_err(|_| NO_JSON)?;
                Ok(Scalar::Text(Cow::Owned(text)))
            }
            _ => Ok(Scalar::Number(json)),
        }
    }

    /// The same as text.
    pub(super) fn text(self) -> Cow<'a, str> {
        match self {
            Scalar::Text(text) | Scalar::Number(text) => text,
            Scalar::Truth(truth) => if truth { "true" } else { "false" }.into(),
            Scalar::Instant(at) => at.to_string().into(),
        }
    }
}

/// A day as ISO 8601 and PostgreSQL write it; never one before Christ or at infinity.
pub(super) fn date(text: &str) -> Option<Date> {
    text.parse().ok().filter(|day: &Date| day.year() > 0 && day.to_string() == text)
}

/// A time of day with its date, as ISO 8601 and PostgreSQL write it; never one before Christ or at
/// infinity.
pub(super) fn time(text: &str) -> Option<Time> {
    let pieces = Pieces::parse(text).ok().filter(|pieces| pieces.date().year() > 0)?;
    let shown = DateTime::from_parts(pieces.date(), pieces.time()?);
    Some(match pieces.to_numeric_offset() {
        Some(offset) => Time::Instant(offset.to_timestamp(shown).ok()?),
        None => Time::Clock(shown),
    })
}
