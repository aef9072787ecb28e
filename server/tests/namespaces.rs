//! One-way loss between real processes, each in a network namespace of its own.
//!
//! A node that is not heard by the others, or does not hear them, is faulty and goes; the others stay,
//! in one view. The namespaces hang on a bridge in one more namespace, so that nothing outside of this
//! run is touched. A direction is cut by an entry for the wrong link address: what is sent there is
//! delivered to nobody, and the sender sees no error. Where namespaces are not permitted, there is
//! nothing to see, and the test says so.
#![cfg(all(target_os = "linux", not(madsim)))]

#[path = "support/process.rs"]
#[allow(dead_code)] // this test has its own way to start nodes
mod process;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use process::{Directory, PATIENCE, synod, text};
use synod::status::Report;

const NODES: usize = 5;
/// An address that no interface has.
const NOBODY: &str = "02:00:00:00:00:99";

/// Namespaces on a bridge, and the processes in them.
struct Net {
    name: String,
    directory: Directory,
    nodes: Vec<Child>,
}

/// Which way a node is cut off from the others.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// Nobody hears it.
    Mute,
    /// It hears nobody.
    Deaf,
}

/// Runs `ip`; what it said if it failed.
fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .map_err(|error| format!("ip: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {arguments}: {}", text(&output.stderr).trim())),
    }
}

fn address(node: usize) -> String {
    format!("10.77.0.{}", node + 1)
}

impl Net {
    /// Namespaces for the nodes; an error where they are not permitted.
    fn new(test: &str) -> Result<Self, String> {
        // Interface names are short; the namespaces' names say whose they are.
        let net = Net {
            name: format!("synod-{test}-{}", std::process::id()),
            directory: Directory::new(&format!("namespaces-{test}")),
            nodes: Vec::new(),
        };
        let hub = net.hub();
        ip(&format!("netns add {hub}"))?;
        ip(&format!("-n {hub} link add br0 type bridge"))?;
        ip(&format!("-n {hub} addr add 10.77.0.254/24 dev br0"))?;
        ip(&format!("-n {hub} link set br0 up"))?;
        for node in 0..NODES {
            let own = net.namespace(node);
            ip(&format!("netns add {own}"))?;
            ip(&format!(
                "-n {own} link add eth0 type veth peer name port{node} netns {hub}"
            ))?;
            ip(&format!("-n {hub} link set port{node} master br0 up"))?;
            let address = address(node);
            ip(&format!("-n {own} addr add {address}/24 dev eth0"))?;
            ip(&format!("-n {own} link set lo up"))?;
            ip(&format!("-n {own} link set eth0 up"))?;
        }
        Ok(net)
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    fn namespace(&self, node: usize) -> String {
        format!("{}-{node}", self.name)
    }

    /// Starts all nodes; they form a cluster.
    fn start(&mut self) {
        let peers: Vec<String> = (0..NODES).map(|i| format!("{}:7701", address(i))).collect();
        for (node, peer) in peers.iter().enumerate() {
            let program = synod();
            let log = std::fs::File::create(self.directory.path().join(format!("n{node}.log")));
            let log = log.expect("a log file");
            let child = Command::new("ip")
                .args(["netns", "exec", &self.namespace(node)])
                .arg(program.get_program())
                .arg("start")
                .arg("--data")
                .arg(self.directory.path().join(format!("n{node}")))
                .args(["--client", &format!("{}:7601", address(node))])
                .args(["--peer", peer, "--join", &peers.join(",")])
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("the log file again"))
                .stderr(log)
                .spawn();
            self.nodes.push(child.expect("the program runs"));
        }
    }

