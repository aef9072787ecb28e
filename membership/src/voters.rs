//! The voter law: who votes after a cut.
//!
//! The number of voters is one, or three and more, never two, because two could not go on without each other. A joiner
//! does not vote until a later cut says so, once its observers have seen it installed; so a cluster that grows from one
//! to four in a botched way never strands its seed. When a crash takes three voters to two, the lost one keeps its slot
//! as an absent voter: any two of the three can go on, which is what a rolling restart of three needs. When one of
//! three leaves on purpose, a single voter stays. A sole voter hands its slot over in the cut in which it leaves.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::configuration::{Configuration, Mode, Rejected, Roster};
use crate::cut::{Cut, Departure};
use crate::hash::order_of;
use crate::id::NodeId;
use crate::member::Member;

/// Applies a cut, or says why it cannot be applied.
pub(crate) fn apply(before: &Configuration, cut: &Cut, mode: Mode) -> Result<Roster, Rejected> {
    if cut.is_empty() {
        return Err(Rejected::Empty);
    }
    if let Mode::Centralised {
        ensemble: ensemble @ 0..=2,
    } = mode
    {
        return Err(Rejected::EnsembleTooSmall(ensemble));
    }
    validate(before, cut)?;
    let members = apply_members(before, cut)?;
    let (voters, absent) = apply_voters(before, cut, mode, &members)?;
    Ok(Roster {
        members,
        voters,
        absent,
    })
}

fn validate(before: &Configuration, cut: &Cut) -> Result<(), Rejected> {
    for removal in &cut.remove {
        let present = before.member(removal.node).is_some();
        if !present || cut.added(removal.node).is_some() {
            return Err(Rejected::NotApplicable(removal.node));
        }
    }
    for member in &cut.add {
        if before
            .slot(member.node)
            .is_some_and(|old| old.boot.counter >= member.boot.counter)
        {
            return Err(Rejected::StaleBoot(member.node));
        }
    }
    for node in &cut.promote {
        let may = before.member(*node).is_some()
            && !before.is_voter(*node)
            && !cut.removes(*node)
            && cut.demote.binary_search(node).is_err();
        if !may {
            return Err(Rejected::NotApplicable(*node));
        }
    }
    for node in &cut.demote {
        if before.member(*node).is_none() || !before.is_voter(*node) || cut.removes(*node) {
            return Err(Rejected::NotApplicable(*node));
        }
    }
    Ok(())
}

fn apply_members(before: &Configuration, cut: &Cut) -> Result<Vec<Member>, Rejected> {
    let mut members = Vec::with_capacity(before.members().len() + cut.add.len());
    let mut add = cut.add.iter().peekable();
    for old in before.members() {
        while let Some(new) = add.next_if(|new| new.node < old.node) {
            members.push(new.clone());
        }
        match add.next_if(|new| new.node == old.node) {
            Some(restarted) => members.push(restarted.clone()),
            None if cut.removes(old.node) => {}
            None => members.push(old.clone()),
        }
    }
    members.extend(add.cloned());
    if !cut.add.is_empty() {
        let mut addresses: Vec<SocketAddr> = members.iter().map(|m| m.address).collect();
        addresses.sort_unstable();
        if let Some(pair) = addresses.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Rejected::AddressTaken(pair[0]));
        }
    }
    Ok(members)
}

