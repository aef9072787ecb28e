//! A cut: the difference between two successive configurations, as one agreed value.
//!
//! One cut may remove and add at once. A member that it adds under the [`NodeId`] of a present one replaces that one's
//! boot: a restart. Cuts carry whole members, so that a node can apply a decision without having seen the alerts.

use crate::codec::{Decode, DecodeError, Encode, Reader, Sink, strictly_sorted};
use crate::configuration::Mode;
use crate::id::NodeId;
use crate::member::Member;

/// Why a member goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Departure {
    /// Its observers lost it.
    Failed,
    /// It said good-bye.
    Left,
    /// Another node now answers at its address.
    Superseded,
}

/// A member that goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Removal {
    /// Who.
    pub node: NodeId,
    /// Why.
    pub departure: Departure,
}

/// A proposal, and once decided the step from one configuration to the next. All sequences are sorted by [`NodeId`]
/// and free of repetition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cut {
    /// Members that go.
    pub remove: Vec<Removal>,
    /// Members that come, or come back as a new boot.
    pub add: Vec<Member>,
    /// Members that begin to vote, because their observers saw them installed.
    pub promote: Vec<NodeId>,
    /// Members that stop voting, on request.
    pub demote: Vec<NodeId>,
    /// A change of mode, on request.
    pub mode: Option<Mode>,
}

impl Cut {
    /// True if the cut changes nothing.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty()
            && self.add.is_empty()
            && self.promote.is_empty()
            && self.demote.is_empty()
            && self.mode.is_none()
    }

    /// True if the cut removes this node, and does not bring it back.
    pub fn removes(&self, node: NodeId) -> bool {
        self.remove
            .binary_search_by_key(&node, |removal| removal.node)
            .is_ok()
    }

    /// The member that the cut adds, or restarts, under this id.
    pub fn added(&self, node: NodeId) -> Option<&Member> {
        let at = self
            .add
            .binary_search_by_key(&node, |member| member.node)
            .ok()?;
        Some(&self.add[at])
    }
}

impl Encode for Departure {
    fn encode<S: Sink>(&self, out: &mut S) {
        out.u8(match self {
            Departure::Failed => 0,
            Departure::Left => 1,
            Departure::Superseded => 2,
        });
    }
}

impl Decode for Departure {
    fn decode(input: &mut Reader<'_>) -> Result<Departure, DecodeError> {
        match input.u8("a departure")? {
            0 => Ok(Departure::Failed),
            1 => Ok(Departure::Left),
            2 => Ok(Departure::Superseded),
            value => Err(DecodeError::Unknown {
                what: "a departure",
                value,
            }),
        }
    }
}

impl Encode for Removal {
    fn encode<S: Sink>(&self, out: &mut S) {
        self.node.encode(out);
        self.departure.encode(out);
    }
}

impl Decode for Removal {
    fn decode(input: &mut Reader<'_>) -> Result<Removal, DecodeError> {
        Ok(Removal {
            node: NodeId::decode(input)?,
            departure: Departure::decode(input)?,
        })
    }
}

impl Encode for Cut {
    fn encode<S: Sink>(&self, out: &mut S) {
        self.remove.encode(out);
        self.add.encode(out);
        self.promote.encode(out);
        self.demote.encode(out);
        self.mode.encode(out);
    }
}

impl Decode for Cut {
    fn decode(input: &mut Reader<'_>) -> Result<Cut, DecodeError> {
        let cut = Cut {
            remove: Vec::decode(input)?,
            add: Vec::decode(input)?,
            promote: Vec::decode(input)?,
            demote: Vec::decode(input)?,
            mode: Option::decode(input)?,
        };
        strictly_sorted(&cut.remove, |removal| removal.node, "a cut's removals")?;
        strictly_sorted(&cut.add, |member| member.node, "a cut's additions")?;
        strictly_sorted(&cut.promote, |node| *node, "a cut's new voters")?;
        strictly_sorted(&cut.demote, |node| *node, "a cut's former voters")?;
        Ok(cut)
    }
}
