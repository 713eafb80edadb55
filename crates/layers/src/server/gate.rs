//! An admission and the line in front of it.

use std::sync::Arc;
use std::time::Duration;

use model::{Instant, Verdict};
use parking_lot::Mutex;
use policy::admission::{self as decision, AdmissionParams, End, Entry, Shed, Ticket, Who};
use policy::queue::{Evicted, Full, Id, Queue, Waiter};
use tokio::sync::oneshot;

use crate::error::InvalidParams;
use crate::hold::Hold;
use crate::signals::Signals;
use crate::{Clock, worker};

/// The line is looked at no more often than this by one who waits.
const TICK: Duration = Duration::from_millis(1);

/// Hands out places, and says to those who wait what became of them.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) admission: decision::Admission,
    line: Mutex<Queue<Teller>>,
}

type Told = Result<Admitted, Shed>;
type Teller = oneshot::Sender<Told>;

/// A request that was let in. However it ends, its place is given back once.
#[derive(Debug)]
pub struct Admitted {
    gate: Arc<Gate>,
    ticket: Ticket,
    started: Instant,
    end: End,
}

impl Hold for Admitted {
    fn on_head(&mut self, signals: &Signals) {
        self.end = match signals.verdict {
            Verdict::Success => End::Success(Clock::now().since(self.started)),
            Verdict::Overloaded => End::Dropped,
            // How long a failure takes says nothing about how much can be done at once.
            Verdict::Failure | Verdict::Unknown => End::Ignored,
        };
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if self.gate.admission.leave(worker::shard(), self.ticket, Clock::now(), self.end) {
            self.gate.serve();
        }
    }
}

/// What asking to be let in came to.
pub(super) enum Asked<W> {
    Entered(Admitted),
    /// It has a place in the line; the future says what becomes of it.
    Waits(W),
    Refused(Shed),
}

impl Gate {
    pub(super) fn new(params: &AdmissionParams) -> Result<Arc<Self>, InvalidParams> {
        InvalidParams::check(params.check())?;
        let admission = decision::Admission::new(params, worker::count(), Clock::now());
        Ok(Arc::new(Self { admission, line: Mutex::new(Queue::new(&params.queue)) }))
    }

    pub(super) fn ask(self: &Arc<Self>, who: Who) -> Asked<impl Future<Output = Told> + Send + use<>> {
        let now = Clock::now();
        match self.admission.try_enter(worker::shard(), &who, now) {
            Entry::Enter(ticket) => Asked::Entered(self.admitted(ticket, now)),
            Entry::Refuse(shed) => Asked::Refused(shed),
            Entry::Wait => {
                let (teller, told) = oneshot::channel();
                let waiter = Waiter { who, value: teller };
                let pushed =
                    self.line.lock().push(now, self.admission.limit(), self.admission.base_latency(), waiter);
                match pushed {
                    Err(Full(waiter)) => {
                        self.admission.give_up(&waiter.who);
                        Asked::Refused(Shed::QueueFull)
                    }
                    Ok((id, evicted)) => {
                        if let Some(Evicted(waiter)) = evicted {
                            self.shed(waiter, Shed::QueueFull);
                        }
                        // Whoever left before we stood in the line found nobody to let in.
                        self.serve();
                        Asked::Waits(Waiting { gate: Arc::clone(self), id }.wait(told))
                    }
                }
            }
        }
    }

    fn admitted(self: &Arc<Self>, ticket: Ticket, started: Instant) -> Admitted {
        Admitted { gate: Arc::clone(self), ticket, started, end: End::Ignored }
    }

    /// Lets in whoever is next while there are places, and sends away whoever waited too long.
    fn serve(self: &Arc<Self>) {
        let now = Clock::now();
        let latency = self.admission.expected_latency();
        let (mut entered, mut shed) = (Vec::new(), Vec::new());
        {
            let mut line = self.line.lock();
            let enter = |who: &Who| self.admission.try_enter_waiting(worker::shard(), who, now);
            while let Some(next) = line.pop(now, latency, enter, &mut |waiter, why| shed.push((waiter, why)))
            {
                entered.push(next);
            }
        }
        // Told outside of the lock: a place that nobody takes any more comes back here.
        for (waiter, ticket) in entered {
            let _ = waiter.value.send(Ok(self.admitted(ticket, now)));
        }
        shed.into_iter().for_each(|(waiter, why)| self.shed(waiter, why));
    }

    fn shed(&self, waiter: Waiter<Teller>, why: Shed) {
        self.admission.give_up(&waiter.who);
        // Nobody to tell: it has gone away by itself.
        let _ = waiter.value.send(Err(why));
    }
}

