//! Questions to shards on behalf of transactions: routed, tried again, answered once.
//!
//! The coordinator asks the participants of its transactions; a shard's leader asks the anchor of a
//! lock that it met. Both want one answer, and neither wants to know who leads what. A question that
//! was refused without effect is asked again, elsewhere or later, until its time is up. One whose
//! outcome is open is asked again only if asking twice is the same as asking once; else its answer is
//! "unknown", and whoever asked has to live with it.

use bytes::Bytes;
use synod_replication::NodeId;
use synod_storage::ShardId;
use synod_txn::coordinator;
use synod_txn::{Body, Now, Outcome, Request, Stream, TxnRequest};

use super::{Effect, Gateway, Pending, Waiter};
use crate::transport::Delivery;

/// How long a question is tried; less than its asker's patience, so that it hears of the end.
const PATIENCE_US: u64 = 2_500_000;

/// Who asks.
#[derive(Clone, Copy, Debug)]
enum Asker {
    /// This gateway's coordinator.
    Coordinator(coordinator::Call),
    /// The leader of a shard on this node.
    Leader(ShardId, synod_txn::Call),
}

/// Who is asked.
#[derive(Clone, Debug)]
enum Asked {
    /// A shard in an epoch: the question was made for exactly this one.
    Shard { shard: ShardId, epoch: u64 },
    /// Whichever shard has this key.
    Key(Bytes),
}

/// A question on its way.
#[derive(Debug)]
pub(super) struct Question {
    asker: Asker,
    asked: Asked,
    body: Body,
    /// The request that carries it, if its outcome is open.
    sent: Option<u64>,
    /// Whether an earlier request that carried it may still have its effect, or has had it.
    is_open: bool,
    attempts: u32,
    deadline_us: u64,
}

impl Gateway {
    /// The coordinator asks a shard.
    pub(super) fn ask_shard(
        &mut self,
        now: Now,
        call: coordinator::Call,
        (shard, epoch): (ShardId, u64),
        body: Body,
        effects: &mut Vec<Effect>,
    ) {
        let (asker, asked) = (Asker::Coordinator(call), Asked::Shard { shard, epoch });
        self.ask(now, asker, asked, body, effects);
    }

    /// The leader of `shard` on this node asks whoever has a key. The answer is an
    /// [`Effect::Called`].
    pub fn ask_for(
        &mut self,
        now: Now,
        (shard, call): (ShardId, synod_txn::Call),
        key: Bytes,
        body: Body,
        effects: &mut Vec<Effect>,
    ) {
        let (asker, asked) = (Asker::Leader(shard, call), Asked::Key(key));
        self.ask(now, asker, asked, body, effects);
    }

    fn ask(&mut self, now: Now, asker: Asker, asked: Asked, body: Body, effects: &mut Vec<Effect>) {
        let number = self.next_question;
        self.next_question += 1;
        let question = Question {
            asker,
            asked,
            body,
            sent: None,
            is_open: false,
            attempts: 0,
            deadline_us: now.monotonic.0 + PATIENCE_US,
        };
        self.questions.insert(number, question);
        self.send_question(now, number, effects);
    }

    /// Sends a question to the node that is thought to lead its shard.
    pub(super) fn send_question(&mut self, now: Now, number: u64, effects: &mut Vec<Effect>) {
        let Some(question) = self.questions.get_mut(&number) else {
            return;
        };
        let place = match &question.asked {
            Asked::Shard { shard, epoch } => Some((*shard, *epoch)),
            Asked::Key(key) => self.map.locate(key).map(|it| (it.shard, it.epoch)),
        };
        let turn = question.attempts;
        question.attempts += 1;
        let past = is_of_the_past(&question.body);
        let routed = place.and_then(|(shard, epoch)| {
            // Any replica may know the past; the one of this node is the nearest.
            let near = self.has_replica(shard).filter(|_| past && turn == 0);
            let node = near.or_else(|| self.route(shard, turn))?;
            Some((shard, epoch, node))
        });
        let Some((shard, epoch, node)) = routed else {
            return self.rest_question(now, number);
        };
        let id = self.next_request();
        let Some(question) = self.questions.get_mut(&number) else {
            return;
        };
        question.sent = Some(id);
        let request = Request {
            id,
            shard,
            epoch,
            hlc: self.hlc,
            stream: Stream::NONE,
            body: question.body.clone(),
        };
        let waiter = Waiter::Question(number);
        self.requests.insert(
            id,
            Pending {
                waiter,
                node,
                shard,
            },
        );
        effects.push(Effect::Request(node, request));
    }

    /// Tries again after a pause.
    fn rest_question(&mut self, now: Now, number: u64) {
        let Some(question) = self.questions.get_mut(&number) else {
            return;
        };
        question.sent = None;
        let pause_us = self.settings.retry_pause_us * u64::from(question.attempts.clamp(1, 20));
        self.question_retries
            .insert((now.monotonic.0 + pause_us, number));
    }

