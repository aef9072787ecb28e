//! The words of the scenarios: attempts, and what is asked of shards about them.

use bytes::Bytes;
use synod_replication::NodeId;
use synod_storage::Version;

use crate::{AttemptId, Command, Intent, Outcome, TxnAnswer, TxnId, TxnRequest, Verdict, hlc};

pub const CONFLICT: Option<Outcome> = Some(Outcome::Txn(TxnAnswer::Conflict));
pub const DONE: Option<Outcome> = Some(Outcome::Txn(TxnAnswer::Done));

/// The first attempt of a transaction that began at a time of the test.
pub fn attempt(age_ms: u64) -> AttemptId {
    let age = hlc::floor_of(super::START_MS + age_ms);
    let txn = TxnId {
        age,
        node: NodeId(1),
        counter: age_ms,
    };
    AttemptId { txn, attempt: 1 }
}

pub fn command(line: &[&str]) -> Command {
    let argv = line.iter();
    Command::parse(
        argv.map(|word| Bytes::copy_from_slice(word.as_bytes()))
            .collect(),
    )
    .unwrap()
}

/// A prepare of these commands; the key `a` is at the anchor, which gets the `spans`.
pub fn prepare(attempt: AttemptId, lines: &[&[&str]], spans: &[&'static str]) -> TxnRequest {
    TxnRequest::Prepare {
        attempt,
        begun: attempt.txn.age,
        anchor: Bytes::from_static(b"a"),
        spans: spans
            .iter()
            .map(|span| Bytes::from_static(span.as_bytes()))
            .collect(),
        intent: Box::new(Intent {
            commands: lines.iter().map(|line| command(line)).collect(),
            ..Intent::default()
        }),
    }
}

pub fn decided(attempt: AttemptId, version: Version) -> TxnRequest {
    TxnRequest::Decide {
        attempt,
        begun: attempt.txn.age,
        version,
    }
}

pub fn resolve(attempt: AttemptId, verdict: Verdict) -> TxnRequest {
    let begun = attempt.txn.age;
    TxnRequest::Resolve {
        attempt,
        begun,
        verdict,
    }
}

/// The version of a prepare that must have been one.
pub fn prepared(outcome: Option<Outcome>) -> Version {
    match outcome {
        Some(Outcome::Txn(TxnAnswer::Prepared { version, .. })) => version,
        other => panic!("not prepared: {other:?}"),
    }
}
