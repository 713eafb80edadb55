//! What may be asked of an engine, what it answers, and what it tells its watchers.
//!
//! One enum for everything, because the same command travels to the embedded table, over HTTP and to etcd.

use std::fmt;
use std::time::Duration;

use model::Span;
use serde::{Deserialize, Serialize};

/// Longest key or lease name, in bytes.
pub const KEY_MAX: usize = 512;
/// Longest value, in bytes.
pub const VALUE_MAX: usize = 64 << 10;
/// Shortest time to live of a session: below it ordinary pauses of a process or a disk would end sessions.
pub const TTL_MIN: Duration = Duration::from_secs(1);
/// Longest time to live of a session: what a dead holder keeps is out of reach for that long.
pub const TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// Where leases stand among the keys: the entry of the lease `NAME` is `lease/NAME`.
pub const LEASES: &str = "lease/";

/// A session's number, chosen at random by whoever opens it, so that asking again after a lost answer is harmless and a
/// process that returns under its old name is a new session (TRAPS 32). Below 2⁵³, so that every JSON reader keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub u64);

/// One attempt to hold a lease, chosen at random: asking again for the same claim is harmless, another claim of the same
/// session is another holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Claim(pub u64);

/// Names one term of one lease. Tokens of a name strictly rise and are never used again, also when the engine was restored
/// from a back-up: a token is at least one above the last and at least the microseconds since 1970 when it was given.
///
/// Whoever guards something with a lease sends the token along with every write, and what is written to refuses tokens
/// below the highest it has seen, in the same transaction. Below 2⁵³.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Token(pub u64);

/// Counts the changes an engine has made; every change of any key gets the next number.
///
/// `history` tells one life of an engine's data from another (a restored back-up, another cluster): positions of different
/// histories cannot be compared, and a watcher that comes with a foreign one is told to start over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Which history.
    pub history: u64,
    /// The number of the change in it.
    pub revision: u64,
}

/// The condition under which a guarded write takes place: `token` is the newest that was given for the lease `name`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guard {
    /// The lease.
    pub name: String,
    /// The writer's token.
    pub token: Token,
}

/// What may be asked. Every command may be asked again after a lost answer, with the same outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case", tag = "do")]
pub enum Command {
    /// Begins a session that ends `ttl` after its last renewal.
    OpenSession {
        /// A number that nobody has used.
        session: SessionId,
        /// Between [`TTL_MIN`] and [`TTL_MAX`].
        ttl: Span,
    },
    /// Lets a session live for its whole time to live again.
    Renew {
        /// Which one.
        session: SessionId,
    },
    /// Ends a session; what hangs on it goes with it.
    CloseSession {
        /// Which one.
        session: SessionId,
    },
    /// Takes the lease `name` if nobody holds it.
    Acquire {
        /// The lease.
        name: String,
        /// Whose it will be: it ends with this session.
        session: SessionId,
        /// Which attempt.
        claim: Claim,
        /// What others read about the holder.
        value: String,
    },
    /// Gives a lease back.
    Release {
        /// The lease.
        name: String,
        /// The attempt that took it.
        claim: Claim,
    },
    /// Ends whoever holds a lease: an operator's means. The next holder gets a higher token, so guarded writes of the old one
    /// are refused from then on.
    Break {
        /// The lease.
        name: String,
        /// The holder's token, so that not another one is hit who came in between.
        token: Token,
    },
    /// Writes a key.
    Put {
        /// Not below `lease/`.
        key: String,
        /// What it says.
        value: String,
        /// The session it ends with; none: it stays until deleted.
        session: Option<SessionId>,
        /// The lease under which it is written.
        guard: Option<Guard>,
    },
    /// Deletes a key.
    Delete {
        /// Not below `lease/`.
        key: String,
        /// The lease under which it is deleted.
        guard: Option<Guard>,
    },
    /// Reads every key with a prefix, at one position.
    List {
        /// What the keys begin with.
        prefix: String,
    },
}

/// What an engine answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Reply {
    /// The session lives, for `ttl` from the moment that the engine heard of it.
    Session {
        /// How long.
        ttl: Span,
    },
    /// The lease is held by the claim that asked.
    Acquired {
        /// The term's fencing token.
        token: Token,
    },
    /// Somebody else holds it.
    Busy {
        /// The holder's token.
        token: Token,
        /// What the holder wrote.
        value: String,
    },
    /// It is as asked for.
    Done {
        /// Where the change stands, or where the engine stood when there was nothing to change.
        position: Position,
    },
    /// What there is.
    Listing {
        /// As of when. A watch from here misses nothing.
        position: Position,
        /// By key.
        entries: Vec<Entry>,
    },
}

/// A key and what it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// The session it ends with.
    pub session: Option<SessionId>,
    /// The term's token when it is a lease.
    pub token: Option<Token>,
    /// The number of the change that wrote it.
    pub revision: u64,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// A key was written.
    Put {
        /// As it is now.
        entry: Entry,
    },
    /// A key is gone: deleted, released, or its session ended.
    Deleted {
        /// Which one.
        key: String,
        /// The number of the change.
        revision: u64,
    },
}

