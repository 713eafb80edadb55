//! Admission to a service, and the line of those who wait for it.

use std::ops::Deref;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use model::{Criticality, Instant};
use parking_lot::Mutex;
use policy::admission::{Admission, AdmissionParams, End, Entry, Shed, Ticket, Who};
use policy::queue::{Evicted, Full, Id, Queue, Waiter};
use tokio::sync::oneshot;

use super::Clock;

/// How a wait ends.
type Turn = Result<Ticket, Shed>;

/// The way into a service: an [`Admission`], and a line before it.
///
/// Workers meet in the line's lock only while somebody waits. It is held for moments and never across a wait.
#[derive(Debug)]
pub struct Entrance {
    admission: Admission,
    line: Mutex<Queue<oneshot::Sender<Turn>>>,
    clock: Clock,
    /// Longest wait.
    wait_max: std::time::Duration,
    /// Requests refused, by class and by reason.
    shed: [[AtomicU64; Shed::ALL.len()]; Criticality::ALL.len()],
}

impl Deref for Entrance {
    type Target = Admission;

    fn deref(&self) -> &Admission {
        &self.admission
    }
}

impl Entrance {
    /// An entrance that `workers` workers share.
    #[must_use]
    pub fn new(params: &AdmissionParams, workers: usize, clock: Clock) -> Self {
        Self {
            admission: Admission::new(params, workers, clock.now()),
            line: Mutex::new(Queue::new(&params.queue)),
            clock,
            wait_max: params.queue.wait_max.get(),
            shed: Default::default(),
        }
    }

    /// Requests of `class` refused for the reason `why` so far.
    #[must_use]
    pub fn shed(&self, class: Criticality, why: Shed) -> u64 {
        self.shed[class.index()][why as usize].load(Relaxed)
    }

    /// A place for `who`, waited for if need be. `gone` is ready when nobody wants it any more: then the answer is `None`.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn enter(
        &self,
        shard: usize,
        who: Who,
        now: Instant,
        gone: impl FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Option<Result<Ticket, Shed>> {
        let turn = match self.admission.try_enter(shard, &who, now) {
            Entry::Enter(ticket) => return Some(Ok(ticket)),
            Entry::Refuse(shed) => Err(shed),
            Entry::Wait => self.wait(shard, who, now, gone).await?,
        };
        if let Err(shed) = turn {
            self.shed[who.class.index()][shed as usize].fetch_add(1, Relaxed);
        }
        Some(turn)
    }

    /// Gives a place back, and lets in who is next.
    pub fn leave(&self, shard: usize, ticket: Ticket, now: Instant, end: End) {
        if self.admission.leave(shard, ticket, now, end) {
            self.advance(&mut self.line.lock(), shard, now);
        }
    }

    /// Waits in line, after [`Admission::try_enter`] said so.
    async fn wait(
        &self,
        shard: usize,
        who: Who,
        now: Instant,
        mut gone: impl FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Option<Turn> {
        let (sender, turn) = oneshot::channel();
        let id = {
            let mut line = self.line.lock();
            let (limit, latency) = (self.admission.limit(), self.admission.base_latency());
            match line.push(now, limit, latency, Waiter { who, value: sender }) {
                Ok((id, evicted)) => {
                    if let Some(Evicted(waiter)) = evicted {
                        self.turn_away(waiter, Shed::QueueFull);
                    }
                    // Whoever left before the line was joined has let in nobody on its behalf.
                    self.advance(&mut line, shard, now);
                    id
                }
                Err(Full(_)) => {
                    self.admission.give_up(&who);
                    return Some(Err(Shed::QueueFull));
                }
            }
        };
        let mut waiting = Waiting { entrance: self, shard, who, id, turn: Some(turn) };
        let until = now.after(self.wait_max).min(who.deadline.instant());
        let mut timeout = pin!(tokio::time::sleep_until(self.clock.timer(until)));
        std::future::poll_fn(|cx| {
            let Some(turn) = &mut waiting.turn else { return Poll::Ready(None) };
            if let Poll::Ready(turn) = pin!(turn).poll(cx) {
                waiting.turn = None;
                // The sender lives in the line until it has spoken.
                return Poll::Ready(Some(turn.unwrap_or(Err(Shed::QueueFull))));
            }
            if timeout.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Some(Err(match who.deadline.expired(self.clock.now()) {
                    true => Shed::Deadline,
                    false => Shed::QueueTimeout,
                })));
            }
            gone(cx).map(|()| None)
        })
        .await
    }

    /// Lets in everybody for whom there is a place, and turns away whoever has waited in vain.
    fn advance(&self, line: &mut Queue<oneshot::Sender<Turn>>, shard: usize, now: Instant) {
        let latency = self.admission.base_latency();
        while let Some((waiter, ticket)) = line.pop(
            now,
            latency,
            |who| self.admission.try_enter_waiting(shard, who, now),
            &mut |waiter, shed| self.turn_away(waiter, shed),
        ) {
            if waiter.value.send(Ok(ticket)).is_err() {
                // It left at this very moment; the loop goes on with the next one.
                let _ = self.admission.leave(shard, ticket, now, End::Ignored);
            }
        }
    }

    fn turn_away(&self, waiter: Waiter<oneshot::Sender<Turn>>, shed: Shed) {
        self.admission.give_up(&waiter.who);
        // Fails when it left at this very moment.
        let _ = waiter.value.send(Err(shed));
    }
}

