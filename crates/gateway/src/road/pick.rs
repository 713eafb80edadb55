//! Which endpoint gets an attempt.

use std::time::Duration;

use model::Instant;
use policy::balance::Pick;
use policy::breaker::{CallEnd, Permit};
use policy::{Rng, Unavailable};

use crate::answer::Reason;
use crate::engine::classify::Request;
use crate::engine::worker::Worker;
use crate::service::View;

/// Endpoints that this request has been to, or could not go to.
#[derive(Default)]
pub(crate) struct Tried {
    list: [u32; 16],
    len: usize,
}

impl Tried {
    pub(crate) fn push(&mut self, index: u32) {
        if let Some(slot) = self.list.get_mut(self.len) {
            *slot = index;
            self.len += 1;
        }
    }

    pub(super) fn as_slice(&self) -> &[u32] {
        &self.list[..self.len]
    }
}

/// Asks the endpoint's breaker, then takes one of its places. What both grant is the attempt's to give back.
fn enter(worker: &Worker, view: &View, index: u32, now: Instant, rng: &mut Rng) -> Result<Permit, Reason> {
    let target = &view.targets[index as usize];
    let permit = target.breaker.try_enter(worker.id, now, rng).map_err(|_| Reason::BreakerOpen)?;
    if target.endpoint.try_start(now) {
        return Ok(permit);
    }
    target.breaker.on_end(permit, now, CallEnd::Ignored, Duration::ZERO, rng);
    Err(Reason::NoEndpoint)
}

/// Picks an endpoint whose breaker lets the attempt pass and that has room for it.
pub(super) fn pick(
    worker: &Worker,
    request: &Request,
    view: &View,
    tried: &mut Tried,
    now: Instant,
) -> Result<(u32, Permit), Reason> {
    let rng = &mut *worker.rng.borrow_mut();
    // A client's own endpoint comes first, unless this request has been there.
    if let (Some(cookie), Some(sticky)) = (&request.sticky, &view.sticky) {
        let facts = Pick { now, key: None, tried: tried.as_slice() };
        if let Some(index) = sticky.find(cookie, &view.fleet, &facts) {
            match enter(worker, view, index, now, rng) {
                Ok(permit) => return Ok((index, permit)),
                Err(_) => tried.push(index),
            }
        }
    }
    pick_any(worker, view, request.key, tried, now, rng)
}

/// Picks an endpoint that `key` or the balancer says.
pub(crate) fn pick_any(
    worker: &Worker,
    view: &View,
    key: Option<u64>,
    tried: &mut Tried,
    now: Instant,
    rng: &mut Rng,
) -> Result<(u32, Permit), Reason> {
    let mut refused = Reason::NoEndpoint;
    for _ in 0..8 {
        let facts = Pick { now, key, tried: tried.as_slice() };
        let Some(index) = view.balancer.pick(&view.fleet, &facts, rng) else { break };
        match enter(worker, view, index, now, rng) {
            Ok(permit) => return Ok((index, permit)),
            Err(reason) if tried.as_slice().contains(&index) => return Err(reason),
            Err(reason) => {
                refused = reason;
                tried.push(index);
            }
        }
    }
    // Where all became unavailable since the view was published, the next view will panic: no reason to refuse now.
    let fleet = &view.fleet;
    let lags = || fleet.candidates().iter().all(|index| !fleet.endpoint(*index).available());
    if refused == Reason::NoEndpoint && view.params.panic_below.get() > 0.0 && lags() {
        let usable = |index: &u32| !fleet.endpoint(*index).is_unavailable(Unavailable::Disabled);
        let untried = |index: &u32| !tried.as_slice().contains(index);
        for index in fleet.candidates().iter().copied().filter(usable).filter(untried) {
            if let Ok(permit) = enter(worker, view, index, now, rng) {
                return Ok((index, permit));
            }
        }
    }
    Err(refused)
}
