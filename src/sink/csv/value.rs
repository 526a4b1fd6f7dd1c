//! Where a column's value stands: in a message, or in a row of a query.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::value::RawValue;

use crate::config::ValuePath;
use crate::message::Message;

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
    pub(super) fn find(&mut self, path: &'a ValuePath) -> Option<Value<'a>> {
        let message = self.message;
        let text = |text: &'a str| Value::Text(Cow::Borrowed(text));
        match path {
            ValuePath::Id => Some(Value::Json(Cow::Owned(message.id.to_string()))),
            ValuePath::Type => Some(text(&message.message_type)),
            ValuePath::Key => message.key.as_deref().map(text),
            ValuePath::CreatedAt => Some(Value::Instant(message.created_at)),
            ValuePath::Header(name) => message.headers.get(name).map(|value| text(value)),
            ValuePath::Payload(steps) => Some(Value::Json(Cow::Borrowed(self.inside(steps)?))),
            ValuePath::Query(_) => None,
        }
    }

    fn inside(&mut self, steps: &'a [String]) -> Option<&'a str> {
        let (last, before) = steps.split_last()?;
        if !self.objects.contains_key(before) {
            let text = if before.is_empty() { &self.message.payload } else { self.inside(before)? };
            // What is no object has no fields.
            let fields = serde_json::from_str(text).unwrap_or_default();
            self.objects.insert(before, fields);
        }
        Some(self.objects.get(before)?.get(last)?.get())
    }
}
