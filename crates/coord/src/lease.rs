//! Leases and leadership, as their holders have them.

use std::time::Duration;

use model::{Instant, Span};
use tracing::debug;

use crate::belief::Standing;
use crate::clock;
use crate::command::{Claim, Command, Entry, Event, Guard, LEASES, Refusal, Reply, Token};
use crate::coord::unexpected;
use crate::engine::Failure;
use crate::session::Session;
use crate::watch::Update;

/// Wait between attempts when the engine cannot be asked, and at most between looks at a lease that others hold.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// How a lease is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseOptions {
    /// How long after the last renewal its holder may believe in it. None: as long as the session; never longer.
    pub ttl: Option<Duration>,
    /// Longest wait for it. None: one attempt.
    pub wait: Option<Duration>,
    /// What others read about the holder.
    pub value: String,
}

/// Why a lease was not had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcquireError {
    /// Somebody else holds it.
    #[error("lease `{name}` is held by {}", holder_text(value))]
    Busy {
        /// The lease.
        name: String,
        /// The holder's token.
        token: Token,
        /// What the holder wrote about itself.
        value: String,
    },
    /// The lease would outlive the session that it ends with.
    #[error(
        "lease `{name}` cannot live {} in a session that lives {}: open a longer session or shorten the lease",
        Span::from(*ttl), Span::from(*session)
    )]
    LongerThanSession {
        /// The lease.
        name: String,
        /// What was asked for.
        ttl: Duration,
        /// What the session has.
        session: Duration,
    },
    /// The session ended while waiting.
    #[error("lease `{name}` was not had: the session has ended")]
    SessionLost {
        /// The lease.
        name: String,
    },
    /// The engine did not say yes.
    #[error("lease `{name}` was not had")]
    Engine {
        /// The lease.
        name: String,
        /// Why.
        #[source]
        source: Failure,
    },
}

fn holder_text(value: &str) -> &str {
    if value.is_empty() { "somebody else" } else { value }
}

/// A held lease. Given back when dropped.
#[derive(Debug)]
pub struct Lease {
    attempt: Attempt,
    ttl: Duration,
    token: Token,
}

/// An attempt to hold a lease, or a held one. Taken back when dropped, whatever became of it.
#[derive(Debug)]
struct Attempt {
    session: Session,
    name: String,
    claim: Claim,
    /// Whether the engine may know of it.
    open: bool,
}

impl Lease {
    pub(crate) async fn acquire(
        session: Session,
        name: &str,
        options: &LeaseOptions,
    ) -> Result<Self, AcquireError> {
        let ttl = options.ttl.unwrap_or_else(|| session.ttl());
        if ttl > session.ttl() {
            return Err(AcquireError::LongerThanSession {
                name: name.to_owned(),
                ttl,
                session: session.ttl(),
            });
        }
        let until = options.wait.map(|wait| clock::now().after(wait));
        let mut attempt = Attempt { session, name: name.to_owned(), claim: Claim::random(), open: true };
        let token = attempt.insist(options, until).await?;
        let lease = Self { attempt, ttl, token };
        // The session may have run out while the answer was under way: a lease that nobody may believe in is not handed out.
        if !lease.is_held() {
            return Err(AcquireError::SessionLost { name: name.to_owned() });
        }
        Ok(lease)
    }

    /// What it is the lease of.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.attempt.name
    }

    /// The fencing token of this term: goes along with every guarded write.
    #[must_use]
    pub fn token(&self) -> Token {
        self.token
    }

    /// The condition for guarded writes to the engine's own keys.
    #[must_use]
    pub fn guard(&self) -> Guard {
        Guard { name: self.attempt.name.clone(), token: self.token }
    }

    /// The session it ends with.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.attempt.session
    }

    /// Until when it may be believed in, by [`clock::now`].
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.attempt.session.belief().deadline(self.ttl)
    }

    /// Whether it is held, at this moment and by the holder's own clock. What follows from a yes may still come too late:
    /// send the token along.
    #[must_use]
    pub fn is_held(&self) -> bool {
        clock::now() < self.deadline()
    }

    /// Returns when it is no longer held, for good. Cancel-safe.
    pub async fn lost(&self) {
        self.ends_within(Duration::ZERO).await;
    }

    /// Returns when less than `rest` is left of the time that it may be believed in: time to stop what it guards. Cancel-safe.
    pub async fn ends_within(&self, rest: Duration) {
        let ttl = self.ttl;
        self.attempt.session.until(|belief, now| now.after(rest) >= belief.deadline(ttl)).await;
    }

    /// Returns when the engine says that this term is over: an operator took the lease away. What happens while the engine
    /// cannot be reached is not seen; [`Lease::lost`] covers that. Cancel-safe.
    pub async fn broken(&self) {
        let key = format!("{LEASES}{}", self.attempt.name);
        let is_ours = |entry: &Entry| entry.key == key && entry.token == Some(self.token);
        let mut watch = self.attempt.session.coord().watch(&key);
        loop {
            let over = match watch.next().await {
                Update::All { entries, .. } => !entries.iter().any(is_ours),
                Update::Changed(events) => events.iter().any(|event| match event {
                    Event::Put { entry } => entry.key == key && !is_ours(entry),
                    Event::Deleted { key: gone, .. } => *gone == key,
                }),
                Update::Stale(_) => false,
            };
            if over {
                return;
            }
        }
    }

    /// Gives it back.
    ///
    /// # Errors
    /// [`Refusal::NotHeld`] when it had been lost. When the engine cannot be told, giving it back goes on in the background
    /// as long as the session lives.
    pub async fn release(mut self) -> Result<(), Failure> {
        self.attempt.take_back().await
    }
}

