//! Which deliveries are meant, where it is not a single one: the filters that commands share, and the
//! walk through all open deliveries that fit.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Duration;

use clap::{Args, ValueEnum};
use jiff::Timestamp;

use super::{Failure, words};
use crate::pattern::TypePattern;
use crate::policy::Lane;
use crate::store::inspect::{OpenRow, known_sinks, page};
use crate::store::{Link, StoreError};

/// Which messages, through which sink.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Which {
    /// Only deliveries through this sink
    #[arg(long)]
    pub sink: Option<String>,
    /// Only messages of this type; order.* takes order.created and order.item.added
    #[arg(long = "type", value_name = "PATTERN", value_parser = TypePattern::parse)]
    pub pattern: Option<TypePattern>,
    /// Only messages of this key
    #[arg(long)]
    pub key: Option<String>,
}

/// Which open deliveries.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Filter {
    #[command(flatten)]
    pub which: Which,
    /// Only those with this text in their reason, in capitals or not
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Only messages that were written longer ago, e.g. 1h
    #[arg(long, value_name = "SPAN", value_parser = words::span)]
    pub older_than: Option<Duration>,
}

/// The states of an open delivery, and of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum State {
    /// Waits for time, or for its turn
    Pending,
    /// An attempt's intent is committed
    Sending,
    /// In doubt, waits for an operator
    Held,
    /// Given up, waits for an operator
    Dead,
    /// Waits for a route
    Unrouted,
    /// The head of a key that cannot be delivered now, with others behind it
    Parked,
}

impl State {
    /// As the database writes it.
    pub fn word(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Sending => "sending",
            State::Held => "held",
            State::Dead => "dead",
            State::Unrouted => "unrouted",
            State::Parked => "parked",
        }
    }
}

impl Which {
    /// Whether a message of this type and key is meant. A message that is gone has no type.
    pub fn takes(&self, message_type: Option<&str>, key: Option<&str>) -> bool {
        let of_type =
            |pattern: &TypePattern| message_type.is_some_and(|name| pattern.matches(name));
        self.pattern.as_ref().is_none_or(of_type)
            && self.key.as_deref().is_none_or(|wanted| key == Some(wanted))
    }

    /// The sinks to look through. An unknown one is a fault, as it may be a slip.
    pub async fn sinks(&self, link: &Link) -> Result<Vec<String>, Failure> {
        let known = known_sinks(link).await?;
        match &self.sink {
            // What no route takes has no sink.
            None => Ok(known.into_iter().chain([String::new()]).collect()),
            Some(sink) if known.contains(sink) => Ok(vec![sink.clone()]),
            Some(sink) => Err(no_such_sink(sink, &known)),
        }
    }

    /// `of sink crm, type order.*`, with a blank before it; nothing where all are meant.
    pub fn in_words(&self) -> String {
        let parts = [
            self.sink.as_ref().map(|sink| format!("sink {sink}")),
            self.pattern.as_ref().map(|pattern| format!("type {pattern}")),
            self.key.as_ref().map(|key| format!("key {}", words::plain(key))),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if parts.is_empty() { String::new() } else { format!(" of {}", parts.join(", ")) }
    }
}

pub(super) fn no_such_sink(sink: &str, known: &[String]) -> Failure {
    let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
    Failure::Fault(format!("there is no sink {sink}; known: {known}"))
}

impl Filter {
    /// Whether everything is meant.
    pub fn is_empty(&self) -> bool {
        self.which.sink.is_none() && !self.looks_at_rows()
    }

    /// Whether there is no index for all that it asks.
    pub fn looks_at_rows(&self) -> bool {
        self.which.pattern.is_some()
            || self.which.key.is_some()
            || self.reason.is_some()
            || self.older_than.is_some()
    }

    /// Whether this delivery is meant, its sink aside.
    pub fn takes(&self, row: &OpenRow) -> bool {
        let has = |text: &String| {
            let reason = row.reason.as_deref().unwrap_or_default().to_lowercase();
            reason.contains(&text.to_lowercase())
        };
        let older = |span: &Duration| {
            row.age.is_some_and(|age| u64::try_from(age).is_ok_and(|age| age >= span.as_secs()))
        };
        self.which.takes(row.message_type.as_deref(), row.key.as_deref())
            && self.reason.as_ref().is_none_or(has)
            && self.older_than.as_ref().is_none_or(older)
    }

