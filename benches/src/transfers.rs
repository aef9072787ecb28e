//! The load of transactions: what atomicity over keys and shards costs, beside a single `SET`.
//!
//! Each client sends one transaction whole, as a pipeline from `MULTI` to `EXEC`, waits for its answer,
//! and sends the next. A new cluster's shards are cut by letters and digits; accounts that begin with the
//! lower half of these and with the upper one are on different shards as soon as there are two, so a
//! transfer between the halves is a two-shard transaction. Transfers are closed: at the end all accounts
//! together hold what they held at the beginning, which is looked at.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use synod_client::{Command, Connection, Options, Value};

use crate::etcd::Failure;
use crate::load::Figures;

/// What one transaction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One `SET`: what the others are compared with.
    Set,
    /// Three `SET`s of one shard.
    OneShard,
    /// From an account of the lower half to one of the upper.
    Transfer,
}

/// Which accounts are drawn how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// All alike.
    Uniform,
    /// The n-th one in proportion to n⁻⁰·⁹⁹.
    Zipfian,
}

/// One measurement.
#[derive(Clone, Debug)]
pub struct Transfers {
    /// The nodes; connections spread over them.
    pub addresses: Vec<String>,
    /// What each transaction does.
    pub kind: Kind,
    /// How accounts are drawn.
    pub draw: Draw,
    /// Accounts in each half.
    pub accounts: usize,
    /// Connections.
    pub connections: usize,
    /// How long.
    pub duration: Duration,
}

/// Accounts by the shares with which they are drawn.
struct Shares {
    /// The sum of the weights up to each account.
    sums: Vec<f64>,
}

impl Shares {
    fn new(draw: Draw, accounts: usize) -> Shares {
        let mut sum = 0.0;
        let weight = |rank: usize| match draw {
            Draw::Uniform => 1.0,
            Draw::Zipfian => (rank as f64).powf(-0.99),
        };
        let sums = (1..=accounts).map(|rank| {
            sum += weight(rank);
            sum
        });
        Shares {
            sums: sums.collect(),
        }
    }

    fn draw(&self, rng: &mut SmallRng) -> usize {
        let whole = self.sums.last().copied().unwrap_or(0.0);
        let point = rng.random_range(0.0..1.0) * whole;
        let place = self.sums.partition_point(|sum| *sum <= point);
        place.min(self.sums.len().saturating_sub(1))
    }
}

/// What keys begin with, in order.
const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// An account: spread over the letters of its half.
fn account(upper: bool, number: usize) -> Vec<u8> {
    let half = LETTERS.len() / 2;
    let letter = number % half + if upper { half } else { 0 };
    let mut key = vec![LETTERS[letter], b'/'];
    key.extend(format!("account{number}").into_bytes());
    key
}

/// Three keys of one shard: they begin with the same two bytes.
fn siblings(number: usize) -> [Vec<u8>; 3] {
    [0, 1, 2].map(|i| {
        let mut key = account(number % 2 == 1, number);
        key.extend([b'.', b'0' + i]);
        key
    })
}

fn commands(kind: Kind, (from, to): (usize, usize), amount: i64) -> Vec<Command> {
    let set = |key: &[u8]| Command::new("SET").arg(key).arg("0123456789abcdef");
    let by = |key: Vec<u8>, delta: i64| Command::new("INCRBY").arg(key).arg(delta.to_string());
    let mut commands = match kind {
        Kind::Set => return vec![set(&siblings(from)[0])],
        Kind::OneShard => siblings(from).iter().map(|key| set(key)).collect(),
        Kind::Transfer => vec![
            by(account(false, from), -amount),
            by(account(true, to), amount),
        ],
    };
    commands.insert(0, Command::new("MULTI"));
    commands.push(Command::new("EXEC"));
    commands
}

/// Runs the load, and looks at the total. Blocks the calling thread, which is the load's own.
pub fn run(load: &Transfers) -> Result<Figures, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // Other measurements may have moved something in or out: theirs can be more accounts.
        let before = total(load).await?;
        let figures = drive(load).await?;
        let after = total(load).await?;
        match after == before {
            true => Ok(figures),
            false => {
                Err(format!("the accounts held {before} together, and now hold {after}").into())
            }
        }
    })
}

async fn drive(load: &Transfers) -> Result<Figures, Failure> {
    let shares = Arc::new(Shares::new(load.draw, load.accounts));
    let times = Arc::new(Mutex::new((Vec::<u32>::new(), 0u64)));
    let mut connected = Vec::new();
    for i in 0..load.connections {
        let address = &load.addresses[i % load.addresses.len()];
        connected.push(Connection::open(address, &Options::default()).await?);
    }
    let started = Instant::now();
    let until = started + load.duration;
    let mut clients = Vec::new();
    for (i, mut connection) in connected.into_iter().enumerate() {
        let (shares, times, kind) = (shares.clone(), times.clone(), load.kind);
        clients.push(tokio::spawn(async move {
            let mut rng = SmallRng::seed_from_u64(2000 + i as u64);
            let (mut mine, mut lost) = (Vec::new(), 0);
            while Instant::now() < until {
                let ends = (shares.draw(&mut rng), shares.draw(&mut rng));
                let commands = commands(kind, ends, rng.random_range(1..100));
                let asked = Instant::now();
                let replies = connection.pipeline(&commands).await?;
                let last = replies.into_iter().next_back().map(Value::into_result);
                match last {
                    Some(Ok(_)) => {
                        let us = asked.elapsed().as_micros();
                        mine.push(u32::try_from(us).unwrap_or(u32::MAX));
                    }
                    Some(Err(_)) | None => lost += 1,
                }
            }
            let mut all = times.lock().unwrap_or_else(PoisonError::into_inner);
            all.0.append(&mut mine);
            all.1 += lost;
            Ok::<(), Failure>(())
        }));
    }
    for client in clients {
        client.await??;
    }
    let elapsed = started.elapsed();
    let (times, lost) = std::mem::take(&mut *times.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Figures::of(times, elapsed, lost))
}

/// What all accounts hold together.
async fn total(load: &Transfers) -> Result<i64, Failure> {
    let mut connection = Connection::open(&load.addresses[0], &Options::default()).await?;
    let mut total = 0;
    let numbers: Vec<usize> = (0..load.accounts).collect();
    for chunk in numbers.chunks(100) {
        let keys = chunk
            .iter()
            .flat_map(|i| [account(false, *i), account(true, *i)]);
        let mget = Command::read("MGET").args(keys);
        for value in connection
            .call(&mget)
            .await?
            .into_array()?
            .unwrap_or_default()
        {
            if let Some(text) = value.into_bytes()? {
                total += std::str::from_utf8(&text)?.parse::<i64>()?;
            }
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_crosses_the_middle_and_siblings_stay_together() {
        for number in 0..500 {
            assert!(account(false, number)[0] < b'V');
            assert!(account(true, number)[0] >= b'V');
            let [first, second, third] = siblings(number);
            assert!(first[..2] == second[..2] && second[..2] == third[..2]);
            assert!(first != second && second != third);
        }
    }

    #[test]
    fn zipfian_draws_favour_the_first_and_uniform_ones_nobody() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut firsts = |draw| {
            let shares = Shares::new(draw, 1_000);
            (0..10_000).filter(|_| shares.draw(&mut rng) == 0).count()
        };
        assert!((1_000..1_700).contains(&firsts(Draw::Zipfian)));
        assert!(firsts(Draw::Uniform) < 30);
    }
}
