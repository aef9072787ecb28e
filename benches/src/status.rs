//! What Synod's nodes say of themselves during a run.

use std::collections::BTreeMap;

use serde_json::Value;
use synod_client::{Command, Connection, Options};

use crate::etcd::Failure;

/// Figures of all nodes together.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Bytes that are in memory and in the log, and in no value file yet.
    pub debt_bytes: u64,
    /// Batches that were written to the logs and synced, since the start.
    pub log_syncs: u64,
    /// Bytes that nodes have sent each other since the start, by kind of message, without the headers of TCP and IP.
    pub sent_bytes: BTreeMap<String, u64>,
}

/// Asks every node.
pub fn ask(addresses: &[String]) -> Result<Status, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut sum = Status::default();
        for address in addresses {
            let mut connection = Connection::open(address, &Options::default()).await?;
            let command = Command::read("SYNOD").arg("STATUS");
            let bytes = connection.call(&command).await?.into_bytes()?;
            let report: Value = serde_json::from_slice(&bytes.unwrap_or_default())?;
            let figure = |name: &str| report["storage"][name].as_u64().unwrap_or(0);
            sum.debt_bytes += figure("checkpoint_debt_bytes");
            sum.log_syncs += figure("log_syncs");
            let sent = report["traffic"]["sent"].as_object();
            for (kind, sent) in sent.into_iter().flatten() {
                let bytes = sent["bytes"].as_u64().unwrap_or(0);
                *sum.sent_bytes.entry(kind.clone()).or_default() += bytes;
            }
        }
        Ok(sum)
    })
}