impl Attempt {
    async fn insist(
        &mut self,
        options: &LeaseOptions,
        until: Option<Instant>,
    ) -> Result<Token, AcquireError> {
        loop {
            let failure = match self.ask(&options.value).await {
                Ok(Ok(token)) => return Ok(token),
                Ok(Err(busy)) => {
                    if self.left(until).is_zero() {
                        self.open = false;
                        return Err(busy);
                    }
                    self.wait_for_end(until).await;
                    continue;
                }
                Err(failure) => failure,
            };
            if let Failure::Refused(refusal) = &failure {
                self.open = false;
                if matches!(refusal, Refusal::NoSession { .. }) {
                    return Err(AcquireError::SessionLost { name: self.name.clone() });
                }
                return Err(self.because(failure));
            }
            if self.left(until).is_zero() {
                return Err(self.because(failure));
            }
            tokio::time::sleep(RETRY.0.mul_f64(1.0 + fastrand::f64())).await;
        }
    }

    /// Asks once.
    async fn ask(&self, value: &str) -> Result<Result<Token, AcquireError>, Failure> {
        // The engine may have ended the session while this waited: its word is asked for each time, and the own clock's.
        if self.session.standing() == Standing::Lost {
            return Err(Refusal::NoSession { session: self.session.id() }.into());
        }
        let command = Command::Acquire {
            name: self.name.clone(),
            session: self.session.id(),
            claim: self.claim,
            value: value.to_owned(),
        };
        match self.session.coord().engine().call(command).await? {
            Reply::Acquired { token } => Ok(Ok(token)),
            Reply::Busy { token, value } => {
                Ok(Err(AcquireError::Busy { name: self.name.clone(), token, value }))
            }
            other => Err(unexpected(&other)),
        }
    }

    fn because(&self, source: Failure) -> AcquireError {
        AcquireError::Engine { name: self.name.clone(), source }
    }

    fn left(&self, until: Option<Instant>) -> Duration {
        until.map_or(Duration::ZERO, |until| until.since(clock::now()))
    }

    /// Returns when the lease may be free, or when there is no more time.
    async fn wait_for_end(&self, until: Option<Instant>) {
        let wait = self.left(until).min(RETRY.1);
        let freed = async {
            if self.watch_for_end().await.is_err() {
                tokio::time::sleep(RETRY.0.mul_f64(1.0 + fastrand::f64())).await;
            }
        };
        tokio::select! {
            () = self.session.lost() => {}
            _ = tokio::time::timeout(wait, freed) => {}
        }
    }

    async fn watch_for_end(&self) -> Result<(), Failure> {
        let key = format!("{LEASES}{}", self.name);
        let coord = self.session.coord();
        let listing = coord.list(&key).await?;
        if !listing.entries.iter().any(|entry| entry.key == key) {
            return Ok(());
        }
        let mut changes = coord.engine().changes(key.clone(), listing.position).await?;
        loop {
            let events = changes.next().await?;
            if events.iter().any(|event| matches!(event, Event::Deleted { key: gone, .. } if *gone == key)) {
                return Ok(());
            }
        }
    }

    async fn take_back(&mut self) -> Result<(), Failure> {
        let release = Command::Release { name: self.name.clone(), claim: self.claim };
        let answer = self.session.coord().engine().call(release).await;
        if !matches!(&answer, Err(failure) if !matches!(failure, Failure::Refused(_))) {
            self.open = false;
        }
        answer.map(drop)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        // Without a runtime nobody can be told, and it ends with its session.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let mut attempt = Attempt {
            session: self.session.clone(),
            name: std::mem::take(&mut self.name),
            claim: self.claim,
            open: false,
        };
        runtime.spawn(async move {
            while attempt.session.standing() != Standing::Lost {
                match attempt.take_back().await {
                    Ok(()) | Err(Failure::Refused(_)) => return,
                    Err(failure) => debug!(lease = attempt.name, %failure, "not given back yet"),
                }
                tokio::time::sleep(RETRY.0 * 4).await;
            }
        });
    }
}

/// Leadership: a lease that is over as soon as one renewal fails, not only when its time has run out.
///
/// At most one process is leader at a time as far as clocks can tell; a paused one finds out when it looks at the clock.
/// What the leader writes carries [`Leadership::guard`]'s token all the same.
#[derive(Debug)]
pub struct Leadership {
    lease: Lease,
    /// Failed renewals of the session when the term began.
    failures: u64,
}

impl Leadership {
    pub(crate) async fn campaign(
        session: Session,
        name: &str,
        options: &LeaseOptions,
    ) -> Result<Self, AcquireError> {
        // Counted before: a renewal that fails meanwhile counts against this term.
        let failures = session.belief().failures();
        let lease = Lease::acquire(session, name, options).await?;
        Ok(Self { lease, failures })
    }

    /// Whether this process leads, at this moment and by its own clock: no renewal failed since the term began, and the time
    /// that the last one bought is not over.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        let belief = self.lease.session().belief();
        belief.failures() == self.failures && clock::now() < belief.deadline(self.lease.ttl)
    }

    /// Returns when the term is over, for good. Cancel-safe.
    pub async fn over(&self) {
        let (ttl, failures) = (self.lease.ttl, self.failures);
        let session = self.lease.session();
        session.until(|belief, now| belief.failures() != failures || now >= belief.deadline(ttl)).await;
    }

    /// The term's fencing token.
    #[must_use]
    pub fn token(&self) -> Token {
        self.lease.token()
    }

    /// The condition for guarded writes to the engine's own keys.
    #[must_use]
    pub fn guard(&self) -> Guard {
        self.lease.guard()
    }

    /// Lets somebody else lead.
    ///
    /// # Errors
    /// As [`Lease::release`].
    pub async fn resign(self) -> Result<(), Failure> {
        self.lease.release().await
    }
}
