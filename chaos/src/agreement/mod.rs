//! Agreement: a cluster at rest, asked node by node, has one owner for every key and equal replicas.
//!
//! It is asked as clients ask: by `SYNOD STATUS`, and by snapshots at one version, which the asked node
//! answers from its own replicas. So it judges simulated clusters and real ones alike.

pub mod digest;
pub mod owners;

use std::time::Duration;

use synod::status::Report;
use synod_client::{Client, Command, Connection, Error, Options, Value};

use self::digest::Rows;
use self::owners::Owners;
use crate::report::Failure;
use crate::workload::PLACES;

/// How often nodes are asked for their state until they are one.
const ASKED_MAX: usize = 120;

/// All nodes that serve know one owner for every key, the same one in one epoch.
pub async fn owned(addresses: &[String]) -> Result<(), Failure> {
    let mut clients = clients(addresses);
    let mut owners = Owners::default();
    let mut last = "few nodes answer".to_owned();
    for _ in 0..ASKED_MAX {
        let mut knowing = 0;
        for (node, client) in clients.iter_mut().enumerate() {
            let Some(report) = status(client).await else {
                continue;
            };
            owners.look(node, &report).map_err(Failure::Invariant)?;
            match Owners::cover(node, &report) {
                Ok(()) => knowing += 1,
                // News of a split or a merge may be on their way.
                Err(what) => last = what,
            }
        }
        if knowing > addresses.len() / 2 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Err(Failure::Stuck(format!(
        "a majority does not come to know all owners in a whole world: {last}"
    )))
}

/// All nodes that serve hold the same rows at one version. Where wall clocks are far apart there may be no
/// version that all of them can be asked for: to one it is in the future, to another one long gone.
pub async fn alike(addresses: &[String]) -> Result<(), Failure> {
    let mut last = String::new();
    for _ in 0..ASKED_MAX {
        match read_alike(addresses).await {
            Ok((version, read)) if read.len() > addresses.len() / 2 => {
                return digest::equal(version, &read).map_err(Failure::Invariant);
            }
            Ok(_) => "few nodes serve".clone_into(&mut last),
            Err(what) => last = what,
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Err(Failure::Stuck(format!(
        "nodes are not read at one version in a whole world: {last}"
    )))
}

/// What each node that serves reads at one version.
async fn read_alike(addresses: &[String]) -> Result<(i64, Vec<(usize, Rows)>), String> {
    let (mut version, mut read) = (None, Vec::new());
    for (node, address) in addresses.iter().enumerate() {
        let Ok(mut connection) = Connection::open(address, &options()).await else {
            continue;
        };
        let mut begin = Command::read("BEGIN").arg("SNAPSHOT");
        if let Some(version) = version {
            begin = begin.arg("AT").arg(i64::to_string(&version));
        }
        let Ok(at) = connection.call(&begin).await.and_then(Value::into_integer) else {
            continue;
        };
        version = Some(at);
        match rows(&mut connection).await {
            Ok(rows) => read.push((node, rows)),
            // One that was removed while it was cut off is away for minutes.
            Err(Error::Server(error)) if error.code == "NOTSERVING" => {}
            Err(error) => return Err(format!("node {node}: {error}")),
        }
    }
    let version = version.ok_or("no node begins a snapshot")?;
    Ok((version, read))
}

/// All that workloads write, in the snapshot that a connection has begun.
async fn rows(connection: &mut Connection) -> Result<Rows, Error> {
    let mut rows = Rows::new();
    for place in PLACES {
        let range = Command::read("RANGE").arg(place).arg(format!("{place}~"));
        let answer = connection.call(&range).await?;
        let mut words = answer.into_array()?.unwrap_or_default().into_iter();
        while let (Some(key), Some(value)) = (words.next(), words.next()) {
            let text = |word: Value| -> Result<String, Error> {
                let bytes = word.into_bytes()?.unwrap_or_default();
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            };
            rows.push((text(key)?, text(value)?));
        }
    }
    connection.call(&Command::read("COMMIT")).await?;
    Ok(rows)
}

fn options() -> Options {
    Options {
        connect_timeout: Duration::from_secs(1),
        call_timeout: Duration::from_secs(5),
        retry_for: Duration::ZERO,
        ..Options::default()
    }
}

/// A client for each node.
pub fn clients(addresses: &[String]) -> Vec<Client> {
    addresses
        .iter()
        .map(|address| Client::new([address.as_str()], options()))
        .collect()
}

/// What a node says of itself and its cluster, if it answers.
pub async fn status(client: &mut Client) -> Option<Report> {
    let answer = client
        .call_once(&Command::read("SYNOD").arg("STATUS"))
        .await;
    serde_json::from_slice(answer.ok()?.as_bytes()?).ok()
}
