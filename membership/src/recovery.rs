//! Forced recovery: going on when a majority is gone for good.
//!
//! A configuration is succeeded by the vote of a majority, and nothing that the protocol does on its own may shorten
//! that. When the majority's directories are lost, an operator can begin a new lineage from what the survivors hold: a
//! new cluster id, and the survivors as its members. Nodes of the old lineage are then foreigners, so that a lost
//! majority that turns up after all cannot go on in parallel under the same name.
//!
//! The same begins a cluster from a copy of all its directories ([`restore`]), so that the copy and what it was copied
//! from are strangers to each other. Its nodes keep their ids, which their replicas name.
//!
//! The first is not safe in the way that all else here is. What the lost nodes knew and the survivors do not is gone:
//! views that they had decided, and whatever the data plane had acknowledged on their word. The second is as safe as
//! the copy is: of all directories, while no node ran. [`Loss`] says what can be said about it, so that the command can
//! show it before it asks for a confirmation.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use thiserror::Error;

use crate::catalog::Catalog;
use crate::chain::Chain;
use crate::codec::{Encode, Sink};
use crate::configuration::{Configuration, SharedConfiguration};
use crate::durable::{AcceptorState, Recovered, Registration};
use crate::hash::SipHash128;
use crate::id::{ClusterId, ConfigHash, NodeId};
use crate::member::Member;
use crate::message::Snapshot;
use crate::view::Unproven;

/// Why a new lineage cannot be begun from this directory. Nothing has been changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecoveryError {
    /// The directory holds no cluster's state.
    #[error("the directory holds no configuration")]
    Empty,
    /// The directory's own chain does not verify.
    #[error("the directory's chain is broken: {0}")]
    Broken(#[from] Unproven),
    /// A survivor is not a member of the directory's last configuration.
    #[error("{0} is not a member of the last configuration")]
    NotAMember(NodeId),
    /// The directory's own node is not among the survivors.
    #[error("this directory's node is not among the survivors")]
    NotASurvivor,
    /// The survivors are a majority: they can go on without any of this.
    #[error(
        "the survivors have {have} of {voters} votes: start them, and they go on by themselves"
    )]
    Unnecessary {
        /// Votes among the survivors.
        have: usize,
        /// Votes that there are.
        voters: usize,
    },
    /// Two members would be reached at one address.
    #[error("two members have the address {0}")]
    SameAddress(SocketAddr),
    /// The copy has begun its own lineage already.
    #[error("this directory is restored already, under this name")]
    Restored,
    /// The copy has seen more than the one whose lineage it was to follow.
    #[error(
        "this directory knows view {own}, and the other one began after view {other}: restore this one first, and the \
         other ones like it"
    )]
    Newer {
        /// The last view here.
        own: u64,
        /// The last view there.
        other: u64,
    },
}

/// What may be lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The last configuration that this directory knows of. Later ones, if the lost nodes had decided any, are lost.
    pub seq: u64,
    /// Its hash: every survivor must hold the same one.
    pub hash: ConfigHash,
    /// Members that are left behind.
    pub members: Vec<NodeId>,
    /// Voters whose word is missing.
    pub voters: Vec<NodeId>,
    /// True if this directory's acceptor had voted on a successor, which may have been decided.
    pub decision_pending: bool,
}

/// A new lineage, as this directory is to hold it.
#[derive(Clone, Debug)]
pub struct Lineage {
    /// Replaces what the directory holds. Its next start raises the boot as usual.
    pub directory: Recovered,
    /// The configuration that it begins with.
    pub configuration: SharedConfiguration,
    /// What may be lost.
    pub loss: Loss,
}

/// The last configuration that a directory knows of.
pub fn last(directory: &Recovered) -> Result<SharedConfiguration, RecoveryError> {
    let base = directory.base.as_ref().ok_or(RecoveryError::Empty)?;
    let catalog = Catalog::new();
    let mut chain = Chain::new(base.clone());
    for view in &directory.views {
        chain.push(view.clone(), &catalog)?;
    }
    Ok(chain.tip().clone())
}

/// Begins a new lineage with these survivors. To be run on each survivor's directory with the same survivors; all must
/// come to the same configuration, and do if their last ones are the same.
pub fn force(
    directory: &Recovered,
    survivors: &BTreeSet<NodeId>,
) -> Result<Lineage, RecoveryError> {
    let registration = directory.registration.ok_or(RecoveryError::Empty)?;
    if !survivors.contains(&registration.node) {
        return Err(RecoveryError::NotASurvivor);
    }
    let last = &*last(directory)?;
    if let Some(stranger) = survivors
        .iter()
        .find(|node| last.index_of(**node).is_none())
    {
        return Err(RecoveryError::NotAMember(*stranger));
    }
    let have = last
        .voters()
        .iter()
        .filter(|voter| survivors.contains(voter))
        .count();
    if have >= last.majority() {
        return Err(RecoveryError::Unnecessary {
            have,
            voters: last.voters().len(),
        });
    }
    let members = last.members().iter();
    let staying = members.filter(|member| survivors.contains(&member.node));
    Ok(lineage(
        directory,
        registration,
        last,
        (staying.cloned().collect(), ""),
    ))
}

