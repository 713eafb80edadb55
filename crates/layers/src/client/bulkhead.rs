//! Bounds the calls under way to one dependency.

use std::future::poll_fn;
use std::mem;
use std::sync::Arc;
use std::task::{Context as Task, Poll};

use http::{Request, Response};
use http_body::Body;
use policy::bulkhead::{Bulkhead as Decision, BulkheadParams};
use tower_layer::Layer;
use tower_service::Service;

use super::future::CallFuture;
use crate::error::InvalidParams;
use crate::hold::{Held, HoldFuture};
use crate::places::{Asked, Places};
use crate::{BoxError, CallError, Context};

pub use crate::places::Place;

/// Bounds the calls under way to one dependency, so that a slow one cannot take everything that others need. More calls
/// wait, as far as [`BulkheadParams`] allow and their deadline reaches, or fail with [`CallError::BulkheadFull`].
///
/// One layer is one bulkhead, shared by all services that it makes. A call holds its place until its answer's body has
/// ended. The services below must be `Clone`.
#[derive(Clone, Debug)]
pub struct BulkheadLayer {
    places: Arc<Places>,
}

impl BulkheadLayer {
    /// A bulkhead with all places free.
    ///
    /// # Errors
    /// [`InvalidParams`] names every parameter that makes no sense.
    pub fn new(params: &BulkheadParams) -> Result<Self, InvalidParams> {
        Ok(Self { places: Places::new(params)? })
    }

    /// The bulkhead itself, to show how full it is.
    #[must_use]
    pub fn bulkhead(&self) -> &Decision {
        self.places.bulkhead()
    }
}

impl<S> Layer<S> for BulkheadLayer {
    type Service = Bulkhead<S>;

    fn layer(&self, inner: S) -> Bulkhead<S> {
        Bulkhead { inner, places: Arc::clone(&self.places) }
    }
}

/// The service of [`BulkheadLayer`].
#[derive(Clone, Debug)]
pub struct Bulkhead<S> {
    inner: S,
    places: Arc<Places>,
}

impl<S, B, R> Service<Request<B>> for Bulkhead<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Send + 'static,
    R: Body + Send + 'static,
{
    type Response = Response<Held<R, Place>>;
    type Error = CallError;
    type Future = HoldFuture<CallFuture<S::Future>, R, Place, CallError>;

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), CallError>> {
        self.inner.poll_ready(cx).map_err(CallError::of)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let context = Context::of(&request);
        match self.places.ask(context.deadline()) {
            Asked::Entered(place) => {
                HoldFuture::called(CallFuture::called(self.inner.call(request), ()), place)
            }
            Asked::Full => {
                context.forbid_retry();
                HoldFuture::refused(Err(CallError::BulkheadFull))
            }
            Asked::Waits(wait) => {
                let clone = self.inner.clone();
                let mut service = mem::replace(&mut self.inner, clone);
                HoldFuture::waiting(async move {
                    let Some(place) = wait.await else {
                        context.forbid_retry();
                        return Err(CallError::BulkheadFull);
                    };
                    // Readiness may have gone while we waited.
                    poll_fn(|cx| service.poll_ready(cx)).await.map_err(CallError::of)?;
                    let answer = service.call(request).await.map_err(CallError::of)?;
                    Ok(answer.map(|body| Held::new(body, place)))
                })
            }
        }
    }
}
