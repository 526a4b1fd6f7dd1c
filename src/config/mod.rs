//! The config: one TOML file, parsed once into values that cannot be wrong.
//!
//! [`Config::load`] is offline: it reads the file, the files it names and the environment, and
//! touches nothing else. Every fault is reported at once, each with file, line, key and remedy.

mod admin;
mod attachment;
mod calendar;
mod column;
mod connect;
mod csv;
mod database;
mod dkim;
mod dsn;
mod export;
mod fault;
mod header;
mod item;
mod load;
mod mail;
mod mail_server;
mod mailing;
mod policy;
mod query;
mod read;
mod relay;
mod retention;
mod retry;
mod route;
mod schedule;
mod secret;
mod sink;
mod smtp;
mod template;
#[cfg(test)]
mod testing;
mod webhook;
mod words;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use column::{Column, ColumnForm, ValuePath};
pub use dkim::DkimKey;
pub use export::{ExportQuery, Rows};
pub use fault::{ConfigError, Fault};
pub use mailing::{MailCatchUp, MailingConfig};
pub use schedule::{CatchUp, ScheduleConfig, ScheduleQuery};
pub use secret::Secret;
pub use words::{duration as parse_duration, in_words as duration_in_words};

use crate::calendar::Calendar;
use crate::name::Name;
use crate::pattern::TypePattern;
use crate::policy::{Lane, Order, Policy, Rate};
use crate::template::{Localised, Template};

/// Default of every `late_after`.
const LATE_AFTER: Duration = Duration::from_secs(3600);
const LATE_AFTER_RANGE: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);

/// The whole config, ready to use.
#[derive(Debug)]
pub struct Config {
    /// The file it was read from.
    pub file: PathBuf,
    /// SHA-256 over its text and the files it names, secrets and the environment left out: relays with
    /// another hash work by other rules.
    pub hash: String,
    /// Where the outbox is.
    pub database: Database,
    /// How this relay behaves.
    pub relay: Relay,
    /// Where it answers for health and metrics; none: nowhere.
    pub admin: Option<Admin>,
    /// How long messages are kept.
    pub retention: Retention,
    /// The ways out, by name; exports among them.
    pub sinks: BTreeMap<Name, SinkConfig>,
    /// Which message goes where.
    pub routes: Vec<Route>,
    /// What is written by the calendar, by name.
    pub schedules: BTreeMap<Name, ScheduleConfig>,
}

/// `[database]`
#[derive(Clone, Debug)]
pub struct Database {
    /// Host, port, user, password, database; TLS is in `tls`.
    pub connect: tokio_postgres::Config,
    /// From `sslmode` and `sslrootcert`.
    pub tls: DatabaseTls,
    /// The schema that holds the outbox; `outbox` unless configured.
    pub schema: Schema,
    /// The name of the installation; part of every idempotency key. Default `default`.
    pub installation: Name,
    /// From `listen`, `listen_url` and `listen_url_file`.
    pub listen: Listen,
}

/// What the outbox is called: all that a printed migration needs of a config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// As [`Database::schema`].
    pub schema: Schema,
    /// As [`Database::installation`].
    pub installation: Name,
}

/// How a relay hears that there is work.
#[derive(Clone, Debug)]
pub enum Listen {
    /// On a connection to where everything else goes (the default).
    Here,
    /// On a connection past a pooler.
    Apart {
        /// As [`Database::connect`].
        connect: Box<tokio_postgres::Config>,
        /// As [`Database::tls`].
        tls: DatabaseTls,
    },
    /// Not at all: it polls.
    Off,
}

/// A schema name that needs no quoting: `[a-z_][a-z0-9_]{0,39}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema(String);

/// How the connection to PostgreSQL is protected, as libpq's `sslmode` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseTls {
    /// `disable`, and every Unix socket.
    Disable,
    /// `prefer` (the default) and `allow`: TLS if the server offers it, certificate unchecked.
    Prefer,
    /// `require`: TLS or nothing, certificate unchecked.
    Require,
    /// `verify-ca` and `verify-full`: TLS with a certificate from a trusted root.
    Verify {
        /// `sslrootcert`; the system's roots if absent.
        root: Option<PathBuf>,
        /// `verify-full`: the certificate also names the host.
        host: bool,
    },
}

