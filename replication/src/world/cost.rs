//! What a write costs in this crate: three nodes in one thread, nothing lost, nothing waited for.
//!
//! `cargo test --release -p synod-replication cost -- --ignored --nocapture`. The figure includes
//! encoding, decoding, the log's framing and checksums, and the simulated disk; not sockets.

use super::*;

#[test]
#[ignore = "measures; run in release"]
fn cost_of_a_write() {
    let groups = 9;
    let mut plan = Plan::new(1);
    plan.shards = groups;
    plan.clients = 0;
    plan.disk_us = (0, 0);
    let mut world = World::with_options(plan, Options::default());
    world.run_ms(3_000);
    for row in &mut world.links {
        for link in row {
            link.delay_us = (0, 0);
        }
    }
    let data = Bytes::from(vec![7u8; 1_024]);
    let leaders: Vec<usize> = (1..=groups)
        .map(|shard| world.leader(ShardId(shard)).expect("a leader"))
        .collect();
    let applied = |world: &World| world.applied_total;
    let (started, before) = (std::time::Instant::now(), applied(&world));
    let rounds = 2_000;
    for _ in 0..rounds {
        for (at, &node) in leaders.iter().enumerate() {
            let now = world.machines[node].now(world.now);
            let process = world.machines[node].process.as_mut().expect("it runs");
            for _ in 0..14 {
                let shard = ShardId(at as u64 + 1);
                process
                    .replication
                    .propose(now, shard, data.clone())
                    .expect("accepted");
            }
        }
        for node in 0..3 {
            world.settle(node);
        }
        world.run(300);
    }
    world.run_ms(500);
    let elapsed = started.elapsed();
    let writes = rounds * groups * 14;
    assert_eq!(applied(&world) - before, 3 * writes);
    let each = elapsed.as_nanos() as f64 / writes as f64 / 1_000.0;
    eprintln!("{writes} writes of 1 KiB on 3 nodes: {each:.2} us of CPU each");
}
