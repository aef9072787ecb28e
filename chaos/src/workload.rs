//! Clients that record what they ask and what they are told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use synod_client::{Client, Command, Error, Options, Outcome as ClientOutcome};

use crate::history::{Call, Operation, Outcome};
use crate::world::world_us;

/// The history of a world, filled by its clients.
pub type Recorder = Arc<Mutex<Vec<Operation>>>;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads and unique writes, to be checked as registers.
    Register,
    /// Reads and unique appends.
    Append,
}

/// Runs one client until the world's time is `until_us`.
pub async fn run(
    kind: Kind,
    client: u32,
    seed: u64,
    addresses: Vec<String>,
    keys: Vec<String>,
    until_us: u64,
    recorder: Recorder,
) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut connection = connect(addresses, client);
    let mut next = 0u32;
    while world_us() < until_us {
        let key = keys[rng.random_range(0..keys.len())].clone();
        let reads = rng.random_bool(0.5);
        let value = format!("{client}.{next}");
        let (call, value, command) = match (kind, reads) {
            (_, true) => (Call::Read, None, Command::read("GET").arg(&key)),
            (Kind::Register, false) => {
                (Call::Write, Some(value.clone()), Command::new("SET").arg(&key).arg(&value))
            }
            (Kind::Append, false) => {
                let token = format!("{value},");
                (Call::Append, Some(token.clone()), Command::new("APPEND").arg(&key).arg(token))
            }
        };
        next += 1;
        let start_us = world_us();
        let answer = connection.call_once(&command).await;
        let end_us = world_us();
        let (value, outcome) = match answer {
            Ok(answer) if call == Call::Read => match answer.into_bytes() {
                Ok(bytes) => {
                    (bytes.map(|b| String::from_utf8_lossy(&b).into_owned()), Outcome::Ok)
                }
                Err(_) => (None, Outcome::Failed),
            },
            Ok(_) => (value, Outcome::Ok),
            Err(error) => (value, outcome_of(&error)),
        };
        let operation = Operation {
            client,
            call,
            key,
            value,
            start_us,
            end_us: (outcome != Outcome::Unknown).then_some(end_us),
            outcome,
        };
        let failed = operation.outcome != Outcome::Ok;
        recorder.lock().unwrap_or_else(PoisonError::into_inner).push(operation);
        let pause_us = if failed { 50_000 } else { rng.random_range(0..20_000) };
        tokio::time::sleep(Duration::from_micros(pause_us)).await;
    }
}

/// Reads every key until it answers: what is there at the end. None: a key did not answer in time,
/// which no healed world excuses.
pub async fn read_end(
    addresses: Vec<String>,
    keys: Vec<String>,
    patience: Duration,
) -> Result<BTreeMap<String, String>, String> {
    let mut end = BTreeMap::new();
    let mut client = connect(addresses, u32::MAX);
    let give_up_us = world_us() + u64::try_from(patience.as_micros()).unwrap_or(u64::MAX);
    for key in &keys {
        loop {
            match client.get(key).await {
                Ok(Some(bytes)) => {
                    end.insert(key.clone(), String::from_utf8_lossy(&bytes).into_owned());
                    break;
                }
                Ok(None) => break,
                Err(error) if world_us() > give_up_us => {
                    return Err(format!("{key} is not served after the world healed: {error}"));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
    Ok(end)
}

/// One write and one read of every key succeed: the healed world serves.
pub async fn probe(
    addresses: Vec<String>,
    keys: Vec<String>,
    patience: Duration,
) -> Result<(), String> {
    let mut client = connect(addresses, u32::MAX - 1);
    let give_up_us = world_us() + u64::try_from(patience.as_micros()).unwrap_or(u64::MAX);
    for key in &keys {
        while let Err(error) = client.call_once(&Command::new("SET").arg(key).arg("alive")).await {
            if world_us() > give_up_us {
                return Err(format!("{key} takes no write after the world healed: {error}"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

fn connect(mut addresses: Vec<String>, client: u32) -> Client {
    let first = client as usize % addresses.len();
    addresses.rotate_left(first);
    let options = Options {
        connect_timeout: Duration::from_millis(500),
        call_timeout: Duration::from_secs(3),
        retry_for: Duration::ZERO,
        ..Options::default()
    };
    Client::new(addresses, options)
}

fn outcome_of(error: &Error) -> Outcome {
    match error.outcome() {
        ClientOutcome::NotDone | ClientOutcome::Retryable => Outcome::Failed,
        ClientOutcome::Unknown => Outcome::Unknown,
    }
}
