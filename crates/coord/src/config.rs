//! How coordination is configured: one line.

use std::fmt;

use model::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Leases, elections, the registry and ids: which engine keeps them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CoordParams {
    /// `sqlite`: in the records of this process, for one machine.
    pub engine: EngineKind,
    /// The members of an etcd cluster, such as `http://10.0.0.1:2379`; they take the place of `engine`.
    pub etcd: Vec<String>,
    /// What all keys in etcd begin with, so that several fleets can share a cluster.
    pub prefix: String,
    /// Longest wait for an engine's answer. After it the outcome is not known, and nothing counts as held.
    pub timeout: Span,
}

/// An engine inside the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EngineKind {
    /// On the process's own records.
    #[default]
    Sqlite,
}

impl Default for CoordParams {
    fn default() -> Self {
        Self {
            engine: EngineKind::Sqlite,
            etcd: Vec::new(),
            prefix: "seawall/".to_owned(),
            timeout: Span::from_secs(3),
        }
    }
}

impl CoordParams {
    /// What is senseless, field by field.
    #[must_use]
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        for member in &self.etcd {
            if let Err(problem) = member.parse::<Member>() {
                wrong.push(("etcd", problem));
            }
        }
        if self.prefix.is_empty() || self.prefix.len() > 128 || self.prefix.chars().any(char::is_control) {
            wrong.push(("prefix", "must have 1 to 128 bytes and no control characters".into()));
        }
        if self.timeout.is_zero() {
            wrong.push(("timeout", "must be longer than 0: no engine answers at once".into()));
        }
        wrong
    }
}

/// Where a member of an etcd cluster answers its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl std::str::FromStr for Member {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not the address of an etcd member, such as http://10.0.0.1:2379");
        if text.starts_with("https://") {
            return Err(format!(
                "`{text}`: etcd over TLS is not supported; use http:// on a private network"
            ));
        }
        let rest = text.strip_prefix("http://").ok_or_else(wrong)?;
        let (host, port) = rest.trim_end_matches('/').rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        if host.is_empty() || host.contains(['/', '@', ' ']) {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}
