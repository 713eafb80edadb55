use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::time::{self, Instant};

use super::names::{self, Names};
use super::publisher::Publisher;
use crate::config::{EndpointParams, FileSd};

/// A larger file is refused: it is something else.
const SIZE_MAX: u64 = 16 * 1024 * 1024;
/// A changed file is looked at again this soon.
const SETTLE: Duration = Duration::from_millis(250);
/// Labels that give the weight of a group's targets, the first one found; absent means 1.
const WEIGHT_LABELS: [&str; 2] = ["__weight__", "weight"];

/// A Prometheus `file_sd` file.
///
/// Its content is compared at every look, so that a change within the clock's granularity is not missed. A new content
/// counts when two looks in a row found it: half a YAML list is a valid, shorter list, and writers that do not rename
/// are common.
#[derive(Debug)]
pub(super) struct FileSource {
    path: PathBuf,
    refresh: Duration,
    pub(super) names: Names,
    /// The content that `names` come from.
    taken: Option<Vec<u8>>,
    /// The content at the last look.
    seen: Option<Vec<u8>>,
}

/// What a look at a readable file found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// What is in use already.
    Same,
    /// Something new, that has to be seen again before it counts.
    Changing,
    /// Something new, now in use.
    Taken,
}

impl FileSource {
    pub(super) fn new(params: &FileSd) -> Self {
        Self {
            path: params.path.clone(),
            refresh: params.refresh.get().max(Duration::from_millis(1)),
            names: Names::new(&[]),
            taken: None,
            seen: None,
        }
    }

    /// Reads the file once, so that a service can start with all that is written there.
    pub(super) fn first_look(&mut self, publisher: &Publisher) {
        match read(&self.path).and_then(|content| self.take(content)) {
            Ok(()) => publisher.begin(self.names.set()),
            Err(reason) => publisher.failed(reason),
        }
    }

    fn take(&mut self, content: Vec<u8>) -> Result<(), String> {
        self.names.replace(parse(&self.path, &content)?);
        self.taken = Some(content);
        Ok(())
    }

    pub(super) fn look(&mut self, content: Vec<u8>) -> Result<Look, String> {
        let settled = self.seen.as_ref() == Some(&content);
        if self.taken.as_ref() == Some(&content) {
            self.seen = Some(content);
            Ok(Look::Same)
        } else if settled {
            self.take(content).map(|()| Look::Taken)
        } else {
            self.seen = Some(content);
            Ok(Look::Changing)
        }
    }

    pub(super) async fn run(mut self, publisher: &Publisher) {
        let mut names_due = Instant::now();
        let mut names_trouble = None;
        let mut failing = false;
        loop {
            let path = self.path.clone();
            let content = match tokio::task::spawn_blocking(move || read(&path)).await {
                Ok(content) => content,
                Err(panicked) => Err(panicked.to_string()),
            };
            let look = content.and_then(|content| self.look(content));
            let mut news = failing || look.is_err();
            if look == Ok(Look::Taken) || Instant::now() >= names_due {
                names_trouble = self.names.refresh().await;
                names_due = Instant::now() + names::REFRESH;
                news = true;
            }
            let wait = if look == Ok(Look::Changing) { self.refresh.min(SETTLE) } else { self.refresh };
            failing = look.is_err();
            if news && look != Ok(Look::Changing) {
                publisher.report(self.names.set(), look.err().or_else(|| names_trouble.clone()));
            }
            time::sleep(wait).await;
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut content = Vec::new();
    let open = File::open(path).map_err(|error| format!("cannot open it: {error}"))?;
    open.take(SIZE_MAX + 1).read_to_end(&mut content).map_err(|error| format!("cannot read it: {error}"))?;
    if content.len() as u64 > SIZE_MAX {
        return Err(format!("it is larger than {} MiB", SIZE_MAX >> 20));
    }
    Ok(content)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    targets: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, Value>,
}

/// The targets of a file: JSON if it is called so, YAML otherwise, as Prometheus does it.
fn parse(path: &Path, content: &[u8]) -> Result<Vec<EndpointParams>, String> {
    let text = std::str::from_utf8(content).map_err(|error| format!("it is not text: {error}"))?;
    if text.trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    let groups: Vec<Group> = if path.extension().is_some_and(|extension| extension == "json") {
        serde_json::from_str(text).map_err(|error| error.to_string())?
    } else {
        serde_saphyr::from_str(text).map_err(|error| error.to_string())?
    };
    let mut entries = Vec::new();
    for Group { targets, labels } in groups {
        let weight = weight(&labels)?;
        for address in targets {
            if !is_host_and_port(&address) {
                return Err(format!("target `{address}` is not `host:port`"));
            }
            entries.push(EndpointParams { address, weight });
        }
    }
    if entries.is_empty() { Err("it names no target".to_owned()) } else { Ok(entries) }
}

fn weight(labels: &BTreeMap<String, Value>) -> Result<u32, String> {
    let Some((label, value)) = WEIGHT_LABELS.iter().find_map(|label| Some((label, labels.get(*label)?)))
    else {
        return Ok(1);
    };
    let number = match value {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64().and_then(|number| u32::try_from(number).ok()),
    };
    number.ok_or_else(|| format!("label `{label}` is no whole number: {value}"))
}

fn is_host_and_port(target: &str) -> bool {
    target.parse::<SocketAddr>().is_ok()
        || target.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && !host.contains([':', '/']) && port.parse::<u16>().is_ok()
        })
}
