//! The world, seen through a protocol that only writes down what happens to it.

use std::cell::RefCell;
use std::rc::Rc;

use super::protocol::{Boot, Input, Outbox, Protocol};
use super::scenario::Scenario;
use super::world::{Trace, World};

/// Each node pings its right neighbour every 10 ms with a rising number and writes that number durably.
struct Recorder {
    boot: Boot,
    sent: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Booted { count: u32, disk: Vec<u64> },
    Got { from: u32, number: u64 },
    Persisted(u64),
    Left,
}

type Log = Rc<RefCell<Vec<(u64, u32, Seen)>>>;

thread_local! {
    static LOG: Log = Log::default();
}

fn log(now_us: u64, node: u32, seen: Seen) {
    LOG.with(|log| log.borrow_mut().push((now_us, node, seen)));
}

impl Protocol for Recorder {
    type Message = u64;
    type Record = u64;
    type Disk = Vec<u64>;
    type Cluster = u32;

    fn cluster(scenario: &Scenario, _founders: &[u32], _seed: u64) -> u32 {
        scenario.nodes
    }

    fn write(disk: &mut Vec<u64>, record: u64) {
        disk.push(record);
    }

    fn boot(
        _: &mut u32,
        boot: Boot,
        disk: &Vec<u64>,
        now_us: u64,
        out: &mut Outbox<u64, u64>,
    ) -> Recorder {
        log(
            now_us,
            boot.node,
            Seen::Booted {
                count: boot.count,
                disk: disk.clone(),
            },
        );
        // Only the second of two wishes counts.
        out.wake_at(now_us + 1);
        out.wake_at(now_us + 10_000);
        Recorder { boot, sent: 0 }
    }

    fn step(
        &mut self,
        nodes: &mut u32,
        now_us: u64,
        input: Input<u64>,
        out: &mut Outbox<u64, u64>,
    ) {
        let me = self.boot.node;
        match input {
            Input::Wake => {
                self.sent += 1;
                let number = u64::from(self.boot.count) * 1_000 + self.sent;
                out.send((me + 1) % *nodes, number, 8);
                out.persist(number, number);
                out.wake_at(now_us + 10_000);
            }
            Input::Message {
                from,
                message: number,
            } => {
                log(now_us, me, Seen::Got { from, number });
            }
            Input::Persisted(token) => log(now_us, me, Seen::Persisted(token)),
            Input::Leave => {
                log(now_us, me, Seen::Left);
                out.stop();
            }
        }
    }
}

/// What happened in a run of 105 ms.
fn run(events: &str) -> Vec<(u64, u32, Seen)> {
    let text = format!("nodes = 3\nrun_ms = 105\npersist_ms = 2\n{events}");
    let scenario = Scenario::parse(&text, &[]).expect("valid");
    LOG.with(|log| log.borrow_mut().clear());
    World::<Recorder>::new(&scenario, 1, Trace::Off).run(|_, _| {});
    LOG.with(|log| std::mem::take(&mut *log.borrow_mut()))
}

fn got(log: &[(u64, u32, Seen)], node: u32) -> Vec<(u64, u64)> {
    let got = |entry: &(u64, u32, Seen)| match entry {
        (at_us, to, Seen::Got { number, .. }) if *to == node => Some((at_us / 1_000, *number)),
        _ => None,
    };
    log.iter().filter_map(got).collect()
}

fn boots(log: &[(u64, u32, Seen)], node: u32) -> Vec<(u64, u32, usize)> {
    let boot = |entry: &(u64, u32, Seen)| match entry {
        (at_us, at, Seen::Booted { count, disk }) if *at == node => {
            Some((at_us / 1_000, *count, disk.len()))
        }
        _ => None,
    };
    log.iter().filter_map(boot).collect()
}

#[test]
fn messages_take_a_millisecond_and_writes_take_two() {
    let log = run("");
    assert_eq!(got(&log, 1)[..2], [(11, 1_001), (21, 1_002)]);
    assert_eq!(got(&log, 1).len(), 10);
    assert!(log.contains(&(12_000, 0, Seen::Persisted(1_001))));
}

#[test]
fn a_crash_is_for_good_and_a_restart_finds_its_disk() {
    let log = run("[[events]]\nkind = \"crash\"\nnodes = [0]\nat_ms = 50.5\n\
        [[events]]\nkind = \"restart\"\nnodes = [1]\nat_ms = 31\nuntil_ms = 55");
    // The last ping left at 50 ms and still arrives, at a node that is down.
    assert_eq!(got(&log, 1), [(11, 1_001), (21, 1_002)]);
    // Two writes were durable by 31 ms; the third had begun at 30 ms and may be there or not.
    let boots = boots(&log, 1);
    assert_eq!((boots[0], boots[1].0, boots[1].1), ((0, 1, 0), 55, 2));
    assert!((2..=3).contains(&boots[1].2), "{boots:?}");
    assert_eq!(
        got(&log, 2).last(),
        Some(&(96, 2_004)),
        "the new boot pings again"
    );
}

#[test]
fn what_is_not_durable_may_be_lost_and_may_not() {
    let survivors = |seed: u64| {
        let text = "nodes = 3\nrun_ms = 60\npersist_ms = 100\n\
            [[events]]\nkind = \"restart\"\nnodes = [1]\nat_ms = 45";
        let scenario = Scenario::parse(text, &[]).expect("valid");
        LOG.with(|log| log.borrow_mut().clear());
        World::<Recorder>::new(&scenario, seed, Trace::Off).run(|_, _| {});
        LOG.with(|log| boots(&log.borrow(), 1)[1].2)
    };
    let seen: std::collections::BTreeSet<usize> = (0..100).map(survivors).collect();
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
}

#[test]
fn a_paused_process_finds_everything_later() {
    let log = run("[[events]]\nkind = \"pause\"\nnodes = [1]\nat_ms = 15\nuntil_ms = 45");
    let at_resume: Vec<_> = got(&log, 1)
        .into_iter()
        .filter(|(ms, _)| *ms == 45)
        .collect();
    assert_eq!(at_resume, [(45, 1_002), (45, 1_003), (45, 1_004)]);
    // One late wake, not three.
    assert_eq!(got(&log, 2)[..3], [(11, 1_001), (46, 1_002), (56, 1_003)]);
}

#[test]
fn crash_loops_come_of_restarts_that_flip() {
    let log = run(
        "[[events]]\nkind = \"restart\"\nnodes = [2]\nat_ms = 20\nuntil_ms = 80\n\
        on_ms = 5\noff_ms = 15",
    );
    let at: Vec<u64> = boots(&log, 2).iter().map(|boot| boot.0).collect();
    assert_eq!(at, [0, 25, 45, 65]);
}

#[test]
fn starts_come_late_and_leavers_stop() {
    let log = run("[[events]]\nkind = \"start\"\nnodes = [2]\nat_ms = 30\n\
        [[events]]\nkind = \"leave\"\nnodes = [0]\nat_ms = 50.5");
    assert_eq!(boots(&log, 2), [(30, 1, 0)]);
    assert!(log.contains(&(50_500, 0, Seen::Left)));
    assert_eq!(
        got(&log, 1).last(),
        Some(&(51, 1_005)),
        "the last ping before the leave"
    );
}
