//! Commands that concern only the connection or this process: answered here, never sent to a shard.
//!
//! [`dispatch`] looks each command up in the table of all commands and either answers it or says
//! that it is to be forwarded. Tools and client libraries ask many of these before their first real
//! command; a subcommand that means nothing here is a clean error, never silence.

mod client;
mod describe;
mod greet;

use bytes::Bytes;
use synod_txn::{
    ErrorCode, Reply,
    table::{self, Flag},
};

use super::{
    Edge,
    conversation::{ReplyMode, Talk},
};

/// What is to be done with a command.
#[derive(Debug)]
pub enum Outcome {
    /// Parse it and send it through the session.
    Forward,
    /// Answer this.
    Answer(Reply),
    /// Forget the transaction and the watched keys, and answer this.
    Reset(Reply),
    /// The same, and then close.
    Quit(Reply),
    /// Tell no answer to this command, and to later ones as the mode says.
    Mute(ReplyMode),
}

/// Handles a command if it is the edge's; `words` is not empty.
pub fn dispatch(words: &[Bytes], talk: &mut Talk, edge: &Edge) -> Outcome {
    let spec = words.first().and_then(|name| table::lookup(name));
    if !talk.authenticated {
        let without_password = ["auth", "hello", "quit", "reset"];
        if !spec.is_some_and(|spec| without_password.contains(&spec.name)) {
            let reply = Reply::error(ErrorCode::NoAuth, "Authentication required.");
            return Outcome::Answer(reply);
        }
    }
    // Unknown commands are forwarded too: one place words their error.
    let Some(spec) = spec.filter(|spec| spec.is_edge()) else {
        return Outcome::Forward;
    };
    if let Err(reply) = table::check_arity(spec, words.len()) {
        return Outcome::Answer(reply);
    }
    let leaves = matches!(spec.name, "quit" | "reset");
    if talk.in_multi && !leaves && spec.flags.contains(&Flag::NoMulti) {
        return Outcome::Answer(Reply::err("Command not allowed inside a transaction"));
    }
    Outcome::Answer(match spec.name {
        "ping" => ping(words),
        "echo" => Reply::Bulk(words[1].clone()),
        "select" => select(&words[1]),
        "quit" => return Outcome::Quit(Reply::Ok),
        "reset" => return Outcome::Reset(greet::reset(talk, edge)),
        "auth" => greet::auth(words, talk, edge),
        "hello" => greet::hello(words, talk, edge),
        "client" => return client::client(words, talk),
        "command" => table::answer_command(words),
        "config" => describe::config(words, edge),
        "info" => describe::info(words, edge),
        "latency" => describe::latency(words),
        "memory" => describe::memory(words),
        "slowlog" => describe::slowlog(words),
        "time" => describe::time(),
        other => Reply::err(format!("command '{other}' is not supported")),
    })
}

fn ping(words: &[Bytes]) -> Reply {
    match words {
        [_] => Reply::Status("PONG".into()),
        [_, message] => Reply::Bulk(message.clone()),
        _ => Reply::err("wrong number of arguments for 'ping' command"),
    }
}

/// There is one database. Clients that select it are welcome.
fn select(index: &Bytes) -> Reply {
    match &index[..] {
        b"0" => Reply::Ok,
        _ if index.iter().all(u8::is_ascii_digit) => Reply::err("DB index is out of range"),
        _ => Reply::err("invalid DB index"),
    }
}

/// The error for a subcommand that a command does not have.
fn unknown_subcommand(command: &'static str, subcommand: &[u8]) -> Reply {
    let shown = subcommand[..subcommand.len().min(64)].escape_ascii();
    Reply::err(format!("unknown subcommand '{shown}' of {command}"))
}

/// A word in upper case, for matching: what people type is ASCII.
fn upper(word: &[u8]) -> String {
    String::from_utf8_lossy(word).to_ascii_uppercase()
}
