//! The steady state: joining, crashing, leaving, restarting.

use crate::world::{World, ms};

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

/// The second one fails while the first one's cut is agreed on, which takes its time here: whoever found that out by
/// then says so again at once in the next view, and need not find it out anew.
#[test]
fn an_edge_that_fails_goes_on_failing_in_the_next_view() {
    for seed in 0..5 {
        let mut world = World::cluster(seed, 10);
        let seq = world.seq(0);
        world.crash(9);
        world.until(ms(3_000), "a vote", |w| {
            w.last_sender("FastVotes").is_some()
        });
        world.crash(8);
        let held = ["FastVotes", "Prepare", "Accept", "Views"];
        world.filter = Some(Box::new(move |_, _, message| {
            !held.contains(&message.kind())
        }));
        world.run(ms(3_500));
        assert_eq!(world.seq(0), seq);
        world.filter = None;
        world.until(ms(6_000), "the first cut", |w| w.seq(0) > seq);
        let (first, view) = (world.now, world.view(0).unwrap());
        assert_eq!((view.seq(), view.members().len()), (seq + 1, 9));
        let rest: Vec<usize> = (0..8).collect();
        world.until(ms(6_000), "the second cut", |w| w.agree(&rest));
        let between = world.now.since(first);
        assert!(between < ms(500), "seed {seed}: {between:?}");
    }
}
