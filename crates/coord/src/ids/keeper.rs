use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Batch, Generator, Id, Refused, WORKERS, id_ms};
use crate::{AcquireError, Coord, Failure, Lease, LeaseOptions, clock};

/// What the keys with the bounds of worker numbers begin with, and the names of their leases.
const PREFIX: &str = "ids/";
/// Time to live of the session that holds the numbers.
const TTL: Duration = Duration::from_secs(10);
/// How much id time is reserved ahead, and how often that is done.
const RESERVE_MS: u64 = 10_000;
const RENEW: Duration = Duration::from_secs(3);
/// Wait before the engine is asked again for numbers.
const RETRY: Duration = Duration::from_millis(500);
/// How long the end waits for the engine.
const PATIENCE: Duration = Duration::from_secs(2);

/// Ids: with how many worker numbers this process gives them out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IdParams {
    /// Worker numbers that this process leases, of the 1024 that the fleet has; each gives 4.1 million ids a second.
    pub numbers: u16,
}

impl Default for IdParams {
    fn default() -> Self {
        Self { numbers: 4 }
    }
}

impl IdParams {
    /// What is senseless, field by field.
    #[must_use]
    pub fn check(&self) -> Vec<(&'static str, String)> {
        if (1..=16).contains(&self.numbers) {
            return Vec::new();
        }
        vec![("numbers", "must be from 1 to 16: 16 give 65 million ids a second".to_owned())]
    }
}

/// Why there is no id now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdsError {
    /// No worker number is leased yet, or they are all taken.
    #[error(
        "no worker number is leased: the coordination engine was not reached yet, or all numbers are taken"
    )]
    NoNumber,
    /// The generator refused.
    #[error(transparent)]
    Refused(#[from] Refused),
}

impl IdsError {
    /// After which time another try may succeed.
    #[must_use]
    pub fn retry_after(&self) -> Duration {
        match self {
            Self::Refused(Refused::Ahead { wait }) => *wait,
            Self::NoNumber | Self::Refused(Refused::Unleased) => Duration::from_secs(1),
        }
    }
}

/// Ids for this process. Cheap to clone; every method may be called from any thread.
///
/// While the engine cannot be reached it goes on for as long as it has reserved id time, up to 10 s, and then refuses. When
/// the clock steps back by more than [`Generator::AHEAD_MAX`] it refuses at first; within seconds it takes other worker
/// numbers, whose ids sort by the corrected clock.
#[derive(Clone, Debug)]
pub struct Ids {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    current: watch::Sender<Option<Arc<Generator>>>,
    given: AtomicU64,
}

/// What the metrics say of ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Worker numbers leased.
    pub numbers: u64,
    /// Ids given out in batches.
    pub given: u64,
}

impl Default for Ids {
    fn default() -> Self {
        Self::new()
    }
}

impl Ids {
    /// Gives nothing until [`Ids::run`] runs.
    #[must_use]
    pub fn new() -> Self {
        Self { inner: Arc::default() }
    }

    /// The next id, rising strictly within this process.
    ///
    /// # Errors
    /// [`IdsError`]; never waits.
    pub fn try_next(&self) -> Result<Id, IdsError> {
        let current = self.inner.current.borrow();
        let generator = current.as_ref().ok_or(IdsError::NoNumber)?;
        Ok(generator.try_next(clock::wall())?)
    }

    /// The next `count` ids, at most [`Generator::BATCH_MAX`], which is also the cheapest way to many.
    ///
    /// # Errors
    /// [`IdsError`]; then none was taken. Never waits.
    pub fn try_batch(&self, count: u32) -> Result<Batch, IdsError> {
        let generator = self.generator().ok_or(IdsError::NoNumber)?;
        let batch = generator.try_batch(count, clock::wall())?;
        self.inner.given.fetch_add(batch.len() as u64, Relaxed);
        Ok(batch)
    }

    /// Of the present worker numbers: for whoever wants to look only once. It refuses when the numbers change.
    #[must_use]
    pub fn generator(&self) -> Option<Arc<Generator>> {
        self.inner.current.borrow().clone()
    }

    /// As [`Ids::generator`], now and whenever the worker numbers change.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Option<Arc<Generator>>> {
        self.inner.current.subscribe()
    }

    /// What the metrics say.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let numbers = self.generator().map_or(0, |generator| generator.numbers().len() as u64);
        Figures { numbers, given: self.inner.given.load(Relaxed) }
    }

    /// Leases `numbers` worker numbers and keeps them, until `stop`; then gives them back.
    pub async fn run(self, coord: Coord, numbers: u16, stop: CancellationToken) {
        let mut told = false;
        while !stop.is_cancelled() {
            let granted = stop.run_until_cancelled(Grant::have(&coord, numbers)).await;
            match granted {
                None => return,
                Some(Ok(grant)) => {
                    told = false;
                    info!(numbers = ?grant.generator.numbers(), "worker numbers for ids leased");
                    self.set(Some(Arc::clone(&grant.generator)));
                    grant.keep(&stop).await;
                    self.set(None);
                }
                Some(Err(problem)) => {
                    if !std::mem::replace(&mut told, true) {
                        warn!(%problem, "no worker numbers for ids yet; trying again");
                    }
                    stop.run_until_cancelled(tokio::time::sleep(RETRY)).await;
                }
            }
        }
    }

    fn set(&self, generator: Option<Arc<Generator>>) {
        self.inner.current.send_replace(generator);
    }
}