/// `[relay]`
#[derive(Clone, Debug)]
pub struct Relay {
    /// How long a silent relay keeps its sinks. Default 10 s, 1 s to 5 min.
    pub lease: Duration,
    /// How long a stopping relay waits for open attempts. Default 30 s, up to 1 h.
    pub grace: Duration,
    /// `ping_url`: a monitor elsewhere that is told of as long as all is well. Default none.
    pub ping: Option<Ping>,
}

/// A dead man's switch: a URL that is asked for (GET) as long as the relay makes progress. The monitor
/// behind it raises the alarm when that stops, for whatever reason.
#[derive(Clone, Debug)]
pub struct Ping {
    /// `http` or `https`.
    pub url: Secret,
    /// Default 1 min, 1 s to 1 h.
    pub every: Duration,
}

/// `[admin]`: the listener for health and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Address and port.
    pub listen: SocketAddr,
    /// What whoever reads the metrics must show; none only where no other machine hears the listener.
    pub token: Option<Secret>,
}

/// `[retention]`: how long a message is kept after the last of its deliveries was closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Default 7 days; 1 hour to 3,650 days.
    pub default: Duration,
    /// Types that are kept for another time. The most specific pattern wins, of two that are equally
    /// so the longer time.
    pub types: Vec<(TypePattern, Duration)>,
}

/// `[sinks.NAME]`: what all kinds have, and the kind's own part.
#[derive(Debug)]
pub struct SinkConfig {
    /// From the table's name.
    pub name: Name,
    /// Attempts at the same time. Default 16 for webhooks, 4 for mail, up to 1,000; always 1 for
    /// csv, where the key is refused, as are all others here but the kind's own.
    pub concurrency: NonZeroUsize,
    /// Limit for one whole attempt. Default 15 s for webhooks, 30 min for mail; 100 ms to 1 h.
    pub timeout: Duration,
    /// What is done about outcomes, unless the route says otherwise.
    pub policy: Policy,
    /// What happens to the followers of a keyed message that is dead or held. Default block.
    pub order: Order,
    /// Most attempts begun within a span of time, over all relays. Default none.
    pub rate: Option<Rate>,
    /// Most attempts begun on one day (UTC), over all relays. Default none.
    pub daily_quota: Option<NonZeroU32>,
    /// The kind.
    pub way: Way,
}

/// The kinds of sinks.
#[derive(Debug)]
pub enum Way {
    /// `kind = "webhook"`
    Webhook(WebhookConfig),
    /// `kind = "smtp"`
    Smtp(SmtpConfig),
    /// `kind = "csv"`, and exports
    Csv(Box<CsvConfig>),
}

/// `kind = "webhook"`: an HTTP POST for each message.
#[derive(Debug)]
pub struct WebhookConfig {
    /// `http` or `https`, with a host; no user name inside.
    pub url: url::Url,
    /// Standard Webhooks secrets, newest first, up to 10; every one signs. None: unsigned.
    pub secrets: Vec<WebhookSecret>,
    /// What is sent.
    pub body: BodyForm,
    /// More trusted roots, PEM, beside the system's.
    pub ca_file: Option<PathBuf>,
}

/// A Standard Webhooks HMAC secret: `whsec_` and the base64 of 24 to 64 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookSecret(Vec<u8>);

/// What a webhook's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyForm {
    /// `body = "payload"` (the default): the payload's text as PostgreSQL gives it.
    Payload,
    /// `body = "envelope"`: `{"type":…,"timestamp":…,"data":<payload>}` as Standard Webhooks has it.
    Envelope,
}

