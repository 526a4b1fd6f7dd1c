//! What became of each recipient of one delivery, over all its attempts. Pure.
//!
//! A mail server answers for each recipient apart (RFC 5321 section 3.3): some take the mail while
//! others do not. So the delivery's row keeps what was answered for whom. Whoever accepted it once is
//! never sent it again; whoever refused it is asked again only when an operator says so.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::delivery::{clean_text, in_ascii};

/// Longest reply that is kept of a recipient, in characters: a mail may have a thousand of them, and a
/// fetch brings them all.
pub const REPLY_MAX: usize = 200;

/// What became of each recipient so far, by address; those of whom nothing is known are not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipients(BTreeMap<String, Recipient>);

/// What became of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// In a word.
    pub state: RecipientState,
    /// The server's words, without addresses; at most [`REPLY_MAX`] characters.
    pub reply: String,
}

/// What became of a recipient in the last attempt that was made for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecipientState {
    /// The server took the mail for it. For good: it is never sent again.
    Accepted,
    /// Refused for good. Sent again only after an operator's retry.
    Refused,
    /// Not now; sent again with the next attempt.
    Deferred,
    /// The reply to the mail was lost: it may have arrived.
    InDoubt,
}

impl RecipientState {
    /// All of them.
    pub const ALL: [RecipientState; 4] = [
        RecipientState::Accepted,
        RecipientState::Refused,
        RecipientState::Deferred,
        RecipientState::InDoubt,
    ];

    /// As it stands in the row.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            RecipientState::Accepted => "accepted",
            RecipientState::Refused => "refused",
            RecipientState::Deferred => "deferred",
            RecipientState::InDoubt => "in doubt",
        }
    }

    fn parse(word: &str) -> Option<RecipientState> {
        RecipientState::ALL.into_iter().find(|state| state.word() == word)
    }
}

impl Recipients {
    /// Reads what a row holds: `{"a@shop.example": {"state": "accepted", "reply": "250 ok"}}`. What
    /// this version does not understand it takes for nothing known.
    #[must_use]
    pub fn parse(text: &str) -> Recipients {
        let Ok(Value::Object(fields)) = serde_json::from_str(text) else {
            return Recipients::default();
        };
        let read = |(address, value): (String, Value)| {
            let state = RecipientState::parse(value.get("state")?.as_str()?)?;
            let reply = value.get("reply").and_then(Value::as_str).unwrap_or_default().to_owned();
            Some((address, Recipient { state, reply }))
        };
        Recipients(fields.into_iter().filter_map(read).collect())
    }

    /// As a row holds it.
    #[must_use]
    pub fn json(&self) -> String {
        let one = |(address, recipient): (&String, &Recipient)| {
            let value = json!({ "state": recipient.state.word(), "reply": recipient.reply });
            (address.clone(), value)
        };
        Value::Object(self.0.iter().map(one).collect()).to_string()
    }

    /// Those that accepted, alone: true whoever owns the sink by now.
    #[must_use]
    pub fn accepted(&self) -> Recipients {
        let accepted = self.0.iter().filter(|(_, r)| r.state == RecipientState::Accepted);
        Recipients(accepted.map(|(address, r)| (address.clone(), r.clone())).collect())
    }

