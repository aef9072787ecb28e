//! Directories that are lost, copied or rolled back, and chains that conflict.

use synod_membership::durable::Recovered;
use synod_membership::effect::{Alarm, Halt};
use synod_membership::message::{Message, Probe};

use crate::world::{World, ms};

/// The same directory, started a second time elsewhere.
#[test]
fn clone_of_a_directory_is_refused() {
    let mut world = World::cluster(1, 5);
    let copy = world.add_host();
    world.hosts[copy].disk = world.hosts[4].disk.clone();
    // The original goes on; its copy begins a boot that follows the same one.
    world.restart(4);
    world.until(ms(3_000), "the original", |w| w.agree(&[0, 1, 2, 3, 4]));
    world.start(copy, &[0]);
    world.run(ms(5_000));
    assert_eq!(world.hosts[copy].halted, Some(Halt::Superseded));
    assert!(world.agree(&[0, 1, 2, 3, 4]));
    assert!((0..4).any(|h| matches!(world.hosts[h].alarms[..], [Alarm::Impostor(_), ..])));
}

#[test]
fn rollback_of_a_directory_is_refused() {
    let mut world = World::cluster(2, 5);
    let backup = world.hosts[4].disk.clone();
    for _ in 0..2 {
        world.restart(4);
        world.until(ms(6_000), "a restart", |w| w.agree(&[0, 1, 2, 3, 4]));
    }
    world.crash(4);
    world.hosts[4].disk = backup;
    world.restart(4);
    world.run(ms(3_000));
    assert_eq!(world.hosts[4].halted, Some(Halt::Superseded));
    world.until(ms(6_000), "the others", |w| w.agree(&[0, 1, 2, 3]));
}

/// One cut: the old one out, the new one in.
#[test]
fn lost_directory_same_address() {
    for seed in 0..5 {
        let mut world = World::cluster(seed, 5);
        let (seq, old) = (world.seq(0), world.id(4));
        world.crash(4);
        world.hosts[4].disk = Recovered::default();
        world.start(4, &[0, 1]);
        world.until(ms(4_000), "the new one", |w| w.agree(&[0, 1, 2, 3, 4]));
        assert_ne!(world.id(4), old);
        assert!(world.seq(0) <= seq + 2, "one cut, and one for its vote");
        let change = &world.hosts[0].installed.last().unwrap();
        let first = change.iter().find(|c| c.seq() == seq + 1).unwrap();
        assert!(first.index_of(old).is_none() && first.index_of(world.id(4)).is_some());
    }
}

/// A peer that claims another configuration of the same number is not listened to, and stops nobody.
#[test]
fn conflicting_hash_peer() {
    let mut world = World::cluster(3, 5);
    let seq = world.seq(0);
    let mut from = world.hosts[4].identity.unwrap();
    from.node.0 ^= 1;
    from.address.set_port(7001);
    let probe = Probe {
        nonce: 7,
        seq,
        tag: 0xdead_beef,
    };
    for host in 0..4 {
        world.deliver(host, from, Message::Probe(probe));
    }
    world.run(ms(5_000));
    assert!(world.agree(&[0, 1, 2, 3, 4]), "{}", world.describe());
    let alarmed = |h: usize| {
        world.hosts[h]
            .alarms
            .iter()
            .any(|a| matches!(a, Alarm::ConflictingHash { .. }))
    };
    assert!((0..4).all(alarmed));
}

/// A node of one cluster at an address where members of another look for theirs.
#[test]
fn a_foreign_cluster_is_refused_loudly() {
    let mut world = World::cluster(4, 3);
    world.crash(2);
    // Somebody starts a fresh cluster in place of a member.
    world.hosts[2].disk = Recovered::default();
    world.start(2, &[]);
    world.run(ms(10_000));
    assert!(world.agree(&[0, 1]) || world.view(0).unwrap().members().len() == 2);
    assert!(
        world.hosts[2]
            .alarms
            .iter()
            .any(|a| matches!(a, Alarm::ForeignCluster { .. }))
            || (0..2).any(|h| world.hosts[h]
                .alarms
                .iter()
                .any(|a| matches!(a, Alarm::ForeignCluster { .. })))
    );
}
