//! What the metrics page says of the consensus beneath.

use coord::consensus::{Consensus, MemberView};
use gateway::metrics::{Exporter, Kind, Metric};

const CLUSTER: [Metric; 4] = [
    Metric {
        name: "seawall_coord_members",
        kind: Kind::Gauge,
        labels: &[],
        help: "Members of the etcd cluster.",
    },
    Metric {
        name: "seawall_coord_members_answering",
        kind: Kind::Gauge,
        labels: &[],
        help: "Members of the etcd cluster that answer.",
    },
    Metric {
        name: "seawall_coord_quorum",
        kind: Kind::Gauge,
        labels: &[],
        help: "1 while a majority of the members answers and knows of a leader.",
    },
    Metric {
        name: "seawall_coord_leader_changes_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Changes of etcd's leader that were seen.",
    },
];

const fn of_member(name: &'static str, kind: Kind, help: &'static str) -> Metric {
    Metric { name, kind, labels: &["member"], help }
}

/// A metric of a member, and where its value is; none: not known.
type OfMember = (Metric, fn(&MemberView) -> Option<f64>);

const MEMBER: [OfMember; 7] = [
    (of_member("seawall_coord_member_is_leader", Kind::Gauge, "1 for the member that leads."), |member| {
        Some(f64::from(u8::from(member.is_leader)))
    }),
    (
        of_member("seawall_coord_member_lag_proposals", Kind::Gauge, "Decisions behind the furthest member."),
        |member| Some(member.lag as f64),
    ),
    (of_member("seawall_coord_member_pending_proposals", Kind::Gauge, "Proposals that wait."), |member| {
        Some(member.pending as f64)
    }),
    (
        of_member("seawall_coord_member_failed_proposals_total", Kind::Counter, "Proposals that failed."),
        |member| Some(member.failed as f64),
    ),
    (
        of_member("seawall_coord_member_database_bytes", Kind::Gauge, "Size of the member's database."),
        |member| Some(member.database_bytes as f64),
    ),
    (
        of_member(
            "seawall_coord_member_fsync_p99_seconds",
            Kind::Gauge,
            "Upper bound of 99 of 100 syncs of the member's log between the last two looks.",
        ),
        |member| member.fsync_p99_seconds,
    ),
    (
        of_member(
            "seawall_coord_member_round_trip_p99_seconds",
            Kind::Gauge,
            "Upper bound of 99 of 100 messages to other members and back between the last two looks.",
        ),
        |member| member.round_trip_p99_seconds,
    ),
];

/// Every metric of the consensus; written when there is an etcd cluster.
pub(crate) static METRICS: [Metric; CLUSTER.len() + MEMBER.len()] = {
    let [a, b, c, d] = CLUSTER;
    let [(e, _), (f, _), (g, _), (h, _), (i, _), (j, _), (k, _)] = MEMBER;
    [a, b, c, d, e, f, g, h, i, j, k]
};

/// Writes the figures of [`METRICS`].
pub(crate) fn export(out: &mut Exporter, consensus: &Consensus) {
    let values = [
        f64::from(consensus.size),
        f64::from(consensus.answering),
        f64::from(u8::from(consensus.has_quorum())),
        consensus.leader_changes as f64,
    ];
    for (metric, value) in CLUSTER.iter().zip(values) {
        out.begin(metric);
        out.sample(metric, &[], value);
    }
    for (metric, value) in &MEMBER {
        out.begin(metric);
        for member in consensus.members.iter().filter(|member| member.problem.is_none()) {
            if let Some(value) = value(member) {
                out.sample(metric, &[&member.address], value);
            }
        }
    }
}
