//! `synod-chaos`: breaks the cluster, in the simulator or for real, and says what broke.
//! `cargo xtask chaos` builds and starts it.

mod cli;
#[cfg(not(madsim))]
mod processes;
#[cfg(madsim)]
mod simulate;

use std::process::ExitCode;

/// What `RUST_LOG` asks for of the simulated nodes goes to stderr: nothing, by default.
#[cfg(madsim)]
fn log() {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::OFF.into())
        .from_env_lossy();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr);
    log.init();
}

fn main() -> ExitCode {
    #[cfg(madsim)]
    log();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = cli::parse(&arguments).and_then(|request| match request {
        cli::Request::Help => {
            print!("{}", cli::usage());
            Ok(())
        }
        #[cfg(madsim)]
        cli::Request::Simulate(request) if request.real => {
            Err("--real needs a build without the simulator: cargo xtask chaos --real".to_owned())
        }
        #[cfg(madsim)]
        cli::Request::Simulate(request) => simulate::run(&request),
        #[cfg(not(madsim))]
        cli::Request::Simulate(request) if request.real => processes::run(&request),
        #[cfg(not(madsim))]
        cli::Request::Simulate(request) => Err(format!(
            "this build has no simulator: start it by cargo xtask chaos{}",
            request.choice
        )),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("chaos: {reason}");
            ExitCode::FAILURE
        }
    }
}
