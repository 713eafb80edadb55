//! The store and its transactions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use model::Timestamp;
use sqlx::postgres::PgPool;
use sqlx::sqlite::SqlitePool;
use sqlx::{Postgres, Sqlite, Transaction};
use tokio::sync::OwnedMutexGuard;

use crate::error::StoreError;
use crate::params::StoreParams;
use crate::place::{Engine, Place};
use crate::room::Room;
use crate::statement::{self, Connection};
use crate::value::{Row, Value};
use crate::writer::{Turns, Writer};

/// Times that a transaction is run again after a conflict.
const CONFLICTS_MAX: u32 = 30;

/// Records, on SQLite or PostgreSQL. Cheap to clone; clones are the same store.
///
/// What [`Store::write`] has answered survives the process and the machine; what it has refused did not happen. Transactions
/// are serializable on both engines: each sees all that were committed before and none half done.
///
/// It lives in the tokio runtime that opened it and ends with that.
#[derive(Clone)]
pub struct Store(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) backend: Backend,
    pub(crate) params: StoreParams,
    pub(crate) place: Place,
    pub(crate) rooms: Vec<Room>,
    pub(crate) incarnation: u64,
    pub(crate) figures: Figures,
}

pub(crate) enum Backend {
    Sqlite {
        /// `None` when it was opened for reading.
        turns: Option<(Turns, tokio::task::JoinHandle<()>)>,
        readers: SqlitePool,
    },
    Postgres {
        pool: PgPool,
        read_only: bool,
    },
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Backend::Sqlite { turns: Some((_, task)), .. } = &self.backend {
            task.abort();
        }
    }
}

/// What a store counts. All since it was opened.
#[derive(Debug, Default)]
pub struct Figures {
    /// Transactions acknowledged.
    pub committed: AtomicU64,
    /// Transactions that failed, for whatever reason, without those that were run again.
    pub failed: AtomicU64,
    /// Transactions run again after a conflict.
    pub conflicts: AtomicU64,
    /// Nanoseconds that acknowledged transactions took, in sum.
    pub commit_nanos: AtomicU64,
}

/// A transaction. Dropped without [`Tx::commit`], nothing of it remains.
pub struct Tx {
    link: Link,
    failed: bool,
    course: Arc<Course>,
    incarnation: u64,
}

/// What has become of a transaction, for whoever gave it to a job.
#[derive(Debug, Default)]
struct Course {
    /// Another transaction came first.
    conflict: AtomicBool,
    /// It may have happened.
    committing: AtomicBool,
}

/// What [`Tx::commit`] hands out: nobody can forget to commit and still have an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed<T>(T);

impl<T> Committed<T> {
    /// The answer.
    pub fn into_inner(self) -> T {
        self.0
    }
}

enum Link {
    /// A turn on the one writing connection.
    Turn {
        writer: OwnedMutexGuard<Writer>,
        turns: Turns,
    },
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
    /// Taken apart by [`Tx::commit`].
    Done,
}

impl Store {
    /// Runs `job` in a transaction, which it ends with [`Tx::commit`]. On PostgreSQL it is run again when another transaction
    /// came first, so it must have no effect outside. With SQLite everybody else waits meanwhile: do nothing slow in it.
    ///
    /// ```ignore
    /// let (sql, name) = ("UPDATE coord_jobs SET runs = runs + 1 WHERE id = ?", &name);
    /// let changed = store
    ///     .write(|mut tx| async move {
    ///         let changed = tx.execute(sql, args![name]).await?;
    ///         tx.commit(changed).await
    ///     })
    ///     .await?;
    /// ```
    ///
    /// # Errors
    /// What `job` answers, or why the transaction did not happen ([`StoreError`]).
    pub async fn write<T, E, F>(&self, mut job: impl FnMut(Tx) -> F) -> Result<T, E>
    where
        E: From<StoreError>,
        F: Future<Output = Result<Committed<T>, E>>,
    {
        let limit = self.0.params.transaction_max.get();
        let started = Instant::now();
        let figures = &self.0.figures;
        let mut conflicts = 0;
        loop {
            let course = Arc::new(Course::default());
            let attempt = async {
                let tx = self.begin_noting(Arc::clone(&course)).await?;
                job(tx).await
            };
            let timed_out = || {
                // Once it is being committed nobody can say any more that it did not happen.
                let source = Box::new(sqlx::Error::PoolTimedOut);
                let is_open = course.committing.load(Relaxed);
                Err(if is_open { StoreError::Unknown { source } } else { StoreError::TimedOut { limit } }
                    .into())
            };
            match tokio::time::timeout(limit, attempt).await.unwrap_or_else(|_| timed_out()) {
                Ok(Committed(answer)) => {
                    figures.committed.fetch_add(1, Relaxed);
                    let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
                    figures.commit_nanos.fetch_add(nanos, Relaxed);
                    return Ok(answer);
                }
                Err(_)
                    if course.conflict.load(Relaxed)
                        && conflicts < CONFLICTS_MAX
                        && started.elapsed() < limit =>
                {
                    conflicts += 1;
                    figures.conflicts.fetch_add(1, Relaxed);
                    tokio::time::sleep(pause(conflicts)).await;
                }
                Err(problem) => {
                    figures.failed.fetch_add(1, Relaxed);
                    return Err(problem);
                }
            }
        }
    }

