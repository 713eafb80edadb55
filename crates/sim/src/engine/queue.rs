//! What happens next.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use model::Instant;

use super::{Call, Request, slab::Id};

/// Something that happens at a point of time. What it refers to may be gone by then: then nothing happens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// The next request of a traffic.
    Arrive { traffic: u32 },
    /// A client of a closed loop has thought.
    Thought { traffic: u32, client: u32 },
    /// A client of a traffic may have waited as long as it does.
    Patience { traffic: u32 },
    /// A client's back-off is over.
    ClientRetry { request: Id<Request> },
    /// A call has waited long enough for a place in the bulkhead.
    WaitOver { call: Id<Call> },
    /// A place may have become free for calls that wait, for admission or in the bulkhead.
    Wake { road: u32 },
    /// The calls that wait for admission are to be looked after.
    Queue { road: u32 },
    /// A call's back-off is over.
    Retry { call: Id<Call> },
    /// The first attempt of a call is late.
    Hedge { call: Id<Call> },
    /// An attempt reaches its endpoint.
    Reach { call: Id<Call>, number: u8 },
    /// An attempt's time is over.
    AttemptTimeout { call: Id<Call>, number: u8 },
    /// The next request of a server is done, unless something has changed meanwhile.
    Finish { server: u32, version: u32 },
    /// A server has restarted.
    Restarted { server: u32 },
    /// A server stands still, or goes on.
    Pause { server: u32, begins: bool },
    /// A fault begins or ends at one endpoint.
    Fault { step: u32 },
    /// A caller looks after its view of a service.
    Control { road: u32 },
    /// A health check is answered.
    Checked { road: u32, member: u32, ok: bool },
    /// The load under adaptive limits is taken down.
    Sample,
    /// A probe for load is answered.
    Probed { road: u32, member: u32 },
}

struct Entry {
    at: Instant,
    /// What was planned first happens first, so that runs do not depend on how the heap is built.
    number: u64,
    event: Event,
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Entry {}

/// Events in the order of time; of those at the same time, in the order that they were planned.
#[derive(Default)]
pub(crate) struct Queue {
    heap: BinaryHeap<Entry>,
    planned: u64,
}

impl Queue {
    pub(crate) fn plan(&mut self, at: Instant, event: Event) {
        self.planned += 1;
        self.heap.push(Entry { at, number: self.planned, event });
    }

    pub(crate) fn next(&mut self) -> Option<(Instant, Event)> {
        self.heap.pop().map(|entry| (entry.at, entry.event))
    }
}
