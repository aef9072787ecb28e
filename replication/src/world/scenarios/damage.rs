//! Disks that lost something: a replica stands aside until exactly that is back.

use super::*;

/// Rule 20: the bytes of an entry rot. The replica stands aside until exactly this entry is back.
#[test]
fn a_damaged_entry_comes_back_from_a_peer() {
    let mut world = quiet_world(80);
    for _ in 0..5 {
        write(&mut world, 1).expect("the leader serves");
    }
    world.run_ms(300);
    world.kill(0);
    let value = 3u64.to_le_bytes();
    assert!(rot(&world, 0, &value), "the third write is in the log");
    world.start(0);
    assert_eq!(world.counts.get("damaged"), Some(&1));
    // It takes no part: with the leader gone, there is no majority.
    world.isolate(1);
    world.run_ms(1_000);
    assert_eq!(world.counts.get("repaired"), Some(&1), "node 2 has it");
    assert!(world.run_until(4_000, |world| {
        world.leader(S).is_some_and(|leader| leader != 1)
    }));
    world.finish().map(drop).expect("the history holds");
}

#[test]
fn a_replica_with_a_damaged_entry_neither_votes_nor_serves() {
    let mut world = quiet_world(81);
    for _ in 0..5 {
        write(&mut world, 1).expect("the leader serves");
    }
    world.run_ms(300);
    world.kill(0);
    assert!(
        rot(&world, 0, &3u64.to_le_bytes()),
        "the third write is in the log"
    );
    world.isolate(0);
    world.start(0);
    assert!(world.replica(0, S).is_none(), "it stands aside");
    world.kill(1);
    world.links[0][2] = FAIR;
    world.links[2][0].cut = true;
    world.run_ms(4_000);
    assert_eq!(
        world.leader(S),
        None,
        "a vote of a damaged replica was counted"
    );
    world.start(1);
    world.finish().map(drop).expect("the history holds");
}

/// As [`quiet_world`], and nobody's log is cut.
fn with_a_long_log(seed: u64, entry_cache_bytes: usize) -> World {
    let mut plan = Plan::new(seed);
    plan.shards = 1;
    plan.clients = 0;
    plan.quiet_after_ms = 1_000_000;
    let options = Options {
        entry_cache_bytes,
        log_keep_bytes: 1 << 20,
        ..Options::tiny()
    };
    let mut world = World::with_options(plan, options);
    assert!(
        world.run_until(2_000, |world| world.leader(S) == Some(1)),
        "no first leader"
    );
    world.run_ms(300);
    world
}

/// One good copy is enough, whoever has it; without any, nobody takes the entry for one that never was.
#[test]
fn an_entry_that_is_damaged_everywhere_waits_for_one_good_copy() {
    for good in 0..=1 {
        let mut world = with_a_long_log(90 + good, 32 << 10);
        for _ in 0..5 {
            write(&mut world, 1).expect("the leader serves");
        }
        world.run_ms(300);
        for node in 0..3 {
            world.kill(node);
        }
        let wanted = 3u64.to_le_bytes();
        for node in 0..3 - good as usize {
            assert!(rot(&world, node, &wanted), "the third write is in its log");
        }
        for node in 0..3 {
            world.start(node);
        }
        assert_eq!(world.counts.get("damaged"), Some(&(3 - good)));
        world.run_ms(4_000);
        if good == 0 {
            assert_eq!(world.leader(S), None);
            assert_eq!(world.counts.get("repaired"), None);
            // The bit is turned back: a copy was put in.
            world.kill(2);
            assert!(unrot(&world, 2, &wanted), "it is still there");
            world.start(2);
            world.run_ms(4_000);
        }
        assert_eq!(world.counts.get("repaired"), Some(&2), "{good} good copies");
        assert!(world.leader(S).is_some(), "they serve again");
        world.finish().map(drop).expect("the history holds");
    }
}

/// Node 0 was whole again: it takes part, under the id it had, after another crash as well.
fn takes_part_again(mut world: World, seed: u64) {
    world.kill(0);
    world.start(0);
    assert_eq!(world.counts.get("damaged"), Some(&1), "seed {seed}");
    world.kill(2);
    write(&mut world, 1).expect("with it there is a majority");
    let finished = world.finish().map(drop);
    finished.unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
}

