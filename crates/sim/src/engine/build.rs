//! A world at its beginning.

use std::collections::VecDeque;
use std::time::Duration;

use model::{Instant, Span};
use policy::Rng;
use policy::budget::RetryBudget;

use super::queue::{Event, Queue};
use super::road::{Road, effective};
use super::server::Server;
use super::slab::Slab;
use super::{Service, Source, World, faults};
use crate::Scenario;
use crate::report::Recorder;
use crate::scenario::{Arrival, RoutePolicies};

impl World {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let seed = |label: &str| policy::seed(scenario.seed, label);
        let mut world = Self {
            now: Instant::ORIGIN,
            end: Instant::ORIGIN.after(scenario.duration.get()),
            network: scenario.network.get(),
            slot: scenario.slot.get(),
            gateways: scenario.gateways,
            queue: Queue::default(),
            recorder: Recorder::new(scenario),
            requests: Slab::new(),
            calls: Slab::new(),
            jobs: Slab::new(),
            sources: Vec::new(),
            services: Vec::new(),
            servers: Vec::new(),
            roads: Vec::new(),
            faults: scenario.faults.clone(),
            steps: Vec::new(),
            no_route: RoutePolicies::default(),
            rng: Rng::with_seed(seed("world")),
        };
        world.add_services(scenario);
        world.add_nested_roads(scenario);
        world.add_sources(scenario);
        world.plan_faults();
        world.plan_pauses();
        world.plan_sample(Instant::ORIGIN.after(world.slot).before(Duration::from_nanos(1)));
        for road in 0..world.roads.len() {
            world.plan_control(road as u32);
        }
        world
    }

    fn add_services(&mut self, scenario: &Scenario) {
        let position = |name: &str| scenario.services.keys().position(|other| other == name);
        for (index, (name, params)) in scenario.services.iter().enumerate() {
            let first = self.servers.len() as u32;
            let calls = params.calls.iter();
            let names: Vec<_> = (0..params.endpoints).map(|server| format!("{name}-{server}")).collect();
            self.servers.extend((0..params.endpoints).map(|_| Server::new(index as u32, &params.backend)));
            self.services.push(Service {
                name: name.clone(),
                backend: params.backend.clone(),
                calls: calls.filter_map(|call| Some((position(&call.service)?, call.clone()))).collect(),
                zones: params.zones.clone(),
                policies: effective(&params.policies),
                first,
                count: params.endpoints,
                roads: 0,
                keys: names.iter().map(|name| policy::hash(name.as_bytes())).collect(),
                names,
                rng: Rng::with_seed(policy::seed(scenario.seed, &format!("service {name}"))),
            });
        }
    }

    /// The roads of services to what they call. The callers of a service are numbered, for its subsets.
    fn add_nested_roads(&mut self, scenario: &Scenario) {
        for service in 0..self.services.len() {
            self.services[service].roads = self.roads.len() as u32;
            for server in 0..self.services[service].count {
                for called in 0..self.services[service].calls.len() {
                    let target = self.services[service].calls[called].0;
                    let label = format!("road {}-{server} {called}", self.services[service].name);
                    self.add_road(scenario, target, server, &label);
                }
            }
        }
    }

    fn add_sources(&mut self, scenario: &Scenario) {
        for (index, (name, params)) in scenario.traffic.iter().enumerate() {
            let service = scenario.services.keys().position(|other| *other == params.service);
            let Some(service) = service else { panic!("no service is called `{}`", params.service) };
            // All traffics share the gateways' roads to one service; clients have roads of their own.
            let shared = self.sources.iter().find(|source| source.service == service && self.gateways > 0);
            let callers = if self.gateways > 0 { self.gateways } else { params.clients };
            let roads = match shared {
                Some(source) => source.roads,
                None => {
                    let first = self.roads.len() as u32;
                    for caller in 0..callers {
                        let label = match self.gateways {
                            0 => format!("road {name} {caller}"),
                            _ => format!("road gateway {} {caller}", params.service),
                        };
                        self.add_road(scenario, service, caller, &label);
                    }
                    first
                }
            };
            let budget = params.retry_budget.as_ref();
            let budgets = budget
                .map_or(0..0, |_| 0..params.clients)
                .filter_map(|_| Some(RetryBudget::new(budget?, 1, Instant::ORIGIN)));
            let source = Source {
                service,
                roads,
                callers,
                budgets: budgets.collect(),
                patience: VecDeque::new(),
                patience_planned: false,
                shares: params.classes.iter().map(|part| part.share).sum(),
                salt: policy::hash(name.as_bytes()),
                arrivals: Rng::with_seed(policy::seed(scenario.seed, &format!("arrivals {name}"))),
                rng: Rng::with_seed(policy::seed(scenario.seed, &format!("traffic {name}"))),
                params: params.clone(),
            };
            self.sources.push(source);
            self.plan_arrivals(index as u32);
        }
    }

    fn plan_arrivals(&mut self, traffic: u32) {
        let source = &mut self.sources[traffic as usize];
        match &source.params.arrival {
            Arrival::Herd { count, at, within } => {
                let within = span_nanos(*within);
                for _ in 0..*count {
                    let delay = Duration::from_nanos(source.arrivals.u64(0..=within));
                    self.queue.plan(Instant::ORIGIN.after(at.get()).after(delay), Event::Arrive { traffic });
                }
            }
            Arrival::Closed { think } => {
                let within = span_nanos(*think);
                for client in 0..source.params.clients {
                    let delay = Duration::from_nanos(source.arrivals.u64(0..=within));
                    self.queue.plan(Instant::ORIGIN.after(delay), Event::Thought { traffic, client });
                }
            }
            _ => self.plan_next_arrival(traffic),
        }
    }

    fn add_road(&mut self, scenario: &Scenario, service: usize, caller: u32, label: &str) {
        let Service { policies, first, names, keys, .. } = &self.services[service];
        let routes = scenario.traffic.len();
        let seed = policy::seed(scenario.seed, label);
        let road = Road::new(policies, service as u32, (caller, routes), *first, (names, keys), seed);
        self.roads.push(road);
    }

    fn plan_faults(&mut self) {
        self.steps = faults::steps(&self.faults, &self.services);
        for (step, planned) in self.steps.iter().enumerate() {
            self.queue.plan(planned.at, Event::Fault { step: step as u32 });
        }
    }

    fn plan_pauses(&mut self) {
        for server in 0..self.servers.len() as u32 {
            let service = self.servers[server as usize].service as usize;
            if let Some(pauses) = &self.services[service].backend.pauses {
                let first = Duration::from_nanos(self.rng.u64(0..=span_nanos(pauses.every)));
                self.queue.plan(Instant::ORIGIN.after(first), Event::Pause { server, begins: true });
            }
        }
    }
}

/// A span in nanoseconds; the largest number past 584 years.
pub(super) fn span_nanos(span: Span) -> u64 {
    u64::try_from(span.get().as_nanos()).unwrap_or(u64::MAX)
}
