//! The closed sets that labels are made of.

use crate::delivery::Settlement;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$of])* $variant),* }

        impl $name {
            /// All of them.
            pub const ALL: &[$name] = &[$($name::$variant),*];

            /// Its word, as a label has it.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word),* }
            }
        }
    };
}

words!(
    /// What was decided of a row that was begun.
    AttemptEnd {
        /// The receiver has it.
        Delivered = "delivered",
        /// Refused for now; another attempt follows.
        Retry = "retry",
        /// Given up; waits for an operator.
        Dead = "dead",
        /// In doubt, or not to be sent as it is; waits for an operator.
        Held = "held",
        /// Its time had passed; closed without an attempt.
        Expired = "expired",
        /// Put back without an attempt.
        Released = "released",
    }
);
words!(
    /// How a call went.
    Went {
        /// It worked.
        Ok = "ok",
        /// It did not, and is repeated.
        Failed = "failed",
    }
);
words!(
    /// What woke a sink.
    WokenBy {
        /// A producer rang.
        Bell = "bell",
        /// It was time to look.
        Poll = "poll",
    }
);
words!(
    /// From whom a sink was taken.
    TakenFrom {
        /// Nobody: it was handed over, or is new.
        Nobody = "nobody",
        /// A relay that fell silent.
        Silent = "silent",
    }
);
words!(
    /// What a sink waits for, beside a breaker.
    WaitsFor {
        /// Its `rate`.
        Rate = "rate",
        /// Its `daily_quota`.
        Quota = "quota",
        /// What the receiver asked for.
        Receiver = "receiver",
        /// The database: intents or limits could not be written.
        Database = "database",
    }
);
words!(
    /// How the dialogue of a mail of files ended.
    MailEnd {
        /// The mail server took it.
        Sent = "sent",
        /// Surely not sent; it goes again.
        Unsent = "unsent",
        /// In doubt; waits for an operator.
        Held = "held",
        /// Given up; waits for an operator.
        Dead = "dead",
    }
);
words!(
    /// What became of a period of a schedule.
    RunEnd {
        /// Its messages are written.
        Ran = "ran",
        /// It was passed over: nobody was there in time.
        Missed = "missed",
        /// It could not run, and stays due.
        Failed = "failed",
    }
);
words!(
    /// What open deliveries wait for.
    OpenState {
        /// Nothing: they could start now.
        Due = "due",
        /// Time.
        Later = "later",
        /// An operator, after they were given up.
        Dead = "dead",
        /// An operator, as nobody knows whether they arrived.
        Held = "held",
    }
);

impl AttemptEnd {
    /// Of a settlement.
    #[must_use]
    pub fn of(settlement: &Settlement) -> AttemptEnd {
        match settlement {
            Settlement::Done { .. } => AttemptEnd::Delivered,
            Settlement::Retry { .. } => AttemptEnd::Retry,
            Settlement::Dead { .. } => AttemptEnd::Dead,
            Settlement::Held { .. } => AttemptEnd::Held,
            Settlement::Expired => AttemptEnd::Expired,
            Settlement::Release { .. } => AttemptEnd::Released,
        }
    }

    /// Whether there was an attempt that spent itself.
    #[must_use]
    pub fn is_attempt(self) -> bool {
        !matches!(self, AttemptEnd::Expired | AttemptEnd::Released)
    }
}
