//! From a command line to a [`Command`], with Redis' wording for what is wrong.

use std::fmt::Write as _;

use bytes::Bytes;

use super::args::{Args, is_option, not_a_float, not_an_integer, syntax_error, wrong_arity};
use super::table::{self, Parser};
use super::*;
use crate::number;

/// `SCAN` looks at so many keys unless told otherwise.
const SCAN_COUNT_DEFAULT: u32 = 10;

/// The most that `COUNT` may ask for.
const SCAN_COUNT_MAX: u32 = 10_000;

/// The longest token, in bytes.
const TOKEN_BYTES_MAX: usize = 256;

/// Parses a command line: `argv[0]` is the name. An error is ready to be sent to the client.
pub fn parse_argv(argv: &[Bytes]) -> Result<Command, Reply> {
    let Some((name, rest)) = argv.split_first() else {
        return Err(Reply::err("empty command"));
    };
    let spec = table::lookup(name).ok_or_else(|| unknown_command(name, rest))?;
    if !spec.accepts(argv.len()) {
        return Err(wrong_arity(spec));
    }
    super::limits::check_command(argv)?;
    let mut args = Args::new(spec, rest);
    match spec.parser {
        Parser::Edge => Err(Reply::err(format!("'{}' is not a data command", spec.name))),
        Parser::Command(parse) => parse(&mut args),
    }
}

/// Redis' answer to a command that it does not know.
fn unknown_command(name: &[u8], args: &[Bytes]) -> Reply {
    const SHOWN_BYTES_MAX: usize = 128;
    let shown = |text: &[u8]| {
        String::from_utf8_lossy(&text[..text.len().min(SHOWN_BYTES_MAX)]).into_owned()
    };
    let mut message = format!(
        "unknown command '{}', with args beginning with: ",
        shown(name)
    );
    let mut left = SHOWN_BYTES_MAX;
    for arg in args {
        if left == 0 {
            break;
        }
        let text = shown(&arg[..arg.len().min(left)]);
        left -= arg.len().min(left);
        let _ = write!(message, "'{text}' ");
    }
    Reply::err(message)
}

pub(super) fn get(args: &mut Args) -> Result<Command, Reply> {
    Ok(Command::Get { key: args.key()? })
}

pub(super) fn set(args: &mut Args) -> Result<Command, Reply> {
    let (key, value) = (args.key()?, args.value()?);
    let mut condition = None;
    let mut expiry = None;
    let mut answer = SetAnswer::Status;
    while let Some(option) = args.next() {
        if is_option(option, "NX") {
            once(&mut condition, SetCondition::IfAbsent)?;
        } else if is_option(option, "XX") {
            once(&mut condition, SetCondition::IfPresent)?;
        } else if is_option(option, "GET") {
            answer = SetAnswer::Previous;
        } else if is_option(option, "KEEPTTL") {
            once(&mut expiry, SetExpiry::Keep)?;
        } else if let Some(form) = DeadlineForm::of_option(option) {
            // The option is a syntax error before its number is a bad number, as in Redis.
            if expiry.is_some() {
                return Err(syntax_error());
            }
            let amount = args.option_integer()?;
            expiry = Some(SetExpiry::Until(form.positive(amount, args)?));
        } else {
            return Err(syntax_error());
        }
    }
    Ok(Command::Set(Set {
        key,
        value,
        condition: condition.unwrap_or(SetCondition::Always),
        expiry: expiry.unwrap_or(SetExpiry::Clear),
        answer,
    }))
}

/// Fills `slot`, or complains that it was filled before: the options exclude each other.
fn once<T: PartialEq>(slot: &mut Option<T>, value: T) -> Result<(), Reply> {
    match slot {
        Some(present) if *present != value => Err(syntax_error()),
        Some(_) | None => {
            *slot = Some(value);
            Ok(())
        }
    }
}

pub(super) fn setnx(args: &mut Args) -> Result<Command, Reply> {
    Ok(Command::Set(Set {
        key: args.key()?,
        value: args.value()?,
        condition: SetCondition::IfAbsent,
        expiry: SetExpiry::Clear,
        answer: SetAnswer::Integer,
    }))
}

