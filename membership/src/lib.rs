//! Agreed membership, after Rapid (Suresh et al., "Stable and Consistent Membership at Scale with Rapid", ATC 2018).
//!
//! Every node installs the same sequence of configurations. Each member is watched by K others on an expander overlay
//! ([`topology`]); what they report is gathered until a stable cut emerges (`cut_detector`); the cut is decided
//! by a leaderless fast round, or by classic rounds where that cannot succeed (`consensus`). [`node::Node`] joins these
//! into one state machine without I/O: it is given events and the time, and yields effects.
//!
//! Where we go beyond the paper: proposals carry whole members; decisions carry certificates and are kept in a durable
//! log, from which laggards catch up; votes are durable, so a configuration survives the restart of all of its members;
//! restarts are a cut of their own; small clusters use distinct observers and scaled watermarks; alerts expire.
//!
//! What this crate does not do: open sockets, read clocks, touch disks, or know what the members are for.

#[cfg(feature = "sim")]
pub mod baseline;
pub mod bitmap;
pub mod catalog;
mod chain;
pub mod codec;
pub mod configuration;
mod consensus;
pub mod cut;
mod cut_detector;
pub mod durable;
pub mod effect;
pub mod event;
mod hash;
pub mod id;
pub mod member;
pub mod message;
mod monitor;
pub mod node;
mod places;
pub mod recovery;
pub mod rng;
pub mod settings;
#[cfg(feature = "sim")]
pub mod sim;
pub mod status;
pub mod time;
pub mod topology;
pub mod view;
mod voters;
