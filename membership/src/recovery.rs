//! Forced recovery: going on when a majority is gone for good.
//!
//! A configuration is succeeded by the vote of a majority, and nothing that the protocol does on its own may shorten
//! that. When the majority's directories are lost, an operator can begin a new lineage from what the survivors hold: a
//! new cluster id, and the survivors as its members. Nodes of the old lineage are then foreigners, so that a lost
//! majority that turns up after all cannot go on in parallel under the same name.
//!
//! It is not safe in the way that all else here is. What the lost nodes knew and the survivors do not is gone: views
//! that they had decided, and whatever the data plane had acknowledged on their word. [`Loss`] says what can be said
//! about it, so that the command can show it before it asks for a confirmation.

use std::collections::BTreeSet;
use std::sync::Arc;

use thiserror::Error;

use crate::catalog::Catalog;
use crate::chain::Chain;
use crate::codec::Encode;
use crate::configuration::{Configuration, SharedConfiguration};
use crate::durable::{Recovered, Registration};
use crate::hash::SipHash128;
use crate::id::{ClusterId, ConfigHash, NodeId};
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
    let lost = |nodes: &mut dyn Iterator<Item = NodeId>| -> Vec<NodeId> {
        nodes.filter(|node| !survivors.contains(node)).collect()
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
    let cluster = lineage_id(last, survivors);
    let configuration = Arc::new(Configuration::forced(last, survivors, cluster));
    let snapshot = Snapshot {
        configuration: configuration.clone(),
        view: None,
    };
    let directory = Recovered {
        registration: Some(Registration {
            cluster: Some(cluster),
            ..registration
        }),
        // The writes go on counting, so that the directory does not look rolled back.
        acceptor: directory.acceptor.clone(),
        base: Some(Arc::new(snapshot)),
        views: Vec::new(),
    };
    Ok(Lineage {
        directory,
        configuration,
        loss,
    })
}

/// The id of the lineage that these survivors begin: the same for each of them, without a word between them.
fn lineage_id(last: &Configuration, survivors: &BTreeSet<NodeId>) -> ClusterId {
    let mut hash = SipHash128::keyed(0x4c69_6e65, last.hash().0 as u64);
    last.hash().encode(&mut hash);
    for survivor in survivors {
        survivor.encode(&mut hash);
    }
    ClusterId(hash.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::{Mode, Overlay};
    use crate::durable;
    use crate::id::Boot;
    use crate::member::Member;

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
    fn a_majority_is_not_forced() {
        let directories = founders(5);
        let survivors = BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)]);
        assert_eq!(
            force(&directories[0].1, &survivors).unwrap_err(),
            RecoveryError::Unnecessary { have: 3, voters: 5 }
        );
    }
}
