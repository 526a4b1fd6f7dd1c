//! What can go wrong with the database, in words that name the remedy.

use std::fmt;

use tokio_postgres::error::SqlState;

/// A failed database call.
#[derive(Debug)]
pub struct StoreError {
    /// What was being done, a lower-case fragment.
    doing: &'static str,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// The server or the wire.
    Postgres(tokio_postgres::Error),
    /// No answer within the limit.
    Silent(std::time::Duration),
    /// Said by outboxd itself, remedy included.
    Said(String),
}

impl StoreError {
    pub(super) fn postgres(doing: &'static str, source: tokio_postgres::Error) -> StoreError {
        StoreError { doing, kind: Kind::Postgres(source) }
    }

    pub(crate) fn silent(doing: &'static str, limit: std::time::Duration) -> StoreError {
        StoreError { doing, kind: Kind::Silent(limit) }
    }

    pub(super) fn said(doing: &'static str, words: impl Into<String>) -> StoreError {
        StoreError { doing, kind: Kind::Said(words.into()) }
    }

    /// The server's error code, where the server answered at all.
    #[must_use]
    pub fn code(&self) -> Option<&SqlState> {
        match &self.kind {
            Kind::Postgres(error) => error.code(),
            Kind::Silent(_) | Kind::Said(_) => None,
        }
    }

    /// Whether a new connection may help: the wire broke, the server went away, or it turned out
    /// to be a read-only standby.
    #[must_use]
    pub fn is_connection(&self) -> bool {
        match &self.kind {
            Kind::Postgres(error) => error.code().is_none_or(|code| {
                code.code().starts_with("08")
                    || code.code().starts_with("57P")
                    || *code == SqlState::READ_ONLY_SQL_TRANSACTION
                    || *code == SqlState::TOO_MANY_CONNECTIONS
            }),
            Kind::Silent(_) => true,
            Kind::Said(_) => false,
        }
    }

    /// Whether a row may have found no ledger partition to stand in: the code says no more, and the
    /// text comes in the server's language.
    #[must_use]
    pub fn is_missing_partition(&self) -> bool {
        self.code() == Some(&SqlState::CHECK_VIOLATION)
    }

    /// Whether a lock was not to be had in the time allowed.
    #[must_use]
    pub fn is_lock_timeout(&self) -> bool {
        self.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
    }

    /// Whether the database cannot hold what was to be written, such as a character that its
    /// encoding lacks.
    #[must_use]
    pub fn is_about_data(&self) -> bool {
        self.code().is_some_and(|code| code.code().starts_with("22"))
    }

    /// Whether waiting cannot help: what is missing has to be made by somebody.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.remedy().is_some() || matches!(self.kind, Kind::Said(_))
    }

    fn remedy(&self) -> Option<&'static str> {
        let code = self.code()?;
        Some(match code {
            c if *c == SqlState::UNDEFINED_TABLE || *c == SqlState::INVALID_SCHEMA_NAME => {
                "the outbox is missing in this database; run: outboxd migrate"
            }
            c if *c == SqlState::UNDEFINED_COLUMN || *c == SqlState::UNDEFINED_FUNCTION => {
                "the outbox was made by another version; run: outboxd migrate --check"
            }
            c if *c == SqlState::INSUFFICIENT_PRIVILEGE => {
                "the role lacks a right; run as the owner: GRANT outbox_relay TO <the relay's role>"
            }
            c if *c == SqlState::INVALID_PASSWORD
                || *c == SqlState::INVALID_AUTHORIZATION_SPECIFICATION =>
            {
                "check user and password in [database] url, and pg_hba.conf"
            }
            c if *c == SqlState::INVALID_CATALOG_NAME => {
                "there is no such database; check [database] url"
            }
            _ => return None,
        })
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Said(words) => write!(f, "{words}"),
            Kind::Silent(limit) => {
                write!(f, "{}: no answer within {limit:.1?}", self.doing)
            }
            Kind::Postgres(error) => {
                write!(f, "{}: ", self.doing)?;
                match error.as_db_error() {
                    // Not the detail: it may hold a row's data.
                    Some(db) => write!(f, "{} (SQLSTATE {})", db.message(), db.code().code())?,
                    None => write_chain(f, error)?,
                }
                match self.remedy() {
                    Some(remedy) => write!(f, "; {remedy}"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// The error and its causes in one line; tokio-postgres keeps the cause in `source`.
fn write_chain(f: &mut fmt::Formatter<'_>, error: &dyn std::error::Error) -> fmt::Result {
    write!(f, "{error}")?;
    match error.source() {
        Some(source) => {
            f.write_str(": ")?;
            write_chain(f, source)
        }
        None => Ok(()),
    }
}

impl std::error::Error for StoreError {}
