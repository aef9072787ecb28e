//! Errors, by what they mean for the node.

use std::io;

/// The node must stop: what is durable is unknown, or the state cannot be trusted. Send nothing that
/// waits for storage, exit; the next start sorts it out.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Fatal {
    /// What happened, and to which file.
    pub what: String,
    /// The disk's own words, if it was the disk.
    #[source]
    pub source: Option<io::Error>,
}

impl Fatal {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            source: None,
        }
    }

    pub(crate) fn disk(what: impl Into<String>, source: io::Error) -> Self {
        Self {
            what: format!("{}: {source}", what.into()),
            source: Some(source),
        }
    }
}

/// Why a store does not open. Nothing that was durable has been changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk refuses.
    #[error("{what}: {source}")]
    Disk {
        /// What was tried.
        what: String,
        /// The disk's own words.
        #[source]
        source: io::Error,
    },
    /// Something is missing that the rest of the directory says was there: half of a directory was
    /// restored, or files were taken away.
    #[error("{0} is missing: this directory is not whole")]
    Missing(String),
    /// Something belongs to another store.
    #[error("{file} belongs to store {found:032x}, this one is {expected:032x}")]
    Foreign {
        /// Which file.
        file: String,
        /// Whose it is.
        found: u128,
        /// Whose it should be.
        expected: u128,
    },
    /// Both copies of something that only the directory itself can say are damaged.
    #[error("{file} is damaged: {what}")]
    Damaged {
        /// Which file.
        file: String,
        /// How.
        what: String,
    },
    /// Written by a version that this one does not know.
    #[error("{file} has format {found}, this version reads {known}")]
    Format {
        /// Which file.
        file: String,
        /// Its format.
        found: u32,
        /// Ours.
        known: u32,
    },
}

impl OpenError {
    pub(crate) fn disk(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Disk { what, source }
    }
}
