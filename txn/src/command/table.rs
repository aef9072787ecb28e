//! The table of commands: arity, flags, where the keys are, what it does.
//!
//! One table drives parsing, `COMMAND`, `COMMAND DOCS`, `COMMAND INFO` and `COMMAND GETKEYS`, so
//! that what tools are told and what happens cannot drift apart. Commands that the edge answers by
//! itself stand here too, because clients ask about them.

use bytes::Bytes;

use super::Command;
use super::args::{Args, is_option, wrong_arity};
use super::table_rows::COMMANDS;
use crate::reply::Reply;

/// What the table says about one command.
pub struct CommandSpec {
    /// The name, in lower case.
    pub name: &'static str,
    /// How many words the command line has, its name included; negative: at least so many.
    pub arity: i8,
    /// What kind of command it is.
    pub flags: &'static [Flag],
    /// Where the keys are.
    pub keys: KeySpec,
    /// The group that documentation lists it in.
    pub group: &'static str,
    /// The Redis version that has had it, or `synod` for our own.
    pub since: &'static str,
    /// What it costs.
    pub complexity: &'static str,
    /// One sentence for people.
    pub summary: &'static str,
    pub(super) parser: Parser,
}

/// Who understands the arguments.
#[derive(Clone, Copy)]
pub(super) enum Parser {
    /// The edge: it concerns the connection or the node.
    Edge,
    /// This crate.
    Command(fn(&mut Args) -> Result<Command, Reply>),
}

/// A property of a command, as `COMMAND` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// Never changes data.
    Readonly,
    /// May change data.
    Write,
    /// May make the data larger.
    DenyOom,
    /// Takes constant or logarithmic time.
    Fast,
    /// Works while the node is starting.
    Loading,
    /// Works without a leader.
    Stale,
    /// Not allowed in scripts.
    NoScript,
    /// Not allowed in `MULTI`.
    NoMulti,
}

impl Flag {
    /// The name in `COMMAND`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Flag::Readonly => "readonly",
            Flag::Write => "write",
            Flag::DenyOom => "denyoom",
            Flag::Fast => "fast",
            Flag::Loading => "loading",
            Flag::Stale => "stale",
            Flag::NoScript => "noscript",
            Flag::NoMulti => "no_multi",
        }
    }
}

/// Where the keys stand in a command line, in Redis' terms. All zero: there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySpec {
    /// The first key; the name is word 0.
    pub first: i8,
    /// The last key; negative counts from the end.
    pub last: i8,
    /// The distance from one key to the next.
    pub step: i8,
}

impl KeySpec {
    pub(super) const NONE: KeySpec = KeySpec {
        first: 0,
        last: 0,
        step: 0,
    };
    pub(super) const ONE: KeySpec = KeySpec {
        first: 1,
        last: 1,
        step: 1,
    };
    pub(super) const ALL: KeySpec = KeySpec {
        first: 1,
        last: -1,
        step: 1,
    };
    pub(super) const PAIRS: KeySpec = KeySpec {
        first: 1,
        last: -1,
        step: 2,
    };
}

impl CommandSpec {
    /// Whether a command line of `words` words, the name included, has the right length.
    pub fn accepts(&self, words: usize) -> bool {
        let arity = usize::from(self.arity.unsigned_abs());
        match self.arity < 0 {
            true => words >= arity,
            false => words == arity,
        }
    }

    /// Whether the edge answers it by itself.
    pub fn is_edge(&self) -> bool {
        matches!(self.parser, Parser::Edge)
    }

    /// Whether it may change data.
    pub fn is_write(&self) -> bool {
        self.flags.contains(&Flag::Write)
    }

