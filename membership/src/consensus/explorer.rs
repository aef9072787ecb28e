//! Exhaustive exploration of the production agreement code.
//!
//! The world is small: some voters, a few things that each may do, and every order in which they can happen. Messages
//! stay in the network once sent and may arrive at any time, any number of times, or never: that is loss, duplication
//! and reordering at once. Writes reach the disk in order, at any time; a restart loses what did not. Two different
//! decisions anywhere, ever, are the violation that is looked for.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::agreement::{Agreement, FastRound, Output};
use super::sabotage::Sabotage;
use crate::catalog::Catalog;
use crate::codec::Encode;
use crate::configuration::{Configuration, Mode, Overlay, SharedConfiguration};
use crate::cut::{Cut, Departure, Removal};
use crate::durable::AcceptorState;
use crate::id::{Boot, ClusterId, ConfigHash, NodeId};
use crate::member::Member;
use crate::message::{Message, Promise};
use crate::view::Rank;

/// What may happen, besides arrivals and writes.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    /// Voters.
    pub(super) voters: usize,
    /// For each voter in turn, what it proposes, in order: which of the two cuts, and whether it votes for it.
    pub(super) proposals: Vec<Vec<(usize, FastRound)>>,
    /// How many classic rounds each voter may start.
    pub(super) rounds: Vec<u8>,
    /// How many restarts there may be, of anybody.
    pub(super) restarts: u8,
    /// If set, only this voter restarts.
    pub(super) restartable: Option<usize>,
    /// If set, only messages to or from this voter arrive.
    pub(super) swing: Option<usize>,
    /// True if the writes of those that may restart take time, false if they are done at once.
    pub(super) slow_disk: bool,
    /// If set, only this voter hears fast votes: enough to see a decision, and far fewer orders.
    pub(super) listener: Option<usize>,
    /// Those who make their proposals before anything else happens.
    pub(super) early: Vec<usize>,
    /// True if a node that is no voter promises and accepts whatever the coordinators ask.
    pub(super) intruder: bool,
    /// A bug to put in.
    pub(super) sabotage: Option<Sabotage>,
    /// Give up beyond so many states.
    pub(super) states_max: usize,
}

/// What an exploration found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All reachable states were seen, and no two decisions.
    Safe { states: usize, decisions: usize },
    /// Two decisions, after these steps.
    Violated { steps: Vec<String> },
    /// There were more states than allowed.
    Unfinished,
}

#[derive(Clone, Debug)]
struct Packet {
    from: usize,
    to: usize,
    message: Message,
}

/// A packet's place in [`Explorer::packets`].
type PacketId = u16;

#[derive(Clone, Debug)]
enum Action {
    Deliver(PacketId),
    Synced(usize),
    Propose(usize),
    StartRound(usize),
    Restart(usize),
}

/// One voter: its process, its disk, and what is on the way between them.
#[derive(Clone)]
struct Site {
    node: Agreement,
    disk: Option<Arc<AcceptorState>>,
    unsynced: VecDeque<Arc<AcceptorState>>,
    proposed: usize,
    rounds: u8,
}

impl Site {
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.node.fingerprint(&mut hasher);
        (&self.disk, &self.unsynced, self.proposed, self.rounds).hash(&mut hasher);
        hasher.finish()
    }
}

#[derive(Clone)]
struct State {
    sites: Vec<(Rc<Site>, u64)>,
    network: BTreeSet<PacketId>,
    restarts: u8,
    decisions: BTreeSet<ConfigHash>,
}

impl State {
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.sites
            .iter()
            .for_each(|(_, print)| print.hash(&mut hasher));
        (&self.network, self.restarts, &self.decisions).hash(&mut hasher);
        hasher.finish()
    }
}

/// What one step of one voter gave rise to.
#[derive(Default)]
struct Outcome {
    packets: Vec<Packet>,
    decisions: Vec<ConfigHash>,
}

