//! Processes and whole clusters that come back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use synod_membership::effect::Halt;
use synod_membership::event::Event;
use synod_membership::member::Member;
use synod_membership::message::{Join, Message, Position, Restarted};
use synod_membership::status::{Phase, Reachability};
use synod_membership::view::Rank;

use crate::world::{World, ms};

#[test]
fn all_five_restart_after_a_power_cut() {
    for seed in 0..10 {
        let mut world = World::cluster(seed, 5);
        (0..5).for_each(|host| world.crash(host));
        world.run(ms(1_000));
        (0..5).for_each(|host| world.restart(host));
        world.until(ms(5_000), "the cluster", |w| w.agree(&[0, 1, 2, 3, 4]));
    }
}

/// Two go and three are replaced, in one cut.
#[test]
fn three_of_five_restart_and_go_on() {
    for seed in 0..10 {
        let mut world = World::cluster(seed, 5);
        let seq = world.seq(0);
        (0..5).for_each(|host| world.crash(host));
        (0..3).for_each(|host| world.restart(host));
        world.until(ms(10_000), "three", |w| w.agree(&[0, 1, 2]));
        assert_eq!(world.seq(0), seq + 1, "one cut");
    }
}

#[test]
fn two_of_five_never_go_on_and_say_why() {
    let mut world = World::cluster(6, 5);
    let seq = world.seq(0);
    (0..5).for_each(|host| world.crash(host));
    (0..2).for_each(|host| world.restart(host));
    world.run(ms(120_000));
    for host in 0..2 {
        let status = world.status(host).unwrap();
        assert_eq!(
            (status.phase, status.serving, status.seq),
            (Phase::Restarting, false, seq)
        );
        assert_eq!((status.voters.len(), status.missing_voters.len()), (5, 3));
        assert_eq!(status.voters_needed, 1);
    }
    world.restart(2);
    world.until(ms(10_000), "three", |w| w.agree(&[0, 1, 2]));
}

/// A process dies at each of its writes in turn, before and after the write is durable, while a cut is agreed on.
#[test]
fn restart_between_persist_and_send_of_each_kind_of_vote() {
    for count in [3, 5, 6] {
        for victim in 0..2 {
            for write in 0..5 {
                for durable in [true, false] {
                    let mut world = World::cluster(write, count);
                    if durable {
                        world.hosts[victim].die_before_confirm = Some(write);
                    } else {
                        world.hosts[victim].die_at_write = Some(write);
                    }
                    world.crash(count - 1);
                    world.run(ms(4_000));
                    if world.hosts[victim].node.is_none() {
                        world.restart(victim);
                    }
                    let rest: Vec<usize> = (0..count - 1).collect();
                    world.until(ms(15_000), "the rest", |w| w.agree(&rest));
                }
            }
        }
    }
}

/// The ranks of the rounds that a host asked for.
fn ranks(heard: &[(usize, usize, Message)], host: usize) -> BTreeSet<Rank> {
    let own = heard.iter().filter(|(from, ..)| *from == host);
    let rank = |(.., message): &(usize, usize, Message)| match message {
        Message::Prepare(ballot) => Some(ballot.rank),
        Message::Accept(accept) => Some(accept.ballot.rank),
        _ => None,
    };
    own.filter_map(rank).collect()
}

/// The coordinator comes back in the middle of its round, and never uses that round's rank again: whether another one
/// takes over, or, where no other can be heard, it begins anew.
#[test]
fn coordinator_restarts_in_mid_round_same_round_number() {
    for seed in 0..10 {
        for after in 0..4 {
            let mut world = World::cluster(seed, 5);
            let seq = world.seq(0);
            world.crash(3);
            world.crash(4);
            let heard = world.listen(|_, _| true);
            let coordinator = world.until_round();
            world.run(ms(after));
            assert!((0..3).all(|host| world.seq(host) == seq), "in mid-round");
            let before = ranks(&heard.borrow(), coordinator);
            assert_eq!(before.len(), 1, "its round has begun");
            let again = seed % 2 == 0;
            let heard = world.listen(move |from, message| {
                from == coordinator || !again || message.kind() != "Prepare"
            });
            world.restart(coordinator);
            world.until(ms(20_000), "the next", |w| w.seq(coordinator) > seq);
            let anew = ranks(&heard.borrow(), coordinator);
            assert!(before.is_disjoint(&anew), "{before:?}, {anew:?}");
            assert!(!again || !anew.is_empty(), "it has begun anew");
            world.filter = None;
            world.until(ms(20_000), "three", |w| w.agree(&[0, 1, 2]));
        }
    }
}

