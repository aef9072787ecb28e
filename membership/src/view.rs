//! A decided view change and the proof that it was decided.
//!
//! A [`View`] is one link of the chain: the cut, where it leads, and the certificate of the quorum that chose it.
//! Whoever holds the configuration before it can check it without asking anyone. Signatures are not part of it: a
//! certificate is evidence against bugs, rot and mixed clusters, not against forgery.

use thiserror::Error;

use crate::bitmap::Bitmap;
use crate::catalog::Catalog;
use crate::codec::{Decode, DecodeError, Encode, Reader, Sink};
use crate::configuration::{Rejected, SharedConfiguration};
use crate::cut::Cut;
use crate::id::{ConfigHash, NodeId};
use std::sync::Arc;

/// A round of agreement. Ranks order rounds; no two coordinators ever share one, because each puts its own slot in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank {
    /// Zero is the fast round, which belongs to all; classic rounds are higher.
    pub round: u32,
    /// The coordinator's place among the configuration's voters.
    pub coordinator: u32,
}

impl Rank {
    /// The fast round, which needs no coordinator (Rapid, §4.3).
    pub const FAST: Rank = Rank {
        round: 0,
        coordinator: 0,
    };

    /// True for the fast round.
    pub fn is_fast(self) -> bool {
        self.round == 0
    }
}

/// Which voters chose, and in which round.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Certificate {
    /// The configuration that they belong to.
    pub config: ConfigHash,
    /// The round that they voted in.
    pub rank: Rank,
    /// Their places among the configuration's voters.
    pub voters: Bitmap,
}

/// A decided step of the chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// The sequence number of the configuration that it leads to.
    pub seq: u64,
    /// The hash of the configuration that it leads to.
    pub hash: ConfigHash,
    /// The decision.
    pub cut: Arc<Cut>,
    /// The proof.
    pub certificate: Certificate,
}

/// Why a view is not a valid next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unproven {
    /// It continues another configuration.
    #[error("it continues {0}, which is not the configuration at hand")]
    OtherConfiguration(ConfigHash),
    /// Its voters are not this configuration's.
    #[error("its bitmap is over {found} voters, not {expected}")]
    OtherVoters {
        /// The voters that there are.
        expected: usize,
        /// The voters that it speaks of.
        found: usize,
    },
    /// They are too few for the round.
    #[error("{found} votes where {needed} decide")]
    NoQuorum {
        /// The quorum for its round.
        needed: usize,
        /// The votes that it has.
        found: usize,
    },
    /// The cut does not apply.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// The cut leads elsewhere.
    #[error("the cut leads to {0}, not to where it claims")]
    OtherResult(ConfigHash),
}

impl View {
    /// Checks the proof against the configuration before, and gives the one after.
    pub fn verify(
        &self,
        before: &SharedConfiguration,
        catalog: &Catalog,
    ) -> Result<SharedConfiguration, Unproven> {
        let Certificate {
            config,
            rank,
            voters,
        } = &self.certificate;
        if *config != before.hash() {
            return Err(Unproven::OtherConfiguration(*config));
        }
        let expected = before.voters().len();
        if voters.capacity() != expected {
            return Err(Unproven::OtherVoters {
                expected,
                found: voters.capacity(),
            });
        }
        let needed = if rank.is_fast() {
            before.fast_quorum()
        } else {
            before.majority()
        };
        let found = voters.count();
        if found < needed {
            return Err(Unproven::NoQuorum { needed, found });
        }
        let after = catalog.successor(before, &self.cut)?;
        if after.hash() != self.hash || after.seq() != self.seq {
            return Err(Unproven::OtherResult(after.hash()));
        }
        Ok(after)
    }
}

/// One view change, as a subscriber sees it.
#[derive(Clone, Debug)]
pub struct ViewChange {
    /// The configuration that is now in force.
    pub configuration: SharedConfiguration,
    /// The decision that led to it; `None` for the first of a cluster and for one that was adopted whole.
    pub view: Option<Arc<View>>,
    /// Members that were not there before, whole, with their labels.
    pub joined: Vec<crate::member::Member>,
    /// Members that are there no more.
    pub left: Vec<crate::cut::Removal>,
    /// Members that are there as a new boot, with their labels.
    pub restarted: Vec<crate::member::Member>,
    /// Members whose right to vote began with this change.
    pub promoted: Vec<NodeId>,
}

impl Encode for Rank {
    fn encode<S: Sink>(&self, out: &mut S) {
        out.varint(u64::from(self.round));
        out.varint(u64::from(self.coordinator));
    }
}

impl Decode for Rank {
    fn decode(input: &mut Reader<'_>) -> Result<Rank, DecodeError> {
        let mut part = || {
            let value = input.varint("a rank")?;
            u32::try_from(value).map_err(|_| DecodeError::NotCanonical("a rank"))
        };
        Ok(Rank {
            round: part()?,
            coordinator: part()?,
        })
    }
}

impl Encode for Certificate {
    fn encode<S: Sink>(&self, out: &mut S) {
        self.config.encode(out);
        self.rank.encode(out);
        self.voters.encode(out);
    }
}

impl Decode for Certificate {
    fn decode(input: &mut Reader<'_>) -> Result<Certificate, DecodeError> {
        Ok(Certificate {
            config: ConfigHash::decode(input)?,
            rank: Rank::decode(input)?,
            voters: Bitmap::decode(input)?,
        })
    }
}

impl Encode for View {
    fn encode<S: Sink>(&self, out: &mut S) {
        out.varint(self.seq);
        self.hash.encode(out);
        self.cut.encode(out);
        self.certificate.encode(out);
    }
}

impl Decode for View {
    fn decode(input: &mut Reader<'_>) -> Result<View, DecodeError> {
        Ok(View {
            seq: input.varint("a view's seq")?,
            hash: ConfigHash::decode(input)?,
            cut: Arc::decode(input)?,
            certificate: Certificate::decode(input)?,
        })
    }
}

#[cfg(test)]
mod tests;
