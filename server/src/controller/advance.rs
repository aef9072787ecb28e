//! The next step of one shard towards one stage: a pure function of what is there.
//!
//! Nothing is remembered between steps, so a step that was lost, done twice or done by somebody else needs no special
//! case: what follows is derived from the directory again.
//!
//! 1. Copies that the stage does not want are removed, whichever plan wanted them.
//! 2. A copy is added, as a learner, on each node that is wanted and has none.
//! 3. When copies have caught up they get votes and those that they replace go, in one joint change, so that the number
//!    of voters never passes through two. A leader goes last: leadership is transferred first, to the one that shall
//!    lead or, when that one has no vote yet, after it has got one.
//! 4. Leadership goes where it shall be.
//!
//! Add before remove: nothing is removed unless a majority of what remains lives and has caught up. That a node is out
//! of the view is no evidence by itself.

use synod_replication::NodeId;
use synod_storage::ReplicaId;

use super::cluster::{Cluster, Shard};
use super::plan::Stage;

/// A change of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A copy, without a vote, on a node.
    Add(NodeId),
    /// In one change: these get votes, those go.
    Replace {
        /// Learners that have caught up.
        promote: Vec<ReplicaId>,
        /// Voters and learners.
        remove: Vec<ReplicaId>,
    },
    /// Another voter leads.
    Transfer(ReplicaId),
}

impl Step {
    /// Whether the step changes what policies see. Such a step waits while the solver is thinking, so that its answer
    /// begins where the cluster is.
    pub fn commits(&self, shard: &Shard) -> bool {
        match self {
            Step::Add(_) => false,
            Step::Transfer(_) => true,
            Step::Replace { promote, remove } => {
                let votes = |id: &ReplicaId| {
                    shard.descriptor.replicas.iter().any(|replica| {
                        replica.replica == *id && replica.role == synod_txn::ReplicaRole::Voter
                    })
                };
                !promote.is_empty() || remove.iter().any(votes)
            }
        }
    }
}

/// Why nothing can be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Copies are on their way to these nodes.
    Copies(Vec<NodeId>),
    /// The node that shall get a copy is not in the view.
    Node(NodeId),
    /// No majority of the voters lives, or nobody leads.
    Leader,
    /// What would remain has no live, caught-up majority.
    Majority,
    /// The configuration is joint; the shard finishes it by itself.
    Joint,
}

impl Waiting {
    /// In words that fit many shards.
    pub fn reason(&self) -> &'static str {
        match self {
            Waiting::Copies(_) => "copies are on their way",
            Waiting::Node(_) => "the node that shall get a copy is awaited",
            Waiting::Leader => "there is no leader now",
            Waiting::Majority => "too few of the remaining replicas live and have caught up",
            Waiting::Joint => "a change of members is being finished",
        }
    }

    /// In words.
    pub fn text(&self) -> String {
        match self {
            Waiting::Copies(nodes) => {
                let nodes: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
                format!("copies are on their way to {}", nodes.join(", "))
            }
            Waiting::Node(node) => format!("node {node} is awaited"),
            Waiting::Leader => "the shard has no leader now".to_owned(),
            Waiting::Majority => {
                "too few of the remaining replicas live and have caught up".to_owned()
            }
            Waiting::Joint => "a change of its members is being finished".to_owned(),
        }
    }
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The stage is reached.
    Done,
    /// Do this.
    Step(Step),
    /// Wait.
    Wait(Waiting),
}

/// What brings `shard` closer to `stage`.
pub fn next(cluster: &Cluster, shard: &Shard, stage: &Stage) -> Next {
    if stage.is_reached(shard) {
        return Next::Done;
    }
    let Some((leader, _)) = shard.leader else {
        return Next::Wait(Waiting::Leader);
    };
    if !cluster.has_majority(shard) || !cluster.is_live(leader) {
        return Next::Wait(Waiting::Leader);
    }
    if shard.joint {
        return Next::Wait(Waiting::Joint);
    }
    let wanted: Vec<NodeId> = stage.seats.iter().filter_map(|seat| seat.node).collect();
    if let Some(stray) = shard.learners().find(|node| !wanted.contains(node)) {
        return remove(shard, stray);
    }
    for &node in &wanted {
        if shard.on(node).is_none() {
            return match cluster.is_live(node) {
                true => Next::Step(Step::Add(node)),
                false => Next::Wait(Waiting::Node(node)),
            };
        }
    }
    exchange(cluster, shard, stage, leader)
}