/// Begins a new lineage with all members, from a copy of all their directories. To be run on each of these with the
/// same name, which tells apart what is made of one copy, and the same new addresses; who is not given one keeps the
/// old.
pub fn restore(
    directory: &Recovered,
    name: &str,
    addresses: &BTreeMap<NodeId, SocketAddr>,
) -> Result<Lineage, RecoveryError> {
    let registration = directory.registration.ok_or(RecoveryError::Empty)?;
    let last = &*last(directory)?;
    let base = directory.base.as_ref().ok_or(RecoveryError::Empty)?;
    let begun = &base.configuration;
    if begun.cluster() == lineage_id(begun.previous(), begun.members(), name) {
        return Err(RecoveryError::Restored);
    }
    let mut named = addresses.keys().chain([&registration.node]);
    if let Some(stranger) = named.find(|node| last.index_of(**node).is_none()) {
        return Err(RecoveryError::NotAMember(*stranger));
    }
    let mut members = last.members().to_vec();
    for member in &mut members {
        member.address = *addresses.get(&member.node).unwrap_or(&member.address);
    }
    let mut taken = BTreeSet::new();
    if let Some(twice) = members.iter().find(|member| !taken.insert(member.address)) {
        return Err(RecoveryError::SameAddress(twice.address));
    }
    Ok(lineage(directory, registration, last, (members, name)))
}

/// The same for a directory of the copy whose last view is an older one, since its node was stopped before the others:
/// it follows what one of these has begun, and joins if it is not a member there.
pub fn follow(directory: &Recovered, begun: &Arc<Snapshot>) -> Result<Lineage, RecoveryError> {
    let registration = directory.registration.ok_or(RecoveryError::Empty)?;
    let last = &*last(directory)?;
    let configuration = &begun.configuration;
    if last.hash() == configuration.hash() {
        return Err(RecoveryError::Restored);
    }
    // A lineage of its own that it has begun and not lived in counts for nothing.
    let base = directory.base.as_ref();
    let has_begun = base.is_some_and(|base| base.begins_lineage()) && directory.views.is_empty();
    let own = last.seq() - u64::from(has_begun);
    let other = configuration.seq() - 1;
    if own > other {
        return Err(RecoveryError::Newer { own, other });
    }
    Ok(on_base(directory, registration, last, begun.clone()))
}

/// The lineage that these members begin, under this name.
fn lineage(
    directory: &Recovered,
    registration: Registration,
    last: &Configuration,
    (staying, name): (Vec<Member>, &str),
) -> Lineage {
    let cluster = lineage_id(last.hash(), &staying, name);
    let configuration = Arc::new(last.forced(staying, cluster));
    let base = Snapshot {
        configuration,
        view: None,
    };
    on_base(directory, registration, last, Arc::new(base))
}

/// What a directory becomes on the base of a new lineage.
fn on_base(
    directory: &Recovered,
    registration: Registration,
    last: &Configuration,
    base: Arc<Snapshot>,
) -> Lineage {
    let configuration = base.configuration.clone();
    let lost = |nodes: &mut dyn Iterator<Item = NodeId>| -> Vec<NodeId> {
        nodes
            .filter(|node| configuration.index_of(*node).is_none())
            .collect()
    };
    let acceptor = directory.acceptor.as_ref();
    let loss = Loss {
        seq: last.seq(),
        hash: last.hash(),
        members: lost(&mut last.members().iter().map(|member| member.node)),
        voters: lost(&mut last.voters().iter().copied()),
        decision_pending: acceptor
            .is_some_and(|state| state.config == last.hash() && state.vote.is_some()),
    };
    let directory = Recovered {
        registration: Some(Registration {
            cluster: Some(configuration.cluster()),
            ..registration
        }),
        // What was promised was promised to the old lineage. The writes go on counting, so that the directory does not
        // look rolled back.
        acceptor: acceptor.map(|state| Arc::new(AcceptorState::unbound(state.writes))),
        base: Some(base),
        views: Vec::new(),
    };
    Lineage {
        directory,
        configuration,
        loss,
    }
}

