//! What the attempts of one call share.

use std::sync::Arc;

use http::Request;
use parking_lot::Mutex;
use policy::budget::RetryBudget;

use crate::{Context, worker};

/// Keys of the endpoints that a call has tried. Its presence says that the call is counted as a request already.
#[derive(Clone, Debug, Default)]
pub(super) struct Tried(Arc<Mutex<Vec<u64>>>);

impl Tried {
    /// Makes sure that the attempts of `request` share what was tried. The first layer that asks pays in for the
    /// request; repeated attempts of a caller earn nothing.
    pub(super) fn begin<B>(request: &mut Request<B>, context: &Context, budgets: &[Arc<RetryBudget>]) {
        if request.extensions().get::<Tried>().is_some() {
            return;
        }
        request.extensions_mut().insert(Tried::default());
        if context.attempt().is_none_or(|attempt| attempt.get() == 1) {
            budgets.iter().for_each(|budget| budget.on_request(worker::shard()));
        }
    }

    /// The call goes to the endpoint with this key.
    pub(super) fn push(&self, key: u64) {
        self.0.lock().push(key);
    }

    /// The keys so far.
    pub(super) fn keys(&self) -> Vec<u64> {
        self.0.lock().clone()
    }
}
