//! Clients: what they ask, and what they are told.

use super::*;

impl World {
    pub(super) fn next_op(&mut self, client: usize) {
        if !self.clients_run {
            return;
        }
        let shard = ShardId(1 + self.random.next() % self.plan.shards);
        let key = (
            shard,
            (self.random.next() % u64::from(self.plan.keys)) as u8,
        );
        let write = self.chance(self.plan.write_permille);
        self.begin_op(client, key, write);
    }

    pub(super) fn begin_op(&mut self, client: usize, key: Key, write: bool) {
        let node = (self.random.next() % self.plan.nodes) as usize;
        self.begin_op_at(node, client, key, write);
    }

    /// Begins an operation whose first attempt goes to this node.
    pub(super) fn begin_op_at(&mut self, node: usize, client: usize, key: Key, write: bool) -> u64 {
        let id = self.next_op;
        self.next_op += 1;
        let write = write.then_some(id);
        let op = Op {
            client,
            key,
            write,
            invoked: self.now,
            attempt: 0,
        };
        self.ops.insert(id, op);
        let delay = self.random.between(50, 300);
        self.after(
            delay,
            Happening::Request {
                node,
                op: id,
                attempt: 0,
            },
        );
        self.after(3_000_000, Happening::GiveUp { op: id });
        id
    }

    pub(super) fn request(&mut self, node: usize, id: u64, attempt: u32) {
        let Some(op) = self.ops.get(&id).copied() else {
            return;
        };
        let now = self.machines[node].now(self.now);
        let Some(process) = &mut self.machines[node].process else {
            self.answer(id, attempt, Answer::Retry(None));
            return;
        };
        let shard = op.key.0;
        match op.write {
            Some(value) => {
                let mut data = vec![op.key.1];
                data.extend_from_slice(&value.to_le_bytes());
                data.resize(9 + self.plan.padding, b'x');
                match process.replication.propose(now, shard, data.into()) {
                    Ok(entry) => {
                        process.writes.insert((shard, entry), (id, attempt));
                    }
                    Err(crate::ProposeError::NotLeader(leader)) => {
                        let hint = leader.and_then(|leader| self.node_of(leader.node));
                        self.answer(id, attempt, Answer::Retry(hint));
                    }
                    Err(
                        crate::ProposeError::NotServing
                        | crate::ProposeError::Throttled
                        | crate::ProposeError::TooLarge
                        | crate::ProposeError::NoReplica,
                    ) => self.answer(id, attempt, Answer::Retry(None)),
                }
            }
            None => match process.replication.read(now, shard, ReadToken(id)) {
                Read::Ready(grant) => self.read_now(node, shard, id, attempt, grant),
                Read::Pending => {
                    process.reads.insert(ReadToken(id), (id, attempt));
                }
                Read::Refused(failure) => {
                    let hint = self.hint(failure);
                    self.answer(id, attempt, Answer::Retry(hint));
                }
            },
        }
        self.settle(node);
    }

    pub(super) fn read_now(
        &mut self,
        node: usize,
        shard: ShardId,
        id: u64,
        attempt: u32,
        grant: Grant,
    ) {
        let Some(op) = self.ops.get(&id).copied() else {
            return;
        };
        let value = self.value(node, op.key);
        let now = self.machines[node].now(self.now);
        let Some(process) = &self.machines[node].process else {
            return;
        };
        let answer = if process.replication.confirm(now, shard, &grant) {
            Answer::Value(value)
        } else {
            Answer::Retry(Some(node))
        };
        self.answer(id, attempt, answer);
    }

    pub(super) fn answer(&mut self, op: u64, attempt: u32, answer: Answer) {
        let delay = self.random.between(50, 300);
        self.after(
            delay,
            Happening::Answer {
                op,
                attempt,
                answer,
            },
        );
    }

    pub(super) fn answered(&mut self, id: u64, attempt: u32, answer: Answer) {
        let Some(op) = self.ops.get_mut(&id) else {
            return;
        };
        if op.attempt != attempt {
            return;
        }
        let span = Span {
            invoked: op.invoked,
            completed: self.now,
        };
        let (client, key) = (op.client, op.key);
        match answer {
            Answer::Retry(hint) => {
                op.attempt += 1;
                let attempt = op.attempt;
                let any = (self.random.next() % self.plan.nodes) as usize;
                let node = hint.unwrap_or(any);
                let delay = self.random.between(1_000, 20_000);
                self.after(
                    delay,
                    Happening::Request {
                        node,
                        op: id,
                        attempt,
                    },
                );
                return;
            }
            Answer::Written => {
                if let Some(value) = op.write {
                    self.history.write(key, value, span);
                }
            }
            Answer::Value(value) => self.history.read(key, value, span),
            Answer::Unknown => {
                if let Some(value) = op.write {
                    let completed = u64::MAX;
                    self.history.write(key, value, Span { completed, ..span });
                }
            }
        }
        self.ops.remove(&id);
        let think = self.between(self.plan.think_us);
        if client < self.plan.clients as usize {
            self.after(think, Happening::NextOp { client });
        }
    }

    pub(super) fn give_up(&mut self, id: u64) {
        let Some(op) = self.ops.remove(&id) else {
            return;
        };
        self.count("given up");
        if let Some(value) = op.write {
            let span = Span {
                invoked: op.invoked,
                completed: u64::MAX,
            };
            self.history.write(op.key, value, span);
        }
        if op.client < self.plan.clients as usize {
            self.after(1_000, Happening::NextOp { client: op.client });
        }
    }
}
