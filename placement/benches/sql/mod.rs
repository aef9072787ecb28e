//! Instances as SQL text, for what is measured through the general compiler.

pub mod deltas;
pub mod loss;
pub mod rebalance;

use std::fmt::Write as _;

/// A small generator of its own: the same instance on every machine.
pub struct Random(u64);

impl Default for Random {
    fn default() -> Random {
        Random(0x9E37_79B9_7F4A_7C15)
    }
}

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

/// INSERT statements of a few hundred rows each.
pub fn insert(sql: &mut String, table: &str, rows: &[String]) {
    for chunk in rows.chunks(500) {
        let _ = writeln!(sql, "INSERT INTO {table} VALUES {};", chunk.join(", "));
    }
}

/// Milliseconds that this thread has run: on a shared machine the clock measures the neighbours too.
pub fn cpu_ms() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = stat
        .split_whitespace()
        .next()
        .and_then(|ns| ns.parse::<f64>().ok());
    first.map_or(f64::NAN, |ns| ns / 1e6)
}
