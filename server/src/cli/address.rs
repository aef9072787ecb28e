//! `--addr`: which server a client command talks to.

use synod_client::{Client, Options};

use crate::config::Address;

/// The flags that every client command has, before its verb, if it has one, or behind it.
#[derive(Clone, Debug, clap::Args)]
pub struct Server {
    /// Nodes to talk to, with commas between them; the first that answers is used
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        env = "SYNOD_ADDR",
        default_value = "127.0.0.1:7601",
        value_delimiter = ',',
        value_parser = parse_address
    )]
    pub addr: Vec<Address>,
    /// The cluster's password
    #[arg(
        long,
        global = true,
        value_name = "TEXT",
        env = "SYNOD_PASSWORD",
        hide_env_values = true
    )]
    pub password: Option<String>,
}

impl Server {
    /// Another node of the same cluster.
    pub fn at(&self, address: Address) -> Server {
        Server {
            addr: vec![address],
            password: self.password.clone(),
        }
    }

    /// A client of it. It connects when it is used.
    pub fn client(&self) -> Client {
        self.client_with(Options::default())
    }

    /// A client of it, with these options.
    pub fn client_with(&self, options: Options) -> Client {
        let options = Options {
            password: self.password.clone(),
            name: "synod-cli".to_owned(),
            ..options
        };
        Client::new(self.addr.iter().map(ToString::to_string), options)
    }
}

fn parse_address(text: &str) -> Result<Address, String> {
    text.parse()
        .map_err(|fault: crate::config::Fault| fault.to_string())
}
