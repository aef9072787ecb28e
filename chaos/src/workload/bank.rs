//! Bank: transfers between accounts on different shards, and reads of all accounts.

use rand::Rng;

use super::{Session, key};
use crate::history::Step;

const ACCOUNTS: usize = 7;
const BALANCE: i64 = 100;

fn accounts() -> Vec<String> {
    (0..ACCOUNTS).map(|i| key("account", i)).collect()
}

/// Reads of all accounts.
pub(super) fn reads() -> Vec<Step> {
    accounts().into_iter().map(Step::read).collect()
}

/// Opens the accounts.
pub(super) async fn open(observer: &mut Session) -> Result<(), String> {
    for account in accounts() {
        let what = format!("opening {account}");
        observer
            .insist(&what, Step::write(account, BALANCE.to_string()))
            .await?;
    }
    Ok(())
}

/// A transfer, or a read of all accounts in one of three ways.
pub(super) async fn turn(session: &mut Session) -> bool {
    if !session.reads(0.3) {
        return transfer(session).await;
    }
    match session.rng.random_range(0..3) {
        0 => session.read_many(&accounts()).await,
        1 => session.multi(reads()).await,
        _ => {
            session
                .interactive(None, async |open| {
                    for account in accounts() {
                        open.read(account).await?;
                    }
                    Ok(())
                })
                .await
        }
    }
}

/// A transfer that looks before it takes.
pub(super) async fn transfer(session: &mut Session) -> bool {
    let from = session.rng.random_range(0..ACCOUNTS);
    let to = (from + session.rng.random_range(1..ACCOUNTS)) % ACCOUNTS;
    let amount = session.rng.random_range(1..=20);
    let (from, to) = (key("account", from), key("account", to));
    session
        .interactive(None, async |open| {
            let number = |text: Option<String>| text.and_then(|text| text.parse::<i64>().ok());
            let (Some(has), Some(gets)) = (
                number(open.read(from.as_str()).await?),
                number(open.read(to.as_str()).await?),
            ) else {
                return Ok(());
            };
            if has >= amount {
                let (has, gets) = ((has - amount).to_string(), (gets + amount).to_string());
                open.step(Step::write(from.as_str(), has)).await?;
                open.step(Step::write(to.as_str(), gets)).await?;
            }
            Ok(())
        })
        .await
}

/// Reads all accounts, in one command.
pub(super) async fn read_all(observer: &mut Session) -> Result<(), String> {
    for _ in 0..100 {
        if observer.read_many(&accounts()).await {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    Err("the accounts are not served in a whole world".to_owned())
}
