//! Formation: how nodes with empty directories become one cluster, once, and only one.
//!
//! Every node is started with the same list of peer addresses, its own among them. Each polls all
//! the others with who it is and the list it was given. The node with the lowest address founds
//! the cluster when *every* listed address has answered "empty, same list"; a node that cannot be
//! reached means wait, because it might hold an older cluster. The founder makes the record
//! durable before it tells anybody, and tells whoever asks, for ever; so does every node that
//! holds it. So a crash at any moment delays formation and never forks it: only one node can
//! found, and it founds once.
//!
//! A node that is not in the record (it comes later, or its directory was wiped) is given it too: it
//! joins the cluster, through the agreed membership, as a new node ([`crate::membership`]). So every
//! node of a cluster holds its founding record, and any of them can tell a founder that crashed before
//! it had it.
//!
//! The membership's first configuration follows from the record: it lists the founders, as they were
//! when they polled. Everything after that is agreed on by votes, and no business of this module.

mod founding;
mod message;

use std::collections::BTreeMap;
use std::net::SocketAddr;

pub use self::founding::{Founder, Founding, FoundingShard, SYSTEM_SHARD};
pub use self::message::Message;
use crate::config::ClusterSettings;

/// What a node knows so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not formed yet; what stands in the way, for a person.
    Waiting(String),
    /// Formed: make the record durable, then answer polls with [`answer`].
    Founded(Founding),
}

/// One empty node on its way to a cluster. Sans-I/O: the caller sends what it is given.
#[derive(Debug)]
pub struct Formation {
    me: Founder,
    seeds: Vec<SocketAddr>,
    settings: ClusterSettings,
    cluster: u128,
    heard: BTreeMap<SocketAddr, Founder>,
    complaint: Option<String>,
}

impl Formation {
    /// A node `me` that was given `seeds`. `settings` and `cluster`, a fresh random identity, are used
    /// if this node is the one that founds.
    pub fn new(
        me: Founder,
        seeds: &[SocketAddr],
        settings: ClusterSettings,
        cluster: u128,
    ) -> Self {
        let mut seeds = seeds.to_vec();
        seeds.push(me.peer);
        seeds.sort_unstable();
        seeds.dedup();
        Self {
            me,
            seeds,
            settings,
            cluster,
            heard: BTreeMap::new(),
            complaint: None,
        }
    }

    /// The poll, and where to send it, again and again until founded.
    pub fn poll(&self) -> (Vec<SocketAddr>, Message) {
        let others = self
            .seeds
            .iter()
            .copied()
            .filter(|seed| *seed != self.me.peer)
            .collect();
        (
            others,
            Message::Poll {
                founder: self.me.clone(),
                seeds: self.seeds.clone(),
            },
        )
    }

    /// Where things stand.
    pub fn progress(&self) -> Progress {
        if let Some(complaint) = &self.complaint {
            return Progress::Waiting(complaint.clone());
        }
        let missing = self.missing();
        if missing.is_empty() && self.seeds.first() == Some(&self.me.peer) {
            let members = self
                .heard
                .values()
                .cloned()
                .chain(std::iter::once(self.me.clone()))
                .collect();
            let settings = self.settings.clone();
            return Progress::Founded(Founding::plan(self.cluster, members, settings));
        }
        Progress::Waiting(if missing.is_empty() {
            format!("waiting for {} to found the cluster", self.seeds[0])
        } else {
            format!("forming a cluster: no word yet from {}", list(&missing))
        })
    }

    /// Takes a message; gives the answer to send back, and the record if it came with it.
    pub fn receive(&mut self, message: Message) -> (Option<Message>, Option<Founding>) {
        match message {
            Message::Poll { founder, seeds } => {
                if seeds != self.seeds {
                    self.complain(&seeds);
                    return (
                        Some(Message::ListsDiffer {
                            seeds: self.seeds.clone(),
                        }),
                        None,
                    );
                }
                self.complaint = None;
                // A later life of the same place replaces the earlier one.
                self.heard.insert(founder.peer, founder);
                (
                    Some(Message::Waiting {
                        missing: self.missing(),
                    }),
                    None,
                )
            }
            Message::Waiting { .. } => (None, None),
            Message::ListsDiffer { seeds } => {
                self.complain(&seeds);
                (None, None)
            }
            Message::Founded(founding) => (None, Some(founding)),
        }
    }