impl Event {
    /// The key it is about.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put { entry } => &entry.key,
            Self::Deleted { key, .. } => key,
        }
    }

    /// The number of the change.
    #[must_use]
    pub fn revision(&self) -> u64 {
        match self {
            Self::Put { entry } => entry.revision,
            Self::Deleted { revision, .. } => *revision,
        }
    }
}

/// Why an engine did not do what it was asked. It changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case", tag = "refused")]
pub enum Refusal {
    /// The session has ended or never was.
    #[error("session {} has ended: nothing is held by it any more", session.0)]
    NoSession {
        /// Which one.
        session: SessionId,
    },
    /// Nobody holds the lease in that term.
    #[error("lease `{name}` is not held by this claim or token")]
    NotHeld {
        /// The lease.
        name: String,
    },
    /// A guarded write came with a token that is not the newest.
    #[error("token {} of lease `{name}` is not the newest{}", token.0, newest_text(newest))]
    Superseded {
        /// The lease.
        name: String,
        /// The writer's token.
        token: Token,
        /// The newest that was given; none: no term ever began.
        newest: Option<Token>,
    },
    /// The command makes no sense.
    #[error("{problem}")]
    Invalid {
        /// Why.
        problem: String,
    },
    /// Too much is held already.
    #[error("the engine keeps at most {most} {what}")]
    Full {
        /// Of what.
        what: String,
        /// How many.
        most: u64,
    },
}

fn newest_text(newest: &Option<Token>) -> String {
    newest.map_or_else(|| ": no term of it ever began".to_owned(), |newest| format!(": that is {}", newest.0))
}

impl SessionId {
    /// A number that nobody has used.
    #[must_use]
    pub fn random() -> Self {
        Self(random())
    }
}

impl Claim {
    /// A number that nobody has used.
    #[must_use]
    pub fn random() -> Self {
        Self(random())
    }
}

fn random() -> u64 {
    fastrand::u64(1..1 << 53)
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Command {
    /// What is senseless about it, whatever the engine.
    ///
    /// # Errors
    /// [`Refusal::Invalid`].
    pub fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::OpenSession { session, ttl } => {
                check_number("session", session.0)?;
                check_ttl(ttl.get())
            }
            Self::Renew { .. } | Self::CloseSession { .. } => Ok(()),
            Self::Acquire { name, claim, value, session } => {
                check_number("session", session.0)?;
                check_number("claim", claim.0)?;
                check_key("lease name", name)?;
                check_value(value)
            }
            Self::Release { name, .. } | Self::Break { name, .. } => check_key("lease name", name),
            Self::Put { key, value, guard, .. } => {
                check_plain(key)?;
                check_value(value)?;
                check_guard(guard.as_ref())
            }
            Self::Delete { key, guard } => {
                check_plain(key)?;
                check_guard(guard.as_ref())
            }
            Self::List { prefix } if prefix.len() > KEY_MAX => {
                Err(invalid(format!("a prefix has at most {KEY_MAX} bytes")))
            }
            Self::List { .. } => Ok(()),
        }
    }
}

fn invalid(problem: impl Into<String>) -> Refusal {
    Refusal::Invalid { problem: problem.into() }
}

fn check_number(what: &str, number: u64) -> Result<(), Refusal> {
    if (1..1 << 53).contains(&number) {
        return Ok(());
    }
    Err(invalid(format!("a {what} is a number from 1 to 2^53 - 1, not {number}")))
}

/// Whether a session may live that long.
///
/// # Errors
/// [`Refusal::Invalid`].
pub(crate) fn check_ttl(ttl: Duration) -> Result<(), Refusal> {
    if (TTL_MIN..=TTL_MAX).contains(&ttl) {
        return Ok(());
    }
    Err(invalid(format!(
        "a time to live is between {} and {}, not {}",
        Span::from(TTL_MIN),
        Span::from(TTL_MAX),
        Span::from(ttl)
    )))
}

fn check_plain(key: &str) -> Result<(), Refusal> {
    if key.starts_with(LEASES) {
        return Err(invalid(format!("key `{key}` is a lease: acquire and release it")));
    }
    check_key("key", key)
}

fn check_guard(guard: Option<&Guard>) -> Result<(), Refusal> {
    guard.map_or(Ok(()), |guard| check_key("lease name", &guard.name))
}

/// Whether `text` may be a key or the name of a lease: 1 to [`KEY_MAX`] bytes, no control characters, no white space at its
/// ends.
fn check_key(what: &str, text: &str) -> Result<(), Refusal> {
    let problem = if text.is_empty() {
        "must not be empty".to_owned()
    } else if text.len() > KEY_MAX - LEASES.len() {
        format!("has at most {} bytes, not {}", KEY_MAX - LEASES.len(), text.len())
    } else if text.chars().any(char::is_control) || text.trim() != text {
        "must not contain control characters nor begin or end with a space".to_owned()
    } else {
        return Ok(());
    };
    Err(invalid(format!("the {what} {problem}")))
}

fn check_value(value: &str) -> Result<(), Refusal> {
    if value.len() <= VALUE_MAX {
        return Ok(());
    }
    Err(invalid(format!("a value has at most {VALUE_MAX} bytes, not {}", value.len())))
}
