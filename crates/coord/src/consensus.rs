//! How the consensus beneath us is: what each member of the etcd cluster says of itself, read from its metrics.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::config::{CoordParams, Member};

/// How often members are asked.
const EVERY: Duration = Duration::from_secs(5);
/// Longest wait for one.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of metrics that are read; etcd has some hundred kilobytes.
const METRICS_MAX: usize = 16 << 20;

/// A cluster at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Consensus {
    /// Members that answer.
    pub answering: u32,
    /// Members there are.
    pub size: u32,
    /// The member that says it leads; none while there is no leader or it does not answer.
    pub leader: Option<String>,
    /// Changes of the leader that were seen here since this process started.
    pub leader_changes: u64,
    /// Each member, as configured.
    pub members: Vec<MemberView>,
}

/// What a member says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MemberView {
    /// Where it is asked.
    pub address: String,
    /// Why it did not answer; none: it did.
    pub problem: Option<String>,
    /// Whether it knows of a leader.
    pub has_leader: bool,
    /// Whether it leads.
    pub is_leader: bool,
    /// Its version.
    pub version: String,
    /// Decisions it has applied.
    pub applied: u64,
    /// How many decisions it is behind the member that is furthest.
    pub lag: u64,
    /// Proposals that wait for a decision.
    pub pending: u64,
    /// Proposals that failed, since it started.
    pub failed: u64,
    /// Bytes of its database.
    pub database_bytes: u64,
    /// The time that 99 of 100 syncs of its log took at most since it was asked before, in seconds: an upper bound as fine as
    /// etcd's buckets.
    pub fsync_p99_seconds: Option<f64>,
    /// Likewise its messages to the other members, there and back.
    pub round_trip_p99_seconds: Option<f64>,
}

impl Consensus {
    /// Whether a majority of the members answers and knows of a leader.
    #[must_use]
    pub fn has_quorum(&self) -> bool {
        let with_leader = self.members.iter().filter(|member| member.has_leader).count();
        2 * with_leader > self.members.len()
    }
}

/// A condition under which somebody should look, as data for whatever evaluates alerts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Its name.
    pub name: &'static str,
    /// When it holds, in PromQL over the metrics of this process.
    pub when: &'static str,
    /// For how long, before anybody is told.
    pub hold: Duration,
    /// Whether to wake somebody; otherwise a ticket will do.
    pub page: bool,
    /// What it means and what to do.
    pub meaning: &'static str,
}

/// What is wrong with every etcd cluster for which it holds. After etcd's own recommendations.
pub const ALERTS: &[Alert] = &[
    Alert {
        name: "CoordNoQuorum",
        when: "seawall_coord_quorum == 0",
        hold: Duration::from_secs(30),
        page: true,
        meaning: "Too few members of etcd answer: no lease can be had or renewed. Bring members back.",
    },
    Alert {
        name: "CoordMemberDown",
        when: "seawall_coord_members_answering < seawall_coord_members",
        hold: Duration::from_secs(300),
        page: false,
        meaning: "A member of etcd does not answer: one more loss may cost the majority.",
    },
    Alert {
        name: "CoordLeaderChanges",
        when: "increase(seawall_coord_leader_changes_total[15m]) > 3",
        hold: Duration::ZERO,
        page: false,
        meaning: "The leader of etcd changes often: look at its disks and its network.",
    },
    Alert {
        name: "CoordMemberLags",
        when: "seawall_coord_member_lag_proposals > 1000",
        hold: Duration::from_secs(120),
        page: false,
        meaning: "A member of etcd is far behind the others: it cannot take over.",
    },
    Alert {
        name: "CoordProposalsWait",
        when: "seawall_coord_member_pending_proposals > 50",
        hold: Duration::from_secs(60),
        page: true,
        meaning: "Decisions of etcd pile up: leases will not be renewed in time.",
    },
    Alert {
        name: "CoordProposalsFail",
        when: "increase(seawall_coord_member_failed_proposals_total[15m]) > 5",
        hold: Duration::ZERO,
        page: false,
        meaning: "Proposals to etcd fail: elections are under way or the majority comes and goes.",
    },
    Alert {
        name: "CoordSlowDisk",
        when: "seawall_coord_member_fsync_p99_seconds > 0.5",
        hold: Duration::from_secs(300),
        page: false,
        meaning: "A member of etcd has a slow disk: half a second for a sync is half an election time-out.",
    },
    Alert {
        name: "CoordSlowNetwork",
        when: "seawall_coord_member_round_trip_p99_seconds > 0.15",
        hold: Duration::from_secs(300),
        page: false,
        meaning: "Messages between members of etcd are slow: heartbeats will be missed.",
    },
];

