//! Interactive transactions: `BEGIN`, any commands, `COMMIT`.
//!
//! A transaction that loses against another one is run again from its beginning, so its body must
//! be a function of what it reads. When the connection is lost during `COMMIT` the outcome is
//! unknown; with tokens ([`Settings::tokens`]) the client asks for it, and the answer is definite:
//! either the transaction is committed, or it never will be, and is run again.

use std::io;

use bytes::Bytes;
use tokio::time::{Duration, Instant, sleep};

use crate::{
    client::Client,
    command::Command,
    connection::Connection,
    error::{Error, Outcome},
    value::Value,
};

/// How a transaction is run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether each run is named by a token that the store issues, so that the outcome of a `COMMIT`
    /// that was not answered can be asked for.
    pub tokens: bool,
    /// How long it is run again when it lost, before the error is returned.
    pub retry_for: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            tokens: false,
            retry_for: Duration::from_secs(30),
        }
    }
}

/// An open transaction. Its commands go through it; it ends with the body.
///
/// It stays on its connection: were that replaced behind its back, the commands that follow would
/// run outside of any transaction, one by one.
#[derive(Debug)]
pub struct Transaction {
    connection: Connection,
    broken: bool,
}

impl Transaction {
    /// Sends a command within the transaction. An error should be returned from the body.
    pub async fn call(&mut self, command: &Command) -> Result<Value, Error> {
        if self.broken {
            return Err(Error::Lost(io::ErrorKind::NotConnected.into()));
        }
        let result = self.connection.call(command).await;
        if let Err(error) = &result {
            self.broken = !error.leaves_connection_usable();
        }
        result
    }
}

/// Runs `body` as one strictly serializable transaction.
///
/// The body may run several times, each time from a clean state; its own error rolls back. The
/// result is definite, but for errors with [`Outcome::Unknown`].
pub async fn run<T>(
    client: &mut Client,
    settings: &Settings,
    mut body: impl AsyncFnMut(&mut Transaction) -> Result<T, Error>,
) -> Result<T, Error> {
    const BACKOFF_MIN: Duration = Duration::from_millis(2);
    const BACKOFF_MAX: Duration = Duration::from_millis(200);
    let give_up = Instant::now() + settings.retry_for;
    let mut backoff = BACKOFF_MIN;
    loop {
        let (error, stage) = match attempt(client, settings, &mut body).await {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        // Until COMMIT was sent, nothing can have happened: a lost connection rolls back.
        let outcome = match (stage, error.outcome()) {
            (Stage::Open, Outcome::Unknown) => Outcome::Retryable,
            (Stage::Open | Stage::Committing, outcome) => outcome,
        };
        if outcome != Outcome::Retryable || Instant::now() + backoff > give_up {
            return Err(error);
        }
        sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

#[derive(Clone, Copy)]
enum Stage {
    Open,
    Committing,
}

async fn attempt<T>(
    client: &mut Client,
    settings: &Settings,
    body: &mut impl AsyncFnMut(&mut Transaction) -> Result<T, Error>,
) -> Result<T, (Error, Stage)> {
    let open = |error| (error, Stage::Open);
    let mut begin = Command::new("BEGIN");
    let mut token = None;
    if settings.tokens {
        let issue = Command::read("TXN").arg("TOKEN");
        let issued = client.call(&issue).await.map_err(open)?;
        let issued = issued.into_bytes().map_err(open)?;
        begin = begin
            .arg("TOKEN")
            .arg(issued.as_deref().unwrap_or_default());
        token = issued;
    }
    let connection = client.take_connection().await.map_err(open)?;
    let mut transaction = Transaction {
        connection,
        broken: false,
    };
    let mut result = transaction.call(&begin).await.map(drop).map_err(open);
    let mut value = None;
    if result.is_ok() {
        match body(&mut transaction).await {
            Ok(done) => {
                value = Some(done);
                let commit = transaction.call(&Command::new("COMMIT")).await;
                result = commit.map(drop).map_err(|error| (error, Stage::Committing));
            }
            Err(error) => {
                // A connection whose transaction may still be open must not be used again.
                transaction.broken |= transaction.call(&Command::new("ROLLBACK")).await.is_err();
                result = Err(open(error));
            }
        }
    }
    if transaction.broken {
        client.next_address();
    } else {
        client.give_back(transaction.connection);
    }
    match (result, value, &token) {
        (Ok(()), Some(value), _) => Ok(value),
        (Err((error, Stage::Committing)), Some(value), Some(token))
            if error.outcome() == Outcome::Unknown =>
        {
            settle(client, token, value, error).await
        }
        (Err(failure), _, _) => Err(failure),
        (Ok(()), None, _) => unreachable!("a transaction that committed has run its body"),
    }
}

/// Asks what became of a transaction whose `COMMIT` was not answered.
async fn settle<T>(
    client: &mut Client,
    token: &Bytes,
    value: T,
    unanswered: Error,
) -> Result<T, (Error, Stage)> {
    let question = Command::read("TXN").arg("STATUS").arg(token);
    let answer = client
        .call(&question)
        .await
        .map_err(|error| (error, Stage::Committing))?;
    match answer.as_bytes() {
        Some(b"COMMITTED") => Ok(value),
        // The answer fenced the token: this attempt can never commit any more.
        Some(b"ABORTED") => Err((unanswered, Stage::Open)),
        _ => Err((unanswered, Stage::Committing)),
    }
}
