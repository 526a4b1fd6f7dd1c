//! outboxd: a transactional outbox relay for PostgreSQL.
//!
//! An application writes a row into `outbox.message` in the transaction of its business data. The
//! trigger of `sql/migrations/` routes it in the same transaction; the relay delivers it to the sinks
//! configured for its type, and records how that ended. Every committed message comes to a recorded
//! outcome for each of its sinks, and nothing is delivered that did not commit.
//!
//! The house has floors, and imports go downwards only (`integration/tidy.rs` holds them to it):
//!
//! ```text
//! 4  cli        arguments in, library calls out
//! 3  relay      the order of the steps: wake, fetch, route, deliver, settle; own, cut, keep, watch, prune
//! 2  store      all SQL, one statement a file in sql/queries/
//!    sink       all other network and file output; a stranger to the store
//!    metrics    what is counted; a stranger to both
//! 1  config     the file, parsed once into values that cannot be wrong
//! 0  message, address, alert, delivery, recipients, pattern, retry, template, calendar, certificate, name, hex: the words; no I/O and no
//!               clock
//! ```

pub mod address;
pub mod alert;
pub mod calendar;
pub mod certificate;
pub mod cli;
pub mod config;
pub mod delivery;
pub mod hex;
pub mod message;
pub mod metrics;
pub mod name;
pub mod pattern;
pub mod policy;
pub mod recipients;
pub mod relay;
pub mod retry;
pub mod sink;
pub mod store;
pub mod template;
