//! The integration tests: one binary, one harness.

mod harness;
mod harness_test;
mod main_job;
mod sink_contract;
mod tidy;
