//! The rules of detection, one by one, on hand-made alerts.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::configuration::{Configuration, Mode, Overlay};
use crate::id::{Boot, ClusterId};

fn member(index: u8, boot: u64) -> Member {
    Member {
        node: NodeId(u128::from(index) << 64 | 1),
        boot: Boot {
            counter: boot,
            nonce: boot,
            previous: 0,
        },
        address: ([10, 0, 0, index], 7000).into(),
        labels: Arc::default(),
    }
}

/// A detector in a cluster of voters, fed by hand.
struct Bench {
    config: SharedConfiguration,
    detector: CutDetector,
    now: Time,
    number: u64,
}

impl Bench {
    fn new(count: u8) -> Bench {
        Bench::of(ClusterId(1), count)
    }

    fn of(cluster: ClusterId, count: u8) -> Bench {
        let members = (0..count).map(|index| member(index, 1)).collect();
        let (mode, overlay) = (Mode::Decentralised, Overlay::default());
        let config = Arc::new(Configuration::founded(cluster, mode, overlay, members));
        let detector = CutDetector::new(config.clone(), Catalog::new(), Timing::default());
        Bench {
            config,
            detector,
            now: Time::from_ms(10_000),
            number: 0,
        }
    }

    /// One observer's report; nothing if it does not observe the subject.
    fn alert(&mut self, observer: u32, subject: u32, report: Report) {
        let observers = self.config.topology().observers(subject);
        let Some(ring) = observers.iter().position(|other| *other == observer) else {
            return;
        };
        self.number += 1;
        let (ring, refresh) = (ring as u8, self.number);
        let subject = Subject::Member(subject);
        self.detector.record(
            self.now,
            &Alert {
                observer,
                ring,
                subject,
                refresh,
                report,
            },
        );
    }

    /// Reports of all the subject's observers but these.
    fn all_but(&mut self, silent: &[u32], subject: u32, report: &Report) {
        for observer in self.config.topology().observers(subject).to_vec() {
            if !silent.contains(&observer) {
                self.alert(observer, subject, report.clone());
            }
        }
    }

    /// Someone who hears nothing accuses all its subjects.
    fn deaf(&mut self, observer: u32) {
        for (subject, _) in self.config.topology().subjects(observer).to_vec() {
            self.alert(observer, subject, Report::Down);
        }
    }

    /// These observers report these subjects down, once a second, until that yields a cut.
    fn insist(&mut self, accusations: &[(u32, Vec<u32>)]) -> Option<Cut> {
        (0..12).find_map(|_| {
            for (subject, observers) in accusations {
                for observer in observers {
                    self.alert(*observer, *subject, Report::Down);
                }
            }
            self.wait(1_000)
        })
    }

    fn wait(&mut self, ms: u64) -> Option<Cut> {
        let end = self.now + Duration::from_millis(ms);
        while let Some(at) = self.detector.deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            let cut = self.detector.poll(self.now);
            if cut.is_some() {
                return cut;
            }
        }
        self.now = end;
        None
    }

    fn removed(&self, cut: Option<Cut>) -> Vec<u32> {
        let index = |removal: &Removal| self.config.index_of(removal.node).unwrap() as u32;
        cut.map_or_else(Vec::new, |cut| cut.remove.iter().map(index).collect())
    }
}

use crate::cut::Removal;

#[test]
fn a_crash_is_a_cut_after_a_quiet_moment() {
    let mut bench = Bench::new(20);
    bench.all_but(&[], 7, &Report::Down);
    assert_eq!(bench.wait(99), None);
    let cut = bench.wait(2);
    assert_eq!(bench.removed(cut), [7]);
}

#[test]
fn alerts_that_trickle_in_wait_no_longer_than_the_longest_quiet() {
    let mut bench = Bench::new(20);
    bench.all_but(&[], 7, &Report::Down);
    let mut waited = 0;
    for observer in bench.config.topology().observers(8).to_vec() {
        if bench.wait(60).is_some() {
            break;
        }
        waited += 60;
        bench.alert(observer, 8, Report::Down);
    }
    assert!((400..=600).contains(&waited), "{waited} ms");
}

#[test]
fn fewer_than_l_are_noise_and_between_l_and_h_block() {
    let mut bench = Bench::new(20);
    let observers = bench.config.topology().observers(3).to_vec();
    bench.all_but(&[], 7, &Report::Down);
    bench.alert(observers[0], 3, Report::Down);
    bench.alert(observers[1], 3, Report::Down);
    let cut = bench.wait(200);
    assert_eq!(bench.removed(cut), [7]);

    let mut bench = Bench::new(20);
    bench.all_but(&[], 7, &Report::Down);
    observers
        .iter()
        .take(4)
        .for_each(|observer| bench.alert(*observer, 3, Report::Down));
    assert_eq!(bench.wait(2_000), None, "3 is in flux");
}

