use std::env::{self, VarError};
use std::fs::File;
use std::io::Read;

/// Where `${NAME}` and `${file:/path}` get their values.
pub trait Lookup {
    /// The value of the variable called `name`.
    fn variable(&self, name: &str) -> Answer;

    /// The content of the file at `path`.
    fn file(&self, path: &str) -> Answer;
}

/// What a [`Lookup`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The value.
    Found(String),
    /// There is none; a default applies.
    Absent,
    /// There is one, but it cannot be had, for this reason. The reason must not contain the value.
    Failed(String),
    /// It is not looked up. Whatever the value would be is then taken for right.
    Withheld,
}

/// The environment of this process, and its files.
#[derive(Clone, Copy, Debug)]
pub struct Environment {
    files: bool,
}

/// Bytes of the largest file that a value is read from.
const FILE_BYTES_MAX: u64 = 1 << 20;

impl Environment {
    /// Variables from the environment and secrets from files of at most 1 MiB, without the white space around them.
    #[must_use]
    pub fn new() -> Self {
        Self { files: true }
    }

    /// Variables from the environment; files are withheld, so that a check needs no secrets.
    #[must_use]
    pub fn without_files() -> Self {
        Self { files: false }
    }
}

impl Default for Environment {
    fn default() -> Self {
        Self::new()
    }
}

impl Lookup for Environment {
    fn variable(&self, name: &str) -> Answer {
        match env::var(name) {
            Ok(value) => Answer::Found(value),
            Err(VarError::NotPresent) => Answer::Absent,
            Err(VarError::NotUnicode(_)) => Answer::Failed("it is not UTF-8".to_owned()),
        }
    }

    fn file(&self, path: &str) -> Answer {
        if !self.files {
            return Answer::Withheld;
        }
        let mut bytes = Vec::new();
        if let Err(error) =
            File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        {
            return Answer::Failed(error.to_string());
        }
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Answer::Failed(format!("it is larger than {} MiB", FILE_BYTES_MAX >> 20));
        }
        match String::from_utf8(bytes) {
            Ok(text) => Answer::Found(text.trim().to_owned()),
            Err(_) => Answer::Failed("it is not UTF-8".to_owned()),
        }
    }
}