pub(super) fn setex(args: &mut Args) -> Result<Command, Reply> {
    set_with_deadline(args, DeadlineForm::InSeconds)
}

pub(super) fn psetex(args: &mut Args) -> Result<Command, Reply> {
    set_with_deadline(args, DeadlineForm::InMs)
}

fn set_with_deadline(args: &mut Args, form: DeadlineForm) -> Result<Command, Reply> {
    let key = args.key()?;
    let amount = args.integer()?;
    let deadline = form.positive(amount, args)?;
    Ok(Command::Set(Set {
        key,
        value: args.value()?,
        condition: SetCondition::Always,
        expiry: SetExpiry::Until(deadline),
        answer: SetAnswer::Status,
    }))
}

pub(super) fn getset(args: &mut Args) -> Result<Command, Reply> {
    Ok(Command::Set(Set {
        key: args.key()?,
        value: args.value()?,
        condition: SetCondition::Always,
        expiry: SetExpiry::Clear,
        answer: SetAnswer::Previous,
    }))
}

pub(super) fn getdel(args: &mut Args) -> Result<Command, Reply> {
    Ok(Command::GetDel { key: args.key()? })
}

pub(super) fn getex(args: &mut Args) -> Result<Command, Reply> {
    let key = args.key()?;
    let mut expiry = None;
    while let Some(option) = args.next() {
        if expiry.is_some() {
            return Err(syntax_error());
        }
        expiry = Some(if is_option(option, "PERSIST") {
            GetExExpiry::Clear
        } else if let Some(form) = DeadlineForm::of_option(option) {
            let amount = args.option_integer()?;
            GetExExpiry::Until(form.positive(amount, args)?)
        } else {
            return Err(syntax_error());
        });
    }
    Ok(Command::GetEx {
        key,
        expiry: expiry.unwrap_or(GetExExpiry::Keep),
    })
}

pub(super) fn mget(args: &mut Args) -> Result<Command, Reply> {
    Ok(Command::MGet { keys: args.keys()? })
}

pub(super) fn mset(args: &mut Args) -> Result<Command, Reply> {
    Ok(Command::MSet {
        pairs: args.pairs()?,
    })
}

pub(super) fn msetnx(args: &mut Args) -> Result<Command, Reply> {
    Ok(Command::MSetNx {
        pairs: args.pairs()?,
    })
}

pub(super) fn incr(args: &mut Args) -> Result<Command, Reply> {
    Ok(Command::IncrBy {
        key: args.key()?,
        delta: 1,
    })
}

pub(super) fn decr(args: &mut Args) -> Result<Command, Reply> {
    Ok(Command::IncrBy {
        key: args.key()?,
        delta: -1,
    })
}

pub(super) fn incrby(args: &mut Args) -> Result<Command, Reply> {
    Ok(Command::IncrBy {
        key: args.key()?,
        delta: args.integer()?,
    })
}

pub(super) fn decrby(args: &mut Args) -> Result<Command, Reply> {
    let key = args.key()?;
    let delta = args
        .integer()?
        .checked_neg()
        .ok_or_else(|| Reply::err("decrement would overflow"))?;
    Ok(Command::IncrBy { key, delta })
}

pub(super) fn incrbyfloat(args: &mut Args) -> Result<Command, Reply> {
    let key = args.key()?;
    let delta = number::parse_f64(&args.bytes()?).ok_or_else(not_a_float)?;
    Ok(Command::IncrByFloat { key, delta })
}

pub(super) fn append(args: &mut Args) -> Result<Command, Reply> {
    Ok(Command::Append {
        key: args.key()?,
        value: args.value()?,
    })
}

pub(super) fn strlen(args: &mut Args) -> Result<Command, Reply> {
    Ok(Command::StrLen { key: args.key()? })
}

pub(super) fn getrange(args: &mut Args) -> Result<Command, Reply> {
    Ok(Command::GetRange {
        key: args.key()?,
        start: args.integer()?,
        end: args.integer()?,
    })
}

