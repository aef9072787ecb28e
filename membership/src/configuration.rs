//! A configuration: the agreed set of members, and which of them vote on the next one.
//!
//! Configurations form a chain. Each has a sequence number one above its predecessor's and a hash over the cluster, the
//! predecessor's hash, the cut between the two, and the resulting members with their flags. So two nodes that agree on
//! a hash agree on the whole history, and a node can check a decided cut by recomputing the hash that it leads to. The
//! certificate is not hashed: different quorums may certify one decision.
//!
//! The first member of the sequence is `seq` 1, with one member and one voter.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use thiserror::Error;

use crate::codec::{Decode, DecodeError, Encode, Reader, Sink, strictly_sorted};
use crate::cut::Cut;
use crate::hash::{SipHash128, hash_of};
use crate::id::{ClusterId, ConfigHash, CutHash, Destination, NodeId};
use crate::member::Member;
use crate::places::Places;
use crate::topology::Topology;
use crate::voters;

/// Who takes part in agreement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Every member, as soon as it is seen installed (Rapid).
    #[default]
    Decentralised,
    /// An ensemble of so many members, three or more; the rest monitor, report to it, and learn (Rapid-C, §5).
    Centralised {
        /// The size that the ensemble is kept at while there are members enough.
        ensemble: u8,
    },
}

/// The overlay's parameters, fixed when the cluster is formed (Rapid, §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Overlay {
    /// Observers of each member.
    pub k: u8,
    /// So many reports make a subject stable.
    pub h: u8,
    /// So many put it in flux; fewer are noise.
    pub l: u8,
}

impl Default for Overlay {
    fn default() -> Overlay {
        Overlay { k: 10, h: 9, l: 3 }
    }
}

/// Why a cut cannot be applied to a configuration. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Rejected {
    /// It changes nothing.
    #[error("the cut changes nothing")]
    Empty,
    /// It removes, promotes or demotes a node that the configuration does not have, or not in that role.
    #[error("{0} is not a member that the cut could change so")]
    NotApplicable(NodeId),
    /// It adds a boot that is not newer than the one listed.
    #[error("the boot of {0} is not newer than the one listed")]
    StaleBoot(NodeId),
    /// It adds a member at another's address.
    #[error("two members at {0}")]
    AddressTaken(SocketAddr),
    /// It removes half of the voters or more without replacing them.
    #[error("it removes {removed} of {voters} voters")]
    TooManyVoters {
        /// Voters that it removes.
        removed: usize,
        /// Voters that there are.
        voters: usize,
    },
    /// It leaves two voters, neither of which could go on without the other; or none.
    #[error("it leaves {0} voters")]
    BadVoterCount(usize),
    /// An ensemble of fewer than three.
    #[error("an ensemble of {0}: it takes three")]
    EnsembleTooSmall(u8),
}

/// An agreed membership.
///
/// Invariants, checked where one is made or decoded: `members`, `voters` and `absent` are sorted by id; ids and
/// addresses of members are unique; each voter is a member or in `absent`, each of `absent` is a voter and no member;
/// there are one or at least three voters; `hash` is the hash of the rest.
#[derive(Debug)]
pub struct Configuration {
    cluster: ClusterId,
    seq: u64,
    previous: ConfigHash,
    hash: ConfigHash,
    cut: CutHash,
    mode: Mode,
    overlay: Overlay,
    members: Vec<Member>,
    voters: Vec<NodeId>,
    absent: Vec<Member>,
    /// Made when first asked for, as are the two below.
    places: OnceLock<Places>,
    topology: OnceLock<Topology>,
    voter_destinations: OnceLock<Arc<[Destination]>>,
}

/// The parts that the voter law decides, handed over to make a configuration.
pub(crate) struct Roster {
    pub(crate) members: Vec<Member>,
    pub(crate) voters: Vec<NodeId>,
    pub(crate) absent: Vec<Member>,
}

