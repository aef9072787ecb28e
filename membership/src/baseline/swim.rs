//! SWIM with suspicion and gossip, as the crate `foca` implements it.
//!
//! The settings are foca's own for a local network of the scenario's size, which it derives from
//! memberlist's. Nodes renew their identity when the cluster declares them dead, and come back.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, BufMut};
use foca::{Codec, Config, Foca, Header, Identity, Member, NoCustomBroadcast, Notification};
use foca::{Runtime, State, Timer};

use crate::baseline::list::{Change, MemberList};
use crate::sim::protocol::{Boot, Input, Origin, Outbox, Protocol};
use crate::sim::rng::Rng;
use crate::sim::scenario::Scenario;

/// Foca's timers start when a node first hears of others: the nodes of a formed cluster begin
/// within this time of each other instead of in step.
const STAGGER_US: u64 = 1_000_000;
/// Between two tries to join.
const JOIN_PERIOD_US: u64 = 1_000_000;

type Out = Outbox<Rc<[u8]>, ()>;

/// A node number and an incarnation; both change hands as in an address with a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    node: u32,
    generation: u32,
}

impl Identity for NodeIdentity {
    type Addr = u32;

    fn renew(&self) -> Option<Self> {
        Some(NodeIdentity {
            node: self.node,
            generation: self.generation + 1,
        })
    }

    fn addr(&self) -> u32 {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.generation > adversary.generation
    }
}

/// Fixed-width, big-endian: 8 bytes an identity, 11 a member.
pub struct FixedWidth;

/// A message that does not parse or does not fit.
#[derive(Debug, thiserror::Error)]
#[error("short or malformed message")]
pub struct Malformed;

fn put_identity(id: NodeIdentity, buf: &mut impl BufMut) {
    buf.put_u32(id.node);
    buf.put_u32(id.generation);
}

fn identity(buf: &mut impl Buf) -> Result<NodeIdentity, Malformed> {
    let node = buf.try_get_u32().map_err(|_| Malformed)?;
    let generation = buf.try_get_u32().map_err(|_| Malformed)?;
    Ok(NodeIdentity { node, generation })
}

impl Codec<NodeIdentity> for FixedWidth {
    type Error = Malformed;

