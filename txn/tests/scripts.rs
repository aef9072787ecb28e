//! Golden scripts: command lines and their replies. The names of the files in `scripts/` are an
//! index of behaviour.
//!
//! A line that starts with `>` is a command (words may stand in double quotes, with `\xNN`, `\n`,
//! `\"` and `\\`); what follows is its reply. `advance_ms N` lets time pass, `shards N` (first line)
//! sets the number of shards, `#` is a comment. `UPDATE_SCRIPTS=1` writes the replies that are given.

mod world;

use std::fmt::Write as _;
use std::path::Path;

use bytes::Bytes;
use synod_txn::{Command, Reply};
use world::World;

fn words(line: &str) -> Vec<Bytes> {
    let mut words = Vec::new();
    let mut chars = line.chars().peekable();
    while let Some(first) = chars.peek().copied() {
        if first == ' ' {
            chars.next();
            continue;
        }
        let mut word = Vec::new();
        let quoted = first == '"';
        if quoted {
            chars.next();
        }
        while let Some(char) = chars.next_if(|char| *char != if quoted { '"' } else { ' ' }) {
            match char {
                '\\' if quoted => match chars.next() {
                    Some('x') => {
                        let hex: String = chars.by_ref().take(2).collect();
                        word.push(u8::from_str_radix(&hex, 16).unwrap());
                    }
                    Some('n') => word.push(b'\n'),
                    Some(other) => word.extend(other.to_string().bytes()),
                    None => panic!("unfinished escape"),
                },
                _ => word.extend(char.to_string().bytes()),
            }
        }
        if quoted {
            chars.next();
        }
        words.push(Bytes::from(word));
    }
    words
}

fn show(reply: &Reply, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    match reply {
        Reply::Ok => writeln!(out, "{pad}OK"),
        Reply::Status(text) => writeln!(out, "{pad}{text}"),
        Reply::Error { code, message } => writeln!(out, "{pad}-{} {message}", code.as_str()),
        Reply::Integer(number) => writeln!(out, "{pad}({number})"),
        Reply::Bulk(bytes) if bytes.len() > 100 => {
            writeln!(
                out,
                "{pad}\"{}…\" {} bytes",
                bytes[..8].escape_ascii(),
                bytes.len()
            )
        }
        Reply::Bulk(bytes) => writeln!(out, "{pad}\"{}\"", bytes.escape_ascii()),
        Reply::Null => writeln!(out, "{pad}nil"),
        Reply::NullArray => writeln!(out, "{pad}nil array"),
        Reply::Array(items) if items.is_empty() => writeln!(out, "{pad}[]"),
        Reply::Array(items) | Reply::Set(items) => {
            writeln!(out, "{pad}[").unwrap();
            items.iter().for_each(|item| show(item, indent + 2, out));
            writeln!(out, "{pad}]")
        }
        Reply::Map(pairs) => {
            writeln!(out, "{pad}{{").unwrap();
            for (key, value) in pairs {
                show(key, indent + 2, out);
                show(value, indent + 4, out);
            }
            writeln!(out, "{pad}}}")
        }
        Reply::Double(number) => writeln!(out, "{pad}{number}"),
        Reply::Boolean(truth) => writeln!(out, "{pad}{truth}"),
        Reply::Verbatim(text) => writeln!(out, "{pad}{}", text.escape_ascii()),
    }
    .unwrap();
}

/// The script with the replies that are really given. `late` makes the store answer late.
fn replay(script: &str, late: Option<u64>) -> String {
    let mut out = String::new();
    let mut world = None;
    let mut shards = 1;
    for line in script.lines() {
        if let Some(count) = line.strip_prefix("shards ") {
            shards = count.parse().unwrap();
            writeln!(out, "{line}").unwrap();
            continue;
        }
        let world = world.get_or_insert_with(|| World::new(2, shards, late));
        if let Some(command) = line.strip_prefix('>') {
            writeln!(out, "{line}").unwrap();
            let argv = words(command);
            let reply = match argv.first() {
                Some(name) if name.eq_ignore_ascii_case(b"COMMAND") => {
                    synod_txn::table::answer_command(&argv)
                }
                _ => match Command::parse(argv) {
                    Ok(command) => world.call(command),
                    Err(reply) => reply,
                },
            };
            show(&reply, 0, &mut out);
        } else if let Some(ms) = line.strip_prefix("advance_ms ") {
            writeln!(out, "{line}").unwrap();
            world.advance(ms.parse().unwrap());
        } else if line.is_empty() || line.starts_with('#') {
            writeln!(out, "{line}").unwrap();
        }
    }
    if let Some(world) = &mut world {
        let (a, b) = (world.nodes[0].state.dump(), world.nodes[1].state.dump());
        assert_eq!(a, b, "replicas that applied the same entries are the same");
    }
    out
}

#[test]
fn scripts_give_the_replies_they_say() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut paths: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 10, "scripts are found");
    let mut failed = Vec::new();
    for path in &paths {
        let expected = std::fs::read_to_string(path).unwrap();
        let given = replay(&expected, None);
        if std::env::var_os("UPDATE_SCRIPTS").is_some() {
            std::fs::write(path, &given).unwrap();
        } else if given != expected {
            failed.push(format!(
                "{}:\n--- expected\n{expected}\n--- given\n{given}",
                path.display()
            ));
        }
        // However late the store answers, the replies are the same.
        for seed in 0..20 {
            assert_eq!(
                replay(&expected, Some(seed)),
                given,
                "{}, late {seed}",
                path.display()
            );
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