/// One node alone learns of a decision, then all die, and the rest goes on first.
#[test]
fn the_sole_installer_of_the_next_dies_and_all_restart_before_it() {
    for seed in 0..20 {
        let mut world = World::cluster(seed, 5);
        let seq = world.seq(0);
        // Decisions leave nobody: only who counts the votes itself can know.
        world.filter = Some(Box::new(|_, to, message| match message.kind() {
            "FastVotes" => to == 0,
            "Views" | "Accept" | "Prepare" => false,
            _ => true,
        }));
        world.crash(4);
        world.until(ms(10_000), "one installer", |w| w.seq(0) > seq);
        let decided = world.view(0).unwrap().hash();
        (0..4).for_each(|host| world.crash(host));
        world.filter = None;
        (1..5).for_each(|host| world.restart(host));
        world.until(ms(20_000), "the next", |w| w.seq(1) > seq);
        // What was decided is what the others must come to, without ever having heard of it.
        let mut installed = world.hosts[1].installed.iter().flatten();
        let next = installed.rfind(|c| c.seq() == seq + 1).unwrap();
        assert_eq!(next.hash(), decided, "seed {seed}");
        world.restart(0);
        world.until(ms(20_000), "all", |w| w.agree(&[0, 1, 2, 3, 4]));
    }
}

#[test]
fn all_restart_at_mixed_seqs_some_removed_in_the_next() {
    for seed in 0..10 {
        let mut world = World::cluster(seed, 6);
        world.crash(5);
        world.until(ms(6_000), "a first cut", |w| w.agree(&[0, 1, 2, 3, 4]));
        world.crash(4);
        // 3 falls behind: it hears of nothing any more.
        let seq = world.seq(0);
        world.filter = Some(Box::new(|_, to, m| {
            to != 3 || m.kind().starts_with("Probe")
        }));
        world.until(ms(20_000), "a second cut", |w| {
            w.seq(0) > seq && w.seq(1) > seq
        });
        world.filter = None;
        (0..4).for_each(|host| world.crash(host));
        (0..6).for_each(|host| world.restart(host));
        world.until(ms(20_000), "all six", |w| w.agree(&[0, 1, 2, 3, 4, 5]));
    }
}

/// Each is killed before the last one is back in.
#[test]
fn rolling_restart_of_three_next_kill_before_readmission() {
    for seed in 0..10 {
        let mut world = World::cluster(seed, 3);
        for round in 0..2 {
            for host in 0..3 {
                world.crash(host);
                world.run(ms(3_500));
                world.restart(host);
                world.run(ms(20 + 10 * round));
            }
        }
        world.until(ms(20_000), "all three", |w| w.agree(&[0, 1, 2]));
    }
}

#[test]
fn any_two_of_three_go_on_after_a_crash() {
    for seed in 0..5 {
        let mut world = World::cluster(seed, 3);
        world.crash(0);
        world.until(ms(6_000), "two", |w| w.agree(&[1, 2]));
        assert_eq!(
            world.view(1).unwrap().voters().len(),
            3,
            "the lost one keeps its slot"
        );
        world.crash(1);
        world.run(ms(8_000));
        assert!(
            !world.hosts[2].serving,
            "one of three voters does not serve"
        );
        world.restart(0);
        world.until(ms(10_000), "the other two", |w| w.agree(&[0, 2]));
    }
}

