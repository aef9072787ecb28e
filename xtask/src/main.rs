//! The project's own tasks: `cargo xtask test`, `tidy`, `chaos`, `eval`, `placement`.
//!
//! They are a program and not a script so that they run the same for everyone who has cargo, and
//! need nothing else.

mod chaos;
mod eval;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

const USAGE: &str = "\
Tasks of this project

  cargo xtask test [STEP…]   format, clippy, tidy, unit, simulated: all, or the steps named
  cargo xtask tidy [--bless] checks of the source that no compiler does; --bless: lowers the ratchet
  cargo xtask chaos [ARG…]   breaks a simulated cluster and judges it; --help lists what it can do
  cargo xtask eval [ARG…]    the benchmark report (arguments go to the benchmark)
  cargo xtask placement [FILTER] the report of the placement solvers, beside OR-tools, flow and greedy
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (task, rest) = match arguments.split_first() {
        Some((task, rest)) => (task.as_str(), rest),
        None => ("", &[][..]),
    };
    let result = match task {
        "test" => test::run(rest),
        "tidy" => tidy::run(rest),
        "chaos" => chaos::run(rest),
        "eval" => eval::run(rest),
        "placement" => eval::placement(rest),
        "" | "help" | "--help" | "-h" => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        other => Err(format!("there is no task {other}\n\n{USAGE}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("xtask: {reason}");
            ExitCode::FAILURE
        }
    }
}
