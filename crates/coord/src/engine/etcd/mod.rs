//! The engine on an etcd cluster (its API version 3).
//!
//! A session is an etcd lease; a key `K` is `PREFIXk/K`, so the lease `NAME` is `PREFIXk/lease/NAME`; the newest fencing token of
//! a lease is `PREFIXt/NAME`, written in the transaction that takes the lease. Everything that depends on something is one
//! transaction that compares it.
//!
//! Where this differs from etcd's own `concurrency` package, on purpose: the token is a counter and not the key's creation
//! revision, because revisions start over when a cluster is restored from a snapshot; a lease is handed out only after a look
//! at whether its session is still alive; and one that waits tries anew when the holder's key goes, instead of standing in
//! a queue whose members can die.

mod cluster;
mod rpc;
mod wire;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::Span;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use self::cluster::{Asked, Cluster, code};
use self::rpc::{Answers, Asking, CallError};
use self::wire::{
    Compare, DeleteRequest, GrantRequest, Header, KeyValue, LeaseRequest, LeaseResponse, Nothing, Operand,
    PutRequest, RangeRequest, RangeResponse, Request, RequestOp, RevokeResponse, Target, TxnRequest,
    TxnResponse, WatchAsk, WatchCreate, WatchRequest, WatchResponse,
};
use super::{Answer, Changes, Engine, Failure};
use crate::clock;
use crate::command::{
    Claim, Command, Entry, Event, Guard, LEASES, Position, Refusal, Reply, SessionId, Token,
};
use crate::config::{CoordParams, Member};
use crate::table::next_token;

/// Times that an acquisition is tried again because the token moved meanwhile.
const RACES_MAX: u32 = 50;
/// What is remembered of counters and held leases, to save a question. Forgetting is harmless.
const REMEMBERED_MAX: usize = 10_000;
/// How often a running watch asks whether its member is still there.
const PROGRESS: Duration = Duration::from_secs(1);
/// How long a member may be silent before a watch moves on.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// Batches that a watcher may be behind before etcd has to hold them.
const WATCHER_MAX: usize = 64;

/// Keeps sessions, leases and keys in etcd.
#[derive(Debug)]
pub struct Etcd {
    cluster: Cluster,
    prefix: String,
    /// What a transaction can compare with, by lease name: the counter as last seen.
    counters: Mutex<HashMap<String, Counter>>,
    /// Where the key of a held lease stands.
    held: Mutex<HashMap<Claim, i64>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    mod_revision: i64,
    token: Option<Token>,
}

/// What a key says in etcd.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    value: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<Token>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    claim: Option<Claim>,
}

impl Etcd {
    /// On the cluster that `params` name. Connects when first asked.
    ///
    /// # Errors
    /// What is wrong with a member's address.
    pub fn new(params: &CoordParams) -> Result<Self, String> {
        let members = params.etcd.iter().map(|member| member.parse()).collect::<Result<Vec<Member>, _>>()?;
        Ok(Self {
            cluster: Cluster::new(members, params.timeout.get()),
            prefix: params.prefix.clone(),
            counters: Mutex::default(),
            held: Mutex::default(),
        })
    }

