//! Writers whose every word can be found again: each appends tokens of its own to keys of its own, and
//! remembers what it was told about each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use synod_client::{Client, Command, Options, Outcome};

/// What a writer was told about a token.
#[derive(Clone, Copy, PartialEq)]
pub enum Written {
    Acknowledged,
    Refused,
    Unknown,
}

/// For each key, its tokens in the order of their appends.
pub type Appends = BTreeMap<String, Vec<(String, Written)>>;

/// Keys on several shards.
pub fn keys() -> Vec<String> {
    "09AMbkz"
        .chars()
        .map(|first| format!("{first}key"))
        .collect()
}

/// Appends unique tokens to keys of its own until told to stop.
pub async fn write(writer: usize, mut addresses: Vec<String>, over: Arc<AtomicBool>) -> Appends {
    let nodes = addresses.len();
    addresses.rotate_left(writer % nodes);
    let options = Options {
        retry_for: Duration::ZERO,
        ..Options::default()
    };
    let mut client = Client::new(addresses, options);
    let mut done = Appends::new();
    for i in 0.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let first = keys()[i % keys().len()].clone();
        let (key, token) = (format!("{first}.{writer}"), format!("{writer}.{i}"));
        let command = Command::new("APPEND").arg(&key).arg(format!("{token},"));
        let written = match client.call_once(&command).await {
            Ok(_) => Written::Acknowledged,
            Err(error) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                match error.outcome() {
                    Outcome::Unknown => Written::Unknown,
                    Outcome::NotDone | Outcome::Retryable => Written::Refused,
                }
            }
        };
        done.entry(key).or_default().push((token, written));
    }
    done
}

/// Reads every key back: what was acknowledged is there once and in order, what was refused is not,
/// and nothing is there twice. How many were acknowledged.
pub async fn check(reader: &mut Client, writers: Vec<Appends>) -> usize {
    let mut acknowledged = 0;
    for (key, tokens) in writers.into_iter().flatten() {
        let value = reader.get(&key).await.unwrap().unwrap_or_default();
        let value = String::from_utf8(value.to_vec()).unwrap();
        let places: Vec<&str> = value.split_terminator(',').collect();
        let mut times: BTreeMap<&str, usize> = BTreeMap::new();
        for token in &places {
            *times.entry(token).or_default() += 1;
        }
        let mut last = None;
        for (token, outcome) in &tokens {
            let times = times.get(token.as_str()).copied().unwrap_or(0);
            match outcome {
                Written::Acknowledged => {
                    acknowledged += 1;
                    assert_eq!(times, 1, "{token} of {key} was acknowledged");
                    let place = places.iter().position(|it| it == token);
                    assert!(place > last, "{token} of {key} is out of order");
                    last = place;
                }
                Written::Refused => assert_eq!(times, 0, "{token} of {key} was refused"),
                Written::Unknown => assert!(times <= 1, "{token} of {key} is doubled"),
            }
        }
    }
    acknowledged
}
