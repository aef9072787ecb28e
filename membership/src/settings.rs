//! What can be chosen, with the defaults that the project measured.
//!
//! Only what the nodes must agree on goes into the configuration ([`Overlay`], [`Mode`]), when the cluster is formed.
//! Everything here is the process's own affair: nodes with different settings form a correct cluster.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::configuration::{Mode, Overlay};

/// What a node is told about itself and its job.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens, as others see it.
    pub address: SocketAddr,
    /// Its metadata, fixed for the boot.
    pub labels: BTreeMap<String, String>,
    /// The overlay of a cluster that it forms.
    pub overlay: Overlay,
    /// The mode of a cluster that it forms.
    pub mode: Mode,
    /// How edges are judged.
    pub detector: Detector,
    /// How alerts travel.
    pub dissemination: Dissemination,
    /// Periods and patience.
    pub timing: Timing,
    /// The most certified views that the log keeps; a node that lags further behind starts afresh.
    pub log_views_max: usize,
}

impl Settings {
    /// The defaults, for a node at this address.
    pub fn new(address: SocketAddr) -> Settings {
        Settings {
            address,
            labels: BTreeMap::new(),
            overlay: Overlay::default(),
            mode: Mode::default(),
            detector: Detector::default(),
            dissemination: Dissemination::default(),
            timing: Timing::default(),
            log_views_max: 1_024,
        }
    }
}

/// The failure detector on each edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detector {
    /// Fails when `failures` of the last `window` probes did. A probe has two tries, and one that fails makes the next
    /// ones follow faster, until two in a row succeed.
    Window {
        /// Probes remembered, at most 64.
        window: u8,
        /// Failures among them that fail the edge.
        failures: u8,
    },
    /// The paper's: one try a probe, always at the same pace, fails when 40% of the last 10 did (Rapid, §6).
    Paper,
}

impl Default for Detector {
    fn default() -> Detector {
        Detector::Window {
            window: 10,
            failures: 4,
        }
    }
}

/// How alerts reach the voters. Both ways repeat themselves while an alert stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Dissemination {
    /// From each observer to every voter.
    #[default]
    Unicast,
    /// To some random members, who pass on what is new to them.
    Epidemic {
        /// Members told in each round.
        fanout: u8,
        /// Rounds for which an alert is passed on; about the logarithm of the size, and some.
        rounds: u8,
    },
}

/// Periods and patience.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From one probe of a healthy edge to the next.
    pub probe_interval: Duration,
    /// From one probe of an edge in doubt to the next.
    pub probe_interval_in_doubt: Duration,
    /// From the first try of a probe to the second.
    pub probe_retry: Duration,
    /// From the first try of a probe to its failure.
    pub probe_timeout: Duration,
    /// A gap between two steps of this node, beyond the deadline it asked for, that voids what it was waiting for.
    pub stall_gap: Duration,
    /// For so long, a subject may report a stalled disk.
    pub disk_stall_max: Duration,
    /// Alerts collect for so long before they are sent.
    pub alert_batch: Duration,
    /// Standing alerts are repeated so often.
    pub alert_refresh: Duration,
    /// An alert that is not repeated is void after this.
    pub alert_expiry: Duration,
    /// A cut is proposed when no new alert has come for so long,
    pub quiet: Duration,
    /// or when the first came this long ago.
    pub quiet_max: Duration,
    /// Joins and restarts in flux are admitted after this by a majority of their observers.
    pub admission: Duration,
    /// A subject in flux for so long is decided.
    pub reinforcement: Duration,
    /// The fast round is given up after this.
    pub fallback: Duration,
    /// Coordinators follow each other at this distance.
    pub stagger: Duration,
    /// The longest wait between classic rounds.
    pub round_max: Duration,
    /// A coordinator that the own cut removes is not promised anything for so long.
    pub shun: Duration,
    /// Unanswered messages of agreement are sent again after this.
    pub resend: Duration,
    /// Large clusters pass merged fast votes on so often.
    pub vote_gossip: Duration,
    /// Without a majority for so long, a member suspends itself.
    pub suspend: Duration,
    /// Joiners repeat themselves so often.
    pub join_refresh: Duration,
    /// A joiner silent for so long is forgotten.
    pub join_expiry: Duration,
    /// A removed node shows clean links for so long before it asks to come back,
    pub rejoin: Duration,
    /// and at most for so long, doubling.
    pub rejoin_max: Duration,
    /// A second restart within this time is made to wait.
    pub restart_window: Duration,
    /// Unanswered pulls are sent to somebody else after this.
    pub pull_timeout: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        let ms = Duration::from_millis;
        Timing {
            probe_interval: ms(1_000),
            probe_interval_in_doubt: ms(300),
            probe_retry: ms(200),
            probe_timeout: ms(400),
            stall_gap: ms(150),
            disk_stall_max: ms(10_000),
            alert_batch: ms(50),
            alert_refresh: ms(1_000),
            alert_expiry: ms(5_000),
            quiet: ms(100),
            quiet_max: ms(500),
            admission: ms(1_000),
            reinforcement: ms(5_000),
            fallback: ms(500),
            stagger: ms(100),
            round_max: ms(5_000),
            shun: ms(5_000),
            resend: ms(200),
            vote_gossip: ms(50),
            suspend: ms(5_000),
            join_refresh: ms(1_000),
            join_expiry: ms(2_000),
            rejoin: ms(60_000),
            rejoin_max: ms(600_000),
            restart_window: ms(60_000),
            pull_timeout: ms(300),
        }
    }
}
