//! Bounds the requests under way in this process.

use std::future::poll_fn;
use std::mem;
use std::sync::Arc;
use std::task::{Context as Task, Poll};

use http::{Request, Response};
use http_body::Body;
use policy::bulkhead::{Bulkhead as Decision, BulkheadParams};
use tower_layer::Layer;
use tower_service::Service;

use super::refusal::Reason;
use crate::Context;
use crate::error::InvalidParams;
use crate::hold::{Held, HoldFuture};
use crate::places::{Asked, Places};

pub use crate::places::Place;

/// Bounds the requests under way, of a whole server or of the routes that it is laid over, by a number set by hand. More
/// requests wait, as far as [`BulkheadParams`] allow and their deadline reaches, or are refused: 503 with
/// `seawall-reason: bulkhead_full`. [`AdmissionLayer`](super::AdmissionLayer) finds its bound by itself and knows
/// classes.
///
/// One layer is one bulkhead, shared by all services that it makes. A request holds its place until its answer's body has
/// been sent. The services below must be `Clone`.
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
    S::Future: Send,
    B: Send + 'static,
    R: Body + Default + Send + 'static,
{
    type Response = Response<Held<R, Place>>;
    type Error = S::Error;
    type Future = HoldFuture<S::Future, R, Place, S::Error>;

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let refusal = || Ok(Reason::BulkheadFull.answer());
        match self.places.ask(Context::of(&request).deadline()) {
            Asked::Entered(place) => HoldFuture::called(self.inner.call(request), place),
            Asked::Full => HoldFuture::refused(refusal()),
            Asked::Waits(wait) => {
                let clone = self.inner.clone();
                let mut service = mem::replace(&mut self.inner, clone);
                HoldFuture::waiting(async move {
                    let Some(place) = wait.await else { return refusal() };
                    // Readiness may have gone while we waited.
                    poll_fn(|cx| service.poll_ready(cx)).await?;
                    let answer = service.call(request).await?;
                    Ok(answer.map(|body| Held::new(body, place)))
                })
            }
        }
    }
}