    /// Whether nothing is known of anybody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each address and what became of it.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Recipient)> {
        self.0.iter().map(|(address, recipient)| (address.as_str(), recipient))
    }

    /// What is known of one.
    #[must_use]
    pub fn of(&self, address: &str) -> Option<&Recipient> {
        self.0.get(address).or_else(|| self.0.get(&escaped(address)?))
    }

    /// Whether an attempt is to be made for a recipient: neither accepted nor refused so far.
    #[must_use]
    pub fn is_open(&self, address: &str) -> bool {
        self.of(address).is_none_or(|known| {
            !matches!(known.state, RecipientState::Accepted | RecipientState::Refused)
        })
    }

    /// Notes what became of one; the first acceptance stays.
    pub fn note(&mut self, address: &str, state: RecipientState, reply: &str) {
        if self.of(address).is_some_and(|known| known.state == RecipientState::Accepted) {
            return;
        }
        let reply: String = clean_text(reply).chars().take(REPLY_MAX).collect();
        // Under the name that it has in the row.
        let kept = escaped(address).filter(|escaped| self.0.contains_key(escaped));
        self.0.insert(kept.unwrap_or_else(|| address.to_owned()), Recipient { state, reply });
    }

    /// Leaves of it what every database can hold. An address has to be known again: what is not ASCII in
    /// it is escaped, as delivery reports do (RFC 6533).
    pub fn make_ascii(&mut self) {
        let plain = |(address, mut recipient): (String, Recipient)| {
            recipient.reply = in_ascii(&recipient.reply);
            (escaped(&address).unwrap_or(address), recipient)
        };
        self.0 = std::mem::take(&mut self.0).into_iter().map(plain).collect();
    }

    /// How many came to each end, in words: `2 accepted, 1 refused`.
    #[must_use]
    pub fn counts(&self) -> String {
        let mut words = String::new();
        for state in RecipientState::ALL {
            let count = self.0.values().filter(|recipient| recipient.state == state).count();
            if count > 0 {
                let comma = if words.is_empty() { "" } else { ", " };
                let _ = write!(words, "{comma}{count} {}", state.word());
            }
        }
        words
    }
}

/// `j\x{F6}rg@shop.example`; none for an address that is ASCII as it is.
fn escaped(address: &str) -> Option<String> {
    if address.is_ascii() {
        return None;
    }
    let escape = |c: char| match c {
        c if c.is_ascii() => c.to_string(),
        c => format!("\\x{{{:X}}}", u32::from(c)),
    };
    Some(address.chars().map(escape).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use RecipientState::{Accepted, Deferred, InDoubt, Refused};

    #[test]
    fn a_row_keeps_what_was_answered() {
        let mut recipients = Recipients::default();
        recipients.note("a@x.example", Accepted, "250 ok\r\n");
        recipients.note("b@x.example", Refused, "550 no");
        recipients.note("c@x.example", Deferred, "450 later");
        recipients.note("d@x.example", InDoubt, "no answer");
        assert_eq!(Recipients::parse(&recipients.json()), recipients);
        assert_eq!(recipients.counts(), "1 accepted, 1 refused, 1 deferred, 1 in doubt");
        assert_eq!(recipients.accepted().counts(), "1 accepted");
        let open: Vec<&str> = ["a", "b", "c", "d", "e"]
            .into_iter()
            .filter(|name| recipients.is_open(&format!("{name}@x.example")))
            .collect();
        assert_eq!(open, ["c", "d", "e"]);
        assert_eq!(Recipients::parse("[1]"), Recipients::default());
        assert!(Recipients::parse(r#"{"a@x": {"state": "lost"}}"#).is_empty());
    }

    #[test]
    fn who_accepted_stays_so() {
        let mut recipients = Recipients::default();
        recipients.note("a@x.example", Deferred, "450 later");
        recipients.note("a@x.example", Accepted, "250 ok");
        recipients.note("a@x.example", InDoubt, "no answer");
        assert_eq!(recipients.of("a@x.example").unwrap().reply, "250 ok");
        assert!(!recipients.is_open("a@x.example"));
    }

    #[test]
    fn what_is_kept_of_a_reply_is_bounded() {
        let mut recipients = Recipients::default();
        recipients.note("a@x.example", Refused, &"ä".repeat(600));
        assert_eq!(recipients.of("a@x.example").unwrap().reply.chars().count(), REPLY_MAX);
    }

    #[test]
    fn an_address_that_a_database_cannot_hold_is_known_again() {
        let mut recipients = Recipients::default();
        recipients.note("jörg@x.example", Deferred, "450 später");
        recipients.note("b@x.example", Refused, "550 no");
        recipients.make_ascii();
        let json = recipients.json();
        assert!(json.is_ascii() && json.contains(r"j\\x{F6}rg@x.example"), "{json}");
        let mut read = Recipients::parse(&json);
        assert_eq!(read, recipients);
        assert_eq!(read.of("jörg@x.example").unwrap().reply, "450 sp?ter");
        read.note("jörg@x.example", Accepted, "250 ok");
        assert!(!read.is_open("jörg@x.example"));
        assert_eq!(read.counts(), "1 accepted, 1 refused", "and not twice");
    }
}
