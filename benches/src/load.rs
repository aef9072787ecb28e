//! The load: connections that each send one command, wait for its answer, and send the next.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use synod_client::{Command, Connection, Options};

use crate::etcd::{Etcd, Failure};

/// How a system is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Redis' protocol.
    Resp,
    /// etcd's.
    Etcd,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Write a key.
    Set,
    /// Read a key.
    Get,
}

/// One measurement.
#[derive(Clone, Debug)]
pub struct Load {
    /// The protocol.
    pub protocol: Protocol,
    /// The nodes; connections spread over them.
    pub addresses: Vec<String>,
    /// What is asked.
    pub verb: Verb,
    /// Connections.
    pub connections: usize,
    /// Different keys, uniformly drawn.
    pub keys: u64,
    /// Bytes of a value; random, so that nothing can compress them.
    pub value_bytes: usize,
    /// How long.
    pub duration: Duration,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Figures {
    /// Answered commands a second.
    pub per_s: f64,
    /// Half of the answers came within this, in microseconds.
    pub p50_us: u64,
    /// All but one in a hundred.
    pub p99_us: u64,
    /// The slowest.
    pub max_us: u64,
    /// Commands that failed.
    pub errors: u64,
}

impl Figures {
    /// The figures of commands that took these times, in microseconds.
    pub fn of(mut times: Vec<u32>, elapsed: Duration, errors: u64) -> Figures {
        times.sort_unstable();
        let at = |share: f64| {
            let place = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
            u64::from(times.get(place).copied().unwrap_or(0))
        };
        Figures {
            per_s: times.len() as f64 / elapsed.as_secs_f64(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            max_us: at(1.0),
            errors,
        }
    }
}

enum Client {
    Resp(Box<Connection>),
    Etcd(Etcd),
}

impl Client {
    async fn connect(protocol: Protocol, address: &str) -> Result<Self, Failure> {
        Ok(match protocol {
            Protocol::Resp => Self::Resp(Box::new(
                Connection::open(address, &Options::default()).await?,
            )),
            Protocol::Etcd => Self::Etcd(Etcd::connect(address).await?),
        })
    }

    async fn call(&mut self, verb: Verb, key: &[u8], value: &[u8]) -> Result<(), Failure> {
        match (self, verb) {
            (Self::Resp(connection), Verb::Set) => {
                connection
                    .call(&Command::new("SET").arg(key).arg(value))
                    .await?;
            }
            (Self::Resp(connection), Verb::Get) => {
                connection.call(&Command::read("GET").arg(key)).await?;
            }
            (Self::Etcd(etcd), Verb::Set) => etcd.put(key, value).await?,
            (Self::Etcd(etcd), Verb::Get) => etcd.get(key).await?,
        }
        Ok(())
    }
}

/// The name of key `number`: 16 hexadecimal digits that spread evenly over the key space.
pub fn key(number: u64) -> String {
    // A bijection (splitmix64's finaliser): different numbers never share a key.
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    format!("{:016x}", x ^ (x >> 31))
}

/// Runs the load. Blocks the calling thread, which is the load's own.
pub fn run(load: &Load) -> Result<Figures, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(drive(load))
}

/// Writes every key once, so that reads find something and writes replace something.
pub fn fill(load: &Load) -> Result<(), Failure> {
    once(load, Verb::Set)
}

/// Reads every key once.
pub fn read_all(load: &Load) -> Result<(), Failure> {
    once(load, Verb::Get)
}

fn once(load: &Load, verb: Verb) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let next = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let mut clients = Vec::new();
        for i in 0..load.connections.max(64) {
            let address = load.addresses[i % load.addresses.len()].clone();
            let (load, next) = (load.clone(), next.clone());
            clients.push(tokio::spawn(async move {
                let mut client = Client::connect(load.protocol, &address).await?;
                let mut rng = SmallRng::seed_from_u64(i as u64);
                let mut value = vec![0; load.value_bytes];
                loop {
                    let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if number >= load.keys {
                        return Ok::<(), Failure>(());
                    }
                    if verb == Verb::Set {
                        rng.fill_bytes(&mut value);
                    }
                    client.call(verb, key(number).as_bytes(), &value).await?;
                }
            }));
        }
        for client in clients {
            client.await??;
        }
        Ok(())
    })
}

async fn drive(load: &Load) -> Result<Figures, Failure> {
    let times = Arc::new(Mutex::new((Vec::<u32>::new(), 0u64)));
    let mut clients = Vec::new();
    let mut connected = Vec::new();
    for i in 0..load.connections {
        let address = &load.addresses[i % load.addresses.len()];
        connected.push(Client::connect(load.protocol, address).await?);
    }
    let started = Instant::now();
    let until = started + load.duration;
    for (i, mut client) in connected.into_iter().enumerate() {
        let (load, times) = (load.clone(), times.clone());
        clients.push(tokio::spawn(async move {
            let mut rng = SmallRng::seed_from_u64(1000 + i as u64);
            let mut value = vec![0; load.value_bytes];
            let (mut mine, mut errors) = (Vec::new(), 0);
            while Instant::now() < until {
                let name = key(rng.random_range(0..load.keys));
                if load.verb == Verb::Set {
                    rng.fill_bytes(&mut value);
                }
                let asked = Instant::now();
                match client.call(load.verb, name.as_bytes(), &value).await {
                    Ok(()) => {
                        let us = asked.elapsed().as_micros();
                        mine.push(u32::try_from(us).unwrap_or(u32::MAX));
                    }
                    Err(_) => {
                        errors += 1;
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            }
            let mut all = times.lock().unwrap_or_else(PoisonError::into_inner);
            all.0.append(&mut mine);
            all.1 += errors;
        }));
    }
    for client in clients {
        client.await?;
    }
    let elapsed = started.elapsed();
    let (times, errors) =
        std::mem::take(&mut *times.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Figures::of(times, elapsed, errors))
}
