//! The voter law, case by case.

use std::sync::Arc;

use super::*;
use crate::configuration::Overlay;
use crate::cut::Removal;
use crate::id::{Boot, ClusterId};

pub(crate) fn member(index: u8) -> Member {
    Member {
        node: NodeId(u128::from(index)),
        boot: Boot::first(u64::from(index)),
        address: ([10, 0, 0, index], 7000).into(),
        labels: Arc::default(),
    }
}

pub(crate) fn founded(count: u8) -> Configuration {
    let members = (1..=count).map(member).collect();
    Configuration::founded(
        ClusterId(1),
        Mode::Decentralised,
        Overlay::default(),
        members,
    )
}

pub(crate) fn remove(nodes: &[u8], departure: Departure) -> Cut {
    let removal = |index: &u8| Removal {
        node: NodeId(u128::from(*index)),
        departure,
    };
    Cut {
        remove: nodes.iter().map(removal).collect(),
        ..Cut::default()
    }
}

fn nodes(indexes: &[u8]) -> Vec<NodeId> {
    indexes
        .iter()
        .map(|index| NodeId(u128::from(*index)))
        .collect()
}

#[test]
fn a_joiner_does_not_vote_and_two_voters_there_never_are() {
    let one = founded(1);
    let two = one
        .successor(&Cut {
            add: vec![member(2)],
            ..Cut::default()
        })
        .unwrap();
    assert_eq!(two.voters(), nodes(&[1]));
    let promote = Cut {
        promote: nodes(&[2]),
        ..Cut::default()
    };
    assert_eq!(
        two.successor(&promote).unwrap_err(),
        Rejected::BadVoterCount(2)
    );
    assert!(shape(&two, promote).is_empty());
    let three = two
        .successor(&Cut {
            add: vec![member(3)],
            ..Cut::default()
        })
        .unwrap();
    let promoted = three
        .successor(&Cut {
            promote: nodes(&[2, 3]),
            ..Cut::default()
        })
        .unwrap();
    assert_eq!(promoted.voters().len(), 3);
}

#[test]
fn a_crash_of_one_of_three_keeps_its_slot_until_three_can_vote() {
    let two = founded(3)
        .successor(&remove(&[3], Departure::Failed))
        .unwrap();
    assert_eq!((two.members().len(), two.voters().len()), (2, 3));
    assert_eq!(two.absent_voters(), [member(3)]);
    // A fourth takes the slot once it can vote.
    let joined = two
        .successor(&Cut {
            add: vec![member(4)],
            ..Cut::default()
        })
        .unwrap();
    assert_eq!(joined.voters(), nodes(&[1, 2, 3]));
    let full = joined
        .successor(&Cut {
            promote: nodes(&[4]),
            ..Cut::default()
        })
        .unwrap();
    assert_eq!(full.voters(), nodes(&[1, 2, 4]));
    assert!(full.absent_voters().is_empty());
    // Or the lost one comes back, as a later boot, and votes at once.
    let mut returned = member(3);
    returned.boot = returned.boot.next(77);
    let back = two
        .successor(&Cut {
            add: vec![returned],
            ..Cut::default()
        })
        .unwrap();
    assert_eq!((back.voters().len(), back.absent_voters().len()), (3, 0));
}

#[test]
fn a_planned_leave_of_one_of_three_leaves_one_voter() {
    let two = founded(3)
        .successor(&remove(&[2], Departure::Left))
        .unwrap();
    assert_eq!((two.members().len(), two.voters().len()), (2, 1));
}

#[test]
fn half_of_the_voters_or_more_cannot_be_removed() {
    for (count, most) in [(1_u8, 0), (3, 1), (4, 1), (5, 2), (6, 2), (7, 3)] {
        let config = founded(count);
        for removed in 1..=count {
            let gone: Vec<u8> = (1..=removed).collect();
            let found = config.successor(&remove(&gone, Departure::Failed)).is_ok();
            assert_eq!(found, removed <= most, "{removed} of {count}");
        }
    }
}

#[test]
fn a_sole_voter_hands_over_in_the_cut_in_which_it_leaves() {
    let joined = founded(1)
        .successor(&Cut {
            add: vec![member(2)],
            ..Cut::default()
        })
        .unwrap();
    assert!(joined.successor(&remove(&[1], Departure::Left)).is_err());
    let handover = Cut {
        promote: nodes(&[2]),
        ..remove(&[1], Departure::Left)
    };
    let after = joined.successor(&handover).unwrap();
    assert_eq!(
        (after.voters(), after.members().len()),
        (&nodes(&[2])[..], 1)
    );
}

#[test]
fn a_newcomer_at_a_members_address_supersedes_it() {
    let config = founded(5);
    let mut newcomer = member(9);
    newcomer.address = member(4).address;
    let cut = Cut {
        add: vec![newcomer.clone()],
        ..Cut::default()
    };
    assert_eq!(
        config.successor(&cut).unwrap_err(),
        Rejected::AddressTaken(newcomer.address)
    );
    let shaped = shape(&config, cut);
    assert!(shaped.removes(NodeId(4)));
    assert_eq!(config.successor(&shaped).unwrap().members().len(), 5);
}

#[test]
fn stale_boots_and_strangers_are_rejected() {
    let config = founded(3);
    let again = Cut {
        add: vec![member(2)],
        ..Cut::default()
    };
    assert_eq!(
        config.successor(&again).unwrap_err(),
        Rejected::StaleBoot(NodeId(2))
    );
    let stranger = remove(&[9], Departure::Failed);
    assert_eq!(
        config.successor(&stranger).unwrap_err(),
        Rejected::NotApplicable(NodeId(9))
    );
    assert_eq!(
        config.successor(&Cut::default()).unwrap_err(),
        Rejected::Empty
    );
}

#[test]
fn an_ensemble_is_kept_at_its_size() {
    let mode = Mode::Centralised { ensemble: 3 };
    let config = founded(7)
        .successor(&Cut {
            mode: Some(mode),
            ..Cut::default()
        })
        .unwrap();
    assert_eq!(config.voters().len(), 3);
    let two = Mode::Centralised { ensemble: 2 };
    let cut = Cut {
        mode: Some(two),
        ..Cut::default()
    };
    assert_eq!(
        config.successor(&cut).unwrap_err(),
        Rejected::EnsembleTooSmall(2)
    );
    let lost = config.voters()[0];
    let removal = Removal {
        node: lost,
        departure: Departure::Failed,
    };
    let less = config
        .successor(&Cut {
            remove: vec![removal],
            ..Cut::default()
        })
        .unwrap();
    assert!(less.wants_voters() && less.voters().len() == 3);
}

#[test]
fn a_configuration_comes_back_from_its_bytes_and_no_other_hash_does() {
    use crate::codec::{Decode, Encode};
    let config = founded(5);
    let bytes = config.to_bytes();
    assert_eq!(Configuration::from_bytes(&bytes).unwrap(), config);
    for at in 0..bytes.len() {
        let mut other = bytes.clone();
        other[at] ^= 1;
        assert!(Configuration::from_bytes(&other).is_err(), "byte {at}");
    }
}
