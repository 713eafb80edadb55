use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::{Invalid, Record, check_instance, check_service, key};
use crate::{Coord, Failure, Session};

/// How soon an engine that failed is asked again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Keeps one instance registered as it was last told to, for as long as it lives: through lost sessions, engines that are
/// away and engines that forgot everything. Dropped, it ends the registration as well as it can; [`Registrar::leave`] waits
/// for that.
#[derive(Debug)]
pub struct Registrar {
    wanted: watch::Sender<Option<Record>>,
    stands: watch::Receiver<Stands>,
    task: JoinHandle<()>,
}

/// What the engine has, as far as is known.
#[derive(Clone, Debug, Default, PartialEq)]
struct Stands {
    record: Option<Record>,
    /// Why the engine does not have what is wanted.
    trouble: Option<Arc<str>>,
}

impl Registrar {
    /// Keeps `record` registered; none: not yet. The registration outlives this process by at most `ttl`.
    ///
    /// # Errors
    /// [`Invalid`] names or records. An engine that cannot be reached is no error: it is asked again.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(
        coord: Coord,
        service: &str,
        instance: &str,
        ttl: Duration,
        record: Option<Record>,
    ) -> Result<Self, Invalid> {
        check_service(service)?;
        check_instance(instance)?;
        record.as_ref().map_or(Ok(()), Record::check)?;
        let (wanted, wants) = watch::channel(record);
        let (tell, stands) = watch::channel(Stands::default());
        let keeper = Keeper { coord, key: key(service, instance), ttl, wants, tell, session: None };
        Ok(Self { wanted, stands, task: tokio::spawn(keeper.run()) })
    }

    /// Says something else from now on; none: is not registered. Answers whether that was news.
    ///
    /// # Errors
    /// [`Invalid`] records.
    pub fn say(&self, record: Option<Record>) -> Result<bool, Invalid> {
        record.as_ref().map_or(Ok(()), Record::check)?;
        Ok(self.wanted.send_if_modified(|wanted| {
            let news = *wanted != record;
            *wanted = record;
            news
        }))
    }

    /// What it was told to say.
    #[must_use]
    pub fn wanted(&self) -> Option<Record> {
        self.wanted.borrow().clone()
    }

    /// Why the engine does not have what is wanted, while it does not.
    #[must_use]
    pub fn trouble(&self) -> Option<Arc<str>> {
        self.stands.borrow().trouble.clone()
    }

    /// Returns when the engine has what is wanted. Cancel-safe.
    pub async fn settled(&self) {
        let mut stands = self.stands.clone();
        // The keeper lives as long as this.
        let _ = stands.wait_for(|stands| stands.record == *self.wanted.borrow()).await;
    }

    /// Ends the registration and waits until the engine has heard of it, at most `patience`. What it has not heard by then
    /// runs out by itself.
    pub async fn leave(mut self, patience: Duration) {
        self.wanted.send_replace(None);
        let heard = tokio::time::timeout(patience, self.settled()).await.is_ok();
        if !heard {
            warn!("the registry was not told that the instance left: the registration runs out by itself");
        }
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Registrar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Keeper {
    coord: Coord,
    key: String,
    ttl: Duration,
    wants: watch::Receiver<Option<Record>>,
    tell: watch::Sender<Stands>,
    session: Option<Session>,
}

impl Keeper {
    async fn run(mut self) {
        let mut failures = 0u32;
        loop {
            let wanted = self.wants.borrow_and_update().clone();
            match self.make_so(wanted.as_ref()).await {
                Ok(()) => {
                    if failures > 0 {
                        info!(key = self.key, "the registry was reached again");
                    }
                    failures = 0;
                    self.tell.send_replace(Stands { record: wanted, trouble: None });
                    let session = self.session.clone();
                    let lost = async {
                        match &session {
                            Some(session) => session.lost().await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        changed = self.wants.changed() => if changed.is_err() { return },
                        () = lost => {
                            warn!(key = self.key, "the registration ran out; registering again");
                            self.session = None;
                        }
                    }
                }
                Err(failure) => {
                    if failures == 0 {
                        warn!(key = self.key, %failure, "not registered yet; trying again");
                    }
                    self.tell.send_modify(|stands| stands.trouble = Some(failure.to_string().into()));
                    if matches!(failure, Failure::Refused(_)) {
                        // The session is gone, or the engine is another one now.
                        self.session = None;
                    }
                    let wait = RETRY.0.saturating_mul(1 << failures.min(10)).min(RETRY.1);
                    failures = failures.saturating_add(1);
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        changed = self.wants.changed() => if changed.is_err() { return },
                    }
                }
            }
        }
    }

    /// Lets the engine have `wanted`. Asking again is harmless.
    async fn make_so(&mut self, wanted: Option<&Record>) -> Result<(), Failure> {
        let Some(record) = wanted else {
            // What ends with the session goes with it, and no other registrant's key is hit that has taken over the name.
            if let Some(session) = self.session.take()
                && let Err(failure) = session.close().await
            {
                self.session = Some(session);
                return Err(failure);
            }
            return Ok(());
        };
        let session = match self.session.take() {
            Some(session) => session,
            None => self.coord.session(self.ttl).await?,
        };
        let session = self.session.insert(session);
        let value = serde_json::to_string(record).expect("a record is plain text");
        session.put(&self.key, &value, None).await.map(drop)
    }
}
