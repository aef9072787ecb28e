//! The steady state: joining, crashing, leaving, restarting.

mod world;

use world::{World, ms};

#[test]
fn five_nodes_form_a_cluster() {
    let world = World::cluster(1, 5);
    assert!(world.agree(&[0, 1, 2, 3, 4]));
}

#[test]
fn a_crashed_node_is_removed_within_three_seconds() {
    for seed in 0..20 {
        let mut world = World::cluster(seed, 5);
        world.crash(3);
        world.until(ms(3_000), "view without the crashed node", |w| {
            w.agree(&[0, 1, 2, 4])
        });
    }
}

#[test]
fn a_restarted_node_is_back_within_two_seconds() {
    for seed in 0..20 {
        let mut world = World::cluster(seed, 5);
        world.crash(3);
        world.run(ms(50));
        world.restart(3);
        world.until(ms(2_000), "the restarted node", |w| {
            w.agree(&[0, 1, 2, 3, 4])
        });
    }
}

#[test]
fn a_node_leaves_and_is_told() {
    for count in 1..8 {
        let mut world = World::cluster(count as u64, count);
        world.event(count - 1, synod_membership::event::Event::Leave);
        let rest: Vec<usize> = (0..count - 1).collect();
        world.until(ms(3_000), "departure", |w| {
            w.hosts[count - 1].left && (rest.is_empty() || w.agree(&rest))
        });
    }
}
