//! What was said in a dialogue, written down as it is said.

use std::sync::{Arc, Mutex, PoisonError};

use super::wire::{Fault, Reply};

/// Longest part of a reply that a transcript keeps, and most lines of one, in characters and lines.
pub(super) const HEARD_MAX: usize = 300;
pub(super) const LINES_MAX: usize = 60;
const WHOLE_LINES_MAX: usize = 400;

/// What was said in a dialogue, bounded: the verb of each command, and the replies. Whoever holds it
/// reads it even where the dialogue was cut short.
#[derive(Clone, Default)]
pub struct Transcript {
    lines: Arc<Mutex<Vec<String>>>,
    /// Whether commands are kept with what follows the verb, which can be an address.
    whole: bool,
}

impl Transcript {
    /// One of whole commands, addresses too, and of each line of a reply. Secrets are masked.
    #[must_use]
    pub fn whole() -> Transcript {
        Transcript { whole: true, ..Transcript::default() }
    }

    /// Everything so far, a line each.
    #[must_use]
    pub fn text(&self) -> String {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    /// A command, with or without its line end.
    pub(super) fn asked(&self, command: &str) {
        let command = command.trim_end_matches(['\r', '\n']);
        let verb = command.split(' ').next().unwrap_or_default();
        self.note(&format!("> {}", if self.whole { command } else { verb }));
    }

    /// What came back.
    pub(super) fn answered(&self, reply: &Result<Reply, Fault>) {
        match reply {
            Ok(reply) if self.whole => {
                let last = reply.lines.len().saturating_sub(1);
                for (at, line) in reply.lines.iter().enumerate() {
                    let separator = if at == last { ' ' } else { '-' };
                    self.note(format!("< {}{separator}{line}", reply.code).trim_end());
                }
            }
            Ok(reply) => self.note(&format!("< {reply}")),
            Err(fault) => self.note(&format!("< nothing: {fault}")),
        }
    }

    /// What is no command and no reply; of interest only where the whole is.
    pub(super) fn remark(&self, words: &str) {
        if self.whole {
            self.note(&format!("= {words}"));
        }
    }

    fn note(&self, line: &str) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() < if self.whole { WHOLE_LINES_MAX } else { LINES_MAX } {
            lines.push(line.chars().take(HEARD_MAX).collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_form_keeps_no_address_and_the_whole_one_each_line() {
        let reply =
            Ok(Reply { code: 250, lines: vec!["mail.example".to_owned(), "SIZE 9".to_owned()] });
        let told = |transcript: Transcript| {
            transcript.asked("RCPT TO:<bob@shop.example>\r\n");
            transcript.answered(&reply);
            transcript.remark("TLS 1.3");
            transcript.answered(&Err(Fault::Closed));
            transcript.text()
        };
        assert_eq!(
            told(Transcript::default()),
            "> RCPT\n< 250 mail.example SIZE 9\n< nothing: the server closed the connection"
        );
        assert_eq!(
            told(Transcript::whole()),
            "> RCPT TO:<bob@shop.example>\n< 250-mail.example\n< 250 SIZE 9\n= TLS 1.3\n\
             < nothing: the server closed the connection"
        );
    }

    #[test]
    fn it_is_bounded() {
        let transcript = Transcript::default();
        for _ in 0..1_000 {
            transcript.answered(&Ok(Reply { code: 250, lines: vec!["x".repeat(5_000)] }));
        }
        assert_eq!(transcript.text().len(), LINES_MAX * (HEARD_MAX + 1) - 1);
    }
}
