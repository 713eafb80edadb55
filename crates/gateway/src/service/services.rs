use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use super::{Clock, Control, Service};
use crate::config;
use crate::discover::Registry;
use crate::tls::Clients;

/// Every service of the process. Reloads go through [`Services::apply`]; state survives them.
pub struct Services {
    env: Environment,
    live: Mutex<Live>,
}

/// What all services share.
pub(super) struct Environment {
    pub(super) process: Process,
    pub(super) clock: Clock,
    pub(super) runtime: Handle,
    pub(super) tasks: TaskTracker,
    pub(super) tls: Arc<Clients>,
    pub(super) registry: Option<Registry>,
}

/// What a service's state must know of its process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process {
    pub(super) workers: usize,
    pub(super) seed: u64,
    /// A hash of the host's name: who this process is among its peers, across restarts.
    pub(super) host: u64,
}

#[derive(Default)]
struct Live {
    controls: BTreeMap<String, Arc<Control>>,
    /// Which values of [`Service::index`] are taken.
    slots: Vec<bool>,
}

impl Live {
    /// The lowest free slot, now taken.
    fn take_slot(&mut self) -> usize {
        let free = self.slots.iter().position(|taken| !taken).unwrap_or(self.slots.len());
        self.slots.resize(self.slots.len().max(free + 1), true);
        self.slots[free] = true;
        free
    }

    /// Starts those of `wanted` that are not there yet and answers them.
    fn begin(&mut self, wanted: &BTreeMap<String, config::Service>, env: &Environment) -> Vec<Arc<Control>> {
        let mut begun = Vec::new();
        for (name, params) in wanted {
            if !self.controls.contains_key(name) {
                let control = Control::start(name, self.take_slot(), params.clone(), env);
                begun.push(Arc::clone(&control));
                self.controls.insert(name.clone(), control);
            }
        }
        begun
    }
}

impl Services {
    /// None yet. `workers` share each service; control tasks run on `runtime`, which should belong to no worker;
    /// `seed` decides where balancers' turns begin and how checks are jittered, and differs from process to process;
    /// `registry` knows the instances of registered services.
    #[must_use]
    pub fn new(clock: Clock, workers: usize, runtime: Handle, seed: u64, registry: Option<Registry>) -> Self {
        let host = std::fs::read("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = policy::hash(host.trim_ascii());
        let process = Process { workers, seed, host };
        let tasks = TaskTracker::new();
        let env = Environment { process, clock, runtime, tasks, tls: Arc::default(), registry };
        Self { env, live: Mutex::default() }
    }

    /// Starts those of `wanted` that are not there yet, ahead of [`Services::apply`], and answers them: they look for their
    /// endpoints while nobody asks them for any.
    pub fn begin(&self, wanted: &BTreeMap<String, config::Service>) -> Vec<Arc<Control>> {
        self.live.lock().begin(wanted, &self.env)
    }

    /// Makes the services those of `wanted` and answers them in the order of their names.
    ///
    /// New ones begin with every endpoint that is known without waiting: addresses given as numbers, and what files say.
    /// Those that stay take over what changed and keep everything else: endpoints and all that was learnt about them,
    /// and each policy whose own parameters are the same. Those that go stop their tasks; requests under way keep
    /// their last view, and their [`Service::index`] is used again.
    pub fn apply(&self, wanted: &BTreeMap<String, config::Service>) -> Vec<Arc<Service>> {
        let mut live = self.live.lock();
        live.begin(wanted, &self.env);
        let Live { controls, slots } = &mut *live;
        controls.retain(|name, control| match wanted.get(name) {
            Some(params) => {
                control.reconfigure(params);
                true
            }
            None => {
                control.stop();
                slots[control.service().index] = false;
                false
            }
        });
        controls.values().map(|control| Arc::clone(control.service())).collect()
    }

    /// How each of them talks to its endpoints. What a service needs must be there before it is begun or applied.
    pub(crate) fn tls(&self) -> &Clients {
        &self.env.tls
    }

    /// The clock that everything which shares these services must read.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.env.clock
    }

    /// The service called `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<Control>> {
        self.live.lock().controls.get(name).cloned()
    }

    /// Every service, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Control>> {
        self.live.lock().controls.values().cloned().collect()
    }

    /// Ends every control task and waits for that. Views stay readable.
    pub async fn stop(&self) {
        for control in self.all() {
            control.stop();
        }
        self.env.tasks.close();
        self.env.tasks.wait().await;
    }
}
