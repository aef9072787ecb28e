//! Seats that are alike.
//!
//! The solver decides seat by seat, and may let a node change seats within a shard: who sat in the second goes to the
//! first, and another one comes. A replica is where it is, whatever its seat is called; carried out to the letter, such
//! a decision copies a shard twice where once does, and takes a node's replica away to bring it back. So, unless a
//! policy speaks of seats, who sits in a shard keeps the seat, and who comes takes that of who goes.

use std::collections::{BTreeMap, BTreeSet};

use synod_replication::NodeId;
use synod_storage::ShardId;

use super::filter::Standing;

/// Where decisions go: of a shard's seat, or of its leader if there is no number.
pub(super) type Ends = BTreeMap<(ShardId, Option<u32>), Option<NodeId>>;

/// Whether policies tell the seats of a shard apart.
pub(super) fn tell_apart(policies: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut words = policies.split(|c| !is_word(c));
    words.any(|word| word.eq_ignore_ascii_case("slot"))
}

/// Lets those who stay keep their seats.
pub(super) fn reseat(ends: &mut Ends, standing: &BTreeMap<ShardId, Standing>) {
    let shards: BTreeSet<ShardId> = ends.keys().map(|(shard, _)| *shard).collect();
    for shard in shards {
        let Some(present) = standing.get(&shard).and_then(seats) else {
            continue;
        };
        let key = |slot: usize| (shard, u32::try_from(slot).ok());
        let wanted: Option<Vec<NodeId>> = present
            .iter()
            .enumerate()
            .map(|(slot, node)| ends.get(&key(slot)).map_or(Some(*node), |end| *end))
            .collect();
        let Some(wanted) = wanted.filter(|wanted| are_distinct(wanted)) else {
            continue;
        };
        let mut coming = wanted.iter().filter(|node| !present.contains(node));
        for (slot, node) in present.iter().enumerate() {
            let successor = (!wanted.contains(node)).then(|| coming.next()).flatten();
            match successor {
                Some(newcomer) => ends.insert(key(slot), Some(*newcomer)),
                None => ends.remove(&key(slot)),
            };
        }
    }
}

/// Who sits in a shard that has all its seats taken, each by another node.
fn seats(standing: &Standing) -> Option<Vec<NodeId>> {
    let seats: Option<Vec<NodeId>> = standing.seats.iter().copied().collect();
    seats.filter(|seats| are_distinct(seats))
}

fn are_distinct(nodes: &[NodeId]) -> bool {
    nodes.iter().collect::<BTreeSet<_>>().len() == nodes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(7);

    fn after(present: [Option<u128>; 3], ends: &[(u32, u128)]) -> Vec<(Option<u32>, u128)> {
        let standing = Standing {
            seats: present.iter().map(|node| node.map(NodeId)).collect(),
            ..Standing::default()
        };
        let ends = ends.iter();
        let mut ends: Ends = ends
            .map(|(slot, node)| ((SHARD, Some(*slot)), Some(NodeId(*node))))
            .collect();
        ends.insert((SHARD, None), Some(NodeId(9)));
        reseat(&mut ends, &BTreeMap::from([(SHARD, standing)]));
        let ends = ends.into_iter();
        ends.filter_map(|((_, slot), node)| Some((slot, node?.0)))
            .collect()
    }

    #[test]
    fn who_stays_keeps_the_seat_and_who_comes_takes_that_of_who_goes() {
        let present = [Some(1), Some(2), Some(3)];
        assert_eq!(after(present, &[(0, 4), (1, 1)]), [(None, 9), (Some(1), 4)]);
        assert_eq!(after(present, &[(0, 2), (1, 1)]), [(None, 9)]);
        assert_eq!(
            after(present, &[(0, 3), (1, 4), (2, 5)]),
            [(None, 9), (Some(0), 4), (Some(1), 5)]
        );
        assert_eq!(after(present, &[(2, 4)]), [(None, 9), (Some(2), 4)]);
    }

    #[test]
    fn vacant_seats_and_doubled_nodes_are_left_alone() {
        let vacant = [Some(1), None, Some(3)];
        let both = [(None, 9), (Some(0), 3), (Some(2), 1)];
        assert_eq!(after(vacant, &[(0, 3), (2, 1)]), both);
        let present = [Some(1), Some(2), Some(3)];
        assert_eq!(after(present, &[(0, 2)]), [(None, 9), (Some(0), 2)]);
    }

    #[test]
    fn a_policy_that_speaks_of_slots_is_heard() {
        assert!(tell_apart("SELECT * FROM replicas WHERE replicas.Slot = 0"));
        assert!(!tell_apart("SELECT slots, a_slot FROM x"));
    }
}