    fn encode_header(
        &mut self,
        header: &Header<NodeIdentity>,
        mut buf: impl BufMut,
    ) -> Result<(), Malformed> {
        use foca::Message::*;
        if buf.remaining_mut() < 28 {
            return Err(Malformed);
        }
        put_identity(header.src, &mut buf);
        buf.put_u16(header.src_incarnation);
        put_identity(header.dst, &mut buf);
        let (tag, number, other) = match header.message {
            Ping(number) => (0, number, None),
            Ack(number) => (1, number, None),
            PingReq {
                target,
                probe_number,
            } => (2, probe_number, Some(target)),
            IndirectPing {
                origin,
                probe_number,
            } => (3, probe_number, Some(origin)),
            IndirectAck {
                target,
                probe_number,
            } => (4, probe_number, Some(target)),
            ForwardedAck {
                origin,
                probe_number,
            } => (5, probe_number, Some(origin)),
            Announce => (6, 0, None),
            Feed => (7, 0, None),
            Gossip => (8, 0, None),
            Broadcast => (9, 0, None),
            TurnUndead => (10, 0, None),
        };
        buf.put_u8(tag);
        buf.put_u8(number);
        if let Some(other) = other {
            put_identity(other, &mut buf);
        }
        Ok(())
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<NodeIdentity>, Malformed> {
        use foca::Message::*;
        let src = identity(&mut buf)?;
        let src_incarnation = buf.try_get_u16().map_err(|_| Malformed)?;
        let dst = identity(&mut buf)?;
        let tag = buf.try_get_u8().map_err(|_| Malformed)?;
        let probe_number = buf.try_get_u8().map_err(|_| Malformed)?;
        let message = match tag {
            0 => Ping(probe_number),
            1 => Ack(probe_number),
            2 => PingReq {
                target: identity(&mut buf)?,
                probe_number,
            },
            3 => IndirectPing {
                origin: identity(&mut buf)?,
                probe_number,
            },
            4 => IndirectAck {
                target: identity(&mut buf)?,
                probe_number,
            },
            5 => ForwardedAck {
                origin: identity(&mut buf)?,
                probe_number,
            },
            6 => Announce,
            7 => Feed,
            8 => Gossip,
            9 => Broadcast,
            10 => TurnUndead,
            _ => return Err(Malformed),
        };
        Ok(Header {
            src,
            src_incarnation,
            dst,
            message,
        })
    }

    fn encode_member(
        &mut self,
        member: &Member<NodeIdentity>,
        mut buf: impl BufMut,
    ) -> Result<(), Malformed> {
        if buf.remaining_mut() < 11 {
            return Err(Malformed);
        }
        put_identity(*member.id(), &mut buf);
        buf.put_u16(member.incarnation());
        buf.put_u8(match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        });
        Ok(())
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<NodeIdentity>, Malformed> {
        let id = identity(&mut buf)?;
        let incarnation = buf.try_get_u16().map_err(|_| Malformed)?;
        let state = match buf.try_get_u8().map_err(|_| Malformed)? {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Down,
            _ => return Err(Malformed),
        };
        Ok(Member::new(id, incarnation, state))
    }
}

/// A timer of foca's, or of ours.
#[derive(Debug)]
enum Pending {
    Foca(Timer<NodeIdentity>),
    /// Learn of the other founders.
    Found,
    /// Announce to a seed until someone answers.
    Join,
}

/// In order of time, then of foca's own ranking of simultaneous timers, then of submission.
struct Timers {
    heap: BinaryHeap<Reverse<(u64, u8, u64)>>,
    pending: std::collections::BTreeMap<u64, Pending>,
    submitted: u64,
}

impl Timers {
    fn submit(&mut self, at_us: u64, pending: Pending) {
        let rank = match &pending {
            Pending::Foca(Timer::SendIndirectProbe { .. }) => 0,
            Pending::Foca(Timer::ProbeRandomMember(_)) => 1,
            Pending::Foca(_) | Pending::Found | Pending::Join => 2,
        };
        self.submitted += 1;
        self.heap.push(Reverse((at_us, rank, self.submitted)));
        self.pending.insert(self.submitted, pending);
    }

    fn due(&mut self, now_us: u64) -> Option<Pending> {
        let Reverse((at_us, _, id)) = *self.heap.peek()?;
        if at_us > now_us {
            return None;
        }
        self.heap.pop();
        self.pending.remove(&id)
    }
}

/// Foca's gateway: what it wants goes to the outbox, the timers and the list.
struct Gateway<'a> {
    now_us: u64,
    timers: &'a mut Timers,
    list: &'a mut MemberList,
    out: &'a mut Out,
}

impl Runtime<NodeIdentity> for Gateway<'_> {
    fn notify(&mut self, notification: Notification<'_, NodeIdentity>) {
        match notification {
            Notification::MemberUp(id) => self.list.change(id.node, Change::Joined, self.out),
            Notification::MemberDown(id) => self.list.change(id.node, Change::Removed, self.out),
            Notification::Rename(_, id) => self.list.change(id.node, Change::Restarted, self.out),
            Notification::Active
            | Notification::Idle
            | Notification::Defunct
            | Notification::Rejoin(_) => {}
        }
    }

    fn send_to(&mut self, to: NodeIdentity, data: &[u8]) {
        self.out.send(to.node, data.into(), data.len() as u32);
    }

    fn submit_after(&mut self, event: Timer<NodeIdentity>, after: Duration) {
        self.timers
            .submit(self.now_us + after.as_micros() as u64, Pending::Foca(event));
    }
}

/// What the nodes of a run share.
pub struct Cluster {
    nodes: u32,
    founders: Vec<u32>,
    seeds: Vec<u32>,
    config: Config,
}

/// A node.
pub struct Swim {
    me: u32,
    foca: Foca<NodeIdentity, FixedWidth, Rng, NoCustomBroadcast>,
    timers: Timers,
    list: MemberList,
    rng: Rng,
}

