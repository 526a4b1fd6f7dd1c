//! The integration tests: one binary, one harness.

mod harness;
mod sink_contract;
