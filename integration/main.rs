//! The integration tests: one binary, one harness.

mod audit;
mod chaos;
mod cli;
mod crash;
mod data_plane;
mod delivery;
mod exports;
mod hand;
mod harness;
mod harness_test;
mod main_job;
mod order;
mod outage;
mod ownership;
mod pace;
mod policy;
mod producers;
mod prune;
mod readme;
mod restored;
mod sharing;
mod sink_contract;
mod store;
mod tidy;
mod trigger;
mod watch;
