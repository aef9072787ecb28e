//! Many nodes in one process. `SCALE_NODES=2000 cargo test --release --test scale -- --nocapture` shows the figures.

mod world;

use std::collections::BTreeSet;
use std::time::Instant;

use world::{World, ms};

fn nodes() -> usize {
    std::env::var("SCALE_NODES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(150)
}

#[test]
fn many_join_through_one_seed_and_ten_crash_at_once() {
    let count = nodes();
    let mut world = World::new(7);
    world.latency = ms(1);
    world.encode = false;
    for _ in 0..count {
        world.add_host();
    }
    let began = Instant::now();
    world.start(0, &[]);
    for host in 1..count {
        world.start(host, &[0]);
    }
    let all: Vec<usize> = (0..count).collect();
    world.until(ms(20_000), "a cluster", |w| {
        w.hosts[0]
            .installed
            .last()
            .and_then(|i| i.last())
            .is_some_and(|v| v.members().len() == count && v.voters().len() == count)
            && w.agree(&all)
    });
    let sizes: BTreeSet<usize> = world
        .hosts
        .iter()
        .flat_map(|h| h.installed.iter().flatten().map(|c| c.members().len()))
        .collect();
    println!(
        "bootstrap {:?}, wall {:?}, sizes {sizes:?}, seq {}",
        world.now,
        began.elapsed(),
        world.seq(0)
    );
    println!("{:?}", world.messages);
    assert!(sizes.len() <= 4, "sizes seen: {sizes:?}");

    world.run(ms(5_000));
    world.messages.clear();
    let bytes_before: u64 = world.hosts.iter().map(|h| h.bytes_sent).sum();
    let seq = world.seq(0);
    let (from, began) = (world.now, Instant::now());
    for host in 10..20 {
        world.crash(host);
    }
    let rest: Vec<usize> = (0..count).filter(|host| !(10..20).contains(host)).collect();
    world.until(ms(10_000), "a cut of ten", |w| {
        w.seq(0) > seq && w.agree(&rest)
    });
    println!(
        "cut after {:?}, wall {:?}, seq {}",
        world.now.since(from),
        began.elapsed(),
        world.seq(0)
    );
    world.run(ms(60_000) - world.now.since(from));
    let bytes: u64 = world.hosts.iter().map(|h| h.bytes_sent).sum::<u64>() - bytes_before;
    println!(
        "{} B/s per node over 60 s, {:?}",
        bytes / 60 / count as u64,
        world.messages
    );
    assert_eq!(world.seq(0), seq + 1, "one view change");
}