#[test]
fn the_word_of_those_that_go_is_discounted() {
    let mut bench = Bench::new(12);
    for deaf in [2, 5] {
        bench.deaf(deaf);
        bench.all_but(&[], deaf, &Report::Down);
    }
    let cut = bench.wait(1_000);
    assert_eq!(bench.removed(cut), [2, 5]);
}

/// In full-sized clusters L deaf observers put a healthy member in flux, where it would hold everything up for seconds
/// and then be decided itself: unless their word stops counting once they are to go.
#[test]
fn l_deaf_observers_of_one_healthy_member_or_more_neither_remove_it_nor_hold_anything_up() {
    for count in 3..=6 {
        let mut bench = Bench::new(20);
        let mut deaf = bench.config.topology().observers(7)[..count].to_vec();
        for one in &deaf {
            bench.deaf(*one);
        }
        for one in &deaf {
            bench.all_but(&deaf, *one, &Report::Down);
        }
        let cut = bench.wait(200);
        deaf.sort_unstable();
        assert_eq!(bench.removed(cut), deaf);
    }
}

/// Each of two is accused by the other, and by the third: whoever is decided first has nothing more to say. Which one
/// that is depends on a hash, and neither on the order of the alerts nor on their ids.
#[test]
fn of_two_that_accuse_each_other_one_goes_and_everywhere_the_same() {
    let mut gone = Vec::new();
    for cluster in 0..10 {
        let decide = |first: u32, second: u32| {
            let mut bench = Bench::of(ClusterId(cluster), 3);
            bench.all_but(&[], first, &Report::Down);
            bench.all_but(&[], second, &Report::Down);
            let cut = bench.wait(200);
            bench.removed(cut)
        };
        let removed = decide(0, 1);
        assert_eq!(removed, decide(1, 0));
        gone.extend(removed);
    }
    assert_eq!(gone.len(), 10, "one each time");
    assert!(gone.contains(&0) && gone.contains(&1), "{gone:?}");
}

/// Of eleven, four have all against them, and one has nine: these four, and five more, who are too few without them.
#[test]
fn the_most_credibly_accused_are_decided_first() {
    for doubted in 0..11 {
        let mut bench = Bench::new(11);
        let mut gone: Vec<u32> = (1..5).map(|step| (doubted + step) % 11).collect();
        for one in &gone {
            bench.all_but(&[], *one, &Report::Down);
        }
        let healthy = (doubted + 5) % 11;
        bench.all_but(&[healthy], doubted, &Report::Down);
        let cut = bench.wait(200);
        gone.sort_unstable();
        assert_eq!(bench.removed(cut), gone, "but for {doubted}");
    }
}

#[test]
fn crashed_observers_are_not_waited_for() {
    let mut bench = Bench::new(20);
    let dead = [1, 4, 9, 13];
    for subject in dead {
        bench.all_but(&dead, subject, &Report::Down);
    }
    let cut = bench.wait(1_000);
    assert_eq!(bench.removed(cut), dead);
}

#[test]
fn alerts_expire_unless_refreshed_and_can_be_withdrawn() {
    let mut bench = Bench::new(20);
    let observers = bench.config.topology().observers(3).to_vec();
    observers
        .iter()
        .take(2)
        .for_each(|observer| bench.alert(*observer, 3, Report::Down));
    assert_eq!(bench.wait(5_600), None);
    // The first two are void by now.
    observers[2..9]
        .iter()
        .for_each(|observer| bench.alert(*observer, 3, Report::Down));
    assert_eq!(bench.wait(300), None, "seven, not nine");

    let mut bench = Bench::new(20);
    bench.all_but(&[], 3, &Report::Down);
    observers
        .iter()
        .take(8)
        .for_each(|observer| bench.alert(*observer, 3, Report::Withdrawn));
    assert_eq!(bench.wait(5_000), None);
}

#[test]
fn a_late_copy_of_what_was_withdrawn_stays_void() {
    let mut bench = Bench::new(20);
    let observers = bench.config.topology().observers(3).to_vec();
    let alert = |observer: u32, ring: usize, refresh, report| Alert {
        observer,
        ring: ring as u8,
        subject: Subject::Member(3),
        refresh,
        report,
    };
    for (ring, observer) in observers.iter().enumerate() {
        bench
            .detector
            .record(bench.now, &alert(*observer, ring, 2, Report::Withdrawn));
        bench
            .detector
            .record(bench.now, &alert(*observer, ring, 1, Report::Down));
    }
    assert_eq!(bench.wait(1_000), None);
}

/// The accused stay between the watermarks: after five seconds the most accused goes, alone.
#[test]
fn reinforcement_decides_one_subject_at_a_time() {
    let mut bench = Bench::new(20);
    let accusers = |subject: u32, count: usize| {
        let observers = bench.config.topology().observers(subject).iter();
        let willing = observers.copied().filter(|o| ![3, 11].contains(o));
        (subject, willing.take(count).collect())
    };
    let accusations = [accusers(3, 5), accusers(11, 6)];
    let found = bench.insist(&accusations);
    let removed = bench.removed(found);
    assert!(removed.contains(&11), "{removed:?}");
    assert!(bench.now >= Time::from_ms(15_000));
}

