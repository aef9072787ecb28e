//! What the index says of a key, and how new pointers are merged in.
//!
//! Merging is idempotent and does not depend on order: of two records of the same version the one in
//! the later file counts (a rewritten copy), and versions that nobody can ask for are let go. So
//! pointers can be replayed twice after a crash.

use std::ops::ControlFlow;

use super::{Index, IndexError, Tree};
use crate::value::FooterEntry;
use crate::{Direction, FileNumber, ReplicaId, ShardId, Version};

/// The form of a row's key in index and value files: local rows first, by replica; then user rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IndexKey<'a> {
    Local {
        shard: ShardId,
        replica: ReplicaId,
        key: &'a [u8],
    },
    User {
        key: &'a [u8],
    },
}

const LOCAL: u8 = 0;
const USER: u8 = 1;

impl<'a> IndexKey<'a> {
    pub fn encode_into(self, out: &mut Vec<u8>) {
        out.clear();
        match self {
            Self::Local {
                shard,
                replica,
                key,
            } => {
                out.push(LOCAL);
                out.extend(shard.0.to_be_bytes());
                out.extend(replica.0.to_be_bytes());
                out.extend_from_slice(key);
            }
            Self::User { key } => {
                out.push(USER);
                out.extend_from_slice(key);
            }
        }
    }

    pub fn encode(self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(&mut out);
        out
    }

    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        match bytes.split_first()? {
            (&USER, key) => Some(Self::User { key }),
            (&LOCAL, rest) => {
                let (shard, rest) = rest.split_first_chunk::<8>()?;
                let (replica, key) = rest.split_first_chunk::<8>()?;
                Some(Self::Local {
                    shard: ShardId(u64::from_be_bytes(*shard)),
                    replica: ReplicaId(u64::from_be_bytes(*replica)),
                    key,
                })
            }
            _ => None,
        }
    }

    /// The index keys of all rows of one replica's own.
    pub fn local_range(shard: ShardId, replica: ReplicaId) -> crate::KeyRange {
        let start = Self::Local {
            shard,
            replica,
            key: &[],
        }
        .encode();
        let end = match replica.0.checked_add(1) {
            Some(next) => Self::Local {
                shard,
                replica: ReplicaId(next),
                key: &[],
            }
            .encode(),
            None => vec![USER],
        };
        crate::KeyRange::new(start, end)
    }

    /// The index keys of a range of user keys.
    pub fn user_range(range: &crate::KeyRange) -> crate::KeyRange {
        let start = IndexKey::User { key: &range.start }.encode();
        let end = match &range.end {
            Some(end) => IndexKey::User { key: end }.encode(),
            None => vec![USER + 1],
        };
        crate::KeyRange::new(start, end)
    }
}

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pointer {
    pub version: Version,
    pub file: FileNumber,
    /// Which record of the file.
    pub ordinal: u32,
    pub offset: u32,
    /// Bytes of the whole record.
    pub bytes: u32,
    pub is_delete: bool,
}

/// Bytes of a pointer, about: for making room ahead.
const POINTER_BYTES: usize = 24;
/// Pointers in a key's own entry; older ones go to the history tree.
const INLINE_MAX: usize = 12;

/// The entry of a key, newest version first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pointers {
    pub list: Vec<Pointer>,
    /// Whether the history tree has older ones.
    pub has_history: bool,
}

