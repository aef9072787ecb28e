//! Tokens that have their home in this shard: each transaction once, and an answer about it.
//!
//! The entry that holds a decision to commit inserts the token. Whoever comes later with the same
//! token is told what is recorded and has no effect. "Not committed" is only ever answered after the
//! token was fenced in the log: absence alone proves nothing, a commit may be on its way. Tokens
//! issued at or below a replicated floor are refused, so that one whose outcome was forgotten is never
//! carried out again.

use bytes::Bytes;
use synod_storage::Version;

use super::Turn;
use super::leader::Leader;
use super::shard::Own;
use super::transactions::TxnRecord;
use super::work::Asker;
use crate::hlc;
use crate::reply::{ErrorCode, Reply};
use crate::state::State;
use crate::token;
use crate::transaction::{TxnAnswer, TxnRequest, Verdict};
use crate::value::Value;
use crate::wire::Outcome;
use synod_testpoint::planted;

/// Tokens that one shard remembers; beyond it, new ones have to wait.
const TOKENS_MAX: usize = 1 << 20;

/// How far ahead of the clock a token may say that it was issued: it was issued by a node's clock.
const AHEAD_MAX_MS: u64 = 24 * 3600 * 1000;

impl Leader {
    /// What a transaction with a token is to be answered instead of being carried out, if anything.
    pub(super) fn token_stands(&self, now_ms: u64, token: Option<&Bytes>) -> Option<Outcome> {
        let token = token?;
        if let Some(verdict) = self.view.token(token)
            && !planted!(TokensAreForgotten)
        {
            return Some(Outcome::Txn(TxnAnswer::Recorded(verdict)));
        }
        let refuse = |code, message| Some(Outcome::Reply(Reply::error(code, message)));
        let issued = token::issued_at(token).unwrap_or(Version::ZERO);
        if issued <= self.view.token_floor() {
            let message = "the token is too old: what became of it is not kept; nothing was done";
            return refuse(ErrorCode::Expired, message);
        }
        if issued > hlc::floor_of(now_ms + AHEAD_MAX_MS) {
            let message = "the token was issued more than a day ahead of the clock";
            return refuse(ErrorCode::Err, message);
        }
        (self.view.tokens() >= TOKENS_MAX).then_some(Outcome::Overloaded)
    }

    /// Carries out a whole transaction with a token.
    pub(super) fn write_once<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        asker: Asker,
        token: Bytes,
        writes: impl Iterator<Item = (Bytes, Option<Value>)>,
        replies: Vec<Reply>,
    ) {
        let version = turn.hlc.tick(turn.now.wall_ms);
        let encoded = writes.map(|(key, value)| (key, value.map(|value| value.encode())));
        let record = TxnRecord::Once {
            token,
            version,
            writes: encoded.collect(),
        };
        let executed = TxnAnswer::Executed {
            version: Some(version),
            replies,
        };
        self.step_of(turn, own, asker, record, version, Outcome::Txn(executed));
    }

    /// Somebody asks what became of a token: if nothing did, nothing will.
    pub(super) fn token_status<S: State>(
        &mut self,
        turn: &mut Turn<S>,
        own: &Own,
        asker: Asker,
        token: Bytes,
    ) {
        if let Some(outcome) = self.token_stands(turn.now.wall_ms, Some(&token)) {
            return self.settled(turn, own, asker, outcome);
        }
        let aborted = Outcome::Txn(TxnAnswer::Recorded(Verdict::Aborted));
        if planted!(AbsenceIsAnAnswer) {
            return self.settled(turn, own, asker, aborted);
        }
        let record = TxnRecord::Fence { token };
        self.step_of(turn, own, asker, record, Version::ZERO, aborted);
    }

    /// Forgets tokens that are old enough, once there are some.
    pub(super) fn raise_token_floor<S: State>(&mut self, turn: &mut Turn<S>) {
        let floor = oldest_kept(turn.now.wall_ms, turn.settings.token_retention_ms);
        let step = hlc::floor_of(turn.settings.token_retention_ms / 16);
        if floor.0 > self.view.token_floor().0 + step.0 && self.view.wants_token_floor(floor) {
            let record = TxnRecord::TokenFloor { version: floor };
            self.propose_step(turn, record, Version::ZERO, None);
        }
    }
}

fn oldest_kept(now_ms: u64, retention_ms: u64) -> Version {
    hlc::floor_of(now_ms.saturating_sub(retention_ms))
}

/// The token of a part of a transaction, at its home.
pub(super) fn token_of(request: &TxnRequest) -> Option<&Bytes> {
    match request {
        TxnRequest::Execute { intent }
        | TxnRequest::Prepare { intent, .. }
        | TxnRequest::Conclude { intent, .. } => intent.token.as_ref(),
        TxnRequest::TokenStatus { token } => Some(token),
        TxnRequest::Read { .. }
        | TxnRequest::Hold { .. }
        | TxnRequest::Walk { .. }
        | TxnRequest::Validate { .. }
        | TxnRequest::Decide { .. }
        | TxnRequest::Resolve { .. }
        | TxnRequest::Recover { .. }
        | TxnRequest::Snapshot { .. }
        | TxnRequest::MergeStatus { .. }
        | TxnRequest::Keep { .. }
        | TxnRequest::Forget { .. } => None,
    }
}
