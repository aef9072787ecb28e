//! What a node must find again after a power cut, and how it is written.
//!
//! Three things live and die together in a data directory: who the node is ([`Registration`]: cluster, id, boot), what
//! its acceptor has promised and voted ([`AcceptorState`]), and the view log (a [`Snapshot`] to start from, and the
//! certified views since). The core says what to write through [`Record`]s, and acts on it only once the caller
//! confirms that it is on the platter. The caller owns the files; [`slots`] and [`log`] give it the formats and the
//! recovery.
//!
//! The acceptor's state is the one thing that a node may never lose while it keeps its id: a forgotten promise can
//! decide two successors. So it is kept in two copies, written and synced one after the other, and damage to one is
//! repaired from the other. The log's last record could not be told from a torn write if it rotted; here it can.

pub mod log;
pub mod slots;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::codec::{Decode, DecodeError, Encode, Reader, Sink};
use crate::configuration::{Configuration, Mode, Overlay};
use crate::id::{Boot, ClusterId, ConfigHash, NodeId};
use crate::member::Member;
use crate::message::{Snapshot, Vote};
use crate::view::{Rank, View};

/// Who a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Its cluster, once it has one.
    pub cluster: Option<ClusterId>,
    /// Its id.
    pub node: NodeId,
    /// Its latest boot.
    pub boot: Boot,
}

/// What an acceptor must not forget (Lamport, Fast Paxos, §2.2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AcceptorState {
    /// Sequence number of the configuration whose successor is decided.
    pub seq: u64,
    /// Its hash.
    pub config: ConfigHash,
    /// The highest round that it takes part in.
    pub promised: Rank,
    /// The last vote that it cast.
    pub vote: Option<Vote>,
    /// Rises with each write, over all configurations: a directory whose count falls was rolled back.
    pub writes: u64,
}

impl AcceptorState {
    /// The state of one that is bound to nothing any more, after so many writes.
    pub(crate) fn unbound(writes: u64) -> AcceptorState {
        AcceptorState {
            seq: 0,
            config: ConfigHash(0),
            promised: Rank::FAST,
            vote: None,
            writes,
        }
    }
}

/// A write that the core asks for.
#[derive(Clone, Debug)]
pub enum Record {
    /// Replaces the registration.
    Registration(Registration),
    /// Replaces the acceptor's state, in both copies.
    Acceptor(Arc<AcceptorState>),
    /// The log starts here: what it held up to this configuration is dropped.
    Base(Arc<Snapshot>),
    /// The next view.
    View(Arc<View>),
}

/// What a directory holds.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Who it is; `None` if it is empty.
    pub registration: Option<Registration>,
    /// What its acceptor must not forget.
    pub acceptor: Option<Arc<AcceptorState>>,
    /// Where its log starts.
    pub base: Option<Arc<Snapshot>>,
    /// The views since, in order.
    pub views: Vec<Arc<View>>,
}

/// What each of some founders writes into its empty directory, to begin a cluster together without a join: all of them
/// in one first configuration, the same everywhere. The registered boots are the listed ones, so each founder's first
/// run starts with [`crate::event::BootChoice::Registered`], later ones as usual. Who the founders are must have been
/// agreed upon before: two lists that overlap make two clusters.
pub fn found(
    cluster: ClusterId,
    mode: Mode,
    overlay: Overlay,
    founders: Vec<Member>,
) -> Vec<(NodeId, Recovered)> {
    let registrations: Vec<(NodeId, Boot)> = founders
        .iter()
        .map(|member| (member.node, member.boot))
        .collect();
    let configuration = Arc::new(Configuration::founded(cluster, mode, overlay, founders));
    let base = Arc::new(Snapshot {
        configuration,
        view: None,
    });
    let directory = |(node, boot)| {
        let registration = Some(Registration {
            cluster: Some(cluster),
            node,
            boot,
        });
        (
            node,
            Recovered {
                registration,
                base: Some(base.clone()),
                ..Recovered::default()
            },
        )
    };
    registrations.into_iter().map(directory).collect()
}

impl Recovered {
    /// The writes that bring an empty directory to this state.
    pub fn records(&self) -> Vec<Record> {
        let registration = self.registration.map(Record::Registration);
        let acceptor = self.acceptor.clone().map(Record::Acceptor);
        let base = self.base.clone().map(Record::Base);
        let views = self.views.iter().cloned().map(Record::View);
        registration
            .into_iter()
            .chain(acceptor)
            .chain(base)
            .chain(views)
            .collect()
    }

    /// What the directory holds after another write.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Registration(registration) => self.registration = Some(*registration),
            Record::Acceptor(state) => self.acceptor = Some(state.clone()),
            Record::Base(snapshot) => {
                let floor = snapshot.configuration.seq();
                self.views.retain(|view| view.seq > floor);
                self.base = Some(snapshot.clone());
            }
            Record::View(view) => self.views.push(view.clone()),
        }
    }
}

impl Encode for Registration {
    fn encode<S: Sink>(&self, out: &mut S) {
        self.cluster.encode(out);
        self.node.encode(out);
        self.boot.encode(out);
    }
}

impl Decode for Registration {
    fn decode(input: &mut Reader<'_>) -> Result<Registration, DecodeError> {
        Ok(Registration {
            cluster: Option::decode(input)?,
            node: NodeId::decode(input)?,
            boot: Boot::decode(input)?,
        })
    }
}

impl Encode for AcceptorState {
    fn encode<S: Sink>(&self, out: &mut S) {
        out.u64(self.seq);
        self.config.encode(out);
        self.promised.encode(out);
        self.vote.encode(out);
        out.u64(self.writes);
    }
}

impl Decode for AcceptorState {
    fn decode(input: &mut Reader<'_>) -> Result<AcceptorState, DecodeError> {
        Ok(AcceptorState {
            seq: input.u64("an acceptor's state")?,
            config: ConfigHash::decode(input)?,
            promised: Rank::decode(input)?,
            vote: Option::decode(input)?,
            writes: input.u64("an acceptor's state")?,
        })
    }
}
