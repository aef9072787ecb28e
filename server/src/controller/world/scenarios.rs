//! What the controller is for, one scenario each.

use super::*;

const MB: u64 = 1 << 20;
const MINUTE: u64 = 60 * SECOND;

fn zone_of(n: u32) -> &'static str {
    ["a", "b", "c"][n as usize % 3]
}

/// A settled cluster of `nodes` in three zones.
fn cluster(seed: u64, nodes: u32, shards: u64, bytes: u64) -> World {
    let mut world = World::founded(seed, &[(node(0), "a")], shards, bytes);
    for n in 1..nodes {
        world.join(node(n), zone_of(n));
    }
    world.run(SECOND * 2);
    world.settle(20 * MINUTE);
    world.assert_whole();
    world
}

/// A settled cluster that was founded on all of its `nodes`.
fn founded_on(seed: u64, nodes: u32, shards: u64, bytes: u64) -> World {
    let first: Vec<(NodeId, &str)> = (0..nodes).map(|n| (node(n), zone_of(n))).collect();
    let mut world = World::founded(seed, &first, shards, bytes);
    world.run(SECOND * 2);
    world.settle(20 * MINUTE);
    world.assert_whole();
    world
}

#[test]
fn a_cluster_of_one_does_nothing() {
    let mut world = World::founded(1, &[(node(0), "a")], 8, 10 * MB);
    world.settle(MINUTE);
    world.assert_whole();
    assert_eq!(world.orders, 0);
}

#[test]
fn a_second_node_gets_learners_and_a_third_makes_voters() {
    let mut world = World::founded(2, &[(node(0), "a")], 4, 10 * MB);
    world.run(5 * SECOND);
    world.join(node(1), "b");
    world.run(2 * SECOND);
    world.settle(5 * MINUTE);
    world.assert_whole();
    world.join(node(2), "c");
    world.run(2 * SECOND);
    world.settle(5 * MINUTE);
    world.assert_whole();
}

#[test]
fn growth_from_one_to_five_spreads_replicas_and_leaders() {
    let world = cluster(3, 5, 20, 10 * MB);
    let leaders = world.leaders();
    assert!(
        leaders.len() == 5 && leaders.values().all(|n| *n <= 5),
        "{leaders:?}"
    );
    let bytes = world.bytes();
    assert!(
        bytes.len() == 5 && bytes.values().all(|n| *n >= 40 * MB),
        "{bytes:?}"
    );
    // Two copies of each shard are the least that three replicas need.
    let least = 20 * 2 * 10 * MB + 2 * MB;
    assert!(
        world.copied_bytes * 10 <= least * 15,
        "{} MB were copied, {} MB are needed",
        world.copied_bytes / MB,
        least / MB
    );
}

#[test]
fn a_settled_cluster_does_not_move() {
    let mut world = cluster(4, 5, 20, 10 * MB);
    let orders = world.orders;
    // Loads waver by less than a tenth; controllers come and go.
    for round in 0..20_u64 {
        for shard in world.shards.values_mut() {
            let waver = 95 + round % 11;
            shard.load.bytes = 10 * MB * waver / 100;
        }
        world.run(30 * SECOND);
    }
    assert_eq!(world.orders, orders, "{}", world.describe());
}

#[test]
fn a_lost_node_is_awaited_then_replaced() {
    let mut world = cluster(5, 5, 20, 10 * MB);
    let orders = world.orders;
    world.kill(node(3));
    world.run(10 * SECOND);
    assert_eq!(world.orders, orders, "it may come back");
    world.run(30 * SECOND);
    assert!(world.orders > orders, "{}", world.describe());
    world.settle(10 * MINUTE);
    world.assert_whole();
    // And back it comes: it gets its share again, and then nothing moves.
    world.restart(node(3));
    world.run(2 * SECOND);
    world.settle(10 * MINUTE);
    world.assert_whole();
    assert!(world.bytes().contains_key(&node(3)), "{:?}", world.bytes());
}

