//! One connection that is made anew when it breaks.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::Mutex;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Row};

use super::error::StoreError;
use super::queries::Queries;
use super::tls;
use crate::config::{Database, DatabaseTls, Listen, Schema};

/// How long one call may take before its connection is given up.
pub const CALL_LIMIT: Duration = Duration::from_secs(15);
/// How long connecting may take, name look-up, TLS and login included.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// How a statement is begun that goes through its indexes.
const BY_INDEX: &str = "BEGIN; SET LOCAL enable_seqscan = off; \
     SET LOCAL enable_bitmapscan = off; SET LOCAL enable_hashjoin = off; \
     SET LOCAL enable_mergejoin = off; SET LOCAL jit = off; SET LOCAL synchronous_commit = on; \
     SET LOCAL idle_in_transaction_session_timeout = '5s'";

/// A parameter with its type: statements are unnamed, so the types travel with them.
pub type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// How often connecting and calls went well and wrong, over all links of a process.
#[derive(Debug, Default)]
pub struct Tally {
    connections: AtomicU64,
    errors: AtomicU64,
}

impl Tally {
    /// Connections that were made.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Calls that failed, and connections that could not be made.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    fn count<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if result.is_err() {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        result
    }
}

/// Where to connect to, and the statements for that schema.
#[derive(Debug)]
pub struct Target {
    database: Database,
    /// How often a server turned out to take no more writes. Connections from before lead there too, and
    /// what is only read through them would be read from the past.
    turned_away: AtomicU64,
    tally: Arc<Tally>,
    /// The statements with the schema written in.
    pub queries: Queries,
}

impl Target {
    /// Prepares the statements for the configured schema; connects to nothing.
    #[must_use]
    pub fn new(database: &Database) -> Arc<Target> {
        Target::counted(database, Arc::default())
    }

    /// The same; what becomes of connections and calls is counted there.
    #[must_use]
    pub fn counted(database: &Database, tally: Arc<Tally>) -> Arc<Target> {
        let queries = Queries::new(&database.schema);
        let turned_away = AtomicU64::default();
        Arc::new(Target { database: database.clone(), turned_away, tally, queries })
    }

    /// The schema that holds the outbox.
    #[must_use]
    pub fn schema(&self) -> &Schema {
        &self.database.schema
    }

    /// Whether the config wants to be woken, and not only to poll.
    #[must_use]
    pub fn listens(&self) -> bool {
        !matches!(self.database.listen, Listen::Off)
    }

    /// Whom we log in as.
    pub(super) fn role(&self) -> &str {
        self.database.connect.get_user().unwrap_or("the relay's role")
    }

