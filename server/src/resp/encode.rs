//! The encoder: a [`Reply`] into a connection's output buffer, in RESP2 or RESP3.
//!
//! Replies are neutral; the types that RESP2 does not have are told in its own: a map is a flat
//! array, a set an array, a double or a text a bulk string, a boolean 1 or 0, a null a null bulk
//! string or, where a client expects an array, a null array.

use bytes::{BufMut, BytesMut};
use synod_txn::Reply;

/// The version of the protocol that a connection speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// What every connection starts with.
    #[default]
    Resp2,
    /// What `HELLO 3` switches to.
    Resp3,
}

impl Protocol {
    /// The number that `HELLO` has for it.
    pub const fn number(self) -> i64 {
        match self {
            Protocol::Resp2 => 2,
            Protocol::Resp3 => 3,
        }
    }
}

/// Appends `reply` to `out`.
pub fn encode(reply: &Reply, protocol: Protocol, out: &mut BytesMut) {
    match reply {
        Reply::Ok => out.extend_from_slice(b"+OK\r\n"),
        Reply::Status(text) => {
            out.put_u8(b'+');
            line(text, out);
        }
        Reply::Error { code, message } => {
            out.put_u8(b'-');
            out.extend_from_slice(code.as_str().as_bytes());
            out.put_u8(b' ');
            line(message, out);
        }
        Reply::Integer(number) => header(b':', *number, out),
        Reply::Bulk(bytes) => bulk(bytes, out),
        Reply::Null => out.extend_from_slice(match protocol {
            Protocol::Resp2 => b"$-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        }),
        Reply::NullArray => out.extend_from_slice(match protocol {
            Protocol::Resp2 => b"*-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        }),
        Reply::Array(items) => {
            length(b'*', items.len(), out);
            items.iter().for_each(|item| encode(item, protocol, out));
        }
        Reply::Set(items) => {
            let kind = match protocol {
                Protocol::Resp2 => b'*',
                Protocol::Resp3 => b'~',
            };
            length(kind, items.len(), out);
            items.iter().for_each(|item| encode(item, protocol, out));
        }
        Reply::Map(pairs) => {
            match protocol {
                Protocol::Resp2 => length(b'*', pairs.len() * 2, out),
                Protocol::Resp3 => length(b'%', pairs.len(), out),
            }
            for (key, value) in pairs {
                encode(key, protocol, out);
                encode(value, protocol, out);
            }
        }
        Reply::Double(number) => match protocol {
            Protocol::Resp2 => bulk(double(*number).as_bytes(), out),
            Protocol::Resp3 => {
                out.put_u8(b',');
                line(&double(*number), out);
            }
        },
        Reply::Boolean(truth) => out.extend_from_slice(match (protocol, truth) {
            (Protocol::Resp2, true) => b":1\r\n",
            (Protocol::Resp2, false) => b":0\r\n",
            (Protocol::Resp3, true) => b"#t\r\n",
            (Protocol::Resp3, false) => b"#f\r\n",
        }),
        Reply::Verbatim(text) => match protocol {
            Protocol::Resp2 => bulk(text, out),
            Protocol::Resp3 => {
                length(b'=', text.len() + 4, out);
                out.extend_from_slice(b"txt:");
                out.extend_from_slice(text);
                out.extend_from_slice(b"\r\n");
            }
        },
    }
}

/// The rest of a line. A line break within it would end the reply early and shift all that follow.
fn line(text: &str, out: &mut BytesMut) {
    if text.bytes().any(|byte| matches!(byte, b'\r' | b'\n')) {
        out.extend_from_slice(text.replace(['\r', '\n'], " ").as_bytes());
    } else {
        out.extend_from_slice(text.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

fn bulk(bytes: &[u8], out: &mut BytesMut) {
    out.reserve(bytes.len() + 24);
    length(b'$', bytes.len(), out);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

fn length(kind: u8, length: usize, out: &mut BytesMut) {
    header(
        kind,
        i64::try_from(length).expect("memory is smaller than 2^63 bytes"),
        out,
    );
}

/// `kind`, the number, and a line end. Written by hand: it is on the path of every reply.
fn header(kind: u8, number: i64, out: &mut BytesMut) {
    const DIGITS_MAX: usize = 20;
    let mut text = [0; DIGITS_MAX + 3];
    let mut at = text.len() - 2;
    text[at..].copy_from_slice(b"\r\n");
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        text[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        at -= 1;
        text[at] = b'-';
    }
    out.reserve(text.len() + 1);
    out.put_u8(kind);
    out.extend_from_slice(&text[at..]);
}

/// A number as clients parse it: `inf`, `-inf` and `nan` are the protocol's own words.
fn double(number: f64) -> String {
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    if number.is_nan() {
        return "nan".to_owned();
    }
    number.to_string()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use synod_txn::ErrorCode;

    use super::*;

    fn text(reply: &Reply, protocol: Protocol) -> String {
        let mut out = BytesMut::new();
        encode(reply, protocol, &mut out);
        String::from_utf8(out.to_vec()).expect("the samples are text")
    }

    #[test]
    fn every_reply_in_both_versions() {
        let bulk = |text: &'static str| Reply::Bulk(Bytes::from_static(text.as_bytes()));
        let cases: &[(Reply, &str, &str)] = &[
            (Reply::Ok, "+OK\r\n", "+OK\r\n"),
            (Reply::Status("QUEUED".into()), "+QUEUED\r\n", "+QUEUED\r\n"),
            (
                Reply::error(ErrorCode::Err, "no"),
                "-ERR no\r\n",
                "-ERR no\r\n",
            ),
            (Reply::Integer(0), ":0\r\n", ":0\r\n"),
            (Reply::Integer(-42), ":-42\r\n", ":-42\r\n"),
            (
                Reply::Integer(i64::MIN),
                ":-9223372036854775808\r\n",
                ":-9223372036854775808\r\n",
            ),
            (bulk(""), "$0\r\n\r\n", "$0\r\n\r\n"),
            (bulk("a\r\nb"), "$4\r\na\r\nb\r\n", "$4\r\na\r\nb\r\n"),
            (Reply::Null, "$-1\r\n", "_\r\n"),
            (Reply::NullArray, "*-1\r\n", "_\r\n"),
            (
                Reply::Array(vec![Reply::Integer(1), Reply::Null]),
                "*2\r\n:1\r\n$-1\r\n",
                "*2\r\n:1\r\n_\r\n",
            ),
            (
                Reply::Map(vec![(bulk("k"), Reply::Ok)]),
                "*2\r\n$1\r\nk\r\n+OK\r\n",
                "%1\r\n$1\r\nk\r\n+OK\r\n",
            ),
            (
                Reply::Set(vec![Reply::Ok]),
                "*1\r\n+OK\r\n",
                "~1\r\n+OK\r\n",
            ),
            (Reply::Double(1.5), "$3\r\n1.5\r\n", ",1.5\r\n"),
            (
                Reply::Double(f64::NEG_INFINITY),
                "$4\r\n-inf\r\n",
                ",-inf\r\n",
            ),
            (Reply::Double(f64::NAN), "$3\r\nnan\r\n", ",nan\r\n"),
            (Reply::Boolean(true), ":1\r\n", "#t\r\n"),
            (Reply::Boolean(false), ":0\r\n", "#f\r\n"),
            (
                Reply::Verbatim("hi".into()),
                "$2\r\nhi\r\n",
                "=6\r\ntxt:hi\r\n",
            ),
        ];
        for (reply, resp2, resp3) in cases {
            assert_eq!(text(reply, Protocol::Resp2), *resp2, "{reply:?}");
            assert_eq!(text(reply, Protocol::Resp3), *resp3, "{reply:?}");
        }
    }

    #[test]
    fn a_line_break_in_a_status_cannot_forge_a_reply() {
        let reply = Reply::Status("a\r\n:1".into());
        assert_eq!(text(&reply, Protocol::Resp2), "+a  :1\r\n");
    }
}
