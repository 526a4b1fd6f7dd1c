//! `kind = "smtp"`: through which mail servers, and what all mails have.

use std::sync::Arc;

use lettre::message::Mailbox;

use super::item::Item;
use super::read::Section;
use super::{MailServer, SmtpConfig, attachment, dkim, header, mail, mail_server};
use crate::address;

/// Reads the smtp part of a sink.
pub(super) fn read(section: &mut Section) -> Option<SmtpConfig> {
    let server = mail_server::read(section);
    let from = section
        .need("from", "write from = \"Shop <shop@example.com>\"")
        .and_then(|item| mailbox(&item));
    let return_path = section.get("return_path").and_then(|item| mail::return_path(&item));
    let idempotency_header =
        section.get("idempotency_header").and_then(|item| header::idempotency(&item));
    let files = section.get("files").and_then(|item| attachment::directory(&item));
    let sender_rate = section.get("sender_rate").and_then(|item| item.rate());
    let dkim = dkim::read(section);
    let fallback = section.get("fallback").map(|item| mail_server::second(&item, server.as_ref()));
    let fallback = match fallback {
        Some(second) => Some(Box::new(second?)),
        None => None,
    };
    let return_path = return_path.map(Arc::new);
    Some(SmtpConfig {
        fallback,
        return_path,
        sender_rate,
        idempotency_header,
        dkim,
        files,
        ..SmtpConfig::new(server?, from?)
    })
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
    let mailbox = address::one(&item.text()?);
    let form = "write shop@example.com or Shop <shop@example.com>";
    mailbox.map_err(|_| item.fault(format!("{} is no mail address", item.shown()), form)).ok()
}

#[cfg(test)]
mod tests {
    use crate::config::Way;
    use crate::config::testing::{refuses_each, sink};

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
                     return_path, idempotency_header, files, sender_rate, dkim, fallback",
                ),
            ],
        );
    }

    #[test]
    fn a_sender_rate_is_a_rate() {
        let read = |more: &str| {
            let head = "kind = \"smtp\"\nurl = \"smtps://m\"\nfrom = \"a@b.example\"\n";
            let Way::Smtp(smtp) = sink(&format!("{head}{more}")).way else { panic!("not smtp") };
            smtp.sender_rate
        };
        let rate = read("sender_rate = \"600/min\"\n").unwrap();
        assert_eq!((rate.count.get(), rate.period.as_secs()), (600, 60));
        assert_eq!(read(""), None);
        let head = "kind = \"smtp\"\nfrom = \"a@b.example\"\nurl = \"smtp://mail.example\"\n";
        let fault = "5: sender_rate: \"14\" is no rate; \
                     write a number from 1 to 1000000, then /s, /min, /h or /d, e.g. \"14/s\"";
        refuses_each("[sinks.a]\n", "sinks.a", head, &[("sender_rate = \"14\"", fault)]);
    }
}
