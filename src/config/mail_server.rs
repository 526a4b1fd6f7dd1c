//! A mail server: where it is, as whom we come, and how the dialogue is protected.

use std::net::IpAddr;

use url::Url;

use super::item::Item;
use super::read::Section;
use super::sink::ca_file;
use super::{Login, MailSecurity, MailServer, Secret};

/// Host, port, protection.
type Place = (String, u16, MailSecurity);

const PROTECT: &str = "use smtp+starttls:// or smtps://";

/// Reads the keys of a mail server, which stand in a sink's table or in one of their own.
pub(super) fn read(section: &mut Section) -> Option<MailServer> {
    let place = section
        .need("url", "write url = \"smtp+starttls://relay.example.com:587\"")
        .and_then(|item| place(&item));
    let login = login(section);
    let clear_text_login = clear_text(section, login.as_ref(), place.as_ref());
    let encrypted = place.as_ref().is_none_or(|(.., security)| *security != MailSecurity::Plain);
    let ca_file = ca_file(section, encrypted);
    let (host, port, security) = place?;
    let login = login.and_then(|(_, login)| login);
    Some(MailServer { host, port, security, login, clear_text_login, ca_file })
}

/// Reads `[sinks.NAME.fallback]`.
pub(super) fn second(item: &Item, first: Option<&MailServer>) -> Option<MailServer> {
    let mut section = item.section()?;
    let second = read(&mut section);
    let url = section.get("url");
    section.close();
    let second = second?;
    let same = |first: &MailServer| (&first.host, first.port) == (&second.host, second.port);
    if let Some(url) = url
        && first.is_some_and(same)
    {
        url.fault("is the first server", "name another one, or remove the table");
    }
    Some(second)
}

fn place(item: &Item) -> Option<Place> {
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

/// The login and the item that names its user; no login where that has a fault.
fn login<'a>(section: &mut Section<'a>) -> Option<(Item<'a>, Option<Login>)> {
    let username = section.get("username");
    let written = section.has("password") || section.has("password_file");
    let password = section.secret("password", "password_file");
    let token = section.get("token_file");
    let Some(username) = username else {
        if written {
            section.missing("username", "a password needs one");
        } else if token.is_some() {
            section.missing("username", "a token needs one");
        }
        return None;
    };
    let login = match (token, written) {
        (Some(token), true) => {
            token.fault("a password is there too", "keep one of the two");
            None
        }
        (Some(token), false) => with_token(&username, &token),
        (None, true) => with_password(&username, password),
        (None, false) => {
            section.missing("password", "a username needs one, or password_file, or token_file");
            None
        }
    };
    Some((username, login))
}

fn with_password(username: &Item, password: Option<(Item, String)>) -> Option<Login> {
    let user = username.text()?;
    let (place, password) = password?;
    for (item, text) in [(username, &user), (&place, &password)] {
        if text.is_empty() {
            item.fault("is empty", "write one, or leave out username and password");
        } else if text.contains('\0') {
            item.fault("holds a NUL character", "no mail server takes one");
        }
    }
    Some(Login::Password { user, password: Secret::new(password) })
}

/// The token itself is read for each login; that there is one is seen here.
fn with_token(username: &Item, token: &Item) -> Option<Login> {
    let user = username.text()?;
    if user.is_empty() || user.contains('\x01') {
        username.fault("is no user name", "write the mailbox that the token is for");
    }
    let text = token.secret_file()?;
    if text.trim().is_empty() {
        token.fault("is empty", "let it hold an access token");
    }
    Some(Login::Token { user, file: token.path()? })
}

