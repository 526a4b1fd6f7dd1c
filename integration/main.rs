//! The integration tests: one binary, one harness.
