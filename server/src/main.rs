//! The `synod` program. All of it is in the library.

#[cfg(not(madsim))]
fn main() -> std::process::ExitCode {
    synod::cli::run(std::env::args_os())
}

/// In the simulator nodes are started by worlds, not as processes.
#[cfg(madsim)]
fn main() {}
