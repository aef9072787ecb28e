//! The stream of views: each one once, in order, to every consumer inside the node.
//!
//! A consumer keeps a [`Cursor`] and asks for what is next, when it suits it: nothing is pushed, so
//! nothing can overflow, and a slow consumer delays nobody. Some views are kept. A consumer that is
//! further behind, or whose node began its sequence anew (it started, or it was removed and came back),
//! is told so with [`Next::Restart`], and given the configuration to start from.

use std::collections::VecDeque;
use std::sync::Arc;

use synod_membership::configuration::SharedConfiguration;
use synod_membership::view::ViewChange;

/// Views that are kept for consumers that lag.
const VIEWS_MAX: usize = 1024;

/// A consumer's place in the stream; the default is its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    sequence: u64,
    seq: u64,
}

/// What a consumer has not seen yet.
#[derive(Clone, Debug)]
pub enum Next {
    /// A sequence begins here: forget what was known of members, and take this.
    Restart(SharedConfiguration),
    /// The view that follows the one delivered last.
    Change(Arc<ViewChange>),
}

/// The views installed by this process.
///
/// Invariant: `changes` are consecutive by their seq and end with the configuration in force.
#[derive(Debug, Default)]
pub struct Views {
    /// Counts the sequences that began in this process.
    sequence: u64,
    changes: VecDeque<Arc<ViewChange>>,
}

impl Views {
    /// The next view for a consumer, if there is one.
    pub fn next(&self, cursor: &mut Cursor) -> Option<Next> {
        let last = self.changes.back()?;
        let first = self.changes.front()?;
        let last_seq = last.configuration.seq();
        if cursor.sequence == self.sequence && cursor.seq == last_seq {
            return None;
        }
        let first_seq = first.configuration.seq();
        let follows = cursor.sequence == self.sequence && cursor.seq + 1 > first_seq;
        if !follows {
            *cursor = Cursor {
                sequence: self.sequence,
                seq: last_seq,
            };
            return Some(Next::Restart(last.configuration.clone()));
        }
        cursor.seq += 1;
        let at = usize::try_from(cursor.seq - first_seq).ok()?;
        self.changes.get(at).cloned().map(Next::Change)
    }

    /// The views that are kept, the oldest first.
    pub fn changes(&self) -> impl Iterator<Item = &ViewChange> {
        self.changes.iter().map(AsRef::as_ref)
    }

    /// Takes the view that was just installed.
    pub(crate) fn publish(&mut self, change: ViewChange) {
        let seq = change.configuration.seq();
        let follows = self
            .changes
            .back()
            .is_some_and(|last| last.configuration.seq() + 1 == seq);
        if !follows {
            self.sequence += 1;
            self.changes.clear();
        }
        self.changes.push_back(Arc::new(change));
        if self.changes.len() > VIEWS_MAX {
            self.changes.pop_front();
        }
    }

    /// The sequence has ended: the node is no member any more.
    pub(crate) fn end(&mut self) {
        self.sequence += 1;
        self.changes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_membership::configuration::{Configuration, Mode, Overlay};
    use synod_membership::cut::Cut;
    use synod_membership::id::{Boot, ClusterId, NodeId};
    use synod_membership::member::Member;

    fn member(node: u128, counter: u64) -> Member {
        Member {
            node: NodeId(node),
            boot: Boot {
                counter,
                nonce: counter,
                previous: 0,
            },
            address: ([127, 0, 0, 1], node as u16).into(),
            labels: Arc::default(),
        }
    }

    fn chain(length: u64) -> Vec<SharedConfiguration> {
        let (mode, overlay) = (Mode::default(), Overlay::default());
        let first = Configuration::genesis(ClusterId(1), mode, overlay, member(1, 1));
        let mut chain = vec![Arc::new(first)];
        for counter in 2..=length {
            let cut = Cut {
                add: vec![member(1, counter)],
                ..Cut::default()
            };
            let last = chain.last().expect("a first one");
            chain.push(Arc::new(last.successor(&cut).expect("it applies")));
        }
        chain
    }

    fn change(configuration: &SharedConfiguration) -> ViewChange {
        ViewChange {
            configuration: configuration.clone(),
            view: None,
            joined: Vec::new(),
            left: Vec::new(),
            restarted: Vec::new(),
            promoted: Vec::new(),
        }
    }

    fn drain(views: &Views, cursor: &mut Cursor) -> Vec<(bool, u64)> {
        std::iter::from_fn(|| views.next(cursor))
            .map(|next| match next {
                Next::Restart(configuration) => (true, configuration.seq()),
                Next::Change(change) => (false, change.configuration.seq()),
            })
            .collect()
    }

    #[test]
    fn each_view_comes_once_and_in_order() {
        let chain = chain(5);
        let (mut views, mut cursor) = (Views::default(), Cursor::default());
        assert!(views.next(&mut cursor).is_none());
        views.publish(change(&chain[0]));
        assert_eq!(drain(&views, &mut cursor), [(true, 1)]);
        chain[1..].iter().for_each(|c| views.publish(change(c)));
        let expected = [(false, 2), (false, 3), (false, 4), (false, 5)];
        assert_eq!(drain(&views, &mut cursor), expected);
        assert_eq!(drain(&views, &mut cursor), []);
        let mut late = Cursor::default();
        assert_eq!(drain(&views, &mut late), [(true, 5)]);
    }

    #[test]
    fn whoever_is_too_far_behind_and_a_new_sequence_start_again() {
        let chain = chain(VIEWS_MAX as u64 + 10);
        let (mut views, mut cursor) = (Views::default(), Cursor::default());
        views.publish(change(&chain[0]));
        assert_eq!(drain(&views, &mut cursor), [(true, 1)]);
        chain[1..].iter().for_each(|c| views.publish(change(c)));
        assert_eq!(drain(&views, &mut cursor), [(true, chain.len() as u64)]);
        views.end();
        assert_eq!(drain(&views, &mut cursor), []);
        views.publish(change(&chain[2]));
        assert_eq!(drain(&views, &mut cursor), [(true, 3)]);
    }
}