pub(super) fn setrange(args: &mut Args) -> Result<Command, Reply> {
    let key = args.key()?;
    let offset = args.integer()?;
    let value = args.value()?;
    if offset < 0 {
        return Err(Reply::err("offset is out of range"));
    }
    // Writing nothing never grows the string, wherever it is; so any offset is as good as the end.
    let offset = match value.is_empty() {
        true => 0,
        false => u32::try_from(offset).unwrap_or(u32::MAX),
    };
    if offset as usize + value.len() > VALUE_BYTES_MAX {
        return Err(Reply::err(
            "string exceeds maximum allowed size (1048576 bytes)",
        ));
    }
    Ok(Command::SetRange { key, offset, value })
}

pub(super) fn del(args: &mut Args) -> Result<Command, Reply> {
    Ok(Command::Del { keys: args.keys()? })
}

pub(super) fn exists(args: &mut Args) -> Result<Command, Reply> {
    Ok(Command::Exists { keys: args.keys()? })
}

pub(super) fn touch(args: &mut Args) -> Result<Command, Reply> {
    Ok(Command::Touch { keys: args.keys()? })
}

pub(super) fn expire(args: &mut Args) -> Result<Command, Reply> {
    expire_family(args, DeadlineForm::InSeconds)
}

pub(super) fn pexpire(args: &mut Args) -> Result<Command, Reply> {
    expire_family(args, DeadlineForm::InMs)
}

pub(super) fn expireat(args: &mut Args) -> Result<Command, Reply> {
    expire_family(args, DeadlineForm::AtSeconds)
}

pub(super) fn pexpireat(args: &mut Args) -> Result<Command, Reply> {
    expire_family(args, DeadlineForm::AtMs)
}

fn expire_family(args: &mut Args, form: DeadlineForm) -> Result<Command, Reply> {
    let key = args.key()?;
    let amount = args.integer()?;
    let (mut nx, mut xx, mut gt, mut lt) = (false, false, false, false);
    while let Some(option) = args.next() {
        if is_option(option, "NX") {
            nx = true;
        } else if is_option(option, "XX") {
            xx = true;
        } else if is_option(option, "GT") {
            gt = true;
        } else if is_option(option, "LT") {
            lt = true;
        } else {
            let option = String::from_utf8_lossy(option);
            return Err(Reply::err(format!("Unsupported option {option}")));
        }
    }
    if nx && (xx || gt || lt) {
        return Err(Reply::err(
            "NX and XX, GT or LT options at the same time are not compatible",
        ));
    }
    if gt && lt {
        return Err(Reply::err(
            "GT and LT options at the same time are not compatible",
        ));
    }
    let condition = match (nx, xx, gt, lt) {
        (true, ..) => ExpireCondition::IfNone,
        (_, true, true, _) => ExpireCondition::IfSomeAndLater,
        (_, true, _, true) => ExpireCondition::IfSomeAndEarlier,
        (_, true, ..) => ExpireCondition::IfSome,
        (_, _, true, _) => ExpireCondition::IfLater,
        (_, _, _, true) => ExpireCondition::IfEarlier,
        (false, false, false, false) => ExpireCondition::Always,
    };
    let deadline = form.any(amount, args)?;
    Ok(Command::Expire {
        key,
        deadline,
        condition,
    })
}

pub(super) fn persist(args: &mut Args) -> Result<Command, Reply> {
    Ok(Command::Persist { key: args.key()? })
}

pub(super) fn ttl(args: &mut Args) -> Result<Command, Reply> {
    Ok(Command::Ttl {
        key: args.key()?,
        form: TtlForm::Left,
        unit: TimeUnit::Seconds,
    })
}

pub(super) fn pttl(args: &mut Args) -> Result<Command, Reply> {
    Ok(Command::Ttl {
        key: args.key()?,
        form: TtlForm::Left,
        unit: TimeUnit::Milliseconds,
    })
}

pub(super) fn expiretime(args: &mut Args) -> Result<Command, Reply> {
    Ok(Command::Ttl {
        key: args.key()?,
        form: TtlForm::At,
        unit: TimeUnit::Seconds,
    })
}

