//! Bounded queues: what waits in a node is bounded by what its clients have under way, whatever
//! breaks (`style`: everything is bounded). A queue that only grows is a leak, and shows here long
//! before it fills a memory.

use std::collections::BTreeMap;

/// A world has a few clients with one operation each: nothing in it justifies a longer queue.
const LENGTH_MAX: usize = 5_000;

#[derive(Debug, Default)]
pub(super) struct Queues {
    longest: BTreeMap<&'static str, usize>,
}

impl Queues {
    pub(super) fn waits(
        &mut self,
        node: usize,
        name: &'static str,
        length: usize,
    ) -> Result<(), String> {
        let longest = self.longest.entry(name).or_default();
        *longest = length.max(*longest);
        if length > LENGTH_MAX {
            return Err(format!(
                "node {node} has {length} {name}: a queue without bound"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_grows_for_ever_is_found() {
        let mut invariant = Queues::default();
        assert_eq!(invariant.waits(0, "requests", LENGTH_MAX), Ok(()));
        assert!(invariant.waits(0, "requests", LENGTH_MAX + 1).is_err());
    }
}