    /// What is meant, with a blank before it; nothing where all are.
    pub fn in_words(&self) -> String {
        let mut text = self.which.in_words();
        if let Some(reason) = &self.reason {
            let _ = write!(text, " with \"{}\" in the reason", words::plain(reason));
        }
        if let Some(span) = self.older_than {
            let _ = write!(text, " older than {}", crate::config::duration_in_words(span));
        }
        text
    }
}

/// Goes through all open deliveries of one state that fit, page by page, and never meets one twice
/// unless it was moved meanwhile.
pub(super) struct Walk<'a> {
    link: &'a Link,
    filter: &'a Filter,
    state: State,
    /// Sinks, and lanes where there is an order by them, that are still to be looked through.
    ways: VecDeque<(String, i16)>,
    /// After this instant, where pages go by it, and this message.
    after: (Option<Timestamp>, i64),
    start: Option<Timestamp>,
}

impl<'a> Walk<'a> {
    /// A walk through everything. `Parked` is none of a delivery's states and finds nothing.
    pub async fn all(
        link: &'a Link,
        filter: &'a Filter,
        state: State,
    ) -> Result<Walk<'a>, Failure> {
        let sinks = filter.which.sinks(link).await?;
        // Only what is pending has an order by lanes.
        let lanes: &[Lane] = if state == State::Pending && filter.which.key.is_none() {
            &Lane::ALL
        } else {
            &[Lane::Normal]
        };
        let way = |sink: &String| {
            lanes.iter().map(|lane| (sink.clone(), lane.number())).collect::<Vec<_>>()
        };
        let ways = sinks.iter().flat_map(way).collect();
        let start = Some(Timestamp::UNIX_EPOCH);
        Ok(Walk { link, filter, state, ways, after: (start, 0), start })
    }

    /// A walk through the pending ones that are not due yet.
    pub async fn later(link: &'a Link, filter: &'a Filter) -> Result<Walk<'a>, Failure> {
        let walk = Walk::all(link, filter, State::Pending).await?;
        Ok(Walk { after: (None, 0), start: None, ..walk })
    }

    /// The next page, of which only what fits is answered; none at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<OpenRow>>, StoreError> {
        while let Some((sink, lane)) = self.ways.front() {
            let page = match (&self.filter.which.key, self.state) {
                (Some(key), _) => page::of_key(self.link, sink, key, self.after.1).await?,
                (None, State::Pending) => page::pending(self.link, sink, *lane, self.after).await?,
                (None, state) => page::stuck(self.link, state.word(), sink, self.after.1).await?,
            };
            let Some(last) = page.last() else {
                self.ways.pop_front();
                self.after = (self.start, 0);
                continue;
            };
            self.after = (last.due_at.or(self.start), last.message_id);
            let state = self.state.word();
            let fits = |row: &OpenRow| row.state == state && self.filter.takes(row);
            return Ok(Some(page.into_iter().filter(fits).collect()));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(message_type: Option<&str>, reason: &str) -> OpenRow {
        OpenRow {
            message_id: 1,
            sink: "crm".to_owned(),
            target: String::new(),
            state: "dead".to_owned(),
            attempt: 1,
            rev: 1,
            reason: Some(reason.to_owned()),
            recipients: None,
            key: Some("ann".to_owned()),
            hold_until: None,
            due_at: None,
            due_in: None,
            message_type: message_type.map(str::to_owned),
            created_at: None,
            age: Some(3_600),
        }
    }

    #[test]
    fn a_filter_takes_what_fits_all_it_says() {
        let all = Filter::default();
        assert!(all.is_empty() && all.in_words().is_empty() && all.takes(&row(None, "")));
        let filter = Filter {
            which: Which {
                sink: Some("crm".to_owned()),
                pattern: Some(TypePattern::parse("order.*").unwrap()),
                key: Some("ann".to_owned()),
            },
            reason: Some("HTTP 410".to_owned()),
            older_than: Some(Duration::from_secs(3_600)),
        };
        assert!(filter.takes(&row(Some("order.x"), "got http 410 Gone")));
        assert!(!filter.takes(&row(Some("user.x"), "HTTP 410")), "another type");
        assert!(!filter.takes(&row(None, "HTTP 410")), "a message that is gone has no type");
        assert!(!filter.takes(&row(Some("order.x"), "HTTP 500")), "another reason");
        let keyless = OpenRow { key: None, ..row(Some("order.x"), "HTTP 410") };
        assert!(!filter.takes(&keyless), "without a key");
        let young = OpenRow { age: Some(3_599), ..row(Some("order.x"), "HTTP 410") };
        assert!(!filter.takes(&young), "too young");
        assert_eq!(
            filter.in_words(),
            " of sink crm, type order.*, key ann with \"HTTP 410\" in the reason older than 1h"
        );
    }
}
