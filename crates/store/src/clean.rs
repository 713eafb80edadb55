//! What people delete stays for a while; what ages goes.

use model::Timestamp;

use crate::args;
use crate::error::StoreError;
use crate::room::{Deletable, Tier};
use crate::store::{Store, Tx};
use crate::value::Value;

/// Rows removed in one transaction, so that nobody waits long behind it.
const ROWS_PER_TURN: u32 = 500;

/// What [`Store::clean`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Rows that people had deleted long enough ago.
    pub purged: u64,
    /// Rows that had become old.
    pub aged: u64,
    /// Whether there is more to remove than one run may.
    pub more: bool,
}

/// A row that was deleted and can be had back.
#[derive(Clone, Debug, PartialEq)]
pub struct Deleted {
    /// Its `id`.
    pub id: Value,
    /// When it was deleted.
    pub at: Timestamp,
}

impl Tx {
    /// Deletes the row `id`, for now: it can be had back until it is purged. Answers whether it was there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn delete(
        &mut self,
        from: &Deletable,
        id: impl Into<Value>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let sql = format!("UPDATE {} SET deleted_at = ? WHERE id = ? AND deleted_at IS NULL", from.table);
        Ok(self.execute(&sql, &[now.into(), id.into()]).await? > 0)
    }

    /// Brings a deleted row back as it was. Answers whether there was one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn undelete(&mut self, from: &Deletable, id: impl Into<Value>) -> Result<bool, StoreError> {
        let sql =
            format!("UPDATE {} SET deleted_at = NULL WHERE id = ? AND deleted_at IS NOT NULL", from.table);
        Ok(self.execute(&sql, &[id.into()]).await? > 0)
    }
}

impl Store {
    /// The rows that can be had back, last deleted first, `limit` at most.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn deleted(&self, from: &Deletable, limit: u32) -> Result<Vec<Deleted>, StoreError> {
        let sql = format!(
            "SELECT id, deleted_at FROM {} WHERE deleted_at IS NOT NULL ORDER BY deleted_at DESC LIMIT ?",
            from.table
        );
        let found = self.rows(&sql, args![limit]).await?;
        found
            .iter()
            .map(|row| {
                Ok(Deleted {
                    id: row.values().first().cloned().unwrap_or(Value::Null),
                    at: row.get("deleted_at")?,
                })
            })
            .collect()
    }

    /// What is to be removed by age: first, with `true`, what people deleted.
    fn removals(&self) -> Vec<(bool, Tier)> {
        let mut all = Vec::new();
        for entry in self.rooms().iter().flat_map(|room| room.deletable) {
            let keep = entry.undelete_for;
            all.push((true, Tier { table: entry.table, at: "deleted_at", class: None, keep }));
        }
        all.extend(self.rooms().iter().flat_map(|room| room.tiers).map(|tier| (false, *tier)));
        all
    }

    /// Removes for good what was deleted long enough ago and what has become old, `rows_max` rows at most, in small
    /// transactions. Run it again when it answers `more`.
    ///
    /// # Errors
    /// [`StoreError`]; what was removed before stays removed.
    pub async fn clean(&self, now: Timestamp, rows_max: u32) -> Result<Cleaned, StoreError> {
        let mut cleaned = Cleaned::default();
        let mut left = rows_max;
        for (is_purge, tier) in self.removals() {
            loop {
                let bound = left.min(ROWS_PER_TURN);
                if bound == 0 {
                    cleaned.more = true;
                    return Ok(cleaned);
                }
                let removed = self
                    .write(|mut tx| async move {
                        let answer = tx.remove_old(&tier, now, bound).await?;
                        tx.commit(answer).await
                    })
                    .await?;
                *(if is_purge { &mut cleaned.purged } else { &mut cleaned.aged }) += removed;
                left = left.saturating_sub(u32::try_from(removed).unwrap_or(u32::MAX));
                if removed < u64::from(bound) {
                    break;
                }
            }
        }
        Ok(cleaned)
    }
}

impl Tx {
    async fn remove_old(&mut self, tier: &Tier, now: Timestamp, bound: u32) -> Result<u64, StoreError> {
        let keep = u64::try_from(tier.keep.as_nanos()).unwrap_or(u64::MAX);
        let until = Timestamp::from_unix_nanos(now.as_unix_nanos().saturating_sub(keep));
        let Tier { table, at, .. } = tier;
        let class = tier.class.map(|(column, _)| format!("AND {column} = ?")).unwrap_or_default();
        let sql = format!(
            "DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE {at} < ? {class} ORDER BY {at} LIMIT ?)"
        );
        let mut values = vec![Value::from(until)];
        values.extend(tier.class.map(|(_, value)| Value::from(value)));
        values.push(bound.into());
        self.execute(&sql, &values).await
    }
}
