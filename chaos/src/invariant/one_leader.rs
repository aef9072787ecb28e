//! Election safety: at most one leader a shard and term (Ongaro and Ousterhout, "In search of an
//! understandable consensus algorithm", figure 3).

use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct OneLeader {
    /// By shard and term.
    leaders: BTreeMap<(u64, u64), usize>,
}

impl OneLeader {
    /// A node leads; whether that is news.
    pub(super) fn leads(&mut self, node: usize, shard: u64, term: u64) -> Result<bool, String> {
        match self.leaders.insert((shard, term), node) {
            None => Ok(true),
            Some(before) if before == node => Ok(false),
            Some(before) => Err(format!(
                "nodes {before} and {node} both led shard {shard} in term {term}"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_leader_of_a_term_is_found() {
        let mut invariant = OneLeader::default();
        assert_eq!(invariant.leads(0, 1, 5), Ok(true));
        assert_eq!(invariant.leads(0, 1, 5), Ok(false));
        assert_eq!(invariant.leads(1, 1, 6), Ok(true));
        assert_eq!(invariant.leads(1, 2, 5), Ok(true));
        assert!(invariant.leads(2, 1, 6).is_err());
    }
}
