//! The store: all SQL. Every statement is a file in `sql/queries/`; every method here runs one.
//!
//! Statements are short, self-contained and unnamed, so that they work through a transaction
//! pooler. Each call has a time limit of its own ([`link::CALL_LIMIT`]); a connection whose call
//! ran into it is thrown away. The one exception is [`snapshot`], for the queries of exports.

pub mod calendar;
pub mod doctor;
mod error;
pub mod export;
pub mod figures;
pub mod flow;
pub mod inspect;
pub mod link;
pub mod listen;
pub mod mailing;
pub mod migrate;
pub mod own;
pub mod prune;
mod queries;
pub mod query;
pub mod restored;
pub mod routes;
pub mod schedule;
pub mod snapshot;
mod tls;
pub mod watch;
pub mod work;

pub use error::StoreError;
pub use link::{Link, Tally, Target};
pub use queries::Queries;