/// The id of the lineage that these members begin: the same for each of them, without a word between them.
fn lineage_id(last: ConfigHash, staying: &[Member], name: &str) -> ClusterId {
    let mut hash = SipHash128::keyed(0x4c69_6e65, last.0 as u64);
    last.encode(&mut hash);
    hash.put(name.as_bytes());
    for member in staying {
        member.node.encode(&mut hash);
        member.address.encode(&mut hash);
    }
    ClusterId(hash.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::{Mode, Overlay};
    use crate::durable;
    use crate::id::Boot;

    fn founders(count: u64) -> Vec<(NodeId, Recovered)> {
        let member = |index: u64| Member {
            node: NodeId(u128::from(index)),
            boot: Boot::first(index),
            address: ([10, 0, 0, index as u8], 7000).into(),
            labels: Arc::default(),
        };
        let (mode, overlay) = (Mode::Decentralised, Overlay::default());
        durable::found(
            ClusterId(1),
            mode,
            overlay,
            (1..=count).map(member).collect(),
        )
    }

    #[test]
    fn survivors_begin_the_same_new_lineage_and_are_told_what_may_be_lost() {
        let directories = founders(5);
        let survivors = BTreeSet::from([NodeId(2), NodeId(4)]);
        let forced: Vec<Lineage> = directories
            .iter()
            .filter(|(node, _)| survivors.contains(node))
            .map(|(_, directory)| force(directory, &survivors).unwrap())
            .collect();
        assert_eq!(
            forced[0].configuration.hash(),
            forced[1].configuration.hash()
        );
        assert_ne!(forced[0].configuration.cluster(), ClusterId(1));
        assert_eq!(forced[0].configuration.members().len(), 2);
        assert_eq!(forced[0].loss.voters, [NodeId(1), NodeId(3), NodeId(5)]);
    }

    #[test]
    fn all_copies_begin_the_same_new_lineage_once() {
        let directories = founders(3);
        let moved = ([10, 0, 1, 2], 7000).into();
        let addresses = BTreeMap::from([(NodeId(2), moved)]);
        let restored: Vec<Lineage> = directories
            .iter()
            .map(|(_, directory)| restore(directory, "drill", &addresses).unwrap())
            .collect();
        let first = &restored[0].configuration;
        assert!(
            restored
                .iter()
                .all(|other| other.configuration.hash() == first.hash())
        );
        assert_ne!(first.cluster(), ClusterId(1));
        assert_eq!((first.members().len(), first.voters().len()), (3, 3));
        assert_eq!(first.member(NodeId(2)).unwrap().address, moved);
        let again = restore(&restored[0].directory, "drill", &addresses).unwrap_err();
        assert_eq!(again, RecoveryError::Restored);
        // Another name, or other addresses, make another cluster.
        for (name, addresses) in [("other", &addresses), ("drill", &BTreeMap::new())] {
            let other = restore(&directories[0].1, name, addresses).unwrap();
            assert_ne!(other.configuration.cluster(), first.cluster());
        }
    }

    /// Its node was stopped first, so that the others have a view without it.
    #[test]
    fn a_copy_that_is_behind_follows_another_one() {
        let directories = founders(3);
        let restored = restore(&directories[0].1, "drill", &BTreeMap::new()).unwrap();
        let begun = restored.directory.base.clone().unwrap();
        let behind = follow(&directories[2].1, &begun).unwrap();
        assert_eq!(behind.configuration.hash(), restored.configuration.hash());
        assert_eq!(
            behind.directory.registration.unwrap().cluster,
            Some(restored.configuration.cluster())
        );
        let again = follow(&behind.directory, &begun).unwrap_err();
        assert_eq!(again, RecoveryError::Restored);
        // One on which the wrong name was given can be put right, and one that has seen more is not followed.
        let wrong = restore(&directories[1].1, "dril", &BTreeMap::new()).unwrap();
        let right = follow(&wrong.directory, &begun).unwrap();
        assert_eq!(right.configuration.hash(), restored.configuration.hash());
        let ahead = restore(&restored.directory, "again", &BTreeMap::new()).unwrap();
        let (own, other) = (restored.configuration.seq(), 1);
        let error = follow(&ahead.directory, &begun).unwrap_err();
        assert_eq!(error, RecoveryError::Newer { own, other });
    }

    #[test]
    fn addresses_of_a_copy_are_those_of_its_members_and_differ() {
        let directories = founders(3);
        let at =
            |node: u128, last| BTreeMap::from([(NodeId(node), ([10, 0, 0, last], 7000).into())]);
        let error = |addresses| restore(&directories[0].1, "drill", &addresses).unwrap_err();
        assert_eq!(error(at(9, 9)), RecoveryError::NotAMember(NodeId(9)));
        let taken = ([10, 0, 0, 2], 7000).into();
        assert_eq!(error(at(3, 2)), RecoveryError::SameAddress(taken));
    }

    #[test]
    fn a_majority_is_not_forced() {
        let directories = founders(5);
        let survivors = BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)]);
        assert_eq!(
            force(&directories[0].1, &survivors).unwrap_err(),
            RecoveryError::Unnecessary { have: 3, voters: 5 }
        );
    }
}