/// A request in the line; however it leaves, it leaves once.
struct Waiting {
    gate: Arc<Gate>,
    id: Id,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let left = self.gate.line.lock().remove(self.id);
        if let Some(waiter) = left {
            self.gate.admission.give_up(&waiter.who);
        }
    }
}

impl Waiting {
    async fn wait(self, mut told: oneshot::Receiver<Told>) -> Told {
        loop {
            let latency = self.gate.admission.expected_latency();
            let next = self.gate.line.lock().poll_timeout(latency).unwrap_or(Instant::NEVER);
            // What is due already was looked at by whoever pushed or served last; timers tick in milliseconds.
            let next = next.max(Clock::now().after(TICK));
            match tokio::time::timeout_at(Clock::timer(next), &mut told).await {
                Ok(told) => return told.unwrap_or(Err(Shed::QueueTimeout)),
                Err(_) => self.gate.serve(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Criticality, Deadline};
    use policy::limit::LimitParams;
    use tokio::task::JoinSet;

    const CRITICAL: Who = Who { class: Criticality::Critical, customer: 0, deadline: Deadline::NONE };
    const SHEDDABLE: Who = Who { class: Criticality::Sheddable, ..CRITICAL };

    /// A gate with a limit that stays as it is.
    fn gate(limit: u32) -> Arc<Gate> {
        let limit = LimitParams { initial: Some(limit), min: limit, max: limit, ..LimitParams::default() };
        Gate::new(&AdmissionParams { limit, ..AdmissionParams::default() }).unwrap()
    }

    async fn enter(gate: &Arc<Gate>, who: Who) -> Told {
        match gate.ask(who) {
            Asked::Entered(place) => Ok(place),
            Asked::Waits(wait) => wait.await,
            Asked::Refused(shed) => Err(shed),
        }
    }

    async fn waiting(gate: &Arc<Gate>, count: u32) {
        while gate.admission.waiting() != count {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_higher_class_is_served_first_and_a_lower_one_makes_room() {
        let gate = gate(4);
        let mut places = Vec::new();
        for _ in 0..4 {
            places.push(enter(&gate, Who { class: Criticality::CriticalPlus, ..CRITICAL }).await.unwrap());
        }
        let (order, mut served) = tokio::sync::mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        let classes = [SHEDDABLE, SHEDDABLE, CRITICAL, CRITICAL, CRITICAL];
        for (joined, who) in classes.into_iter().enumerate() {
            let (gate, order) = (Arc::clone(&gate), order.clone());
            tasks.spawn(async move {
                let told = enter(&gate, who).await;
                order.send((who.class, told.as_ref().err().copied())).unwrap();
            });
            if joined < 4 {
                waiting(&places[0].gate, joined as u32 + 1).await;
            }
        }
        // The line holds four: the fifth takes the place of a sheddable one.
        assert_eq!(served.recv().await, Some((Criticality::Sheddable, Some(Shed::QueueFull))));
        places.clear();
        for _ in 0..3 {
            assert_eq!(served.recv().await, Some((Criticality::Critical, None)));
        }
        while tasks.join_next().await.is_some() {}
        assert_eq!((gate.admission.active(), gate.admission.waiting()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_is_told_in_time() {
        let gate = gate(1);
        let _place = enter(&gate, CRITICAL).await.unwrap();
        let began = Clock::now();
        let told = enter(&gate, CRITICAL).await;
        assert_eq!(told.err(), Some(Shed::QueueTimeout));
        assert!(Clock::now().since(began) <= Duration::from_millis(102));
        let hurried = Who { deadline: Deadline::within(Clock::now(), Duration::from_millis(10)), ..CRITICAL };
        assert_eq!(enter(&gate, hurried).await.err(), Some(Shed::Deadline));
        assert_eq!(gate.admission.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_is_cancelled_no_place_is_lost() {
        let gate = gate(3);
        let mut tasks = JoinSet::new();
        for number in 0..200u64 {
            let gate = Arc::clone(&gate);
            tasks.spawn(async move {
                let place = enter(&gate, CRITICAL).await;
                tokio::time::timeout(Duration::from_millis(number % 7), std::future::pending::<()>())
                    .await
                    .ok();
                drop(place);
            });
            if number % 10 == 0 {
                tokio::task::yield_now().await;
                tasks.abort_all();
            }
        }
        while tasks.join_next().await.is_some() {}
        assert_eq!((gate.admission.active(), gate.admission.waiting()), (0, 0));
        assert!(gate.line.lock().is_empty());
    }
}
