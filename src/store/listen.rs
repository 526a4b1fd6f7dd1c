//! The LISTEN session: hears bells, and holds those of sinks that sleep.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use futures_util::{Stream, StreamExt};
use postgres_protocol::escape::escape_identifier;
use tokio::sync::Notify;
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client, SimpleQueryMessage};

use super::error::StoreError;
use super::link::{Link, Target};

/// How long the session may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How long an echo may take; longer, and the session is deaf.
pub const ECHO_LIMIT: Duration = Duration::from_secs(5);

/// How long a deaf session waits before it asks the pooler again for the connection it had.
const LEAVE_PAUSE: Duration = Duration::from_millis(20);
/// Which server process answers.
const PID: &str = "SELECT pg_backend_pid()";

/// What is told of a session that hears nothing.
pub const DEAF: &str = "LISTEN hears nothing here, as behind a pooler in transaction mode; a relay polls then, \
                        at least once a second. To be woken: name a connection past the pooler in [database] \
                        listen_url; else set [database] listen = false";

/// A direct connection that listens. Its bells are released by the server when it ends.
pub struct Listener {
    target: Arc<Target>,
    client: Client,
    bell_class: i32,
    /// A channel of this session's own: what it should hear when another connection calls there.
    echo: String,
    /// The server process that listens for it: behind a pooler the next statement may meet another one.
    pid: Option<String>,
    channels: BTreeSet<i32>,
    /// Bells held now. Session locks are counted by the server, so each is taken once.
    held: BTreeSet<i32>,
}

/// What comes out of the wire of a [`Listener`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// This bell rang.
    Bell(i32),
    /// What was called to this session itself.
    Echo,
    /// The connection ended; nothing more will come.
    End,
}

fn pid(answer: &[SimpleQueryMessage]) -> Option<String> {
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    row.map(str::to_owned)
}