struct Explorer {
    plan: Plan,
    config: SharedConfiguration,
    catalog: Catalog,
    cuts: [Arc<Cut>; 2],
    intruder: usize,
    packets: Vec<Packet>,
    packet_ids: BTreeMap<u64, PacketId>,
}

/// Explores a plan.
pub(super) fn explore(plan: Plan) -> Verdict {
    let mut explorer = Explorer::new(plan);
    let mut seen = HashSet::new();
    let initial = explorer.initial();
    seen.insert(initial.fingerprint());
    // Depth first, with the trail of steps that led to each state.
    let mut stack = vec![(initial, None::<Rc<Trail>>)];
    let mut decisions = BTreeSet::new();
    while let Some((state, trail)) = stack.pop() {
        for action in explorer.actions(&state) {
            let Some(next) = explorer.act(&state, &action) else {
                continue;
            };
            if !seen.insert(next.fingerprint()) {
                continue;
            }
            let label = explorer.label(&action);
            let step = Rc::new(Trail {
                label,
                before: trail.clone(),
            });
            if next.decisions.len() > 1 {
                return Verdict::Violated {
                    steps: Trail::steps(&step),
                };
            }
            decisions.extend(next.decisions.iter().copied());
            if seen.len() > explorer.plan.states_max {
                return Verdict::Unfinished;
            }
            stack.push((next, Some(step)));
        }
    }
    Verdict::Safe {
        states: seen.len(),
        decisions: decisions.len(),
    }
}

struct Trail {
    label: String,
    before: Option<Rc<Trail>>,
}

impl Trail {
    fn steps(last: &Rc<Trail>) -> Vec<String> {
        let mut steps = vec![last.label.clone()];
        let mut at = last.before.as_ref();
        while let Some(trail) = at {
            steps.push(trail.label.clone());
            at = trail.before.as_ref();
        }
        steps.reverse();
        steps
    }
}

impl Explorer {
    fn new(plan: Plan) -> Explorer {
        let member = |index: usize| Member {
            node: NodeId(index as u128 + 1),
            boot: Boot::first(index as u64 + 1),
            address: SocketAddr::from(([10, 0, 0, index as u8 + 1], 7000)),
            labels: Arc::default(),
        };
        // One member more than there are voters, which either cut may concern.
        let members = (0..plan.voters).map(member).collect();
        let overlay = Overlay::default();
        let config = Configuration::founded(ClusterId(7), Mode::Decentralised, overlay, members);
        let joiner = |index: usize| Cut {
            add: vec![member(index)],
            ..Cut::default()
        };
        let failed = Removal {
            node: NodeId(plan.voters as u128),
            departure: Departure::Failed,
        };
        let removal = Cut {
            remove: vec![failed],
            ..Cut::default()
        };
        Explorer {
            intruder: plan.voters,
            packets: Vec::new(),
            packet_ids: BTreeMap::new(),
            cuts: [Arc::new(joiner(20)), Arc::new(removal)],
            plan,
            config: Arc::new(config),
            catalog: Catalog::new(),
        }
    }

    fn id(index: usize) -> NodeId {
        NodeId(index as u128 + 1)
    }

    fn agreement(&self, index: usize, stored: Option<&AcceptorState>) -> Agreement {
        let (config, catalog) = (self.config.clone(), self.catalog.clone());
        let mut agreement = Agreement::new(config, catalog, Explorer::id(index), stored);
        agreement.sabotage = self.plan.sabotage;
        agreement
    }

    fn initial(&mut self) -> State {
        let site = |index: usize| Site {
            node: self.agreement(index, None),
            disk: None,
            unsynced: VecDeque::new(),
            proposed: 0,
            rounds: 0,
        };
        let sites = (0..self.plan.voters).map(site).map(|site| {
            let print = site.fingerprint();
            (Rc::new(site), print)
        });
        let mut state = State {
            sites: sites.collect(),
            network: BTreeSet::new(),
            restarts: 0,
            decisions: BTreeSet::new(),
        };
        for index in self.plan.early.clone() {
            while self.plan.proposals[index].len() > state.sites[index].0.proposed {
                if let Some(next) = self.act(&state, &Action::Propose(index)) {
                    state = next;
                }
            }
        }
        state
    }

