//! RESP, the wire protocol that every Redis client speaks.
//!
//! A client sends commands as arrays of bulk strings (`*2\r\n$3\r\nGET\r\n$1\r\nk\r\n`) or as one
//! plain line (`GET k\r\n`, for people with a terminal). It may send the next command before it has
//! read the last answer; the answers come back in the order of the commands. That is all of the
//! framing; what the commands mean is not known here.
//!
//! * [`parser`] cuts commands out of a read buffer, in any chunks that the network delivers,
//!   without copying an argument.
//! * [`inline`] splits a plain line with its quotes and escapes.
//!
//! There are two kinds of bad input. Bytes that break the framing leave no way to find the next
//! command: that is a [`ProtocolError`], which is answered, and then the connection closes. A
//! command that is well framed and too large is skipped as it arrives, without being kept, and
//! reported as [`Request::TooLarge`]: its sender gets an error in its place, and the connection
//! lives on.

pub mod encode;
pub mod inline;
pub mod parser;

pub use encode::Protocol;
pub use parser::{Limits, Parser, ProtocolError, Request};
