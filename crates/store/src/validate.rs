//! Out-of-band checks: whether the records still keep the rules, whatever the code that wrote them believed.

use model::Timestamp;

use crate::audit::Chain;
use crate::error::StoreError;
use crate::place::Engine;
use crate::room::Check;
use crate::store::Store;
use crate::value::Value;

/// Breaches that a finding quotes; the others are counted.
const QUOTED_MAX: usize = 20;

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// Whose check.
    pub room: String,
    /// Its name.
    pub check: String,
    /// What must hold.
    pub rule: String,
    /// How often it does not.
    pub breaches: u64,
    /// The first of them, in words.
    pub broken: Vec<String>,
}

/// The store's own rules that a query can tell.
pub(crate) const OWN_CHECKS: &[Check] = &[
    Check {
        name: "fences_follow_tokens",
        rule: "no write was let through with a token of this store that it never gave out",
        // Tokens of other authorities lie below 2^54.
        query: "SELECT f.resource AS broken FROM store_fences f LEFT JOIN store_tokens t ON t.resource = f.resource \
                WHERE f.token >= 16777216000000000 AND (t.token IS NULL OR t.token < f.token)",
    },
    Check {
        name: "migrations_without_gap",
        rule: "every migration has the one before it",
        query: "SELECT m.room AS broken FROM store_migrations m LEFT JOIN store_migrations b \
                ON b.room = m.room AND b.version = m.version - 1 WHERE m.version > 1 AND b.version IS NULL",
    },
];

impl Store {
    /// Runs every check of every room, and the store's own. A rule that cannot be checked counts as broken: its query may name
    /// what damage took away.
    ///
    /// # Errors
    /// When the store is out of reach.
    pub async fn validate(&self, now: Timestamp) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        if self.engine() == Engine::Sqlite {
            let rows = self.rows("PRAGMA integrity_check(20)", &[]).await?;
            let said =
                rows.iter().map(|row| row.get("integrity_check")).collect::<Result<Vec<String>, _>>()?;
            let broken: Vec<String> = said.into_iter().filter(|line| line != "ok").collect();
            let rule = "the file's pages and indexes agree";
            findings.push(finding("store", "integrity", rule, broken.len() as u64, broken));
        }
        let broken = match self.verify_audit().await {
            Ok(Chain::Sound { .. }) => Vec::new(),
            Ok(Chain::Broken { seq, how }) => vec![format!("entry {seq}: {how}")],
            Err(problem) if problem.is_outage() => return Err(problem),
            Err(problem) => vec![problem.to_string()],
        };
        let rule = "the audit log is what was written";
        findings.push(finding("store", "audit_chain", rule, broken.len() as u64, broken));
        for (room, check) in self.checks() {
            findings.push(self.run_check(room, check, now).await?);
        }
        Ok(findings)
    }

    /// The store's own checks, then those of its rooms.
    fn checks(&self) -> Vec<(&'static str, &'static Check)> {
        let mut all: Vec<_> = OWN_CHECKS.iter().map(|check| ("store", check)).collect();
        for room in self.rooms() {
            all.extend(room.checks.iter().map(|check| (room.name, check)));
        }
        all
    }

    async fn run_check(&self, room: &str, check: &Check, now: Timestamp) -> Result<Finding, StoreError> {
        let moment = [Value::from(now)];
        let values = &moment[..usize::from(check.query.contains('?'))];
        let (mut breaches, mut broken) = (0, Vec::new());
        let mut tx = self.snapshot().await?;
        let read = tx.each(check.query, values, |row| {
            breaches += 1;
            if broken.len() < QUOTED_MAX {
                broken.push(row.get("broken")?);
            }
            Ok(())
        });
        match read.await {
            Err(problem) if problem.is_outage() => return Err(problem),
            Err(problem) => {
                breaches += 1;
                broken.push(format!("cannot be checked: {problem}"));
            }
            Ok(()) => {}
        }
        Ok(finding(room, check.name, check.rule, breaches, broken))
    }
}

fn finding(room: &str, check: &str, rule: &str, breaches: u64, broken: Vec<String>) -> Finding {
    Finding { room: room.to_owned(), check: check.to_owned(), rule: rule.to_owned(), breaches, broken }
}