    fn actions(&self, state: &State) -> Vec<Action> {
        let mut actions: Vec<Action> = state
            .network
            .iter()
            .map(|packet| Action::Deliver(*packet))
            .collect();
        for (index, (site, _)) in state.sites.iter().enumerate() {
            if !site.unsynced.is_empty() {
                actions.push(Action::Synced(index));
            }
            if self
                .plan
                .proposals
                .get(index)
                .is_some_and(|p| p.len() > site.proposed)
            {
                actions.push(Action::Propose(index));
            }
            if self
                .plan
                .rounds
                .get(index)
                .is_some_and(|limit| *limit > site.rounds)
            {
                actions.push(Action::StartRound(index));
            }
            let restartable = self.plan.restartable.is_none_or(|only| only == index);
            if restartable && state.restarts < self.plan.restarts {
                actions.push(Action::Restart(index));
            }
        }
        actions
    }

    /// The state after an action; `None` if nothing changes.
    fn act(&mut self, state: &State, action: &Action) -> Option<State> {
        let index = match action {
            Action::Deliver(packet) => self.packets[usize::from(*packet)].to,
            Action::Synced(index)
            | Action::Propose(index)
            | Action::StartRound(index)
            | Action::Restart(index) => *index,
        };
        let (site, print) = &state.sites[index];
        let mut site = Site::clone(site);
        let outcome = self.act_at(&mut site, index, action);
        let changed = site.fingerprint();
        if changed == *print && outcome.packets.is_empty() && outcome.decisions.is_empty() {
            return None;
        }
        let mut next = state.clone();
        next.sites[index] = (Rc::new(site), changed);
        next.restarts += u8::from(matches!(action, Action::Restart(_)));
        next.decisions.extend(outcome.decisions);
        let arrives = |packet: &Packet| {
            let swing = self.plan.swing;
            swing.is_none_or(|swing| packet.from == swing || packet.to == swing)
        };
        for packet in outcome
            .packets
            .into_iter()
            .filter(arrives)
            .collect::<Vec<_>>()
        {
            next.network.insert(self.intern(packet));
        }
        Some(next)
    }

    fn act_at(&self, site: &mut Site, index: usize, action: &Action) -> Outcome {
        let mut out = Vec::new();
        match action {
            Action::Deliver(packet) => {
                let Packet { from, message, .. } = &self.packets[usize::from(*packet)];
                deliver(&mut site.node, Explorer::id(*from), message, &mut out);
            }
            Action::Synced(_) => {
                if let Some(written) = site.unsynced.pop_front() {
                    let writes = written.writes;
                    site.disk = Some(written);
                    site.node.persisted(writes, &mut out);
                }
            }
            Action::Propose(_) => {
                let (cut, round) = self.plan.proposals[index][site.proposed];
                site.proposed += 1;
                site.node.propose(self.cuts[cut].clone(), round, &mut out);
            }
            Action::StartRound(_) => {
                site.rounds += 1;
                site.node.start_round(&mut out);
            }
            Action::Restart(_) => {
                site.unsynced.clear();
                let mut stored = site.disk.as_deref().cloned();
                if let (Some(stored), Some(Sabotage::ForgetsPromise)) =
                    (&mut stored, self.plan.sabotage)
                {
                    stored.promised = stored.vote.as_ref().map_or(Rank::FAST, |vote| vote.rank);
                }
                site.node = self.agreement(index, stored.as_ref());
            }
        }
        self.carry_out(site, index, out)
    }

