//! Whatever a mail server says, a reply is itself and bounded.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outboxd::sink::smtp::check_replies(data));
