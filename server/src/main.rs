//! The `synod` program. All of it is in the library.

/// glibc's allocator took an eighth of the CPU of a write, and kept what a checkpoint had freed.
#[cfg(not(madsim))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(not(madsim))]
fn main() -> std::process::ExitCode {
    synod::cli::run(std::env::args_os())
}

/// In the simulator nodes are started by worlds, not as processes.
#[cfg(madsim)]
fn main() {}