/// `kind = "smtp"`: a mail for each message, through a mail server of yours.
#[derive(Debug)]
pub struct SmtpConfig {
    /// The mail server.
    pub server: MailServer,
    /// `[sinks.NAME.fallback]`: the one that mails go through while the first cannot be reached, where it
    /// is certain that the first was sent nothing.
    pub fallback: Option<Box<MailServer>>,
    /// `From:`, unless the route says otherwise.
    pub from: lettre::message::Mailbox,
    /// `return_path`: the sender in the envelope, to whom what cannot be delivered is reported; unless
    /// the route says otherwise. Default the address in `From:`.
    pub return_path: Option<Arc<Template>>,
    /// `sender_rate`: most attempts begun within a span of time for each domain of `From:`. Default none.
    pub sender_rate: Option<Rate>,
    /// `idempotency_header`: the name of a header that carries the idempotency key, for providers that
    /// know repeats by one. Default none.
    pub idempotency_header: Option<String>,
    /// `[sinks.NAME.dkim]`: keys that sign every mail, up to 4. Default none.
    pub dkim: Vec<DkimConfig>,
    /// `files`: the directory that attachments named by a message are read from. Default none.
    pub files: Option<PathBuf>,
}

/// Where a mail server is, and how to get in.
#[derive(Clone, Debug)]
pub struct MailServer {
    /// Host name or address.
    pub host: String,
    /// Default 25 for `smtp`, 587 for `smtp+starttls`, 465 for `smtps`.
    pub port: u16,
    /// From the URL's scheme.
    pub security: MailSecurity,
    /// AUTH.
    pub login: Option<Login>,
    /// `clear_text_login`: whether a password may go over a connection that anybody on its way can read.
    pub clear_text_login: bool,
    /// More trusted roots, PEM, beside the system's.
    pub ca_file: Option<PathBuf>,
}

/// How to log in to a mail server.
#[derive(Clone, Debug)]
pub enum Login {
    /// `username` with `password`: AUTH PLAIN (RFC 4616), or LOGIN where there is nothing better. Only over
    /// TLS or to a loopback address, unless `clear_text_login = true`.
    Password {
        /// `username`
        user: String,
        /// `password` or `password_file`
        password: Secret,
    },
    /// `username` with `token_file`: AUTH XOAUTH2 with an access token, read from the file for each login,
    /// because tokens are short-lived. Only over TLS or to a loopback address.
    Token {
        /// `username`
        user: String,
        /// `token_file`
        file: PathBuf,
    },
}

/// A key that signs mails (DKIM, RFC 6376).
#[derive(Clone, Debug)]
pub struct DkimConfig {
    /// `domain`: the signing domain (`d=`), in A-labels.
    pub domain: String,
    /// `selector` (`s=`).
    pub selector: String,
    /// `key` or `key_file`: the private key, PEM; RSA (rsa-sha256) or Ed25519 (ed25519-sha256, RFC 8463).
    pub key: DkimKey,
}

/// How the mail dialogue is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailSecurity {
    /// `smtp://`: clear text.
    Plain,
    /// `smtp+starttls://`: STARTTLS or nothing.
    StartTls,
    /// `smtps://`: TLS from the first byte.
    Tls,
}

/// `kind = "csv"`: deliveries gather and become one file at each cut. `[exports.NAME]`: the same, with
/// rows from a query instead of messages.
#[derive(Debug)]
pub struct CsvConfig {
    /// Where the files go. Existing, writable directory: looked at by `check`, not here.
    pub directory: PathBuf,
    /// File name before `{{ period }}`.
    pub name_head: String,
    /// File name after `{{ period }}`.
    pub name_tail: String,
    /// 1 to 1,000; names differ. Of an export also none: then all that the query has.
    pub columns: Vec<Column>,
    /// What the rows are.
    pub rows: Rows,
    /// When the file is cut.
    pub cut: Cut,
    /// How values and lines are written. Default machine.
    pub profile: Profile,
    /// What is done about text that a spreadsheet would take for a formula. Default guard.
    pub formulas: Formulas,
    /// What a period without rows gives. Default a file with a header where the cut is at times of the
    /// calendar, none where it is by a span.
    pub empty: Empty,
    /// `sidecar`: whether a file NAME.json tells count, hash and range. Default no.
    pub sidecar: bool,
    /// How long after the cut the file, and its mail, may still be missing before that raises an alert.
    /// Default 1 h.
    pub late_after: Duration,
    /// `[sinks.NAME.mail]`: the file goes out by mail once it is published, each that is cut from then on.
    pub mail: Option<MailingConfig>,
}

