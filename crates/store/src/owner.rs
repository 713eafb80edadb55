//! One owner per file, and a witness of what was acknowledged.
//!
//! The file `<store>.owner` is locked for as long as a process owns the store. It says which process that is, and how many
//! groups of transactions were committed. The store itself counts them too, in the same transactions. Found with fewer than
//! its witness has seen, the store has lost something: its log was cut, or an older copy was put in its place.
//!
//! The witness is written after each commit and never synced: after a power cut it may be behind, which raises no alarm.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process;

use rustix::fs::{FlockOperation, flock};

use crate::error::OpenError;

/// The lock, held until dropped.
#[derive(Debug)]
pub(crate) struct Owner {
    file: File,
    store: PathBuf,
}

/// What a store was last known to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Witness {
    pub(crate) incarnation: u64,
    pub(crate) commits: u64,
}

/// A line of fixed length, so that one write replaces it whole.
fn line(witness: Witness) -> String {
    format!(
        "process {:>10} incarnation {:>20} commits {:>20}\n",
        process::id(),
        witness.incarnation,
        witness.commits
    )
}

fn read(text: &str) -> (Option<String>, Option<Witness>) {
    let mut words = text.split_whitespace();
    let mut after = |name: &str| words.next().filter(|word| *word == name).and_then(|_| words.next());
    let process = after("process").map(str::to_owned);
    let incarnation = after("incarnation").and_then(|word| word.parse().ok());
    let commits = after("commits").and_then(|word| word.parse().ok());
    let witness = incarnation.zip(commits).map(|(incarnation, commits)| Witness { incarnation, commits });
    (process, witness)
}

/// Where the owner of `store` is noted.
pub(crate) fn path_for(store: &Path) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(".owner");
    name.into()
}

impl Owner {
    /// Takes the lock; answers what the owner before has witnessed.
    pub(crate) fn take(store: &Path) -> Result<(Self, Option<Witness>), OpenError> {
        let path = path_for(store);
        let failed = |doing| {
            let path = path.clone();
            move |source: io::Error| OpenError::File { doing, path, source }
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed("open"))?;
        let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
        let text = io::read_to_string(&file).map_err(failed("read"))?;
        let (process, witness) = read(&text);
        match locked {
            Ok(()) => Ok((Self { file, store: store.to_path_buf() }, witness)),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse {
                path: store.to_path_buf(),
                owner: process.unwrap_or_else(|| "unknown, which is just starting".to_owned()),
            }),
            Err(source) => Err(failed("lock")(source.into())),
        }
    }

    /// Notes who owns the store and what it has committed.
    pub(crate) fn note(&self, witness: Witness) -> io::Result<()> {
        self.file.write_all_at(line(witness).as_bytes(), 0)
    }

    /// What tells the store's file from every other.
    pub(crate) fn identity(&self) -> io::Result<(u64, u64)> {
        std::fs::metadata(&self.store).map(|found| (found.dev(), found.ino()))
    }

    pub(crate) fn store(&self) -> &Path {
        &self.store
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Closing alone is not enough: a child that another thread has just forked still holds a copy until it runs its program.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testkit::TempDir;

    #[test]
    fn the_second_owner_learns_who_the_first_is() {
        let dir = TempDir::new("owner");
        let store = dir.path().join("a.db");
        let (first, before) = Owner::take(&store).unwrap();
        assert_eq!(before, None);
        let witness = Witness { incarnation: 1_800_000_000, commits: 41 };
        first.note(witness).unwrap();
        let refusal = Owner::take(&store).map(|_| ()).unwrap_err().to_string();
        assert!(refusal.contains(&format!("in use by process {}:", process::id())), "{refusal}");
        drop(first);
        let (_, after) = Owner::take(&store).unwrap();
        assert_eq!(after, Some(witness));
    }

    #[test]
    fn a_damaged_note_witnesses_nothing() {
        for text in ["", "process 12", "process 12 incarnation x commits 4", "garbage"] {
            assert_eq!(read(text).1, None, "{text}");
        }
    }

    #[test]
    fn notes_are_of_one_length() {
        let length = |incarnation, commits| line(Witness { incarnation, commits }).len();
        assert_eq!(length(0, 0), length(u64::MAX, u64::MAX));
    }
}