/// Two nodes of a zone take over from the third, and have room for two and eight of its ten shards and no more: what is
/// on its way to a node takes its place there at once.
#[test]
fn copies_under_way_fill_no_node_beyond_its_capacity() {
    for seed in 30..33 {
        let mut world = founded_on(seed, 9, 30, 10 * MB);
        for (id, simulated) in &mut world.nodes {
            let megabytes = if *id == node(2) { 126 } else { 186 };
            let capacity = (megabytes * MB).to_string();
            let label = ("capacity_bytes".to_owned(), capacity);
            simulated.labels.extend([label]);
        }
        world.run(MINUTE);
        world.kill(node(8));
        world.run(MINUTE);
        world.settle(20 * MINUTE);
        world.assert_whole();
        let bytes = world.bytes();
        let full = [node(2), node(5)].map(|node| bytes[&node] / (10 * MB));
        assert_eq!(full, [12, 18], "{bytes:?}");
    }
}

#[test]
fn a_copy_begun_by_hand_is_not_taken_away_at_once() {
    let mut world = cluster(9, 5, 20, 10 * MB);
    let orders = world.orders;
    let shard = &world.shards[&ShardId(3)];
    let is_free = |node: &NodeId| shard.descriptor.replicas.iter().all(|it| it.node != *node);
    let free = (0..5).map(node).find(is_free).expect("three of five");
    world.add_by_hand(ShardId(3), free);
    world.run(50 * SECOND);
    assert_eq!(world.orders, orders, "the operator may be about to go on");
    world.run(30 * SECOND);
    assert_eq!(world.shards[&ShardId(3)].learners(), 0, "nobody did");
}

#[test]
fn a_node_that_comes_back_at_once_costs_no_copy() {
    let mut world = cluster(6, 5, 20, 10 * MB);
    let copied = world.copied_bytes;
    world.kill(node(3));
    world.run(6 * SECOND);
    world.restart(node(3));
    world.run(MINUTE);
    world.settle(10 * MINUTE);
    assert_eq!(world.copied_bytes, copied);
}

#[test]
fn a_drain_ends_with_an_empty_node() {
    let mut world = cluster(7, 5, 20, 10 * MB);
    world.set_duty(node(2), Duty::Leaving);
    world.run(SECOND);
    world.settle(10 * MINUTE);
    world.assert_whole();
    assert!(!world.bytes().contains_key(&node(2)));
    assert_eq!(world.emptied, BTreeSet::from([node(2)]));
}

#[test]
fn a_drain_that_nobody_can_take_over_waits() {
    let mut world = cluster(8, 3, 6, 10 * MB);
    let orders = world.orders;
    world.set_duty(node(2), Duty::Draining);
    world.run(2 * MINUTE);
    let voters = |world: &World| {
        world
            .shards
            .values()
            .all(|shard| shard.voters().count() == 3)
    };
    assert!(voters(&world), "no replica is given up for a drain");
    world.join(node(3), "c");
    world.run(2 * SECOND);
    world.settle(10 * MINUTE);
    world.assert_whole();
    assert!(!world.bytes().contains_key(&node(2)), "{orders}");
}

/// No replica of the first shard in zone c.
fn domiciled(policies: &Policies) -> Policies {
    let mut policies = policies.clone();
    policies.version += 1;
    policies.policies.push(super::super::records::Policy {
        name: "domicile".to_owned(),
        since: policies.version,
        sql: "CREATE CONSTRAINT domicile AS SELECT * FROM replicas r \
              JOIN nodes n ON n.node_id = r.controllable__node \
              WHERE r.shard_id = 1 CHECK n.zone <> 'c';"
            .to_owned(),
    });
    // Two zones are left for three replicas.
    for policy in &mut policies.policies {
        if policy.name == "zone-spread" {
            policy.sql = policy
                .sql
                .replace("CHECK count(*) <=", "CHECK count(*) <= 1 +");
        }
    }
    policies
}

#[test]
fn a_policy_moves_what_it_must_and_nothing_else() {
    let mut world = cluster(9, 6, 18, 10 * MB);
    let before = world.shards.clone();
    let bad = |world: &World, shard: u64| {
        let voters: Vec<NodeId> = world.shards[&ShardId(shard)].voters().collect();
        let in_c = voters
            .iter()
            .filter(|n| invariants::zone(&world.nodes, **n) == "c")
            .count();
        in_c as u64
    };
    let must: u64 = bad(&world, 1);
    let copied = world.copied_bytes;
    let policies = domiciled(&world.policies);
    world.invariants.relaxed_zones = true;
    world.set_policies(policies);
    world.run(SECOND);
    world.settle(10 * MINUTE);
    assert_eq!(bad(&world, 1), 0, "{}", world.describe());
    assert_eq!((world.copied_bytes - copied) / (10 * MB), must);
    for (id, shard) in &world.shards {
        let (old, new): (BTreeSet<_>, BTreeSet<_>) =
            (before[id].voters().collect(), shard.voters().collect());
        assert!(old == new || id.0 == 1, "shard {id} moved");
    }
}

