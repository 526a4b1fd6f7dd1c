//! A database that was restored or cloned into another cluster.

use tokio_postgres::types::Type;

use super::error::StoreError;
use super::inspect::status::Count;
use super::link::Link;

/// Whether this database is the one that `migrate` met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    /// The cluster is the same. So it is for a copy of its files, and for its standbys.
    Original,
    /// The cluster is another one: the installation is paused.
    Restored,
    /// The server does not tell, or did not when the schema was made.
    Unknown,
}

/// The restored database as it is before it is resumed.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Whether it is the one that `migrate` met.
    pub copy: Copy,
    /// Whether it is paused because of that.
    pub is_paused: bool,
    /// The highest id of a message that it has ever seen.
    pub highest_id: i64,
    /// Open deliveries.
    pub open: Count,
}

/// Pauses the installation if this cluster is another than the one it was made in, and records it.
///
/// # Errors
/// When the database cannot be asked.
pub async fn pause_restored(link: &Link, actor: &str) -> Result<Copy, StoreError> {
    let params = [(&actor as _, Type::TEXT)];
    let sql = &link.queries().pause_restored;
    let row = link.row("look whether this is a restored copy", sql, &params).await?;
    Ok(copy(row.get("restored")))
}

/// Looks at a database that may be a restored one; changes nothing.
///
/// # Errors
/// When the database cannot be asked.
pub async fn standing(link: &Link) -> Result<Standing, StoreError> {
    let limit = [(&Count::COUNTED as _, Type::INT8)];
    let row = link.row("look at the restored copy", &link.queries().restored, &limit).await?;
    Ok(Standing {
        copy: copy(row.get("restored")),
        is_paused: row.get("is_paused"),
        highest_id: row.get("highest_id"),
        open: Count::new(row.get("open")),
    })
}

/// Makes this cluster the installation's own and resumes it: ids of messages go on above every id
/// this database has seen and, where given, above `ids_above`; else a billion higher, so that none
/// is used that the original gave away meanwhile. Answers the lowest id that messages get from now on.
///
/// # Errors
/// When the database cannot be asked, or producers hold the table for more than two seconds.
pub async fn resume_restored(
    link: &Link,
    actor: &str,
    ids_above: Option<i64>,
) -> Result<i64, StoreError> {
    let params = [(&actor as _, Type::TEXT), (&ids_above as _, Type::INT8)];
    let row = link.row("resume", &link.queries().resume_restored, &params).await?;
    Ok(row.get("first_id"))
}

fn copy(restored: Option<bool>) -> Copy {
    match restored {
        None => Copy::Unknown,
        Some(true) => Copy::Restored,
        Some(false) => Copy::Original,
    }
}
