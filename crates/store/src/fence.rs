//! Fencing tokens: who writes with an old one is refused where the write happens.
//!
//! A lease alone is not mutual exclusion, because its holder can be paused past its end and write afterwards. So each
//! guarded write shows the token of its lease, and the store refuses it in the same transaction when a higher token was seen.

use std::fmt;
use std::str::FromStr;

use crate::error::StoreError;
use crate::store::Tx;

/// A number that rises each time a lease changes hands.
///
/// The store's own tokens ([`Tx::next_token`]) are `incarnation × 2^24 + n`. A restored store has a later incarnation, so that
/// its tokens lie above all that the store it was copied from has given out since, at up to 16 million tokens per second.
/// Tokens of other authorities (revisions of etcd) lie far below, and are compared among themselves only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(i64);

/// Bits of a token below the incarnation.
const COUNT_BITS: u32 = 24;

/// Tokens from here on are the store's own: its incarnations are seconds since 1970, and it was made after 2001.
const OWN_FROM: i64 = 1_000_000_000 << COUNT_BITS;

impl Token {
    /// A token from a number; nothing when it is negative.
    #[must_use]
    pub const fn new(number: i64) -> Option<Self> {
        if number < 0 { None } else { Some(Self(number)) }
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The first token of an incarnation.
    pub(crate) fn first_of(incarnation: u64) -> Self {
        Self(i64::try_from(incarnation << COUNT_BITS).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Token {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().ok().and_then(Self::new).ok_or("expected a fencing token, which is a whole number")
    }
}

impl Tx {
    /// The next token for `resource`: higher than every one before, never used again, also not after a restore.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn next_token(&mut self, resource: &str) -> Result<Token, StoreError> {
        let first = Token::first_of(self.incarnation());
        // The first of an incarnation also when older rows were restored.
        let sql = "INSERT INTO store_tokens (resource, token) VALUES (?, ?) ON CONFLICT (resource) DO UPDATE \
                   SET token = CASE WHEN store_tokens.token >= excluded.token THEN store_tokens.token + 1 \
                   ELSE excluded.token END RETURNING token";
        let rows = self.rows(sql, crate::args![resource, first]).await?;
        rows.first().ok_or(StoreError::Failed)?.get("token")
    }

    /// Goes on only if no higher token than `token` was seen for `resource`, and remembers it. Call it in the transaction whose
    /// writes the lease guards. Equal tokens pass: a holder writes more than once.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the holder was overtaken, or its token is of an incarnation before a restore. The
    /// transaction has failed then and cannot be committed.
    pub async fn fence(&mut self, resource: &str, token: Token) -> Result<(), StoreError> {
        let rows =
            self.rows("SELECT token FROM store_fences WHERE resource = ?", crate::args![resource]).await?;
        let stored: Option<Token> = rows.first().map(|row| row.get("token")).transpose()?;
        let floor = (token.0 >= OWN_FROM).then(|| Token::first_of(self.incarnation()));
        let seen = stored.max(floor);
        match seen {
            Some(seen) if seen > token => {
                self.fail();
                Err(StoreError::Fenced { resource: resource.to_owned(), token, seen })
            }
            _ if stored == Some(token) => Ok(()),
            _ => {
                let sql = "INSERT INTO store_fences (resource, token) VALUES (?, ?) \
                           ON CONFLICT (resource) DO UPDATE SET token = excluded.token";
                self.execute(sql, crate::args![resource, token]).await.map(|_| ())
            }
        }
    }
}
