//! Links and processes that misbehave: who goes, and above all who stays.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use synod_membership::event::Event;
use synod_membership::message::Message;
use synod_membership::status::Reachability;

use crate::world::{World, ms};

fn others(count: usize, gone: &[usize]) -> Vec<usize> {
    (0..count).filter(|host| !gone.contains(host)).collect()
}

#[test]
fn one_bad_pair_changes_nothing_for_each_size() {
    for count in 3..=12 {
        let mut world = World::cluster(count as u64, count);
        let seq = world.seq(0);
        world.cut_link(0, 1);
        world.run(ms(60_000));
        assert_eq!(world.seq(2), seq, "N = {count}: {}", world.describe());
    }
}

#[test]
fn one_deaf_node_is_removed_alone_for_each_size() {
    for count in 3..=12 {
        let mut world = World::cluster(count as u64, count);
        let deaf = count / 2;
        world.deafen(deaf);
        let rest = others(count, &[deaf]);
        world.until(ms(6_000), "cut of the deaf node", |w| w.agree(&rest));
        let seq = world.seq(rest[0]);
        world.run(ms(20_000));
        assert_eq!(world.seq(rest[0]), seq, "N = {count}: nobody else goes");
        assert!(
            !world.hosts[deaf].serving,
            "N = {count}: a deaf node stops serving"
        );
    }
}

/// Its last exchange was at most a second before, so it goes on for four, and not for longer than five.
#[test]
fn a_deaf_node_stops_five_seconds_after_its_last_exchange() {
    for count in [3, 5, 12, 20, 60] {
        for seed in 0..5 {
            let mut world = World::cluster(seed, count);
            world.run(ms(1_000 + seed * 170));
            world.deafen(1);
            world.run(ms(3_900));
            assert!(world.hosts[1].serving, "N = {count}: it is early");
            world.run(ms(1_110));
            assert!(!world.hosts[1].serving, "N = {count}: it is late");
        }
    }
}

/// They hear each other, which proves nothing.
#[test]
fn a_minority_stops_five_seconds_after_its_last_exchange_with_the_others() {
    for count in [5, 7, 11, 12] {
        for seed in 0..10 {
            let mut world = World::cluster(seed, count);
            world.run(ms(1_000 + seed * 170));
            let minority: Vec<usize> = (1..=(count - 1) / 2).collect();
            world.isolate(&minority);
            world.run(ms(5_010));
            let serving = |host: &usize| world.hosts[*host].serving;
            assert!(!minority.iter().any(serving), "N = {count}, seed {seed}");
        }
    }
}

/// It is late again and again, by so much that it must doubt what it was waiting for. It hears all others all the same.
#[test]
fn a_slow_node_goes_on_serving() {
    for count in [5, 20, 40] {
        let mut world = World::cluster(3, count);
        for _ in 0..60 {
            world.pause(1, ms(250));
            world.run(ms(400));
            assert!(world.hosts[1].serving, "N = {count}: {}", world.describe());
        }
    }
}

/// A coordinator is heard by all and hears nobody, from the moment at which its round begins. No cut was to remove it.
#[test]
fn one_that_goes_deaf_in_its_round_holds_nothing_up() {
    for seed in 0..10 {
        let mut world = World::cluster(seed, 7);
        world.crash(5);
        world.crash(6);
        let deaf = world.until_round();
        world.deafen(deaf);
        let rest = others(7, &[5, 6, deaf]);
        world.until(ms(15_000), "the views without them", |w| w.agree(&rest));
    }
}

/// It hears nothing for longer than anybody's patience, and then hears, and cannot answer.
#[test]
fn a_removed_node_is_told_until_it_answers() {
    let mut world = World::cluster(5, 5);
    world.isolate(&[4]);
    world.until(ms(6_000), "its cut", |w| w.agree(&[0, 1, 2, 3]));
    world.run(ms(1_200_000));
    assert_eq!(world.hosts[4].removed, 0);
    world.heal();
    world.mute(4);
    world.until(ms(61_000), "the notice", |w| w.hosts[4].removed == 1);
}