#[test]
fn a_zone_is_lost_and_returns() {
    let mut world = cluster(10, 9, 30, 10 * MB);
    for n in (0..9).filter(|n| zone_of(*n) == "b") {
        world.kill(node(n));
    }
    world.run(3 * MINUTE);
    world.settle(20 * MINUTE);
    world.assert_whole();
    for n in (0..9).filter(|n| zone_of(*n) == "b") {
        world.restart(node(n));
    }
    world.run(5 * SECOND);
    world.settle(20 * MINUTE);
    world.assert_whole();
}

/// Who votes for which shard.
fn placement(world: &World) -> BTreeMap<ShardId, BTreeSet<NodeId>> {
    let shards = world.shards.iter();
    shards
        .map(|(id, shard)| (*id, shard.voters().collect()))
        .collect()
}

/// A drain, and a controller that ends before its n-th effect: what became of it, and how many effects there were.
fn drained(kill: Option<KillAt>) -> (BTreeMap<ShardId, BTreeSet<NodeId>>, u64) {
    let mut world = cluster(11, 5, 8, 10 * MB);
    let seen = world.effects_seen;
    world.kill_at = kill.map(|kill| match kill {
        KillAt::Node(n) => KillAt::Node(seen + n),
        KillAt::Leadership(n) => KillAt::Leadership(seen + n),
    });
    world.set_duty(node(4), Duty::Draining);
    world.run(SECOND);
    world.settle(20 * MINUTE);
    world.assert_whole();
    assert!(!world.bytes().contains_key(&node(4)));
    (placement(&world), world.effects_seen - seen)
}

#[test]
fn a_controller_killed_at_any_step_changes_nothing_of_the_end() {
    let (_, effects) = drained(None);
    for n in 1..=effects {
        drained(Some(KillAt::Node(n)));
    }
}

#[test]
fn a_successor_at_any_step_ends_in_the_same_target() {
    let (undisturbed, effects) = drained(None);
    for n in 1..=effects {
        let (placement, _) = drained(Some(KillAt::Leadership(n)));
        assert_eq!(
            placement, undisturbed,
            "the controller ended before effect {n}"
        );
    }
}

#[test]
fn an_irreparable_replica_is_replaced_also_on_the_same_node() {
    for nodes in [3, 5] {
        let mut world = cluster(12, nodes, 6, 10 * MB);
        let mut old = Vec::new();
        for shard in [ShardId(1), ShardId(2)] {
            let victim = world.shards[&shard].voters().next().expect("three voters");
            old.push(world.damage(shard, victim));
        }
        world.run(SECOND);
        world.settle(10 * MINUTE);
        world.assert_whole();
        let mut named = world.shards.values().flat_map(|it| &it.descriptor.replicas);
        assert!(
            named.all(|it| !old.contains(&it.replica)),
            "{}",
            world.describe()
        );
        assert!(world.damaged.is_empty(), "what was noted is deleted");
    }
}

#[test]
fn an_irreparable_replica_stays_while_its_removal_would_stop_the_shard() {
    let mut world = cluster(13, 3, 4, 10 * MB);
    let voters: Vec<NodeId> = world.shards[&ShardId(1)].voters().collect();
    world.kill(voters[1]);
    world.run(4 * SECOND);
    let old = world.damage(ShardId(1), voters[0]);
    world.run(MINUTE);
    let named = |world: &World| {
        let mut replicas = world.shards[&ShardId(1)].descriptor.replicas.iter();
        replicas.any(|it| it.replica == old)
    };
    assert!(named(&world), "one of the other two is away");
    world.restart(voters[1]);
    world.run(SECOND);
    world.settle(10 * MINUTE);
    world.assert_whole();
    assert!(!named(&world), "{}", world.describe());
}

/// `SYNOD_SEEDS=100` asks for so many, `SYNOD_SEEDS=40-60` for these.
fn seeds(default: u64) -> std::ops::Range<u64> {
    let given = std::env::var("SYNOD_SEEDS").ok();
    let number = |text: &str| text.parse().ok();
    let range = given.and_then(|text| match text.split_once('-') {
        Some((first, end)) => Some(number(first)?..number(end)?),
        None => Some(0..number(&text)?),
    });
    range.unwrap_or(0..default)
}

