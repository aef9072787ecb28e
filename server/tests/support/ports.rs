//! Ports for programs that a test starts.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Ports of one test program: as many as its tests take.
const OWN: u16 = 400;

/// `count` ports in a row that are free now, others for each call. None that the system gives to
/// outgoing connections: a node that is down would not get its own back.
pub fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = 12_000 + u16::try_from(std::process::id() % 50).expect("small") * OWN;
    loop {
        let first = own + NEXT.fetch_add(count, Ordering::Relaxed) % OWN;
        let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if (first..first + count).all(is_free) {
            return first;
        }
    }
}
