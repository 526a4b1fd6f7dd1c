//! `[sinks.NAME]`: what all kinds have, webhooks and mail servers. CSV files have a room of
//! their own.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use lettre::message::Mailbox;
use url::Url;

use super::read::{Item, Section};
use super::{
    BodyForm, MailSecurity, Secret, SinkConfig, SmtpConfig, Way, WebhookConfig, WebhookSecret, csv,
    retry,
};
use crate::name::Name;
use crate::retry::RetryPolicy;

/// What a route must know of a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Webhook,
    Smtp,
    Csv,
}

/// The declared sinks, also those with faults, so that a route to one of them is no second fault.
pub(super) type Kinds = BTreeMap<String, Option<Kind>>;

const KINDS: [(&str, Kind); 3] =
    [("webhook", Kind::Webhook), ("smtp", Kind::Smtp), ("csv", Kind::Csv)];

const CONCURRENCY_MAX: usize = 1_000;
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
/// Secrets a webhook may sign with: the present one, the next one, and a few forgotten.
const SECRETS_MAX: usize = 10;

/// Reads all sinks.
pub(super) fn read(tables: &Section) -> (BTreeMap<Name, SinkConfig>, Kinds) {
    let mut sinks = BTreeMap::new();
    let mut kinds = Kinds::new();
    let mut paths = Vec::new();
    for (name, item) in tables.entries() {
        let (kind, sink) = sink(name, &item);
        kinds.insert(name.to_owned(), kind);
        if let Some(sink) = sink {
            if let Way::Csv(csv) = &sink.way
                && let Some(path) = item.section().and_then(|mut section| section.get("path"))
            {
                paths.push((csv.path(), name, path));
            }
            sinks.insert(sink.name.clone(), sink);
        }
    }
    paths.sort_by_key(|(_, _, item)| item.line);
    for (index, (path, _, item)) in paths.iter().enumerate() {
        if let Some((_, first, _)) = paths[..index].iter().find(|(earlier, ..)| earlier == path) {
            let problem = format!("sinks.{first} writes the same files");
            item.fault(problem, "give each csv sink a path of its own");
        }
    }
    (sinks, kinds)
}

fn sink(name: &str, item: &Item) -> (Option<Kind>, Option<SinkConfig>) {
    let Some(mut section) = item.section() else { return (None, None) };
    let name = Name::parse(name);
    if name.is_err() {
        section.fault("is no name", super::NAME_FORM);
    }
    let remedy = "write kind = \"webhook\", \"smtp\" or \"csv\"";
    let kind = section.need("kind", remedy).and_then(|item| item.choice(&KINDS));
    let sink = match kind {
        Some(Kind::Webhook) => {
            section.not_yet(&["rate", "guarantee", "allow_private"]);
            let (concurrency, timeout, retry) = common(&mut section, 16, 15);
            let way = webhook(&mut section).map(Way::Webhook);
            way.map(|way| (concurrency, timeout, retry, way))
        }
        Some(Kind::Smtp) => {
            section.not_yet(&["rate", "guarantee"]);
            let (concurrency, timeout, retry) = common(&mut section, 4, 15 * 60);
            smtp(&mut section).map(|smtp| (concurrency, timeout, retry, Way::Smtp(smtp)))
        }
        Some(Kind::Csv) => {
            section.not_yet(&["rate", "guarantee", "mail"]);
            for key in ["concurrency", "timeout", "retry"] {
                section.refuse(key, "does nothing for a csv sink", "remove it");
            }
            let way = csv::read(&mut section).map(Way::Csv);
            let timeout = Duration::from_secs(15 * 60);
            way.map(|way| (NonZeroUsize::MIN, timeout, RetryPolicy::default(), way))
        }
        None => return (None, None),
    };
    section.close();
    let sink = sink.and_then(|(concurrency, timeout, retry, way)| {
        Some(SinkConfig { name: name.ok()?, concurrency, timeout, retry, way })
    });
    (kind, sink)
}

