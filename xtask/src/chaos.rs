//! `cargo xtask chaos`: builds the harness with the simulator and starts it.

use crate::workspace;

/// Builds and starts; the arguments go to the harness, which knows them.
pub fn run(arguments: &[String]) -> Result<(), String> {
    let real = arguments.iter().any(|argument| argument == "--real");
    let mut command = if real {
        // Real processes: the program itself, and a harness without the simulator.
        let built = workspace::cargo()
            .args(["build", "--package", "synod"])
            .status()
            .map_err(|error| format!("cannot run cargo: {error}"))?;
        if !built.success() {
            return Err("the program does not build".to_owned());
        }
        let mut command = workspace::cargo();
        command.arg("run");
        command
    } else {
        workspace::simulated_cargo("run")
    };
    let status = command
        .args(["--package", "synod-chaos", "--quiet", "--"])
        .args(arguments)
        .status()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    match status.success() {
        true => Ok(()),
        false => Err("chaos has found something, or could not start".to_owned()),
    }
}
