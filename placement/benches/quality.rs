//! Time and quality of whole rebalances: one line per instance. Not statistics, an overview:
//! `cargo bench -p synod-placement --bench quality [-- FILTER]`.

mod instances;

use std::time::Instant;

use instances::{Shape, Spec, Start, build};
use synod_placement::solve::{Config, Scope, solve};

fn main() {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let shapes = [
        ("plain", Shape::Plain),
        ("domiciled", Shape::Domiciled),
        ("tight 0.5%", Shape::Tight(5)),
    ];
    let starts = [
        ("unplaced", Start::Unplaced),
        ("random", Start::Random),
        ("half", Start::Half),
    ];
    for (shards, nodes) in [(1_000, 50), (10_000, 100)] {
        for (shape_name, shape) in shapes {
            for (start_name, start) in starts {
                let name = format!("{shards}x3x{nodes} {shape_name}, {start_name}");
                if filter
                    .as_ref()
                    .is_some_and(|filter| !name.contains(filter.as_str()))
                {
                    continue;
                }
                for seed in 0..3 {
                    let spec = Spec {
                        shards,
                        nodes,
                        seed,
                        start,
                        shape,
                    };
                    let mut instance = build(spec).expect("instance");
                    let begin = Instant::now();
                    instance.model.refresh().expect("refresh");
                    let sealed = begin.elapsed();
                    let config = Config {
                        seed,
                        ..Config::default()
                    };
                    let begin = Instant::now();
                    let outcome = solve(&mut instance.model, Scope::All, &config, &mut || false)
                        .expect("solve");
                    let took = begin.elapsed();
                    let tier = outcome.tiers.first();
                    let (value, bound) = tier.map_or((0, 0), |tier| (tier.value, tier.bound));
                    let gap = (value - bound.max(0)) as f64 / (bound.max(1)) as f64 * 100.0;
                    println!(
                        "{name:40} seed {seed}: {:?} value {value} bound {bound} gap {gap:.3}% \
                         broken {} in {:.1} ms ({} evaluations), refresh {:.1} ms",
                        outcome.status,
                        outcome.broken.len(),
                        took.as_secs_f64() * 1e3,
                        outcome.evaluations,
                        sealed.as_secs_f64() * 1e3,
                    );
                }
            }
        }
    }
}
