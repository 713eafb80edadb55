//! Prequal's probes: asks endpoints for their load beside the requests, never in a request's way.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;

use policy::balance::{Balance, PrequalParams};
use tokio::io::AsyncWriteExt;

use super::stream::{OpenError, Stream};
use super::worker::Worker;
use crate::codec::{Body, FieldId, FieldStorage, Limits, Method, Parsed, parse_response};
use crate::config::Alpn;
use crate::service::View;
use crate::snapshot::Seen;

/// Sends as many probes as the balancer wants for one request. An endpoint that does not answer in time leaves no report.
pub(crate) fn send(worker: &Rc<Worker>, view: &Rc<Seen>) {
    let Balance::Prequal(PrequalParams { probe_path: Some(path), probe_age_max, .. }) = &view.params.balance
    else {
        return;
    };
    let candidates = view.fleet.candidates();
    let mut rng = worker.rng.borrow_mut();
    for _ in 0..view.balancer.probes(&mut rng) {
        if candidates.is_empty() {
            return;
        }
        let index = candidates[rng.usize(..candidates.len())];
        let target = &view.targets[index as usize];
        let host = target.endpoint.name();
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nseawall-criticality: CRITICAL_PLUS\r\n\r\n");
        let (worker, view, timeout) = (Rc::clone(worker), Rc::clone(view), probe_age_max.get());
        tokio::task::spawn_local(async move {
            // What becomes of a probe is told by the report that it leaves, or by its absence.
            let _ = tokio::time::timeout(timeout, probe(&worker, &view, index, &request)).await;
        });
    }
}

async fn probe(worker: &Worker, view: &View, index: u32, request: &str) -> io::Result<()> {
    let target = &view.targets[index as usize];
    let host = target.endpoint.name();
    let fits = |stream: &Stream| stream.fits(&view.security);
    let mut stream = match worker.pool.take(target.id).filter(fits) {
        Some(stream) => stream,
        None => {
            let opening = Stream::open(target.address, host, &view.security, &[Alpn::Http11]);
            opening.await.map_err(OpenError::into_inner)?
        }
    };
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = worker.buffers.take();
    let limits = Limits { head_bytes: view.params.response_head_max.as_len(), ..Limits::default() };
    loop {
        let read = poll_fn(|cx| {
            let mut scratch = worker.scratch.borrow_mut();
            stream.poll_read(cx, &mut scratch).map_ok(|count| {
                answer.extend(&scratch[..count]);
                count
            })
        });
        if read.await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut storage = FieldStorage::new();
        let head = match parse_response(&answer, &mut storage, &limits, Method::Get) {
            Ok(Parsed::Partial) => continue,
            Ok(Parsed::Complete(head)) => head,
            Err(_) => return Err(io::ErrorKind::InvalidData.into()),
        };
        let now = worker.tell_time();
        let load = head.fields.iter().find(|field| field.id == FieldId::EndpointLoadMetrics);
        if let Some(report) = load.and_then(|load| policy::Report::parse(load.value)) {
            target.endpoint.on_report(now, &report);
            view.balancer.on_probe(index);
        }
        let mut body = Body::new(head.framing, &limits);
        let rest = &answer[head.len..];
        if body.advance(rest).is_ok_and(|advance| advance.consumed == rest.len())
            && body.finished()
            && head.persists()
        {
            let idle_max = worker.shared.idle_upstream_max();
            worker.pool.put(target.id, stream, now, view.params.timeouts.idle.get(), idle_max);
        }
        return Ok(());
    }
}
