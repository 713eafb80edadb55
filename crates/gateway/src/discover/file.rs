use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::config::{Check, Errors, Report, Source};
use schemars::JsonSchema;
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

/// What stands in the file.
#[derive(Deserialize, JsonSchema)]
#[serde(transparent)]
struct Groups(Vec<Group>);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Group {
    /// Endpoints, each as `host:port`.
    targets: Vec<String>,
    /// What is known of them all.
    #[serde(default)]
    labels: BTreeMap<String, Value>,
}

impl Check for Groups {
    fn check(&self, report: &mut Report<'_>) {
        for (index, Group { targets, labels }) in self.0.iter().enumerate() {
            if let Err((label, problem)) = weight(labels) {
                report.at_index(index).key("labels").key(label).error(problem, "give a whole number");
            }
            for (nth, target) in targets.iter().enumerate().filter(|(_, target)| !is_host_and_port(target)) {
                let problem = format!("`{target}` is not `host:port`");
                report.at_index(index).key("targets").index(nth).error(problem, "as `10.0.0.1:8080`");
            }
        }
    }
}

/// The targets of a file: YAML, of which JSON is a part.
fn parse(path: &Path, content: &[u8]) -> Result<Vec<EndpointParams>, String> {
    let source = Source::from_bytes(path.display().to_string(), content.to_vec()).map_err(|e| first(&e))?;
    if source.text().trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    let Groups(groups) = ::config::load_verbatim(&source).map_err(|errors| first(&errors))?.value;
    let entries: Vec<_> = groups
        .into_iter()
        .flat_map(|Group { targets, labels }| {
            let weight = weight(&labels).unwrap_or(1);
            targets.into_iter().map(move |address| EndpointParams { address, weight })
        })
        .collect();
    if entries.is_empty() { Err("it names no target".to_owned()) } else { Ok(entries) }
}

/// The first error on one line, and how many there are more.
fn first(errors: &Errors) -> String {
    let mut all = errors.iter();
    let Some(error) = all.next() else { return errors.to_string() };
    let place =
        error.position.map_or_else(String::new, |at| format!("line {}, column {}: ", at.line, at.column));
    let more = match all.len() {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    format!("{place}{}{more}", error.message)
}

/// The weight that the labels give, or the label that does not and why.
fn weight(labels: &BTreeMap<String, Value>) -> Result<u32, (&'static str, String)> {
    let Some((label, value)) = WEIGHT_LABELS.iter().find_map(|label| Some((label, labels.get(*label)?)))
    else {
        return Ok(1);
    };
    let number = match value {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64().and_then(|number| u32::try_from(number).ok()),
    };
    number.ok_or_else(|| (*label, format!("{value} is no whole number")))
}

fn is_host_and_port(target: &str) -> bool {
    target.parse::<SocketAddr>().is_ok()
        || target.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && !host.contains([':', '/']) && port.parse::<u16>().is_ok()
        })
}
