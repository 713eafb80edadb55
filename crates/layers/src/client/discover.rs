//! Where the endpoints of a service are.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};

use parking_lot::Mutex;
use policy::subset::{SubsetParams, subset};

/// One endpoint as discovery knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Unique in its service, and what everything learnt about it hangs on; as a rule `host:port`.
    pub name: Arc<str>,
    /// Relative to the others; 0 means no calls.
    pub weight: u32,
    /// The most calls that may be under way to it.
    pub active_max: u32,
}

impl Target {
    /// An endpoint of weight 1 without a bound of its own.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), weight: 1, active_max: u32::MAX }
    }
}

/// A set of endpoints that is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// An empty answer is a failure of discovery more often than of the service: the last set stays.
    #[error("the set of endpoints is empty, so the last one stays")]
    Empty,
    /// Two endpoints of one name cannot be told apart.
    #[error("endpoint `{name}` is named twice")]
    Duplicate {
        /// The name.
        name: Arc<str>,
    },
}

/// The latest set of a service's endpoints, as a [`Balance`](super::Balance) follows it. Clones follow the same one.
///
/// There is no task behind it: whoever discovers (DNS, a file, a registry's watch) calls [`Publisher::publish`] for each
/// new set, and the next call through a balancer takes notice.
#[derive(Clone, Debug)]
pub struct Discover {
    published: Arc<Published>,
    subset: Option<(SubsetParams, u64)>,
}

/// Publishes sets of endpoints.
#[derive(Clone, Debug)]
pub struct Publisher {
    published: Arc<Published>,
}

#[derive(Debug, Default)]
struct Published {
    version: AtomicU64,
    targets: Mutex<Arc<[Target]>>,
}

/// A service whose endpoints are published as they are found; none before the first [`Publisher::publish`].
#[must_use]
pub fn discovered() -> (Publisher, Discover) {
    let published = Arc::<Published>::default();
    (Publisher { published: Arc::clone(&published) }, Discover { published, subset: None })
}

impl Publisher {
    /// From now on these are the endpoints. Those that were there already keep all that was learnt about them.
    ///
    /// # Errors
    /// [`PublishError`]; the last set stays.
    pub fn publish(&self, targets: impl IntoIterator<Item = Target>) -> Result<(), PublishError> {
        let targets: Arc<[Target]> = targets.into_iter().collect();
        let mut names = HashSet::new();
        if targets.is_empty() {
            return Err(PublishError::Empty);
        }
        if let Some(twice) = targets.iter().find(|target| !names.insert(&target.name)) {
            return Err(PublishError::Duplicate { name: Arc::clone(&twice.name) });
        }
        *self.published.targets.lock() = targets;
        self.published.version.fetch_add(1, Release);
        Ok(())
    }
}

impl Discover {
    /// A service whose endpoints never change.
    ///
    /// # Errors
    /// [`PublishError`] when there are none, or one is named twice.
    pub fn fixed<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, PublishError> {
        let (publisher, discover) = discovered();
        publisher.publish(names.into_iter().map(Target::new))?;
        Ok(discover)
    }

    /// Only a subset of the endpoints: each client connects to a bounded, even share of them. `client` is
    /// [`SubsetParams::client_on`] this host; number the clients if you can, the shares are more even then.
    #[must_use]
    pub fn subset(mut self, params: &SubsetParams, client: u64) -> Self {
        self.subset = Some((params.clone(), client));
        self
    }

    /// Changes with every set.
    pub(super) fn version(&self) -> u64 {
        self.published.version.load(Acquire)
    }

    /// The endpoints to use at present.
    pub(super) fn targets(&self) -> Vec<Target> {
        let all = Arc::clone(&self.published.targets.lock());
        let Some((params, client)) = &self.subset else { return all.to_vec() };
        let keys: Vec<u64> = all.iter().map(|target| policy::hash(target.name.as_bytes())).collect();
        let mut chosen = subset(params, *client, &keys);
        chosen.sort_unstable();
        chosen.into_iter().map(|at| all[at].clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(discover: &Discover) -> Vec<String> {
        discover.targets().iter().map(|target| target.name.to_string()).collect()
    }

    #[test]
    fn trap_17_an_empty_answer_never_removes_everybody() {
        let (publisher, discover) = discovered();
        publisher.publish([Target::new("a"), Target::new("b")]).unwrap();
        let version = discover.version();
        assert_eq!(publisher.publish([]), Err(PublishError::Empty));
        let twice = publisher.publish([Target::new("a"), Target::new("a")]);
        assert_eq!(twice, Err(PublishError::Duplicate { name: "a".into() }));
        assert_eq!((names(&discover), discover.version()), (vec!["a".into(), "b".into()], version));
    }

    #[test]
    fn a_subset_is_a_share_of_the_set_that_hardly_moves() {
        let all: Vec<Target> = (0..100).map(|n| Target::new(&format!("10.0.0.{n}:80"))).collect();
        let (publisher, discover) = discovered();
        let params = SubsetParams { size: 10, ..SubsetParams::default() };
        let discover = discover.subset(&params, 3);
        publisher.publish(all.clone()).unwrap();
        let before = names(&discover);
        assert_eq!(before.len(), 10);
        publisher.publish(all.into_iter().chain([Target::new("10.0.1.1:80")])).unwrap();
        let moved = names(&discover).iter().filter(|name| !before.contains(name)).count();
        assert!(moved <= 2, "{moved} of 10 are new");
    }
}
