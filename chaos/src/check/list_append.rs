//! List-append with points and ranges: strict serializability by search for cycles, the method of
//! Elle (Kingsbury and Alvaro, "Elle: inferring isolation anomalies from experimental
//! observations", 2020).
//!
//! The reads fix the order of each key's versions ([`super::lists`]). From it follow the dependencies
//! between operations: ww, wr and rw; real time adds its own. A history is strictly serializable
//! only if all of them together have no cycle.

use super::graph::{Edge, Graph};
use super::{Verdict, cycle, lists};
use crate::history::{Operation, Outcome};

/// Checks a history of appends, reads and ranges.
pub fn check(history: &[Operation]) -> Verdict {
    let keys = lists::versions(history)?;
    let mut graph = Graph::of_time(history);
    for key in keys.values() {
        let authors: Vec<usize> = key
            .order
            .iter()
            .map(|element| key.appended[element])
            .collect();
        for pair in authors.windows(2) {
            graph.add(pair[0], pair[1], Edge::WriteWrite);
        }
        // Acknowledged, and in no read: behind every version that anybody saw.
        let unseen: Vec<usize> = key
            .appended
            .iter()
            .filter(|(element, author)| {
                history[**author].outcome == Outcome::Ok && !key.order.contains(element)
            })
            .map(|(_, author)| *author)
            .collect();
        if let Some(last) = authors.last() {
            for author in &unseen {
                graph.add(*last, *author, Edge::WriteWrite);
            }
        }
        for seen in &key.reads {
            if let Some(before) = seen.elements.len().checked_sub(1) {
                graph.add(authors[before], seen.operation, Edge::WriteRead);
            }
            match authors.get(seen.elements.len()) {
                Some(next) => graph.add(seen.operation, *next, Edge::ReadWrite),
                None => {
                    for author in &unseen {
                        graph.add(seen.operation, *author, Edge::ReadWrite);
                    }
                }
            }
        }
    }
    cycle::check(history, &graph)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{How, Step};

    fn operation(start_us: u64, end_us: u64, steps: Vec<Step>) -> Operation {
        Operation::done(0, How::Multi, start_us..end_us, steps)
    }

    fn append(key: &str, element: &str) -> Step {
        Step::append(key, element)
    }

    fn read(key: &str, value: &str) -> Step {
        Step::Read {
            key: key.to_owned(),
            value: Some((!value.is_empty()).then(|| value.to_owned())),
        }
    }

    fn range(from: &str, to: &str, rows: &[(&str, &str)]) -> Step {
        let rows = rows
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Step::Range {
            from: from.to_owned(),
            to: to.to_owned(),
            rows: Some(rows),
        }
    }

    /// The name of what is found, or "clean".
    fn found(history: &[Operation]) -> String {
        check(history).map_or_else(|anomaly| anomaly.name, |()| "clean".to_owned())
    }

    #[test]
    fn a_serial_history_passes() {
        let history = [
            operation(0, 1, vec![append("x", "1"), append("y", "1")]),
            operation(2, 3, vec![read("x", "1,"), append("y", "2")]),
            operation(4, 5, vec![read("y", "1,2,"), read("x", "1,")]),
            operation(6, 7, vec![range("a", "z", &[("x", "1,"), ("y", "1,2,")])]),
        ];
        assert_eq!(found(&history), "clean");
    }

    #[test]
    fn concurrent_transactions_may_take_either_order() {
        let history = [
            operation(0, 10, vec![append("x", "1"), read("y", "")]),
            operation(0, 10, vec![append("y", "1"), read("x", "1,")]),
        ];
        assert_eq!(found(&history), "clean");
    }

    #[test]
    fn what_one_transaction_must_not_do_alone() {
        let own = |value: &str| {
            found(&[operation(
                0,
                1,
                vec![append("x", "1"), append("x", "2"), read("x", value)],
            )])
        };
        assert_eq!(own("1,2,"), "clean");
        assert_eq!(own("1,"), "internal");
        assert_eq!(own(""), "internal");
        let twice = [
            operation(0, 1, vec![append("x", "1")]),
            operation(0, 9, vec![read("x", ""), read("x", "1,")]),
        ];
        assert_eq!(found(&twice), "internal");
    }

    #[test]
    fn contradictions_of_reads_are_named() {
        let appends = operation(0, 9, vec![append("x", "1"), append("x", "2")]);
        let with =
            |value: &str| found(&[appends.clone(), operation(10, 11, vec![read("x", value)])]);
        assert_eq!(with("1,2,"), "clean");
        assert_eq!(with("1,2,1,"), "duplicate");
        assert_eq!(with("1,2,3,"), "garbage read");
        assert_eq!(with("1,"), "G1b");
        let failed = appends.clone().ended(Outcome::Failed);
        let seen = operation(10, 11, vec![read("x", "1,2,")]);
        assert_eq!(found(&[failed, seen.clone()]), "G1a");
        let other = operation(10, 11, vec![read("x", "2,1,")]);
        assert_eq!(found(&[appends, seen, other]), "incompatible order");
    }

    #[test]
    fn an_unknown_append_may_be_there_or_not_but_once() {
        let unknown = operation(0, 1, vec![append("x", "1")]).ended(Outcome::Unknown);
        let with = |value: &str| found(&[unknown.clone(), operation(5, 6, vec![read("x", value)])]);
        assert_eq!(with(""), "clean");
        assert_eq!(with("1,"), "clean");
        assert_eq!(with("1,1,"), "duplicate");
    }

    #[test]
    fn a_lost_append_contradicts_real_time() {
        let history = [
            operation(0, 1, vec![append("x", "1")]),
            operation(2, 3, vec![append("x", "2")]),
            operation(4, 5, vec![read("x", "1,")]),
        ];
        assert_eq!(found(&history), "G-single-realtime");
    }

    #[test]
    fn a_stale_read_contradicts_real_time() {
        let history = [
            operation(0, 1, vec![append("x", "1")]),
            operation(2, 3, vec![append("x", "2")]),
            operation(4, 5, vec![read("x", "1,")]),
            operation(6, 7, vec![read("x", "1,2,")]),
        ];
        assert_eq!(found(&history), "G-single-realtime");
        let anomaly = check(&history).expect_err("stale");
        assert_eq!(anomaly.witness.len(), 2, "{anomaly}");
    }

    #[test]
    fn writes_that_interleave_are_g0() {
        let history = [
            operation(0, 9, vec![append("x", "1"), append("y", "1")]),
            operation(0, 9, vec![append("x", "2"), append("y", "2")]),
            operation(10, 11, vec![read("x", "1,2,"), read("y", "2,1,")]),
        ];
        assert_eq!(found(&history), "G0");
    }

    #[test]
    fn circular_information_is_g1c() {
        let history = [
            operation(0, 9, vec![append("x", "1"), read("y", "1,")]),
            operation(0, 9, vec![append("y", "1"), read("x", "1,")]),
        ];
        assert_eq!(found(&history), "G1c");
    }

    #[test]
    fn a_torn_read_is_g_single() {
        let history = [
            operation(0, 9, vec![append("x", "1"), append("y", "1")]),
            operation(0, 9, vec![read("x", "1,"), read("y", "")]),
        ];
        assert_eq!(found(&history), "G-single");
    }

    #[test]
    fn write_skew_is_g2() {
        let history = [
            operation(0, 9, vec![read("x", ""), append("y", "1")]),
            operation(0, 9, vec![read("y", ""), append("x", "1")]),
            operation(10, 11, vec![read("x", "1,"), read("y", "1,")]),
        ];
        assert_eq!(found(&history), "G2");
    }

    #[test]
    fn a_phantom_in_a_range_is_g2() {
        let history = [
            operation(0, 9, vec![range("a", "m", &[]), append("p", "1")]),
            operation(0, 9, vec![range("n", "z", &[]), append("b", "1")]),
            operation(10, 11, vec![range("a", "z", &[("b", "1,"), ("p", "1,")])]),
        ];
        assert_eq!(found(&history), "G2");
    }

    #[test]
    fn long_fork_is_g2() {
        let history = [
            operation(0, 9, vec![append("x", "1")]),
            operation(0, 9, vec![append("y", "1")]),
            operation(0, 9, vec![read("x", "1,"), read("y", "")]),
            operation(0, 9, vec![read("x", ""), read("y", "1,")]),
        ];
        assert_eq!(found(&history), "G2");
    }
}
