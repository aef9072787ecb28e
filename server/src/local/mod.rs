//! `synod local`: a cluster of real processes on this machine.
//!
//! The supervisor starts N copies of its own program, each with a directory, ports and a log file of
//! its own, and then only watches: it shows one line for each node, says when one died and why, and
//! on Ctrl-C or SIGTERM stops them all cleanly and waits. It restarts nothing by itself: a node that
//! dies is something to look at. Started again on the same directory, the nodes go on with their data.
//!
//! It holds nothing that the nodes need. Should it be killed, the kernel tells them to stop.

mod child;
mod layout;
mod screen;
mod watch;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval, timeout},
};

use crate::cli::Failure;
use child::Child;
use layout::{Layout, NodeLayout};
use screen::Screen;

/// `synod local`.
#[derive(Clone, Debug, clap::Args)]
pub struct Local {
    /// How many nodes
    #[arg(long, value_name = "N", env = "SYNOD_NODES", default_value_t = 3,
          value_parser = clap::value_parser!(u16).range(1..=100))]
    pub nodes: u16,
    /// Where the nodes keep their data and logs
    #[arg(
        long,
        value_name = "DIR",
        env = "SYNOD_DIR",
        default_value = "synod-local"
    )]
    pub dir: PathBuf,
    /// The first node's client port; the others follow
    #[arg(long, value_name = "PORT", default_value_t = 7601,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub client_port: u16,
    /// The first node's peer port; the others follow
    #[arg(long, value_name = "PORT", default_value_t = 7701,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub peer_port: u16,
    /// More flags for every node, as `synod start` has them
    #[arg(last = true, value_name = "FLAG")]
    pub start_flags: Vec<String>,
}

/// How often the nodes are looked at.
const WATCH_EVERY: Duration = Duration::from_millis(500);
/// How long a stop may take before the nodes are killed: longer than their own grace time.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

impl Local {
    /// Runs the cluster until it is told to stop.
    pub fn run(self) -> Result<ExitCode, Failure> {
        let layout = Layout::plan(&self).map_err(Failure::Usage)?;
        layout.prepare().map_err(Failure::Failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::Failed(format!("cannot start the runtime: {error}")))?;
        runtime.block_on(supervise(&layout, &self.start_flags))
    }
}

/// A node under supervision.
struct Supervised {
    layout: NodeLayout,
    child: Option<Child>,
    state: State,
}

/// What is known of a node.
#[derive(Clone, Debug, PartialEq)]
enum State {
    /// It runs, and does not answer yet, or not now.
    Starting,
    /// It answers.
    Serving(watch::Summary),
    /// It ended by itself.
    Died(String),
    /// It ended because it was told to.
    Stopped,
}

async fn supervise(layout: &Layout, start_flags: &[String]) -> Result<ExitCode, Failure> {
    let listen = |kind| {
        signal(kind).map_err(|error| Failure::Failed(format!("cannot listen to signals: {error}")))
    };
    let (mut interrupt, mut terminate) = (
        listen(SignalKind::interrupt())?,
        listen(SignalKind::terminate())?,
    );
    let mut nodes = start_all(layout, start_flags)?;
    let mut screen = Screen::new(layout);
    screen.banner();
    let mut ticks = interval(WATCH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = ticks.tick() => {}
        }
        for node in &mut nodes {
            observe(node).await;
        }
        screen.show(&nodes);
        if nodes.iter().all(|node| node.child.is_none()) {
            screen.say("all nodes have died");
            return Ok(ExitCode::FAILURE);
        }
    }
    screen.say("stopping all nodes; Ctrl-C again kills them");
    let stopping = async {
        tokio::select! {
            biased;
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = stop_all(&mut nodes) => {}
        }
    };
    let _ = timeout(STOP_PATIENCE, stopping).await;
    let mut code = ExitCode::SUCCESS;
    for node in &mut nodes {
        if let Some(child) = node.child.take() {
            child.kill().await;
            node.state = State::Died("was killed: it did not stop in time".to_owned());
        }
        if let State::Died(_) = node.state {
            code = ExitCode::FAILURE;
        }
    }
    screen.show(&nodes);
    Ok(code)
}

fn start_all(layout: &Layout, start_flags: &[String]) -> Result<Vec<Supervised>, Failure> {
    let start = |node: &NodeLayout| {
        let child = Child::start(node, start_flags).map_err(Failure::Failed)?;
        Ok(Supervised {
            layout: node.clone(),
            child: Some(child),
            state: State::Starting,
        })
    };
    // Children that are started already end with the error: they are killed when dropped.
    layout.nodes.iter().map(start).collect()
}

async fn observe(node: &mut Supervised) {
    let Some(child) = &mut node.child else { return };
    if let Some(how) = child.ended() {
        let last_lines = child::last_log_lines(&node.layout.log);
        node.state = State::Died(format!("{how}{last_lines}"));
        node.child = None;
        return;
    }
    node.state = match watch::ask(&node.layout.client).await {
        Some(summary) => State::Serving(summary),
        None => State::Starting,
    };
}

/// Tells all nodes to stop, then waits for them. Cancelled: those that are left stay in their place.
async fn stop_all(nodes: &mut [Supervised]) {
    for node in nodes.iter_mut() {
        if let Some(child) = &node.child {
            child.terminate();
        }
    }
    for node in nodes {
        if let Some(child) = &mut node.child {
            let how = child.wait().await;
            node.child = None;
            node.state = match how {
                None => State::Stopped,
                Some(how) => {
                    State::Died(format!("{how}{}", child::last_log_lines(&node.layout.log)))
                }
            };
        }
    }
}