#[test]
fn two_nodes_kill_either() {
    for seed in 0..5 {
        let mut world = World::cluster(seed, 2);
        let voter = (0..2)
            .find(|h| world.view(0).unwrap().is_voter(world.id(*h)))
            .unwrap();
        let other = 1 - voter;
        world.crash(other);
        world.until(ms(6_000), "the voter alone", |w| w.agree(&[voter]));
        world.restart(other);
        world.until(ms(6_000), "both", |w| w.agree(&[0, 1]));
        world.crash(voter);
        world.run(ms(10_000));
        assert!(!world.hosts[other].serving, "the other waits");
        world.restart(voter);
        world.until(ms(6_000), "both again", |w| w.agree(&[0, 1]));
    }
}

#[test]
fn a_sole_voter_hands_over_when_it_leaves() {
    for seed in 0..5 {
        let mut world = World::cluster(seed, 2);
        world.run(ms(3_000));
        let voter = (0..2)
            .find(|h| world.view(0).unwrap().is_voter(world.id(*h)))
            .unwrap();
        world.event(voter, Event::Leave);
        world.until(ms(6_000), "departure", |w| {
            w.hosts[voter].left && w.agree(&[1 - voter])
        });
    }
}

#[test]
fn a_planned_leave_of_one_of_three_leaves_one_voter() {
    let mut world = World::cluster(8, 3);
    world.event(2, Event::Leave);
    world.until(ms(6_000), "departure", |w| {
        w.hosts[2].left && w.agree(&[0, 1])
    });
    assert_eq!(world.view(0).unwrap().voters().len(), 1);
}

/// A node that was removed begins its next boot within the same process. The power fails before that is written, or
/// after it and before a word is said under it: whatever comes next is a later boot than any that was heard of.
#[test]
fn a_power_cut_between_the_next_boot_and_its_first_word() {
    for durable in [false, true] {
        let mut world = World::cluster(6, 5);
        let boot = world.hosts[4].identity.unwrap().boot;
        world.isolate(&[4]);
        world.until(ms(6_000), "its cut", |w| w.agree(&[0, 1, 2, 3]));
        world.heal();
        world.until(ms(61_000), "the notice", |w| w.hosts[4].removed == 1);
        let next = if durable {
            &mut world.hosts[4].die_before_confirm
        } else {
            &mut world.hosts[4].die_at_write
        };
        *next = Some(0);
        world.until(ms(90_000), "the end", |w| w.hosts[4].node.is_none());
        let spoken = world.hosts[4].identity.unwrap().boot;
        let written = world.hosts[4].disk.registration.unwrap().boot;
        assert_eq!(spoken, boot, "nothing was said");
        assert_eq!(written.counter, boot.counter + u64::from(durable));
        world.restart(4);
        let all = [0, 1, 2, 3, 4];
        world.until(ms(5_000), "all five", |w| w.agree(&all));
        let heard = world.hosts[4].identity.unwrap().boot;
        assert_eq!(heard, written.next(heard.nonce));
        assert!(world.hosts.iter().all(|host| host.alarms.is_empty()));
    }
}

/// A restart is let in at once, a crash loop is not.
#[test]
fn crash_looping_restart() {
    let mut world = World::cluster(3, 5);
    let seq = world.seq(0);
    for _ in 0..40 {
        world.restart(4);
        world.run(ms(500));
    }
    let changes = world.seq(0) - seq;
    assert!(
        (1..=8).contains(&changes),
        "{changes} view changes for 40 restarts in 20 s"
    );
    world.until(ms(40_000), "rest", |w| w.agree(&[0, 1, 2, 3, 4]));
}

#[test]
fn a_lone_node_restarts_by_itself() {
    let mut world = World::cluster(1, 1);
    for _ in 0..3 {
        world.restart(0);
        world.until(ms(2_000), "itself", |w| w.agree(&[0]));
    }
}

#[test]
fn a_failed_write_stops_the_node() {
    let mut world = World::cluster(1, 3);
    world.event(0, Event::PersistFailed(synod_membership::id::Token(99)));
    assert_eq!(world.hosts[0].halted, Some(Halt::PersistFailed));
    world.until(ms(6_000), "the others", |w| w.agree(&[1, 2]));
}