    /// Connects, and starts the task that drives the wire.
    ///
    /// # Errors
    /// When the server cannot be reached within ten seconds or refuses.
    pub async fn connect(&self) -> Result<Client, StoreError> {
        let (client, connection) = self.connect_undriven().await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Connects, and hands on what the server warns of beside its answers; each text comes before
    /// the answer to the statement that caused it.
    ///
    /// # Errors
    /// As [`Target::connect`].
    pub async fn connect_warned(
        &self,
        warn: impl Fn(&str) + Send + 'static,
    ) -> Result<Client, StoreError> {
        let (client, mut connection) = self.connect_undriven().await?;
        tokio::spawn(async move {
            let next = |context: &mut std::task::Context<'_>| connection.poll_message(context);
            let mut messages = futures_util::stream::poll_fn(next);
            // An error ends the wire, and the client's next call reports it.
            while let Some(Ok(message)) = messages.next().await {
                if let AsyncMessage::Notice(notice) = message
                    && notice.severity() == "WARNING"
                {
                    warn(notice.message());
                }
            }
        });
        Ok(client)
    }

    /// Connects and leaves the wire to the caller.
    pub(super) async fn connect_undriven(&self) -> Result<(Client, tls::Connection), StoreError> {
        let reached =
            reach("connect to PostgreSQL", &self.database.connect, &self.database.tls).await;
        self.count_connection(reached)
    }

    fn count_connection<T>(&self, reached: Result<T, StoreError>) -> Result<T, StoreError> {
        let reached = self.tally.count(reached)?;
        self.tally.connections.fetch_add(1, Ordering::Relaxed);
        Ok(reached)
    }

    /// Connects to where notifications are heard, and leaves the wire to the caller, who hears them.
    pub(super) async fn connect_listening(&self) -> Result<(Client, tls::Connection), StoreError> {
        match &self.database.listen {
            Listen::Apart { connect, tls } => {
                let reached = reach("connect to [database] listen_url", connect, tls).await;
                self.count_connection(reached)
            }
            Listen::Here | Listen::Off => self.connect_undriven().await,
        }
    }
}

async fn reach(
    doing: &'static str,
    connect: &tokio_postgres::Config,
    mode: &DatabaseTls,
) -> Result<(Client, tls::Connection), StoreError> {
    limited(doing, CONNECT_LIMIT, async {
        match tls::connector(mode).map_err(|e| StoreError::said(doing, e))? {
            None => {
                let mut config = connect.clone();
                config.ssl_mode(tokio_postgres::config::SslMode::Disable);
                let (client, connection) = config
                    .connect(tokio_postgres::NoTls)
                    .await
                    .map_err(|e| StoreError::postgres(doing, e))?;
                Ok((client, tls::Connection::plain(connection)))
            }
            Some(connector) => {
                let mut config = connect.clone();
                config.ssl_mode(match mode {
                    DatabaseTls::Prefer => tokio_postgres::config::SslMode::Prefer,
                    _ => tokio_postgres::config::SslMode::Require,
                });
                let (client, connection) =
                    config.connect(connector).await.map_err(|e| StoreError::postgres(doing, e))?;
                Ok((client, tls::Connection::tls(connection)))
            }
        }
    })
    .await
}

/// A connection, and the target's count when it was made.
#[derive(Debug)]
struct Made {
    client: Arc<Client>,
    turned_away: u64,
}

/// A connection for one purpose, made when first needed and made anew after it broke.
#[derive(Debug)]
pub struct Link {
    target: Arc<Target>,
    client: Mutex<Option<Made>>,
    /// Held while a call hands its messages to the wire.
    sending: std::sync::Mutex<()>,
    made: AtomicU64,
}

impl Link {
    /// A link that connects at its first call.
    #[must_use]
    pub fn new(target: Arc<Target>) -> Link {
        Link {
            target,
            client: Mutex::default(),
            sending: std::sync::Mutex::default(),
            made: AtomicU64::default(),
        }
    }

    /// How many connections were made so far: whoever sees another number than before may have
    /// another server before them.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.made.load(Ordering::SeqCst)
    }

    /// The statements with the schema written in.
    #[must_use]
    pub fn queries(&self) -> &Queries {
        &self.target.queries
    }

