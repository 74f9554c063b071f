//! deltaworks: arguments in, exit code out.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may stop"))]

mod args;
mod bar;
mod ending;
mod health;
mod lineage;
mod live;
mod logging;
mod output;
mod signals;
mod verbs;

use clap::Parser;
use std::process::ExitCode;

// Keeps freed pages for some seconds: a flush frees what the next one takes again. librdkafka uses it too.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

// One arena for each processor, not four: the windows of one date and the next are not kept by different ones.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "jemalloc reads its options under this name")]
#[unsafe(export_name = "malloc_conf")]
static MALLOC_CONF: &[u8] = b"percpu_arena:percpu\0";

fn main() -> ExitCode {
    let _faults = deltaworks_jobs::faults::arm();
    let args = args::Args::parse();
    let screen = logging::start(&args.global);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::talk(&format!("error: the async runtime cannot be started: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let lineage = lineage::Lineage::new();
    let ending = runtime.block_on(verbs::run(&args, &screen, &lineage));
    let code = ending.finish(&args.global);
    // the result is out: a supervisor that grows impatient takes nothing but lineage
    runtime.block_on(lineage.end());
    // what is left in the background (an abandoned upload) must not delay the exit
    runtime.shutdown_background();
    code
}