fn remove(shard: &Shard, node: NodeId) -> Next {
    match shard.on(node) {
        Some(replica) => Next::Step(Step::Replace {
            promote: Vec::new(),
            remove: vec![replica],
        }),
        None => Next::Done,
    }
}

/// Everybody who is wanted is there: votes and leadership change hands.
fn exchange(cluster: &Cluster, shard: &Shard, stage: &Stage, leader: NodeId) -> Next {
    let voting: Vec<NodeId> = stage
        .seats
        .iter()
        .filter(|seat| seat.votes)
        .filter_map(|seat| seat.node)
        .collect();
    let voters: Vec<NodeId> = shard.voters().collect();
    let wanted = |node: &NodeId| stage.seats.iter().any(|seat| seat.node == Some(*node));
    let leaving: Vec<NodeId> = voters
        .iter()
        .copied()
        .filter(|node| !wanted(node))
        .collect();
    let coming: Vec<NodeId> = shard
        .learners()
        .filter(|node| voting.contains(node))
        .collect();
    let (ready, copying): (Vec<NodeId>, Vec<NodeId>) = coming
        .iter()
        .partition(|node| shard.is_caught_up(**node) && cluster.is_live(**node));
    if leaving.is_empty() && coming.is_empty() {
        return lead(cluster, shard, stage, leader);
    }
    // From one voter to three at once: two voters stop when either does.
    if voters.len() < voting.len() && !copying.is_empty() {
        return Next::Wait(Waiting::Copies(copying));
    }
    if ready.is_empty() && !coming.is_empty() {
        return Next::Wait(Waiting::Copies(copying));
    }
    // Who comes takes the seat of who goes; when all have come, all that are left over go.
    let mut gone = leaving.clone();
    if !copying.is_empty() {
        gone.retain(|node| {
            let seat = shard.order.iter().position(|occupant| occupant == node);
            let successor = seat.and_then(|seat| stage.seats.get(seat)?.node);
            successor.is_some_and(|node| ready.contains(&node))
        });
    }
    if gone.contains(&leader) {
        let staying = voters
            .iter()
            .copied()
            .filter(|node| !leaving.contains(node));
        let heirs: Vec<NodeId> = staying.filter(|node| fit(cluster, shard, *node)).collect();
        let foreseen = stage.leader.is_some_and(|node| ready.contains(&node));
        let wanted = heirs.iter().find(|node| stage.leader == Some(**node));
        let heir = wanted
            .or_else(|| heirs.first().filter(|_| !foreseen))
            .copied();
        match heir {
            Some(heir) => return transfer(shard, heir),
            // Whoever shall lead gets the vote first; the leader goes in the next change.
            None if !ready.is_empty() => gone.retain(|node| *node != leader),
            None => return Next::Wait(Waiting::Majority),
        }
    }
    let stay = voters.iter().filter(|node| !gone.contains(node));
    let remaining: Vec<NodeId> = stay.chain(&ready).copied().collect();
    let sound = remaining.iter().filter(|node| fit(cluster, shard, **node));
    if !gone.is_empty() && 2 * sound.count() <= remaining.len() {
        return Next::Wait(Waiting::Majority);
    }
    Next::Step(Step::Replace {
        promote: ready.iter().filter_map(|node| shard.on(*node)).collect(),
        remove: gone.iter().filter_map(|node| shard.on(*node)).collect(),
    })
}

/// The replicas are right: leadership goes where it shall be.
fn lead(cluster: &Cluster, shard: &Shard, stage: &Stage, leader: NodeId) -> Next {
    match stage.leader {
        Some(wanted) if wanted != leader && shard.voters().any(|node| node == wanted) => {
            match fit(cluster, shard, wanted) {
                true => transfer(shard, wanted),
                false => Next::Wait(Waiting::Node(wanted)),
            }
        }
        Some(_) | None => Next::Done,
    }
}

fn transfer(shard: &Shard, to: NodeId) -> Next {
    match shard.on(to) {
        Some(replica) => Next::Step(Step::Transfer(replica)),
        None => Next::Wait(Waiting::Leader),
    }
}

/// Whether the replica on a node counts: it lives, and it leads or follows closely.
fn fit(cluster: &Cluster, shard: &Shard, node: NodeId) -> bool {
    let leads = shard.leader.is_some_and(|(leader, _)| leader == node);
    cluster.is_live(node) && (leads || shard.is_caught_up(node))
}