impl Configuration {
    /// The first configuration of a new cluster: one member, which votes.
    pub fn genesis(cluster: ClusterId, mode: Mode, overlay: Overlay, member: Member) -> Self {
        let roster = Roster {
            voters: vec![member.node],
            members: vec![member],
            absent: Vec::new(),
        };
        Configuration::assemble(cluster, 1, ConfigHash(0), CutHash(0), mode, overlay, roster)
    }

    /// The first configuration of a cluster that begins with these members, whose ids and addresses must be distinct.
    /// All of them vote, unless they are two, of whom the first by id does. Such a cluster is founded by writing the
    /// same configuration into each member's directory.
    pub fn founded(
        cluster: ClusterId,
        mode: Mode,
        overlay: Overlay,
        mut members: Vec<Member>,
    ) -> Configuration {
        members.sort_unstable_by_key(|member| member.node);
        let count = match (mode, members.len()) {
            (_, 2) => 1,
            (Mode::Decentralised, count) => count,
            (Mode::Centralised { ensemble }, count) => count.min(usize::from(ensemble)),
        };
        let voters = members
            .iter()
            .map(|member| member.node)
            .take(count)
            .collect();
        let roster = Roster {
            members,
            voters,
            absent: Vec::new(),
        };
        Configuration::assemble(cluster, 1, ConfigHash(0), CutHash(0), mode, overlay, roster)
    }

    /// The configuration that begins a new lineage with these members of this one.
    pub(crate) fn forced(&self, staying: Vec<Member>, cluster: ClusterId) -> Self {
        let founded = Configuration::founded(cluster, self.mode, self.overlay, staying);
        let Configuration {
            members,
            voters,
            absent,
            ..
        } = founded;
        let roster = Roster {
            members,
            voters,
            absent,
        };
        let (seq, cut) = (self.seq + 1, CutHash(0));
        // Named as the predecessor for the record: there is no certificate that leads from there.
        Configuration::assemble(
            cluster,
            seq,
            self.hash,
            cut,
            self.mode,
            self.overlay,
            roster,
        )
    }

    pub(crate) fn assemble(
        cluster: ClusterId,
        seq: u64,
        previous: ConfigHash,
        cut: CutHash,
        mode: Mode,
        overlay: Overlay,
        roster: Roster,
    ) -> Configuration {
        let Roster {
            members,
            voters,
            absent,
        } = roster;
        let mut configuration = Configuration {
            cluster,
            seq,
            previous,
            hash: ConfigHash(0),
            cut,
            mode,
            overlay,
            members,
            voters,
            absent,
            places: OnceLock::new(),
            topology: OnceLock::new(),
            voter_destinations: OnceLock::new(),
        };
        configuration.hash = configuration.compute_hash();
        configuration.check();
        configuration
    }

    /// The configuration that this one becomes through a cut.
    pub fn successor(&self, cut: &Cut) -> Result<Configuration, Rejected> {
        let mode = cut.mode.unwrap_or(self.mode);
        let roster = voters::apply(self, cut, mode)?;
        Ok(Configuration::assemble(
            self.cluster,
            self.seq + 1,
            self.hash,
            self.cut_hash(cut),
            mode,
            self.overlay,
            roster,
        ))
    }

    /// The hash that stands for a cut in votes on this configuration's successor.
    pub fn cut_hash(&self, cut: &Cut) -> CutHash {
        let mut hash = SipHash128::keyed(0x0043_7574, self.hash.0 as u64);
        self.hash.encode(&mut hash);
        cut.encode(&mut hash);
        CutHash(hash.finish())
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Its place in the chain; the first is 1.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The predecessor's hash; zero for the first of a lineage.
    pub fn previous(&self) -> ConfigHash {
        self.previous
    }

    /// The chained hash.
    pub fn hash(&self) -> ConfigHash {
        self.hash
    }

    /// Who takes part in agreement.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The overlay's parameters.
    pub fn overlay(&self) -> Overlay {
        self.overlay
    }

    /// The members, sorted by id.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The ids of those that vote on the next configuration, sorted. An id that is no member's is an absent voter.
    pub fn voters(&self) -> &[NodeId] {
        &self.voters
    }

    /// Voters that are no longer members: they keep their slot until three members can vote, so that any two of three
    /// can go on.
    pub fn absent_voters(&self) -> &[Member] {
        &self.absent
    }

    /// The member with this id.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.index_of(node).map(|index| &self.members[index])
    }