/// How the values and lines of a CSV file are written. All end lines by CRLF and double quotes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// `machine`: comma, decimal point, no byte order mark, ISO 8601 with offset, `true` and `false`.
    #[default]
    Machine,
    /// `excel`: comma, decimal point, byte order mark, local times, `TRUE` and `FALSE`.
    Excel,
    /// `excel-de`: semicolon, decimal comma, byte order mark, local times, `WAHR` and `FALSCH`.
    ExcelDe,
}

/// `formulas`: what is done about text that begins with `= + - @`, TAB, CR or LF, or a full-width form
/// of these. Numbers are never touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Formulas {
    /// `guard`: an apostrophe is put before it.
    #[default]
    Guard,
    /// `keep`: written as it is, for programs that read the file.
    Keep,
    /// `refuse`: the row is refused.
    Refuse,
}

/// `empty`: what a period without rows gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Empty {
    /// `header`: a file with nothing but a header.
    Header,
    /// `skip`: nothing, and no mail.
    Skip,
}

/// When a CSV sink closes a file; whichever comes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// `every = "1m"`: spans counted from midnight UTC, so a whole divisor of a day; 1 s to 24 h. Or
    /// `every = { at = "01:00", time_zone = "Europe/Vienna" }`.
    pub every: Option<Calendar>,
    /// `max_rows`: as soon as so many rows wait; up to 10,000,000. Not of exports.
    pub max_rows: Option<NonZeroUsize>,
}

/// One `[[routes]]` block for one sink.
#[derive(Debug)]
pub struct Route {
    /// Which types it takes.
    pub pattern: TypePattern,
    /// Where to; none for `sink = []`, "nowhere, on purpose".
    pub sink: Option<Name>,
    /// `name`: tells several deliveries of one message through one sink apart; empty if absent.
    pub target: String,
    /// Which messages go first. Default normal.
    pub lane: Lane,
    /// What is done about outcomes: the sink's policy, where this route says nothing else.
    pub policy: Policy,
    /// What to make of the message.
    pub content: Content,
}

/// What a route makes of a message.
#[derive(Debug)]
pub enum Content {
    /// The sink needs no more than the message (webhook, csv, nowhere).
    Message,
    /// A mail.
    Mail(Box<Mail>),
}

/// The mail a route makes.
#[derive(Debug)]
pub struct Mail {
    /// `from`: default the sink's.
    pub from: Option<Template>,
    /// `return_path`: default the sink's.
    pub return_path: Option<Template>,
    /// 1 to 100; each renders to one address or a comma-separated list.
    pub to: Vec<Template>,
    /// `cc`: up to 100 of the same.
    pub cc: Vec<Template>,
    /// `bcc`: up to 100 of the same, in the envelope alone.
    pub bcc: Vec<Template>,
    /// `reply_to`: one address or a comma-separated list; none where it renders to nothing.
    pub reply_to: Option<Template>,
    /// `locale`: which language variant of the templates is taken, e.g. `{{ payload.locale }}`.
    pub locale: Option<Template>,
    /// The subject, one line.
    pub subject: Localised,
    /// The body as plain text; at least one of this and `html`. Without it, it is derived from `html`.
    pub text: Option<Localised>,
    /// The body as HTML, values escaped.
    pub html: Option<Localised>,
    /// `[[routes.attachments]]`, up to 20.
    pub attachments: Vec<AttachmentConfig>,
    /// `list_unsubscribe`: the https URL that unsubscribes this one recipient (RFC 2369, RFC 8058).
    pub list_unsubscribe: Option<Template>,
    /// `headers`: more headers, up to 20.
    pub headers: Vec<(String, Template)>,
}