#[test]
fn lag_beyond_truncation_means_a_new_start() {
    let mut world = World::new(4);
    for _ in 0..4 {
        let host = world.add_host();
        world.hosts[host].settings.log_views_max = 4;
    }
    world.start(0, &[]);
    world.run(ms(500));
    (1..4).for_each(|host| world.start(host, &[0]));
    world.until(ms(20_000), "four", |w| w.agree(&[0, 1, 2, 3]));
    world.crash(3);
    world.until(ms(6_000), "three", |w| w.agree(&[0, 1, 2]));
    for _ in 0..12 {
        world.restart(2);
        world.run(ms(65_000));
    }
    let base = world.hosts[0]
        .disk
        .base
        .as_ref()
        .unwrap()
        .configuration
        .seq();
    assert!(
        base > world.hosts[3].disk.views.last().map_or(0, |view| view.seq),
        "truncated"
    );
    assert!(world.hosts[0].disk.views.len() <= 6);
    world.restart(3);
    world.until(ms(90_000), "all four", |w| w.agree(&[0, 1, 2, 3]));
}

/// Host 3 stays a member, and hears of no view. The log of the others is more than half full, and they cut off only
/// what it does not need.
#[test]
fn what_a_member_still_needs_is_kept_within_the_cap() {
    for behind in [false, true] {
        let mut world = World::of_hosts(6, 5);
        for host in &mut world.hosts {
            host.settings.log_views_max = 8;
        }
        world.begin_together();
        world.restart(4);
        world.until(ms(3_000), "a view for all", |w| w.agree(&[0, 1, 2, 3, 4]));
        let seq = world.seq(3);
        if behind {
            world.filter = Some(Box::new(|_, to, message| {
                to != 3 || message.kind().starts_with("Probe")
            }));
        }
        while world.seq(0) < 9 {
            let next = world.seq(0) + 1;
            world.restart([1, 2, 4][next as usize % 3]);
            world.until(ms(40_000), "a view", |w| {
                [0, 1, 2, 4].iter().all(|h| w.seq(*h) == next)
            });
        }
        // Until its write is durable.
        world.run(ms(100));
        let base = world.hosts[0].disk.base.as_ref().unwrap();
        let floor = base.configuration.seq();
        assert_eq!(
            floor > seq,
            !behind,
            "the log begins at {floor}, and host 3 was at {seq}"
        );
        world.filter = None;
        world.until(ms(3_000), "all", |w| w.agree(&[0, 1, 2, 3, 4]));
        // It was led on from where it was: the world checks that a run skips no view.
        assert_eq!(
            (world.hosts[3].removed, world.hosts[3].installed.len()),
            (0, 1)
        );
    }
}

/// Each loss is a view before the next comes. So three slots are left in the end, and two of five are enough.
#[test]
fn two_of_five_go_on_when_the_last_configuration_had_no_more() {
    for seed in 0..5 {
        let mut world = World::cluster(seed, 5);
        world.crash(4);
        world.until(ms(6_000), "four", |w| w.agree(&[0, 1, 2, 3]));
        world.crash(3);
        world.until(ms(6_000), "three", |w| w.agree(&[0, 1, 2]));
        world.crash(2);
        world.until(ms(6_000), "two", |w| w.agree(&[0, 1]));
        // Both lose power, and are as many as they were.
        (0..2).for_each(|host| world.crash(host));
        (0..2).for_each(|host| world.restart(host));
        world.until(ms(5_000), "the two", |w| w.agree(&[0, 1]));
        // One of them alone is no majority of the three, and says for whom it waits.
        world.crash(1);
        world.run(ms(20_000));
        let status = world.status(0).unwrap();
        assert!(!status.serving);
        assert_eq!((status.voters.len(), status.voters_needed), (3, 1));
        let mut missing = [world.id(1), world.id(2)];
        missing.sort();
        assert_eq!(status.missing_voters, missing);
        // Those that went first have no slot there: they do not help. The last that went does.
        world.restart(3);
        world.restart(4);
        world.run(ms(20_000));
        assert!((0..5).all(|host| !world.hosts[host].serving));
        world.restart(2);
        world.until(ms(20_000), "four of five", |w| w.agree(&[0, 2, 3, 4]));
    }
}