/// Somebody in line. Whoever leaves before its turn comes, a cancelled one included, leaves nothing behind.
struct Waiting<'a> {
    entrance: &'a Entrance,
    shard: usize,
    who: Who,
    id: Id,
    turn: Option<oneshot::Receiver<Turn>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(mut turn) = self.turn.take() else { return };
        let entrance = self.entrance;
        if entrance.line.lock().remove(self.id).is_some() {
            entrance.admission.give_up(&self.who);
        } else if let Ok(Ok(ticket)) = turn.try_recv() {
            entrance.leave(self.shard, ticket, entrance.clock.now(), End::Ignored);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Deadline;
    use policy::limit::LimitParams;
    use std::future::pending;
    use std::task::Waker;

    const WHO: Who = Who { class: Criticality::Critical, customer: 0, deadline: Deadline::NONE };

    fn entrance(places: u32) -> Entrance {
        let limit = LimitParams { min: places, max: places, initial: Some(places), ..LimitParams::default() };
        let params = AdmissionParams { limit, ..AdmissionParams::default() };
        Entrance::new(&params, 1, Clock::new())
    }

    async fn enter(entrance: &Entrance) -> Result<Ticket, Shed> {
        let stays = |_: &mut Context<'_>| Poll::Pending;
        entrance.enter(0, WHO, entrance.clock.now(), stays).await.expect("it stays")
    }

    /// Fills all places that the class may have.
    async fn fill(entrance: &Entrance) -> Vec<Ticket> {
        let mut tickets = Vec::new();
        while let Entry::Enter(ticket) = entrance.try_enter(0, &WHO, entrance.clock.now()) {
            tickets.push(ticket);
        }
        entrance.give_up(&WHO);
        tickets
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_lets_in_who_waits() {
        let entrance = entrance(4);
        let mut tickets = fill(&entrance).await;
        let mut waits = pin!(enter(&entrance));
        assert!(waits.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        entrance.leave(0, tickets.pop().unwrap(), entrance.clock.now(), End::Ignored);
        tickets.push(waits.await.unwrap());
        assert_eq!((entrance.active() as usize, entrance.waiting()), (tickets.len(), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let entrance = entrance(4);
        let _tickets = fill(&entrance).await;
        assert_eq!(enter(&entrance).await, Err(Shed::QueueTimeout));
        assert_eq!((entrance.waiting(), entrance.shed(Criticality::Critical, Shed::QueueTimeout)), (0, 1));
        let deadline = Deadline::within(entrance.clock.now(), std::time::Duration::from_millis(3));
        let hurried = entrance.enter(0, Who { deadline, ..WHO }, entrance.clock.now(), |_| Poll::Pending);
        assert!(hurried.await.is_some_and(|turn| turn.is_err()));
        assert_eq!(entrance.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_leaves_nothing_behind() {
        let entrance = entrance(4);
        let mut tickets = fill(&entrance).await;
        // Its client leaves.
        assert_eq!(entrance.enter(0, WHO, entrance.clock.now(), |_| Poll::Ready(())).await, None);
        assert_eq!(entrance.waiting(), 0);
        // It is dropped when its turn has come already.
        let mut waits = Box::pin(enter(&entrance));
        assert!(waits.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        entrance.leave(0, tickets.pop().unwrap(), entrance.clock.now(), End::Ignored);
        drop(waits);
        assert_eq!((entrance.active() as usize, entrance.waiting()), (tickets.len(), 0));
        drop(pending::<()>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_line_turns_away_the_less_important() {
        let entrance = entrance(4);
        let _tickets = fill(&entrance).await;
        let mut cx = Context::from_waker(Waker::noop());
        let mut low: Vec<_> = (0..4).map(|_| Box::pin(enter(&entrance))).collect();
        for waits in &mut low {
            assert!(waits.as_mut().poll(&mut cx).is_pending());
        }
        assert_eq!(enter(&entrance).await, Err(Shed::QueueFull));
        // CRITICAL_PLUS may have the last place; the second one waits in somebody's stead.
        let plus = Who { class: Criticality::CriticalPlus, ..WHO };
        let stays = |_: &mut Context<'_>| Poll::Pending;
        let _last = entrance.try_enter(0, &plus, entrance.clock.now());
        let mut high = pin!(entrance.enter(0, plus, entrance.clock.now(), stays));
        assert!(high.as_mut().poll(&mut cx).is_pending());
        let turned_away = low.iter_mut().filter_map(|waits| match waits.as_mut().poll(&mut cx) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        });
        assert_eq!(turned_away.collect::<Vec<_>>(), [Err(Shed::QueueFull)]);
    }
}
