//! What the tests over seeds share: which seeds, and where the nodes' log goes.

use std::ops::Range;

/// The seeds that `SEEDS=FIRST..LAST` names, or else these.
pub fn seeds(default: Range<u64>) -> Range<u64> {
    match std::env::var("SEEDS") {
        Ok(text) => {
            let (first, last) = text.split_once("..").expect("SEEDS=FIRST..LAST");
            first.parse().expect("a number")..last.parse().expect("a number")
        }
        Err(_) => default,
    }
}

/// What `RUST_LOG` asks for goes to the test's output.
pub fn log() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_test_writer()
        .try_init();
}