#[test]
fn one_mute_node_is_removed_alone_for_each_size() {
    for count in 3..=12 {
        let mut world = World::cluster(count as u64, count);
        let mute = count / 2;
        world.mute(mute);
        let rest = others(count, &[mute]);
        world.until(ms(6_000), "cut of the mute node", |w| w.agree(&rest));
        let seq = world.seq(rest[0]);
        world.run(ms(20_000));
        assert_eq!(world.seq(rest[0]), seq, "N = {count}: nobody else goes");
        assert!(
            !world.hosts[mute].serving,
            "N = {count}: it was told, and stops serving"
        );
    }
}

#[test]
fn two_deaf_and_one_crash_at_seven() {
    for seed in 0..5 {
        let mut world = World::cluster(seed, 7);
        world.deafen(5);
        world.deafen(6);
        world.crash(4);
        world.until(ms(20_000), "cut of the three", |w| w.agree(&[0, 1, 2, 3]));
    }
}

/// Twelve of twenty go on without the other eight, between whom and them one direction is lost.
fn twelve_go_on(from: Range<usize>, to: Range<usize>) {
    for seed in 0..5 {
        let mut world = World::cluster(seed, 20);
        for from in from.clone() {
            to.clone().for_each(|to| {
                world.loss.insert((from, to), 1000);
            });
        }
        let rest: Vec<usize> = (0..12).collect();
        world.until(ms(30_000), "cut of the group", |w| w.agree(&rest));
    }
}

/// Eight of twenty can hear the others and are not heard by them.
#[test]
fn forty_percent_one_way_group() {
    twelve_go_on(12..20, 0..12);
}

/// Eight of twenty hear only each other, and their accusations of all others arrive.
#[test]
fn forty_percent_that_hear_only_each_other() {
    twelve_go_on(0..12, 12..20);
}

/// Each node of a rack still has the third rack's word for it.
#[test]
fn a_rack_to_rack_blackhole_splits_nothing() {
    let mut world = World::cluster(3, 12);
    for a in 0..4 {
        for b in 4..8 {
            world.cut_link(a, b);
        }
    }
    world.run(ms(30_000));
    // Whatever was decided, the world has checked that all installed the same; the third rack has lost nobody of its own.
    let view = world.view(8).unwrap();
    for host in 8..12 {
        assert!(
            view.index_of(world.id(host)).is_some(),
            "{}",
            world.describe()
        );
    }
    assert!(view.members().len() >= 8, "{}", world.describe());
}

#[test]
fn sigstop_of_an_observer_removes_nobody_else() {
    for seed in 0..5 {
        let mut world = World::cluster(seed, 5);
        world.pause(2, ms(30_000));
        world.until(ms(6_000), "cut of the paused node", |w| {
            w.agree(&[0, 1, 3, 4])
        });
        let seq = world.seq(0);
        world.run(ms(30_000));
        assert_eq!(world.seq(0), seq, "waking up accuses nobody");
        assert!(!world.hosts[2].serving, "it learns that it was removed");
        assert!(world.hosts[2].removed > 0);
    }
}

/// A pause shorter than what fails an edge goes unnoticed.
#[test]
fn a_short_pause_is_no_failure() {
    let mut world = World::cluster(9, 5);
    let seq = world.seq(0);
    for _ in 0..5 {
        world.pause(2, ms(1_200));
        world.run(ms(5_000));
    }
    assert_eq!(world.seq(0), seq);
}

