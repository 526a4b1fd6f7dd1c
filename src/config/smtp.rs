//! `kind = "smtp"`: through which mail servers, and what all mails have.

use lettre::message::Mailbox;

use super::item::Item;
use super::mail_server;
use super::read::Section;
use super::{MailServer, SmtpConfig};

/// Reads the smtp part of a sink.
pub(super) fn read(section: &mut Section) -> Option<SmtpConfig> {
    let server = mail_server::read(section);
    let from = section
        .need("from", "write from = \"Shop <shop@example.com>\"")
        .and_then(|item| mailbox(&item));
    let fallback = section.get("fallback").map(|item| mail_server::second(&item, server.as_ref()));
    let mut way = SmtpConfig::new(server?, from?);
    way.fallback = match fallback {
        Some(second) => Some(Box::new(second?)),
        None => None,
    };
    Some(way)
}

impl SmtpConfig {
    /// Everything else by default.
    #[must_use]
    pub fn new(server: MailServer, from: Mailbox) -> SmtpConfig {
        SmtpConfig {
            server,
            fallback: None,
            from,
            return_path: None,
            sender_rate: None,
            idempotency_header: None,
            dkim: Vec::new(),
            files: None,
        }
    }
}

fn mailbox(item: &Item) -> Option<Mailbox> {
    let mailbox = item.text()?.parse();
    let form = "write shop@example.com or Shop <shop@example.com>";
    mailbox.map_err(|_| item.fault(format!("{} is no mail address", item.shown()), form)).ok()
}

#[cfg(test)]
mod tests {
    use crate::config::testing::refuses_each;

    #[test]
    fn faults_of_what_mails_have() {
        let head = "kind = \"smtp\"\nfrom = \"a@b.example\"\nurl = \"smtp://mail.example\"\n";
        refuses_each(
            "[sinks.a]\n",
            "sinks.a",
            head,
            &[
                ("from", "1: from: is missing; write from = \"Shop <shop@example.com>\""),
                (
                    "from = \"shop\"",
                    "4: from: \"shop\" is no mail address; \
                     write shop@example.com or Shop <shop@example.com>",
                ),
                (
                    "allow_private = []",
                    "5: allow_private: is unknown; known here: kind, concurrency, timeout, retry, \
                     guarantee, permanent, expires_after, rerender, order, rate, daily_quota, url, \
                     username, password, password_file, token_file, clear_text_login, ca_file, from, \
                     fallback",
                ),
            ],
        );
    }
}