pub(super) fn pexpiretime(args: &mut Args) -> Result<Command, Reply> {
    Ok(Command::Ttl {
        key: args.key()?,
        form: TtlForm::At,
        unit: TimeUnit::Milliseconds,
    })
}

pub(super) fn kind(args: &mut Args) -> Result<Command, Reply> {
    Ok(Command::Type { key: args.key()? })
}

pub(super) fn scan(args: &mut Args) -> Result<Command, Reply> {
    let cursor = number::parse_u64(&args.bytes()?).ok_or_else(|| Reply::err("invalid cursor"))?;
    let mut scan = Scan {
        cursor,
        pattern: None,
        count: SCAN_COUNT_DEFAULT,
        kind: KindFilter::All,
    };
    while let Some(option) = args.next() {
        if is_option(option, "MATCH") {
            let pattern = args.next().ok_or_else(syntax_error)?;
            scan.pattern = Some(pattern.clone());
        } else if is_option(option, "COUNT") {
            let count = args.option_integer()?;
            if count < 1 {
                return Err(syntax_error());
            }
            scan.count = u32::try_from(count).unwrap_or(u32::MAX).min(SCAN_COUNT_MAX);
        } else if is_option(option, "TYPE") {
            let kind = args.next().ok_or_else(syntax_error)?;
            scan.kind = match is_option(kind, "string") {
                true => KindFilter::All,
                false => KindFilter::Nothing,
            };
        } else {
            return Err(syntax_error());
        }
    }
    Ok(Command::Scan(scan))
}

pub(super) fn dbsize(_: &mut Args) -> Result<Command, Reply> {
    Ok(Command::DbSize)
}

pub(super) fn keys(args: &mut Args) -> Result<Command, Reply> {
    Ok(Command::Keys {
        pattern: args.bytes()?,
    })
}

pub(super) fn range(args: &mut Args) -> Result<Command, Reply> {
    let (start, end) = (args.bound()?, args.bound()?);
    let mut range = Range {
        start,
        end: (!end.is_empty()).then_some(end),
        limit: None,
        order: Order::Forward,
    };
    while let Some(option) = args.next() {
        if is_option(option, "LIMIT") {
            let limit = args.option_integer()?;
            range.limit = Some(u64::try_from(limit).map_err(|_| not_an_integer())?);
        } else if is_option(option, "REVERSE") {
            range.order = Order::Reverse;
        } else {
            return Err(syntax_error());
        }
    }
    Ok(Command::Range(range))
}

pub(super) fn flushall(args: &mut Args) -> Result<Command, Reply> {
    while let Some(option) = args.next() {
        if !is_option(option, "SYNC") && !is_option(option, "ASYNC") {
            return Err(syntax_error());
        }
    }
    Ok(Command::FlushAll)
}

pub(super) fn multi(_: &mut Args) -> Result<Command, Reply> {
    Ok(Command::Transaction(TransactionCommand::Multi))
}

pub(super) fn exec(_: &mut Args) -> Result<Command, Reply> {
    Ok(Command::Transaction(TransactionCommand::Exec))
}

pub(super) fn discard(_: &mut Args) -> Result<Command, Reply> {
    Ok(Command::Transaction(TransactionCommand::Discard))
}

pub(super) fn watch(args: &mut Args) -> Result<Command, Reply> {
    Ok(Command::Transaction(TransactionCommand::Watch {
        keys: args.keys()?,
    }))
}

pub(super) fn unwatch(_: &mut Args) -> Result<Command, Reply> {
    Ok(Command::Transaction(TransactionCommand::Unwatch))
}