/// What sinks have that talk to a server.
fn common(
    section: &mut Section,
    concurrency: usize,
    timeout: u64,
) -> (NonZeroUsize, Duration, RetryPolicy) {
    let written = section.get("concurrency").and_then(|item| item.count(1..=CONCURRENCY_MAX));
    let concurrency = NonZeroUsize::new(written.unwrap_or(concurrency));
    let timeout = section.duration("timeout", Duration::from_secs(timeout), TIMEOUT);
    let policy = section.get("retry").map(|item| retry::read(&item)).unwrap_or_default();
    (concurrency.unwrap_or(NonZeroUsize::MIN), timeout, policy)
}

fn webhook(section: &mut Section) -> Option<WebhookConfig> {
    let url = section
        .need("url", "write url = \"https://example.com/hooks\"")
        .and_then(|item| webhook_url(&item));
    let secrets = secrets(section);
    let bodies = [("payload", BodyForm::Payload), ("envelope", BodyForm::Envelope)];
    let body = section.get("body").and_then(|item| item.choice(&bodies));
    let encrypted = url.as_ref().is_none_or(|url| url.scheme() == "https");
    let ca_file = ca_file(section, encrypted);
    Some(WebhookConfig { url: url?, secrets, body: body.unwrap_or(BodyForm::Payload), ca_file })
}

/// The path of such a URL is often a secret of its own, so faults do not show it.
fn webhook_url(item: &Item) -> Option<Url> {
    let form = "write it like https://example.com/hooks";
    let Ok(url) = Url::parse(&item.text()?) else {
        item.fault("is no URL", form);
        return None;
    };
    if !matches!(url.scheme(), "http" | "https") {
        item.fault("is neither http nor https", form);
        return None;
    }
    if !url.username().is_empty() || url.password().is_some() {
        item.fault("holds a user name or password", "webhooks are signed: write secrets = […]");
        return None;
    }
    if url.fragment().is_some() {
        item.fault("holds a #fragment, which is never sent", "remove it");
        return None;
    }
    Some(url)
}

fn secrets(section: &mut Section) -> Vec<WebhookSecret> {
    let listed = section.get("secrets");
    let file = section.get("secrets_file");
    let texts: Vec<(Item, String)> = match (listed, file) {
        (Some(_), Some(file)) => {
            file.fault("secrets is there too", "keep one of the two");
            return Vec::new();
        }
        (Some(listed), None) => {
            let items = listed.list().unwrap_or_default();
            items.into_iter().filter_map(|item| item.text().map(|text| (item, text))).collect()
        }
        (None, Some(file)) => {
            let text = file.file().unwrap_or_default();
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            lines.map(|line| (file.clone(), line.to_owned())).collect()
        }
        (None, None) => return Vec::new(),
    };
    if let Some((item, _)) = texts.get(SECRETS_MAX) {
        item.fault("is one too many", format!("at most {SECRETS_MAX}"));
    }
    let read = |(item, text): &(Item, String)| {
        let secret = WebhookSecret::parse(text);
        secret.map_err(|problem| item.fault(problem, "")).ok()
    };
    texts.iter().filter_map(read).collect()
}

/// More roots make sense only where certificates are checked.
fn ca_file(section: &mut Section, encrypted: bool) -> Option<PathBuf> {
    let item = section.get("ca_file")?;
    if !encrypted {
        item.fault("does nothing without TLS", "remove it, or change the scheme of url");
        return None;
    }
    item.certificates()
}

/// Host, port, protection.
type Server = (String, u16, MailSecurity);