/// Labels and address are what the listed boot began with, whatever else the same boot says, until a restart.
#[test]
fn labels_and_address_change_with_a_restart_and_not_without() {
    let mut world = World::cluster(7, 5);
    let all = [0, 1, 2, 3, 4];
    let (seq, id) = (world.seq(0), world.id(4));
    let labels = BTreeMap::from([("rack".to_string(), "b".to_string())]);
    let listed = world.view(0).unwrap().member(id).unwrap().clone();
    assert!(listed.labels.is_empty());
    // The listed boot asks for other labels, and for another port.
    let mut asked = Member::clone(&listed);
    asked.labels = Arc::new(labels.clone());
    asked.address.set_port(7_001);
    let at = Position {
        seq,
        hash: world.view(0).unwrap().hash(),
    };
    let from = world.hosts[4].identity.unwrap();
    for host in 0..4 {
        let member = Arc::new(asked.clone());
        let restarted = Restarted {
            at,
            member: member.clone(),
            writes: 1_000,
        };
        world.deliver(host, from, Message::Restarted(Arc::new(restarted)));
        let config = at.hash;
        world.deliver(host, from, Message::Join(Arc::new(Join { config, member })));
    }
    world.run(ms(10_000));
    assert_eq!(world.seq(0), seq, "it is no restart");
    // A view for another reason changes nothing of it, though its next start would.
    world.hosts[4].settings.labels = labels.clone();
    world.restart(3);
    world.until(ms(3_000), "a view", |w| w.agree(&all));
    assert_eq!(world.view(0).unwrap().member(id), Some(&listed));
    let seq = world.seq(0);
    world.crash(4);
    world.move_to_port(4, 7_001);
    world.restart(4);
    world.until(ms(2_000), "the restart", |w| w.agree(&all));
    assert_eq!(world.seq(0), seq + 1, "one view");
    let next = world.view(0).unwrap();
    let member = next.member(id).unwrap();
    assert_eq!(
        (&*member.labels, member.address),
        (&labels, world.hosts[4].address)
    );
    assert_eq!(member.boot.counter, listed.boot.counter + 1);
    // It is found where it is now.
    world.run(ms(10_000));
    assert_eq!(world.seq(0), seq + 1);
    let reachable = world.hosts[0].node.as_ref().unwrap().reachable(id);
    assert_eq!(reachable, Reachability::Reachable);
}

#[test]
fn founders_begin_together_without_a_join() {
    let mut world = World::founded(12, 5);
    assert_eq!(world.seq(0), 1);
    world.restart(2);
    world.until(ms(3_000), "a restart", |w| w.agree(&[0, 1, 2, 3, 4]));
    assert_eq!(world.seq(0), 2);
}

/// Two of three were removed and keep their votes. The last member has nobody to watch: it asks the absent voters
/// whether they are there, and stops serving when none of them is.
#[test]
fn the_last_member_among_absent_voters_notices_that_it_is_alone() {
    let mut world = World::cluster(3, 3);
    world.deafen(2);
    world.until(ms(6_000), "two members", |w| w.agree(&[0, 1]));
    world.heal();
    world.crash(1);
    world.until(
        ms(10_000),
        "one member, by the vote of the removed one",
        |w| w.agree(&[0]) && w.view(0).unwrap().voters().len() == 3,
    );
    world.run(ms(8_000));
    assert!(world.hosts[0].serving, "it hears an absent voter");
    world.crash(2);
    world.run(ms(8_000));
    assert!(!world.hosts[0].serving, "it hears nobody");
    world.restart(1);
    world.until(ms(10_000), "two members again", |w| w.agree(&[0, 1]));
}
