//! `synod status`.

use std::process::ExitCode;

use synod_client::Command;

use super::{Failure, address::Server};
use crate::status::{Report, render};

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
        let mut client = self.server.client();
        let command = Command::read("SYNOD").arg("STATUS");
        let answer = super::runtime()?.block_on(client.call_once(&command));
        let failed = |error| Failure::Client {
            address: client.address().to_owned(),
            error,
        };
        let json = answer
            .and_then(synod_client::Value::into_bytes)
            .map_err(failed)?;
        let json = json.unwrap_or_default();
        if self.json {
            println!("{}", String::from_utf8_lossy(&json));
            return Ok(ExitCode::SUCCESS);
        }
        let report: Report = serde_json::from_slice(&json)
            .map_err(|error| Failure::Failed(format!("the node's report is no JSON: {error}")))?;
        print!("{}", render(&report));
        // For scripts: all is well, or not.
        Ok(if report.all_problems().is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}
