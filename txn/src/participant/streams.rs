//! Streams that were broken: a pipeline fails as a suffix.
//!
//! When a command of a stream is refused in a way that its gateway will retry, all later commands of
//! the same generation must be refused too, even if the reason has passed meanwhile: else the retry
//! would land behind them. The memory of it lasts longer than any request can be on its way.

use std::collections::BTreeMap;

use synod_storage::Micros;

use crate::wire::Stream;

/// How long a broken generation is remembered.
const REMEMBERED_US: u64 = 60_000_000;

/// How many broken streams are remembered. Beyond it, ordered requests are refused altogether.
const BROKEN_MAX: usize = 65_536;

#[derive(Clone, Debug)]
struct Broken {
    generation: u32,
    since: Micros,
}

/// The broken streams of one shard.
#[derive(Clone, Debug, Default)]
pub(super) struct Streams {
    broken: BTreeMap<u64, Broken>,
}

/// Whether a request may be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It may.
    Open,
    /// An earlier command of its generation was refused.
    Broken,
    /// Too many streams are broken to keep track of another one.
    Full,
}

impl Streams {
    /// Looks at a request's stream; a new generation mends it.
    pub(super) fn admit(&mut self, stream: Stream) -> Admission {
        if stream.id == Stream::NONE.id {
            return Admission::Open;
        }
        match self.broken.get(&stream.id) {
            Some(broken) if stream.generation <= broken.generation => Admission::Broken,
            Some(_) => {
                self.broken.remove(&stream.id);
                Admission::Open
            }
            None if self.broken.len() >= BROKEN_MAX => Admission::Full,
            None => Admission::Open,
        }
    }

    /// Breaks a stream's generation.
    pub(super) fn break_off(&mut self, stream: Stream, now: Micros) {
        if stream.id == Stream::NONE.id {
            return;
        }
        let broken = Broken {
            generation: stream.generation,
            since: now,
        };
        let slot = self.broken.entry(stream.id).or_insert(Broken {
            generation: 0,
            ..broken
        });
        slot.generation = slot.generation.max(stream.generation);
        slot.since = now;
    }

    /// Forgets streams whose last request must have arrived by now.
    pub(super) fn tick(&mut self, now: Micros) {
        self.broken
            .retain(|_, broken| now.0.saturating_sub(broken.since.0) < REMEMBERED_US);
    }
}
