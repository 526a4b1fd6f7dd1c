//! What a mail server can do to a mail, phase by phase: by a scripted one, and by those that others wrote.

mod foreign;
mod matrix;
mod odd;
mod relayed;
