//! Whether a pooler stands between us and PostgreSQL.

use tokio_postgres::Client;

use crate::store::error::StoreError;
use crate::store::link::{CALL_LIMIT, Target, limited};

/// How often a session is asked which process works for it.
const ROUNDS: usize = 10;

/// Whether sessions are handed to others between transactions, as a pooler does it: two sessions that have
/// one server process, or one session that has two.
///
/// # Errors
/// When the server cannot be asked.
pub async fn is_pooled(target: &Target) -> Result<bool, StoreError> {
    let (one, other) = (target.connect().await?, target.connect().await?);
    limited("look for a pooler", CALL_LIMIT, async {
        let fail = |e| StoreError::postgres("look for a pooler", e);
        let first = backend(target, &one).await.map_err(fail)?;
        for _ in 0..ROUNDS {
            // The process that was free last is the next one's; while its transaction lasts, ours is another.
            let ours = backend(target, &one).await.map_err(fail)?;
            other.batch_execute("BEGIN").await.map_err(fail)?;
            let theirs = backend(target, &other).await.map_err(fail)?;
            let then = backend(target, &one).await;
            other.batch_execute("ROLLBACK").await.map_err(fail)?;
            if ours != first || theirs == first || then.map_err(fail)? != first {
                return Ok(true);
            }
        }
        Ok(false)
    })
    .await
}

async fn backend(target: &Target, client: &Client) -> Result<i32, tokio_postgres::Error> {
    let row = client.query_typed_one(&target.queries.doctor_backend, &[]).await?;
    Ok(row.get("pid"))
}