    /// Makes and deletes a key in two transactions, with none of a lease's care: what a bare client does, for benchmarks to
    /// compare with. Each compares one key and writes one; nothing is remembered.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn bare_pair(&self, name: &str) -> Result<(), Failure> {
        let key = self.key(&format!("bare/{name}"));
        let write = PutRequest { key: key.clone(), value: b"bare".to_vec(), lease: 0 };
        for (version, then) in [(0, put(write)), (1, delete(key.clone()))] {
            let compare = vec![compare(&key, Target::Version, Operand::Version(version))];
            let request = TxnRequest { compare, success: vec![then], failure: Vec::new() };
            self.txn(&request).await?.answer.map_err(refusal)?;
        }
        Ok(())
    }

    fn key(&self, key: &str) -> Vec<u8> {
        format!("{}k/{key}", self.prefix).into_bytes()
    }

    fn counter_key(&self, name: &str) -> Vec<u8> {
        format!("{}t/{name}", self.prefix).into_bytes()
    }

    async fn obey(&self, command: Command) -> Result<Reply, Failure> {
        command.check()?;
        match command {
            Command::OpenSession { session, ttl } => self.open(session, ttl.get()).await,
            Command::Renew { session } => self.renew(session).await,
            Command::CloseSession { session } => {
                let request = LeaseRequest { id: lease_id(session) };
                let asked = self.cluster.ask("/etcdserverpb.Lease/LeaseRevoke", &request).await?;
                match asked.answer {
                    Ok(RevokeResponse { header }) => Ok(Reply::Done { position: position(header.as_ref()) }),
                    Err(CallError::Status(code::NOT_FOUND, _)) => {
                        Ok(Reply::Done { position: Position::default() })
                    }
                    Err(error) => Err(refusal(error)),
                }
            }
            Command::Acquire { name, session, claim, value } => {
                self.acquire(&name, session, claim, value).await
            }
            Command::Release { name, claim } => self.release(&name, claim).await,
            Command::Break { name, token } => self.break_off(&name, token).await,
            Command::Put { key, value, session, guard } => {
                let put = PutRequest {
                    key: self.key(&key),
                    value: stored(&Stored { value, token: None, claim: None }),
                    lease: session.map_or(0, lease_id),
                };
                self.guarded(Request::Put(put), guard, session).await
            }
            Command::Delete { key, guard } => {
                let delete = DeleteRequest { key: self.key(&key) };
                self.guarded(Request::Delete(delete), guard, None).await
            }
            Command::List { prefix } => {
                let range = self.range_of(&prefix, 0);
                let answer: RangeResponse =
                    self.cluster.ask("/etcdserverpb.KV/Range", &range).await?.answer.map_err(refusal)?;
                let entries = answer.kvs.iter().filter_map(|kv| self.entry(kv)).collect();
                Ok(Reply::Listing { position: position(answer.header.as_ref()), entries })
            }
        }
    }

    fn range_of(&self, prefix: &str, limit: i64) -> RangeRequest {
        let key = self.key(prefix);
        RangeRequest { range_end: end_of(&key), key, limit }
    }

    async fn open(&self, session: SessionId, ttl: Duration) -> Result<Reply, Failure> {
        let secs = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let request = GrantRequest { ttl: i64::try_from(secs).unwrap_or(i64::MAX), id: lease_id(session) };
        let asked: Asked<Result<LeaseResponse, _>> =
            self.cluster.ask("/etcdserverpb.Lease/LeaseGrant", &request).await?;
        match asked.answer {
            Ok(_) => Ok(Reply::Session { ttl: Span::from(ttl) }),
            // Our own, whose answer was lost.
            Err(CallError::Status(code::FAILED_PRECONDITION, _)) => self.renew(session).await,
            Err(error) => Err(refusal(error)),
        }
    }

    async fn renew(&self, session: SessionId) -> Result<Reply, Failure> {
        let request = LeaseRequest { id: lease_id(session) };
        let asked: Asked<Result<LeaseResponse, _>> =
            self.cluster.ask("/etcdserverpb.Lease/LeaseKeepAlive", &request).await?;
        match asked.answer {
            Ok(LeaseResponse { ttl, .. }) if ttl > 0 => {
                Ok(Reply::Session { ttl: Span::from_secs(ttl.unsigned_abs()) })
            }
            Ok(_) => Err(Refusal::NoSession { session }.into()),
            Err(error) => Err(refused_for(error, session)),
        }
    }

    async fn txn(&self, request: &TxnRequest) -> Result<Asked<Result<TxnResponse, CallError>>, Failure> {
        self.cluster.ask("/etcdserverpb.KV/Txn", request).await
    }

    /// Reads keys of one name at one moment.
    async fn read(&self, keys: [Vec<u8>; 2]) -> Result<[Option<KeyValue>; 2], Failure> {
        let request = TxnRequest { success: keys.map(range).to_vec(), ..TxnRequest::default() };
        let answer = self.txn(&request).await?.answer.map_err(refusal)?;
        Ok(read_pair(answer))
    }

    async fn acquire(
        &self,
        name: &str,
        session: SessionId,
        claim: Claim,
        value: String,
    ) -> Result<Reply, Failure> {
        let (key, counter_key) = (self.key(&format!("{LEASES}{name}")), self.counter_key(name));
        let mut counter = self.counters().get(name).copied();
        let mut stored_lease = Stored { value, token: None, claim: Some(claim) };
        for _ in 0..RACES_MAX {
            let counter_seen = match counter {
                Some(counter) => counter,
                None => {
                    let [lease, found] = self.read([key.clone(), counter_key.clone()]).await?;
                    if let Some(reply) = self.held_by(lease.as_ref(), session, claim) {
                        return Ok(reply);
                    }
                    counter_of(found.as_ref())
                }
            };
            let token = next_token(counter_seen.token, clock::wall());
            stored_lease.token = Some(token);
            let lease = lease_id(session);
            let request = TxnRequest {
                compare: vec![
                    compare(&key, Target::Create, Operand::Create(0)),
                    compare(&counter_key, Target::Mod, Operand::Mod(counter_seen.mod_revision)),
                ],
                success: vec![
                    put(PutRequest { key: key.clone(), value: stored(&stored_lease), lease }),
                    put(PutRequest {
                        key: counter_key.clone(),
                        value: token.to_string().into_bytes(),
                        lease: 0,
                    }),
                ],
                failure: vec![range(key.clone()), range(counter_key.clone())],
            };
            let answer = match self.txn(&request).await?.answer {
                Ok(answer) => answer,
                Err(error) => return Err(refused_for(error, session)),
            };
            if answer.succeeded {
                let mod_revision = answer.header.as_ref().map_or(0, |header| header.revision);
                remember(&mut self.counters(), name.to_owned(), Counter { mod_revision, token: Some(token) });
                remember(&mut self.held(), claim, mod_revision);
                return Ok(Reply::Acquired { token });
            }
            let [lease, found] = read_pair(answer);
            let found = counter_of(found.as_ref());
            remember(&mut self.counters(), name.to_owned(), found);
            if let Some(reply) = self.held_by(lease.as_ref(), session, claim) {
                return Ok(reply);
            }
            counter = Some(found);
        }
        Err(Failure::Unreachable { problem: format!("too many others try for lease `{name}`") })
    }

    /// What to answer when somebody holds the lease: perhaps it is the one who asks, whose first answer was lost.
    fn held_by(&self, lease: Option<&KeyValue>, session: SessionId, claim: Claim) -> Option<Reply> {
        let kv = lease?;
        let found = read_stored(kv);
        let token = found.token.unwrap_or(Token(0));
        if found.claim == Some(claim) && kv.lease == lease_id(session) {
            remember(&mut self.held(), claim, kv.mod_revision);
            return Some(Reply::Acquired { token });
        }
        Some(Reply::Busy { token, value: found.value })
    }

    async fn release(&self, name: &str, claim: Claim) -> Result<Reply, Failure> {
        let key = self.key(&format!("{LEASES}{name}"));
        let remembered = self.held().remove(&claim);
        let not_held = || Failure::from(Refusal::NotHeld { name: name.to_owned() });
        let mod_revision = match remembered {
            Some(mod_revision) => mod_revision,
            None => {
                let [lease, _] = self.read([key.clone(), self.counter_key(name)]).await?;
                lease
                    .filter(|kv| read_stored(kv).claim == Some(claim))
                    .map(|kv| kv.mod_revision)
                    .ok_or_else(not_held)?
            }
        };
        let request = TxnRequest {
            compare: vec![compare(&key, Target::Mod, Operand::Mod(mod_revision))],
            success: vec![delete(key)],
            failure: Vec::new(),
        };
        let asked = match self.txn(&request).await {
            Ok(asked) => asked,
            Err(failure) => {
                // To be asked again.
                remember(&mut self.held(), claim, mod_revision);
                return Err(failure);
            }
        };
        let answer = asked.answer.map_err(refusal)?;
        if answer.succeeded || asked.repeated {
            return Ok(Reply::Done { position: position(answer.header.as_ref()) });
        }
        Err(not_held())
    }

    async fn break_off(&self, name: &str, token: Token) -> Result<Reply, Failure> {
        let (key, counter_key) = (self.key(&format!("{LEASES}{name}")), self.counter_key(name));
        let [lease, counter] = self.read([key.clone(), counter_key.clone()]).await?;
        let not_held = || Failure::from(Refusal::NotHeld { name: name.to_owned() });
        let lease = lease.filter(|kv| read_stored(kv).token == Some(token)).ok_or_else(not_held)?;
        let counter = counter_of(counter.as_ref());
        let next = next_token(counter.token, clock::wall());
        let request = TxnRequest {
            compare: vec![
                compare(&key, Target::Mod, Operand::Mod(lease.mod_revision)),
                compare(&counter_key, Target::Mod, Operand::Mod(counter.mod_revision)),
            ],
            success: vec![
                delete(key),
                put(PutRequest { key: counter_key, value: next.to_string().into_bytes(), lease: 0 }),
            ],
            failure: Vec::new(),
        };
        let asked = self.txn(&request).await?;
        let answer = asked.answer.map_err(refusal)?;
        if answer.succeeded || asked.repeated {
            return Ok(Reply::Done { position: position(answer.header.as_ref()) });
        }
        Err(not_held())
    }

    /// Writes if the guard's token is the newest, in one transaction.
    async fn guarded(
        &self,
        write: Request,
        guard: Option<Guard>,
        session: Option<SessionId>,
    ) -> Result<Reply, Failure> {
        let mut request =
            TxnRequest { success: vec![RequestOp { request: Some(write) }], ..TxnRequest::default() };
        if let Some(guard) = &guard {
            let counter_key = self.counter_key(&guard.name);
            let token = guard.token.to_string().into_bytes();
            request.compare = vec![compare(&counter_key, Target::Value, Operand::Value(token))];
            request.failure = vec![range(counter_key)];
        }
        let answer = self.txn(&request).await?.answer.map_err(|error| match session {
            Some(session) => refused_for(error, session),
            None => refusal(error),
        })?;
        match guard {
            Some(Guard { name, token }) if !answer.succeeded => {
                let [found, _] = read_pair(answer);
                Err(Refusal::Superseded { name, token, newest: counter_of(found.as_ref()).token }.into())
            }
            _ => Ok(Reply::Done { position: position(answer.header.as_ref()) }),
        }
    }

    fn entry(&self, kv: &KeyValue) -> Option<Entry> {
        let key = self.plain_key(kv)?;
        let Stored { value, token, .. } = read_stored(kv);
        let session = u64::try_from(kv.lease).ok().filter(|id| *id > 0).map(SessionId);
        Some(Entry { key, value, session, token, revision: kv.mod_revision.unsigned_abs() })
    }

    fn plain_key(&self, kv: &KeyValue) -> Option<String> {
        let text = std::str::from_utf8(&kv.key).ok()?;
        text.strip_prefix(&self.prefix)?.strip_prefix("k/").map(str::to_owned)
    }

    async fn follow(&self, prefix: &str, from: Position) -> Result<Changes, Failure> {
        // A member that lags is no reason to start over: what counts is the cluster's own word.
        let asked = self.cluster.ask("/etcdserverpb.KV/Range", &self.range_of(prefix, 1)).await?;
        let answer: RangeResponse = asked.answer.map_err(refusal)?;
        let here = position(answer.header.as_ref());
        if here.history != from.history || here.revision < from.revision {
            return Err(Failure::Behind { from });
        }
        let key = self.key(prefix);
        let create = WatchCreate {
            range_end: end_of(&key),
            key,
            start_revision: i64::try_from(from.revision + 1).unwrap_or(i64::MAX),
        };
        let request = WatchRequest { ask: Some(WatchAsk::Create(create)) };
        let (generation, connection) = self.cluster.connection().await.map_err(refusal)?;
        let patience = self.cluster.patience();
        let begin = async {
            let (asking, mut answers): (_, Answers<WatchResponse>) =
                connection.stream("/etcdserverpb.Watch/Watch", &request).await?;
            let first = answers.next().await?;
            Ok((asking, answers, first))
        };
        let late = || Err(CallError::Broken("no watch in time".to_owned()));
        let (asking, answers, first) =
            match tokio::time::timeout(patience, begin).await.unwrap_or_else(|_| late()) {
                Ok(begun) => begun,
                Err(error) => {
                    self.cluster.give_up(generation);
                    return Err(refusal(error));
                }
            };
        let created = first.unwrap_or_default();
        refuse_canceled(&created, from)?;
        let (sender, receiver) = mpsc::channel(WATCHER_MAX);
        let prefix = self.prefix.clone();
        tokio::spawn(forward(asking, answers, sender, from, prefix));
        Ok(Changes { receiver })
    }

    fn counters(&self) -> MutexGuard<'_, HashMap<String, Counter>> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Claim, i64>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for Etcd {
    fn name(&self) -> String {
        let members: Vec<String> = self.cluster.members().iter().map(ToString::to_string).collect();
        format!("etcd at {}", members.join(", "))
    }

    fn call(&self, command: Command) -> Answer<'_, Reply> {
        Box::pin(self.obey(command))
    }

    fn changes(&self, prefix: String, from: Position) -> Answer<'_, Changes> {
        Box::pin(async move { self.follow(&prefix, from).await })
    }
}

