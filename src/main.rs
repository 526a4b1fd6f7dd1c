//! The door: arguments in, library call out.

fn main() {}
