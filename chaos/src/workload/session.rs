//! One client: it sends operations, one at a time, and takes down what it was told.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use synod_client::transaction::{self, Settings, Transaction};
use synod_client::{Client, Command, Connection, Error, Options, Outcome as ClientOutcome, Value};

use super::{PATIENCE, Recorder};
use crate::history::{How, Operation, Outcome, Step};
use crate::plan::Habit;

/// Versions of snapshots that a client remembers.
const VERSIONS_MAX: usize = 24;

/// A client of a world.
pub struct Session {
    client: Client,
    id: u32,
    habit: Habit,
    addresses: Vec<String>,
    options: Options,
    recorder: Arc<Recorder>,
    /// What it does is drawn from here.
    pub rng: SmallRng,
    next: u32,
    /// Versions that it has read snapshots at.
    versions: Vec<i64>,
}

/// An interactive transaction under way.
pub struct Open<'a> {
    transaction: &'a mut Transaction,
    steps: &'a mut Vec<Step>,
}

impl Session {
    /// A client that starts at the node of its number.
    pub fn new(
        id: u32,
        habit: Habit,
        seed: u64,
        addresses: &[String],
        recorder: Arc<Recorder>,
    ) -> Self {
        let mut addresses = addresses.to_vec();
        let first = id as usize % addresses.len();
        addresses.rotate_left(first);
        if habit.pinned {
            addresses.truncate(1);
        }
        let options = Options {
            connect_timeout: Duration::from_millis(500),
            call_timeout: Duration::from_millis(habit.patience_ms),
            retry_for: Duration::ZERO,
            ..Options::default()
        };
        Self {
            client: Client::new(addresses.clone(), options.clone()),
            id,
            habit,
            addresses,
            options,
            recorder,
            rng: SmallRng::seed_from_u64(seed),
            next: 0,
            versions: Vec::new(),
        }
    }

    /// The world's time, in microseconds since its beginning.
    pub fn now_us(&self) -> u64 {
        self.recorder.now_us()
    }

    /// Which client it is.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Whether it reads this time: always if it only reads, else with this probability.
    pub fn reads(&mut self, probability: f64) -> bool {
        self.rng.random_bool(probability) || self.habit.reads_only
    }

    /// A word that no other operation of the history writes.
    pub fn unique(&mut self) -> String {
        self.next += 1;
        format!("{}.{}", self.id, self.next)
    }

    /// A pause between two operations; after a failure, the longest, or 50 ms.
    pub async fn rest(&mut self, answered: bool) {
        let pause_us = match answered {
            true => self.rng.random_range(0..=self.habit.rest_max_ms * 1000),
            false => self.habit.rest_max_ms.min(50) * 1000,
        };
        tokio::time::sleep(Duration::from_micros(pause_us)).await;
    }

    /// One command of one step. Whether it was answered with success.
    pub async fn single(&mut self, step: Step) -> bool {
        self.command(command(&step), vec![step]).await.is_ok()
    }

    /// `SET key value GET`: a read and a write in one.
    pub async fn swap(&mut self, key: String, value: String) -> bool {
        let command = Command::new("SET").arg(&key).arg(&value).arg("GET");
        let steps = vec![Step::read(key.clone()), Step::write(key, value)];
        self.command(command, steps).await.is_ok()
    }

    /// `MGET`: reads of several keys in one command.
    pub async fn read_many(&mut self, keys: &[String]) -> bool {
        let asked = self.asked(How::Single, keys.iter().map(Step::read).collect());
        let command = Command::read("MGET").args(keys);
        let answer = self.client.call_once(&command).await;
        let filled = answer.and_then(Value::into_array).and_then(|values| {
            let mut steps: Vec<Step> = keys.iter().map(Step::read).collect();
            fill_all(&mut steps, values.unwrap_or_default())?;
            Ok(steps)
        });
        self.take_down(asked, filled).is_ok()
    }

    /// `MULTI`, the steps, `EXEC`.
    pub async fn multi(&mut self, steps: Vec<Step>) -> bool {
        let commands: Vec<Command> = steps.iter().map(command).collect();
        let asked = self.asked(How::Multi, steps);
        let answer = self.client.multi(&commands).await;
        let mut filled = asked.steps.clone();
        let filled = answer.and_then(|values| {
            fill_all(&mut filled, values.unwrap_or_default())?;
            Ok(filled)
        });
        self.take_down(asked, filled).is_ok()
    }

