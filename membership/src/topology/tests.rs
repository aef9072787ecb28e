use super::*;
use std::collections::BTreeSet;

fn topology(count: u128) -> Topology {
    Topology::new((1..=count).map(NodeId), Overlay::default())
}

#[test]
fn observers_are_distinct_and_subjects_mirror_them() {
    for count in [1_u128, 2, 3, 5, 11, 17, 100] {
        let topology = topology(count);
        let mut edges = BTreeSet::new();
        for subject in 0..count as u32 {
            let observers = topology.observers(subject);
            assert_eq!(observers.len(), 10.min(count as usize - 1));
            let distinct: BTreeSet<_> = observers.iter().collect();
            assert_eq!(distinct.len(), observers.len());
            assert!(!distinct.contains(&subject));
            edges.extend(
                observers
                    .iter()
                    .enumerate()
                    .map(|(r, o)| (*o, subject, r as u8)),
            );
        }
        let mirrored: BTreeSet<_> = (0..count as u32)
            .flat_map(|o| topology.subjects(o).iter().map(move |(s, r)| (o, *s, *r)))
            .collect();
        assert_eq!(edges, mirrored);
    }
}

/// The table of small clusters.
#[test]
fn watermarks_scale_with_the_cluster() {
    let expected: &[(u128, (usize, usize, usize))] = &[
        (3, (2, 2, 2)),
        (4, (3, 3, 3)),
        (5, (4, 4, 3)),
        (7, (6, 6, 4)),
        (10, (9, 9, 6)),
        (11, (10, 9, 6)),
        (12, (10, 9, 6)),
        (13, (10, 9, 5)),
        (14, (10, 9, 5)),
        (15, (10, 9, 4)),
        (16, (10, 9, 4)),
        (17, (10, 9, 3)),
        (1000, (10, 9, 3)),
    ];
    for (count, (k, h, l)) in expected {
        let found = topology(*count).member_watermarks();
        assert_eq!(
            found,
            Watermarks {
                k: *k,
                h: *h,
                l: *l
            },
            "N = {count}"
        );
    }
}

#[test]
fn a_joiner_gets_the_observers_that_it_would_have() {
    let joiner = NodeId(50);
    let without = Topology::new(
        (1..=100).filter(|n| *n != 50).map(NodeId),
        Overlay::default(),
    );
    let with = topology(100);
    let before: Vec<NodeId> = without
        .joiner_observers(joiner)
        .iter()
        .map(|o| without.nodes[*o as usize])
        .collect();
    let after: Vec<NodeId> = with
        .observers(49)
        .iter()
        .map(|o| with.nodes[*o as usize])
        .collect();
    assert_eq!(before, after);
    assert_eq!(topology(1).joiner_observers(NodeId(9)), [0]);
}
