//! Snapshots: transfers between accounts on different shards, and reads of all accounts at one version, new
//! or read before, at any node. Each is one state of the bank, and two of one version are the same state.

use rand::Rng;

use super::{Session, bank};

pub(super) async fn turn(session: &mut Session) -> bool {
    if !session.reads(0.5) {
        return bank::transfer(session).await;
    }
    let again = match session.rng.random_bool(0.5) {
        true => session.earlier_version(),
        false => None,
    };
    session.snapshot(again, bank::reads()).await
}

/// Opens the accounts, and reads them at a version before which nobody looks.
pub(super) async fn open(observer: &mut Session) -> Result<(), String> {
    bank::open(observer).await?;
    for _ in 0..100 {
        if observer.snapshot(None, bank::reads()).await {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    Err("no snapshot of the accounts in a whole world".to_owned())
}
