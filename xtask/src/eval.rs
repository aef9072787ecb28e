//! `cargo xtask eval`: builds the store and the benchmark with optimisation, and runs the benchmark.

use crate::workspace;

/// Runs the task.
pub fn run(arguments: &[String]) -> Result<(), String> {
    step(
        &[
            "build",
            "--release",
            "--package",
            "synod",
            "--package",
            "synod-benches",
        ],
        &[],
    )?;
    step(
        &[
            "run",
            "--release",
            "--quiet",
            "--package",
            "synod-benches",
            "--",
        ],
        arguments,
    )
}

/// Runs the report of the placement solvers.
pub fn placement(arguments: &[String]) -> Result<(), String> {
    let bench = [
        "bench",
        "--quiet",
        "--package",
        "synod-placement",
        "--bench",
        "report",
        "--",
    ];
    step(&bench, arguments)
}

fn step(command: &[&str], arguments: &[String]) -> Result<(), String> {
    let status = workspace::cargo()
        .args(command)
        .args(arguments)
        .status()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("cargo {} failed", command[0]))
    }
}