fn apply_voters(
    before: &Configuration,
    cut: &Cut,
    mode: Mode,
    members: &[Member],
) -> Result<(Vec<NodeId>, Vec<Member>), Rejected> {
    let count_before = before.voters().len();
    let removed = cut
        .remove
        .iter()
        .filter(|removal| before.is_voter(removal.node))
        .count();
    let hands_over = count_before == 1 && removed == 1 && !cut.promote.is_empty();
    if removed * 2 >= count_before && !hands_over {
        return Err(Rejected::TooManyVoters {
            removed,
            voters: count_before,
        });
    }

    let is_member = |node: NodeId| members.binary_search_by_key(&node, |m| m.node).is_ok();
    let is_demoted = |node: NodeId| cut.demote.binary_search(&node).is_ok();
    // An absent voter that comes back votes at once: its slot never ceased to be one.
    let mut voters: Vec<NodeId> = before
        .voters()
        .iter()
        .copied()
        .filter(|voter| is_member(*voter) && !is_demoted(*voter))
        .collect();
    let rank = |node: NodeId| order_of(0x566f_7465, before.hash().0, node.0);
    if let Mode::Centralised { ensemble } = mode {
        let room = usize::from(ensemble);
        voters.sort_by_key(|voter| (rank(*voter), *voter));
        voters.truncate(room);
        let mut fresh = cut.promote.clone();
        fresh.sort_by_key(|voter| (rank(*voter), *voter));
        voters.extend(fresh.into_iter().take(room - voters.len()));
    } else {
        voters.extend(&cut.promote);
    }

    let mut absent = Vec::new();
    if count_before >= 3 && voters.len() < 3 {
        let lost = lost_voters(before, cut, members);
        let missing = 3 - voters.len();
        if lost.len() >= missing {
            absent = lost.into_iter().take(missing).collect();
        } else {
            // Left on purpose: with no third slot to keep, one voter must do.
            voters.sort_by_key(|voter| (rank(*voter), *voter));
            voters.truncate(1);
        }
    }
    voters.extend(absent.iter().map(|member: &Member| member.node));
    voters.sort_unstable();
    absent.sort_unstable_by_key(|member| member.node);
    let count = voters.len();
    if count == 0 || count == 2 {
        return Err(Rejected::BadVoterCount(count));
    }
    Ok((voters, absent))
}

/// Voters that did not leave on purpose and are no members: the latest lost first.
fn lost_voters(before: &Configuration, cut: &Cut, members: &[Member]) -> Vec<Member> {
    let failed = cut
        .remove
        .iter()
        .filter(|removal| removal.departure != Departure::Left);
    let fresh = failed
        .filter(|removal| before.is_voter(removal.node))
        .filter_map(|removal| before.member(removal.node));
    let old = before.absent_voters().iter().filter(|slot| {
        members
            .binary_search_by_key(&slot.node, |m| m.node)
            .is_err()
    });
    fresh.chain(old).cloned().collect()
}

/// Makes an acceptable cut of what was detected: members at the address of a newcomer go, and promotions that would
/// lead to two voters, or to more than the ensemble holds, wait. The result may be empty.
pub(crate) fn shape(before: &Configuration, mut cut: Cut) -> Cut {
    let newcomers: BTreeSet<SocketAddr> = cut.add.iter().map(|member| member.address).collect();
    if !newcomers.is_empty() {
        let superseded: Vec<NodeId> = before
            .members()
            .iter()
            .filter(|old| newcomers.contains(&old.address))
            .map(|old| old.node)
            .filter(|node| cut.added(*node).is_none() && !cut.removes(*node))
            .collect();
        cut.remove
            .extend(superseded.into_iter().map(|node| crate::cut::Removal {
                node,
                departure: Departure::Superseded,
            }));
        cut.remove.sort_unstable();
    }
    let removes = cut.remove.clone();
    let removed = |node: &NodeId| removes.binary_search_by_key(node, |r| r.node).is_ok();
    cut.promote.retain(|node| !removed(node));
    let staying = before
        .voters()
        .iter()
        .filter(|voter| !removed(voter) && !cut.demote.contains(voter))
        .filter(|voter| before.member(**voter).is_some() || cut.added(**voter).is_some())
        .count();
    match cut.mode.unwrap_or(before.mode()) {
        Mode::Decentralised => {}
        Mode::Centralised { ensemble } => {
            cut.promote
                .truncate(usize::from(ensemble).saturating_sub(staying));
        }
    }
    let sole_voter_leaves = before.voters().len() == 1 && staying == 0;
    if sole_voter_leaves && cut.promote.len() < 3 {
        cut.promote.truncate(1);
    } else if before.voters().len() == 1 && staying + cut.promote.len() == 2 {
        cut.promote.clear();
    }
    cut
}

#[cfg(test)]
pub(crate) mod tests;
