//! `cargo xtask chaos`: builds the harness with the simulator and starts it.

use crate::workspace::{self, SIMULATED_TARGET};

/// Builds and starts; the arguments go to the harness, which knows them.
pub fn run(arguments: &[String]) -> Result<(), String> {
    let mut command = workspace::cargo();
    let real = arguments.iter().any(|argument| argument == "--real");
    if real {
        // Real processes: the program itself, and a harness without the simulator.
        let built = workspace::cargo()
            .args(["build", "--package", "synod"])
            .status()
            .map_err(|error| format!("cannot run cargo: {error}"))?;
        if !built.success() {
            return Err("the program does not build".to_owned());
        }
    } else {
        command.env("RUSTFLAGS", workspace::simulated_flags());
    }
    command.args(["run", "--package", "synod-chaos", "--quiet"]);
    if !real {
        command.args(["--target-dir", SIMULATED_TARGET]);
    }
    let status = command
        .arg("--")
        .args(arguments)
        .status()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    match status.success() {
        true => Ok(()),
        false => Err("chaos has found something, or could not start".to_owned()),
    }
}