/// Passes on what a watch tells until either side has enough, and makes sure that the member is still there: a stopped one
/// says nothing for ever.
async fn forward(
    mut asking: Asking,
    mut answers: Answers<WatchResponse>,
    sender: mpsc::Sender<Result<Vec<Event>, Failure>>,
    from: Position,
    prefix: String,
) {
    let mut silent = Duration::ZERO;
    let failure = loop {
        let next = tokio::select! {
            () = sender.closed() => return,
            next = tokio::time::timeout(PROGRESS, answers.next()) => next,
        };
        let response = match next {
            Err(_) if silent >= SILENCE_MAX => {
                break Failure::Unreachable { problem: "the member has fallen silent".to_owned() };
            }
            Err(_) => {
                silent += PROGRESS;
                let ask = WatchRequest { ask: Some(WatchAsk::Progress(Nothing {})) };
                if let Err(problem) = asking.send(&ask) {
                    break Failure::Unreachable { problem: problem.to_string() };
                }
                continue;
            }
            Ok(Ok(Some(response))) => response,
            Ok(Ok(None)) => break Failure::Unreachable { problem: "the member ended the watch".to_owned() },
            Ok(Err(error)) => break refusal(error),
        };
        silent = Duration::ZERO;
        if let Err(failure) = refuse_canceled(&response, from) {
            break failure;
        }
        let events: Vec<Event> =
            response.events.into_iter().filter_map(|event| read_event(event, &prefix)).collect();
        if !events.is_empty() && sender.send(Ok(events)).await.is_err() {
            return;
        }
    };
    // Whoever watched may have gone.
    let _ = sender.send(Err(failure)).await;
}