/// Once the most accused is to go, its word no longer keeps the other one in doubt: who stays has had only two others
/// against it.
#[test]
fn whom_only_the_word_of_the_decided_keeps_in_doubt_stays() {
    for doubted in [0, 4, 11] {
        let mut bench = Bench::new(20);
        let topology = bench.config.topology();
        let accused = topology.observers(doubted)[0];
        let others = |subject: u32, count: usize| -> Vec<u32> {
            let observers = topology.observers(subject).iter().copied();
            let others = observers.filter(|o| ![accused, doubted].contains(o));
            others.take(count).collect()
        };
        let mut against = others(doubted, 2);
        against.push(accused);
        let accusations = [(doubted, against), (accused, others(accused, 5))];
        let found = bench.insist(&accusations);
        assert_eq!(bench.removed(found), [accused]);
        assert!(bench.now >= Time::from_ms(15_000), "{:?}", bench.now);
    }
}

#[test]
fn an_alert_from_another_ring_or_of_another_boot_is_refused() {
    let mut bench = Bench::new(20);
    let observers = bench.config.topology().observers(3).to_vec();
    let wrong_ring = Alert {
        observer: observers[0],
        ring: 1,
        subject: Subject::Member(3),
        refresh: 1,
        report: Report::Down,
    };
    assert!(!bench.detector.record(bench.now, &wrong_ring));
    let old_boot = Report::Replace(Arc::new(member(3, 1)));
    let stale = Alert {
        ring: 0,
        report: old_boot,
        ..wrong_ring
    };
    assert!(!bench.detector.record(bench.now, &stale));
}

#[test]
fn a_restart_and_a_removal_go_into_one_cut() {
    let mut bench = Bench::new(5);
    let restarted = Report::Replace(Arc::new(member(1, 2)));
    bench.all_but(&[4], 1, &restarted);
    bench.all_but(&[], 4, &Report::Down);
    let cut = bench.wait(200).unwrap();
    assert_eq!(
        cut.add
            .iter()
            .map(|member| member.boot.counter)
            .collect::<Vec<_>>(),
        [2]
    );
    assert_eq!(bench.removed(Some(cut)), [4]);
}

/// It came back for a moment, in which some saw it, and is gone again: what these say counts against the boot that is
/// listed as much as what the others say.
#[test]
fn a_restart_that_few_have_seen_and_the_others_report_down_is_a_failure() {
    let seen_by = |seen: usize, down: usize| {
        let mut bench = Bench::new(20);
        let observers = bench.config.topology().observers(3).to_vec();
        let restarted = Report::Replace(Arc::new(member(3, 2)));
        for observer in &observers[..seen] {
            bench.alert(*observer, 3, restarted.clone());
        }
        for observer in &observers[seen..seen + down] {
            bench.alert(*observer, 3, Report::Down);
        }
        assert_eq!(bench.wait(999), None, "they may all see it yet");
        let cut = bench.wait(600);
        assert!(cut.as_ref().is_none_or(|cut| cut.add.is_empty()));
        bench.removed(cut)
    };
    assert_eq!(seen_by(2, 7), [3], "nine against it, if those two are");
    assert_eq!(seen_by(4, 6), [3]);
    assert_eq!(seen_by(2, 6), [], "eight are not enough");
    assert_eq!(seen_by(5, 5), [], "half have seen it");
}

#[test]
fn a_joiner_in_flux_blocks_no_removal_and_is_admitted_by_a_majority() {
    let mut bench = Bench::new(20);
    let joiner = Arc::new(member(99, 1));
    let observers = bench.config.topology().joiner_observers(joiner.node);
    let rings: BTreeMap<usize, u32> = observers.into_iter().enumerate().take(6).collect();
    for (ring, observer) in rings {
        let subject = Subject::Joiner(joiner.node);
        let report = Report::Up(joiner.clone());
        let alert = Alert {
            observer,
            ring: ring as u8,
            subject,
            refresh: 1,
            report,
        };
        assert!(bench.detector.record(bench.now, &alert));
    }
    bench.all_but(&[], 7, &Report::Down);
    let cut = bench.wait(200).unwrap();
    assert!(cut.add.is_empty() && cut.remove.len() == 1);
    // The removal is proposed again and again; after a second the joiner comes along.
    let cut = (0..10)
        .filter_map(|_| bench.wait(500))
        .find(|cut| !cut.add.is_empty())
        .unwrap();
    assert!(bench.now >= Time::from_ms(11_000));
    assert_eq!(cut.add, [Member::clone(&joiner)]);
}
