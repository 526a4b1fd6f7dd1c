//! A message: what the application said.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;

use crate::name::Name;

/// One row of `outbox.message`, as the producer committed it.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Drawn by the database; never changes.
    pub id: i64,
    /// Dotted name that selects the routes, e.g. `order.created`.
    pub message_type: String,
    /// The text PostgreSQL gives for the jsonb: these bytes are sent, never parsed and rewritten.
    pub payload: String,
    /// Messages of one key reach a sink in id order.
    pub key: Option<String>,
    /// The producer's own headers; `traceparent` is passed on.
    pub headers: BTreeMap<String, String>,
    /// When the row was written, by the database's clock.
    pub created_at: Timestamp,
}

/// Payload and key are the application's data and are not printed.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("id", &self.id)
            .field("message_type", &self.message_type)
            .field("payload_bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// The stable name of one delivery towards its receiver: the same on every attempt, replay and
/// restart, different for each installation, message, sink and target.
///
/// `msg_<installation>_<message id>_<sink>`, then `_<target>` where there is one. Names hold no
/// `_` and no `.`, so the parts can be read back and the signed content of Standard Webhooks
/// (`id.timestamp.body`) stays unambiguous.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// Derives the key; `target` is empty where the route has no name.
    #[must_use]
    pub fn new(installation: &Name, message_id: i64, sink: &Name, target: &str) -> IdempotencyKey {
        let separator = if target.is_empty() { "" } else { "_" };
        IdempotencyKey(format!("msg_{installation}_{message_id}_{sink}{separator}{target}"))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_tells_installation_message_sink_and_target_apart() {
        let name = |text| Name::parse(text).unwrap();
        let key =
            |target| IdempotencyKey::new(&name("shop-prod"), 42, &name("mail"), target).to_string();
        assert_eq!(key(""), "msg_shop-prod_42_mail");
        assert_eq!(key("office"), "msg_shop-prod_42_mail_office");
    }

    #[test]
    fn debug_shows_no_payload() {
        let message = Message {
            id: 1,
            message_type: "order.created".to_owned(),
            payload: "secret".to_owned(),
            key: Some("secret".to_owned()),
            headers: BTreeMap::new(),
            created_at: Timestamp::UNIX_EPOCH,
        };
        assert!(!format!("{message:?}").contains("secret"));
    }
}
