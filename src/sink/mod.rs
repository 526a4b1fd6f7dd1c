//! The ways out: everything that talks to a receiver or writes a file for one.
//!
//! A [`Sink`] makes of a message what is to be sent ([`Sink::prepare`], pure) and tries once to
//! send it ([`Sink::deliver`]). It decides the outcome, because only it knows what a reply means;
//! it neither retries nor records. Attempts are independent: dropping one closes its connection,
//! so that no reply of an abandoned attempt is ever taken for that of the next.
//!
//! CSV has no attempts: its files are cut by the relay, with [`csv`].

pub mod capture;
pub mod certificate;
pub mod csv;
pub mod mail;
pub mod ping;
pub mod retry_after;
pub mod signature;
pub mod smtp;
pub mod tls;
pub mod webhook;

use std::path::{Path, PathBuf};
use std::time::Duration;

use self::capture::Capture;
use self::mail::NoMail;
use crate::config::{Content, SinkConfig, Way};
use crate::delivery::{Outcome, Phase};
use crate::message::{IdempotencyKey, Message};
use crate::policy::Codes;

/// A sink with attempts, ready to work.
pub enum Sink {
    /// `kind = "webhook"`
    Webhook(webhook::Webhook),
    /// `kind = "smtp"`
    Smtp(smtp::Smtp),
}

/// What one delivery sends: the same on every attempt, but for signatures and their timestamps.
pub enum Prepared {
    /// An HTTP request.
    Request(webhook::Request),
    /// A mail.
    Mail(mail::PreparedMail),
}

/// Why a sink cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// `ca_file` cannot be used.
    #[error("cannot use the certificates in {path}: {reason}")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The TLS library refused its settings.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
    /// The HTTP client refused its settings.
    #[error("cannot set up the HTTP client")]
    Http(#[source] reqwest::Error),
    /// The folder for what is captured cannot be made.
    #[error("cannot make the folder {path} for what is captured: {reason}")]
    Capture {
        /// The folder.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// `from` or `url` cannot be used in an SMTP dialogue.
    #[error("cannot set up the mail dialogue: {0}")]
    Mail(String),
}

impl BuildError {
    fn ca_file(path: &Path, reason: String) -> BuildError {
        BuildError::CaFile { path: path.to_owned(), reason }
    }
}

impl Sink {
    /// Builds the sink of a config; none for csv. Reads `ca_file` and touches no network.
    ///
    /// # Errors
    /// When a file or a value cannot be used, in words that name it.
    pub fn build(config: &SinkConfig) -> Result<Option<Sink>, BuildError> {
        match &config.way {
            Way::Webhook(way) => Ok(Some(Sink::Webhook(webhook::Webhook::build(config, way)?))),
            Way::Smtp(way) => Ok(Some(Sink::Smtp(smtp::Smtp::build(config, way)?))),
            Way::Csv(_) => Ok(None),
        }
    }

    /// The same, for development: what it would send becomes files in a folder of its own within
    /// `directory`, and nothing is sent. The files of csv sinks go there too.
    ///
    /// # Errors
    /// As [`Sink::build`], and when the folder cannot be made.
    pub fn build_capturing(
        config: &mut SinkConfig,
        directory: &Path,
    ) -> Result<Option<Sink>, BuildError> {
        let capture = Capture::new(directory, config.name.as_str()).map_err(|error| {
            let path = directory.join(config.name.as_str());
            BuildError::Capture { path, reason: error.to_string() }
        })?;
        if let Way::Csv(csv) = &mut config.way {
            capture.folder().clone_into(&mut csv.directory);
        }
        let mut built = Sink::build(config)?;
        match &mut built {
            Some(Sink::Webhook(webhook)) => webhook.capture = Some(capture),
            Some(Sink::Smtp(smtp)) => smtp.capture = Some(capture),
            None => {}
        }
        Ok(built)
    }

    /// Makes what is to be sent. Pure: the same row and config give the same bytes.
    ///
    /// Blocks only where files are read for it, see [`Content::reads_files`].
    ///
    /// # Errors
    /// Why nothing can be made of this message, ever or now; names no value of it.
    pub fn prepare(
        &self,
        message: &Message,
        content: &Content,
        key: &IdempotencyKey,
    ) -> Result<Prepared, NoMail> {
        match (self, content) {
            (Sink::Webhook(webhook), _) => Ok(Prepared::Request(webhook.prepare(message, key)?)),
            (Sink::Smtp(smtp), Content::Mail(content)) => {
                mail::prepare(smtp.letterhead(), content, message, key).map(Prepared::Mail)
            }
            (Sink::Smtp(_), Content::Message) => {
                let reason = "the route says nothing of a mail: give it to, subject and text";
                Err(NoMail::Never(reason.to_owned()))
            }
        }
    }

    /// The domain that mails of this content come from, where that holds nothing of a message.
    #[must_use]
    pub fn sender_domain(&self, content: &Content) -> Option<String> {
        match (self, content) {
            (Sink::Smtp(smtp), Content::Mail(content)) => {
                mail::sender_domain(smtp.letterhead(), content)
            }
            _ => None,
        }
    }

    /// The bytes of the files that [`Sink::prepare`] would read: room is made for them before. Blocks as
    /// that does.
    ///
    /// # Errors
    /// As there.
    pub fn weigh(&self, message: &Message, content: &Content) -> Result<u64, NoMail> {
        match (self, content) {
            (Sink::Smtp(smtp), Content::Mail(content)) => {
                mail::weigh(smtp.letterhead(), content, message)
            }
            (Sink::Webhook(_), _) | (Sink::Smtp(_), Content::Message) => Ok(0),
        }
    }

    /// Tries once to deliver. `permanent` are the answers after which asking again cannot help, if
    /// the config names them; none stands for the kind's own. The caller bounds the time; dropping
    /// the future is safe at any point and closes the connection, and `phase` then tells "not sent"
    /// from "in doubt".
    pub async fn deliver(
        &self,
        prepared: &Prepared,
        permanent: Option<&Codes>,
        phase: &Phase,
    ) -> Outcome {
        match (self, prepared) {
            (Sink::Webhook(webhook), Prepared::Request(request)) => {
                webhook.deliver(request, permanent, phase).await
            }
            (Sink::Smtp(smtp), Prepared::Mail(mail)) => smtp.deliver(mail, permanent, phase).await,
            (Sink::Webhook(_), Prepared::Mail(_)) | (Sink::Smtp(_), Prepared::Request(_)) => {
                let reason = "what was prepared is not for this kind of sink".to_owned();
                Outcome::Permanent { reason }
            }
        }
    }

    /// Since when mails go through a second server, and why; none while the first takes them.
    #[must_use]
    pub fn on_second(&self) -> Option<(Duration, String)> {
        match self {
            Sink::Webhook(_) => None,
            Sink::Smtp(smtp) => smtp.on_second(),
        }
    }

    /// Touches the receiver and sends nothing: a connection, TLS, and for mail the dialogue up to
    /// AUTH. Gives what was found.
    ///
    /// # Errors
    /// What did not work.
    pub async fn probe(&self) -> Result<String, String> {
        match self {
            Sink::Webhook(webhook) => webhook.probe().await,
            Sink::Smtp(smtp) => smtp.probe().await,
        }
    }
}

impl Prepared {
    /// SHA-256 over what is sent, signatures, their timestamps and the program's version left out.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        match self {
            Prepared::Request(request) => request.hash(),
            Prepared::Mail(mail) => mail.hash(),
        }
    }
}

/// Hashes parts so that moving a byte from one to the next makes another hash.
fn hash_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    use sha2::Digest;
    let mut hash = sha2::Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