#[test]
fn sigstop_of_a_coordinator_in_its_round() {
    for seed in 0..10 {
        let mut world = World::cluster(seed, 5);
        world.crash(3);
        world.crash(4);
        // Two of five gone make a classic round; whoever begins it stops right there.
        let coordinator = world.until_round();
        world.pause(coordinator, ms(30_000));
        let rest: Vec<usize> = (0..3).filter(|host| *host != coordinator).collect();
        // Two of five are no majority: they wait for the coordinator, and go on with it.
        world.run(ms(30_000));
        world.until(ms(30_000), "all three", |w| w.agree(&[0, 1, 2]));
        assert!(rest.len() == 2);
    }
}

/// The coordinator dies when it has begun its round, at each stage of it. What it began is nowhere decided then.
#[test]
fn second_crash_in_a_classic_round() {
    for seed in 0..10 {
        let mut world = World::cluster(seed, 7);
        let seq = world.seq(0);
        world.crash(5);
        world.crash(6);
        let coordinator = world.until_round();
        world.run(ms(seed % 5));
        let rest = others(5, &[coordinator]);
        assert!(rest.iter().all(|host| world.seq(*host) == seq));
        assert_eq!(world.seq(coordinator), seq);
        world.crash(coordinator);
        world.until(ms(20_000), "a view without the three", |w| w.agree(&rest));
    }
}

/// Two nodes of five can be heard and cannot hear: they would start one classic round after the other.
#[test]
fn one_way_minority_sending_prepares_for_ever() {
    for seed in 0..10 {
        let mut world = World::cluster(seed, 5);
        for deaf in [3, 4] {
            for from in 0..3 {
                world.loss.insert((from, deaf), 1000);
            }
        }
        world.until(ms(30_000), "cut of the two", |w| w.agree(&[0, 1, 2]));
    }
}

#[test]
fn twenty_second_flip_flop_with_rejoin() {
    let mut world = World::cluster(5, 7);
    for round in 0..6 {
        world.deafen(6);
        world.run(ms(20_000));
        world.heal();
        world.run(ms(20_000));
        assert!(
            world.agree(&[0, 1, 2, 3, 4, 5]),
            "round {round}: {}",
            world.describe()
        );
    }
    let seq = world.seq(0);
    let waits = world.status(6).and_then(|status| status.rejoin_in);
    assert!(waits.is_some_and(|left| left > ms(30_000)), "{waits:?}");
    // Clean links for a minute bring it back, as a new boot.
    world.until(ms(80_000), "return", |w| w.agree(&[0, 1, 2, 3, 4, 5, 6]));
    assert!(world.seq(0) > seq);
}

/// Each time that it is removed alive it waits for twice as long, up to ten minutes; ten minutes as a member, and its
/// first wait is a minute again.
#[test]
fn each_wait_of_a_removed_node_is_twice_the_one_before_up_to_ten_minutes() {
    let mut world = World::cluster(5, 5);
    world.encode = false;
    let waits = [60, 120, 240, 480, 600, 600];
    for (round, wait) in waits.into_iter().chain([60]).enumerate() {
        if round == waits.len() {
            world.run(ms(600_000));
        }
        world.mute(4);
        world.until(ms(6_000), "its removal", |w| {
            w.agree(&[0, 1, 2, 3]) && w.hosts[4].removed == round as u64 + 1
        });
        // As long as its links are bad, the wait does not begin.
        world.run(ms(20_000));
        world.heal();
        let seq = world.seq(0);
        world.run(ms(wait * 1_000));
        assert_eq!(world.seq(0), seq, "round {round}: it is early");
        world.until(ms(2_500), "return", |w| w.agree(&[0, 1, 2, 3, 4]));
        // Until it votes again.
        world.run(ms(3_000));
    }
}

