//! What a sink and its routes say about outcomes, order and pace.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::delivery::Guarantee;
use crate::retry::RetryPolicy;

/// What is done about outcomes. A route may say each of these for itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// `retry`: when to try again. Default [`RetryPolicy::default`].
    pub retry: RetryPolicy,
    /// `guarantee`. Default at least once.
    pub guarantee: Guarantee,
    /// `expires_after`: not sent any more once the message is older, as if it had an `expires_at`;
    /// whichever comes first. Default never.
    pub expires_after: Option<Duration>,
    /// `permanent`: answers after which asking again cannot help. None stands for the kind's own:
    /// 410 for webhooks, 5xx for mail.
    pub permanent: Option<Codes>,
    /// `rerender`: whether a message that was attempted before may be sent with other content under
    /// the same idempotency key, because the config changed. Default no: it is held.
    pub rerender: bool,
}

/// Reply codes, of HTTP or SMTP: single ones and whole classes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Codes(BTreeSet<u16>);

impl Codes {
    /// Of single codes; a class is the hundred codes of it.
    #[must_use]
    pub fn new(codes: impl IntoIterator<Item = u16>) -> Codes {
        Codes(codes.into_iter().collect())
    }

    /// Whether a code is among them.
    #[must_use]
    pub fn has(&self, code: u16) -> bool {
        self.0.contains(&code)
    }
}

/// `order`: what happens to the followers of a keyed message that is dead or held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// `block`: they wait until an operator has dealt with it.
    #[default]
    Block,
    /// `skip`: they go on without it.
    Skip,
}

/// `priority` of a route: the lane its deliveries wait in. Lanes are served by weight, so that none
/// starves: of every 21 starts 16 are the high lane's, 4 the normal one's, 1 the low one's, as long
/// as all of them have work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// `low`: newsletters.
    Low,
    /// `normal`
    #[default]
    Normal,
    /// `high`: somebody is waiting for it, as for a password reset.
    High,
}

impl Lane {
    /// All of them, the most urgent first.
    pub const ALL: [Lane; 3] = [Lane::High, Lane::Normal, Lane::Low];

    /// As it stands on deliveries: the higher the more urgent.
    #[must_use]
    pub const fn number(self) -> i16 {
        match self {
            Lane::Low => -1,
            Lane::Normal => 0,
            Lane::High => 1,
        }
    }

    /// Its share of the starts, while all lanes have work.
    #[must_use]
    pub const fn weight(self) -> u32 {
        match self {
            Lane::Low => 1,
            Lane::Normal => 4,
            Lane::High => 16,
        }
    }
}

/// `rate`: at most so many attempts begun within any span of that length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: NonZeroU32,
    /// Within which span: a second, a minute, an hour or a day.
    pub period: Duration,
}
