//! The incremental parser: bytes in, whole commands out.
//!
//! The parser owns no bytes. The connection reads into one `BytesMut` and calls
//! [`Parser::next`] until it answers `None`; a finished command is split off the front of that
//! buffer, and its arguments are reference-counted slices of it. So an argument costs no copy, but it
//! keeps its whole read buffer alive: whoever stores one for long copies it.
//!
//! Between calls the parser remembers how far it got (the spans of the arguments found so far), so
//! that each byte is looked at once, however many chunks a command arrives in.

use bytes::{Buf, Bytes, BytesMut};

use super::inline;

/// What a connection accepts. All of it is checked before anything is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest command, with its framing. A larger one is skipped and refused.
    pub command_bytes_max: u64,
    /// The most arguments of a command; more is a protocol error.
    pub arguments_max: u32,
    /// The longest argument that is worth skipping; a longer one is a protocol error.
    pub bulk_bytes_max: u64,
    /// The longest inline command, and the longest a line may grow without its end.
    pub inline_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            command_bytes_max: 16 << 20,
            arguments_max: 1 << 20,
            bulk_bytes_max: 512 << 20,
            inline_bytes_max: 64 << 10,
        }
    }
}

/// Something whole that a client sent, to be answered in its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A command: its name and its arguments. Never empty.
    Command(Vec<Bytes>),
    /// A command of this many bytes, above the limit. It was skipped.
    TooLarge {
        /// Its size with its framing.
        command_bytes: u64,
    },
}

/// The framing is broken: there is no next command to be found in this stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// An array header that is not a number, or has too many elements.
    #[error("Protocol error: invalid multibulk length")]
    MultibulkLength,
    /// A bulk header that is not a number, is negative, or is beyond all limits.
    #[error("Protocol error: invalid bulk length")]
    BulkLength,
    /// An element of a command that is not a bulk string.
    #[error("Protocol error: expected '$', got '{}'", .0.escape_ascii())]
    ExpectedBulk(u8),
    /// A bulk string that does not end where its header says.
    #[error("Protocol error: expected CRLF after a bulk string")]
    ExpectedLineEnd,
    /// A line without an end.
    #[error("Protocol error: too big inline request")]
    InlineTooLong,
    /// An inline command whose quotes do not match.
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    /// An HTTP request: a browser was made to talk to this port. Nothing of it is executed.
    #[error("Protocol error: this is not an HTTP server")]
    Http,
}

/// The state of one connection's stream between two reads.
///
/// Invariants: `cursor` and all spans lie within the bytes that the last call was given and left in
/// the buffer; a command that is being skipped holds no spans, and its `cursor` is 0.
#[derive(Debug)]
pub struct Parser {
    limits: Limits,
    partial: Option<Partial>,
}

/// A command whose array header was read.
#[derive(Debug)]
struct Partial {
    /// Elements that are not finished.
    remaining: u32,
    /// The element's payload with its line end, when its header was read.
    payload_bytes: Option<u64>,
    /// How far the buffer was read.
    cursor: usize,
    /// The elements found so far: offset and length in the buffer.
    spans: Vec<(u32, u32)>,
    /// Size of the command so far, with the payloads that its headers announce.
    command_bytes: u64,
    keep: Keep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    Whole,
    Skip,
}

/// A length line has a sign, at most 19 digits and a line end.
const LENGTH_DIGITS_MAX: usize = 20;

impl Parser {
    /// A parser at the start of a stream.
    pub fn new(limits: Limits) -> Self {
        // Spans are 32 bits wide.
        assert!(limits.command_bytes_max <= u64::from(u32::MAX));
        Parser {
            limits,
            partial: None,
        }
    }