/// What it writes hangs, and it answers all the same. Ten seconds are forgiven.
#[test]
fn a_node_whose_disk_hangs_answers_and_goes_after_ten_seconds() {
    for seed in 0..5 {
        let mut world = World::cluster(seed, 5);
        let (seq, id) = (world.seq(0), world.id(4));
        let fsync = world.hosts[4].fsync;
        for hangs_on in [false, true] {
            world.hosts[4].fsync = ms(11_000);
            world.event(4, Event::DiskStalled(true));
            world.run(ms(9_900));
            assert_eq!(world.seq(0), seq, "seed {seed}: it is early");
            for host in 0..4 {
                let node = world.hosts[host].node.as_ref().unwrap();
                assert_eq!(node.reachable(id), Reachability::Reachable);
            }
            if !hangs_on {
                world.hosts[4].fsync = fsync;
                world.event(4, Event::DiskStalled(false));
                world.run(ms(10_000));
                assert_eq!(world.seq(0), seq, "seed {seed}: it is well again");
            }
        }
        // Each observer counts from the first answer that says so, a probe's distance later at most.
        world.until(ms(1_600), "its cut", |w| w.agree(&[0, 1, 2, 3]));
        // It cannot install what it cannot write, and serves nobody all the same.
        world.until(ms(1_000), "its end of service", |w| !w.hosts[4].serving);
        assert_eq!(world.seq(4), seq);
    }
}

/// An observer that was stopped while its probes were out finds their time-outs behind it, before it can read the
/// answers. They count for nothing.
#[test]
fn the_probes_that_a_paused_observer_waits_for_are_void() {
    let mut world = World::founded(3, 5);
    let seq = world.seq(0);
    for round in 0..8 {
        world.senders_forgotten();
        world.until(ms(2_000), "probes", |w| w.last_sender("Probe") == Some(2));
        world.pause(2, ms(1_000));
        world.run(ms(900));
        // The timer comes first.
        world.event(2, Event::Tick);
        for host in [0, 1, 3, 4] {
            let node = world.hosts[2].node.as_ref().unwrap();
            let reachable = node.reachable(world.id(host));
            assert_ne!(reachable, Reachability::Unreachable, "round {round}");
        }
        world.run(ms(2_000));
    }
    assert_eq!(world.seq(0), seq);
}

/// From a first probe that is lost to the fourth's failure it is 1.6 s, and the alert waits for others for 50 ms. Who
/// has lost all of them waits for 1.3 s more, since it may be deaf.
#[test]
fn the_alerts_of_one_that_hears_nobody_leave_one_window_later() {
    for (deaf_to, due) in [(vec![3], 1_650), (vec![0, 1, 2, 3], 2_950)] {
        let mut world = World::founded(3, 5);
        world.run(ms(2_000));
        let told = Rc::new(Cell::new(false));
        let tells = told.clone();
        world.filter = Some(Box::new(move |from, _, message| {
            tells.set(tells.get() || (from == 4 && message.kind() == "Alerts"));
            true
        }));
        world.senders_forgotten();
        world.until(ms(2_000), "probes", |w| w.last_sender("Probe") == Some(4));
        for other in &deaf_to {
            world.loss.insert((*other, 4), 1000);
        }
        world.run(ms(due - 10));
        assert!(!told.get(), "deaf to {deaf_to:?}: it is early");
        world.run(ms(20));
        assert!(told.get(), "deaf to {deaf_to:?}: it is late");
    }
}

/// An hour by default; `LOSS_HOURS=24` for the day.
#[test]
fn one_to_five_percent_loss_for_hours() {
    let hours: u64 = std::env::var("LOSS_HOURS")
        .ok()
        .and_then(|h| h.parse().ok())
        .unwrap_or(1);
    for (percent, limit) in [(1, 0), (2, 0), (5, 2)] {
        let mut world = World::cluster(percent, 5);
        world.encode = false;
        world.loss_everywhere = percent * 10;
        let seq = world.seq(0);
        world.run(ms(hours * 3_600_000));
        let changes = world.seq(0) - seq;
        assert!(
            changes <= limit * hours,
            "{percent}% loss: {changes} view changes"
        );
    }
}

