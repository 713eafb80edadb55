//! The embedded engine's decisions: sessions, leases and keys as a plain value. Time is passed in, nothing is written here.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use model::{Instant, Span, Timestamp};

use crate::command::{
    Claim, Command, Entry, Event, Guard, LEASES, Position, Refusal, Reply, SessionId, Token,
};

/// Most keys and held leases.
pub const KEYS_MAX: usize = 200_000;
/// Most sessions.
pub const SESSIONS_MAX: usize = 100_000;
/// Most names of leases that ever were: the newest token of each is kept for good.
pub const NAMES_MAX: usize = 1_000_000;
/// Tokens stay below 2⁵³, whatever the wall clock says.
const TOKEN_FLOOR_MAX: u64 = 1 << 52;

/// Sessions, leases and keys at one moment.
///
/// One holder per lease: a lease is given only when its entry is absent, and the entry goes only by release, by an operator,
/// or with its session, whose end is at least its whole time to live after the last renewal was *heard*, which is after it was
/// *sent*. A holder that counts from the sending (see [`crate::belief`]) therefore stops believing first.
///
/// A table that is loaded again gives every session its whole time to live from then on: late, never early.
#[derive(Debug, Default)]
pub struct Table {
    position: Position,
    rows: BTreeMap<String, Row>,
    tokens: BTreeMap<String, Token>,
    sessions: BTreeMap<SessionId, Session>,
    expiries: BTreeSet<(Instant, SessionId)>,
}

/// A key as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What everybody may read.
    pub entry: Entry,
    /// Of a lease: the attempt that took it.
    pub claim: Option<Claim>,
}

#[derive(Debug)]
struct Session {
    ttl: Duration,
    expires: Instant,
    keys: BTreeSet<String>,
}

/// One thing to write down so that a loaded table is the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// A key as it is now.
    Row(Row),
    /// A key is gone.
    NoRow(String),
    /// A session began.
    Session(SessionId, Duration),
    /// A session ended.
    NoSession(SessionId),
    /// The newest token of a lease.
    Token(String, Token),
}

/// What came of some commands: to be written down first, then told to watchers.
#[derive(Debug, Default)]
pub struct Effects {
    /// In order.
    pub deltas: Vec<Delta>,
    /// In order of their revisions.
    pub events: Vec<Event>,
}

/// Everything of a table that is written down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// The newest change.
    pub position: Position,
    /// Every key.
    pub rows: Vec<Row>,
    /// The newest token of every lease that ever was.
    pub tokens: Vec<(String, Token)>,
    /// Every session with its time to live.
    pub sessions: Vec<(SessionId, Duration)>,
}

/// The token of the next term: above the last, and not below the microseconds since 1970, so that a table that was restored
/// from an old back-up does not give a token a second time.
#[must_use]
pub fn next_token(last: Option<Token>, wall: Timestamp) -> Token {
    let floor = (wall.as_unix_nanos() / 1000).clamp(1, TOKEN_FLOOR_MAX);
    Token(last.map_or(floor, |last| floor.max(last.0 + 1)))
}

impl Table {
    /// A table as it was written down, at `now`.
    #[must_use]
    pub fn load(saved: Saved, now: Instant) -> Self {
        let mut table = Self { position: saved.position, ..Self::default() };
        for (id, ttl) in saved.sessions {
            table.begin(id, ttl, now);
        }
        for row in saved.rows {
            if let Some(session) = row.entry.session.and_then(|id| table.sessions.get_mut(&id)) {
                session.keys.insert(row.entry.key.clone());
            }
            table.rows.insert(row.entry.key.clone(), row);
        }
        table.tokens = saved.tokens.into_iter().collect();
        table
    }

