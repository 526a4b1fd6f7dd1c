//! A look at a mail server: the dialogue up to where a mail would begin, and what was met on the way.

use jiff::Timestamp;

use super::session::{Door, Session};
use crate::config::{MailSecurity, MailServer};

/// What a mail server is like, seen from where a mail would begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reception {
    /// Its first words, which most often hold its name and its make.
    pub greeting: String,
    /// Version of TLS, and when the server's certificate ends; none in clear text.
    pub tls: Option<(&'static str, Option<Timestamp>)>,
    /// How we logged in; none where the config has no login.
    pub login: Option<&'static str>,
    /// Whether it answers EHLO; without that it offers nothing.
    pub knows_ehlo: bool,
    /// The largest mail it takes, in bytes, if it says so.
    pub size_max: Option<u64>,
    /// What it offers, a word each.
    pub offers: Vec<String>,
}

/// Which mail server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the dialogue is to be protected.
    pub security: MailSecurity,
}

impl Reception {
    /// Whether it offers an extension.
    #[must_use]
    pub fn offers(&self, keyword: &str) -> bool {
        self.offers.iter().any(|offer| offer == keyword)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The host of an IPv6 address has colons of its own.
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{open}{}{close}:{}", self.host, self.port)
    }
}

impl Door {
    /// Which server it leads to.
    pub fn place(&self) -> Place {
        let MailServer { host, port, security, .. } = &self.server;
        Place { host: host.clone(), port: *port, security: *security }
    }

    /// Goes in, looks and leaves.
    pub async fn look(&self) -> Result<Reception, String> {
        let session = self.enter(None).await.map_err(|shut| shut.reason)?;
        let reception = Reception::of(&session);
        session.part();
        Ok(reception)
    }
}

impl Reception {
    fn of(session: &Session) -> Reception {
        let seen = &session.seen;
        let word = |line: &str| line.split([' ', '=']).next().unwrap_or_default().to_owned();
        let mut offers: Vec<String> = session.offered().map(word).collect();
        offers.retain(|offer| !offer.is_empty());
        offers.dedup();
        Reception {
            greeting: seen.greeting.clone(),
            tls: seen.protection.map(|protection| (protection.version, protection.ends)),
            login: seen.mechanism,
            knows_ehlo: seen.knows_ehlo,
            size_max: session.size_max(),
            offers,
        }
    }
}
