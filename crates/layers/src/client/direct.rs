//! Directs requests to one endpoint.

use std::task::{Context as Task, Poll};

use http::uri::{Authority, InvalidUri, Scheme, Uri};
use http::{HeaderValue, Request, header};
use tower_layer::Layer;
use tower_service::Service;

use super::discover::Target;

/// Sends every request to one `host:port`, whatever authority its URI names: for clients that connect by the URI, such
/// as hyper-util's and reqwest's, below a [`Balance`](super::Balance). What the URI named stays in the `host` header.
#[derive(Clone, Debug)]
pub struct DirectLayer {
    scheme: Scheme,
    authority: Authority,
}

impl DirectLayer {
    /// To the endpoint whose name is its `host:port`, over plain HTTP.
    ///
    /// # Errors
    /// [`InvalidUri`] when its name is no `host:port`.
    pub fn http(target: &Target) -> Result<Self, InvalidUri> {
        Ok(Self { scheme: Scheme::HTTP, authority: target.name.parse()? })
    }

    /// To the endpoint whose name is its `host:port`, over TLS.
    ///
    /// # Errors
    /// [`InvalidUri`] when its name is no `host:port`.
    pub fn https(target: &Target) -> Result<Self, InvalidUri> {
        Ok(Self { scheme: Scheme::HTTPS, authority: target.name.parse()? })
    }
}

impl<S> Layer<S> for DirectLayer {
    type Service = Direct<S>;

    fn layer(&self, inner: S) -> Direct<S> {
        Direct { inner, to: self.clone() }
    }
}

/// The service of [`DirectLayer`].
#[derive(Clone, Debug)]
pub struct Direct<S> {
    inner: S,
    to: DirectLayer,
}

impl<S, B> Service<Request<B>> for Direct<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        if let Some(named) = parts.authority.take()
            && let Ok(host) = HeaderValue::from_str(named.as_str())
        {
            request.headers_mut().entry(header::HOST).or_insert(host);
        }
        parts.scheme = Some(self.to.scheme.clone());
        parts.authority = Some(self.to.authority.clone());
        if parts.path_and_query.is_none() {
            parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        }
        // Scheme, authority and path are there, so the parts are a URI.
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        self.inner.call(request)
    }
}