    /// The member's place in [`Configuration::members`].
    pub fn index_of(&self, node: NodeId) -> Option<usize> {
        let members = &self.members;
        let ids = || Places::new(members.iter().map(|member| member.node));
        let places = self.places.get_or_init(ids);
        places.find(node, members.len(), |place| members[place].node)
    }

    /// The voter's place in [`Configuration::voters`], and in bitmaps of votes.
    pub fn voter_index(&self, node: NodeId) -> Option<usize> {
        if self.all_vote() {
            return self.index_of(node);
        }
        self.voters.binary_search(&node).ok()
    }

    /// True if the voters are the members.
    fn all_vote(&self) -> bool {
        self.absent.is_empty() && self.voters.len() == self.members.len()
    }

    /// True if the node votes on the next configuration.
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voter_index(node).is_some()
    }

    /// The member or absent voter with this id.
    pub fn slot(&self, node: NodeId) -> Option<&Member> {
        self.member(node)
            .or_else(|| self.absent.iter().find(|member| member.node == node))
    }

    /// Identical votes that decide on the fast path: N − ⌊(N−1)/4⌋ (Rapid, §4.3).
    pub fn fast_quorum(&self) -> usize {
        self.voters.len() - self.fast_faults()
    }

    /// Voters that the fast path can do without: ⌊(N−1)/4⌋.
    pub fn fast_faults(&self) -> usize {
        (self.voters.len() - 1) / 4
    }

    /// More than half of the voters.
    pub fn majority(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// True if members that can vote should be made to.
    pub fn wants_voters(&self) -> bool {
        match self.mode {
            Mode::Decentralised => {
                self.voters.len() < self.members.len() || !self.absent.is_empty()
            }
            Mode::Centralised { ensemble } => {
                self.voters.len() - self.absent.len() < usize::from(ensemble)
            }
        }
    }

    /// The monitoring overlay, built when first asked for.
    pub fn topology(&self) -> &Topology {
        self.topology.get_or_init(|| {
            Topology::new(self.members.iter().map(|member| member.node), self.overlay)
        })
    }

    /// Where the voters are, in their order: one list for all messages to all of them.
    pub fn voter_destinations(&self) -> Arc<[Destination]> {
        let list = || {
            let slots = self.voters.iter().filter_map(|voter| self.slot(*voter));
            slots.map(Member::destination).collect()
        };
        self.voter_destinations.get_or_init(list).clone()
    }

    fn compute_hash(&self) -> ConfigHash {
        ConfigHash(hash_of(0x436f_6e66, &Hashed(self)))
    }

    fn check(&self) {
        assert!(self.seq > 0, "configurations count from one");
        let sorted = |nodes: &mut dyn Iterator<Item = NodeId>| nodes.is_sorted_by(|a, b| a < b);
        assert!(
            sorted(&mut self.members.iter().map(|m| m.node)),
            "members are sorted"
        );
        assert!(
            sorted(&mut self.voters.iter().copied()),
            "voters are sorted"
        );
        assert!(
            sorted(&mut self.absent.iter().map(|m| m.node)),
            "absent voters are sorted"
        );
        assert!(!self.members.is_empty(), "a configuration has members");
        assert!(
            self.voters.len() == 1 || self.voters.len() >= 3,
            "one voter or at least three, not {}",
            self.voters.len()
        );
        for voter in &self.voters {
            assert!(self.slot(*voter).is_some(), "{voter} votes and is nowhere");
        }
        for member in &self.absent {
            let slot = self.is_voter(member.node) && self.member(member.node).is_none();
            assert!(slot, "{} is absent and no voter", member.node);
        }
    }
}

impl PartialEq for Configuration {
    fn eq(&self, other: &Configuration) -> bool {
        self.hash == other.hash
    }
}

impl Eq for Configuration {}

/// What the hash covers.
struct Hashed<'a>(&'a Configuration);