fn refuse_canceled(response: &WatchResponse, from: Position) -> Result<(), Failure> {
    if response.compact_revision > 0 {
        return Err(Failure::Behind { from });
    }
    if response.canceled {
        return Err(Failure::Unreachable { problem: response.cancel_reason.clone() });
    }
    Ok(())
}

fn read_event(event: wire::WatchEvent, prefix: &str) -> Option<Event> {
    let kv = event.kv?;
    let key = std::str::from_utf8(&kv.key).ok()?.strip_prefix(prefix)?.strip_prefix("k/")?.to_owned();
    let revision = kv.mod_revision.unsigned_abs();
    if event.kind == 1 {
        return Some(Event::Deleted { key, revision });
    }
    let Stored { value, token, .. } = read_stored(&kv);
    let session = u64::try_from(kv.lease).ok().filter(|id| *id > 0).map(SessionId);
    Some(Event::Put { entry: Entry { key, value, session, token, revision } })
}

/// Sessions are numbered below 2⁵³.
fn lease_id(session: SessionId) -> i64 {
    i64::try_from(session.0).unwrap_or(i64::MAX)
}

/// The first key after all that begin with `prefix`. Prefixes end in text, never in 255.
fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}

/// Clusters are told apart by what a reader of JSON keeps of their number.
fn position(header: Option<&Header>) -> Position {
    header.map_or_else(Position::default, |header| Position {
        history: header.cluster_id & ((1 << 53) - 1),
        revision: header.revision.unsigned_abs(),
    })
}