#[test]
fn clock_rates_of_half_and_double_on_observers() {
    for percent in [50, 200] {
        let mut world = World::cluster(2, 5);
        let seq = world.seq(0);
        world.set_clock(1, percent);
        world.set_clock(2, percent);
        world.run(ms(60_000));
        assert_eq!(world.seq(0), seq, "at {percent}%");
        world.crash(4);
        world.until(ms(6_000), "cut", |w| w.agree(&[0, 1, 2, 3]));
    }
}

#[test]
fn duplicates_and_reordering_change_nothing() {
    for seed in 0..5 {
        let mut world = World::cluster(seed, 5);
        world.duplicate = 300;
        world.jitter = ms(40);
        world.crash(1);
        world.until(ms(6_000), "cut", |w| w.agree(&[0, 2, 3, 4]));
        world.restart(1);
        world.until(ms(6_000), "return", |w| w.agree(&[0, 1, 2, 3, 4]));
    }
}

#[test]
fn a_partition_leaves_the_majority_and_suspends_the_minority() {
    let mut world = World::cluster(4, 5);
    world.isolate(&[3, 4]);
    world.until(ms(15_000), "cut of the minority", |w| w.agree(&[0, 1, 2]));
    world.run(ms(5_000));
    assert!(!world.hosts[3].serving && !world.hosts[4].serving);
    let status = world.status(3).unwrap();
    assert_eq!(status.voters.len(), 5);
    assert_eq!((status.missing_voters.len(), status.voters_needed), (3, 1));
    world.heal();
    world.until(ms(90_000), "return", |w| w.agree(&[0, 1, 2, 3, 4]));
}

/// A vote is the directory's, whichever boot cast it. But once the next boot is listed, what the earlier one said is
/// refused, and the new process does not take that for a word against itself.
#[test]
fn a_vote_of_the_old_boot_after_replace() {
    for seed in 0..5 {
        let mut world = World::cluster(seed, 5);
        // What node 4 sends about agreement takes three seconds.
        world.slow = Some((4, ms(3_000)));
        world.crash(0);
        let heard = world.listen(|_, _| true);
        let voted = |from: usize, message: &Message| from == 4 && message.kind() == "FastVotes";
        world.until(ms(6_000), "its vote", |_| {
            heard.borrow().iter().any(|(from, _, m)| voted(*from, m))
        });
        let sent = world.now;
        let old = world.hosts[4].identity.unwrap().boot;
        world.crash_exactly(4);
        world.slow = None;
        world.restart(4);
        world.until(ms(2_900), "its next boot in the view", |w| {
            w.agree(&[1, 2, 3, 4])
        });
        let (seq, view) = (world.seq(1), world.view(1).unwrap());
        assert!(view.member(world.id(4)).unwrap().boot.counter > old.counter);
        assert_eq!(world.messages.get("Superseded"), None, "none has come yet");
        // Now they arrive.
        heard.borrow_mut().clear();
        let until_then = (sent + ms(3_010)).since(world.now);
        world.run(until_then);
        for host in 1..4 {
            let refused = |(from, to, message): &(usize, usize, Message)| {
                let expected = matches!(message, Message::Superseded(boot) if *boot != old);
                (*from, *to) == (host, 4) && expected
            };
            assert!(heard.borrow().iter().any(refused), "host {host}");
        }
        world.run(ms(5_000));
        assert!(world.agree(&[1, 2, 3, 4]), "{}", world.describe());
        assert_eq!(world.seq(1), seq, "nothing comes of them");
        assert_eq!(world.hosts[4].halted, None);
    }
}

/// Nothing of a probe repeats who sends it.
#[test]
fn an_idle_cluster_of_five_costs_little() {
    let mut world = World::cluster(1, 5);
    let before: u64 = world.hosts.iter().map(|h| h.bytes_sent).sum();
    world.run(ms(60_000));
    let after: u64 = world.hosts.iter().map(|h| h.bytes_sent).sum();
    let per_node_per_second = (after - before) / 60 / 5;
    assert!(per_node_per_second < 200, "{per_node_per_second} B/s");
    assert!(world.messages.contains_key("Probe"));
}
