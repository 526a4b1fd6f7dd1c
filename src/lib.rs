//! outboxd: a transactional outbox relay for PostgreSQL.

pub mod cli;
pub mod config;
pub mod delivery;
pub mod message;
pub mod name;
pub mod pattern;
pub mod period;
pub mod relay;
pub mod retry;
pub mod sink;
pub mod store;
pub mod template;