    /// `BEGIN`, what the body does, `COMMIT`. With a token, an unknown outcome is asked for.
    pub async fn interactive(
        &mut self,
        token: Option<String>,
        mut body: impl AsyncFnMut(&mut Open<'_>) -> Result<(), Error>,
    ) -> bool {
        let mut asked = self.asked(How::Interactive, Vec::new());
        let settings = Settings {
            tokens: token.is_some(),
            retry_for: Duration::ZERO,
        };
        let mut steps = Vec::new();
        let outcome = transaction::run(&mut self.client, &settings, async |transaction| {
            steps.clear();
            body(&mut Open {
                transaction,
                steps: &mut steps,
            })
            .await
        })
        .await;
        asked.token = token;
        asked.steps.clone_from(&steps);
        self.take_down(asked, outcome.map(|()| steps)).is_ok()
    }

    /// `BEGIN SNAPSHOT`, the reads, `COMMIT`, at one of the nodes: at a version that the node chooses, or at
    /// one that was read before.
    pub async fn snapshot(&mut self, again: Option<i64>, steps: Vec<Step>) -> bool {
        let turn = self.rng.random_range(0..self.addresses.len());
        let mut asked = self.asked(How::Snapshot, steps);
        let mut filled = asked.steps.clone();
        let answer = self.read_snapshot(turn, again, &mut filled).await;
        asked.version = answer.as_ref().ok().copied();
        self.versions
            .extend(asked.version.filter(|_| again.is_none()));
        self.take_down(asked, answer.map(|_| filled)).is_ok()
    }

    /// A version that was read before. Few are kept, of all ages.
    pub fn earlier_version(&mut self) -> Option<i64> {
        while self.versions.len() > VERSIONS_MAX {
            let forgotten = self.rng.random_range(0..self.versions.len());
            self.versions.swap_remove(forgotten);
        }
        match self.versions.len() {
            0 => None,
            some => Some(self.versions[self.rng.random_range(0..some)]),
        }
    }

    async fn read_snapshot(
        &self,
        turn: usize,
        again: Option<i64>,
        steps: &mut [Step],
    ) -> Result<i64, Error> {
        let mut connection = self.connect(turn).await?;
        let mut begin = Command::read("BEGIN").arg("SNAPSHOT");
        if let Some(version) = again {
            begin = begin.arg("AT").arg(version.to_string());
        }
        let version = connection.call(&begin).await?.into_integer()?;
        for step in steps {
            let answer = connection.call(&command(step)).await?;
            fill(step, answer)?;
        }
        connection.call(&Command::read("COMMIT")).await?;
        Ok(version)
    }

    /// Repeats one operation until it succeeds, for as long as a healed world may take.
    pub async fn insist(&mut self, what: &str, step: Step) -> Result<(), String> {
        let give_up_us = self.now_us() + u64::try_from(PATIENCE.as_micros()).unwrap_or(u64::MAX);
        loop {
            let error = match self.command(command(&step), vec![step.clone()]).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if self.now_us() > give_up_us {
                return Err(format!("{what} does not succeed in a whole world: {error}"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Reads every key of the history, each until it answers.
    pub async fn read_all_keys(&mut self) -> Result<(), String> {
        let history = self.recorder.history();
        let keys: BTreeSet<String> = history
            .iter()
            .flat_map(|operation| &operation.steps)
            .filter_map(|step| match step {
                Step::Range { .. } => None,
                Step::Read { key, .. }
                | Step::Write { key, .. }
                | Step::Insert { key, .. }
                | Step::Delete { key }
                | Step::Append { key, .. }
                | Step::Add { key, .. } => Some(key.clone()),
            })
            .collect();
        for key in keys {
            self.insist(&format!("a read of {key}"), Step::read(key))
                .await?;
        }
        Ok(())
    }

    /// A connection of its own to one of the nodes, another one for each `turn`: what is said on it is
    /// lost with it, and never said again by another one.
    pub async fn connect(&self, turn: usize) -> Result<Connection, Error> {
        let address = &self.addresses[turn % self.addresses.len()];
        Connection::open(address, &self.options).await
    }

    async fn command(&mut self, command: Command, steps: Vec<Step>) -> Result<(), String> {
        let asked = self.asked(How::Single, steps);
        let answer = self.client.call_once(&command).await;
        let mut filled = asked.steps.clone();
        let filled = answer.and_then(|value| match filled.first_mut() {
            Some(step) => fill(step, value).map(|()| filled),
            None => Ok(filled),
        });
        self.take_down(asked, filled)
    }

    /// An operation of this client that is asked now.
    pub(super) fn asked(&self, how: How, steps: Vec<Step>) -> Operation {
        let now_us = self.now_us();
        Operation::done(self.id, how, now_us..now_us, steps)
    }

    /// Records what became of an operation; on an error, with the steps as they were asked. The error in
    /// words.
    pub(super) fn take_down(
        &mut self,
        asked: Operation,
        result: Result<Vec<Step>, Error>,
    ) -> Result<(), String> {
        let mut operation = asked;
        operation.end_us = Some(self.now_us());
        match result {
            Ok(steps) => {
                operation.steps = steps;
                self.recorder.record(operation);
                Ok(())
            }
            Err(error) => {
                let outcome = match error.outcome() {
                    ClientOutcome::NotDone | ClientOutcome::Retryable => Outcome::Failed,
                    // What only reads has no effect, whatever became of it.
                    ClientOutcome::Unknown if operation.only_reads() => Outcome::Failed,
                    ClientOutcome::Unknown => Outcome::Unknown,
                };
                let words = error.to_string();
                operation.error = Some(words.clone());
                self.recorder.record(operation.ended(outcome));
                Err(words)
            }
        }
    }
}

impl Open<'_> {
    /// Does one step, and says what it was answered.
    pub async fn step(&mut self, mut step: Step) -> Result<Step, Error> {
        // Taken down before it is sent: a write whose answer is lost was still asked for.
        self.steps.push(step.clone());
        let value = self.transaction.call(&command(&step)).await?;
        fill(&mut step, value)?;
        if let Some(last) = self.steps.last_mut() {
            last.clone_from(&step);
        }
        Ok(step)
    }

    /// Reads a key.
    pub async fn read(&mut self, key: impl Into<String>) -> Result<Option<String>, Error> {
        match self.step(Step::read(key)).await? {
            Step::Read { value, .. } => Ok(value.flatten()),
            Step::Write { .. }
            | Step::Insert { .. }
            | Step::Delete { .. }
            | Step::Append { .. }
            | Step::Add { .. }
            | Step::Range { .. } => Ok(None),
        }
    }
}

/// The command for a step.
pub(super) fn command(step: &Step) -> Command {
    match step {
        Step::Read { key, .. } => Command::read("GET").arg(key),
        Step::Write { key, value, ttl_ms } => {
            let set = Command::new("SET").arg(key).arg(value);
            match ttl_ms {
                Some(ttl_ms) => set.arg("PX").arg(ttl_ms.to_string()),
                None => set,
            }
        }
        Step::Insert { key, value, .. } => {
            Command::new("SET").arg(key).arg(value).arg("NX").arg("GET")
        }
        Step::Delete { key } => Command::new("DEL").arg(key),
        Step::Append { key, value } => Command::new("APPEND").arg(key).arg(format!("{value},")),
        Step::Add { key, delta, .. } => Command::new("INCRBY").arg(key).arg(delta.to_string()),
        Step::Range { from, to, .. } => Command::read("RANGE").arg(from).arg(to),
    }
}

/// Takes an answer into a step.
fn fill(step: &mut Step, answer: Value) -> Result<(), Error> {
    match step {
        Step::Read { value, .. } | Step::Insert { found: value, .. } => {
            *value = Some(answer.into_bytes()?.map(text));
        }
        Step::Add { sum, .. } => *sum = Some(answer.into_integer()?),
        Step::Range { rows, .. } => {
            let mut words = answer.into_array()?.unwrap_or_default().into_iter();
            let mut found = Vec::new();
            while let (Some(key), Some(value)) = (words.next(), words.next()) {
                let key = key.into_bytes()?.map(text).unwrap_or_default();
                let value = value.into_bytes()?.map(text).unwrap_or_default();
                found.push((key, value));
            }
            *rows = Some(found);
        }
        Step::Write { .. } | Step::Delete { .. } | Step::Append { .. } => {}
    }
    Ok(())
}

fn fill_all(steps: &mut [Step], answers: Vec<Value>) -> Result<(), Error> {
    if answers.len() != steps.len() {
        return Err(Error::Malformed("as many answers as steps"));
    }
    for (step, answer) in steps.iter_mut().zip(answers) {
        // The other steps may have taken effect.
        let answer = answer
            .into_result()
            .map_err(|_| Error::Malformed("an error of one step"))?;
        fill(step, answer)?;
    }
    Ok(())
}

fn text(bytes: bytes::Bytes) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}
