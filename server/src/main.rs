//! The `synod` program. All of it is in the library.

/// glibc's allocator took an eighth of the CPU of a write, and kept what a checkpoint had freed.
#[cfg(not(madsim))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(not(madsim))]
fn main() -> std::process::ExitCode {
    // The allocator asks for huge pages: of 67 MiB that a node at rest took, it had written 26, and of 220
    // with 200,000 keys, 170. Without them a write costs no more CPU. Where they cannot be turned off, it
    // works all the same.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    synod::cli::run(std::env::args_os())
}

/// In the simulator nodes are started by worlds, not as processes.
#[cfg(madsim)]
fn main() {}
