//! A name server on loopback that answers what a test tells it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::sync::watch;

/// What the server says to one question.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    /// These records, with this time to live in seconds.
    Records(u32, Vec<RData>),
    /// No records, and this code.
    Code(ResponseCode),
    /// Nothing at all.
    Silence,
}

/// Answers over UDP until it is dropped. A question that it was told nothing about is answered with no records.
#[derive(Clone)]
pub(super) struct DnsServer {
    pub(super) address: SocketAddr,
    replies: Arc<Mutex<HashMap<(String, RecordType), Reply>>>,
    questions: watch::Receiver<u64>,
}

impl DnsServer {
    pub(super) async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let replies = Arc::default();
        let (count, questions) = watch::channel(0);
        tokio::spawn(serve(socket, Arc::clone(&replies), count));
        Self { address, replies, questions }
    }

    pub(super) fn says(&self, name: &str, kind: RecordType, reply: Reply) {
        self.replies.lock().insert((name.to_owned(), kind), reply);
    }

    /// Waits until `count` more questions were asked.
    pub(super) async fn asked(&self, count: u64) {
        let mut questions = self.questions.clone();
        let wanted = *questions.borrow_and_update() + count;
        let asked = questions.wait_for(|asked| *asked >= wanted);
        tokio::time::timeout(Duration::from_secs(30), asked).await.expect("questions within 30 s").unwrap();
    }
}

async fn serve(
    socket: UdpSocket,
    replies: Arc<Mutex<HashMap<(String, RecordType), Reply>>>,
    count: watch::Sender<u64>,
) {
    let mut buffer = [0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let Ok(question) = Message::from_vec(&buffer[..length]) else { continue };
        let query = question.queries[0].clone();
        let key = (query.name().to_string().to_lowercase(), query.query_type());
        let reply = replies.lock().get(&key).cloned().unwrap_or(Reply::Code(ResponseCode::NoError));
        let mut answer = Message::response(question.metadata.id, OpCode::Query);
        answer.metadata.recursion_available = true;
        answer.add_query(query.clone());
        match reply {
            Reply::Records(ttl, records) => {
                let records =
                    records.into_iter().map(|data| Record::from_rdata(query.name().clone(), ttl, data));
                answer.add_answers(records);
            }
            Reply::Code(code) => answer.metadata.response_code = code,
            Reply::Silence => {
                count.send_modify(|count| *count += 1);
                continue;
            }
        }
        let _ = socket.send_to(&answer.to_vec().unwrap(), from).await;
        count.send_modify(|count| *count += 1);
    }
}

/// A or AAAA, as `ip` is.
pub(super) fn ip(ip: &str) -> RData {
    match ip.parse().unwrap() {
        std::net::IpAddr::V4(ip) => RData::A(A(ip)),
        std::net::IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

pub(super) fn srv(priority: u16, weight: u16, port: u16, target: &str) -> RData {
    RData::SRV(SRV::new(priority, weight, port, Name::from_ascii(target).unwrap()))
}
