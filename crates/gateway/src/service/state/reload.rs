use std::mem;
use std::sync::Arc;

use policy::Unavailable;
use policy::breaker::Breaker;
use policy::budget::RetryBudget;
use policy::bulkhead::Bulkhead;
use policy::callers::Callers;
use policy::ejection::Ejector;
use policy::health::Health;
use policy::throttle::Throttle;

use super::{Moment, State};
use crate::config;
use crate::service::events::What;
use crate::service::{Entrance, Places};

impl State {
    /// Other parameters. What they do not touch keeps its state; where the endpoints come from is not looked at here.
    ///
    /// A bulkhead with other bounds, or a line of other length, begins empty: until the requests under way have ended, both old and new ones have
    /// places.
    pub(in crate::service) fn on_params(&mut self, params: Arc<config::Service>, moment: Moment) {
        let old = mem::replace(&mut self.params, params);
        let (new, now, workers) = (Arc::clone(&self.params), moment.now, self.workers);
        if new.breaker != old.breaker {
            let force = self.breaker.forced();
            self.breaker = Arc::new(Breaker::new(&new.breaker, workers, now));
            // What an operator said at run time outlives a reload that does not speak of it.
            if new.breaker.force == old.breaker.force {
                self.breaker.force(force, now);
            }
        }
        if new.retry_budget != old.retry_budget {
            self.retry_budget = Arc::new(RetryBudget::new(&new.retry_budget, workers, now));
        }
        if new.bulkhead != old.bulkhead {
            self.bulkhead = Arc::new(Places::new(Bulkhead::new(&new.bulkhead, workers)));
        }
        if new.tunnels_max != old.tunnels_max {
            self.tunnels = Arc::new(super::tunnels(&new, workers));
        }
        if new.admission.queue != old.admission.queue {
            self.entrance = Arc::new(Entrance::new(&new.admission, workers, self.clock));
        } else if new.admission != old.admission {
            self.entrance.reconfigure(&new.admission);
        }
        if new.throttle != old.throttle {
            self.throttle = Arc::new(Throttle::new(&new.throttle, workers, now));
        }
        if new.retry_advice != old.retry_advice {
            self.callers = Arc::new(Callers::new(&new.retry_advice, workers, now));
        }
        self.modes.set_params(&new.modes, now);
        let rejudged = "what judges it was configured anew";
        if new.ejection != old.ejection {
            self.ejector = Ejector::new(&new.ejection, now);
            self.mark_all(Unavailable::Ejected, false, rejudged, moment);
        }
        if new.health != old.health {
            let checks = new.health.as_ref();
            for member in &mut self.members {
                member.health = checks.map(|health| Health::new(&health.timing, now, &mut self.rng));
                member.asking = false;
            }
            self.mark_all(Unavailable::Unhealthy, false, rejudged, moment);
            // Whoever lifts marks from now on, lame ducks are not forgotten.
            for index in 0..self.members.len() {
                if self.members[index].endpoint().is_unavailable(Unavailable::LameDuck) {
                    self.on_lame_duck(index, rejudged, moment);
                }
            }
        }
        let streaks = |params: &config::Service| params.ejection.consecutive_failures;
        let reguard = new.endpoint_breaker != old.endpoint_breaker || streaks(&new) != streaks(&old);
        for member in &mut self.members {
            member.endpoint().set_active_max(new.active_per_endpoint);
            if reguard {
                let keep_force = new.endpoint_breaker.force == old.endpoint_breaker.force;
                member.reguard(&new, keep_force, workers, now);
            }
        }
        if new.subset != old.subset {
            self.select(moment);
        }
        self.tell(None, What::Reconfigured, "its configuration changed".to_owned(), moment);
        self.publish_at = now;
    }
}