    /// Runs one statement in a transaction of its own; answers how many rows it changed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn execute(&self, sql: &str, args: &[Value]) -> Result<u64, StoreError> {
        let job = |mut tx: Tx| async move {
            let changed = tx.execute(sql, args).await?;
            tx.commit(changed).await
        };
        self.write(job).await
    }

    /// Begins a transaction that may write. Prefer [`Store::write`], which bounds its time and runs it again after a conflict.
    ///
    /// # Errors
    /// When the store is open for reading, busy, out of reach or replaced by a restored one.
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        self.begin_noting(Arc::default()).await
    }

    async fn begin_noting(&self, course: Arc<Course>) -> Result<Tx, StoreError> {
        let waited = self.0.params.wait_max.get();
        let link = match &self.0.backend {
            Backend::Sqlite { turns: None, .. } | Backend::Postgres { read_only: true, .. } => {
                return Err(StoreError::ReadOnly);
            }
            Backend::Sqlite { turns: Some((turns, _)), .. } => {
                let lock = Arc::clone(&turns.writer).lock_owned();
                let writer =
                    tokio::time::timeout(waited, lock).await.map_err(|_| StoreError::Busy { waited })?;
                // Before it begins: whatever becomes of this turn, the group is looked after.
                turns.wake();
                let mut link = Link::Turn { writer, turns: turns.clone() };
                if let Link::Turn { writer, .. } = &mut link {
                    writer.begin().await?;
                }
                link
            }
            Backend::Postgres { pool, .. } => {
                Link::Postgres(pool.begin_with("BEGIN ISOLATION LEVEL SERIALIZABLE").await?)
            }
        };
        let mut tx = Tx { link, failed: false, course, incarnation: self.0.incarnation };
        if matches!(tx.link, Link::Postgres(_)) {
            tx.refuse_another_incarnation().await?;
        }
        Ok(tx)
    }

    /// Begins a transaction that only reads: all its queries see the same moment. It holds up no writer.
    ///
    /// # Errors
    /// When the store is busy or out of reach.
    pub async fn snapshot(&self) -> Result<Tx, StoreError> {
        let link = match &self.0.backend {
            Backend::Sqlite { readers, .. } => Link::Sqlite(readers.begin().await?),
            Backend::Postgres { pool, .. } => {
                Link::Postgres(pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?)
            }
        };
        Ok(Tx { link, failed: false, course: Arc::default(), incarnation: self.0.incarnation })
    }

    /// Runs one query on what is committed; answers all its rows, so bound them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn rows(&self, sql: &str, args: &[Value]) -> Result<Vec<Row>, StoreError> {
        match &self.0.backend {
            Backend::Sqlite { readers, .. } => {
                statement::rows(Connection::Sqlite(&mut *readers.acquire().await?), sql, args).await
            }
            Backend::Postgres { pool, .. } => {
                statement::rows(Connection::Postgres(&mut *pool.acquire().await?), sql, args).await
            }
        }
    }

    /// Runs one query on what is committed; answers its first row.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn row(&self, sql: &str, args: &[Value]) -> Result<Option<Row>, StoreError> {
        Ok(self.rows(sql, args).await?.into_iter().next())
    }

    /// Which engine keeps the records.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.0.place.engine()
    }

    /// Where it is, without a password.
    #[must_use]
    pub fn place(&self) -> String {
        self.0.place.to_string()
    }

    /// Which life of these records this is: seconds since 1970 when the store was made or last restored, and later than every
    /// life before.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.0.incarnation
    }

    /// What it counts.
    #[must_use]
    pub fn figures(&self) -> &Figures {
        &self.0.figures
    }

    /// The rooms that have their tables here.
    #[must_use]
    pub fn rooms(&self) -> &[Room] {
        &self.0.rooms
    }

    /// Waits for what is under way and closes every connection, so that the file stands alone. Other clones are of no use then.
    ///
    /// # Errors
    /// When the last changes cannot be folded into the file; they are still in its log.
    pub async fn close(self) -> Result<(), StoreError> {
        match &self.0.backend {
            Backend::Sqlite { turns, readers } => {
                readers.close().await;
                if let Some((turns, _)) = turns {
                    turns.writer.lock().await.close().await?;
                }
            }
            Backend::Postgres { pool, .. } => pool.close().await,
        }
        Ok(())
    }
}