    /// A shard has answered a question.
    pub(super) fn question_answered(
        &mut self,
        now: Now,
        number: u64,
        from: NodeId,
        shard: ShardId,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        let Some(question) = self.questions.get_mut(&number) else {
            return;
        };
        question.sent = None;
        let follows = question.attempts < 3;
        match outcome {
            Outcome::Reply(_) | Outcome::Txn(_) => {
                if !is_of_the_past(&question.body) {
                    self.leaders.insert(shard, from);
                }
                self.end_question(now, number, outcome, effects);
            }
            Outcome::NotLeader { hint } => {
                // Who has not the past at hand may still lead, or know nothing of who does.
                if hint.is_some() || !is_of_the_past(&question.body) {
                    self.learn_hint(shard, from, hint);
                }
                match hint.is_some_and(|leader| leader != from) && follows {
                    true => self.send_question(now, number, effects),
                    false => self.rest_question(now, number),
                }
            }
            Outcome::StaleEpoch { descriptor } => {
                self.map.install(descriptor.clone());
                match (&question.asked, follows) {
                    (Asked::Shard { .. }, _) => {
                        let stale = Outcome::StaleEpoch { descriptor };
                        self.end_question(now, number, stale, effects);
                    }
                    (Asked::Key(_), true) => self.send_question(now, number, effects),
                    (Asked::Key(_), false) => self.rest_question(now, number),
                }
            }
            Outcome::Overloaded | Outcome::StreamBroken => self.rest_question(now, number),
            Outcome::Unknown => self.question_open(now, number, effects),
        }
    }

    /// The request that carried a question is lost, and perhaps only its answer.
    pub(super) fn question_lost(
        &mut self,
        now: Now,
        number: u64,
        delivery: Delivery,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(question) = self.questions.get_mut(&number) {
            question.sent = None;
            match delivery {
                Delivery::Nothing => self.rest_question(now, number),
                Delivery::Unknown => self.question_open(now, number, effects),
            }
        }
    }

    /// Nobody knows whether a question had its effect.
    fn question_open(&mut self, now: Now, number: u64, effects: &mut Vec<Effect>) {
        let question = self.questions.get_mut(&number);
        match question.filter(|question| is_repeatable(&question.body)) {
            Some(question) => {
                question.is_open = true;
                self.rest_question(now, number);
            }
            None => self.end_question(now, number, Outcome::Unknown, effects),
        }
    }

    fn end_question(&mut self, now: Now, number: u64, outcome: Outcome, effects: &mut Vec<Effect>) {
        let Some(question) = self.questions.remove(&number) else {
            return;
        };
        if let Some(id) = question.sent {
            self.requests.remove(&id);
        }
        match question.asker {
            Asker::Coordinator(call) => {
                let event = coordinator::Event::Answered { call, outcome };
                self.coordinate(now, event, effects);
            }
            Asker::Leader(shard, call) => effects.push(Effect::Called {
                shard,
                call,
                outcome,
            }),
        }
    }

    /// Asks again what is due, and gives up on what has been tried for too long.
    pub(super) fn tick_questions(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let now_us = now.monotonic.0;
        let late: Vec<u64> = self
            .questions
            .iter()
            .filter(|(_, question)| question.deadline_us <= now_us)
            .map(|(number, _)| *number)
            .collect();
        for number in late {
            let outcome = match self.questions.get(&number) {
                Some(Question {
                    sent: None,
                    is_open: false,
                    ..
                }) => Outcome::NotLeader { hint: None },
                Some(_) | None => Outcome::Unknown,
            };
            self.end_question(now, number, outcome, effects);
        }
        while let Some(&(due_us, number)) = self.question_retries.first()
            && due_us <= now_us
        {
            self.question_retries.pop_first();
            self.send_question(now, number, effects);
        }
    }
}

/// Whether any replica of a shard may answer.
fn is_of_the_past(body: &Body) -> bool {
    matches!(body, Body::Txn(TxnRequest::Snapshot { .. }))
}

/// Whether asking twice is the same as asking once.
fn is_repeatable(body: &Body) -> bool {
    match body {
        Body::Command(_) => false,
        Body::Txn(request) => match request {
            TxnRequest::Read { .. }
            | TxnRequest::Walk { .. }
            | TxnRequest::Validate { .. }
            | TxnRequest::Decide { .. }
            | TxnRequest::Resolve { .. }
            | TxnRequest::Recover { .. }
            | TxnRequest::TokenStatus { .. }
            | TxnRequest::Snapshot { .. }
            | TxnRequest::MergeStatus { .. }
            | TxnRequest::Keep { .. }
            | TxnRequest::Forget { .. } => true,
            // The second one would be refused, and the attempt aborted for nothing.
            TxnRequest::Hold { .. } | TxnRequest::Prepare { .. } | TxnRequest::Conclude { .. } => {
                false
            }
            // With a token it takes effect once, however often it arrives.
            TxnRequest::Execute { intent } => intent.token.is_some(),
        },
    }
}
