//! What stands between us and PostgreSQL: a pooler, or something that swallows notifications.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use postgres_protocol::escape::escape_identifier;
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client};

use crate::store::error::StoreError;
use crate::store::link::{CALL_LIMIT, Target, limited};

/// How long a notification may take.
pub const HEARING_LIMIT: Duration = Duration::from_secs(5);
/// How often a session is asked which process works for it.
const ROUNDS: usize = 3;

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
            // While its transaction lasts, the process that was free last is the other one's.
            other.batch_execute("BEGIN").await.map_err(fail)?;
            let theirs = backend(target, &other).await.map_err(fail)?;
            let ours = backend(target, &one).await;
            other.batch_execute("ROLLBACK").await.map_err(fail)?;
            if theirs == first || ours.map_err(fail)? != first {
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

/// Listens on one session and rings from another; how long that took, none where nothing was heard.
///
/// # Errors
/// When the server cannot be asked.
pub async fn hears(target: &Arc<Target>) -> Result<Option<Duration>, StoreError> {
    const DOING: &str = "listen";
    let (listening, mut wire) = target.connect_undriven().await?;
    let (heard, mut hearing) = tokio::sync::mpsc::channel(1);
    let channel = format!("{}_doctor_{:016x}", target.schema().as_str(), fastrand::u64(..));
    let own = channel.clone();
    let driving = tokio::spawn(async move {
        let mut messages = futures_util::stream::poll_fn(move |context| wire.poll_message(context));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notification(note) = message
                && note.channel() == own
            {
                let _ = heard.try_send(());
            }
        }
    });
    let result = limited(DOING, CALL_LIMIT, async {
        let fail = |e| StoreError::postgres(DOING, e);
        let listen = format!("LISTEN {}", escape_identifier(&channel));
        listening.batch_execute(&listen).await.map_err(fail)?;
        let ringing = target.connect().await?;
        let began = tokio::time::Instant::now();
        let ring = &target.queries.doctor_ring;
        ringing.query_typed(ring, &[(&channel, Type::TEXT)]).await.map_err(fail)?;
        let heard = tokio::time::timeout(HEARING_LIMIT, hearing.recv()).await;
        // Through a pooler the session goes back to others.
        let _ = listening.batch_execute("UNLISTEN *").await;
        Ok(heard.ok().flatten().map(|()| began.elapsed()))
    })
    .await;
    driving.abort();
    result
}
