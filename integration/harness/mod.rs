//! The scripted outside world.

pub mod http;
pub mod smtp;