    /// The newest change.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// How many sessions, and how many keys and held leases, there are.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.sessions.len(), self.rows.len())
    }

    /// When the next session ends unless it is renewed.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        self.expiries.first().map(|(at, _)| *at)
    }

    /// Ends the sessions whose time is over.
    pub fn expire(&mut self, now: Instant, effects: &mut Effects) {
        while let Some((at, id)) = self.expiries.first().copied() {
            if at > now {
                return;
            }
            self.end(id, effects);
        }
    }

    /// Does one command. `now` counts suspension and never goes back; `wall` is the floor under new tokens.
    ///
    /// # Errors
    /// [`Refusal`]; then nothing has changed beside sessions whose time was over.
    pub fn apply(
        &mut self,
        now: Instant,
        wall: Timestamp,
        command: &Command,
        effects: &mut Effects,
    ) -> Result<Reply, Refusal> {
        command.check()?;
        self.expire(now, effects);
        match command {
            Command::OpenSession { session, ttl } => self.open(*session, ttl.get(), now, effects),
            Command::Renew { session } => self.renew(*session, now),
            Command::CloseSession { session } => {
                self.end(*session, effects);
                Ok(self.done())
            }
            Command::Acquire { name, session, claim, value } => {
                self.acquire(name, *session, *claim, value, wall, effects)
            }
            Command::Release { name, claim } => self.release(name, *claim, effects),
            Command::Break { name, token } => self.break_off(name, *token, wall, effects),
            Command::Put { key, value, session, guard } => {
                self.check_guard(guard.as_ref())?;
                self.put(key, value, *session, effects)
            }
            Command::Delete { key, guard } => {
                self.check_guard(guard.as_ref())?;
                self.remove(key, effects);
                Ok(self.done())
            }
            Command::List { prefix } => Ok(self.list(prefix)),
        }
    }

    fn done(&self) -> Reply {
        Reply::Done { position: self.position }
    }

    fn begin(&mut self, id: SessionId, ttl: Duration, now: Instant) {
        let expires = now.after(ttl);
        self.expiries.insert((expires, id));
        self.sessions.insert(id, Session { ttl, expires, keys: BTreeSet::new() });
    }

    fn open(
        &mut self,
        id: SessionId,
        ttl: Duration,
        now: Instant,
        effects: &mut Effects,
    ) -> Result<Reply, Refusal> {
        if let Some(there) = self.sessions.get(&id) {
            if there.ttl != ttl {
                let problem = format!("session {} exists with another time to live", id.0);
                return Err(Refusal::Invalid { problem });
            }
            return self.renew(id, now);
        }
        if self.sessions.len() >= SESSIONS_MAX {
            return Err(full("sessions", SESSIONS_MAX));
        }
        self.begin(id, ttl, now);
        effects.deltas.push(Delta::Session(id, ttl));
        Ok(Reply::Session { ttl: Span::from(ttl) })
    }

    fn renew(&mut self, id: SessionId, now: Instant) -> Result<Reply, Refusal> {
        let session = self.sessions.get_mut(&id).ok_or(Refusal::NoSession { session: id })?;
        self.expiries.remove(&(session.expires, id));
        session.expires = session.expires.max(now.after(session.ttl));
        self.expiries.insert((session.expires, id));
        Ok(Reply::Session { ttl: Span::from(session.ttl) })
    }

    fn end(&mut self, id: SessionId, effects: &mut Effects) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.expiries.remove(&(session.expires, id));
        for key in &session.keys {
            self.remove(key, effects);
        }
        effects.deltas.push(Delta::NoSession(id));
    }

    fn acquire(
        &mut self,
        name: &str,
        session: SessionId,
        claim: Claim,
        value: &str,
        wall: Timestamp,
        effects: &mut Effects,
    ) -> Result<Reply, Refusal> {
        if !self.sessions.contains_key(&session) {
            return Err(Refusal::NoSession { session });
        }
        let key = format!("{LEASES}{name}");
        if let Some(row) = self.rows.get(&key) {
            let token = row.entry.token.unwrap_or(Token(0));
            if row.claim == Some(claim) && row.entry.session == Some(session) {
                return Ok(Reply::Acquired { token });
            }
            return Ok(Reply::Busy { token, value: row.entry.value.clone() });
        }
        if !self.tokens.contains_key(name) && self.tokens.len() >= NAMES_MAX {
            return Err(full("names of leases", NAMES_MAX));
        }
        if self.rows.len() >= KEYS_MAX {
            return Err(full("keys and leases", KEYS_MAX));
        }
        let token = self.advance_token(name, wall, effects);
        self.write(key, value, Some(session), Some((token, claim)), effects);
        Ok(Reply::Acquired { token })
    }

    fn advance_token(&mut self, name: &str, wall: Timestamp, effects: &mut Effects) -> Token {
        let token = next_token(self.tokens.get(name).copied(), wall);
        self.tokens.insert(name.to_owned(), token);
        effects.deltas.push(Delta::Token(name.to_owned(), token));
        token
    }

    fn release(&mut self, name: &str, claim: Claim, effects: &mut Effects) -> Result<Reply, Refusal> {
        let key = format!("{LEASES}{name}");
        match self.rows.get(&key) {
            Some(row) if row.claim == Some(claim) => {
                self.remove(&key, effects);
                Ok(self.done())
            }
            _ => Err(Refusal::NotHeld { name: name.to_owned() }),
        }
    }

    /// The newest token moves past the holder's at once, so that its guarded writes are refused although no new term began.
    fn break_off(
        &mut self,
        name: &str,
        token: Token,
        wall: Timestamp,
        effects: &mut Effects,
    ) -> Result<Reply, Refusal> {
        let key = format!("{LEASES}{name}");
        match self.rows.get(&key) {
            Some(row) if row.entry.token == Some(token) => {
                self.advance_token(name, wall, effects);
                self.remove(&key, effects);
                Ok(self.done())
            }
            _ => Err(Refusal::NotHeld { name: name.to_owned() }),
        }
    }

    fn put(
        &mut self,
        key: &str,
        value: &str,
        session: Option<SessionId>,
        effects: &mut Effects,
    ) -> Result<Reply, Refusal> {
        if let Some(session) = session.filter(|session| !self.sessions.contains_key(session)) {
            return Err(Refusal::NoSession { session });
        }
        if !self.rows.contains_key(key) && self.rows.len() >= KEYS_MAX {
            return Err(full("keys and leases", KEYS_MAX));
        }
        self.write(key.to_owned(), value, session, None, effects);
        Ok(self.done())
    }

    fn check_guard(&self, guard: Option<&Guard>) -> Result<(), Refusal> {
        let Some(Guard { name, token }) = guard else { return Ok(()) };
        let newest = self.tokens.get(name).copied();
        if newest == Some(*token) {
            return Ok(());
        }
        Err(Refusal::Superseded { name: name.clone(), token: *token, newest })
    }

    fn list(&self, prefix: &str) -> Reply {
        let from = self.rows.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        let entries = from.take_while(|(key, _)| key.starts_with(prefix));
        Reply::Listing {
            position: self.position,
            entries: entries.map(|(_, row)| row.entry.clone()).collect(),
        }
    }

    fn write(
        &mut self,
        key: String,
        value: &str,
        session: Option<SessionId>,
        term: Option<(Token, Claim)>,
        effects: &mut Effects,
    ) {
        self.unhang(&key);
        self.position.revision += 1;
        let revision = self.position.revision;
        if let Some(session) = session.and_then(|id| self.sessions.get_mut(&id)) {
            session.keys.insert(key.clone());
        }
        let token = term.map(|(token, _)| token);
        let entry = Entry { key: key.clone(), value: value.to_owned(), session, token, revision };
        let row = Row { entry, claim: term.map(|(_, claim)| claim) };
        effects.events.push(Event::Put { entry: row.entry.clone() });
        effects.deltas.push(Delta::Row(row.clone()));
        self.rows.insert(key, row);
    }

    fn remove(&mut self, key: &str, effects: &mut Effects) {
        self.unhang(key);
        if self.rows.remove(key).is_some() {
            self.position.revision += 1;
            effects.events.push(Event::Deleted { key: key.to_owned(), revision: self.position.revision });
            effects.deltas.push(Delta::NoRow(key.to_owned()));
        }
    }

    /// Takes a key off the session that it ends with.
    fn unhang(&mut self, key: &str) {
        let session = self.rows.get(key).and_then(|row| row.entry.session);
        if let Some(session) = session.and_then(|id| self.sessions.get_mut(&id)) {
            session.keys.remove(key);
        }
    }
}

fn full(what: &str, most: usize) -> Refusal {
    Refusal::Full { what: what.to_owned(), most: most as u64 }
}
