//! Sessions: alive as long as their holder renews them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::{Instant, Span};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::belief::{Belief, Standing};
use crate::clock;
use crate::command::{Command, Guard, Position, Refusal, Reply, SessionId, check_ttl};
use crate::coord::{Coord, unexpected};
use crate::engine::Failure;
use crate::lease::{AcquireError, Leadership, Lease, LeaseOptions};

/// Timers stand still while the machine is suspended: nothing waits longer than this without looking at the clock.
const LOOK: Duration = Duration::from_millis(200);

/// A session with the engine, renewed by a task of its own. Cheap to clone; closed when the last clone and everything that
/// hangs on it is dropped, or by [`Session::close`].
#[derive(Clone, Debug)]
pub struct Session {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    stop: CancellationToken,
}

/// What the renewing task shares with the handles; it does not keep the session open.
#[derive(Debug)]
struct Shared {
    coord: Coord,
    id: SessionId,
    belief: Mutex<Belief>,
    changed: watch::Sender<()>,
}

impl Session {
    pub(crate) async fn open(coord: Coord, ttl: Duration) -> Result<Self, Failure> {
        check_ttl(ttl)?;
        let id = SessionId::random();
        let started = clock::now();
        let command = Command::OpenSession { session: id, ttl: Span::from(ttl) };
        match coord.engine().call(command).await? {
            Reply::Session { .. } => {}
            other => return Err(unexpected(&other)),
        }
        let belief = Mutex::new(Belief::new(ttl, started));
        let shared = Arc::new(Shared { coord, id, belief, changed: watch::Sender::new(()) });
        let stop = CancellationToken::new();
        tokio::spawn(keep(Arc::clone(&shared), stop.clone()));
        Ok(Self { inner: Arc::new(Inner { shared, stop }) })
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.inner.shared.id
    }

    /// Its time to live: the engine ends it so long after the last renewal.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.belief().ttl()
    }

    /// The engine it is with.
    #[must_use]
    pub fn coord(&self) -> &Coord {
        &self.inner.shared.coord
    }

    /// Where it stands by the holder's own clock, at this moment.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.belief().standing(clock::now())
    }

    /// Until when what hangs on it may be believed in (see [`clock::now`]). The origin when it is lost.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let belief = self.belief();
        belief.deadline(belief.ttl())
    }

    /// Returns when it is lost, for good. Cancel-safe.
    pub async fn lost(&self) {
        self.until(|belief, now| belief.standing(now) == Standing::Lost).await;
    }

    /// Writes a key that ends with this session.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn put(&self, key: &str, value: &str, guard: Option<Guard>) -> Result<Position, Failure> {
        self.coord().write(key, value, Some(self.id()), guard).await
    }

    /// Takes the lease `name`, waiting for it as the options say. Cancel-safe: an attempt that is dropped is taken back.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub async fn acquire(&self, name: &str, options: &LeaseOptions) -> Result<Lease, AcquireError> {
        Lease::acquire(self.clone(), name, options).await
    }

    /// Becomes leader of `name`, waiting as the options say.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub async fn campaign(&self, name: &str, options: &LeaseOptions) -> Result<Leadership, AcquireError> {
        Leadership::campaign(self.clone(), name, options).await
    }

    /// Ends it now, with all that hangs on it.
    ///
    /// # Errors
    /// When the engine cannot be told: then it ends by itself when its time is over. Lost for this holder in any case.
    pub async fn close(&self) -> Result<(), Failure> {
        self.inner.stop.cancel();
        self.inner.shared.update(Belief::on_over);
        self.coord().engine().call(Command::CloseSession { session: self.id() }).await.map(drop)
    }

    pub(crate) fn belief(&self) -> MutexGuard<'_, Belief> {
        self.inner.shared.belief()
    }

    /// Returns when `over` says so. Asked at every change and every [`LOOK`].
    pub(crate) async fn until(&self, over: impl Fn(&Belief, Instant) -> bool) {
        let mut changed = self.inner.shared.changed.subscribe();
        loop {
            let (now, next) = {
                let belief = self.belief();
                let now = clock::now();
                if over(&belief, now) {
                    return;
                }
                (now, belief.deadline(belief.ttl()))
            };
            let wait = next.since(now).clamp(Duration::from_millis(1), LOOK);
            // The sender lives as long as this session.
            let _ = tokio::time::timeout(wait, changed.changed()).await;
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.stop.is_cancelled() {
            return;
        }
        self.stop.cancel();
        // Without a runtime nobody is told, and it ends by itself when its time is over.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let shared = Arc::clone(&self.shared);
            runtime.spawn(async move {
                let close = Command::CloseSession { session: shared.id };
                if let Err(failure) = shared.coord.engine().call(close).await {
                    debug!(session = shared.id.0, %failure, "a dropped session could not be closed: it runs out");
                }
            });
        }
    }
}

impl Shared {
    // Every change of a belief is one step: a panic leaves a whole value behind.
    fn belief(&self) -> MutexGuard<'_, Belief> {
        self.belief.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut Belief)) {
        change(&mut self.belief());
        self.changed.send_replace(());
    }
}

/// Renews until told to stop or until all is lost.
async fn keep(shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let (due, deadline, over) = {
            let belief = shared.belief();
            let now = clock::now();
            let deadline = belief.deadline(belief.ttl());
            (belief.next_renewal().since(now), deadline.since(now), belief.standing(now) == Standing::Lost)
        };
        if over {
            shared.update(Belief::on_over);
            warn!(session = shared.id.0, "session lost: it could not be renewed in time");
            return;
        }
        if !due.is_zero() {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(due.min(deadline).min(LOOK)) => {}
            }
            continue;
        }
        let started = clock::now();
        let renewal = shared.coord.engine().call(Command::Renew { session: shared.id });
        // A renewal that takes a third of the time to live has failed: what it may still bring comes too late to count on.
        let patience = (shared.belief().ttl() / 3).min(deadline);
        let answer = tokio::select! {
            () = stop.cancelled() => return,
            answer = tokio::time::timeout(patience, renewal) => answer,
        };
        match answer {
            Ok(Ok(Reply::Session { .. })) => shared.update(|belief| belief.on_renewed(started, clock::now())),
            Ok(Err(Failure::Refused(Refusal::NoSession { .. }))) => {
                shared.update(Belief::on_over);
                warn!(session = shared.id.0, "session lost: the engine has ended it");
                return;
            }
            Ok(Ok(other)) => failed(&shared, &unexpected(&other)),
            Ok(Err(failure)) => failed(&shared, &failure),
            Err(_) => {
                failed(
                    &shared,
                    &Failure::Unanswered { problem: format!("nothing for {}", Span::from(patience)) },
                );
            }
        }
    }
}

fn failed(shared: &Shared, failure: &Failure) {
    shared.update(|belief| belief.on_failed(clock::now()));
    warn!(session = shared.id.0, %failure, "session not renewed");
}
