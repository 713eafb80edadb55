//! Looks after the records while the process runs: drills, cleaning and checks, each on its schedule.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gateway::service::Clock;
use model::{Change, Timestamp};
use store::{Store, StoreParams};
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

/// Rows that one round of cleaning removes at most.
const ROWS_MAX: u32 = 10_000;

/// Shortest pause between two drills that failed, so that a broken disk is not hammered.
const DRILL_RETRY: Duration = Duration::from_secs(300);

/// The open store, and what its upkeep has found.
pub(crate) struct Keeper {
    store: Store,
    params: StoreParams,
    pub(crate) drills_succeeded: AtomicU64,
    pub(crate) drills_failed: AtomicU64,
    pub(crate) rows_removed: AtomicU64,
    /// Rules that the newest check found broken.
    pub(crate) rules_broken: AtomicU64,
    last_restore: Mutex<Option<Timestamp>>,
}

impl Keeper {
    pub(crate) async fn open(params: &StoreParams) -> Result<Arc<Self>, store::OpenError> {
        let store = Store::open(params, super::ROOMS).await?;
        info!(place = store.place(), engine = %store.engine(), "store opened");
        Ok(Arc::new(Self {
            store,
            params: params.clone(),
            drills_succeeded: AtomicU64::new(0),
            drills_failed: AtomicU64::new(0),
            rows_removed: AtomicU64::new(0),
            rules_broken: AtomicU64::new(0),
            last_restore: Mutex::new(None),
        }))
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// When a back-up was last restored successfully.
    pub(crate) fn last_restore(&self) -> Option<Timestamp> {
        *self.last_restore.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn restored_at(&self, at: Option<Timestamp>) {
        *self.last_restore.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    /// Whether back-ups are wanted and the newest successful restore is too long ago, or never was.
    pub(crate) fn is_stale(&self, now: Timestamp) -> bool {
        let Some(backups) = &self.params.backups else { return false };
        let age = self.last_restore().map(|at| now.as_unix_nanos().saturating_sub(at.as_unix_nanos()));
        age.is_none_or(|age| u128::from(age) > backups.stale_after.get().as_nanos())
    }

    /// Notes a change. What it changes goes on when the store is out of reach.
    pub(crate) async fn record(&self, change: &Change) {
        let noted = self.store.write(|mut tx| async move {
            let seq = tx.record(change).await?;
            tx.commit(seq).await
        });
        if let Err(problem) = noted.await {
            warn!(%problem, what = change.what, "a change could not be noted in the audit log");
        }
    }

    /// Does what is due until the task is ended.
    pub(crate) async fn run(self: Arc<Self>) {
        let started = Instant::now();
        let (clean_every, check_every) = (self.params.clean_every.get(), self.params.check_every.get());
        let mut next_drill = self.first_drill(started).await;
        let (mut next_clean, mut next_check) = (started + clean_every, started + check_every);
        loop {
            let far = started + Duration::from_secs(86_400 * 365 * 30);
            tokio::select! {
                () = sleep_until(next_clean) => next_clean = Instant::now() + self.clean(clean_every).await,
                () = sleep_until(next_check) => {
                    self.check().await;
                    next_check = Instant::now() + check_every;
                }
                () = sleep_until(next_drill.unwrap_or(far)) => next_drill = self.drill().await,
            }
        }
    }

    /// When the first drill is due: a restart must neither skip one nor add one.
    async fn first_drill(&self, now: Instant) -> Option<Instant> {
        let every = self.params.backups.as_ref()?.every.get();
        match self.store.last_restore().await {
            Ok(last) => {
                let last = last.map(|drill| drill.at);
                self.restored_at(last);
                let age = last.map(|at| Clock::wall().as_unix_nanos().saturating_sub(at.as_unix_nanos()));
                Some(now + age.map_or(Duration::ZERO, |age| every.saturating_sub(Duration::from_nanos(age))))
            }
            Err(problem) => {
                warn!(%problem, "cannot tell when a back-up was last restored");
                Some(now)
            }
        }
    }

    async fn drill(&self) -> Option<Instant> {
        let backups = self.params.backups.as_ref()?;
        let every = backups.every.get();
        let result = self.store.drill(backups, Clock::wall()).await;
        let problem = match result {
            Ok(drill) => match drill.problem {
                None => {
                    self.restored_at(Some(drill.at));
                    self.drills_succeeded.fetch_add(1, Relaxed);
                    info!(records = drill.records, bytes = drill.bytes, took = ?drill.took, "back-up restored and compared");
                    return Some(Instant::now() + every);
                }
                Some(problem) => problem,
            },
            Err(problem) => problem.to_string(),
        };
        self.drills_failed.fetch_add(1, Relaxed);
        if self.is_stale(Clock::wall()) {
            error!(problem, "back-ups do not restore");
        } else {
            warn!(problem, "a restore drill failed");
        }
        Some(Instant::now() + every.min(DRILL_RETRY))
    }

    /// Answers when to clean again.
    async fn clean(&self, every: Duration) -> Duration {
        match self.store.clean(Clock::wall(), ROWS_MAX).await {
            Ok(cleaned) => {
                self.rows_removed.fetch_add(cleaned.purged + cleaned.aged, Relaxed);
                // The rest soon, but not at once: others want to write too.
                if cleaned.more { every.min(Duration::from_secs(1)) } else { every }
            }
            Err(problem) => {
                warn!(%problem, "old records could not be removed");
                every
            }
        }
    }

    async fn check(&self) {
        match self.store.validate(Clock::wall()).await {
            Ok(findings) => {
                let broken: Vec<_> = findings.iter().filter(|finding| finding.breaches > 0).collect();
                self.rules_broken.store(broken.len() as u64, Relaxed);
                for finding in broken {
                    let first = finding.broken.first().map_or("", String::as_str);
                    error!(
                        room = finding.room,
                        check = finding.check,
                        rule = finding.rule,
                        first,
                        "records break a rule"
                    );
                }
            }
            Err(problem) => warn!(%problem, "the records could not be checked"),
        }
    }
}