    /// Where the link leads.
    #[must_use]
    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }

    async fn client(&self) -> Result<Arc<Client>, StoreError> {
        let mut slot = self.client.lock().await;
        let turned_away = self.target.turned_away.load(Ordering::SeqCst);
        let good = |made: &&Made| !made.client.is_closed() && made.turned_away == turned_away;
        if let Some(made) = slot.as_ref().filter(good) {
            return Ok(Arc::clone(&made.client));
        }
        // Boxed: connecting is a large future, and rare.
        let client = Arc::new(Box::pin(self.target.connect()).await?);
        *slot = Some(Made { client: Arc::clone(&client), turned_away });
        self.made.fetch_add(1, Ordering::SeqCst);
        Ok(client)
    }

    /// Forgets the connection after a failure that a new one may cure.
    async fn look_at<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if result.as_ref().is_err_and(StoreError::is_read_only) {
            self.target.turned_away.fetch_add(1, Ordering::SeqCst);
        }
        if result.as_ref().is_err_and(StoreError::is_connection) {
            self.forget().await;
        }
        self.target.tally.count(result)
    }

    /// Gives the connection up: the next call makes a new one. For callers who would not wait as
    /// long as a call may take.
    pub async fn forget(&self) {
        *self.client.lock().await = None;
    }

    /// Makes a call whose messages go to the wire without another call's between them. A call hands
    /// all of them over when it is first polled.
    async fn in_one_flight<T>(&self, call: impl Future<Output = T>) -> T {
        let mut call = std::pin::pin!(call);
        let mut sent = false;
        std::future::poll_fn(|context| {
            let _sending = (!std::mem::replace(&mut sent, true))
                .then(|| self.sending.lock().unwrap_or_else(PoisonError::into_inner));
            call.as_mut().poll(context)
        })
        .await
    }

    /// Runs one statement and answers its rows.
    ///
    /// # Errors
    /// Whatever the server or the wire said; the link itself stays usable.
    pub async fn rows(
        &self,
        doing: &'static str,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        let client = self.client().await?;
        let result = limited(doing, CALL_LIMIT, async {
            let call = self.in_one_flight(client.query_typed(sql, params));
            call.await.map_err(|e| StoreError::postgres(doing, e))
        })
        .await;
        self.look_at(result).await
    }

    /// Runs one statement that answers one row.
    ///
    /// # Errors
    /// As [`Link::rows`], and when there is no row.
    pub async fn row(
        &self,
        doing: &'static str,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Row, StoreError> {
        let rows = self.rows(doing, sql, params).await?;
        rows.into_iter().next().ok_or_else(|| StoreError::said(doing, format!("{doing}: no row")))
    }

    /// Runs one statement and answers how many rows it touched.
    ///
    /// # Errors
    /// As [`Link::rows`].
    pub async fn execute(
        &self,
        doing: &'static str,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<u64, StoreError> {
        let client = self.client().await?;
        let result = limited(doing, CALL_LIMIT, async {
            let call = self.in_one_flight(client.execute_typed(sql, params));
            call.await.map_err(|e| StoreError::postgres(doing, e))
        })
        .await;
        self.look_at(result).await
    }

    /// Runs a statement that must go through its indexes, whatever the statistics say.
    ///
    /// The statistics of a table that was analysed while empty, and of one that drains and fills,
    /// are wrong exactly when it matters. `SET LOCAL` in a transaction of its own works through a
    /// transaction pooler and leaks into nobody's session; the three messages travel in one flight.
    /// What is answered is durable, also where the database commits asynchronously by default: an
    /// intent that a crash forgets would be sent twice. And a relay that is frozen between statement and
    /// commit does not keep its locks for longer than five seconds.
    ///
    /// # Errors
    /// As [`Link::rows`]. After one the statement may or may not have been committed.
    pub async fn rows_by_index(
        &self,
        doing: &'static str,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        self.rows_begun(doing, BY_INDEX, sql, params).await
    }

    /// As [`Link::rows_by_index`], and the server ends what takes longer than the limit: a statement that
    /// nobody waits for any more would go on there.
    ///
    /// # Errors
    /// As [`Link::rows_by_index`]; one that took too long [`StoreError::is_cut_off`].
    pub async fn rows_by_index_within(
        &self,
        doing: &'static str,
        limit: Duration,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        let limit = limit.as_millis();
        let opening = format!("{BY_INDEX}; SET LOCAL statement_timeout = '{limit}ms'");
        self.rows_begun(doing, &opening, sql, params).await
    }

    async fn rows_begun(
        &self,
        doing: &'static str,
        opening: &str,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        let client = self.client().await?;
        let result = limited(doing, CALL_LIMIT, async {
            let call = async {
                tokio::join!(
                    biased;
                    client.batch_execute(opening),
                    client.query_typed(sql, params),
                    client.batch_execute("COMMIT"),
                )
            };
            let (begun, rows, ended) = self.in_one_flight(call).await;
            let rows = begun.and(rows).and_then(|rows| ended.map(|()| rows));
            rows.map_err(|e| StoreError::postgres(doing, e))
        })
        .await;
        self.look_at(result).await
    }

    /// Runs several statements in one transaction.
    ///
    /// # Errors
    /// The first failure; nothing of the transaction stays.
    pub async fn transaction<T, F>(&self, doing: &'static str, steps: F) -> Result<T, StoreError>
    where
        F: AsyncFnOnce(&tokio_postgres::Transaction<'_>) -> Result<T, tokio_postgres::Error>,
    {
        // A transaction needs the connection to itself, so it gets a fresh one; these are rare.
        let mut client = Box::pin(self.target.connect()).await?;
        let result = limited(doing, CALL_LIMIT, async {
            let transaction =
                client.transaction().await.map_err(|e| StoreError::postgres(doing, e))?;
            let answer = steps(&transaction).await.map_err(|e| StoreError::postgres(doing, e))?;
            transaction.commit().await.map_err(|e| StoreError::postgres(doing, e))?;
            Ok(answer)
        })
        .await;
        self.look_at(result).await
    }
}

pub(super) async fn limited<T>(
    doing: &'static str,
    limit: Duration,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => result,
        Err(_) => Err(StoreError::silent(doing, limit)),
    }
}
