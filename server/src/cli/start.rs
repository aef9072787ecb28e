//! `synod start`: one node, until it is told to stop.

use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

use super::{Failure, SettingFlags};
use crate::{edge::Shutdown, logging};

/// `synod start`.
#[derive(Debug, clap::Args)]
pub struct Start {
    /// Stop when the process that started this one ends
    #[arg(long, hide = true)]
    die_with_parent: bool,
    #[command(flatten)]
    settings: SettingFlags,
}

impl Start {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        if self.die_with_parent {
            die_with_parent()?;
        }
        let settings = self.settings.settings()?;
        logging::start(
            &settings.process.log,
            settings.process.peer_advertise.to_string(),
        )
        .map_err(|error| Failure::Usage(format!("log: {error}")))?;
        super::runtime()?.block_on(async {
            let shutdown = Shutdown::default();
            let signals = Signals::listen()?;
            tokio::spawn(signals.stop(shutdown.clone()));
            crate::node::run(settings, shutdown)
                .await
                .map_err(|error| Failure::Failed(error.to_string()))?;
            Ok(ExitCode::SUCCESS)
        })
    }
}

/// The signals that stop a node.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Failure::Failed(format!("cannot listen to signals: {error}")))
        };
        Ok(Signals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// The first signal stops the node cleanly; the second ends the process.
    async fn stop(mut self, shutdown: Shutdown) {
        self.next().await;
        info!("stopping; a second signal ends the process at once");
        shutdown.start();
        self.next().await;
        std::process::exit(130);
    }

    async fn next(&mut self) {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Asks the kernel for SIGTERM when the parent ends, so that a killed supervisor leaves no nodes.
fn die_with_parent() -> Result<(), Failure> {
    use rustix::process::{Signal, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|error| Failure::Failed(format!("cannot watch the parent process: {error}")))
}