pub(super) fn begin(args: &mut Args) -> Result<Command, Reply> {
    let mut begin = Begin {
        access: Access::ReadWrite,
        reads: ReadMode::Latest,
        token: None,
    };
    let mut option = args.next();
    while let Some(word) = option {
        option = args.next();
        if is_option(word, "READONLY") {
            begin.access = Access::ReadOnly;
        } else if is_option(word, "SNAPSHOT") {
            begin.access = Access::ReadOnly;
            begin.reads = ReadMode::Snapshot;
            if option.is_some_and(|word| is_option(word, "AT")) {
                let version = args.next().ok_or_else(syntax_error)?;
                let version = number::parse_u64(version).ok_or_else(not_an_integer)?;
                begin.reads = ReadMode::SnapshotAt(version);
                option = args.next();
            }
        } else if is_option(word, "TOKEN") {
            begin.token = Some(token(option)?);
            option = args.next();
        } else {
            return Err(syntax_error());
        }
    }
    Ok(Command::Transaction(TransactionCommand::Begin(begin)))
}

fn token(token: Option<&Bytes>) -> Result<Bytes, Reply> {
    let token = token.ok_or_else(syntax_error)?;
    match token.len() {
        1..=TOKEN_BYTES_MAX if crate::token::issued_at(token).is_some() => Ok(token.clone()),
        _ => Err(Reply::err(
            "not a token: TXN TOKEN issues one, to which up to 200 bytes may be appended",
        )),
    }
}

pub(super) fn commit(_: &mut Args) -> Result<Command, Reply> {
    Ok(Command::Transaction(TransactionCommand::Commit))
}

pub(super) fn rollback(_: &mut Args) -> Result<Command, Reply> {
    Ok(Command::Transaction(TransactionCommand::Rollback))
}

pub(super) fn txn(args: &mut Args) -> Result<Command, Reply> {
    let subcommand = args.bytes()?;
    if is_option(&subcommand, "TOKEN") && args.len() == 0 {
        return Ok(Command::Transaction(TransactionCommand::Token));
    }
    if !is_option(&subcommand, "STATUS") || args.len() != 1 {
        return Err(syntax_error());
    }
    let token = token(args.next())?;
    Ok(Command::Transaction(TransactionCommand::Status { token }))
}

pub(super) fn synod(args: &mut Args) -> Result<Command, Reply> {
    let mut words = Vec::with_capacity(args.len());
    while let Some(word) = args.next() {
        words.push(word.clone());
    }
    Ok(Command::Synod { args: words })
}

/// The four ways to name a deadline.
#[derive(Clone, Copy)]
enum DeadlineForm {
    InSeconds,
    InMs,
    AtSeconds,
    AtMs,
}

impl DeadlineForm {
    fn of_option(option: &[u8]) -> Option<DeadlineForm> {
        if is_option(option, "EX") {
            Some(DeadlineForm::InSeconds)
        } else if is_option(option, "PX") {
            Some(DeadlineForm::InMs)
        } else if is_option(option, "EXAT") {
            Some(DeadlineForm::AtSeconds)
        } else if is_option(option, "PXAT") {
            Some(DeadlineForm::AtMs)
        } else {
            None
        }
    }

    /// A deadline that must be positive, as `SET` and `GETEX` demand.
    fn positive(self, amount: i64, args: &Args) -> Result<Deadline, Reply> {
        match amount > 0 {
            true => self.any(amount, args),
            false => Err(invalid_expire(args)),
        }
    }

    /// Any deadline, as `EXPIRE` takes it; one in the past deletes the key. Far ones are refused,
    /// so that adding the present time cannot overflow.
    fn any(self, amount: i64, args: &Args) -> Result<Deadline, Reply> {
        const FAR_MS: i64 = i64::MAX / 4;
        let in_ms = match self {
            DeadlineForm::InSeconds | DeadlineForm::AtSeconds => amount.checked_mul(1000),
            DeadlineForm::InMs | DeadlineForm::AtMs => Some(amount),
        };
        let amount_ms = in_ms
            .filter(|ms| (-FAR_MS..=FAR_MS).contains(ms))
            .ok_or_else(|| invalid_expire(args))?;
        Ok(match self {
            DeadlineForm::InSeconds | DeadlineForm::InMs => Deadline::InMs(amount_ms),
            DeadlineForm::AtSeconds | DeadlineForm::AtMs => Deadline::AtMs(amount_ms),
        })
    }
}

fn invalid_expire(args: &Args) -> Reply {
    Reply::err(format!(
        "invalid expire time in '{}' command",
        args.spec.name
    ))
}
