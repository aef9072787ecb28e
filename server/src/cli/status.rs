//! `synod status`.

use std::process::ExitCode;

use super::{Failure, address::Server, asked, read};
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
        let json = super::runtime()?.block_on(asked(&mut client, "STATUS"))?;
        if self.json {
            println!("{}", String::from_utf8_lossy(&json));
            return Ok(ExitCode::SUCCESS);
        }
        let report: Report = read(&json, "the node's report")?;
        print!("{}", render(&report));
        // For scripts: all is well, or not.
        Ok(if report.all_problems().is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}
