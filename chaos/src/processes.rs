//! Runs against real processes, one after another.

use std::time::Instant;

use synod_chaos::real::{Means, NodeProgram, run as run_plan};
use synod_chaos::report::write_files;

use crate::cli::Simulate;

/// Carries out what was asked for.
pub fn run(request: &Simulate) -> Result<(), String> {
    let temporary = std::env::temp_dir();
    let (means, missing) = Means::find(&temporary);
    for what in missing {
        println!("{what}");
    }
    let mut menu = request.menu.clone();
    menu.faults.retain(|fault| means.permit(*fault));
    // The program lies beside this one: one build makes both.
    let program = std::env::current_exe()
        .map_err(|error| format!("cannot find this program: {error}"))?
        .with_file_name("synod");
    let started = Instant::now();
    let first_seed = request.seed.unwrap_or(0);
    let seeds = request.seeds.unwrap_or(u64::MAX);
    for seed in (first_seed..).take(usize::try_from(seeds).unwrap_or(usize::MAX)) {
        if request.time.is_some_and(|time| started.elapsed() > time) {
            break;
        }
        let plan = menu.plan(seed);
        let name = format!("synod-chaos-{}-{seed}", std::process::id());
        let folder = temporary.join(&name);
        let node = NodeProgram {
            path: &program,
            folder: &folder,
            name,
        };
        let report = run_plan(&plan, &node, means)?;
        let [ok, failed, unknown] = report.counts();
        println!(
            "[{:6.1} s] {plan}: {ok} succeeded, {failed} failed, {unknown} unknown",
            started.elapsed().as_secs_f64()
        );
        if let Some(failure) = &report.failure {
            let files = request.report.join(format!("real-{seed}"));
            write_files(&files, &plan, &report)
                .map_err(|error| format!("cannot write {}: {error}", files.display()))?;
            return Err(format!(
                "{failure}\nwritten: {}; logs of the nodes, and their data where it is not in memory: {}",
                files.display(),
                folder.display()
            ));
        }
        std::fs::remove_dir_all(&folder)
            .map_err(|error| format!("cannot remove {}: {error}", folder.display()))?;
    }
    Ok(())
}
