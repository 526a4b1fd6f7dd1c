//! The integration tests: one binary, one harness.

mod cli;
mod harness;
mod harness_test;
mod sink_contract;
mod tidy;
