//! A small asynchronous client for Synod, over RESP3.
//!
//! Any node answers any command, so a [`Client`] is given the addresses of several and uses one at
//! a time: when it is lost, the next one is tried. What a lost connection means for the command that
//! was in flight is the hard part of a client, and it is not hidden: [`Error::outcome`] says whether
//! the command took effect, did not, or may have. Only what certainly had no effect, or may safely
//! happen twice, is tried again.
//!
//! * [`Command`] is a command line of binary words.
//! * [`Connection`] is one connection: pipelining, in order.
//! * [`Client`] adds addresses, reconnection and retries, and typed calls.
//! * [`transaction`] runs `BEGIN … COMMIT` and repeats it when it lost against another transaction,
//!   with a token when its outcome must be known after a failure.
//!
//! The sockets are tokio's, or the simulator's in a build with `--cfg madsim`.

mod client;
mod command;
mod connection;
pub mod decode;
mod error;
pub mod transaction;
mod value;

pub use client::{Client, Options};
pub use command::{Command, Effect};
pub use connection::Connection;
pub use error::{Error, Outcome, ServerError};
pub use value::Value;
