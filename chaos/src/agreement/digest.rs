//! Replicas are equal: what each node reads of all shards at one closed version, from its own replicas, is
//! the same (Schneider, "Implementing fault-tolerant services using the state machine approach": the same
//! commands in the same order give the same state).
//!
//! A read at a closed version is answered by the replica of the asked node where it has one. So this looks
//! at what the replicas' own stores hold, by a path of which no leader is a part.

/// What a range holds, in order.
pub type Rows = Vec<(String, String)>;

/// Compares what nodes read at one version.
pub fn equal(version: i64, read: &[(usize, Rows)]) -> Result<(), String> {
    let Some(((first, expected), others)) = read.split_first() else {
        return Ok(());
    };
    for (node, rows) in others {
        if rows == expected {
            continue;
        }
        let differ = |(one, other): &(&(String, String), &(String, String))| one != other;
        let row = expected.iter().zip(rows).find(differ);
        return Err(match row {
            Some((one, other)) => format!(
                "at version {version} node {first} holds {one:?} where node {node} holds {other:?}"
            ),
            None => format!(
                "at version {version} node {first} holds {} rows, and node {node} {}",
                expected.len(),
                rows.len()
            ),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_that_differ_are_found() {
        let rows = |values: &[&str]| -> Rows {
            let keys = ["a", "b"].into_iter().zip(values);
            keys.map(|(key, value)| (key.to_owned(), (*value).to_owned()))
                .collect()
        };
        let read = |other: &[&str]| equal(7, &[(0, rows(&["1", "2"])), (1, rows(other))]);
        assert_eq!(read(&["1", "2"]), Ok(()));
        assert!(read(&["1", "3"]).is_err());
        assert!(read(&["1"]).is_err());
    }
}
