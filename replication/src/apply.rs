//! From committed to applied.
//!
//! Entries are handed out once they are committed *and* persisted here, in order, each once. A
//! change of the members is applied here, between the entries before it and those after it: the
//! entries before it must have reached the store, whose applied index moves one by one.

use synod_storage::{Entry, EntryId, EntryKind, LogError, Store};

use crate::configuration::ChangeRecord;
use crate::effect::{Effect, Effects, Loss};
use crate::eraft;
use crate::group::Group;

/// What handing out needs from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handed {
    /// Nothing is left, or the rest waits for `applied`.
    All,
    /// The next entry is damaged on this disk.
    Damaged(EntryId),
}

impl Group {
    /// Hands out what may be applied, and applies changes of the members when it is their turn.
    pub(crate) fn hand_out(
        &mut self,
        bytes_max: u64,
        store: &mut Store,
        fx: &mut Effects,
    ) -> Handed {
        loop {
            let ready = self.committed().min(self.persisted());
            if self.handed >= ready || self.fetching || self.installing || self.is_removed() {
                return Handed::All;
            }
            let (low, high) = (self.handed + 1, ready + 1);
            let mut entries = match self.view().entries(self.shard, low, high, bytes_max) {
                Ok(entries) => entries,
                Err(LogError::Temporarily) => {
                    self.fetching = true;
                    store.fetch(self.shard, low, high);
                    return Handed::All;
                }
                Err(LogError::Damaged { id, checksum: _ }) => return Handed::Damaged(id),
                Err(
                    error @ (LogError::Compacted { .. }
                    | LogError::Unavailable { .. }
                    | LogError::NoReplica),
                ) => {
                    fx.push(Effect::Fatal {
                        reason: format!(
                            "shard {}: committed entry {low} is not in the log: {error}",
                            self.shard
                        ),
                    });
                    return Handed::All;
                }
            };
            let change = entries
                .iter()
                .position(|entry| entry.kind == EntryKind::Configuration);
            match change {
                Some(0) => {
                    if self.applied() < self.handed {
                        return Handed::All;
                    }
                    self.apply_change(&entries[0], store, fx);
                }
                Some(before) => {
                    entries.truncate(before);
                    self.hand(entries, fx);
                }
                None => self.hand(entries, fx),
            }
        }
    }

    fn hand(&mut self, entries: Vec<Entry>, fx: &mut Effects) {
        let Some(last) = entries.last() else { return };
        assert_eq!(
            entries[0].id.index,
            self.handed + 1,
            "entries are handed out in order"
        );
        self.handed = last.id.index;
        for entry in &entries {
            self.settle_proposals(entry.id, fx);
        }
        fx.push(Effect::Committed {
            shard: self.shard,
            entries,
        });
    }

    /// An entry is about to be applied: the proposal of its index has its outcome.
    fn settle_proposals(&mut self, applied: EntryId, fx: &mut Effects) {
        while let Some(first) = self.proposed.front().copied() {
            if first.id == applied {
                self.proposed.pop_front();
                self.proposed_bytes -= first.bytes;
                return;
            }
            // An entry of a later term at or below its index has replaced it. One of an earlier
            // term below its index says nothing yet.
            if applied.term <= first.id.term {
                return;
            }
            self.proposed.pop_front();
            self.proposed_bytes -= first.bytes;
            fx.push(Effect::ProposalLost {
                shard: self.shard,
                id: first.id,
                loss: Loss::Overwritten,
            });
        }
    }

    /// A snapshot at `installed` has replaced the log: what became of proposals is not to be known.
    pub(crate) fn lose_proposals(&mut self, fx: &mut Effects) {
        self.proposed_bytes = 0;
        for lost in std::mem::take(&mut self.proposed) {
            fx.push(Effect::ProposalLost {
                shard: self.shard,
                id: lost.id,
                loss: Loss::Unknown,
            });
        }
    }

    /// The layer above has applied everything up to `index`.
    pub(crate) fn advance(&mut self, index: u64) {
        assert!(
            self.applied() < index && index <= self.handed,
            "applied {index} was not handed out: {} to {}",
            self.applied(),
            self.handed,
        );
        self.raft.advance_apply_to(index);
    }

    fn apply_change(&mut self, entry: &Entry, store: &mut Store, fx: &mut Effects) {
        let index = entry.id.index;
        let record = if entry.data.is_empty() {
            Some(ChangeRecord::leave())
        } else {
            ChangeRecord::decode(&entry.data)
        };
        let Some(record) = record else {
            let reason = format!("shard {}: entry {} is not a change", self.shard, entry.id);
            fx.push(Effect::Fatal { reason });
            return;
        };
        self.submit_queued();
        // A change that does not fit is refused by every replica alike, and changes nothing.
        match self.raft.apply_conf_change(&eraft::raft_change(&record)) {
            Ok(state) => {
                self.configuration = self.configuration.next(&state, &record);
                self.forget_learned();
            }
            Err(error) => tracing::warn!(shard = %self.shard, %error, "a change was refused"),
        }
        store.set_conf(self.shard, entry.id, self.configuration.to_stored());
        self.handed = index;
        self.settle_proposals(entry.id, fx);
        self.raft.advance_apply_to(index);
        self.settle();
        fx.push(Effect::ConfigurationChanged {
            shard: self.shard,
            id: entry.id,
            configuration: self.configuration.clone(),
        });
        if !self.configuration.contains(self.replica) {
            fx.push(Effect::Removed {
                shard: self.shard,
                replica: self.replica,
            });
        }
        if self.is_leader() && !self.configuration.is_voter(self.replica) {
            self.step_down();
        }
    }

    /// Leaves a joint configuration as soon as this leader may. Every leader tries, not only the
    /// one that entered it.
    pub(crate) fn leave_joint(&mut self) {
        let may = self.is_serving()
            && self.configuration.is_joint()
            && !self.raft.raft.has_pending_conf()
            && self.raft.raft.lead_transferee.is_none();
        if may {
            self.submit_queued();
            let entry = eraft::change_proposal(&ChangeRecord::leave());
            self.step_raft(eraft::proposals(self.replica, vec![entry]));
        }
    }
}
