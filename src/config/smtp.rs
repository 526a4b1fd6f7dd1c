//! `kind = "smtp"`: which mail server, as whom, and how the dialogue is protected.

use std::net::IpAddr;
use std::sync::Arc;

use lettre::message::Mailbox;
use url::Url;

use super::item::Item;
use super::read::Section;
use super::sink::ca_file;
use super::{Login, MailSecurity, MailServer, Secret, SmtpConfig, attachment, dkim, header, mail};
use crate::address;

/// Host, port, protection.
type Server = (String, u16, MailSecurity);

/// Reads the smtp part of a sink.
pub(super) fn read(section: &mut Section) -> Option<SmtpConfig> {
    let server = section
        .need("url", "write url = \"smtp+starttls://relay.example.com:587\"")
        .and_then(|item| mail_server(&item));
    let credentials = credentials(section, server.as_ref());
    let from = section
        .need("from", "write from = \"Shop <shop@example.com>\"")
        .and_then(|item| mailbox(&item));
    let return_path = section.get("return_path").and_then(|item| mail::return_path(&item));
    let idempotency_header =
        section.get("idempotency_header").and_then(|item| header::idempotency(&item));
    let files = section.get("files").and_then(|item| attachment::directory(&item));
    let encrypted = server.as_ref().is_none_or(|(.., security)| *security != MailSecurity::Plain);
    let ca_file = ca_file(section, encrypted);
    let sender_rate = section.get("sender_rate").and_then(|item| item.rate());
    let dkim = dkim::read(section);
    let (host, port, security) = server?;
    let login = credentials.map(|(user, password)| Login::Password { user, password });
    let server = MailServer { host, port, security, login, ca_file };
    let return_path = return_path.map(Arc::new);
    Some(SmtpConfig {
        return_path,
        sender_rate,
        idempotency_header,
        dkim,
        files,
        ..SmtpConfig::new(server, from?)
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

fn mail_server(item: &Item) -> Option<Server> {
    let form = "write it like smtp+starttls://relay.example.com:587";
    let Ok(url) = Url::parse(&item.text()?) else {
        item.fault("is no URL", form);
        return None;
    };
    let (security, default) = match url.scheme() {
        "smtp" => (MailSecurity::Plain, 25),
        "smtp+starttls" => (MailSecurity::StartTls, 587),
        "smtps" => (MailSecurity::Tls, 465),
        _ => {
            item.fault("is none of smtp, smtp+starttls, smtps", form);
            return None;
        }
    };
    if !url.username().is_empty() || url.password().is_some() {
        let remedy = "write username and password as keys of their own";
        item.fault("holds a user name or password", remedy);
        return None;
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        item.fault("holds more than host and port", form);
        return None;
    }
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    if host.is_empty() {
        item.fault("names no host", form);
        return None;
    }
    Some((host, url.port().unwrap_or(default), security))
}

fn credentials(section: &mut Section, server: Option<&Server>) -> Option<(String, Secret)> {
    let username = section.get("username");
    let written = section.has("password") || section.has("password_file");
    let password = section.secret("password", "password_file");
    let Some(username) = username else {
        if written {
            section.missing("username", "a password needs one");
        }
        return None;
    };
    if !written {
        section.missing("password", "a username needs one, or password_file");
    }
    let name = username.text()?;
    let (place, password) = password?;
    for (item, text) in [(&username, &name), (&place, &password)] {
        if text.is_empty() {
            item.fault("is empty", "write one, or leave out username and password");
        }
    }
    if let Some((host, _, MailSecurity::Plain)) = server
        && !is_loopback(host)
    {
        let problem = "would send the password in clear text";
        username.fault(problem, "use smtp+starttls:// or smtps://");
        return None;
    }
    Some((name, Secret::new(password)))
}

fn is_loopback(host: &str) -> bool {
    let address: Result<IpAddr, _> = host.parse();
    address.map_or_else(|_| host.eq_ignore_ascii_case("localhost"), |address| address.is_loopback())
}

fn mailbox(item: &Item) -> Option<Mailbox> {
    let mailbox = address::one(&item.text()?);
    let form = "write shop@example.com or Shop <shop@example.com>";
    mailbox.map_err(|_| item.fault(format!("{} is no mail address", item.shown()), form)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Way;
    use crate::config::testing::{parse_in, refuses_each, sink};

    fn smtp(url: &str, more: &str) -> SmtpConfig {
        let head = format!("kind = \"smtp\"\nurl = \"{url}\"\nfrom = \"Shop <a@shop.example>\"\n");
        let Way::Smtp(smtp) = sink(&(head + more)).way else { panic!("not smtp") };
        smtp
    }

    #[test]
    fn the_scheme_of_a_mail_server_says_port_and_protection() {
        for (url, host, port, security) in [
            ("smtp://localhost", "localhost", 25, MailSecurity::Plain),
            ("smtp+starttls://relay.example", "relay.example", 587, MailSecurity::StartTls),
            ("smtps://relay.example/", "relay.example", 465, MailSecurity::Tls),
            ("smtps://[::1]:2465", "::1", 2465, MailSecurity::Tls),
        ] {
            let SmtpConfig { server, from, .. } = smtp(url, "");
            assert_eq!((&*server.host, server.port, server.security), (host, port, security));
            assert_eq!(from.email.to_string(), "a@shop.example");
        }
        let login = "username = \"shop\"\npassword = \"${SESAME}\"\n";
        for url in ["smtp://localhost", "smtp://127.0.0.1", "smtp://[::1]", "smtps://a.example"] {
            let Some(Login::Password { user, password }) = smtp(url, login).server.login else {
                panic!("no login")
            };
            assert_eq!((&*user, password.expose()), ("shop", "open-sesame"), "{url}");
        }
    }

    #[test]
    fn a_password_may_stand_in_a_file() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("smtp"), "open sesame \n").unwrap();
        let text = "[sinks.b]\nkind = \"smtp\"\nurl = \"smtps://m\"\nfrom = \"a@b.example\"\n\
                    username = \"u\"\npassword_file = \"smtp\"\n";
        let config = parse_in(directory.path(), text).unwrap();
        let Way::Smtp(smtp) = config.sinks.into_values().next().unwrap().way else {
            panic!("not smtp")
        };
        let Some(Login::Password { password, .. }) = smtp.server.login else { panic!("no login") };
        assert_eq!(password.expose(), "open sesame ");
    }

    #[test]
    fn faults_of_mail_servers() {
        let form = "write it like smtp+starttls://relay.example.com:587";
        let head = "kind = \"smtp\"\nfrom = \"a@b.example\"\nurl = \"smtp://mail.example\"\n";
        refuses_each(
            "[sinks.a]\n",
            "sinks.a",
            head,
            &[
                (
                    "url",
                    "1: url: is missing; write url = \"smtp+starttls://relay.example.com:587\"",
                ),
                ("url = \"mail\"", &format!("4: url: is no URL; {form}")),
                (
                    "url = \"https://mail\"",
                    &format!("4: url: is none of smtp, smtp+starttls, smtps; {form}"),
                ),
                ("url = \"smtps:mail\"", &format!("4: url: holds more than host and port; {form}")),
                ("url = \"smtps:\"", &format!("4: url: names no host; {form}")),
                (
                    "url = \"smtps://m?x\"",
                    &format!("4: url: holds more than host and port; {form}"),
                ),
                (
                    "url = \"smtps://u:sesame@mail\"",
                    "4: url: holds a user name or password; \
                     write username and password as keys of their own",
                ),
                ("from", "1: from: is missing; write from = \"Shop <shop@example.com>\""),
                (
                    "from = \"shop\"",
                    "4: from: \"shop\" is no mail address; \
                     write shop@example.com or Shop <shop@example.com>",
                ),
                (
                    "username = \"u\"",
                    "1: password: is missing; a username needs one, or password_file",
                ),
                (
                    "username = \"u\"\npassword = \"\"\nurl = \"smtps://m\"",
                    "5: password: is empty; write one, or leave out username and password",
                ),
                ("password = \"sesame\"", "1: username: is missing; a password needs one"),
                ("username = \"u\"\npassword = 5", "6: password: is an integer; write a string"),
                (
                    "username = \"u\"\npassword = \"sesame\"",
                    "5: username: would send the password in clear text; \
                     use smtp+starttls:// or smtps://",
                ),
                (
                    "username = \"u\"\npassword = \"sesame\"\npassword_file = \"x\"",
                    "7: password_file: password is there too; keep one of the two",
                ),
                (
                    "username = \"u\"\npassword_file = \"none\"",
                    "6: password_file: \"none\" does not exist; \
                     paths start at the config file's directory",
                ),
                (
                    "ca_file = \"x\"",
                    "5: ca_file: does nothing without TLS; remove it, or change the scheme of url",
                ),
                (
                    "allow_private = []",
                    "5: allow_private: is unknown; known here: kind, concurrency, timeout, retry, \
                     guarantee, permanent, expires_after, rerender, order, rate, daily_quota, url, \
                     username, password, password_file, from, return_path, idempotency_header, \
                     files, ca_file, sender_rate, dkim",
                ),
            ],
        );
    }

    #[test]
    fn a_sender_rate_is_a_rate() {
        let rate = smtp("smtp://mail.example", "sender_rate = \"600/min\"\n").sender_rate.unwrap();
        assert_eq!((rate.count.get(), rate.period.as_secs()), (600, 60));
        assert_eq!(smtp("smtp://mail.example", "").sender_rate, None);
        let head = "kind = \"smtp\"\nfrom = \"a@b.example\"\nurl = \"smtp://mail.example\"\n";
        let fault = "5: sender_rate: \"14\" is no rate; \
                     write a number from 1 to 1000000, then /s, /min, /h or /d, e.g. \"14/s\"";
        refuses_each("[sinks.a]\n", "sinks.a", head, &[("sender_rate = \"14\"", fault)]);
    }
}
