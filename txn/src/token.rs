//! Tokens: names that clients give to transactions, so that each takes effect at most once and its
//! outcome can be asked for.
//!
//! A token is issued by the store (`TXN TOKEN`) and begins with the clock reading at its issue: by it
//! the store knows, without remembering the token, that it is too old for its outcome to be known,
//! and refuses it. Behind that, and a dash, stands whatever makes it unique; a client may append to
//! it. What became of a token is recorded in the shard that has its *home*, a key that follows from
//! the token, so that everybody who knows the token asks the same shard. That shard decides about
//! every transaction with the token: the token is inserted by the entry that holds the decision.

use bytes::{BufMut, Bytes, BytesMut};
use synod_replication::NodeId;
use synod_storage::Version;

use crate::command::Key;

/// Hexadecimal digits of the clock reading.
const ISSUED_DIGITS: usize = 16;

/// A fresh token: `counter` is unique on `node`.
pub(crate) fn issue(at: Version, node: NodeId, counter: u64) -> Bytes {
    let node = node.0 as u32;
    Bytes::from(format!("{:016x}-{node:08x}{counter:x}", at.0))
}

/// When a token was issued; `None` if it does not look like one.
pub(crate) fn issued_at(token: &[u8]) -> Option<Version> {
    let digits = token.get(..ISSUED_DIGITS)?;
    let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    if token.get(ISSUED_DIGITS) != Some(&b'-') || !digits.iter().all(is_digit) {
        return None;
    }
    let digits = std::str::from_utf8(digits).ok()?;
    u64::from_str_radix(digits, 16).ok().map(Version)
}

/// The key whose shard records what became of the token. Tokens issued one after the other have
/// homes all over the key space.
pub(crate) fn home(token: &[u8]) -> Key {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for byte in token {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    let spread = (hash ^ (hash >> 32)) as u16;
    let mut home = BytesMut::with_capacity(2 + token.len());
    home.put_u16(spread);
    home.put_slice(token);
    home.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_when_it_was_issued_and_other_words_do_not() {
        let at = Version(0x0123_4567_89ab_cdef);
        let token = issue(at, NodeId(7), 42);
        assert_eq!(issued_at(&token), Some(at));
        let appended = [&token[..], b".order-17"].concat();
        assert_eq!(issued_at(&appended), Some(at));
        for word in ["", "order-17", "0123456789ABCDEF-1", "0123456789abcdef"] {
            assert_eq!(issued_at(word.as_bytes()), None, "{word}");
        }
    }

    #[test]
    fn homes_are_spread() {
        let first = |counter| home(&issue(Version(1 << 60), NodeId(1), counter))[0] >> 5;
        let shards: std::collections::BTreeSet<u8> = (0..200).map(first).collect();
        assert_eq!(shards.len(), 8);
    }
}
