//! Directories that are lost, copied or rolled back, and chains that conflict.

use std::sync::Arc;

use synod_membership::bitmap::Bitmap;
use synod_membership::cut::{Cut, Departure, Removal};
use synod_membership::durable::Recovered;
use synod_membership::effect::{Alarm, Halt};
use synod_membership::message::{Message, Probe};
use synod_membership::view::{Certificate, Rank, View};

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

/// A peer that claims another configuration of the same number is not listened to, and stops nobody. Its next boot,
/// which has checked its chain, is.
#[test]
fn conflicting_hash_peer() {
    let mut world = World::cluster(3, 5);
    let (seq, tag) = (world.seq(0), world.view(0).unwrap().hash().tag());
    let from = world.hosts[4].identity.unwrap();
    let probe = |nonce, tag| Message::Probe(Probe { nonce, seq, tag });
    let acks = |world: &mut World, nonce, tag| {
        let before = world.messages.get("ProbeAck").copied();
        world.deliver(0, from, probe(nonce, tag));
        world.messages.get("ProbeAck").copied() != before
    };
    assert!(acks(&mut world, 7, tag));
    acks(&mut world, 8, !tag);
    assert!(!acks(&mut world, 9, tag), "it is in quarantine");
    let alarm = Alarm::ConflictingHash {
        peer: from.node,
        seq,
    };
    assert_eq!(world.hosts[0].alarms, [alarm]);
    world.run(ms(10_000));
    assert!(world.agree(&[0, 1, 2, 3, 4]), "{}", world.describe());
    assert_eq!(world.hosts[0].alarms, [alarm]);
    let next = Probe {
        nonce: 10,
        seq,
        tag,
    };
    world.restart(4);
    world.until(ms(3_000), "the next boot", |w| w.agree(&[0, 1, 2, 3, 4]));
    let before = world.messages["ProbeAck"];
    let from = world.hosts[4].identity.unwrap();
    world.deliver(0, from, Message::Probe(next));
    assert_eq!(world.messages["ProbeAck"], before + 1);
}

/// A peer shows another view in place of one that is installed: without a proof it is an alarm; with one, two quorums
/// have decided, and nobody may go on.
#[test]
fn a_rival_view_stops_a_node_only_with_its_proof() {
    let mut world = World::cluster(3, 5);
    world.crash(4);
    world.until(ms(6_000), "the cut", |w| w.agree(&[0, 1, 2, 3]));
    let runs = &world.hosts[0].installed;
    let configurations: Vec<_> = runs.iter().flatten().cloned().collect();
    let [.., before, _] = &configurations[..] else {
        panic!("two configurations")
    };
    // The other decision: host 3 goes instead, and another quorum voted for it.
    let gone = before.member(world.id(3)).unwrap();
    let cut = Cut {
        remove: vec![Removal {
            node: gone.node,
            departure: Departure::Failed,
        }],
        ..Cut::default()
    };
    let rival = |votes: &[usize]| {
        let after = before.successor(&cut).unwrap();
        let mut voters = Bitmap::empty(before.voters().len());
        votes.iter().for_each(|voter| {
            voters.insert(*voter);
        });
        let certificate = Certificate {
            config: before.hash(),
            rank: Rank::FAST,
            voters,
        };
        let (seq, hash) = (after.seq(), after.hash());
        let view = View {
            seq,
            hash,
            cut: Arc::new(cut.clone()),
            certificate,
        };
        Message::Views(Arc::new(vec![Arc::new(view)]))
    };
    let from = world.hosts[3].identity.unwrap();
    world.deliver(0, from, rival(&[0, 1, 2]));
    assert_eq!(world.hosts[0].halted, None);
    assert!(matches!(
        world.hosts[0].alarms[..],
        [Alarm::ConflictingHash { .. }]
    ));
    // In quarantine, too, the proof is looked at.
    world.deliver(0, from, rival(&[0, 1, 2, 3]));
    let halt = Halt::ConflictingCertificate(before.seq() + 1);
    assert_eq!(world.hosts[0].halted, Some(halt));
}

/// A directory whose views do not follow from each other is not started from.
#[test]
fn a_broken_chain_of_its_own_stops_a_node() {
    let mut world = World::cluster(3, 5);
    world.crash_exactly(4);
    let views = &mut world.hosts[4].disk.views;
    let last = views.last_mut().unwrap();
    let seq = last.seq;
    Arc::make_mut(last).certificate.voters = Bitmap::empty(5);
    world.restart(4);
    assert_eq!(world.hosts[4].halted, Some(Halt::BrokenChain(seq)));
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