/// `[[routes.attachments]]`: a file that goes along with a mail.
#[derive(Debug)]
pub struct AttachmentConfig {
    /// `name`: what it is called in the mail.
    pub name: Template,
    /// `type`: its media type. Default by the name's ending, else `application/octet-stream`.
    pub media_type: Option<String>,
    /// Where its bytes are.
    pub source: AttachmentSource,
    /// `inline`: the content id by which the HTML shows it (`cid:`); none for an attachment.
    pub content_id: Option<String>,
}

/// Where the bytes of an attachment are.
#[derive(Debug)]
pub enum AttachmentSource {
    /// `base64`: a template for their base64, as in the payload.
    Base64(Template),
    /// `file`: a template for the name of a file below the sink's `files`.
    File(Template),
}

impl Content {
    /// Whether files are read for it: that may take its time.
    #[must_use]
    pub fn reads_files(&self) -> bool {
        let Content::Mail(mail) = self else { return false };
        mail.attachments.iter().any(|file| matches!(file.source, AttachmentSource::File(_)))
    }
}

impl CsvConfig {
    /// Files of messages, everything else by default; `name` is what stands before and after the period.
    #[must_use]
    pub fn new(
        directory: PathBuf,
        name: (&str, &str),
        columns: Vec<Column>,
        cut: Cut,
    ) -> CsvConfig {
        let at_times = matches!(cut.every, Some(Calendar::Times(_)));
        CsvConfig {
            directory,
            name_head: name.0.to_owned(),
            name_tail: name.1.to_owned(),
            columns,
            rows: Rows::Messages,
            cut,
            profile: Profile::default(),
            formulas: Formulas::default(),
            empty: if at_times { Empty::Header } else { Empty::Skip },
            sidecar: false,
            late_after: LATE_AFTER,
            mail: None,
        }
    }

    /// What the sink is called in the database: rows of messages and of a query are different kinds.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.rows {
            Rows::Messages => "csv",
            Rows::Query(_) => "export",
        }
    }
}

impl Retention {
    /// How long the longest kept message is kept.
    #[must_use]
    pub fn longest(&self) -> Duration {
        self.types.iter().map(|(_, keep)| *keep).fold(self.default, Duration::max)
    }
}

impl Schema {
    /// Reads a schema name, or says what would be right.
    ///
    /// # Errors
    /// When `text` does not have the form above.
    pub fn parse(text: &str) -> Result<Schema, String> {
        let head = text.chars().next().is_some_and(|c| c.is_ascii_lowercase() || c == '_');
        let all = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if head && all && text.len() <= 40 && !text.starts_with("pg_") {
            return Ok(Schema(text.to_owned()));
        }
        Err("use up to 40 of a-z, 0-9 and _, not starting with a digit or pg_".to_owned())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl WebhookSecret {
    /// Reads `whsec_` and base64, padded or not; 24 to 64 bytes.
    ///
    /// # Errors
    /// Says what would be right, never the secret.
    pub fn parse(text: &str) -> Result<WebhookSecret, String> {
        use base64::Engine;
        use base64::engine::general_purpose::STANDARD_NO_PAD;
        let encoded = text.strip_prefix("whsec_").ok_or("a secret starts with whsec_")?;
        let bytes = STANDARD_NO_PAD
            .decode(encoded.trim_end_matches('='))
            .map_err(|_| "what follows whsec_ is not base64")?;
        if !(24..=64).contains(&bytes.len()) {
            let hint = "make one with: echo whsec_$(head -c 24 /dev/urandom | base64)";
            return Err(format!("a secret has 24 to 64 bytes, this one {}; {hint}", bytes.len()));
        }
        Ok(WebhookSecret(bytes))
    }

    /// The key for HMAC-SHA256.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WebhookSecret(…)")
    }
}
