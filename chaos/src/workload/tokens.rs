//! Tokens: each transaction appends its own name to two lists under a token of the store, and is sent
//! again under that token, by other nodes too, until its outcome is known; in the end it is asked for.

use bytes::Bytes;
use rand::Rng;
use synod_client::{Command, Connection, Error, Outcome};

use super::session::command;
use super::{Session, key};
use crate::history::{How, Step};

const KEYS: usize = 7;
const ATTEMPTS: usize = 3;

pub(super) async fn turn(session: &mut Session) -> bool {
    let first = session.rng.random_range(0..KEYS);
    let second = (first + session.rng.random_range(1..KEYS)) % KEYS;
    let lists = [first, second].map(|i| key("token", i));
    if session.reads(0.2) {
        return session.multi(lists.map(Step::read).into()).await;
    }
    let name = session.unique();
    let steps: Vec<Step> = lists
        .iter()
        .map(|list| Step::append(list.as_str(), name.as_str()))
        .collect();
    let Ok(token) = issued(session).await else {
        return false;
    };
    for turn in 0..ATTEMPTS {
        let mut asked_for = session.asked(How::Interactive, steps.clone());
        asked_for.token = Some(name.clone());
        let result = match session.rng.random_bool(0.2) && turn > 0 {
            true => asked(session, turn, &token).await,
            false => attempt(session, turn, &token, &steps).await,
        };
        // Only an answer that was lost leaves a doubt; whatever else is said is final.
        let doubt = matches!(&result, Err(error) if error.outcome() == Outcome::Unknown);
        let answered = result.map(|()| steps.clone());
        let told = session.take_down(asked_for, answered);
        if !doubt {
            return told.is_ok();
        }
    }
    false
}

/// A token, from the node that it asks first.
async fn issued(session: &mut Session) -> Result<Bytes, Error> {
    let mut connection = session.connect(0).await?;
    let issue = Command::read("TXN").arg("TOKEN");
    let answer = connection.call(&issue).await?.into_bytes()?;
    Ok(answer.unwrap_or_default())
}

/// Sends the transaction once.
async fn attempt(
    session: &mut Session,
    turn: usize,
    token: &Bytes,
    steps: &[Step],
) -> Result<(), Error> {
    let mut connection = session.connect(turn).await?;
    if let Err(error) = open(&mut connection, token, steps).await {
        // It was never asked to commit: whatever the error, nothing of it remains.
        return Err(match error.outcome() {
            Outcome::Unknown => Error::Connect {
                address: "the open transaction".to_owned(),
                source: std::io::ErrorKind::ConnectionAborted.into(),
            },
            Outcome::NotDone | Outcome::Retryable => error,
        });
    }
    connection.call(&Command::new("COMMIT")).await.map(drop)
}

async fn open(connection: &mut Connection, token: &Bytes, steps: &[Step]) -> Result<(), Error> {
    let begin = Command::new("BEGIN").arg("TOKEN").arg(token);
    connection.call(&begin).await?;
    for step in steps {
        connection.call(&command(step)).await?;
    }
    Ok(())
}

/// Asks what became of it; that it is asked fences it, if nothing did.
async fn asked(session: &mut Session, turn: usize, token: &Bytes) -> Result<(), Error> {
    let mut connection = session.connect(turn).await?;
    let question = Command::read("TXN").arg("STATUS").arg(token);
    let answer = connection.call(&question).await?;
    match answer.as_bytes() {
        Some(b"COMMITTED") => Ok(()),
        Some(b"ABORTED") => Err(Error::Server(synod_client::ServerError {
            code: "ABORTED".to_owned(),
            message: "it has not been committed, and never will be".to_owned(),
        })),
        _ => Err(Error::Malformed("COMMITTED or ABORTED")),
    }
}
