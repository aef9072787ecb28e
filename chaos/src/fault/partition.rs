//! Partitions: which directions between nodes a fault cuts, in the simulator and for real.

use rand::Rng;

use super::Fault;

/// From one node to another.
pub(crate) type Direction = (usize, usize);

/// The directions that a partition cuts, and its details in words. `victims` are all nodes in an order
/// drawn by lot, or the one that is struck.
pub(crate) fn cuts(
    fault: Fault,
    victims: &[usize],
    nodes: usize,
    rng: &mut impl Rng,
) -> (Vec<Direction>, String) {
    match fault {
        Fault::Halves | Fault::Bridge => {
            // The node in the middle of a bridge is in neither half.
            let sides = &victims[usize::from(fault == Fault::Bridge)..];
            let (one, other) = sides.split_at(sides.len() / 2);
            (between(one, other), format!(" {one:?} {other:?}"))
        }
        Fault::Ring => (ring(victims), String::new()),
        Fault::OneWay => {
            let deaf = rng.random_bool(0.5);
            let others = (0..nodes).filter(|other| *other != victims[0]);
            let cuts = others.map(|other| match deaf {
                true => (other, victims[0]),
                false => (victims[0], other),
            });
            let what = if deaf { " deaf" } else { " mute" };
            (cuts.collect(), what.to_owned())
        }
        _ => (around(victims[0], nodes), String::new()),
    }
}

/// Everything between one node and all others.
pub(crate) fn around(node: usize, nodes: usize) -> Vec<Direction> {
    let others: Vec<usize> = (0..nodes).filter(|other| *other != node).collect();
    between(&[node], &others)
}

/// Everything between two sides.
pub(crate) fn between(one: &[usize], other: &[usize]) -> Vec<Direction> {
    let pairs = one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b)));
    pairs.flat_map(|(a, b)| [(a, b), (b, a)]).collect()
}

/// Each node reaches its two neighbours; of three, all are neighbours: one of the links goes.
fn ring(victims: &[usize]) -> Vec<Direction> {
    let nodes = victims.len();
    let mut cuts = Vec::new();
    for (place, from) in victims.iter().enumerate() {
        for (other, to) in victims.iter().enumerate() {
            let apart = (place + nodes - other) % nodes;
            let is_cut = match nodes {
                3 => place + other == 1,
                _ => apart > 1 && apart < nodes - 1,
            };
            if is_cut {
                cuts.push((*from, *to));
            }
        }
    }
    cuts
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn partitions_cut_what_they_say() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut of = |fault, victims: &[usize], nodes| {
            let (mut cuts, _) = cuts(fault, victims, nodes, &mut rng);
            cuts.sort_unstable();
            cuts
        };
        assert_eq!(of(Fault::Ring, &[2, 0, 1], 3), [(0, 2), (2, 0)]);
        assert_eq!(
            of(Fault::Ring, &[0, 1, 2, 3], 4),
            [(0, 2), (1, 3), (2, 0), (3, 1)]
        );
        assert_eq!(
            of(Fault::Isolate, &[1], 3),
            [(0, 1), (1, 0), (1, 2), (2, 1)]
        );
        assert_eq!(of(Fault::Bridge, &[1, 0, 2], 3), [(0, 2), (2, 0)]);
        assert_eq!(of(Fault::Halves, &[1, 0, 2], 3).len(), 4);
        assert_eq!(of(Fault::OneWay, &[1], 5).len(), 4);
    }
}