fn smtp(section: &mut Section) -> Option<SmtpConfig> {
    let server = section
        .need("url", "write url = \"smtp+starttls://relay.example.com:587\"")
        .and_then(|item| mail_server(&item));
    let credentials = credentials(section, server.as_ref());
    let from = section
        .need("from", "write from = \"Shop <shop@example.com>\"")
        .and_then(|item| mailbox(&item));
    let encrypted = server.as_ref().is_none_or(|(.., security)| *security != MailSecurity::Plain);
    let ca_file = ca_file(section, encrypted);
    let (host, port, security) = server?;
    Some(SmtpConfig { host, port, security, credentials, from: from?, ca_file })
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
    let (_, password) = password?;
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
    let mailbox = item.text()?.parse();
    let form = "write shop@example.com or Shop <shop@example.com>";
    mailbox.map_err(|_| item.fault(format!("{} is no mail address", item.shown()), form)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::tests::{parse, parse_in, refuses};

    const WEBHOOK: &str = "kind = \"webhook\"\nurl = \"https://crm.example/hooks\"\n";
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn one(text: &str) -> SinkConfig {
        parse(&format!("[sinks.a]\n{text}")).unwrap().sinks.into_values().next().unwrap()
    }

    fn smtp(url: &str, more: &str) -> SmtpConfig {
        let head = format!("kind = \"smtp\"\nurl = \"{url}\"\nfrom = \"Shop <a@shop.example>\"\n");
        let Way::Smtp(smtp) = one(&(head + more)).way else { panic!("not smtp") };
        smtp
    }

    #[test]
    fn a_webhook_has_defaults() {
        let sink = one(WEBHOOK);
        assert_eq!((sink.concurrency.get(), sink.timeout.as_secs()), (16, 15));
        assert_eq!(sink.retry, RetryPolicy::default());
        let Way::Webhook(webhook) = sink.way else { panic!("not a webhook") };
        assert_eq!((webhook.secrets.len(), webhook.body), (0, BodyForm::Payload));
        let sink = one(&format!("{WEBHOOK}secrets = [\"{SECRET}\"]\nbody = \"envelope\"\n"));
        let Way::Webhook(webhook) = sink.way else { panic!("not a webhook") };
        assert_eq!((webhook.secrets[0].key().len(), webhook.body), (24, BodyForm::Envelope));
    }

    #[test]
    fn the_scheme_of_a_mail_server_says_port_and_protection() {
        for (url, host, port, security) in [
            ("smtp://localhost", "localhost", 25, MailSecurity::Plain),
            ("smtp+starttls://relay.example", "relay.example", 587, MailSecurity::StartTls),
            ("smtps://relay.example/", "relay.example", 465, MailSecurity::Tls),
            ("smtps://[::1]:2465", "::1", 2465, MailSecurity::Tls),
        ] {
            let read = smtp(url, "");
            assert_eq!((&*read.host, read.port, read.security), (host, port, security));
            assert_eq!(read.from.email.to_string(), "a@shop.example");
        }
        let login = "username = \"shop\"\npassword = \"${SESAME}\"\n";
        for url in ["smtp://localhost", "smtp://127.0.0.1", "smtp://[::1]", "smtps://a.example"] {
            let (user, password) = smtp(url, login).credentials.unwrap();
            assert_eq!((&*user, password.expose()), ("shop", "open-sesame"), "{url}");
        }
    }

    #[test]
    fn secrets_come_from_files_beside_the_config() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        write("hooks", &format!("{SECRET}\n\n{SECRET}\r\n"));
        write("smtp", "open sesame \n");
        write("ca.pem", "-----BEGIN CERTIFICATE-----\n");
        let text = format!(
            "[sinks.a]\n{WEBHOOK}secrets_file = \"hooks\"\nca_file = \"ca.pem\"\n[sinks.b]\n\
             kind = \"smtp\"\nurl = \"smtps://m\"\nfrom = \"a@b.example\"\nusername = \"u\"\n\
             password_file = \"smtp\"\n"
        );
        let config = parse_in(directory.path(), &text).unwrap();
        let ways: Vec<&Way> = config.sinks.values().map(|sink| &sink.way).collect();
        let [Way::Webhook(webhook), Way::Smtp(smtp)] = ways[..] else { panic!("other kinds") };
        assert_eq!(webhook.secrets.len(), 2);
        assert_eq!(webhook.ca_file.as_deref(), Some(&*directory.path().join("ca.pem")));
        assert_eq!(smtp.credentials.as_ref().unwrap().1.expose(), "open sesame ");
    }

    /// Each line replaces the line of the same key, or is added, and has this fault.
    fn check(head: &str, cases: &[(&str, usize, &str)]) {
        for (lines, line, fault) in cases {
            let keys: Vec<&str> = lines.lines().filter_map(|l| l.split(" =").next()).collect();
            let kept = head.lines().filter(|l| !keys.contains(&l.split(" =").next().unwrap()));
            let text: Vec<&str> = kept.chain(lines.lines().filter(|l| l.contains('='))).collect();
            let text = format!("[sinks.a]\n{}\n", text.join("\n"));
            refuses(&text, &[&format!("outboxd.toml:{line}: sinks.a{fault}")]);
        }
    }

    #[test]
    fn faults_of_all_kinds() {
        check(
            WEBHOOK,
            &[
                ("kind", 1, ".kind: is missing; write kind = \"webhook\", \"smtp\" or \"csv\""),
                (
                    "kind = \"webhok\"",
                    3,
                    ".kind: \"webhok\" is unknown; use \"webhook\", \"smtp\", \"csv\"",
                ),
                ("kind = 1", 3, ".kind: is an integer; write a string"),
                ("concurrency = 0", 4, ".concurrency: 0 is out of range; 1 to 1000"),
                ("concurrency = -1", 4, ".concurrency: -1 is out of range; 1 to 1000"),
                ("concurrency = \"4\"", 4, ".concurrency: is a string; write a whole number"),
                ("timeout = \"50ms\"", 4, ".timeout: \"50ms\" is out of range; 100ms to 1h"),
                ("timout = \"1s\"", 4, ".timout: is unknown; did you mean timeout?"),
                ("rate = \"14/s\"", 4, ".rate: is not there yet; remove it"),
                ("guarantee = \"at-most-once\"", 4, ".guarantee: is not there yet; remove it"),
                ("allow_private = []", 4, ".allow_private: is not there yet; remove it"),
            ],
        );
        refuses("[sinks]\na = 3\n", &["outboxd.toml:2: sinks.a: is an integer; write a table"]);
        refuses(
            &format!("[sinks.A_1]\n{WEBHOOK}"),
            &["outboxd.toml:1: sinks.A_1: is no name; \
               use a lower-case letter, then up to 39 of a-z, 0-9 and -"],
        );
    }

    #[test]
    fn faults_of_webhooks() {
        let form = "write it like https://example.com/hooks";
        let many = format!("secrets = [{}]", format!("\"{SECRET}\",").repeat(11));
        check(
            WEBHOOK,
            &[
                ("url", 1, ".url: is missing; write url = \"https://example.com/hooks\""),
                ("url = \"crm/sesame\"", 3, &format!(".url: is no URL; {form}")),
                ("url = \"https://\"", 3, &format!(".url: is no URL; {form}")),
                ("url = \"smtp://sesame\"", 3, &format!(".url: is neither http nor https; {form}")),
                (
                    "url = \"https://u:sesame@crm.example\"",
                    3,
                    ".url: holds a user name or password; webhooks are signed: write secrets = […]",
                ),
                (
                    "url = \"https://crm.example/#sesame\"",
                    3,
                    ".url: holds a #fragment, which is never sent; remove it",
                ),
                ("body = \"json\"", 4, ".body: \"json\" is unknown; use \"payload\", \"envelope\""),
                ("secrets = \"sesame\"", 4, ".secrets: is a string; write a list: [ … ]"),
                ("secrets = [\"sesame\"]", 4, ".secrets[0]: a secret starts with whsec_"),
                (
                    "secrets = [\"whsec_\\u0020sesame\"]",
                    4,
                    ".secrets[0]: what follows whsec_ is not base64",
                ),
                (
                    "secrets = [\"whsec_c2VzYW1l\"]",
                    4,
                    ".secrets[0]: a secret has 24 to 64 bytes, this one 6; \
                     make one with: echo whsec_$(head -c 24 /dev/urandom | base64)",
                ),
                ("secrets = [\"${SESAME}\"]", 4, ".secrets[0]: a secret starts with whsec_"),
                (&many, 4, ".secrets[10]: is one too many; at most 10"),
                (
                    "secrets = []\nsecrets_file = \"x\"",
                    5,
                    ".secrets_file: secrets is there too; keep one of the two",
                ),
                (
                    "secrets_file = \"none\"",
                    4,
                    ".secrets_file: \"none\" does not exist; \
                     paths start at the config file's directory",
                ),
                (
                    "ca_file = \"none.pem\"",
                    4,
                    ".ca_file: \"none.pem\" does not exist; \
                     paths start at the config file's directory",
                ),
                (
                    "ca_file = \"Cargo.toml\"",
                    4,
                    ".ca_file: \"Cargo.toml\" holds no certificate; name a PEM file",
                ),
                ("ca_file = \"\"", 4, ".ca_file: is empty; write a path"),
                (
                    "url = \"http://crm.example\"\nca_file = \"x\"",
                    4,
                    ".ca_file: does nothing without TLS; remove it, or change the scheme of url",
                ),
            ],
        );
    }

    #[test]
    fn faults_of_mail_servers() {
        let form = "write it like smtp+starttls://relay.example.com:587";
        let head = "kind = \"smtp\"\nfrom = \"a@b.example\"\nurl = \"smtp://mail.example\"\n";
        check(
            head,
            &[
                (
                    "url",
                    1,
                    ".url: is missing; write url = \"smtp+starttls://relay.example.com:587\"",
                ),
                ("url = \"mail\"", 4, &format!(".url: is no URL; {form}")),
                (
                    "url = \"https://mail\"",
                    4,
                    &format!(".url: is none of smtp, smtp+starttls, smtps; {form}"),
                ),
                (
                    "url = \"smtps:mail\"",
                    4,
                    &format!(".url: holds more than host and port; {form}"),
                ),
                ("url = \"smtps:\"", 4, &format!(".url: names no host; {form}")),
                (
                    "url = \"smtps://m?x\"",
                    4,
                    &format!(".url: holds more than host and port; {form}"),
                ),
                (
                    "url = \"smtps://u:sesame@mail\"",
                    4,
                    ".url: holds a user name or password; \
                     write username and password as keys of their own",
                ),
                ("from", 1, ".from: is missing; write from = \"Shop <shop@example.com>\""),
                (
                    "from = \"shop\"",
                    4,
                    ".from: \"shop\" is no mail address; \
                     write shop@example.com or Shop <shop@example.com>",
                ),
                (
                    "username = \"u\"",
                    1,
                    ".password: is missing; a username needs one, or password_file",
                ),
                ("password = \"sesame\"", 1, ".username: is missing; a password needs one"),
                ("username = \"u\"\npassword = 5", 6, ".password: is an integer; write a string"),
                (
                    "username = \"u\"\npassword = \"sesame\"",
                    5,
                    ".username: would send the password in clear text; \
                     use smtp+starttls:// or smtps://",
                ),
                (
                    "username = \"u\"\npassword = \"sesame\"\npassword_file = \"x\"",
                    7,
                    ".password_file: password is there too; keep one of the two",
                ),
                (
                    "username = \"u\"\npassword_file = \"none\"",
                    6,
                    ".password_file: \"none\" does not exist; \
                     paths start at the config file's directory",
                ),
                (
                    "ca_file = \"x\"",
                    5,
                    ".ca_file: does nothing without TLS; remove it, or change the scheme of url",
                ),
                (
                    "allow_private = []",
                    5,
                    ".allow_private: is unknown; known here: kind, concurrency, timeout, retry, url, username, password, password_file, from, ca_file",
                ),
                ("rate = \"14/s\"", 5, ".rate: is not there yet; remove it"),
                ("guarantee = \"x\"", 5, ".guarantee: is not there yet; remove it"),
            ],
        );
    }
}
