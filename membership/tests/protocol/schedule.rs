//! What is to happen in a world, and in which order.

use synod_membership::durable::Record;
use synod_membership::id::{Identity, Token};
use synod_membership::message::Message;
use synod_membership::time::Time;

/// What happens when.
pub enum Happening {
    Deliver {
        to: usize,
        run: u64,
        from: Identity,
        message: Message,
    },
    Persisted {
        at: usize,
        run: u64,
        token: Token,
        record: Record,
    },
    Wake {
        at: usize,
        run: u64,
    },
}

/// An entry of the queue: the earliest is the greatest, and among equals the first that was put there.
pub struct Scheduled(pub Time, pub u64, pub Happening);

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Scheduled) -> std::cmp::Ordering {
        (other.0, other.1).cmp(&(self.0, self.1))
    }
}
