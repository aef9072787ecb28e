//! What the commands share that begin a lineage from the directory of a node that does not run.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use synod_storage::disk::Disk;

use super::Failure;
use crate::membership::lineage::{LineageError, Recovery};
use crate::node;

/// What a command says of a recovery, and whether it is carried out.
pub(super) struct Telling {
    pub(super) yes: bool,
    pub(super) json: bool,
    pub(super) text: fn(&Recovery, bool) -> String,
    pub(super) object: fn(&Recovery, bool) -> Value,
}

impl Telling {
    /// What is to be told, once it is carried out if it is to be.
    pub(super) fn conclude(
        &self,
        recovery: Recovery,
        disk: &Arc<dyn Disk>,
    ) -> Result<String, LineageError> {
        let told = match self.json {
            true => format!("{}\n", (self.object)(&recovery, self.yes)),
            false => (self.text)(&recovery, self.yes),
        };
        if self.yes {
            recovery.carry_out(disk)?;
        }
        Ok(told)
    }
}

/// Does something with the directory of a node that does not run; an error names the directory.
pub(super) fn within<T>(
    data: &Path,
    act: impl FnOnce(&Arc<dyn Disk>) -> Result<T, LineageError>,
) -> Result<T, Failure> {
    let failed = |reason: String| Failure::Failed(format!("{}: {reason}", data.display()));
    node::in_directory(data, act)
        .map_err(failed)?
        .map_err(|error| failed(error.to_string()))
}
