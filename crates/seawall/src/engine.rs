//! The gateway as the application uses it.
//!
//! A byte forwarder that takes endpoints in turn, without any policy: it lets the application run from end to end until the
//! gateway's own engine takes its place behind the same signatures.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use gateway::config::Config;
use tokio::sync::watch;

use crate::status::{Endpoint, Listener, Route, Service, Status};

/// A built gateway.
#[derive(Clone)]
pub struct Gateway(Arc<Inner>);

struct Inner {
    listeners: Vec<TcpListener>,
    config: Mutex<Config>,
    next: AtomicUsize,
    phase: watch::Sender<&'static str>,
}

/// Why a gateway cannot be built.
#[derive(Debug)]
pub struct BuildError(String);

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a reload changed.
#[derive(Debug)]
pub struct ReloadSummary;

impl fmt::Display for ReloadSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("reloaded")
    }
}

#[expect(missing_docs, reason = "the gateway documents them")]
impl Gateway {
    pub fn build(config: Config) -> Result<Self, BuildError> {
        let bind = |listener: &gateway::config::Listener| {
            TcpListener::bind(listener.address).map_err(|problem| {
                BuildError(format!(
                    "cannot listen on {}: {problem}; choose another address",
                    listener.address
                ))
            })
        };
        let listeners = config.listeners.iter().map(bind).collect::<Result<_, _>>()?;
        let (phase, _) = watch::channel("serving");
        Ok(Self(Arc::new(Inner { listeners, config: Mutex::new(config), next: AtomicUsize::new(0), phase })))
    }

    #[must_use]
    pub fn listeners(&self) -> Vec<(String, SocketAddr)> {
        let address = |listener: &TcpListener| listener.local_addr().expect("bound");
        self.0.listeners.iter().map(|listener| (address(listener).to_string(), address(listener))).collect()
    }

    pub async fn run(&self) {
        let mut tasks = tokio::task::JoinSet::new();
        for listener in &self.0.listeners {
            let listener = listener.try_clone().expect("descriptor");
            listener.set_nonblocking(true).expect("socket");
            let listener = tokio::net::TcpListener::from_std(listener).expect("runtime");
            let inner = Arc::clone(&self.0);
            tasks.spawn(async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(forward(client, Arc::clone(&inner)));
                }
            });
        }
        let _ = self.0.phase.subscribe().wait_for(|phase| *phase == "stopped").await;
    }

    pub fn reload(&self, config: Config) -> Result<ReloadSummary, BuildError> {
        *self.0.config.lock().expect("lock") = config;
        Ok(ReloadSummary)
    }

    pub fn drain(&self) {
        self.stop();
    }

    pub fn stop(&self) {
        self.0.phase.send_replace("stopped");
    }

    pub fn reopen_access_log(&self) {}

    #[must_use]
    pub fn phase(&self) -> &'static str {
        *self.0.phase.borrow()
    }

    #[must_use]
    pub fn status(&self) -> Status {
        let config = self.0.config.lock().expect("lock");
        let endpoint =
            |e: &gateway::config::EndpointParams| Endpoint { name: e.address.clone(), ..Endpoint::default() };
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            phase: self.phase().into(),
            listeners: self
                .listeners()
                .into_iter()
                .map(|(name, address)| Listener { name, address: address.to_string(), ..Listener::default() })
                .collect(),
            services: config
                .services
                .iter()
                .map(|(name, s)| Service {
                    name: name.clone(),
                    endpoints: s.endpoints.iter().map(endpoint).collect(),
                    ..Service::default()
                })
                .collect(),
            routes: config
                .routes
                .iter()
                .map(|r| Route {
                    name: r.name.clone().unwrap_or_default(),
                    action: String::new(),
                    requests: BTreeMap::new(),
                })
                .collect(),
            ..Status::default()
        }
    }

    #[must_use]
    pub fn metrics(&self, openmetrics: bool) -> String {
        if openmetrics { "# EOF\n".into() } else { String::new() }
    }
}

async fn forward(client: tokio::net::TcpStream, inner: Arc<Inner>) -> Option<()> {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
    let mut client = tokio::io::BufReader::new(client);
    let mut upstreams = BTreeMap::<String, crate::http::Connection>::new();
    loop {
        let (mut first, mut line) = (String::new(), String::from("x"));
        client.read_line(&mut first).await.ok().filter(|read| *read > 0)?;
        while !line.trim_end().is_empty() {
            line.clear();
            client.read_line(&mut line).await.ok()?;
        }
        let (method, rest) = first.split_once(' ')?;
        let target = rest.split(' ').next()?;
        let endpoints: Vec<String> = {
            let config = inner.config.lock().ok()?;
            let route = config.routes.iter().find(|route| match &route.matches.path {
                Some(path) => target.starts_with(path.as_str()),
                None => true,
            });
            let service = config.services.get(route?.service.as_deref()?)?;
            service.endpoints.iter().map(|endpoint| endpoint.address.clone()).collect()
        };
        let endpoint = &endpoints[inner.next.fetch_add(1, Ordering::Relaxed) % endpoints.len()];
        let exchange = async {
            let mut upstream = match upstreams.remove(endpoint) {
                Some(upstream) => upstream,
                None => crate::http::Connection::open(endpoint.parse().ok()?, endpoint).await.ok()?,
            };
            let answer = upstream.send(method, target, "").await.ok()?;
            upstreams.insert(endpoint.clone(), upstream);
            Some(answer)
        };
        let answer = tokio::time::timeout(std::time::Duration::from_millis(950), exchange).await;
        let (status, body) =
            answer.ok().flatten().map_or((502, Vec::new()), |answer| (answer.status, answer.body));
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
        client.get_mut().write_all(&[head.as_bytes(), &body].concat()).await.ok()?;
    }
}
