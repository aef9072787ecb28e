//! `HELLO`, `AUTH` and `RESET`: how a connection begins, and begins again.

use bytes::Bytes;
use synod_txn::{ErrorCode, Reply};

use super::{
    super::{
        Edge,
        conversation::{ReplyMode, Talk},
    },
    describe::REDIS_VERSION,
    upper,
};
use crate::resp::Protocol;

/// `HELLO [2|3 [AUTH user password] [SETNAME name]]`. All or nothing: a bad option changes nothing.
pub(super) fn hello(words: &[Bytes], talk: &mut Talk, edge: &Edge) -> Reply {
    let protocol = match words.get(1).map(|version| &version[..]) {
        None => talk.protocol,
        Some(b"2") => Protocol::Resp2,
        Some(b"3") => Protocol::Resp3,
        Some(_) => return Reply::error(ErrorCode::NoProto, "unsupported protocol version"),
    };
    let mut authenticated = talk.authenticated;
    let mut name = None;
    let mut options = words.get(2..).unwrap_or_default();
    while let [option, rest @ ..] = options {
        options = match (upper(option).as_str(), rest) {
            ("AUTH", [user, password, rest @ ..]) => {
                if let Err(reply) = check_password(user, password, edge) {
                    return reply;
                }
                authenticated = true;
                rest
            }
            ("SETNAME", [wanted, rest @ ..]) => {
                match client_name(wanted) {
                    Ok(wanted) => name = Some(wanted),
                    Err(reply) => return reply,
                }
                rest
            }
            _ => {
                let option = option[..option.len().min(64)].escape_ascii();
                return Reply::err(format!("Syntax error in HELLO option '{option}'"));
            }
        };
    }
    if !authenticated {
        return Reply::error(
            ErrorCode::NoAuth,
            "HELLO must be called with the client already authenticated, otherwise the \
             HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client \
             and select the RESP protocol version at the same time",
        );
    }
    talk.authenticated = true;
    talk.protocol = protocol;
    talk.registration.update(|profile| {
        profile.protocol = protocol;
        if let Some(name) = name {
            profile.name = name;
        }
    });
    let field = |name: &'static str, value: Reply| (Reply::bulk(name), value);
    Reply::Map(vec![
        field("server", Reply::bulk("synod")),
        field("version", Reply::bulk(REDIS_VERSION)),
        field("proto", Reply::Integer(protocol.number())),
        field("id", Reply::Integer(talk.registration.id.cast_signed())),
        field("mode", Reply::bulk("standalone")),
        field("role", Reply::bulk("master")),
        field("modules", Reply::Array(Vec::new())),
    ])
}

/// `AUTH [user] password`.
pub(super) fn auth(words: &[Bytes], talk: &mut Talk, edge: &Edge) -> Reply {
    let checked = match words {
        [_, _] if edge.password.is_none() => Err(Reply::err(
            "AUTH <password> called without any password configured for the default user. \
             Are you sure your configuration is correct?",
        )),
        [_, password] => check_password(b"default", password, edge),
        [_, user, password] => check_password(user, password, edge),
        _ => Err(Reply::err("syntax error")),
    };
    match checked {
        Ok(()) => {
            talk.authenticated = true;
            Reply::Ok
        }
        Err(reply) => reply,
    }
}

/// `RESET`: the connection is as new, but for its number.
pub(super) fn reset(talk: &mut Talk, edge: &Edge) -> Reply {
    talk.protocol = Protocol::Resp2;
    talk.replies = ReplyMode::On;
    talk.in_multi = false;
    talk.authenticated = edge.password.is_none();
    talk.registration.update(|profile| {
        profile.protocol = Protocol::Resp2;
        profile.name.clear();
    });
    Reply::Status("RESET".into())
}

/// A name that `CLIENT LIST` can show in one line.
pub(super) fn client_name(name: &[u8]) -> Result<String, Reply> {
    const NAME_BYTES_MAX: usize = 256;
    let printable = name.iter().all(|byte| (b'!'..=b'~').contains(byte));
    if !printable || name.len() > NAME_BYTES_MAX {
        return Err(Reply::err(
            "Client names cannot contain spaces, newlines or special characters.",
        ));
    }
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// One user, `default`. Without a password of the node's, any is right for it, as in Redis.
fn check_password(user: &[u8], password: &[u8], edge: &Edge) -> Result<(), Reply> {
    let right = match &edge.password {
        None => true,
        Some(expected) => same_bytes(expected.as_bytes(), password),
    };
    if user == b"default" && right {
        return Ok(());
    }
    Err(Reply::error(
        ErrorCode::WrongPass,
        "invalid username-password pair or user is disabled.",
    ))
}

/// Equality whose time does not tell how much of the guess was right.
fn same_bytes(expected: &[u8], guess: &[u8]) -> bool {
    let different = expected.len() ^ guess.len();
    let pairs = guess.iter().zip(expected.iter().cycle());
    pairs.fold(different, |different, (left, right)| {
        different | usize::from(left ^ right)
    }) == 0
}
