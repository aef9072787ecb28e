//! Where each node lives: directories, ports, and whom it joins.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use super::Local;

/// The whole cluster's places.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The directory of all of it.
    pub dir: PathBuf,
    /// The nodes, by number.
    pub nodes: Vec<NodeLayout>,
}

/// One node's places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeLayout {
    /// From 1.
    pub number: u16,
    /// Its data directory.
    pub data: PathBuf,
    /// What it logs. Kept from one start to the next.
    pub log: PathBuf,
    /// Where it serves clients.
    pub client: SocketAddr,
    /// Where its peers reach it.
    pub peer: SocketAddr,
    /// Where it looks for a cluster to join; empty: it makes one.
    pub join: Vec<SocketAddr>,
}

impl Layout {
    /// Gives every node its places.
    ///
    /// On a fresh directory the first node makes the cluster and the others join it. When any node
    /// has data there is a cluster already: then none may make another, and each looks for all others.
    pub fn plan(options: &Local) -> Result<Self, String> {
        let address = |first: u16, number: u16, flag: &str| {
            let port = first.checked_add(number - 1);
            let port = port.ok_or(format!("--{flag} {first}: no ports for that many nodes"))?;
            Ok::<_, String>(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        };
        let mut nodes = Vec::new();
        for number in 1..=options.nodes {
            nodes.push(NodeLayout {
                number,
                data: options.dir.join(format!("node-{number}")),
                log: options.dir.join(format!("node-{number}.log")),
                client: address(options.client_port, number, "client-port")?,
                peer: address(options.peer_port, number, "peer-port")?,
                join: Vec::new(),
            });
        }
        let is_fresh = !nodes.iter().any(|node| has_data(&node.data));
        let peers: Vec<SocketAddr> = nodes.iter().map(|node| node.peer).collect();
        for node in &mut nodes {
            node.join = match (is_fresh, node.number) {
                (true, 1) => Vec::new(),
                (true, _) => vec![peers[0]],
                (false, _) => peers
                    .iter()
                    .copied()
                    .filter(|peer| *peer != node.peer)
                    .collect(),
            };
        }
        Ok(Layout {
            dir: options.dir.clone(),
            nodes,
        })
    }

    /// Makes the directory and checks the ports, so that what is wrong is said once and early.
    pub fn prepare(&self) -> Result<(), String> {
        check_writable(&self.dir)
            .map_err(|error| format!("cannot write in {}: {error}", self.dir.display()))?;
        for node in &self.nodes {
            for (address, use_, flag) in [
                (node.client, "client", "--client-port"),
                (node.peer, "peer", "--peer-port"),
            ] {
                TcpListener::bind(address).map_err(|error| match error.kind() {
                    io::ErrorKind::AddrInUse => format!(
                        "port {} ({use_} port of node {}) is in use: is another cluster running? \
                         Stop it, or choose other ports with {flag}",
                        address.port(),
                        node.number
                    ),
                    _ => format!("cannot listen at {address}: {error}"),
                })?;
            }
        }
        Ok(())
    }
}

fn has_data(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

/// Makes the directory, and a file in it, which is removed again.
fn check_writable(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let probe = dir.join(".writable");
    fs::write(&probe, b"")?;
    fs::remove_file(&probe)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(dir: PathBuf) -> Local {
        Local {
            nodes: 3,
            dir,
            client_port: 7601,
            peer_port: 7701,
            start_flags: Vec::new(),
        }
    }

    #[test]
    fn on_a_fresh_directory_the_others_join_the_first() {
        let layout = Layout::plan(&options("/nonexistent".into())).expect("valid");
        let joins: Vec<&[SocketAddr]> = layout.nodes.iter().map(|node| &node.join[..]).collect();
        let first = layout.nodes[0].peer;
        assert_eq!(joins, [&[][..], &[first], &[first]]);
        assert_eq!(layout.nodes[2].client.to_string(), "127.0.0.1:7603");
        assert_eq!(layout.nodes[2].peer.to_string(), "127.0.0.1:7703");
    }

    #[test]
    fn when_any_node_has_data_nobody_makes_another_cluster() {
        let dir = std::env::temp_dir().join(format!("synod-layout-{}", std::process::id()));
        fs::create_dir_all(dir.join("node-2/log")).expect("the temporary directory is writable");
        let layout = Layout::plan(&options(dir.clone())).expect("valid");
        fs::remove_dir_all(&dir).expect("removes");
        assert!(layout.nodes.iter().all(|node| node.join.len() == 2));
    }

    #[test]
    fn ports_that_do_not_exist_are_refused() {
        let options = Local {
            client_port: 65_534,
            ..options("/nonexistent".into())
        };
        let refused = Layout::plan(&options).expect_err("there is no port 65536");
        assert_eq!(refused, "--client-port 65534: no ports for that many nodes");
    }

    #[test]
    fn a_port_in_use_is_named() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
        let client_port = taken.local_addr().expect("bound").port();
        let dir = std::env::temp_dir().join(format!("synod-ports-{}", std::process::id()));
        let options = Local {
            nodes: 1,
            client_port,
            ..options(dir.clone())
        };
        let refused = Layout::plan(&options)
            .expect("valid")
            .prepare()
            .expect_err("in use");
        fs::remove_dir_all(&dir).expect("removes");
        assert!(
            refused.starts_with(&format!(
                "port {client_port} (client port of node 1) is in use"
            )),
            "{refused}"
        );
    }
}
