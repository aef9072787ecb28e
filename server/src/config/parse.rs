//! The types of settings' values, each read from text with an error in words.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
};

use super::{Placement, Reads};

/// What is wrong with a value, in words that complete "name: ".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(String);

impl Fault {
    /// A fault in these words.
    pub fn new(reason: impl Into<String>) -> Self {
        Fault(reason.into())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Infallible> for Fault {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// A host, by name or number, and a port. Names are resolved when the address is dialled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// A name, an IPv4 address, or an IPv6 address without its brackets.
    pub host: String,
    /// Never 0.
    pub port: u16,
}

impl FromStr for Address {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        let fault = || Fault::new(format!("{text:?} is not an address HOST:PORT"));
        let (host, port) = text.trim().rsplit_once(':').ok_or_else(fault)?;
        let port: u16 = port.parse().map_err(|_| fault())?;
        let bracketed = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = match bracketed {
            Some(host) => host,
            None if host.contains(':') => return Err(fault()),
            None => host,
        };
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:%".contains(&byte);
        if host.is_empty() || port == 0 || !host.bytes().all(is_host) {
            return Err(fault());
        }
        Ok(Address {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// An address of this machine to listen at: numeric, or `localhost`. Port 0 lets the system choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listen(pub SocketAddr);

impl FromStr for Listen {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        let fault = || Fault::new(format!("{text:?} is not an address IP:PORT"));
        if let Some(port) = text.strip_prefix("localhost:") {
            let port = port.parse().map_err(|_| fault())?;
            return Ok(Listen(SocketAddr::new(
                IpAddr::V4(Ipv4Addr::LOCALHOST),
                port,
            )));
        }
        text.parse().map(Listen).map_err(|_| fault())
    }
}

/// A whole number from `MIN` to `MAX`.
pub(super) struct Bounded<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Bounded<MIN, MAX> {
    pub fn get(&self) -> u32 {
        self.0
    }
}

impl<const MIN: u32, const MAX: u32> FromStr for Bounded<MIN, MAX> {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        match text.parse() {
            Ok(number) if (MIN..=MAX).contains(&number) => Ok(Bounded(number)),
            _ => Err(Fault::new(format!(
                "{text:?} is not a whole number from {MIN} to {MAX}"
            ))),
        }
    }
}

/// A number of replicas: odd, because an even one adds cost and tolerates no more failures.
pub(super) struct Replicas(pub u32);

impl FromStr for Replicas {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        match text.parse() {
            Ok(number @ (1 | 3 | 5 | 7)) => Ok(Replicas(number)),
            _ => Err(Fault::new(format!("{text:?} is not 1, 3, 5 or 7"))),
        }
    }
}

/// A setting that is one of two words.
pub(super) trait Choice: Copy + 'static {
    /// The values.
    const ALL: [Self; 2];

    /// How one is written.
    fn word(self) -> &'static str;

    /// Reads one.
    fn choose(text: &str) -> Result<Self, Fault> {
        let found = Self::ALL.into_iter().find(|value| value.word() == text);
        let [one, other] = Self::ALL.map(Self::word);
        found.ok_or_else(|| Fault::new(format!("{text:?} is neither {one:?} nor {other:?}")))
    }
}

impl Choice for Reads {
    const ALL: [Self; 2] = [Reads::Lease, Reads::Quorum];

    fn word(self) -> &'static str {
        match self {
            Reads::Lease => "lease",
            Reads::Quorum => "quorum",
        }
    }
}

impl Choice for Placement {
    const ALL: [Self; 2] = [Placement::Auto, Placement::Manual];

    fn word(self) -> &'static str {
        match self {
            Placement::Auto => "auto",
            Placement::Manual => "manual",
        }
    }
}

impl FromStr for Reads {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        Self::choose(text)
    }
}

impl FromStr for Placement {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        Self::choose(text)
    }
}

/// Values with commas between them.
pub(super) struct List<T>(pub Vec<T>);

impl<T: FromStr<Err = Fault>> FromStr for List<T> {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        items(text)
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map(List)
    }
}

/// Pairs `k=v` with commas between them.
pub(super) struct Labels(pub BTreeMap<String, String>);

impl FromStr for Labels {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        let mut labels = BTreeMap::new();
        for item in items(text) {
            let fault = || Fault::new(format!("{item:?} is not a label K=V"));
            let (key, value) = item.split_once('=').ok_or_else(fault)?;
            let is_key = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            if key.is_empty() || value.is_empty() || !key.bytes().all(is_key) {
                return Err(fault());
            }
            if labels.insert(key.to_owned(), value.to_owned()).is_some() {
                return Err(Fault::new(format!("label {key:?} is given twice")));
            }
        }
        Ok(Labels(labels))
    }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}
