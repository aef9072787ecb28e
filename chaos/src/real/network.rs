//! Links that can be cut, one direction at a time: each node in a network namespace of its own.
//!
//! The namespaces hang on a bridge in one more namespace, into which this thread goes, too: nothing
//! outside of the run is touched. A direction is cut by an entry for a link address that nobody has: what
//! is sent there is delivered to nobody, and the sender sees no error, as if a cable were broken.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::fault::partition::Direction;

/// An address that no interface has.
const NOBODY: &str = "02:00:00:00:00:99";
/// Where `ip` keeps the names of namespaces.
const NAMES: &str = "/run/netns";

/// The namespaces of a cluster. They go with it.
pub(super) struct Network {
    name: String,
    nodes: usize,
    /// How many strikes cut each direction.
    cuts: BTreeMap<Direction, usize>,
}

impl Network {
    /// Namespaces for the nodes, and this thread among them; an error where they are not permitted.
    pub(super) fn new(name: &str, nodes: usize) -> Result<Self, String> {
        let network = Self {
            name: name.to_owned(),
            nodes,
            cuts: BTreeMap::new(),
        };
        let hub = network.hub();
        ip(&format!("netns add {hub}"))?;
        ip(&format!("-n {hub} link add br0 type bridge"))?;
        ip(&format!("-n {hub} addr add 10.77.0.254/24 dev br0"))?;
        ip(&format!("-n {hub} link set lo up"))?;
        ip(&format!("-n {hub} link set br0 up"))?;
        for node in 0..nodes {
            let (own, address) = (network.namespace(node), address(node));
            ip(&format!("netns add {own}"))?;
            ip(&format!(
                "-n {own} link add eth0 type veth peer name port{node} netns {hub}"
            ))?;
            ip(&format!("-n {hub} link set port{node} master br0 up"))?;
            ip(&format!("-n {own} addr add {address}/24 dev eth0"))?;
            ip(&format!("-n {own} link set lo up"))?;
            ip(&format!("-n {own} link set eth0 up"))?;
        }
        let place = Path::new(NAMES).join(&hub);
        let file = File::open(&place).map_err(|error| format!("{}: {error}", place.display()))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|error| format!("cannot enter {hub}: {error}"))?;
        Ok(network)
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    fn namespace(&self, node: usize) -> String {
        format!("{}-{node}", self.name)
    }

    /// Starts `program` in a node's namespace; the process is the program's own.
    pub(super) fn command(&self, node: usize, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace(node)])
            .arg(program);
        command
    }

    /// Cuts directions; each is cut until it was joined as often.
    pub(super) fn cut(&mut self, directions: &[Direction]) -> Result<(), String> {
        for direction in directions {
            let times = self.cuts.entry(*direction).or_default();
            *times += 1;
            if *times == 1 {
                let (own, to) = (self.namespace(direction.0), address(direction.1));
                ip(&format!(
                    "-n {own} neigh replace {to} lladdr {NOBODY} dev eth0 nud permanent"
                ))?;
            }
        }
        Ok(())
    }

    /// Takes cuts back.
    pub(super) fn join(&mut self, directions: &[Direction]) -> Result<(), String> {
        for direction in directions {
            let Some(times) = self.cuts.get_mut(direction) else {
                continue;
            };
            *times -= 1;
            if *times == 0 {
                self.cuts.remove(direction);
                let (own, to) = (self.namespace(direction.0), address(direction.1));
                ip(&format!("-n {own} neigh del {to} dev eth0"))?;
            }
        }
        Ok(())
    }

    /// Takes all cuts back.
    pub(super) fn heal(&mut self) -> Result<(), String> {
        while let Some((direction, _)) = self.cuts.first_key_value() {
            let direction = *direction;
            self.join(&[direction])?;
        }
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Interfaces go with their namespaces. Some may never have been made.
        for node in 0..self.nodes {
            let _ = ip(&format!("netns del {}", self.namespace(node)));
        }
        let _ = ip(&format!("netns del {}", self.hub()));
    }
}

/// Where a node is.
pub(super) fn address(node: usize) -> Ipv4Addr {
    let last = u8::try_from(node + 1).unwrap_or(u8::MAX);
    Ipv4Addr::new(10, 77, 0, last)
}

/// Runs `ip`; what it said if it failed.
fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .map_err(|error| format!("ip: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {arguments}: {}", said.trim())),
    }
}