/// Seven bits a byte, the lowest first; the top bit says that there are more.
fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if part << shift >> shift != part {
            return None;
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

impl Pointer {
    /// The pointer to a record, by what its file's footer says of it.
    pub fn to_record(file: FileNumber, ordinal: usize, entry: &FooterEntry) -> Self {
        Self {
            version: entry.version,
            file,
            ordinal: u32::try_from(ordinal).unwrap_or(u32::MAX),
            offset: entry.offset,
            bytes: entry.bytes,
            is_delete: entry.is_delete,
        }
    }

    /// An entry of one version is short enough to lie inside of sled's nodes (22 bytes): what is
    /// longer costs an allocation and two atomic counts at each change of its page.
    fn encode_into(&self, out: &mut Vec<u8>) {
        out.extend(self.version.0.to_le_bytes());
        put_varint(out, self.file.0);
        put_varint(out, self.ordinal.into());
        put_varint(out, self.offset.into());
        put_varint(out, u64::from(self.bytes) << 1 | u64::from(self.is_delete));
    }

    /// A value of the history tree.
    pub fn from_history(bytes: &[u8]) -> Result<Self, IndexError> {
        Self::decode(bytes).ok_or_else(|| broken("a pointer of the history"))
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        Self::take(&mut bytes).filter(|_| bytes.is_empty())
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first_chunk::<8>()?;
        *bytes = rest;
        let file = take_varint(bytes)?;
        let ordinal = take_varint(bytes)?;
        let offset = take_varint(bytes)?;
        let length = take_varint(bytes)?;
        Some(Self {
            version: Version(u64::from_le_bytes(*version)),
            file: FileNumber(file),
            ordinal: ordinal.try_into().ok()?,
            offset: offset.try_into().ok()?,
            bytes: (length >> 1).try_into().ok()?,
            is_delete: length & 1 != 0,
        })
    }
}

fn broken(what: &str) -> IndexError {
    IndexError(format!("{what} is not in the form that was written"))
}

/// Versions sort from new to old behind their key.
fn history_key(key: &[u8], version: Version) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + 8);
    out.extend_from_slice(key);
    out.extend((!version.0).to_be_bytes());
    out
}

impl Pointers {
    pub fn decode(bytes: &[u8]) -> Result<Self, IndexError> {
        let (flags, mut rest) = bytes
            .split_first()
            .ok_or_else(|| broken("an empty entry"))?;
        let mut list = Vec::with_capacity(1);
        while !rest.is_empty() {
            list.push(Pointer::take(&mut rest).ok_or_else(|| broken("an entry"))?);
        }
        Ok(Self {
            list,
            has_history: *flags != 0,
        })
    }

    pub fn encode(&self) -> Vec<u8> {
        entry_bytes(&self.list, self.has_history)
    }

    /// The newest version at or below `at`, of those in the entry itself.
    pub fn at(&self, at: Version) -> Option<&Pointer> {
        self.list.iter().find(|pointer| pointer.version <= at)
    }
}

/// The entry of a key.
pub(crate) fn get(index: &dyn Index, key: &[u8]) -> Result<Option<Pointers>, IndexError> {
    index
        .get(Tree::Newest, key)?
        .as_deref()
        .map(Pointers::decode)
        .transpose()
}

/// The pointer to the newest version of a key at or below `at`; its entry is at hand.
pub(crate) fn lookup_in(
    index: &dyn Index,
    key: &[u8],
    pointers: &Pointers,
    at: Version,
) -> Result<Option<Pointer>, IndexError> {
    if let Some(pointer) = pointers.at(at) {
        return Ok(Some(*pointer));
    }
    if !pointers.has_history {
        return Ok(None);
    }
    Ok(history(index, key, at, 1)?.first().copied())
}