/// Looks at a cluster again and again.
#[derive(Debug)]
pub struct Observer {
    members: Vec<Member>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    view: Consensus,
    before: BTreeMap<String, Figures>,
    last_leader: Option<String>,
}

impl Observer {
    /// Of the cluster that `params` name; none when the engine is not etcd. Addresses that are none are left out.
    #[must_use]
    pub fn new(params: &CoordParams) -> Option<Self> {
        let members: Vec<Member> = params.etcd.iter().filter_map(|member| member.parse().ok()).collect();
        (!members.is_empty()).then(|| Self { members, state: Mutex::default() })
    }

    /// As last seen.
    #[must_use]
    pub fn view(&self) -> Consensus {
        self.state().view.clone()
    }

    /// Looks until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        loop {
            self.look().await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    /// Looks once.
    pub async fn look(&self) {
        let mut tasks = tokio::task::JoinSet::new();
        for (index, member) in self.members.iter().cloned().enumerate() {
            tasks.spawn(async move {
                let late = || Err("no answer in time".to_owned());
                let answer = tokio::time::timeout(PATIENCE, fetch(&member)).await.unwrap_or_else(|_| late());
                (index, member.to_string(), answer)
            });
        }
        let mut answers = tasks.join_all().await;
        answers.sort_by_key(|(index, ..)| *index);
        let mut state = self.state();
        let mut members = Vec::new();
        for (_, address, answer) in answers {
            members.push(match answer {
                Ok(text) => {
                    let figures = Figures::read(&text);
                    let before = state.before.insert(address.clone(), figures.clone());
                    figures.view(address, &before.unwrap_or_default())
                }
                Err(problem) => MemberView { address, problem: Some(problem), ..MemberView::default() },
            });
        }
        let furthest = members.iter().map(|member| member.applied).max().unwrap_or(0);
        for member in members.iter_mut().filter(|member| member.problem.is_none()) {
            member.lag = furthest - member.applied;
        }
        let leader = members.iter().find(|member| member.is_leader).map(|member| member.address.clone());
        let mut leader_changes = state.view.leader_changes;
        if leader.is_some() && leader != state.last_leader {
            leader_changes += u64::from(state.last_leader.is_some());
            state.last_leader.clone_from(&leader);
        }
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        state.view = Consensus {
            answering: count(members.iter().filter(|member| member.problem.is_none()).count()),
            size: count(members.len()),
            leader,
            leader_changes,
            members,
        };
    }

    // Every look replaces the whole: a panic leaves whole values behind.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn fetch(member: &Member) -> Result<String, String> {
    let stream = TcpStream::connect((member.host.as_str(), member.port)).await.map_err(text)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    tokio::spawn(async move { drop(connection.await) });
    let request = Request::get("/metrics").header("host", member.to_string()).body(Empty::<Bytes>::new());
    let answer = sender.send_request(request.map_err(text)?).await.map_err(text)?;
    if !answer.status().is_success() {
        return Err(format!("HTTP status {}", answer.status()));
    }
    let body = Limited::new(answer.into_body(), METRICS_MAX).collect().await.map_err(text)?;
    String::from_utf8(body.to_bytes().into()).map_err(text)
}

fn text(problem: impl std::fmt::Display) -> String {
    problem.to_string()
}

/// The series of a member that matter here.
#[derive(Clone, Debug, Default, PartialEq)]
struct Figures {
    plain: BTreeMap<&'static str, f64>,
    version: String,
    fsync: Histogram,
    round_trip: Histogram,
}

const PLAIN: [&str; 6] = [
    "etcd_server_has_leader",
    "etcd_server_is_leader",
    "etcd_server_proposals_applied_total",
    "etcd_server_proposals_pending",
    "etcd_server_proposals_failed_total",
    "etcd_mvcc_db_total_size_in_bytes",
];

/// Cumulative counts by upper bound; the bounds as they are written, the last one `+Inf`.
#[derive(Clone, Debug, Default, PartialEq)]
struct Histogram(Vec<(f64, f64)>);

impl Histogram {
    fn add(&mut self, bound: f64, count: f64) {
        // Round trips come once for each peer: they are added up.
        match self.0.iter_mut().find(|(known, _)| known.total_cmp(&bound).is_eq()) {
            Some((_, sum)) => *sum += count,
            None => self.0.push((bound, count)),
        }
    }

