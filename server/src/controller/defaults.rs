//! The policies that a cluster begins with.

use super::records::{Policies, Policy};

/// Name and statements, in the order in which they are compiled.
const DEFAULTS: &[(&str, &str)] = &[
    (
        "live-nodes",
        include_str!("../../../placement/policies/10-live-nodes.sql"),
    ),
    (
        "distinct-nodes",
        include_str!("../../../placement/policies/11-distinct-nodes.sql"),
    ),
    (
        "zone-spread",
        include_str!("../../../placement/policies/12-zone-spread.sql"),
    ),
    (
        "capacity",
        include_str!("../../../placement/policies/13-capacity.sql"),
    ),
    (
        "leaders-on-replicas",
        include_str!("../../../placement/policies/20-leaders-on-replicas.sql"),
    ),
    (
        "leader-home",
        include_str!("../../../placement/policies/30-leader-home.sql"),
    ),
    (
        "balance",
        include_str!("../../../placement/policies/40-balance.sql"),
    ),
    (
        "stickiness",
        include_str!("../../../placement/policies/50-stickiness.sql"),
    ),
];

/// The first set: version 1.
pub fn policies() -> Policies {
    let policy = |(name, sql): &(&str, &str)| Policy {
        name: (*name).to_owned(),
        since: 1,
        sql: (*sql).to_owned(),
    };
    Policies {
        version: 1,
        policies: DEFAULTS.iter().map(policy).collect(),
        change: "the defaults".to_owned(),
        forced: Vec::new(),
        history: Vec::new(),
    }
}
