//! `synod status`.

use std::process::ExitCode;
use std::time::Duration;

use synod_client::Options;

use super::{Failure, address::Server, controller_of, report};
use crate::status::{Report, render};

/// How long the controller's node is waited for.
const CONTROLLER_PATIENCE: Duration = Duration::from_secs(2);

/// `synod status`.
#[derive(Debug, clap::Args)]
pub struct Status {
    #[command(flatten)]
    server: Server,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let report = super::runtime()?.block_on(self.report())?;
        if self.json {
            let json = serde_json::to_string(&report)
                .map_err(|error| Failure::Failed(format!("cannot describe it: {error}")))?;
            println!("{json}");
            return Ok(ExitCode::SUCCESS);
        }
        print!("{}", render(&report));
        // For scripts: all is well, or not.
        Ok(if report.all_problems().is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    /// The report of the node that is asked, with what only the controller's knows, if that answers.
    async fn report(&self) -> Result<Report, Failure> {
        let mut report = report(&mut self.server.client()).await?;
        let controls = report.controller.as_ref();
        if controls.is_some_and(|id| *id != report.node.id)
            && let Ok(address) = controller_of(&report)
        {
            let mut client = self.server.at(address).client_with(Options {
                call_timeout: CONTROLLER_PATIENCE,
                retry_for: Duration::ZERO,
                ..Options::default()
            });
            match super::report(&mut client).await {
                Ok(there) => report.add_placement(there),
                Err(error) => report
                    .problems
                    .push(format!("what is moving is not known: {error}")),
            }
        }
        Ok(report)
    }
}
