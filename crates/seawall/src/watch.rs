//! Notices that a file changed, by looking: works on every file system and through the symbolic links that Kubernetes swaps.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often it looks.
const INTERVAL: Duration = Duration::from_millis(500);

/// Follows one file.
///
/// A change is reported once the file has looked the same for one interval, so that a file that is still being written is
/// not read half-way. A file that is gone for a moment (an editor that renames) is no change.
#[derive(Debug)]
pub(crate) struct Watch {
    path: PathBuf,
    seen: Seen,
}

/// What is known of the file.
#[derive(Debug)]
struct Seen {
    look: Option<Look>,
    content: u64,
    unsettled: bool,
}

/// What a file looks like without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Look {
    fn at(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
        })
    }
}

/// The hash that [`Loaded::hash`](crate::config::Loaded::hash) has of the same text.
fn hash(content: &[u8]) -> u64 {
    policy::hash(content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content))
}

impl Seen {
    /// Takes one look; answers whether a changed content has settled.
    fn look(&mut self, path: &Path) -> bool {
        let Some(look) = Look::at(path) else {
            return false;
        };
        if self.look != Some(look) {
            self.look = Some(look);
            self.unsettled = true;
            return false;
        }
        if !self.unsettled {
            return false;
        }
        self.unsettled = false;
        let Ok(content) = fs::read(path).map(|bytes| hash(&bytes)) else {
            return false;
        };
        std::mem::replace(&mut self.content, content) != content
    }
}

impl Watch {
    /// Follows `path` from the content that was loaded, of which `content` is the hash: what changed since then is noticed.
    pub(crate) fn new(path: PathBuf, content: u64) -> Self {
        let seen = Seen { look: None, content, unsettled: true };
        Self { path, seen }
    }

    /// Waits until the content has changed and settled. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            if self.seen.look(&self.path) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("seawall-watch-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// A watch of a file that was just loaded.
    fn loaded(file: &Path) -> Watch {
        Watch::new(file.to_owned(), hash(&fs::read(file).unwrap()))
    }

    fn looks(watch: &mut Watch) -> [bool; 3] {
        std::array::from_fn(|_| watch.seen.look(&watch.path))
    }

    #[test]
    fn a_changed_file_is_reported_once_after_it_settled() {
        let directory = Directory::new("settle");
        let file = directory.0.join("seawall.yaml");
        fs::write(&file, "a").unwrap();
        let mut watch = loaded(&file);
        assert_eq!(looks(&mut watch), [false, false, false]);
        fs::write(&file, "ab").unwrap();
        assert!(!watch.seen.look(&file), "still unsettled");
        fs::write(&file, "abc").unwrap();
        assert_eq!(looks(&mut watch), [false, true, false]);
    }

    #[test]
    fn a_change_between_loading_and_watching_is_noticed() {
        let directory = Directory::new("early");
        let file = directory.0.join("seawall.yaml");
        fs::write(&file, "a").unwrap();
        let mut watch = loaded(&file);
        fs::write(&file, "b").unwrap();
        assert_eq!(looks(&mut watch), [false, true, false]);
    }

    #[test]
    fn a_byte_order_mark_is_no_change() {
        let directory = Directory::new("mark");
        let file = directory.0.join("seawall.yaml");
        fs::write(&file, "\u{feff}workers: 1\n").unwrap();
        let mut watch = Watch::new(file, policy::hash(b"workers: 1\n"));
        assert_eq!(looks(&mut watch), [false, false, false]);
    }

    #[test]
    fn a_swapped_symbolic_link_is_a_change_and_a_touched_file_is_none() {
        let directory = Directory::new("swap");
        let (one, two, data) = (directory.0.join("..1"), directory.0.join("..2"), directory.0.join("..data"));
        for (version, text) in [(&one, "same"), (&two, "other")] {
            fs::create_dir_all(version).unwrap();
            fs::write(version.join("seawall.yaml"), text).unwrap();
        }
        std::os::unix::fs::symlink(&one, &data).unwrap();
        let file = data.join("seawall.yaml");
        let mut watch = loaded(&file);
        fs::write(&file, "same").unwrap();
        assert_eq!(looks(&mut watch), [false, false, false], "touched only");
        let swap = directory.0.join("..tmp");
        std::os::unix::fs::symlink(&two, &swap).unwrap();
        fs::rename(&swap, &data).unwrap();
        assert_eq!(looks(&mut watch), [false, true, false]);
    }

    #[test]
    fn a_vanished_file_is_no_change_until_it_is_back() {
        let directory = Directory::new("vanish");
        let file = directory.0.join("seawall.yaml");
        fs::write(&file, "a").unwrap();
        let mut watch = loaded(&file);
        fs::remove_file(&file).unwrap();
        assert_eq!(looks(&mut watch), [false, false, false]);
        fs::write(&file, "b").unwrap();
        assert_eq!(looks(&mut watch), [false, true, false]);
    }
}