    fn missing(&self) -> Vec<SocketAddr> {
        let heard = |seed: &SocketAddr| *seed == self.me.peer || self.heard.contains_key(seed);
        self.seeds
            .iter()
            .copied()
            .filter(|seed| !heard(seed))
            .collect()
    }

    fn complain(&mut self, theirs: &[SocketAddr]) {
        self.complaint = Some(format!(
            "--join differs between nodes: here {}, elsewhere {}",
            list(&self.seeds),
            list(theirs)
        ));
    }
}

/// What a node that belongs to a cluster answers to a poll.
pub fn answer(founding: &Founding, poll: &Message) -> Option<Message> {
    match poll {
        Message::Poll { .. } => Some(Message::Founded(founding.clone())),
        Message::Waiting { .. } | Message::ListsDiffer { .. } | Message::Founded(_) => None,
    }
}

fn list(addresses: &[SocketAddr]) -> String {
    addresses
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn forming(port: u16, seeds: &[u16]) -> Formation {
        let me = Founder {
            node: u128::from(port),
            boot: (1, 7, 0),
            peer: address(port),
            client: address(port - 100),
            labels: BTreeMap::new(),
        };
        let seeds: Vec<_> = seeds.iter().copied().map(address).collect();
        Formation::new(
            me,
            &seeds,
            ClusterSettings::default(),
            u128::from(port) << 64,
        )
    }

    fn exchange(from: &Formation, to: &mut Formation) -> Option<Message> {
        to.receive(from.poll().1).0
    }

    #[test]
    fn the_lowest_founds_when_all_have_answered() {
        let seeds = [7701, 7702, 7703];
        let [mut a, b, c] = seeds.map(|port| forming(port, &seeds));
        exchange(&b, &mut a);
        assert!(matches!(a.progress(), Progress::Waiting(why) if why.contains("7703")));
        exchange(&c, &mut a);
        let Progress::Founded(founding) = a.progress() else {
            panic!("not founded")
        };
        assert_eq!(founding.members.len(), 3);
        let told = answer(&founding, &b.poll().1).expect("an answer");
        let mut b = b;
        assert_eq!(b.receive(told).1, Some(founding));
    }

    #[test]
    fn a_higher_one_never_founds() {
        let seeds = [7701, 7702];
        let [a, mut b] = seeds.map(|port| forming(port, &seeds));
        exchange(&a, &mut b);
        assert!(matches!(b.progress(), Progress::Waiting(_)));
    }

    #[test]
    fn alone_it_founds_at_once() {
        let alone = forming(7701, &[]);
        assert!(matches!(alone.progress(), Progress::Founded(_)));
    }

    #[test]
    fn differing_lists_stop_it_with_both_lists_named() {
        let mut a = forming(7701, &[7701, 7702]);
        let b = forming(7702, &[7701, 7702, 7703]);
        let answer = exchange(&b, &mut a);
        assert!(matches!(answer, Some(Message::ListsDiffer { .. })));
        assert!(matches!(a.progress(), Progress::Waiting(why) if why.contains("7703")));
    }

    #[test]
    fn a_wiped_directory_is_given_the_record_that_it_is_not_in() {
        let seeds = [7701, 7702];
        let [mut a, b] = seeds.map(|port| forming(port, &seeds));
        exchange(&b, &mut a);
        let Progress::Founded(founding) = a.progress() else {
            panic!("not founded")
        };
        let mut wiped = forming(7702, &seeds);
        wiped.me.node = 999;
        let told = answer(&founding, &wiped.poll().1).expect("an answer");
        let (answer, record) = wiped.receive(told);
        assert_eq!((answer, record.as_ref()), (None, Some(&founding)));
        assert!(founding.member(999).is_none());
    }

    #[test]
    fn one_that_comes_later_through_any_member_is_given_the_record() {
        let alone = forming(7701, &[]);
        let Progress::Founded(founding) = alone.progress() else {
            panic!("not founded")
        };
        let mut late = forming(7702, &[7701]);
        let told = answer(&founding, &late.poll().1).expect("an answer");
        assert_eq!(late.receive(told).1, Some(founding));
    }
}