/// Up to `limit` older versions of a key at or below `at`, newest first.
fn history(
    index: &dyn Index,
    key: &[u8],
    at: Version,
    limit: usize,
) -> Result<Vec<Pointer>, IndexError> {
    let mut found = Vec::new();
    let mut bad = false;
    let start = history_key(key, at);
    let mut end = history_key(key, Version::ZERO);
    end.push(0);
    index.range(
        Tree::History,
        &start,
        Some(&end),
        Direction::Forward,
        &mut |at_key, value| {
            // A longer key with this one as its beginning lies in between.
            if at_key.len() == key.len() + 8 {
                match Pointer::decode(value) {
                    Some(pointer) => found.push(pointer),
                    None => bad = true,
                }
            }
            if found.len() >= limit {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        },
    )?;
    if bad {
        Err(broken("a pointer of the history"))
    } else {
        Ok(found)
    }
}

/// All that the index has of a key.
#[derive(Debug, Default)]
struct Whole {
    /// Every version, newest first.
    list: Vec<Pointer>,
    /// What the history tree has, with what a crash left there: versions that the entry itself has too.
    /// Empty if the entry does not refer to it.
    in_history: Vec<Pointer>,
    has_history: bool,
}

impl Whole {
    fn load(index: &dyn Index, key: &[u8]) -> Result<Option<Self>, IndexError> {
        let Some(entry) = get(index, key)? else {
            return Ok(None);
        };
        let (mut list, has_history) = (entry.list, entry.has_history);
        let mut in_history = Vec::new();
        if has_history {
            in_history = history(index, key, Version::MAX, usize::MAX)?;
            let oldest = list.last().map_or(Version::MAX, |oldest| oldest.version);
            list.extend(in_history.iter().filter(|older| older.version < oldest));
        }
        Ok(Some(Self {
            list,
            in_history,
            has_history,
        }))
    }

    /// Writes a key's pointers, newest first. The order is such that a crash at any place loses none: at
    /// worst the history tree has some that the entry has too, or that nothing refers to.
    fn replace(&self, index: &dyn Index, key: &[u8], new: &[Pointer]) -> Result<(), IndexError> {
        let (inline, older) = new.split_at(new.len().min(INLINE_MAX));
        let left_behind = match self.has_history || older.is_empty() {
            true => Vec::new(),
            false => history(index, key, Version::MAX, usize::MAX)?,
        };
        let in_history = match self.has_history {
            true => &self.in_history,
            false => &left_behind,
        };
        let find = |list: &[Pointer], version: Version| {
            list.binary_search_by(|known| version.cmp(&known.version))
        };
        let mut value = Vec::with_capacity(POINTER_BYTES);
        for pointer in older {
            let known = find(in_history, pointer.version);
            if known.is_ok_and(|at| in_history[at] == *pointer) {
                continue;
            }
            value.clear();
            pointer.encode_into(&mut value);
            index.insert(Tree::History, &history_key(key, pointer.version), &value)?;
        }
        if inline.is_empty() {
            index.remove(Tree::Newest, key)?;
        } else {
            index.insert(Tree::Newest, key, &entry_bytes(inline, !older.is_empty()))?;
        }
        for pointer in in_history {
            if find(older, pointer.version).is_err() {
                index.remove(Tree::History, &history_key(key, pointer.version))?;
            }
        }
        Ok(())
    }

    /// Whether a crash left something in the history tree.
    fn has_leftovers(&self) -> bool {
        self.list.len() < self.in_history.len() + INLINE_MAX && self.has_history
    }
}

/// All versions of a key, newest first.
pub(crate) fn all(index: &dyn Index, key: &[u8]) -> Result<Vec<Pointer>, IndexError> {
    Ok(Whole::load(index, key)?.unwrap_or_default().list)
}

/// The form of an entry.
fn entry_bytes(inline: &[Pointer], has_history: bool) -> Vec<u8> {
    let mut value = Vec::with_capacity(1 + POINTER_BYTES * inline.len());
    value.push(u8::from(has_history));
    for pointer in inline {
        pointer.encode_into(&mut value);
    }
    value
}

/// Keeps what can still be asked for: everything above the threshold, and the newest at or below it.
/// What is let go is appended to `displaced`.
fn retain(pointers: &mut Vec<Pointer>, threshold: Version, displaced: &mut Vec<Pointer>) {
    let above = pointers
        .iter()
        .take_while(|pointer| pointer.version > threshold)
        .count();
    if pointers.len() > above + 1 {
        displaced.extend(pointers.drain(above + 1..));
    }
}

/// Merges new pointers of a key in; without any, it only lets go what cannot be asked for any more.
/// Pointers that no longer count, old or new, go to `displaced`. Whether the entry then holds a version
/// that a newer one has replaced.
pub(crate) fn merge(
    index: &dyn Index,
    key: &[u8],
    new: &[Pointer],
    threshold: Version,
    displaced: &mut Vec<Pointer>,
) -> Result<bool, IndexError> {
    let old = Whole::load(index, key)?.unwrap_or_default();
    let mut merged = old.list.clone();
    merge_lists(&mut merged, new, displaced);
    retain(&mut merged, threshold, displaced);
    if merged != old.list || old.has_leftovers() {
        old.replace(index, key, &merged)?;
    }
    Ok(merged.len() > 1)
}

/// Merges two lists, newest first; of equal versions the later file counts.
pub(crate) fn merge_lists(list: &mut Vec<Pointer>, new: &[Pointer], displaced: &mut Vec<Pointer>) {
    for pointer in new {
        match list.binary_search_by(|known| pointer.version.cmp(&known.version)) {
            Ok(at) if list[at].file < pointer.file => {
                displaced.push(std::mem::replace(&mut list[at], *pointer));
            }
            Ok(at) if list[at] == *pointer => {}
            Ok(_) => displaced.push(*pointer),
            Err(at) => list.insert(at, *pointer),
        }
    }
}

/// Drops from a merged list what cannot be asked for, and writes it into an index that has nothing of
/// the key: what a rebuild does.
pub(crate) fn put_fresh(
    index: &dyn Index,
    key: &[u8],
    mut list: Vec<Pointer>,
    threshold: Version,
    displaced: &mut Vec<Pointer>,
) -> Result<Vec<Pointer>, IndexError> {
    retain(&mut list, threshold, displaced);
    Whole::default().replace(index, key, &list)?;
    Ok(list)
}

/// Points a record's key to its rewritten copy (or to nothing), if the index still points to the
/// original. Returns whether it did.
pub(crate) fn relocate(
    index: &dyn Index,
    key: &[u8],
    from: (FileNumber, u32),
    to: Option<Pointer>,
) -> Result<bool, IndexError> {
    let Some(old) = Whole::load(index, key)? else {
        return Ok(false);
    };
    let is_original = |known: &Pointer| (known.file, known.ordinal) == from;
    let Some(at) = old.list.iter().position(is_original) else {
        return Ok(false);
    };
    let mut new = old.list.clone();
    match to {
        Some(to) => new[at] = to,
        None => {
            new.remove(at);
        }
    }
    old.replace(index, key, &new)?;
    Ok(true)
}

/// Forgets the pointers of a key into files before `before`. They go to `displaced`.
pub(crate) fn forget_before(
    index: &dyn Index,
    key: &[u8],
    before: FileNumber,
    displaced: &mut Vec<Pointer>,
) -> Result<(), IndexError> {
    let Some(old) = Whole::load(index, key)? else {
        return Ok(());
    };
    let (new, gone): (Vec<Pointer>, Vec<Pointer>) =
        old.list.iter().partition(|pointer| pointer.file >= before);
    if gone.is_empty() {
        return Ok(());
    }
    displaced.extend(gone);
    old.replace(index, key, &new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointer(version: u64, file: u64, ordinal: u32, offset: u32, bytes: u32) -> Pointer {
        Pointer {
            version: Version(version),
            file: FileNumber(file),
            ordinal,
            offset,
            bytes,
            is_delete: version % 2 == 1,
        }
    }

    fn encoded(pointer: &Pointer) -> Vec<u8> {
        let mut out = Vec::new();
        pointer.encode_into(&mut out);
        out
    }

    #[test]
    fn a_pointer_of_any_size_comes_back_and_a_cut_one_does_not() {
        for value in [0, 1, 0x7f, 0x80, 0x3fff, 0x4000, u32::MAX - 1, u32::MAX] {
            let wide = u64::from(value) << 32 | u64::from(value);
            let pointer = pointer(wide, wide, value, value, value);
            let bytes = encoded(&pointer);
            assert_eq!(Pointer::decode(&bytes), Some(pointer));
            for length in 0..bytes.len() {
                assert_eq!(Pointer::decode(&bytes[..length]), None);
            }
            let longer = [bytes.as_slice(), &[0]].concat();
            assert_eq!(Pointer::decode(&longer), None);
        }
        assert_eq!(Pointer::decode(&[0xff; 40]), None, "numbers without an end");
    }

    /// Pointers are merged again after a crash, in any order: the outcome is the same, and what does not
    /// count is let go, and nothing else is.
    #[test]
    fn merging_depends_neither_on_order_nor_on_repetition() {
        use crate::index::{IndexFactory, MemoryIndexFactory};
        use rand::rngs::SmallRng;
        use rand::seq::{IndexedRandom, SliceRandom};
        use rand::{Rng, SeedableRng};

        for seed in 0..300 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let versions = rng.random_range(1..40);
            let threshold = Version(rng.random_range(0..45));
            // Some are rewritten copies: of one version, the one in the latest file counts.
            let mut pointers: Vec<Pointer> = (1..=versions)
                .flat_map(|version| {
                    let copies: u64 = rng.random_range(1..4);
                    (0..copies).map(move |copy| pointer(version, version + 100 * copy, 0, 0, 9))
                })
                .collect();
            let mut expected: Vec<Pointer> = Vec::new();
            for pointer in pointers.iter().rev() {
                let known = expected.last().map(|known| known.version);
                if known != Some(pointer.version) && known.is_none_or(|known| known > threshold) {
                    expected.push(*pointer);
                }
            }
            let index = MemoryIndexFactory::new().open().unwrap();
            let mut displaced = Vec::new();
            for _ in 0..2 {
                pointers.shuffle(&mut rng);
                let mut rest = pointers.as_slice();
                while !rest.is_empty() {
                    let (some, more) = rest.split_at(rng.random_range(1..=rest.len().min(5)));
                    merge(&*index, b"k", some, threshold, &mut displaced).unwrap();
                    rest = more;
                }
                let again = pointers.choose(&mut rng).copied().unwrap();
                merge(&*index, b"k", &[again], threshold, &mut displaced).unwrap();
                assert_eq!(all(&*index, b"k").unwrap(), expected, "seed {seed}");
            }
            for pointer in &pointers {
                let counts = expected.contains(pointer);
                assert_ne!(
                    displaced.contains(pointer),
                    counts,
                    "seed {seed}: {pointer:?}"
                );
            }
        }
    }

    /// A kill between any two changes of the index loses no pointer and leaves none twice: a snapshot of
    /// such a key would never be taken.
    #[test]
    fn merging_may_be_cut_short_anywhere() {
        use crate::index::{IndexFactory, MemoryIndexFactory, Rot};

        let list = |versions: std::ops::RangeInclusive<u64>| -> Vec<Pointer> {
            versions.map(|v| pointer(v, v, 0, 0, 9)).collect()
        };
        let newest_first = |versions: std::ops::RangeInclusive<u64>| {
            let mut list = list(versions);
            list.reverse();
            list
        };
        let first = INLINE_MAX as u64 + 3;
        for survives in 0..30 {
            let mut factory = MemoryIndexFactory::new();
            let index = factory.open().unwrap();
            merge(&*index, b"k", &list(1..=first), Version(0), &mut Vec::new()).unwrap();
            index.sync().unwrap();
            let threshold = Version(3);
            let more = list(first + 1..=first + 4);
            let mut displaced = Vec::new();
            merge(&*index, b"k", &more, threshold, &mut displaced).unwrap();
            factory.rot(Rot::Cut(survives));
            let found = all(&*index, b"k").unwrap();
            let whole = found
                .windows(2)
                .all(|pair| pair[0].version > pair[1].version);
            assert!(whole, "after {survives}: {found:?}");
            for wanted in newest_first(3..=first) {
                assert!(
                    found.contains(&wanted),
                    "after {survives}: {wanted:?} is lost"
                );
            }
            merge(&*index, b"k", &more, threshold, &mut displaced).unwrap();
            let expected = newest_first(3..=first + 4);
            assert_eq!(all(&*index, b"k").unwrap(), expected, "after {survives}");
            let in_history = history(&*index, b"k", Version::MAX, usize::MAX).unwrap();
            assert_eq!(in_history, expected[INLINE_MAX..], "after {survives}");
        }
    }

    #[test]
    fn the_entry_of_an_ordinary_key_fits_into_a_node_of_sled() {
        // A million files in, at the end of a full one.
        let pointer = pointer(u64::MAX, 1 << 20, 1 << 15, 32 << 20, 1 << 12);
        let entry = 1 + encoded(&pointer).len();
        assert!(entry <= 22, "{entry} bytes");
    }
}
