//! The protocol in a small deterministic world: what each rule promises, under the faults that it is about.

mod agreement;
mod identity;
mod joins;
mod links;
mod restarts;
mod scale;
mod schedule;
mod steady;
mod storm;
mod world;
