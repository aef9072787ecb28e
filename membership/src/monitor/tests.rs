//! Edges by themselves, probe by probe.

use super::*;
use crate::configuration::{Mode, Overlay};
use crate::id::ClusterId;
use crate::rng::Seed;

/// A monitor of node 1 in a cluster of so many, and when its first probes are due.
fn watching(subjects: u8) -> (Monitor, Time) {
    let member = |index: u8| Member {
        node: NodeId(u128::from(index)),
        boot: Boot::first(u64::from(index)),
        address: ([10, 0, 0, index], 7000).into(),
        labels: Arc::default(),
    };
    let members = (1..=subjects + 1).map(member).collect();
    let (mode, overlay) = (Mode::Decentralised, Overlay::default());
    let config = Configuration::founded(ClusterId(1), mode, overlay, members);
    let mut monitor = Monitor::new(Detector::default(), Timing::default());
    let mut rng = Rng::new(Seed::from(1));
    monitor.observe(Time::ZERO, &config, ME, &mut rng);
    let first = monitor.deadline(Time::ZERO).unwrap();
    (monitor, first)
}

/// Does what is due at this time; gives the nonces of what is sent.
fn tick(monitor: &mut Monitor, now: Time) -> Vec<u16> {
    let mut sent = Vec::new();
    monitor.tick(now, |probe| sent.push(probe.nonce));
    sent
}

const ME: NodeId = NodeId(1);
const SUBJECT: NodeId = NodeId(2);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Each probe's first try is lost, and its second is answered as late as can be.
#[test]
fn a_probe_has_two_tries_and_one_that_is_answered_is_enough() {
    let (mut monitor, mut at) = watching(1);
    for _ in 0..10 {
        let [nonce] = tick(&mut monitor, at)[..] else {
            panic!("one probe")
        };
        assert_eq!(monitor.deadline(at), Some(at + ms(200)));
        assert_eq!(tick(&mut monitor, at + ms(199)), []);
        assert_eq!(tick(&mut monitor, at + ms(200)), [nonce], "a second try");
        assert_eq!(tick(&mut monitor, at + ms(399)), [], "and no third");
        assert!(monitor.on_ack(at + ms(399), SUBJECT, nonce, Health::Well));
        assert_eq!(monitor.reachable(SUBJECT), Reachability::Reachable);
        // One success after the other: there was never a doubt.
        at = at + ms(1_000);
        assert_eq!(monitor.deadline(at - ms(1)), Some(at));
    }
    // Without an answer to either it has failed, and the next comes sooner.
    let [nonce] = tick(&mut monitor, at)[..] else {
        panic!("one probe")
    };
    tick(&mut monitor, at + ms(200));
    let [next] = tick(&mut monitor, at + ms(400))[..] else {
        panic!("the next probe")
    };
    assert_eq!(monitor.reachable(SUBJECT), Reachability::Unreachable);
    assert!(
        !monitor.on_ack(at + ms(401), SUBJECT, nonce, Health::Well),
        "late"
    );
    assert!(monitor.on_ack(at + ms(401), SUBJECT, next, Health::Well));
}

/// Four probes of which none is answered: each waits for its time-out, and the next one for that.
const FAILS_AFTER: Duration = Duration::from_millis(4 * 400);

/// How much longer nothing is said by one that may be deaf.
const HELD: Duration = Duration::from_millis(3 * 300 + 400);

/// Nobody listens there: no probe waits for its time-out, and four fail the edge in less than a second.
#[test]
fn a_refusal_fails_a_probe_at_once() {
    let (mut monitor, first) = watching(1);
    for probe in 0..4 {
        let at = first + ms(300 * probe);
        assert_eq!(tick(&mut monitor, at - ms(1)), [], "probe {probe}");
        assert!(!monitor.has_news(at), "probe {probe}");
        assert_eq!(tick(&mut monitor, at).len(), 1, "probe {probe}");
        monitor.on_refused(at, SUBJECT);
        assert_eq!(monitor.reachable(SUBJECT), Reachability::Unreachable);
    }
    assert!(monitor.has_news(first + ms(900)));
}

/// A connection that breaks between two probes fails none, and brings the next one soon.
#[test]
fn a_refusal_while_no_probe_is_out_makes_the_next_one_come_sooner() {
    let (mut monitor, first) = watching(1);
    let [nonce] = tick(&mut monitor, first)[..] else {
        panic!("one probe")
    };
    monitor.on_ack(first + ms(1), SUBJECT, nonce, Health::Well);
    monitor.on_refused(first + ms(100), SUBJECT);
    assert_eq!(monitor.reachable(SUBJECT), Reachability::Reachable);
    assert_eq!(monitor.deadline(first), Some(first + ms(400)));
}

/// So many subjects, none of which ever answers: when they are first reported.
#[test]
fn when_all_of_two_or_more_fail_at_once_nothing_is_said_for_one_more_window() {
    for (subjects, window) in [(1, Duration::ZERO), (2, HELD), (4, HELD)] {
        let (mut monitor, first) = watching(subjects);
        let failed = first + FAILS_AFTER;
        let mut now = first;
        while now < failed + window {
            tick(&mut monitor, now);
            assert!(
                !monitor.has_news(now),
                "{subjects} subjects: early, at {now:?}"
            );
            now = monitor.deadline(now).unwrap();
        }
        tick(&mut monitor, now);
        assert_eq!(now, failed + window, "it is woken for it");
        assert!(monitor.has_news(now), "{subjects} subjects: late");
    }
}

/// One of three answers: the observer hears, and the two are reported as soon as they have failed.
#[test]
fn nothing_is_held_while_one_subject_answers() {
    let (mut monitor, first) = watching(3);
    let failed = first + FAILS_AFTER;
    let mut now = first;
    while now < failed {
        assert!(!monitor.has_news(now), "early");
        let mut sent = Vec::new();
        monitor.tick(now, |probe| sent.push(probe));
        for probe in sent.iter().filter(|probe| probe.to.node == Some(SUBJECT)) {
            monitor.on_ack(now, SUBJECT, probe.nonce, Health::Well);
        }
        now = monitor.deadline(now).unwrap();
    }
    tick(&mut monitor, now);
    assert!(monitor.has_news(failed), "late");
}

#[test]
fn only_an_earlier_boots_word_counts_against_a_later_one() {
    let mut writes = Writes::default();
    writes.note(1, 7);
    assert!(!writes.have_fallen(1, 5), "it was overtaken");
    assert!(writes.have_fallen(2, 6) && !writes.have_fallen(2, 7));
    writes.note(2, 9);
    assert!(!writes.have_fallen(2, 8), "overtaken as well");
    assert!(writes.have_fallen(2, 6) && writes.have_fallen(3, 8));
    writes.note(1, 8);
    assert!(writes.have_fallen(2, 7), "a late word of the first boot");
}