impl Listener {
    /// Connects; answers the session and the stream of what it hears, which must be polled for the
    /// session to work at all.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn connect(
        target: &Arc<Target>,
        bell_class: i32,
    ) -> Result<(Listener, impl Stream<Item = Heard> + Send + Unpin + use<>), StoreError> {
        let (client, mut connection) = target.connect_listening().await?;
        let schema = target.schema().as_str();
        let prefix = format!("{schema}_bell_");
        let echo = format!("{schema}_echo_{:08x}", fastrand::u32(..));
        let called = echo.clone();
        let messages = stream::poll_fn(move |context| connection.poll_message(context));
        let heard = messages
            .filter_map(move |message| {
                std::future::ready(match message {
                    Ok(AsyncMessage::Notification(note)) if note.channel() == called => {
                        Some(Heard::Echo)
                    }
                    Ok(AsyncMessage::Notification(note)) => note
                        .channel()
                        .strip_prefix(&prefix)
                        .and_then(|bell| bell.parse().ok())
                        .map(Heard::Bell),
                    Ok(_) => None,
                    Err(_) => Some(Heard::End),
                })
            })
            .chain(stream::once(std::future::ready(Heard::End)));
        let (channels, held) = (BTreeSet::new(), BTreeSet::new());
        let target = Arc::clone(target);
        let listener = Listener { target, client, bell_class, echo, pid: None, channels, held };
        Ok((listener, heard))
    }

    /// Listens for what is called to this session itself; answers the channel, for [`echoes`].
    ///
    /// # Errors
    /// When the session does not answer; it is of no use then.
    pub async fn listen_for_echo(&mut self) -> Result<String, StoreError> {
        let text = format!("LISTEN {}; {PID}", escape_identifier(&self.echo));
        self.pid = pid(&answered(self.client.simple_query(&text)).await?);
        Ok(self.echo.clone())
    }

    /// Ends a session that is deaf. What a pooler lent it is not to go on listening for others; it may
    /// lend something else by now, so it is asked until it is the same or the time is up.
    pub async fn leave(self) {
        let Some(listening) = self.pid else { return };
        let text = format!("UNLISTEN *; {PID}");
        let end = async {
            while let Ok(answer) = self.client.simple_query(&text).await
                && pid(&answer).is_some_and(|now| now != listening)
            {
                tokio::time::sleep(LEAVE_PAUSE).await;
            }
        };
        let _ = tokio::time::timeout(ANSWER_LIMIT, end).await;
    }

    /// Listens for exactly these bells.
    ///
    /// # Errors
    /// When the session does not answer; it is of no use then.
    pub async fn listen(&mut self, bells: &BTreeSet<i32>) -> Result<(), StoreError> {
        let name = |bell: &i32| {
            escape_identifier(&format!("{}_bell_{bell}", self.target.schema().as_str()))
        };
        let mut text = String::new();
        for bell in bells.difference(&self.channels) {
            let _ = write!(text, "LISTEN {};", name(bell));
        }
        for bell in self.channels.difference(bells) {
            let _ = write!(text, "UNLISTEN {};", name(bell));
        }
        if !text.is_empty() {
            answered(self.client.batch_execute(&text)).await?;
            self.channels.clone_from(bells);
        }
        Ok(())
    }

    /// Takes the bell of a sink that is about to sleep; from then on producers ring. `false` while
    /// some producer's transaction is open that routed to the sink.
    ///
    /// # Errors
    /// When the session does not answer.
    pub async fn lock_bell(&mut self, bell: i32) -> Result<bool, StoreError> {
        if self.held.contains(&bell) {
            return Ok(true);
        }
        let params: [super::link::Param<'_>; 2] =
            [(&self.bell_class, Type::INT4), (&bell, Type::INT4)];
        let sql = &self.target.queries.lock_bell;
        let row = answered(self.client.query_typed_one(sql, &params)).await?;
        let held = row.get("held");
        if held {
            self.held.insert(bell);
        }
        Ok(held)
    }

    /// Gives the bell back: the sink is awake, producers need not ring.
    ///
    /// # Errors
    /// When the session does not answer.
    pub async fn unlock_bell(&mut self, bell: i32) -> Result<(), StoreError> {
        if !self.held.remove(&bell) {
            return Ok(());
        }
        let params: [super::link::Param<'_>; 2] =
            [(&self.bell_class, Type::INT4), (&bell, Type::INT4)];
        let sql = &self.target.queries.unlock_bell;
        answered(self.client.query_typed(sql, &params)).await.map(drop)
    }

    /// Asks whether the session still answers and still listens: a socket can be silently deaf.
    ///
    /// # Errors
    /// When it does not.
    pub async fn heartbeat(&self) -> Result<(), StoreError> {
        let sql = &self.target.queries.listening;
        let row = answered(self.client.query_typed_one(sql, &[])).await?;
        let channels: i64 = row.get("channels");
        if usize::try_from(channels) == Ok(self.channels.len() + 1) {
            return Ok(());
        }
        Err(StoreError::said("listen", "the LISTEN session no longer listens"))
    }
}

/// Calls on a session's channel from another connection, and answers whether the session heard it, which
/// is told by `heard`. A pooler in transaction mode takes a LISTEN and lends the server connection to
/// somebody else, so only this shows whether there is anybody who hears.
///
/// # Errors
/// When the call could not be made, which says nothing about the session.
pub async fn echoes(link: &Link, channel: &str, heard: &Notify) -> Result<bool, StoreError> {
    let params: [super::link::Param<'_>; 1] = [(&channel, Type::TEXT)];
    link.rows("call the LISTEN session", &link.queries().echo, &params).await?;
    Ok(tokio::time::timeout(ECHO_LIMIT, heard.notified()).await.is_ok())
}

/// Whether a LISTEN session of this target would hear bells.
///
/// # Errors
/// When one of the two connections cannot be had.
pub async fn hears(target: &Arc<Target>) -> Result<bool, StoreError> {
    let (mut listener, mut heard) = Box::pin(Listener::connect(target, 0)).await?;
    let echo = Arc::new(Notify::new());
    let told = Arc::clone(&echo);
    let wire = tokio::spawn(async move {
        while let Some(one) = heard.next().await {
            if one == Heard::Echo {
                told.notify_one();
            }
        }
    });
    let answer = async {
        let channel = listener.listen_for_echo().await?;
        echoes(&Link::new(Arc::clone(target)), &channel, &echo).await
    };
    let answer = answer.await;
    listener.leave().await;
    wire.abort();
    answer
}

async fn answered<T>(
    call: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(ANSWER_LIMIT, call).await {
        Ok(result) => result.map_err(|e| StoreError::postgres("listen", e)),
        Err(_) => Err(StoreError::silent("listen", ANSWER_LIMIT)),
    }
}
