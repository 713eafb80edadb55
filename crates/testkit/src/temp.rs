//! Directories that vanish with their owner.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::{env, fs, io, process};

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A directory of its own, removed with all that is in it when dropped.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
}

impl TempDir {
    /// An empty directory whose name contains `label`.
    #[must_use]
    pub fn new(label: &str) -> Self {
        loop {
            let serial = NEXT.fetch_add(1, Relaxed);
            let path = env::temp_dir().join(format!("seawall-{label}-{}-{serial}", process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Self { path },
                // Left behind by a killed process that had our id.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("cannot create `{}`: {error}", path.display()),
            }
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `text` to the file `name` at once: a reader sees the old content or the new, never a part.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let (path, draft) = (self.path.join(name), self.path.join(format!(".{name}.draft")));
        fs::write(&draft, text)
            .and_then(|()| fs::rename(&draft, &path))
            .unwrap_or_else(|error| panic!("cannot write `{}`: {error}", path.display()));
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // A child that still writes may recreate a file; a left-over directory harms nobody.
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vanishes_with_its_content() {
        let dir = TempDir::new("temp");
        let file = dir.write("a.txt", "content");
        assert_eq!(fs::read_to_string(&file).unwrap(), "content");
        let path = dir.path().to_path_buf();
        drop(dir);
        assert!(!path.exists());
    }
}