/// The others have applied the entry, and let it go: the leader's state takes its place.
#[test]
fn a_damaged_entry_that_no_log_has_any_more_comes_with_a_snapshot() {
    for seed in 92..96 {
        let mut world = quiet_world(seed);
        for _ in 0..5 {
            write(&mut world, 1).expect("the leader serves");
        }
        world.run_ms(100);
        world.kill(0);
        assert!(rot(&world, 0, &3u64.to_le_bytes()), "it is in the log");
        for _ in 0..40 {
            write(&mut world, 1).expect("the others are a majority");
        }
        world.run_ms(2_500);
        let process = world.machines[1].process.as_ref().expect("it runs");
        let first = process.store.log().first_index(S).expect("a replica");
        assert!(
            first > 10,
            "the scenario is void: the log begins at {first}"
        );
        world.start(0);
        assert_eq!(world.counts.get("damaged"), Some(&1), "seed {seed}");
        let whole = world.run_until(6_000, |world| world.replica(0, S).is_some());
        assert!(whole, "seed {seed}: it still stands aside");
        takes_part_again(world, seed);
    }
}

/// A follower was away, and what it lacks is damaged on the leader's disk. raft-rs would have it sent a
/// snapshot, and nobody would learn of the damage.
fn damage_met_while_sending() -> Result<(), String> {
    // What is durable is read from the disk.
    let mut world = with_a_long_log(87, 0);
    write(&mut world, 1)?;
    world.isolate(2);
    for _ in 0..5 {
        write(&mut world, 1)?;
    }
    world.run_ms(300);
    if !rot(&world, 1, &4u64.to_le_bytes()) {
        return Err("the fourth write is not in the log".to_string());
    }
    world.fault(random::Fault::Mend);
    let noticed = |world: &mut World| world.counts.contains_key("damaged");
    if !world.run_until(5_000, noticed) {
        return Err("nobody learned of the damage".to_string());
    }
    let mended = |world: &mut World| world.counts.contains_key("repaired");
    if !world.run_until(5_000, mended) {
        return Err("it was not repaired".to_string());
    }
    if world.counts.contains_key("snapshots") {
        return Err("it was answered with a snapshot".to_string());
    }
    world.finish().map(drop)
}

#[test]
fn a_damaged_entry_is_not_answered_with_a_snapshot() {
    noticed(Bug::SnapshotsForDamage, damage_met_while_sending);
}

/// Rows of a shard's own are bad in the files of a node that starts: it stands aside, and the leader
/// sends it its state, under the replica id that it has.
#[test]
fn lost_rows_come_back_with_a_snapshot() {
    for seed in 82..86 {
        let mut world = quiet_world(seed);
        for _ in 0..5 {
            write(&mut world, 1).expect("the leader serves");
        }
        world.run_ms(300);
        if let Some(process) = &mut world.machines[0].process {
            process.store.checkpoint();
        }
        world.run_ms(300);
        world.kill(0);
        let disk = world.machines[0].disk.clone();
        let file = disk
            .paths()
            .into_iter()
            .find(|path| path.starts_with("values/"))
            .expect("a checkpoint");
        disk.flip_bit(&file, 50, 3);
        world.start(0);
        assert_eq!(world.counts.get("damaged"), Some(&1), "seed {seed}");
        if seed % 2 == 0 {
            // Also when its log ends before the snapshot.
            write(&mut world, 1).expect("the others are a majority");
        }
        let whole = world.run_until(5_000, |world| world.replica(0, S).is_some());
        assert!(whole, "seed {seed}: it still stands aside");
        assert_eq!(world.counts.get("repaired"), Some(&1));
        takes_part_again(world, seed);
    }
}

/// Turns a bit of the entry with this value, wherever its node's log has it.
fn rot(world: &World, node: usize, value: &[u8]) -> bool {
    turn(world, node, value, [b'x'; 20])
}

/// Turns it back.
fn unrot(world: &World, node: usize, value: &[u8]) -> bool {
    let mut padding = [b'x'; 20];
    padding[15 - 9] ^= 1 << 3;
    turn(world, node, value, padding)
}

/// Turns a bit behind this value, the first place where such bytes follow it.
fn turn(world: &World, node: usize, value: &[u8], padding: [u8; 20]) -> bool {
    let disk = &world.machines[node].disk;
    let mut pattern = vec![KEY.1];
    pattern.extend_from_slice(value);
    pattern.extend_from_slice(&padding);
    for path in disk.paths() {
        let content = disk.content(&path).unwrap_or_default();
        if let Some(at) = content
            .windows(pattern.len())
            .position(|window| window == pattern)
        {
            disk.flip_bit(&path, at as u64 + 15, 3);
            return true;
        }
    }
    false
}
