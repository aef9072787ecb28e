//! Directories that are lost, copied or rolled back, and chains that conflict.

use std::sync::Arc;

use synod_membership::bitmap::Bitmap;
use synod_membership::cut::{Cut, Departure, Removal};
use synod_membership::durable::Recovered;
use synod_membership::effect::{Alarm, Halt};
use synod_membership::id::Identity;
use synod_membership::message::{Lookup, Message, Probe};
use synod_membership::status::Phase;
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

/// An image of the disk from after the last start: its next boot follows the listed one, as any restart's does. Only
/// the count of writes shows that what was promised since is forgotten.
#[test]
fn a_rollback_that_only_the_count_of_writes_tells_is_refused() {
    for seed in 0..5 {
        for rolled_back in [false, true] {
            let mut world = World::cluster(seed, 5);
            let mut image = world.hosts[4].disk.clone();
            world.crash(3);
            world.until(ms(6_000), "a cut", |w| w.agree(&[0, 1, 2, 4]));
            let boot = world.hosts[4].disk.registration.unwrap().boot;
            assert_eq!(image.registration.unwrap().boot, boot, "no start between");
            world.crash_exactly(4);
            if !rolled_back {
                image = world.hosts[4].disk.clone();
            }
            world.hosts[4].disk = image;
            world.restart(4);
            if !rolled_back {
                world.until(ms(2_000), "the restart", |w| w.agree(&[0, 1, 2, 4]));
                continue;
            }
            world.run(ms(1_000));
            assert_eq!(world.hosts[4].halted, Some(Halt::Superseded));
            let alarm = Alarm::Impostor(world.id(4));
            assert!((0..3).any(|host| world.hosts[host].alarms == [alarm]));
            world.until(ms(6_000), "the others", |w| w.agree(&[0, 1, 2]));
        }
    }
}

/// Host 1 has decided two views with host 0, of which its log has lost both. With host 2, which never heard of them, it
/// would be a majority for another first one.
#[test]
fn a_node_whose_log_has_lost_its_end_does_not_vote_there_again() {
    for seed in 0..5 {
        let mut world = World::cluster(seed, 3);
        let seq = world.seq(0);
        world.crash(2);
        world.until(ms(6_000), "a first view", |w| w.agree(&[0, 1]));
        world.restart(1);
        world.until(ms(6_000), "a second view", |w| {
            w.agree(&[0, 1]) && w.seq(0) == seq + 2
        });
        world.crash(0);
        world.crash(1);
        let disk = &mut world.hosts[1].disk;
        disk.views.retain(|view| view.seq <= seq);
        let promised = disk.acceptor.as_ref().unwrap().seq;
        assert_eq!(promised, seq + 1, "its acceptor is ahead of its log");
        world.restart(1);
        world.restart(2);
        world.run(ms(60_000));
        for host in 1..3 {
            let status = world.status(host).unwrap();
            let stands = (status.phase, status.serving, status.seq);
            assert_eq!(
                stands,
                (Phase::Restarting, false, seq),
                "{}",
                world.describe()
            );
        }
        // Who has all of the log leads the others on.
        world.restart(0);
        world.until(ms(20_000), "all three", |w| w.agree(&[0, 1, 2]));
    }
}

/// A window takes 1.6 s at least. Here one answer is enough: the last observer's next probe, and the agreement.
#[test]
fn a_stranger_at_a_members_address_proves_without_a_window_that_it_is_gone() {
    for seed in 0..10 {
        for of_a_cluster in [true, false] {
            let mut world = World::cluster(seed, 5);
            let (seq, nobody) = (world.seq(0), world.add_host());
            world.crash(4);
            world.hosts[4].disk = Recovered::default();
            // It forms a cluster of its own, or waits for somebody who is not there. Neither is a request to join.
            let join: &[usize] = if of_a_cluster { &[] } else { &[nobody] };
            world.start(4, join);
            world.until(ms(1_250), "the cut", |w| w.agree(&[0, 1, 2, 3]));
            assert_eq!(world.seq(0), seq + 1);
        }
    }
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

/// Somebody starts a fresh cluster at an address where the members of another look for one of theirs. Both sides say
/// so, each once, and each goes on by itself.
#[test]
fn a_foreign_cluster_is_refused_loudly() {
    let mut world = World::cluster(4, 3);
    let ours = world.hosts[0].identity.unwrap();
    world.crash(2);
    world.hosts[2].disk = Recovered::default();
    world.start(2, &[]);
    world.until(ms(3_000), "the two", |w| w.agree(&[0, 1]));
    world.run(ms(10_000));
    assert!(world.agree(&[0, 1]) && world.agree(&[2]));
    let theirs = world.hosts[2].identity.unwrap();
    assert_ne!(ours.cluster, theirs.cluster);
    let alarm = |of: Identity| Alarm::ForeignCluster {
        cluster: of.cluster.unwrap(),
        node: of.node,
    };
    for host in 0..2 {
        assert_eq!(world.hosts[host].alarms, [alarm(theirs)], "host {host}");
    }
    // What the two send is for a node that is not there, and goes no further than the handshake. The fresh cluster
    // learns of them from the first that asks for whoever is there.
    assert_eq!(world.hosts[2].alarms, []);
    for _ in 0..2 {
        world.deliver(2, ours, Message::Lookup(Lookup));
    }
    assert_eq!(world.hosts[2].alarms, [alarm(ours)]);
    world.run(ms(10_000));
    assert!(world.agree(&[0, 1]) && world.agree(&[2]));
}