/// Why worker numbers were not had.
#[derive(Debug, thiserror::Error)]
enum GrantError {
    #[error(transparent)]
    Engine(#[from] Failure),
    #[error("{0}")]
    Lease(AcquireError),
    #[error("{found} of {wanted} worker numbers are free; the fleet has {WORKERS}")]
    Taken { found: usize, wanted: u16 },
}

/// Leased worker numbers, and the id time reserved for them.
struct Grant {
    coord: Coord,
    leases: Vec<(u16, Lease)>,
    generator: Arc<Generator>,
}

impl Grant {
    async fn have(coord: &Coord, wanted: u16) -> Result<Self, GrantError> {
        let session = coord.session(TTL).await?;
        let taken = coord.leases().await?;
        let taken: Vec<u16> = taken.iter().filter_map(|(name, _)| number(name)).collect();
        let bounds = coord.list(PREFIX).await?.entries;
        let bounds: Vec<(u16, u64)> = bounds
            .iter()
            .filter_map(|entry| Some((number(&entry.key)?, entry.value.parse().ok()?)))
            .collect();
        let bound =
            |number: u16| bounds.iter().find(|(one, _)| *one == number).map_or(0, |(_, bound)| *bound);
        let now = id_ms(clock::wall());
        // Numbers whose id time is reserved past now come last: they would have to wait for it. Processes that start together
        // try different ones.
        let mut free: Vec<u16> = (0..WORKERS).filter(|number| !taken.contains(number)).collect();
        fastrand::shuffle(&mut free);
        free.sort_by_key(|number| bound(*number).saturating_sub(now));
        let mut leases = Vec::new();
        for number in free {
            match session.acquire(&key(number), &LeaseOptions::default()).await {
                Ok(lease) => leases.push((number, lease)),
                Err(AcquireError::Busy { .. }) => {}
                Err(error) => return Err(GrantError::Lease(error)),
            }
            if leases.len() == usize::from(wanted) {
                return Self::reserve(coord, leases).await;
            }
        }
        Err(GrantError::Taken { found: leases.len(), wanted })
    }

    /// Reads how far the numbers were reserved by whoever held them before, now that nobody else can reserve any more, and
    /// reserves from there.
    async fn reserve(coord: &Coord, leases: Vec<(u16, Lease)>) -> Result<Self, GrantError> {
        let mut from = id_ms(clock::wall());
        for (number, _) in &leases {
            let key = key(*number);
            let entries = coord.list(&key).await?.entries;
            let bound =
                entries.iter().find(|entry| entry.key == key).and_then(|entry| entry.value.parse().ok());
            from = from.max(bound.unwrap_or(0));
        }
        let until = from + RESERVE_MS;
        let numbers = leases.iter().map(|(number, _)| *number).collect();
        let generator = Arc::new(Generator::new(numbers, from, until));
        let grant = Self { coord: coord.clone(), leases, generator };
        grant.write(until).await?;
        Ok(grant)
    }

    /// Keeps what is reserved ahead of the clock, until `stop`, or until the numbers are of no more use.
    async fn keep(self, stop: &CancellationToken) {
        loop {
            if stop.run_until_cancelled(tokio::time::sleep(RENEW)).await.is_none() {
                break;
            }
            let now = id_ms(clock::wall());
            if self.generator.next_ms() > now + 2 * Generator::AHEAD_MAX.as_millis() as u64 {
                warn!("the clock stepped back: taking other worker numbers");
                break;
            }
            let until = (now + RESERVE_MS).max(self.generator.until_ms());
            match stop.run_until_cancelled(self.write(until)).await {
                None => break,
                Some(Ok(())) => self.generator.extend(until),
                Some(Err(Failure::Refused(refusal))) => {
                    warn!(%refusal, "worker numbers lost; taking others");
                    break;
                }
                // What is reserved already lasts a while.
                Some(Err(failure)) => debug!(%failure, "id time was not reserved; trying again"),
            }
        }
        let last = self.generator.close();
        // Given back with the exact bound, so that the next holder need not wait for the time reserved.
        if !matches!(tokio::time::timeout(PATIENCE, self.write(last)).await, Ok(Ok(()))) {
            debug!("worker numbers were not given back in time: what was reserved passes by itself");
        }
    }

    /// Writes down that ids before `until` may be given out. Nobody may who is not the newest holder.
    async fn write(&self, until: u64) -> Result<(), Failure> {
        for (number, lease) in &self.leases {
            self.coord.put(&key(*number), &until.to_string(), Some(lease.guard())).await?;
        }
        Ok(())
    }
}

fn key(number: u16) -> String {
    format!("{PREFIX}{number:04}")
}

fn number(key: &str) -> Option<u16> {
    key.strip_prefix(PREFIX)?.parse().ok().filter(|number| *number < WORKERS)
}
