//! A client of a whole cluster: several addresses, one connection at a time.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use crate::{
    command::{Command, Effect},
    connection::Connection,
    error::{Error, Outcome},
    value::Value,
};

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// The longest wait for a connection.
    pub connect_timeout: Duration,
    /// The longest wait for an answer.
    pub call_timeout: Duration,
    /// How long a call is tried again, when it may be, before its error is returned.
    pub retry_for: Duration,
    /// What `AUTH` is given.
    pub password: Option<String>,
    /// The name in the server's list of clients.
    pub name: String,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            connect_timeout: Duration::from_secs(2),
            call_timeout: Duration::from_secs(10),
            retry_for: Duration::from_secs(10),
            password: None,
            name: String::new(),
        }
    }
}

/// The pause before the first repetition; each further one is twice as long, up to the maximum.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// A client. One call at a time: clone the options and make as many clients as there are to be
/// concurrent calls.
#[derive(Debug)]
pub struct Client {
    addresses: Vec<String>,
    /// The address in use, or to be tried first.
    current: usize,
    connection: Option<Connection>,
    options: Options,
}

impl Client {
    /// A client of the nodes at `addresses` (`HOST:PORT`, at least one). It connects when it is used.
    ///
    /// # Panics
    ///
    /// When there is no address.
    pub fn new<A: Into<String>>(addresses: impl IntoIterator<Item = A>, options: Options) -> Self {
        let addresses: Vec<String> = addresses.into_iter().map(Into::into).collect();
        assert!(!addresses.is_empty(), "a client needs an address");
        Client {
            addresses,
            current: 0,
            connection: None,
            options,
        }
    }

    /// The address in use, or to be tried next.
    pub fn address(&self) -> &str {
        &self.addresses[self.current]
    }

    /// The connection, made if there is none. Every address is tried once.
    ///
    /// It is taken out for the time of its use and given back when it is whole again: a call that is
    /// dropped in the middle leaves an answer on its connection that must not meet the next call.
    pub(crate) async fn take_connection(&mut self) -> Result<Connection, Error> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        let mut tried = 0;
        loop {
            match Connection::open(self.address(), &self.options).await {
                Ok(connection) => return Ok(connection),
                Err(error) => {
                    self.next_address();
                    tried += 1;
                    if tried == self.addresses.len() {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Keeps a connection that has no answer outstanding for the next call.
    pub(crate) fn give_back(&mut self, connection: Connection) {
        self.connection = Some(connection);
    }

    /// Lets the next connection be made to the next address.
    pub(crate) fn next_address(&mut self) {
        self.current = (self.current + 1) % self.addresses.len();
    }

    /// Sends a command once and waits for its answer, whatever it is.
    pub async fn call_once(&mut self, command: &Command) -> Result<Value, Error> {
        let mut connection = self.take_connection().await?;
        let result = connection.call(command).await;
        self.settle(connection, result)
    }

    /// Sends commands together, once, and waits for their answers.
    pub async fn pipeline(&mut self, commands: &[Command]) -> Result<Vec<Value>, Error> {
        let mut connection = self.take_connection().await?;
        let result = connection.pipeline(commands).await;
        self.settle(connection, result)
    }

    /// Sends a command and waits for its answer. It is repeated for as long as the options say when
    /// it certainly had no effect and may have one next time, or when it only reads.
    pub async fn call(&mut self, command: &Command) -> Result<Value, Error> {
        let give_up = Instant::now() + self.options.retry_for;
        let mut backoff = BACKOFF_MIN;
        loop {
            let error = match self.call_once(command).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let again = match error.outcome() {
                Outcome::Retryable => true,
                Outcome::Unknown => command.effect() == Effect::Repeatable,
                Outcome::NotDone => false,
            };
            if !again || Instant::now() + backoff > give_up {
                return Err(error);
            }
            sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// The value of a key.
    pub async fn get(&mut self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, Error> {
        self.call(&Command::read("GET").arg(key))
            .await?
            .into_bytes()
    }

    /// Writes the value of a key.
    pub async fn set(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<(), Error> {
        self.call(&Command::new("SET").arg(key).arg(value))
            .await
            .map(drop)
    }

    /// Deletes keys; how many there were.
    pub async fn del<K: AsRef<[u8]>>(
        &mut self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<i64, Error> {
        self.call(&Command::new("DEL").args(keys))
            .await?
            .into_integer()
    }

    /// Adds to the integer under a key; the sum.
    pub async fn incr_by(&mut self, key: impl AsRef<[u8]>, delta: i64) -> Result<i64, Error> {
        let command = Command::new("INCRBY").arg(key).arg(delta.to_string());
        self.call(&command).await?.into_integer()
    }

    /// The values of several keys, at one point in time.
    pub async fn mget<K: AsRef<[u8]>>(
        &mut self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Bytes>>, Error> {
        let answer = self.call(&Command::read("MGET").args(keys)).await?;
        answer
            .into_array()?
            .unwrap_or_default()
            .into_iter()
            .map(Value::into_bytes)
            .collect()
    }

    /// `MULTI`, the commands, `EXEC`, as one batch: all of them or none.
    ///
    /// The answers of the commands, where an error of one is a [`Value::Error`]; `None` when a key
    /// that was watched on this connection has changed.
    pub async fn multi(&mut self, commands: &[Command]) -> Result<Option<Vec<Value>>, Error> {
        let mut batch = vec![Command::new("MULTI")];
        batch.extend_from_slice(commands);
        batch.push(Command::new("EXEC"));
        let mut answers = self.pipeline(&batch).await?;
        match answers.pop() {
            Some(answer) => answer.into_result()?.into_array(),
            None => Err(Error::Malformed("no answer to EXEC")),
        }
    }

    /// A connection that failed is not used again.
    fn settle<T>(&mut self, connection: Connection, result: Result<T, Error>) -> Result<T, Error> {
        match &result {
            Err(error) if !error.leaves_connection_usable() => self.next_address(),
            Ok(_) | Err(_) => self.give_back(connection),
        }
        result
    }
}
