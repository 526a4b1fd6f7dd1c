//! What can go wrong with the database, in words that name the remedy.

use std::fmt;

use tokio_postgres::error::{DbError, ErrorPosition, SqlState};

use super::tls;

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
    /// What the server said of SQL that the operator wrote, the line of that, and who asked.
    Query { error: tokio_postgres::Error, line: Option<usize>, role: String },
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

    /// The same after all patience, in words that say what was waited for.
    pub(super) fn waited(self, words: String) -> StoreError {
        StoreError { doing: self.doing, kind: Kind::Said(words) }
    }

    /// The same, of a query that the operator wrote: the server's word on it is told with the line, and
    /// not with what would mend a statement of ours. `before` is what stands before the query in the
    /// statement that was sent, `role` whose rights it has.
    pub(super) fn of_query(self, before: &str, sql: &str, role: &str) -> StoreError {
        let StoreError { doing, kind } = self;
        let kind = match kind {
            Kind::Postgres(error) if error.as_db_error().is_some() => {
                let line = error.as_db_error().and_then(|db| line_of(db, before, sql));
                Kind::Query { error, line, role: role.to_owned() }
            }
            other => other,
        };
        StoreError { doing, kind }
    }

    /// The server's error code, where the server answered at all.
    #[must_use]
    pub fn code(&self) -> Option<&SqlState> {
        match &self.kind {
            Kind::Postgres(error) | Kind::Query { error, .. } => error.code(),
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
                    || self.is_read_only()
                    || *code == SqlState::TOO_MANY_CONNECTIONS
            }),
            Kind::Query { error, .. } => {
                error.code().is_some_and(|code| code.code().starts_with("57P"))
            }
            Kind::Silent(_) => true,
            Kind::Said(_) => false,
        }
    }

    /// Whether the server takes no writes: it was a primary, and another has taken its place.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION)
    }

    /// Whether it is the word of the server on a query that the operator wrote, which no new connection
    /// mends.
    #[must_use]
    pub fn is_of_query(&self) -> bool {
        matches!(self.kind, Kind::Query { .. }) && !self.is_connection()
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

    /// Whether two waited for each other, and this one was told to give way.
    #[must_use]
    pub fn is_deadlock(&self) -> bool {
        self.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED)
    }

    /// Whether the server ended a statement that took longer than it was given.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        self.code() == Some(&SqlState::QUERY_CANCELED)
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

    /// What the server denied the role, without a remedy: that depends on whose role it is.
    #[must_use]
    pub fn denied(&self) -> Option<String> {
        let Kind::Postgres(error) = &self.kind else { return None };
        let db = error.as_db_error()?;
        let denied = *db.code() == SqlState::INSUFFICIENT_PRIVILEGE && !is_raised(db);
        denied.then(|| format!("{}: {} (SQLSTATE {})", self.doing, db.message(), db.code().code()))
    }

    fn remedy(&self) -> Option<&'static str> {
        let Kind::Postgres(error) = &self.kind else { return None };
        let Some(code) = error.code() else { return tls::remedy(error) };
        Some(match code {
            c if *c == SqlState::UNDEFINED_TABLE || *c == SqlState::INVALID_SCHEMA_NAME => {
                "the outbox is missing in this database; run: outboxd migrate"
            }
            c if *c == SqlState::UNDEFINED_COLUMN || *c == SqlState::UNDEFINED_FUNCTION => {
                "the outbox was made by another version; run: outboxd migrate --check"
            }
            c if *c == SqlState::INSUFFICIENT_PRIVILEGE => {
                "the role lacks a right: [database] url must name the relay's role, which has \
                 GRANT outbox_relay TO <the relay's role>; outboxd check says more"
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
            Kind::Query { error, line, role } => {
                let db = error.as_db_error();
                match db {
                    Some(db) if quotes_data(db) => write!(
                        f,
                        "the query met a value that it cannot work with (SQLSTATE {}); \
                         run it by hand with the bounds of this period to see which",
                        db.code().code()
                    )?,
                    _ => f.write_str(db.map_or("the query failed", DbError::message))?,
                }
                if let Some(line) = line {
                    write!(f, " (line {line} of the query)")?;
                }
                match db.and_then(|db| query_remedy(db, role)) {
                    Some(remedy) => write!(f, "; {remedy}"),
                    None => Ok(()),
                }
            }
            Kind::Postgres(error) => {
                if let Some(db) = error.as_db_error().filter(|db| is_raised(db)) {
                    return f.write_str(db.message());
                }
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

/// Whether a function of ours says so, in words for an operator: PL/pgSQL's RAISE names itself.
fn is_raised(error: &DbError) -> bool {
    error.routine() == Some("exec_stmt_raise")
}

/// The line of a query that the server points at, counted from 1.
fn line_of(error: &DbError, before: &str, sql: &str) -> Option<usize> {
    let Some(ErrorPosition::Original(position)) = error.position() else { return None };
    let inside = usize::try_from(*position).ok()?.checked_sub(before.chars().count() + 1)?;
    // What is amiss behind the query began in its last line.
    let lines = sql.chars().take(inside).filter(|c| *c == '\n').count() + 1;
    Some(lines.min(sql.trim_end().lines().count()))
}

/// Whether the server's words may hold a value of a row: it quotes what it cannot read as a number, say,
/// and a function raises what its author likes.
fn quotes_data(error: &DbError) -> bool {
    let class = |class| error.code().code().starts_with(class);
    class("P0") || ((class("22") || class("23")) && error.message().contains('"'))
}

/// What mends a query, or the rights of who runs it.
fn query_remedy(error: &DbError, role: &str) -> Option<String> {
    let code = error.code();
    if *code == SqlState::INSUFFICIENT_PRIVILEGE {
        // In another language than English the words do not fit, and the rule without the name stands.
        let denied = error.message().strip_prefix("permission denied for ");
        let grant = match denied.and_then(|what| what.split_once(' ')) {
            Some(("table" | "view", name)) => format!("GRANT SELECT ON {name}"),
            Some(("schema", name)) => format!("GRANT USAGE ON SCHEMA {name}"),
            Some(("function", name)) => format!("GRANT EXECUTE ON FUNCTION {name}"),
            _ => "GRANT SELECT ON <what it reads>".to_owned(),
        };
        return Some(format!("run as its owner: {grant} TO {role}"));
    }
    let remedy = if *code == SqlState::UNDEFINED_TABLE {
        "write the schema before the name, or look at the search_path of the relay's role"
    } else if *code == SqlState::UNDEFINED_PARAMETER || *code == SqlState::PROTOCOL_VIOLATION {
        "there are $1 and $2, begin and end of the period"
    } else if *code == SqlState::QUERY_CANCELED {
        "make it faster, or raise its timeout"
    } else {
        return None;
    };
    Some(remedy.to_owned())
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