impl Tx {
    /// Runs a statement; answers how many rows it changed.
    ///
    /// # Errors
    /// [`StoreError`]; the transaction has failed then.
    pub async fn execute(&mut self, sql: &str, args: &[Value]) -> Result<u64, StoreError> {
        let on = self.connection()?;
        let result = statement::execute(on, sql, args).await;
        self.noting(result)
    }

    /// Runs a query, or a statement with `RETURNING`; answers all its rows, so bound them.
    ///
    /// # Errors
    /// [`StoreError`]; the transaction has failed then.
    pub async fn rows(&mut self, sql: &str, args: &[Value]) -> Result<Vec<Row>, StoreError> {
        let on = self.connection()?;
        let result = statement::rows(on, sql, args).await;
        self.noting(result)
    }

    /// Runs a query; answers its first row.
    ///
    /// # Errors
    /// [`StoreError`]; the transaction has failed then.
    pub async fn row(&mut self, sql: &str, args: &[Value]) -> Result<Option<Row>, StoreError> {
        Ok(self.rows(sql, args).await?.into_iter().next())
    }

    /// Runs a query and hands over its rows one by one.
    ///
    /// # Errors
    /// [`StoreError`], and what `take` answers; the transaction has failed then.
    pub async fn each(
        &mut self,
        sql: &str,
        args: &[Value],
        take: impl FnMut(Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let on = self.connection()?;
        let result = statement::each(on, sql, args, take).await;
        self.noting(result)
    }

    /// Makes it last, then hands `answer` out. Answers when it lasts: with SQLite when the group that it shares a sync with is on
    /// the disk.
    ///
    /// # Errors
    /// When nothing of it remains ([`StoreError::Unknown`]: perhaps).
    pub async fn commit<T>(mut self, answer: T) -> Result<Committed<T>, StoreError> {
        if self.failed {
            return Err(StoreError::Failed);
        }
        self.course.committing.store(true, Relaxed);
        match &mut self.link {
            Link::Turn { writer, .. } => {
                let done = writer.release().await?;
                // Passes the connection on.
                drop(self);
                let closed = || Err(StoreError::NotCommitted { why: "the store was closed".to_owned() });
                done.await.unwrap_or_else(|_| closed())?;
            }
            link => {
                let ended = match std::mem::replace(link, Link::Done) {
                    Link::Sqlite(tx) => tx.commit().await,
                    Link::Postgres(tx) => tx.commit().await,
                    _ => return Err(StoreError::Failed),
                };
                let ended = ended.map_err(|problem| match problem {
                    // The server said no.
                    sqlx::Error::Database(_) => problem.into(),
                    other => StoreError::Unknown { source: Box::new(other) },
                });
                self.noting(ended)?;
            }
        }
        Ok(Committed(answer))
    }

    /// Undoes it on purpose, then hands `answer` out: for a job that finds that there is nothing to do.
    pub fn abandon<T>(self, answer: T) -> Committed<T> {
        Committed(answer)
    }

    /// Which life of the records it writes to.
    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Which engine it runs on.
    #[must_use]
    pub fn engine(&self) -> Engine {
        if matches!(self.link, Link::Postgres(_)) { Engine::Postgres } else { Engine::Sqlite }
    }

    /// Keeps it from being committed.
    pub(crate) fn fail(&mut self) {
        self.failed = true;
    }

    pub(crate) fn connection(&mut self) -> Result<Connection<'_>, StoreError> {
        if self.failed {
            return Err(StoreError::Failed);
        }
        match &mut self.link {
            Link::Turn { writer, .. } => writer.connection(),
            Link::Sqlite(tx) => Ok(Connection::Sqlite(tx)),
            Link::Postgres(tx) => Ok(Connection::Postgres(tx)),
            Link::Done => Err(StoreError::Failed),
        }
    }

    fn noting<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(problem) = &result {
            self.failed = true;
            self.course.conflict.fetch_or(problem.is_conflict(), Relaxed);
        }
        result
    }

    /// A restored store can take the place of the one that this process knows; it must not be written to as if it were that.
    async fn refuse_another_incarnation(&mut self) -> Result<(), StoreError> {
        let row = self.row("SELECT value FROM store_meta WHERE key = 'incarnation'", &[]).await?;
        let found: u64 = row.ok_or(StoreError::Failed)?.get("value")?;
        if found == self.incarnation {
            return Ok(());
        }
        Err(StoreError::Replaced {
            how: format!("it is incarnation {found} now and was {}", self.incarnation),
        })
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        if let Link::Turn { turns, .. } = &self.link {
            turns.wake();
        }
    }
}

/// How long to wait before a transaction is run again after a conflict: at random, up to a millisecond for each time.
fn pause(conflicts: u32) -> Duration {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.subsec_nanos());
    // The clock's low digits differ between those that collided.
    Duration::from_nanos(u64::from(nanos.wrapping_mul(2_654_435_761)) % (u64::from(conflicts) * 1_000_000))
}

/// The wall clock. For records and people.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