    /// Cuts the next command off the front of `input`.
    ///
    /// `None`: the command at the front is not whole yet. Read more and call again. After an error
    /// the stream has no meaning any more, and the parser must not be called again.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Request>, ProtocolError> {
        loop {
            let mut partial = match self.partial.take() {
                Some(partial) => partial,
                None => match input.first() {
                    None => return Ok(None),
                    Some(b'*') => match self.array_header(input)? {
                        ArrayHeader::Incomplete => return Ok(None),
                        ArrayHeader::Empty => continue,
                        ArrayHeader::Command(partial) => partial,
                    },
                    Some(_) => match self.inline(input)? {
                        None => return Ok(None),
                        Some(words) if words.is_empty() => continue,
                        Some(words) => return Ok(Some(Request::Command(words))),
                    },
                },
            };
            let whole = self.advance(&mut partial, input)?;
            if !whole {
                self.partial = Some(partial);
                return Ok(None);
            }
            return Ok(Some(partial.finish(input)));
        }
    }

    /// How many more bytes the argument that is arriving needs: what a reader should make room for.
    pub fn missing_bytes(&self, input: &BytesMut) -> usize {
        let Some(Partial {
            payload_bytes: Some(payload),
            cursor,
            keep: Keep::Whole,
            ..
        }) = self.partial
        else {
            return 0;
        };
        (cursor as u64 + payload).saturating_sub(input.len() as u64) as usize
    }

    fn array_header(&self, input: &mut BytesMut) -> Result<ArrayHeader, ProtocolError> {
        let (count, cursor) = match length_line(input, 1) {
            Line::Incomplete => return Ok(ArrayHeader::Incomplete),
            Line::Malformed => return Err(ProtocolError::MultibulkLength),
            Line::Length(count, cursor) => (count, cursor),
        };
        if count > i64::from(self.limits.arguments_max) {
            return Err(ProtocolError::MultibulkLength);
        }
        if count <= 0 {
            // As in Redis: an empty or a null array asks for nothing and is not answered.
            input.advance(cursor);
            return Ok(ArrayHeader::Empty);
        }
        let remaining = count as u32;
        Ok(ArrayHeader::Command(Partial {
            remaining,
            payload_bytes: None,
            cursor,
            // What is announced is not trusted with memory.
            spans: Vec::with_capacity(remaining.min(64) as usize),
            command_bytes: cursor as u64,
            keep: Keep::Whole,
        }))
    }

    /// Reads elements until the command is whole (`true`) or the input ends (`false`).
    fn advance(&self, partial: &mut Partial, input: &mut BytesMut) -> Result<bool, ProtocolError> {
        while partial.remaining > 0 {
            if partial.payload_bytes.is_none() && !self.bulk_header(partial, input)? {
                return Ok(false);
            }
            let done = match partial.keep {
                Keep::Whole => partial.keep_payload(input)?,
                Keep::Skip => partial.skip_payload(input),
            };
            if !done {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn bulk_header(
        &self,
        partial: &mut Partial,
        input: &mut BytesMut,
    ) -> Result<bool, ProtocolError> {
        match input.get(partial.cursor) {
            None => return Ok(false),
            Some(b'$') => {}
            Some(&other) => return Err(ProtocolError::ExpectedBulk(other)),
        }
        let (length, cursor) = match length_line(input, partial.cursor + 1) {
            Line::Incomplete => return Ok(false),
            Line::Malformed => return Err(ProtocolError::BulkLength),
            Line::Length(length, cursor) => (length, cursor),
        };
        let length = u64::try_from(length).map_err(|_| ProtocolError::BulkLength)?;
        if length > self.limits.bulk_bytes_max {
            return Err(ProtocolError::BulkLength);
        }
        partial.command_bytes += (cursor - partial.cursor) as u64 + length + 2;
        partial.cursor = cursor;
        partial.payload_bytes = Some(length + 2);
        if partial.command_bytes > self.limits.command_bytes_max {
            partial.keep = Keep::Skip;
            partial.spans = Vec::new();
        }
        if partial.keep == Keep::Skip {
            input.advance(partial.cursor);
            partial.cursor = 0;
        }
        Ok(true)
    }

    fn inline(&self, input: &mut BytesMut) -> Result<Option<Vec<Bytes>>, ProtocolError> {
        let Some(end) = input.iter().position(|&byte| byte == b'\n') else {
            if input.len() > self.limits.inline_bytes_max {
                return Err(ProtocolError::InlineTooLong);
            }
            return Ok(None);
        };
        if end > self.limits.inline_bytes_max {
            return Err(ProtocolError::InlineTooLong);
        }
        let line = input.split_to(end + 1).freeze();
        let line = line.slice(
            ..if line[..end].ends_with(b"\r") {
                end - 1
            } else {
                end
            },
        );
        let words = inline::split(&line).ok_or(ProtocolError::UnbalancedQuotes)?;
        match words.first() {
            // What a browser sends when a page makes it post commands to this port.
            Some(word)
                if word.eq_ignore_ascii_case(b"post") || word.eq_ignore_ascii_case(b"host:") =>
            {
                Err(ProtocolError::Http)
            }
            _ => Ok(Some(words)),
        }
    }
}

enum ArrayHeader {
    Incomplete,
    Empty,
    Command(Partial),
}

impl Partial {
    fn keep_payload(&mut self, input: &BytesMut) -> Result<bool, ProtocolError> {
        let Some(payload_bytes) = self.payload_bytes else {
            return Ok(false);
        };
        // Within `command_bytes_max`, so within 32 bits.
        let length = payload_bytes as usize - 2;
        let end = self.cursor + length;
        let Some(line_end) = input.get(end..end + 2) else {
            return Ok(false);
        };
        if line_end != b"\r\n" {
            return Err(ProtocolError::ExpectedLineEnd);
        }
        self.spans.push((self.cursor as u32, length as u32));
        self.cursor = end + 2;
        self.payload_bytes = None;
        self.remaining -= 1;
        Ok(true)
    }

    fn skip_payload(&mut self, input: &mut BytesMut) -> bool {
        debug_assert_eq!(self.cursor, 0);
        let Some(payload_bytes) = self.payload_bytes else {
            return false;
        };
        let here = payload_bytes.min(input.len() as u64);
        input.advance(here as usize);
        if here < payload_bytes {
            self.payload_bytes = Some(payload_bytes - here);
            return false;
        }
        self.payload_bytes = None;
        self.remaining -= 1;
        true
    }

    fn finish(self, input: &mut BytesMut) -> Request {
        match self.keep {
            Keep::Skip => Request::TooLarge {
                command_bytes: self.command_bytes,
            },
            Keep::Whole => {
                let frame = input.split_to(self.cursor).freeze();
                let slice = |&(at, length): &(u32, u32)| {
                    frame.slice(at as usize..at as usize + length as usize)
                };
                Request::Command(self.spans.iter().map(slice).collect())
            }
        }
    }
}

enum Line {
    Incomplete,
    Malformed,
    /// The number, and the offset behind its line end.
    Length(i64, usize),
}

/// Reads `-?[0-9]+\r\n` at `at`.
fn length_line(input: &[u8], at: usize) -> Line {
    let line = &input[at..];
    let negative = line.first() == Some(&b'-');
    let digits_at = usize::from(negative);
    let mut value: i64 = 0;
    for (index, &byte) in line.iter().enumerate().skip(digits_at) {
        match byte {
            b'0'..=b'9' if index < LENGTH_DIGITS_MAX => {
                let digit = i64::from(byte - b'0');
                match value
                    .checked_mul(10)
                    .and_then(|value| value.checked_add(digit))
                {
                    Some(next) => value = next,
                    None => return Line::Malformed,
                }
            }
            b'\r' if index > digits_at => {
                return match line.get(index + 1) {
                    None => Line::Incomplete,
                    Some(b'\n') => {
                        Line::Length(if negative { -value } else { value }, at + index + 2)
                    }
                    Some(_) => Line::Malformed,
                };
            }
            _ => return Line::Malformed,
        }
    }
    Line::Incomplete
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SMALL: Limits = Limits {
        command_bytes_max: 64,
        arguments_max: 8,
        bulk_bytes_max: 1024,
        inline_bytes_max: 32,
    };

    /// Feeds `chunks` one after the other; the requests, and the error that ended the stream.
    fn run(limits: Limits, chunks: &[&[u8]]) -> (Vec<Request>, Option<ProtocolError>) {
        let mut parser = Parser::new(limits);
        let mut input = BytesMut::new();
        let mut requests = Vec::new();
        for chunk in chunks {
            input.extend_from_slice(chunk);
            loop {
                match parser.next(&mut input) {
                    Ok(Some(request)) => requests.push(request),
                    Ok(None) => break,
                    Err(error) => return (requests, Some(error)),
                }
            }
        }
        (requests, None)
    }

    fn command(words: &[&[u8]]) -> Request {
        Request::Command(
            words
                .iter()
                .map(|word| Bytes::copy_from_slice(word))
                .collect(),
        )
    }

    fn framed(words: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            bytes.extend_from_slice(word);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    }

    #[test]
    fn commands_framed_inline_and_empty() {
        let stream = b"*1\r\n$4\r\nPING\r\n*0\r\n*-1\r\n\r\n  \r\nset k \"a b\"\n*2\r\n$3\r\nGET\r\n$0\r\n\r\n";
        let (requests, error) = run(Limits::default(), &[stream]);
        assert_eq!(error, None);
        assert_eq!(
            requests,
            vec![
                command(&[b"PING"]),
                command(&[b"set", b"k", b"a b"]),
                command(&[b"GET", b""])
            ]
        );
    }

    #[test]
    fn broken_framing_is_named() {
        let cases: &[(&[u8], ProtocolError)] = &[
            (b"*x\r\n", ProtocolError::MultibulkLength),
            (b"*\r\n", ProtocolError::MultibulkLength),
            (b"*-\r\n", ProtocolError::MultibulkLength),
            (b"*1\r\r", ProtocolError::MultibulkLength),
            (
                b"*99999999999999999999999\r\n",
                ProtocolError::MultibulkLength,
            ),
            (b"*9\r\n", ProtocolError::MultibulkLength),
            (b"*1\r\n+OK\r\n", ProtocolError::ExpectedBulk(b'+')),
            (b"*1\r\n$-1\r\n", ProtocolError::BulkLength),
            (b"*1\r\n$1025\r\n", ProtocolError::BulkLength),
            (b"*1\r\n$ 3\r\n", ProtocolError::BulkLength),
            (b"*1\r\n$1\r\nabc", ProtocolError::ExpectedLineEnd),
            (b"get \"k\r\n", ProtocolError::UnbalancedQuotes),
            (b"POST / HTTP/1.1\r\n", ProtocolError::Http),
            (b"Host: here\r\n", ProtocolError::Http),
            (&[b'a'; 33], ProtocolError::InlineTooLong),
        ];
        for (stream, expected) in cases {
            let (_, error) = run(SMALL, &[stream]);
            assert_eq!(error, Some(*expected), "{}", stream.escape_ascii());
        }
    }

    #[test]
    fn an_oversized_command_is_skipped_without_being_kept() {
        let mut parser = Parser::new(SMALL);
        let mut input = BytesMut::new();
        input.extend_from_slice(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000\r\n");
        for _ in 0..100 {
            assert_eq!(parser.next(&mut input), Ok(None));
            assert!(input.is_empty(), "what is skipped is not buffered");
            input.extend_from_slice(b"0123456789");
        }
        input.extend_from_slice(b"\r\n*1\r\n$4\r\nPING\r\n");
        let header_bytes = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000\r\n".len() as u64;
        assert_eq!(
            parser.next(&mut input),
            Ok(Some(Request::TooLarge {
                command_bytes: header_bytes + 1002
            }))
        );
        assert_eq!(parser.next(&mut input), Ok(Some(command(&[b"PING"]))));
    }

    #[test]
    fn a_command_of_exactly_the_limit_is_accepted() {
        // "*2\r\n" + "$3\r\nGET\r\n" + "$44\r\n" + 44 + "\r\n" = 64
        let stream = framed(&[b"GET".to_vec(), vec![b'x'; 44]]);
        assert_eq!(stream.len(), 64);
        let (requests, _) = run(SMALL, &[&stream]);
        assert!(matches!(requests[..], [Request::Command(_)]));
        let stream = framed(&[b"GET".to_vec(), vec![b'x'; 45]]);
        let (requests, _) = run(SMALL, &[&stream]);
        assert_eq!(requests, vec![Request::TooLarge { command_bytes: 65 }]);
    }

    #[test]
    fn the_reader_is_told_what_an_argument_still_needs() {
        let mut parser = Parser::new(Limits::default());
        let mut input = BytesMut::from(&b"*2\r\n$3\r\nGET\r\n$100\r\nab"[..]);
        assert_eq!(parser.next(&mut input), Ok(None));
        assert_eq!(parser.missing_bytes(&input), 100);
        assert_eq!(Parser::new(Limits::default()).missing_bytes(&input), 0);
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let word = prop::collection::vec(any::<u8>(), 0..40);
        let framed_command = prop::collection::vec(word, 1..5).prop_map(|words| framed(&words));
        let inline = "[a-zA-Z0-9 \"']{0,20}\r\n".prop_map(String::into_bytes);
        let garbage = prop::collection::vec(any::<u8>(), 0..12);
        let item = prop_oneof![8 => framed_command, 2 => inline, 1 => garbage];
        prop::collection::vec(item, 0..8).prop_map(|items| items.concat())
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_requests(
            stream in stream(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.push(0);
            cuts.push(stream.len());
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
            prop_assert_eq!(run(SMALL, &[&stream]), run(SMALL, &chunks));
        }

        #[test]
        fn what_was_framed_comes_back(
            words in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 1..20),
        ) {
            let (requests, error) = run(Limits::default(), &[&framed(&words)]);
            prop_assert_eq!(error, None);
            let words: Vec<Bytes> = words.into_iter().map(Bytes::from).collect();
            prop_assert_eq!(requests, vec![Request::Command(words)]);
        }

        #[test]
        fn garbage_never_panics(stream in prop::collection::vec(any::<u8>(), 0..600)) {
            run(SMALL, &stream.chunks(7).collect::<Vec<_>>());
        }

        #[test]
        fn garbage_of_protocol_characters_never_panics(stream in "[*$0-9\r\n\"'a-]{0,200}") {
            run(SMALL, &[stream.as_bytes()]);
        }
    }
}