    /// What a node says of itself; none if it does not answer.
    fn ask(&self, node: usize) -> Option<Report> {
        let program = synod();
        let output = Command::new("ip")
            .args(["netns", "exec", &self.hub()])
            .arg(program.get_program())
            .args(["status", "--json", "--addr"])
            .arg(format!("{}:7601", address(node)))
            .output()
            .expect("the program runs");
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Waits until what each of these nodes says is as wanted, and all are in one view.
    fn until(&self, nodes: &[usize], what: &str, wanted: impl Fn(&Report) -> bool) -> Report {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let reports: Option<Vec<Report>> = nodes.iter().map(|node| self.ask(*node)).collect();
            if let Some(mut reports) = reports
                && reports.iter().all(&wanted)
                && reports.iter().all(|r| r.view.hash == reports[0].view.hash)
            {
                return reports.swap_remove(0);
            }
            assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        }
    }

    /// Cuts one direction between a node and all others.
    fn cut(&self, node: usize, cut: Cut) {
        for other in (0..NODES).filter(|other| *other != node) {
            let (from, to) = match cut {
                Cut::Mute => (node, other),
                Cut::Deaf => (other, node),
            };
            let (from, to) = (self.namespace(from), address(to));
            ip(&format!(
                "-n {from} neigh replace {to} lladdr {NOBODY} dev eth0 nud permanent"
            ))
            .expect("a neighbour's entry");
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for child in &mut self.nodes {
            // `ip netns exec` has become the node: this is its process.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for node in 0..self.nodes.len() {
                let log = self.directory.path().join(format!("n{node}.log"));
                let log = std::fs::read_to_string(log).unwrap_or_default();
                eprintln!("--- node {node}\n{log}");
            }
        }
        // Interfaces go with their namespaces. Some may never have been made.
        for node in 0..NODES {
            let _ = ip(&format!("netns del {}", self.namespace(node)));
        }
        let _ = ip(&format!("netns del {}", self.hub()));
    }
}

fn the_faulty_node_goes_and_the_others_stay(test: &str, cut: Cut) {
    let mut net = match Net::new(test) {
        Ok(net) => net,
        Err(why) => {
            eprintln!("not run: network namespaces are not permitted here ({why})");
            return;
        }
    };
    net.start();
    let all: Vec<usize> = (0..NODES).collect();
    let formed = net.until(&all, "five members", |report| {
        report.view.serving && report.view.members.len() == NODES
    });
    let faulty = net.ask(NODES - 1).expect("it answers").node.id;

    let begun = Instant::now();
    net.cut(NODES - 1, cut);
    let healthy = &all[..NODES - 1];
    let without = net.until(healthy, "a view without it", |report| {
        report.view.serving && report.view.members.len() == NODES - 1
    });
    println!("{cut:?}: out of every view after {:?}", begun.elapsed());
    // One view change took exactly the faulty one out: the others are the boots that they were.
    assert_eq!(without.view.seq, formed.view.seq + 1, "{:#?}", without.view);
    let boots = |report: &Report| -> Vec<(String, u64)> {
        let members = report.view.members.iter();
        members
            .filter(|member| member.id != faulty)
            .map(|member| (member.id.clone(), member.incarnation))
            .collect()
    };
    assert_eq!(boots(&without), boots(&formed));
    assert!(
        without
            .view
            .members
            .iter()
            .all(|member| member.id != faulty)
    );
    // The faulty one stops serving, and says so; those who ask it still reach it.
    net.until(&[NODES - 1], "the faulty node stops", |report| {
        !report.view.serving && !report.problems.is_empty()
    });
    // It stays so while the fault lasts: for twice as long as a removal takes.
    let watch_until = Instant::now() + Duration::from_secs(6);
    while Instant::now() < watch_until {
        let report = net.ask(0).expect("it answers");
        assert_eq!(report.view.seq, without.view.seq, "{:#?}", report.view);
        assert!(report.view.serving, "{:#?}", report.problems);
    }
}

#[test]
fn a_node_that_nobody_hears_goes_and_the_others_stay() {
    the_faulty_node_goes_and_the_others_stay("mute", Cut::Mute);
}

#[test]
fn a_node_that_hears_nobody_goes_and_the_others_stay() {
    the_faulty_node_goes_and_the_others_stay("deaf", Cut::Deaf);
}