    /// The upper bound below which `share` of what was added since `before` lies; none when that was nothing, or when it
    /// lies above every bound but infinity: then the highest bound.
    fn quantile_since(&self, before: &Self, share: f64) -> Option<f64> {
        let mut since = self.0.clone();
        for (bound, count) in &mut since {
            let earlier = before.0.iter().find(|(known, _)| known.total_cmp(bound).is_eq());
            // A member that started again counts from zero.
            *count -= earlier.map_or(0.0, |(_, earlier)| *earlier).min(*count);
        }
        since.sort_by(|one, other| one.0.total_cmp(&other.0));
        let total = since.last().map_or(0.0, |(_, count)| *count);
        let highest = since.iter().map(|(bound, _)| *bound).rfind(|bound| bound.is_finite())?;
        if total <= 0.0 {
            return None;
        }
        since.iter().find(|(_, count)| *count >= share * total).map(|(bound, _)| bound.min(highest))
    }
}

impl Figures {
    fn read(metrics: &str) -> Self {
        let mut figures = Self::default();
        for line in metrics.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let label = |wanted: &str| {
                let (_, rest) = labels.split_once(&format!("{wanted}=\""))?;
                rest.split('"').next()
            };
            match name {
                "etcd_disk_wal_fsync_duration_seconds_bucket" => {
                    if let Some(bound) = label("le").and_then(bound) {
                        figures.fsync.add(bound, value);
                    }
                }
                "etcd_network_peer_round_trip_time_seconds_bucket" => {
                    if let Some(bound) = label("le").and_then(bound) {
                        figures.round_trip.add(bound, value);
                    }
                }
                "etcd_server_version" => {
                    figures.version = label("server_version").unwrap_or_default().to_owned();
                }
                name => {
                    if let Some(name) = PLAIN.iter().find(|known| **known == name) {
                        figures.plain.insert(name, value);
                    }
                }
            }
        }
        figures
    }

    fn view(&self, address: String, before: &Self) -> MemberView {
        let plain = |name: &str| self.plain.get(name).copied().unwrap_or(0.0);
        // Counts of etcd are whole and far below 2^53.
        let count = |name: &str| plain(name).max(0.0) as u64;
        MemberView {
            address,
            problem: None,
            has_leader: plain("etcd_server_has_leader") > 0.0,
            is_leader: plain("etcd_server_is_leader") > 0.0,
            version: self.version.clone(),
            applied: count("etcd_server_proposals_applied_total"),
            lag: 0,
            pending: count("etcd_server_proposals_pending"),
            failed: count("etcd_server_proposals_failed_total"),
            database_bytes: count("etcd_mvcc_db_total_size_in_bytes"),
            fsync_p99_seconds: self.fsync.quantile_since(&before.fsync, 0.99),
            round_trip_p99_seconds: self.round_trip.quantile_since(&before.round_trip, 0.99),
        }
    }
}

fn bound(text: &str) -> Option<f64> {
    if text == "+Inf" { Some(f64::INFINITY) } else { text.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_matters_of_a_member() {
        let text = "# HELP x y\netcd_server_has_leader 1\netcd_server_is_leader 0\n\
                    etcd_server_proposals_applied_total 1.5e+03\netcd_server_proposals_pending 2\n\
                    etcd_server_version{server_version=\"3.4.23\"} 1\n\
                    etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"} 90\n\
                    etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.002\"} 99\n\
                    etcd_disk_wal_fsync_duration_seconds_bucket{le=\"+Inf\"} 100\n\
                    etcd_network_peer_round_trip_time_seconds_bucket{To=\"a\",le=\"0.1\"} 1\n\
                    etcd_network_peer_round_trip_time_seconds_bucket{To=\"a\",le=\"+Inf\"} 2\n\
                    etcd_network_peer_round_trip_time_seconds_bucket{To=\"b\",le=\"0.1\"} 3\n\
                    etcd_network_peer_round_trip_time_seconds_bucket{To=\"b\",le=\"+Inf\"} 3\n";
        let figures = Figures::read(text);
        let view = figures.view("m".to_owned(), &Figures::default());
        assert_eq!((view.has_leader, view.is_leader, view.applied, view.pending), (true, false, 1500, 2));
        assert_eq!((view.version.as_str(), view.fsync_p99_seconds), ("3.4.23", Some(0.002)));
        assert_eq!(view.round_trip_p99_seconds, Some(0.1));
        assert_eq!(figures.view("m".to_owned(), &figures).fsync_p99_seconds, None, "nothing since");
    }
}
