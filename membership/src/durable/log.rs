//! The view log: a base and the views since, one frame after the other.
//!
//! ```text
//! frame = length u32 | crc u32 (of length, kind, payload) | kind u8 | payload
//! ```
//!
//! A crash can leave the last frame incomplete; nobody relied on it, and it is cut off. A bad frame with good ones
//! behind it is rot, and recovery says so instead of guessing. Rot in the very last frame cannot be told from a torn
//! write here. It costs the node one view, which it fetches from its peers; and should it already have voted in the
//! configuration that it lost, its acceptor's state, which is kept twice, says so and keeps it from voting in the one
//! before.

use std::sync::Arc;

use thiserror::Error;

use crate::codec::{Decode, DecodeError, Encode, Sink};
use crate::message::Snapshot;
use crate::view::View;

const HEADER_BYTES: usize = 4 + 4 + 1;
const KIND_BASE: u8 = 1;
const KIND_VIEW: u8 = 2;

/// Why a view log cannot be used. Its node must not go on under its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LogError {
    /// A damaged frame, with whole ones behind it.
    #[error("the frame at byte {0} is damaged, and frames follow it")]
    Damaged(usize),
    /// A whole frame that holds something else.
    #[error("the frame at byte {at} holds something else: {error}")]
    Content {
        /// Where the frame starts.
        at: usize,
        /// What is wrong with it.
        error: DecodeError,
    },
    /// A view where a base was due, or a view that does not follow the one before.
    #[error("the frame at byte {0} does not continue the one before")]
    Gap(usize),
}

/// What a view log holds.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Where it starts; `None` if nothing was ever written.
    pub base: Option<Arc<Snapshot>>,
    /// The views since, in order.
    pub views: Vec<Arc<View>>,
    /// Bytes that are good: cut the file here before appending to it.
    pub valid_bytes: usize,
}

/// The frame that starts a log, or starts it again in a new file after truncation.
pub fn encode_base(base: &Snapshot) -> Vec<u8> {
    frame(KIND_BASE, base)
}

/// The frame that continues a log.
pub fn encode_view(view: &View) -> Vec<u8> {
    frame(KIND_VIEW, view)
}

/// Reads a log back. Certificates are not checked here: the node does, when it replays the chain.
pub fn recover(bytes: &[u8]) -> Result<Log, LogError> {
    let mut log = Log::default();
    while let Some((kind, payload, end)) = read_frame(bytes, log.valid_bytes) {
        let at = log.valid_bytes;
        let content = |error| LogError::Content { at, error };
        match kind {
            KIND_BASE => {
                let base = Snapshot::from_bytes(payload).map_err(content)?;
                let floor = base.configuration.seq();
                log.views.retain(|view| view.seq > floor);
                log.base = Some(Arc::new(base));
            }
            KIND_VIEW => {
                let view = View::from_bytes(payload).map_err(content)?;
                let base = log.base.as_ref().ok_or(LogError::Gap(at))?;
                let last = log
                    .views
                    .last()
                    .map_or(base.configuration.seq(), |last| last.seq);
                if view.seq != last + 1 {
                    return Err(LogError::Gap(at));
                }
                log.views.push(Arc::new(view));
            }
            value => {
                return Err(content(DecodeError::Unknown {
                    what: "a frame",
                    value,
                }));
            }
        }
        log.valid_bytes = end;
    }
    let tail = log.valid_bytes;
    let whole_frame_behind = (tail + 1..bytes.len()).any(|at| read_frame(bytes, at).is_some());
    if whole_frame_behind {
        Err(LogError::Damaged(tail))
    } else {
        Ok(log)
    }
}

fn frame(kind: u8, value: &impl Encode) -> Vec<u8> {
    let payload = value.to_bytes();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.u32(payload.len() as u32);
    bytes.u32(checksum(kind, &payload));
    bytes.u8(kind);
    bytes.put(&payload);
    bytes
}

/// The kind, payload and end of the whole frame at this place, if there is one.
fn read_frame(bytes: &[u8], at: usize) -> Option<(u8, &[u8], usize)> {
    let header = bytes.get(at..at.checked_add(HEADER_BYTES)?)?;
    let length = u32::from_le_bytes(header[..4].try_into().ok()?) as usize;
    let crc = u32::from_le_bytes(header[4..8].try_into().ok()?);
    let kind = header[8];
    let end = at.checked_add(HEADER_BYTES)?.checked_add(length)?;
    let payload = bytes.get(at + HEADER_BYTES..end)?;
    (crc == checksum(kind, payload)).then_some((kind, payload, end))
}

fn checksum(kind: u8, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(payload.len() as u32).to_le_bytes());
    hasher.update(&[kind]);
    hasher.update(payload);
    hasher.finalize()
}
