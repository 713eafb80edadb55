//! An endpoint and a client that speak HTTP/2 as a library does, which is not always as a test would like to: for that there
//! is `testkit::Frames`.

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// As [`testkit::wait::pace`], for an endpoint that is a task.
pub(crate) async fn pace(span: Duration) {
    let _ = tokio::time::timeout(span, std::future::pending::<()>()).await;
}

pub(crate) type Doing = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An endpoint.
pub(crate) struct Peer {
    addr: SocketAddr,
    connections: Arc<AtomicU64>,
    requests: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What an endpoint allows.
#[derive(Clone, Copy)]
pub(crate) struct Manners {
    pub(crate) streams_max: u32,
    /// Says goodbye on each connection after so many requests.
    pub(crate) requests_max: u64,
}

impl Default for Manners {
    fn default() -> Self {
        Self { streams_max: 100, requests_max: u64::MAX }
    }
}

impl Peer {
    pub(crate) fn start(
        manners: Manners,
        handler: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> Doing + Send + Sync + 'static,
    ) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        socket.set_nonblocking(true).expect("a socket");
        let addr = socket.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel::<()>();
        let (connections, requests) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (counted, asked) = (Arc::clone(&connections), Arc::clone(&requests));
        let handler = Arc::new(handler);
        let serve = async move {
            let socket = tokio::net::TcpListener::from_std(socket).expect("a runtime");
            while let Ok((stream, _)) = socket.accept().await {
                counted.fetch_add(1, Relaxed);
                let (handler, asked) = (Arc::clone(&handler), Arc::clone(&asked));
                tokio::spawn(async move {
                    let mut builder = h2::server::Builder::new();
                    builder.max_concurrent_streams(manners.streams_max);
                    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
                    let mut count = 0;
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        asked.fetch_add(1, Relaxed);
                        count += 1;
                        if count == manners.requests_max {
                            connection.graceful_shutdown();
                        }
                        tokio::spawn(handler(request, respond));
                    }
                });
            }
        };
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    () = serve => {}
                    _ = stopped => {}
                }
            });
        });
        Self { addr, connections, requests, stop: Some(stop), thread: Some(thread) }
    }

    /// One that answers with what it was asked: method, path and body; the request's trailers come back as the answer's.
    pub(crate) fn echo(manners: Manners) -> Self {
        Self::start(manners, |request, respond| {
            Box::pin(async move { echo(request, respond).await.unwrap_or(()) })
        })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn echo(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let (parts, mut recv) = request.into_parts();
    let (body, trailers) = collect(&mut recv).await?;
    let mut response = Response::builder().header("x-path", parts.uri.path());
    for (name, value) in &parts.headers {
        response = response.header(format!("got-{name}"), value);
    }
    let response = response.header("got-authority", parts.uri.authority().map_or("", |a| a.as_str()));
    let mut send = respond.send_response(response.body(()).expect("a head"), false)?;
    send.send_data(Bytes::from(format!("{} ", parts.method)), false)?;
    send.send_data(body, trailers.is_none())?;
    if let Some(trailers) = trailers {
        send.send_trailers(trailers)?;
    }
    Ok(())
}

/// Reads a body to its end.
pub(crate) async fn collect(recv: &mut RecvStream) -> Result<(Bytes, Option<HeaderMap>), h2::Error> {
    let mut body = Vec::new();
    while let Some(data) = recv.data().await {
        let data = data?;
        recv.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    Ok((body.into(), recv.trailers().await?))
}

/// One answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    /// A field of the head, or of the trailers when the head has none of that name.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.headers.get(name).or_else(|| self.trailers.get(name)).and_then(|value| value.to_str().ok())
    }
}

/// A connection to `addr`, driven in the background.
pub(crate) async fn connect(addr: SocketAddr) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(addr).await.expect("a connection");
    let (sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

/// A request for `path` with these fields.
pub(crate) fn request(method: &str, path: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(method).uri(format!("http://a.test{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a head")
}

/// Asks and hears the answer out.
pub(crate) async fn ask(
    sender: &SendRequest<Bytes>,
    request: Request<()>,
    body: Option<Bytes>,
    trailers: Option<HeaderMap>,
) -> Result<Answer, h2::Error> {
    let mut sender = sender.clone().ready().await?;
    let bare = body.is_none() && trailers.is_none();
    let (answer, mut send) = sender.send_request(request, bare)?;
    if let Some(body) = body {
        send.send_data(body, trailers.is_none())?;
    }
    if let Some(trailers) = trailers {
        send.send_trailers(trailers)?;
    }
    let (parts, mut recv) = answer.await?.into_parts();
    let (body, trailers) = collect(&mut recv).await?;
    let (status, headers) = (parts.status.as_u16(), parts.headers);
    Ok(Answer { status, headers, body, trailers: trailers.unwrap_or_default() })
}

/// Runs `work` on a runtime of its own.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        tokio::time::timeout(testkit::wait::PATIENCE, work).await.expect("an end within the tests' patience")
    })
}

/// The reason of a stream's reset.
pub(crate) fn reset(error: &h2::Error) -> Option<Reason> {
    error.reason().filter(|_| error.is_reset())
}
