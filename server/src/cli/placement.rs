//! `synod placement`: decides, plans and explains placements from two SQL files, without a cluster.
//!
//! The placement crate reads no file and no clock of its own; this is the edge that gives it both.

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use synod_placement::command;

/// `synod placement`.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Placement {
    /// What to do and on what: `solve|plan|explain|whatif|check --state FILE --policies FILE …`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

impl Placement {
    pub(super) fn run(self) -> ExitCode {
        let start = Instant::now();
        let now_us = || u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut read = |path: &str| std::fs::read_to_string(path);
        let mut edge = command::Edge {
            read: &mut read,
            now_us: &now_us,
        };
        let output = command::run(&self.arguments, &mut edge);
        // A closed pipe is the reader's choice.
        let _ = std::io::stdout().write_all(output.stdout.as_bytes());
        let _ = std::io::stderr().write_all(output.stderr.as_bytes());
        ExitCode::from(output.exit_code)
    }
}
