//! `CLIENT` and its subcommands.

use std::fmt::Write;

use bytes::Bytes;
use synod_txn::Reply;

use super::{
    super::{
        conversation::{ReplyMode, Talk},
        registry::Profile,
    },
    Outcome, greet, unknown_subcommand, upper,
};

pub(super) fn client(words: &[Bytes], talk: &mut Talk) -> Outcome {
    let subcommand = upper(&words[1]);
    let arguments = &words[2..];
    Outcome::Answer(match (subcommand.as_str(), arguments) {
        ("ID", []) => Reply::Integer(talk.registration.id.cast_signed()),
        ("GETNAME", []) => match talk.registration.profile() {
            Some(profile) if !profile.name.is_empty() => Reply::bulk(profile.name),
            Some(_) | None => Reply::Null,
        },
        ("SETNAME", [name]) => set_name(name, talk),
        ("SETINFO", [attribute, value]) => set_info(attribute, value, talk),
        ("INFO", []) => {
            let profile = talk.registration.profile();
            text(
                profile
                    .map(|profile| line(talk.registration.id, &profile))
                    .unwrap_or_default(),
            )
        }
        ("LIST", []) => list(talk),
        ("LIST", [option, kind]) if upper(option) == "TYPE" => match upper(kind).as_str() {
            "NORMAL" => list(talk),
            // There are no replicas and subscribers among the clients.
            "MASTER" | "REPLICA" | "PUBSUB" => text(String::new()),
            _ => Reply::err("Unknown client type"),
        },
        ("NO-EVICT" | "NO-TOUCH", [switch]) => match upper(switch).as_str() {
            // Clients are never evicted and keys have no access time: both are so already.
            "ON" | "OFF" => Reply::Ok,
            _ => Reply::err("syntax error"),
        },
        ("TRACKING", [switch, ..]) => match upper(switch).as_str() {
            "OFF" => Reply::Ok,
            _ => Reply::err("client-side caching is not supported"),
        },
        ("REPLY", [mode]) => match upper(mode).as_str() {
            "ON" => {
                talk.replies = ReplyMode::On;
                Reply::Ok
            }
            "OFF" => return Outcome::Mute(ReplyMode::Off),
            "SKIP" if talk.replies == ReplyMode::Off => return Outcome::Mute(ReplyMode::Off),
            "SKIP" => return Outcome::Mute(ReplyMode::SkipNext),
            _ => Reply::err("syntax error"),
        },
        (
            "ID" | "GETNAME" | "SETNAME" | "SETINFO" | "INFO" | "LIST" | "NO-EVICT" | "NO-TOUCH"
            | "TRACKING" | "REPLY",
            _,
        ) => Reply::err(format!(
            "wrong number of arguments for 'client|{}' command",
            subcommand.to_ascii_lowercase()
        )),
        _ => unknown_subcommand("CLIENT", &words[1]),
    })
}

fn set_name(name: &[u8], talk: &Talk) -> Reply {
    match greet::client_name(name) {
        Ok(name) => {
            talk.registration.update(|profile| profile.name = name);
            Reply::Ok
        }
        Err(reply) => reply,
    }
}

fn set_info(attribute: &[u8], value: &[u8], talk: &Talk) -> Reply {
    let attribute = upper(attribute);
    let field: fn(&mut Profile) -> &mut String = match attribute.as_str() {
        "LIB-NAME" => |profile| &mut profile.library,
        "LIB-VER" => |profile| &mut profile.library_version,
        _ => return Reply::err("Unrecognized option"),
    };
    match greet::client_name(value) {
        Ok(value) => {
            talk.registration.update(|profile| *field(profile) = value);
            Reply::Ok
        }
        Err(_) => Reply::err(format!(
            "{} cannot contain spaces, newlines or special characters.",
            attribute.to_ascii_lowercase()
        )),
    }
}

fn list(talk: &Talk) -> Reply {
    let clients = talk.registration.registry().list();
    text(
        clients
            .iter()
            .map(|(id, profile)| line(*id, profile))
            .collect(),
    )
}

/// A client as one line of `CLIENT LIST`.
fn line(id: u64, profile: &Profile) -> String {
    let mut line = String::new();
    let Profile {
        peer,
        local,
        since,
        name,
        library,
        library_version,
        protocol,
    } = profile;
    let age_s = since.elapsed().as_secs();
    let protocol = protocol.number();
    writeln!(
        line,
        "id={id} addr={peer} laddr={local} name={name} age={age_s} db=0 user=default \
         resp={protocol} lib-name={library} lib-ver={library_version}"
    )
    .expect("writing to a string does not fail");
    line
}

fn text(text: String) -> Reply {
    Reply::Verbatim(text.into())
}