impl Protocol for Swim {
    type Message = Rc<[u8]>;
    type Record = ();
    type Disk = ();
    type Cluster = Cluster;

    fn cluster(scenario: &Scenario, founders: &[u32], _seed: u64) -> Cluster {
        let size = NonZeroU32::new(scenario.nodes).unwrap_or(NonZeroU32::MIN);
        Cluster {
            nodes: scenario.nodes,
            founders: founders.to_vec(),
            seeds: scenario.seeds.clone(),
            config: Config::new_lan(size),
        }
    }

    fn write((): &mut (), (): ()) {}

    fn boot(cluster: &mut Cluster, boot: Boot, (): &(), now_us: u64, out: &mut Out) -> Swim {
        // A boot's generations win over all those that an earlier boot renewed itself to.
        let identity = NodeIdentity {
            node: boot.node,
            generation: boot.count << 16,
        };
        let rng = Rng::new(boot.seed, 1);
        let mut node = Swim {
            me: boot.node,
            foca: Foca::new(identity, cluster.config.clone(), rng, FixedWidth),
            timers: Timers {
                heap: BinaryHeap::new(),
                pending: std::collections::BTreeMap::new(),
                submitted: 0,
            },
            list: MemberList::new(cluster.nodes, boot.node, []),
            rng: Rng::new(boot.seed, 0),
        };
        match boot.origin {
            Origin::Founder => {
                node.list =
                    MemberList::new(cluster.nodes, boot.node, cluster.founders.iter().copied());
                node.timers
                    .submit(now_us + node.rng.below(STAGGER_US), Pending::Found);
            }
            Origin::Joiner => {
                node.timers
                    .submit(now_us + node.rng.below(JOIN_PERIOD_US), Pending::Join);
            }
        }
        node.list.report(out);
        node.sleep(out);
        node
    }

    fn step(&mut self, cluster: &mut Cluster, now_us: u64, input: Input<Rc<[u8]>>, out: &mut Out) {
        let Swim {
            foca, timers, list, ..
        } = self;
        match input {
            Input::Message { message, .. } => {
                let gateway = Gateway {
                    now_us,
                    timers,
                    list,
                    out,
                };
                // Errors are about this message (malformed, from ourselves); foca has dropped it.
                let _ = foca.handle_data(&message, gateway);
            }
            Input::Wake => self.run_timers(cluster, now_us, out),
            Input::Persisted(_) => {}
            Input::Leave => {
                // Its errors are those of encoding, which a fixed-width codec does not have.
                let _ = foca.leave_cluster(Gateway {
                    now_us,
                    timers,
                    list,
                    out,
                });
                out.stop();
                return;
            }
        }
        self.sleep(out);
    }
}

impl Swim {
    fn run_timers(&mut self, cluster: &Cluster, now_us: u64, out: &mut Out) {
        while let Some(pending) = self.timers.due(now_us) {
            let Swim {
                foca, timers, list, ..
            } = self;
            let joined = list.size() > 1;
            let gateway = Gateway {
                now_us,
                timers,
                list,
                out,
            };
            // Errors of timers are stale ones, which foca ignores, and encoding, as above.
            let _ = match pending {
                Pending::Foca(timer) => foca.handle_timer(timer, gateway),
                Pending::Found => {
                    let generation = 1 << 16;
                    let others = cluster.founders.iter().filter(|node| **node != self.me);
                    let members =
                        others.map(|&node| Member::alive(NodeIdentity { node, generation }));
                    foca.apply_many(members, false, gateway)
                }
                Pending::Join if joined => Ok(()),
                Pending::Join => {
                    let seed = cluster.seeds[self.rng.below(cluster.seeds.len() as u64) as usize];
                    gateway
                        .timers
                        .submit(now_us + JOIN_PERIOD_US, Pending::Join);
                    if seed == self.me {
                        continue;
                    }
                    foca.announce(
                        NodeIdentity {
                            node: seed,
                            generation: 0,
                        },
                        gateway,
                    )
                }
            };
        }
    }

    fn sleep(&self, out: &mut Out) {
        if let Some(Reverse((at_us, _, _))) = self.timers.heap.peek() {
            out.wake_at(*at_us);
        }
    }
}