    /// The keys of a command line.
    fn keys_of<'a>(&self, argv: &'a [Bytes]) -> impl Iterator<Item = &'a Bytes> {
        let KeySpec { first, last, step } = self.keys;
        let end = match last < 0 {
            true => argv.len().saturating_sub(usize::from(last.unsigned_abs())) + 1,
            false => usize::from(last.unsigned_abs()) + 1,
        };
        let count = if first == 0 { 0 } else { end };
        argv.iter()
            .take(count)
            .skip(usize::from(first.unsigned_abs()))
            .step_by(usize::from(step.unsigned_abs()).max(1))
    }

    /// The entry of this command in the answer of `COMMAND` and `COMMAND INFO`.
    fn describe(&self) -> Reply {
        let flags = self
            .flags
            .iter()
            .map(|flag| Reply::Status(flag.as_str().into()))
            .collect();
        let class = match (self.is_write(), self.flags.contains(&Flag::Readonly)) {
            (true, _) => "@write",
            (_, true) => "@read",
            (false, false) => "@connection",
        };
        Reply::Array(vec![
            Reply::bulk(self.name),
            Reply::Integer(self.arity.into()),
            Reply::Set(flags),
            Reply::Integer(self.keys.first.into()),
            Reply::Integer(self.keys.last.into()),
            Reply::Integer(self.keys.step.into()),
            Reply::Set(vec![Reply::Status(class.into())]),
            Reply::Array(Vec::new()),
            Reply::Array(Vec::new()),
            Reply::Array(Vec::new()),
        ])
    }

    /// The entry of this command in the answer of `COMMAND DOCS`.
    fn document(&self) -> (Reply, Reply) {
        let field = |name: &'static str, text: &str| (Reply::bulk(name), Reply::bulk(text));
        let fields = vec![
            field("summary", self.summary),
            field("since", self.since),
            field("group", self.group),
            field("complexity", self.complexity),
        ];
        (Reply::bulk(self.name), Reply::Map(fields))
    }
}

/// The table's entry for a name, in any case.
pub fn lookup(name: &[u8]) -> Option<&'static CommandSpec> {
    const NAME_BYTES_MAX: usize = 16;
    let mut lower = [0u8; NAME_BYTES_MAX];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    let at = COMMANDS
        .binary_search_by(|spec| spec.name.as_bytes().cmp(lower))
        .ok()?;
    COMMANDS.get(at)
}

/// All commands, by name.
pub fn all() -> &'static [CommandSpec] {
    COMMANDS
}

/// The answer of `COMMAND` and its subcommands; `argv[0]` is the word `COMMAND`.
pub fn answer_command(argv: &[Bytes]) -> Reply {
    let rest = argv.get(2..).unwrap_or_default();
    let Some(subcommand) = argv.get(1) else {
        return Reply::Array(COMMANDS.iter().map(CommandSpec::describe).collect());
    };
    if is_option(subcommand, "COUNT") && rest.is_empty() {
        Reply::Integer(i64::try_from(COMMANDS.len()).unwrap_or(i64::MAX))
    } else if is_option(subcommand, "LIST") && rest.is_empty() {
        Reply::Array(COMMANDS.iter().map(|spec| Reply::bulk(spec.name)).collect())
    } else if is_option(subcommand, "INFO") {
        match rest {
            [] => Reply::Array(COMMANDS.iter().map(CommandSpec::describe).collect()),
            names => Reply::Array(
                names
                    .iter()
                    .map(|name| lookup(name).map_or(Reply::NullArray, CommandSpec::describe))
                    .collect(),
            ),
        }
    } else if is_option(subcommand, "DOCS") {
        match rest {
            [] => Reply::Map(COMMANDS.iter().map(CommandSpec::document).collect()),
            names => Reply::Map(
                names
                    .iter()
                    .filter_map(|name| lookup(name))
                    .map(CommandSpec::document)
                    .collect(),
            ),
        }
    } else if is_option(subcommand, "GETKEYS") {
        get_keys(rest)
    } else {
        let subcommand = String::from_utf8_lossy(&subcommand[..subcommand.len().min(128)]);
        Reply::err(format!(
            "unknown subcommand '{subcommand}'. Try COMMAND HELP."
        ))
    }
}

/// The answer of `COMMAND GETKEYS`.
fn get_keys(argv: &[Bytes]) -> Reply {
    let Some(name) = argv.first() else {
        return Reply::err("wrong number of arguments for 'command|getkeys' command");
    };
    let Some(spec) = lookup(name) else {
        return Reply::err("Invalid command specified");
    };
    if !spec.accepts(argv.len()) {
        return Reply::err("Invalid number of arguments specified for command");
    }
    if spec.keys == KeySpec::NONE {
        return Reply::err("The command has no key arguments");
    }
    Reply::Array(
        spec.keys_of(argv)
            .map(|key| Reply::Bulk(key.clone()))
            .collect(),
    )
}

/// Checks only the length of a command line: what the edge does for its own commands.
pub fn check_arity(spec: &'static CommandSpec, words: usize) -> Result<(), Reply> {
    match spec.accepts(words) {
        true => Ok(()),
        false => Err(wrong_arity(spec)),
    }
}
