//! The command `placement` by itself: decides placements from two SQL files.

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use synod_placement::command;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let start = Instant::now();
    let now_us = || u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    let mut read = |path: &str| std::fs::read_to_string(path);
    let mut edge = command::Edge {
        read: &mut read,
        now_us: &now_us,
    };
    let output = command::run(&args, &mut edge);
    // A closed pipe is the reader's choice.
    let _ = std::io::stdout().write_all(output.stdout.as_bytes());
    let _ = std::io::stderr().write_all(output.stderr.as_bytes());
    ExitCode::from(output.exit_code)
}
