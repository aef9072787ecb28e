//! What is stored under a user key: a string, and perhaps a deadline.
//!
//! ```text
//! 0x00 value…                      no deadline
//! 0x01 deadline_ms:u64le value…    absolute, milliseconds since the Unix epoch
//! ```
//!
//! Storage takes the whole for opaque. The deadline is part of the value, so that it has the
//! value's version: changing one is a write of the other.

use bytes::{BufMut, Bytes, BytesMut};
use rkyv::{Archive, Deserialize, Serialize};

const PLAIN: u8 = 0;
const WITH_DEADLINE: u8 = 1;

/// A string with its deadline.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The string.
    pub data: Bytes,
    /// When it ceases to exist, in milliseconds since the Unix epoch.
    pub deadline_ms: Option<u64>,
}

impl Value {
    /// A string without a deadline.
    pub fn plain(data: Bytes) -> Value {
        Value {
            data,
            deadline_ms: None,
        }
    }

    /// Whether its deadline has come at `now_ms`.
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.deadline_ms
            .is_some_and(|deadline_ms| deadline_ms <= now_ms)
    }

    /// How long the stored form is.
    pub fn encoded_len(&self) -> usize {
        1 + if self.deadline_ms.is_some() { 8 } else { 0 } + self.data.len()
    }

    /// Appends the stored form.
    pub fn encode_into(&self, out: &mut BytesMut) {
        match self.deadline_ms {
            None => out.put_u8(PLAIN),
            Some(deadline_ms) => {
                out.put_u8(WITH_DEADLINE);
                out.put_u64_le(deadline_ms);
            }
        }
        out.put_slice(&self.data);
    }

    /// The stored form.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.encoded_len());
        self.encode_into(&mut out);
        out.freeze()
    }

    /// Reads the stored form, without copying. `None` if it is none.
    pub fn decode(stored: &Bytes) -> Option<Value> {
        match *stored.first()? {
            PLAIN => Some(Value {
                data: stored.slice(1..),
                deadline_ms: None,
            }),
            WITH_DEADLINE => {
                let deadline = stored.get(1..9)?.try_into().ok()?;
                let deadline_ms = Some(u64::from_le_bytes(deadline));
                Some(Value {
                    data: stored.slice(9..),
                    deadline_ms,
                })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_values_round_trip_and_damage_is_noticed() {
        for deadline_ms in [None, Some(0), Some(u64::MAX)] {
            let value = Value {
                data: Bytes::from_static(b"abc"),
                deadline_ms,
            };
            assert_eq!(Value::decode(&value.encode()), Some(value.clone()));
            assert_eq!(value.encode().len(), value.encoded_len());
        }
        for bad in [&b""[..], b"\x02abc", b"\x01abc"] {
            assert_eq!(Value::decode(&Bytes::from_static(bad)), None);
        }
    }
}