/// Refuses a login that anybody on its way could read, unless that is what the config wants.
fn clear_text(
    section: &mut Section,
    login: Option<&(Item, Option<Login>)>,
    place: Option<&Place>,
) -> bool {
    let item = section.get("clear_text_login");
    let wanted = item.as_ref().and_then(Item::boolean).unwrap_or_default();
    let Some((host, _, security)) = place else { return wanted };
    let Some((username, login)) = login else {
        if wanted && let Some(item) = item {
            item.fault("does nothing without username", "remove it");
        }
        return wanted;
    };
    if *security != MailSecurity::Plain {
        if wanted && let Some(item) = item {
            item.fault("does nothing with TLS", "remove it");
        }
        return false;
    }
    if is_loopback(host) {
        return wanted;
    }
    match login {
        Some(Login::Token { .. }) => {
            username.fault("would send the token in clear text", PROTECT);
        }
        Some(Login::Password { .. }) if !wanted => {
            let remedy = format!("{PROTECT}, or write clear_text_login = true");
            username.fault("would send the password in clear text", remedy);
        }
        Some(Login::Password { .. }) | None => {}
    }
    wanted
}

fn is_loopback(host: &str) -> bool {
    let address: Result<IpAddr, _> = host.parse();
    address.map_or_else(|_| host.eq_ignore_ascii_case("localhost"), |address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::{parse_in, refuses_each, sink};
    use crate::config::{SmtpConfig, Way};

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
    fn a_login_in_clear_text_is_asked_for_by_name() {
        let login = "username = \"shop\"\npassword = \"${SESAME}\"\nclear_text_login = true\n";
        let server = smtp("smtp://relay.example", login).server;
        assert!(server.clear_text_login && server.login.is_some());
        assert!(!smtp("smtp://relay.example", "").server.clear_text_login);
    }

    fn in_files(more: &str) -> SmtpConfig {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("smtp"), "open sesame \n").unwrap();
        let text = format!(
            "[sinks.b]\nkind = \"smtp\"\nurl = \"smtps://m\"\nfrom = \"a@b.example\"\n{more}"
        );
        let config = parse_in(directory.path(), &text).unwrap();
        let Way::Smtp(smtp) = config.sinks.into_values().next().unwrap().way else {
            panic!("not smtp")
        };
        smtp
    }

    #[test]
    fn a_password_or_a_token_may_stand_in_a_file() {
        let smtp = in_files("username = \"u\"\npassword_file = \"smtp\"\n");
        let Some(Login::Password { password, .. }) = smtp.server.login else { panic!("no login") };
        assert_eq!(password.expose(), "open sesame ");
        let smtp = in_files("username = \"u\"\ntoken_file = \"smtp\"\n");
        let Some(Login::Token { user, file }) = smtp.server.login else { panic!("no login") };
        assert_eq!((&*user, file.file_name()), ("u", Some("smtp".as_ref())));
    }

    #[test]
    fn a_second_server_has_keys_of_its_own() {
        let smtp = in_files(
            "username = \"u\"\npassword = \"p\"\n\
             [sinks.b.fallback]\nurl = \"smtp+starttls://second.example\"\n\
             username = \"v\"\ntoken_file = \"smtp\"\n",
        );
        let second = smtp.fallback.unwrap();
        assert_eq!((&*second.host, second.port), ("second.example", 587));
        assert!(matches!(second.login, Some(Login::Token { user, .. }) if user == "v"));
    }

    const HEAD: &str = "kind = \"smtp\"\nfrom = \"a@b.example\"\nurl = \"smtp://mail.example\"\n";

    #[test]
    fn faults_of_mail_servers() {
        let form = "write it like smtp+starttls://relay.example.com:587";
        let more = "holds more than host and port";
        let faults: &[(&str, &str)] = &[
            ("url", "1: url: is missing; write url = \"smtp+starttls://relay.example.com:587\""),
            ("url = \"mail\"", &format!("4: url: is no URL; {form}")),
            (
                "url = \"https://mail\"",
                &format!("4: url: is none of smtp, smtp+starttls, smtps; {form}"),
            ),
            ("url = \"smtps:mail\"", &format!("4: url: {more}; {form}")),
            ("url = \"smtps:\"", &format!("4: url: names no host; {form}")),
            ("url = \"smtps://m?x\"", &format!("4: url: {more}; {form}")),
            (
                "url = \"smtps://u:sesame@mail\"",
                "4: url: holds a user name or password; \
                 write username and password as keys of their own",
            ),
        ];
        refuses_each("[sinks.a]\n", "sinks.a", HEAD, faults);
    }

    #[test]
    fn faults_of_logins() {
        let either = "a username needs one, or password_file, or token_file";
        let clear = "would send the password in clear text; \
                     use smtp+starttls:// or smtps://, or write clear_text_login = true";
        let faults: &[(&str, &str)] = &[
            ("username = \"u\"", &format!("1: password: is missing; {either}")),
            (
                "username = \"u\"\npassword = \"\"\nurl = \"smtps://m\"",
                "5: password: is empty; write one, or leave out username and password",
            ),
            (
                "username = \"u\"\npassword = \"a\\u0000\"\nurl = \"smtps://m\"",
                "5: password: holds a NUL character; no mail server takes one",
            ),
            ("password = \"sesame\"", "1: username: is missing; a password needs one"),
            ("token_file = \"sesame\"", "1: username: is missing; a token needs one"),
            (
                "username = \"u\"\npassword = 5\nurl = \"smtps://m\"",
                "5: password: is an integer; write a string",
            ),
            ("username = \"u\"\npassword = \"sesame\"", &format!("5: username: {clear}")),
            (
                "username = \"u\"\npassword = \"sesame\"\nclear_text_login = false",
                &format!("5: username: {clear}"),
            ),
            (
                "username = \"u\"\npassword = \"sesame\"\npassword_file = \"x\"\nurl = \"smtps://m\"",
                "6: password_file: password is there too; keep one of the two",
            ),
            (
                "username = \"u\"\npassword = \"sesame\"\ntoken_file = \"x\"\nurl = \"smtps://m\"",
                "6: token_file: a password is there too; keep one of the two",
            ),
            (
                "username = \"u\"\npassword_file = \"none\"\nurl = \"smtps://m\"",
                "5: password_file: \"none\" does not exist; \
                 paths start at the config file's directory",
            ),
            (
                "username = \"u\"\ntoken_file = \"none\"\nurl = \"smtps://m\"",
                "5: token_file: \"none\" does not exist; paths start at the config file's directory",
            ),
            (
                "username = \"u\"\ntoken_file = \"/dev/null\"\nurl = \"smtps://m\"",
                "5: token_file: is empty; let it hold an access token",
            ),
            (
                "username = \"\"\ntoken_file = \"/proc/version\"\nurl = \"smtps://m\"",
                "4: username: is no user name; write the mailbox that the token is for",
            ),
            (
                "username = \"u\"\ntoken_file = \"/proc/version\"\nclear_text_login = true",
                "5: username: would send the token in clear text; use smtp+starttls:// or smtps://",
            ),
            (
                "clear_text_login = true",
                "5: clear_text_login: does nothing without username; remove it",
            ),
            (
                "username = \"u\"\npassword = \"sesame\"\nclear_text_login = true\nurl = \"smtps://m\"",
                "6: clear_text_login: does nothing with TLS; remove it",
            ),
            ("clear_text_login = 1", "5: clear_text_login: is an integer; write true or false"),
            (
                "ca_file = \"x\"",
                "5: ca_file: does nothing without TLS; remove it, or change the scheme of url",
            ),
        ];
        refuses_each("[sinks.a]\n", "sinks.a", HEAD, faults);
    }

    #[test]
    fn faults_of_second_servers() {
        let head = "[sinks.a]\nkind = \"smtp\"\nfrom = \"a@b.example\"\nurl = \"smtp://mail.example\"\n\
                    [sinks.a.fallback]\n";
        refuses_each(
            head,
            "sinks.a.fallback",
            "url = \"smtp://second.example\"\n",
            &[
                (
                    "url",
                    "5: url: is missing; write url = \"smtp+starttls://relay.example.com:587\"",
                ),
                (
                    "url = \"smtp://mail.example:25\"",
                    "6: url: is the first server; name another one, or remove the table",
                ),
                ("token_file = \"sesame\"", "5: username: is missing; a token needs one"),
                (
                    "from = \"a@b.example\"",
                    "7: from: is unknown; known here: url, username, password, password_file, \
                     token_file, clear_text_login, ca_file",
                ),
            ],
        );
    }
}
