//! The audit log: every deliberate change, chained by hashes, so that none can be altered or removed unnoticed.
//!
//! Each entry's hash covers the one before. An entry that was changed breaks its own hash, a removed or inserted one that of
//! the next; the newest ones cannot vanish, because the store counts them apart. Whoever can write to the database *and*
//! recompute all hashes can still forge it: keep back-ups, whose manifests name the head, where such a person cannot write.

use model::{Change, Timestamp};
use sha2::{Digest, Sha256};

use crate::args;
use crate::error::StoreError;
use crate::migrate::Link;
use crate::statement::rows;
use crate::store::{Store, Tx};
use crate::value::Row;

/// An entry of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place, from 1, without gaps.
    pub seq: u64,
    /// What was changed.
    pub change: Change,
    /// Hash over the entry and the hash before it.
    pub hash: [u8; 32],
}

/// What a look at the whole log found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chain {
    /// Every entry is as it was written, and none is missing.
    Sound {
        /// How many there are.
        entries: u64,
        /// The hash of the newest; zeros when there is none. Note it elsewhere, and later logs can be held against it.
        head: [u8; 32],
    },
    /// It is not what was written.
    Broken {
        /// The first entry that is not as expected.
        seq: u64,
        /// In what way.
        how: String,
    },
}

/// Fields have their length before them, so that no two entries read alike.
fn hash(before: &[u8; 32], seq: u64, change: &Change) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update(seq.to_be_bytes());
    hash.update(change.at.as_unix_nanos().to_be_bytes());
    for text in [&change.who, &change.what, &change.undo] {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    }
    hash.finalize().into()
}

impl Entry {
    fn read(row: &Row) -> Result<Self, StoreError> {
        let (at, who, what, undo): (Timestamp, _, _, _) =
            (row.get("at")?, row.get("who")?, row.get("what")?, row.get("undo")?);
        let change = Change { at, who, what, undo };
        let hash: Vec<u8> = row.get("hash")?;
        let hash = hash.try_into().map_err(|_| StoreError::Column {
            name: "hash".to_owned(),
            wanted: "32 bytes",
            found: "another length",
        })?;
        Ok(Self { seq: row.get("seq")?, change, hash })
    }
}

const COLUMNS: &str = "seq, at, who, what, undo, hash";
const NEWEST: &str = "SELECT seq, hash FROM store_audit ORDER BY seq DESC LIMIT 1";
const APPEND: &str = "INSERT INTO store_audit (seq, at, who, what, undo, hash) VALUES (?, ?, ?, ?, ?, ?)";
const COUNT: &str = "INSERT INTO store_meta (key, value) VALUES ('audited', ?) \
                     ON CONFLICT (key) DO UPDATE SET value = excluded.value";

/// The place of the next entry and the hash that it follows.
fn next_after(newest: Option<&Row>) -> Result<(u64, [u8; 32]), StoreError> {
    let Some(row) = newest else { return Ok((1, [0; 32])) };
    let hash: Vec<u8> = row.get("hash")?;
    Ok((row.get::<u64>("seq")? + 1, hash.try_into().unwrap_or([0; 32])))
}

/// The statements that append `change`.
fn appending(newest: Option<&Row>, change: &Change) -> Result<(u64, Vec<crate::Value>), StoreError> {
    let (seq, before) = next_after(newest)?;
    // To what the column holds: a microscopic loss past the year 2262 must not break the chain.
    let at = change.at.as_unix_nanos().min(i64::MAX as u64);
    let change = Change { at: Timestamp::from_unix_nanos(at), ..change.clone() };
    let hash = hash(&before, seq, &change);
    let place = i64::try_from(seq).unwrap_or(i64::MAX);
    let values = args![place, change.at, change.who, change.what, change.undo, &hash[..]];
    Ok((seq, values.to_vec()))
}

impl Tx {
    /// Appends a change to the audit log, in the transaction that makes it; answers its place.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn record(&mut self, change: &Change) -> Result<u64, StoreError> {
        let newest = self.row(NEWEST, &[]).await?;
        let (seq, values) = appending(newest.as_ref(), change)?;
        self.execute(APPEND, &values).await?;
        self.execute(COUNT, &values[..1]).await?;
        Ok(seq)
    }
}

/// As [`Tx::record`], on a bare connection within a transaction.
pub(crate) async fn record_on(on: &mut Link<'_>, change: &Change) -> Result<(), StoreError> {
    let newest = rows(on.again(), NEWEST, &[]).await?;
    let (_, values) = appending(newest.first(), change)?;
    crate::statement::execute(on.again(), APPEND, &values).await?;
    crate::statement::execute(on.again(), COUNT, &values[..1]).await?;
    Ok(())
}

impl Store {
    /// The newest entries with a place below `below` (`None`: the newest of all), newest first, `limit` at most.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn changes(&self, below: Option<u64>, limit: u32) -> Result<Vec<Entry>, StoreError> {
        let below = below.and_then(|seq| i64::try_from(seq).ok()).unwrap_or(i64::MAX);
        let sql = format!("SELECT {COLUMNS} FROM store_audit WHERE seq < ? ORDER BY seq DESC LIMIT ?");
        self.rows(&sql, args![below, limit]).await?.iter().map(Entry::read).collect()
    }

    /// Reads the whole audit log and recomputes its chain.
    ///
    /// # Errors
    /// When it cannot be read; a broken chain is an answer.
    pub async fn verify_audit(&self) -> Result<Chain, StoreError> {
        let mut tx = self.snapshot().await?;
        let counted = tx.row("SELECT value FROM store_meta WHERE key = 'audited'", &[]).await?;
        let counted: u64 = counted.map(|row| row.get("value")).transpose()?.unwrap_or(0);
        let (mut entries, mut head, mut broken) = (0, [0; 32], None);
        let sql = format!("SELECT {COLUMNS} FROM store_audit ORDER BY seq");
        let read = tx.each(&sql, &[], |row| {
            if broken.is_some() {
                return Ok(());
            }
            let expected = entries + 1;
            let how = match Entry::read(&row) {
                Ok(entry) if entry.seq != expected => Some(format!("entry {expected} is missing")),
                Ok(entry) if entry.hash != hash(&head, entry.seq, &entry.change) => {
                    Some("its hash does not follow from its content and the entry before".to_owned())
                }
                Ok(entry) => {
                    (entries, head) = (entry.seq, entry.hash);
                    None
                }
                Err(problem) => Some(problem.to_string()),
            };
            broken = how.map(|how| Chain::Broken { seq: expected, how });
            Ok(())
        });
        read.await?;
        Ok(match broken {
            Some(broken) => broken,
            None if entries != counted => Chain::Broken {
                seq: entries.min(counted) + 1,
                how: format!("{entries} entries are there, {counted} were written"),
            },
            None => Chain::Sound { entries, head },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(who: &str, what: &str) -> Change {
        let text = |text: &str| text.to_owned();
        Change { at: Timestamp::from_unix_nanos(7), who: text(who), what: text(what), undo: text("") }
    }

    #[test]
    fn no_two_entries_hash_alike() {
        let zero = [0; 32];
        let base = hash(&zero, 1, &change("ab", "c"));
        assert_ne!(base, hash(&zero, 1, &change("a", "bc")));
        assert_ne!(base, hash(&zero, 2, &change("ab", "c")));
        assert_ne!(base, hash(&[1; 32], 1, &change("ab", "c")));
    }
}
