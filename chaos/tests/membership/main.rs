//! The agreed membership of simulated clusters: whatever is killed, cut off, paused, loses power or a
//! disk, the view logs on all disks are parts of one sequence, each view in them is proven, and when the
//! faults are over all nodes come to one configuration. `whole` runs whole nodes; `alone` runs only their
//! memberships, of 5 to 30 nodes; `idle` lets a cluster stand still and counts what it sends.
//! `SEEDS=FIRST..LAST` runs other seeds.
#![cfg(madsim)]

mod alone;
mod idle;
mod strikes;
#[path = "../support/mod.rs"]
mod support;
mod whole;

use std::time::{Duration, Instant};

use madsim::runtime::Runtime;
use synod_chaos::invariant::views::{self, Views};
use synod_chaos::world::World;

use support::{log, seeds};

/// For so long faults strike.
const SAFETY: Duration = Duration::from_secs(40);
/// After it, those that are members are in one configuration.
const AGREEMENT: Duration = Duration::from_secs(30);
/// After it, those that were removed alive are back, too: they show clean links for a minute first, and
/// for longer each time.
const RETURN: Duration = Duration::from_secs(400);
/// No storm lasts longer.
const LIMIT: Duration = Duration::from_secs(1_200);

/// Holds the view logs on all disks against each other, and against what they said before.
fn look(views: &mut Views, world: &World) -> Result<(), String> {
    (0..world.nodes()).try_for_each(|node| {
        let log = world.disk(node).content(views::FILE);
        views.look(node, &log.unwrap_or_default())
    })
}

/// Runs storms, one a seed, and fails with all those that ended badly.
fn for_seeds<F>(default: std::ops::Range<u64>, storm: impl Fn(u64) -> F)
where
    F: Future<Output = Result<String, String>>,
{
    log();
    let mut wrecks = Vec::new();
    for seed in seeds(default) {
        let began = Instant::now();
        let mut runtime = Runtime::with_seed_and_config(seed, madsim::Config::default());
        runtime.set_time_limit(LIMIT);
        let ended = runtime.block_on(storm(seed));
        let wall_ms = began.elapsed().as_millis();
        match ended {
            Ok(summary) => println!("membership seed {seed}: {summary} ({wall_ms} ms)"),
            Err(violation) => {
                println!("membership seed {seed} FAILED: {violation}");
                wrecks.push(seed);
            }
        }
    }
    assert!(wrecks.is_empty(), "seeds that ended badly: {wrecks:?}");
}
