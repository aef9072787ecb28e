//! What one flush has to say, by destination.
//!
//! Messages of all groups to one node leave as one batch, so that a frame, a checksum and a wake-up
//! are paid once. A batch that grows beyond a bound is cut: a frame has to be received whole.

use std::collections::BTreeMap;

use synod_storage::Micros;

use crate::effect::{Effect, Effects};
use crate::identity::{Incarnation, NodeId};
use crate::lease::Round;
use crate::message::{
    Batch, GroupBody, GroupHeartbeat, GroupMessage, GroupReply, Heartbeat, HeartbeatReply, Message,
    QuietDigest, Sign,
};

/// A batch is cut when its entries reach this size.
const BATCH_BYTES_MAX: usize = 4 << 20;

#[derive(Debug, Default)]
struct Mailbox {
    consensus: Vec<GroupMessage>,
    bytes: usize,
    heartbeat: Option<Vec<GroupHeartbeat>>,
    /// A sign of life is due.
    sign: Option<QuietDigest>,
    replies: Vec<HeartbeatReply>,
}

/// Messages that wait for the end of a flush.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    boxes: BTreeMap<NodeId, Mailbox>,
}

impl Outbox {
    /// A consensus message. A batch that is full leaves at once.
    pub(crate) fn consensus(&mut self, to: NodeId, message: GroupMessage, fx: &mut Effects) {
        let out = self.boxes.entry(to).or_default();
        if let GroupBody::Append { entries, .. } = &message.body {
            out.bytes += entries
                .iter()
                .map(|entry| entry.data.len() + 32)
                .sum::<usize>();
        }
        out.consensus.push(message);
        if out.bytes >= BATCH_BYTES_MAX {
            out.bytes = 0;
            let consensus = std::mem::take(&mut out.consensus);
            let batch = Batch {
                consensus,
                ..Batch::default()
            };
            fx.push(Effect::Send {
                to,
                message: Message::Batch(batch),
            });
        }
    }

    /// A group's part of the next round.
    pub(crate) fn heartbeat(&mut self, to: NodeId, group: GroupHeartbeat) {
        self.boxes
            .entry(to)
            .or_default()
            .heartbeat
            .get_or_insert_default()
            .push(group);
    }

    /// A sign of life to a node, with the digest of what sleeps under this one there. It goes with
    /// the round, if groups have a part in one.
    pub(crate) fn sign(&mut self, to: NodeId, quiet: QuietDigest) {
        self.boxes.entry(to).or_default().sign = Some(quiet);
    }

    /// A group's answer to a round.
    pub(crate) fn reply(
        &mut self,
        to: NodeId,
        incarnation: Incarnation,
        round: u64,
        group: GroupReply,
    ) {
        let replies = &mut self.boxes.entry(to).or_default().replies;
        match replies.last_mut() {
            Some(last) if last.incarnation == incarnation && last.round == round => {
                last.groups.push(group);
            }
            Some(_) | None => {
                replies.push(HeartbeatReply {
                    incarnation,
                    round,
                    groups: vec![group],
                });
            }
        }
    }

    /// Whether a round begins with this flush.
    pub(crate) fn begins_round(&self) -> bool {
        self.boxes.values().any(|out| out.heartbeat.is_some())
    }

    /// Sends everything; heartbeats get this round.
    pub(crate) fn send(&mut self, incarnation: Incarnation, round: Round, fx: &mut Effects) {
        for (to, out) in std::mem::take(&mut self.boxes) {
            let quiet = out.sign;
            let silent = out.replies.is_empty() && out.consensus.is_empty();
            let groups = match (out.heartbeat, quiet) {
                (Some(groups), _) => Some(groups),
                (None, Some(quiet)) if silent => {
                    let message = Message::Sign(Sign { incarnation, quiet });
                    fx.push(Effect::Send { to, message });
                    continue;
                }
                (None, Some(_)) => Some(Vec::new()),
                (None, None) if silent => continue,
                (None, None) => None,
            };
            let heartbeat = groups.map(|groups| Heartbeat {
                incarnation,
                round: round.0,
                quiet,
                groups,
            });
            let batch = Batch {
                heartbeat,
                replies: out.replies,
                consensus: out.consensus,
            };
            fx.push(Effect::Send {
                to,
                message: Message::Batch(batch),
            });
        }
    }
}

/// The send times of recent rounds.
#[derive(Debug)]
pub(crate) struct Rounds {
    next: u64,
    sent: std::collections::VecDeque<(Round, Micros)>,
}

/// Rounds remembered. An answer to an older one extends nothing; at one round a flush this is
/// still far longer than a lease.
const ROUNDS_MAX: usize = 4096;

impl Rounds {
    pub(crate) fn new() -> Rounds {
        Rounds {
            next: 1,
            sent: std::collections::VecDeque::new(),
        }
    }

    /// The number of the round that the next flush may begin.
    pub(crate) fn upcoming(&self) -> Round {
        Round(self.next)
    }

    /// Begins it.
    pub(crate) fn begin(&mut self, now: Micros) -> Round {
        let round = Round(self.next);
        self.next += 1;
        self.sent.push_back((round, now));
        if self.sent.len() > ROUNDS_MAX {
            self.sent.pop_front();
        }
        round
    }

    /// When a round was sent, if that is remembered.
    pub(crate) fn sent_at(&self, round: Round) -> Option<Micros> {
        let first = self.sent.front()?.0;
        let at = round.0.checked_sub(first.0)?;
        self.sent
            .get(usize::try_from(at).ok()?)
            .map(|&(_, sent_at)| sent_at)
    }
}