#[test]
fn small_clusters_survive_everything() {
    for seed in seeds(6) {
        println!("seed {seed}");
        let mut world = cluster(1000 + seed, 7, 12, 10 * MB);
        world.loss_permille = 30;
        storm(&mut world, 7, 12);
    }
}

#[test]
fn fifty_nodes_survive_everything() {
    for seed in seeds(1) {
        println!("seed {seed}");
        let mut world = match seed % 10 {
            // To grow takes longer than all the rest.
            0 => cluster(2000 + seed, 50, 500, 4 * MB),
            _ => founded_on(2000 + seed, 50, 500, 4 * MB),
        };
        world.loss_permille = 10;
        storm(&mut world, 50, 4);
    }
}

/// Elections pile leaders up, one node after another, while answers and reports get lost: plans are replaced while
/// their steps are under way, and a leader has gone before that is known here. What a step took away must not be
/// fetched back, though a later plan would have it there.
#[test]
fn leaders_do_not_oscillate_when_elections_crowd_them() {
    let mut orders = 0;
    for seed in seeds(4) {
        let mut world = founded_on(3000 + seed, 5, 12, 10 * MB);
        world.loss_permille = 300;
        let before = world.orders;
        for _ in 0..40 {
            let crowded = node(world.rng.random_range(0..5));
            world.crowd(crowded);
            world.hush_transfers = world.rng.random_bool(0.5);
            let pause = world.rng.random_range(1..12);
            world.run(pause * SECOND);
            world.hush_transfers = false;
            world.hushed.clear();
        }
        orders += world.orders - before;
    }
    assert!(orders > 0, "no leader was moved");
}

fn rolling_restart(world: &mut World, nodes: u32) {
    for n in 0..nodes {
        world.kill(node(n));
        world.run(6 * SECOND);
        world.restart(node(n));
        world.run(4 * SECOND);
    }
}

/// A zone goes, and comes back after a while.
fn lose_a_zone(world: &mut World, nodes: u32) {
    let zone: Vec<NodeId> = (0..nodes)
        .filter(|n| zone_of(*n) == "b")
        .map(node)
        .collect();
    for node in &zone {
        world.kill(*node);
    }
    let away = world.rng.random_range(2..150);
    world.run(away * SECOND);
    for node in zone {
        world.restart(node);
    }
}

/// Replicas stay where they may not stand any more until they are moved.
fn change_policies(world: &mut World, policies: Policies) {
    world.invariants.relaxed_zones = true;
    let version = world.policies.version + 1;
    world.set_policies(Policies {
        version,
        ..policies
    });
}

/// Restarts, losses, joins, drains and growth, one after the other; then all is well again.
fn storm(world: &mut World, nodes: u32, rounds: u32) {
    let mut dead: Vec<NodeId> = Vec::new();
    let mut joined = nodes;
    for _ in 0..rounds {
        let any = node(world.rng.random_range(0..nodes));
        match world.rng.random_range(0..10) {
            0 => rolling_restart(world, nodes.min(5)),
            1 if dead.is_empty() => {
                world.kill(any);
                dead.push(any);
            }
            2 => {
                for node in dead.drain(..) {
                    world.restart(node);
                }
            }
            3 => {
                world.join(node(joined), zone_of(joined));
                joined += 1;
            }
            4 => world.set_duty(any, Duty::Draining),
            5 => {
                for id in world.duties.keys().copied().collect::<Vec<_>>() {
                    world.set_duty(id, Duty::Up);
                }
            }
            6 if dead.is_empty() => lose_a_zone(world, joined),
            7 => change_policies(world, domiciled(&defaults::policies())),
            8 => change_policies(world, defaults::policies()),
            _ => {
                for shard in world.shards.values_mut() {
                    shard.load.bytes = shard.load.bytes * 13 / 10;
                }
            }
        }
        let pause = world.rng.random_range(1..90);
        world.run(pause * SECOND);
    }
    for node in dead {
        world.restart(node);
    }
    for id in world.duties.keys().copied().collect::<Vec<_>>() {
        world.set_duty(id, Duty::Up);
    }
    world.loss_permille = 0;
    world.run(5 * SECOND);
    world.settle(60 * MINUTE);
    world.assert_whole();
    let orders = world.orders;
    world.run(15 * MINUTE);
    assert_eq!(world.orders, orders, "settled, and still moving");
}