impl Encode for Hashed<'_> {
    fn encode<S: Sink>(&self, out: &mut S) {
        let Configuration {
            cluster,
            seq,
            previous,
            cut,
            mode,
            overlay,
            ..
        } = self.0;
        cluster.encode(out);
        out.u64(*seq);
        previous.encode(out);
        cut.encode(out);
        mode.encode(out);
        overlay.encode(out);
        self.0.members.encode(out);
        self.0.voters.encode(out);
        self.0.absent.encode(out);
    }
}

impl Encode for Configuration {
    fn encode<S: Sink>(&self, out: &mut S) {
        Hashed(self).encode(out);
        self.hash.encode(out);
    }
}

impl Decode for Configuration {
    fn decode(input: &mut Reader<'_>) -> Result<Configuration, DecodeError> {
        const WHAT: &str = "a configuration";
        let cluster = ClusterId::decode(input)?;
        let seq = input.u64(WHAT)?;
        let previous = ConfigHash::decode(input)?;
        let cut = CutHash::decode(input)?;
        let mode = Mode::decode(input)?;
        let overlay = Overlay::decode(input)?;
        let members: Vec<Member> = Vec::decode(input)?;
        let voters: Vec<NodeId> = Vec::decode(input)?;
        let absent: Vec<Member> = Vec::decode(input)?;
        let hash = ConfigHash::decode(input)?;
        strictly_sorted(&members, |member| member.node, "members")?;
        strictly_sorted(&voters, |voter| *voter, "voters")?;
        strictly_sorted(&absent, |member| member.node, "absent voters")?;
        let mut addresses: Vec<SocketAddr> = members.iter().map(|m| m.address).collect();
        addresses.sort_unstable();
        strictly_sorted(&addresses, |address| *address, "members' addresses")?;
        let is_member = |node| {
            members
                .binary_search_by_key(&node, |m: &Member| m.node)
                .is_ok()
        };
        let is_absent = |node| {
            absent
                .binary_search_by_key(&node, |m: &Member| m.node)
                .is_ok()
        };
        let slots = voters
            .iter()
            .all(|voter| is_member(*voter) != is_absent(*voter));
        let kept = absent.iter().all(|m| voters.binary_search(&m.node).is_ok());
        let counts = !members.is_empty() && (voters.len() == 1 || voters.len() >= 3) && seq > 0;
        if !(slots && kept && counts) {
            return Err(DecodeError::NotCanonical(WHAT));
        }
        let roster = Roster {
            members,
            voters,
            absent,
        };
        let found = Configuration::assemble(cluster, seq, previous, cut, mode, overlay, roster);
        if found.hash == hash {
            Ok(found)
        } else {
            Err(DecodeError::NotCanonical(WHAT))
        }
    }
}

impl Encode for Mode {
    fn encode<S: Sink>(&self, out: &mut S) {
        match self {
            Mode::Decentralised => out.u8(0),
            Mode::Centralised { ensemble } => out.u8(*ensemble),
        }
    }
}

impl Decode for Mode {
    fn decode(input: &mut Reader<'_>) -> Result<Mode, DecodeError> {
        match input.u8("a mode")? {
            0 => Ok(Mode::Decentralised),
            value @ (1 | 2) => Err(DecodeError::Unknown {
                what: "a mode",
                value,
            }),
            ensemble => Ok(Mode::Centralised { ensemble }),
        }
    }
}

impl Encode for Overlay {
    fn encode<S: Sink>(&self, out: &mut S) {
        out.put(&[self.k, self.h, self.l]);
    }
}

impl Decode for Overlay {
    fn decode(input: &mut Reader<'_>) -> Result<Overlay, DecodeError> {
        const WHAT: &str = "an overlay";
        let (k, h, l) = (input.u8(WHAT)?, input.u8(WHAT)?, input.u8(WHAT)?);
        let ordered = 1 <= l && l <= h && h <= k;
        if ordered {
            Ok(Overlay { k, h, l })
        } else {
            Err(DecodeError::NotCanonical(WHAT))
        }
    }
}

/// A configuration that may be shared by many nodes of one process.
pub type SharedConfiguration = Arc<Configuration>;