fn stored(value: &Stored) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain text and numbers")
}

/// What a key says; one that somebody else wrote there is its text.
fn read_stored(kv: &KeyValue) -> Stored {
    serde_json::from_slice(&kv.value).unwrap_or_else(|_| Stored {
        value: String::from_utf8_lossy(&kv.value).into_owned(),
        token: None,
        claim: None,
    })
}

fn counter_of(kv: Option<&KeyValue>) -> Counter {
    let Some(kv) = kv else { return Counter::default() };
    let token = std::str::from_utf8(&kv.value).ok().and_then(|text| text.parse().ok()).map(Token);
    Counter { mod_revision: kv.mod_revision, token }
}

fn read_pair(answer: TxnResponse) -> [Option<KeyValue>; 2] {
    let mut read =
        answer.responses.into_iter().map(|op| op.range.and_then(|range| range.kvs.into_iter().next()));
    [read.next().flatten(), read.next().flatten()]
}

fn compare(key: &[u8], target: Target, operand: Operand) -> Compare {
    Compare { target: target.into(), key: key.to_vec(), operand: Some(operand) }
}

fn range(key: Vec<u8>) -> RequestOp {
    let range = RangeRequest { key, ..RangeRequest::default() };
    RequestOp { request: Some(Request::Range(range)) }
}

fn put(put: PutRequest) -> RequestOp {
    RequestOp { request: Some(Request::Put(put)) }
}

fn delete(key: Vec<u8>) -> RequestOp {
    RequestOp { request: Some(Request::Delete(DeleteRequest { key })) }
}

fn remember<K: Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>, key: K, value: V) {
    if map.len() >= REMEMBERED_MAX && !map.contains_key(&key) {
        map.clear();
    }
    map.insert(key, value);
}

fn refused_for(error: CallError, session: SessionId) -> Failure {
    match error {
        CallError::Status(code::NOT_FOUND, _) => Refusal::NoSession { session }.into(),
        other => refusal(other),
    }
}

fn refusal(error: CallError) -> Failure {
    match error {
        CallError::NotSent(problem) | CallError::Status(code::RESOURCE_EXHAUSTED, problem) => {
            Failure::Unreachable { problem }
        }
        CallError::Status(code::UNAVAILABLE | code::DEADLINE_EXCEEDED, problem) => {
            Failure::NoQuorum { problem }
        }
        CallError::Status(code::OUT_OF_RANGE, problem)
        | CallError::Broken(problem)
        | CallError::Status(_, problem) => Failure::Unanswered { problem },
    }
}