    fn carry_out(&self, site: &mut Site, index: usize, mut outputs: Vec<Output>) -> Outcome {
        let mut outcome = Outcome::default();
        while !outputs.is_empty() {
            let mut more = Vec::new();
            for output in outputs {
                match output {
                    Output::Persist(written) if self.is_slow(index) => {
                        site.unsynced.push_back(written);
                    }
                    Output::Persist(written) => {
                        let writes = written.writes;
                        site.disk = Some(written);
                        site.node.persisted(writes, &mut more);
                    }
                    Output::Send { to, message } => {
                        let to = to.0 as usize - 1;
                        outcome.packets.push(Packet {
                            from: index,
                            to,
                            message,
                        });
                    }
                    Output::Broadcast(message) => self.broadcast(index, &message, &mut outcome),
                    Output::Voted => {
                        if let Some(votes) = site.node.fast_votes() {
                            self.broadcast(index, &Message::FastVotes(votes), &mut outcome);
                        }
                    }
                    Output::Decided(view) => outcome.decisions.push(view.hash),
                    Output::Missing(hash) => {
                        // Whoever voted knows the cut: asking is not part of what is explored.
                        let cut = self
                            .cuts
                            .iter()
                            .find(|cut| self.config.cut_hash(cut) == hash);
                        if let Some(cut) = cut {
                            site.node.on_cut(cut.clone(), &mut more);
                        }
                    }
                    Output::TwoVotes(_) => {}
                }
            }
            outputs = more;
        }
        outcome
    }

    /// Where nobody restarts, it makes no difference how long a write takes.
    fn is_slow(&self, index: usize) -> bool {
        self.plan.slow_disk && self.plan.restartable.is_none_or(|only| only == index)
    }

    fn broadcast(&self, from: usize, message: &Message, outcome: &mut Outcome) {
        let heard = |to: usize| match message {
            Message::FastVotes(_) => self.plan.listener.is_none_or(|listener| listener == to),
            _ => true,
        };
        let others = (0..self.plan.voters).filter(|to| *to != from && heard(*to));
        outcome.packets.extend(others.map(|to| Packet {
            from,
            to,
            message: message.clone(),
        }));
        if self.plan.intruder {
            let answer = match message {
                Message::Prepare(ballot) => {
                    let promise = Promise {
                        ballot: *ballot,
                        vote: None,
                    };
                    Some(Message::Promise(Arc::new(promise)))
                }
                Message::Accept(accept) => Some(Message::Accepted(accept.ballot)),
                _ => None,
            };
            let packet = |message| Packet {
                from: self.intruder,
                to: from,
                message,
            };
            outcome.packets.extend(answer.map(packet));
        }
    }

    fn intern(&mut self, packet: Packet) -> PacketId {
        let mut hasher = DefaultHasher::new();
        (packet.from, packet.to, packet.message.to_bytes()).hash(&mut hasher);
        let next = self.packets.len() as PacketId;
        let id = *self.packet_ids.entry(hasher.finish()).or_insert(next);
        if id == next {
            self.packets.push(packet);
        }
        id
    }

    fn label(&self, action: &Action) -> String {
        match action {
            Action::Deliver(packet) => {
                let Packet { from, to, message } = &self.packets[usize::from(*packet)];
                format!("{from} -> {to}: {}", message.kind())
            }
            other => format!("{other:?}"),
        }
    }
}

fn deliver(node: &mut Agreement, from: NodeId, message: &Message, out: &mut Vec<Output>) {
    match message {
        Message::FastVotes(votes) => node.on_fast_votes(votes, out),
        Message::Prepare(ballot) => node.on_prepare(from, ballot.rank, out),
        Message::Promise(promise) => node.on_promise(from, promise, out),
        Message::Accept(accept) => node.on_accept(from, accept, out),
        Message::Accepted(ballot) => node.on_accepted(from, *ballot, out),
        Message::Refused(refused) => {
            node.on_refused(*refused);
        }
        other => panic!("agreement does not send {}", other.kind()),
    }
}
