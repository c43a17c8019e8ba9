//! Whether tests that need a graphics device run: `GRADSTEP_GPU=require|auto|off`.
//!
//! `require` fails where no adapter is found, `auto` (the default) says what it skipped, `off`
//! skips. A device is opened with exactly WebGPU's default limits, so what passes here fits every
//! device there is.
//!
//! `GRADSTEP_ADAPTER` is a part of the adapter's name: on another one tests fail, so that a run that is
//! meant for one adapter does not pass on another.

use std::io::Write as _;
use std::sync::OnceLock;

use gradstep::gpu::Gpu;
use gradstep::gpu::wgpu::Limits;

/// The device that all tests of a process share, or `None` if this test is to be skipped.
pub fn gpu() -> Option<&'static Gpu> {
    static SHARED: OnceLock<Result<Gpu, String>> = OnceLock::new();
    if off() {
        return None;
    }
    let open = || pollster::block_on(Gpu::open()).map(meant).map_err(|e| e.to_string());
    let opened = SHARED.get_or_init(open);
    opened.as_ref().map_err(|reason| skip(reason)).ok()
}

/// A device of the test's own, to lose it or to lower its limits.
pub fn own(limits: Limits) -> Option<Gpu> {
    if off() {
        return None;
    }
    match pollster::block_on(Gpu::open_with(limits)) {
        Ok(gpu) => Some(meant(gpu)),
        Err(e) => {
            skip(&e.to_string());
            None
        }
    }
}

/// Says that the test at hand is skipped, past the harness, which hides what a test prints.
pub fn skip(reason: &str) {
    assert!(mode() != "require", "GRADSTEP_GPU=require, but {reason}");
    say(&format!("SKIPPED (nothing was tested on a GPU): {reason}"));
}

/// The device, which is one of the adapter that is asked for.
fn meant(gpu: Gpu) -> Gpu {
    if let Ok(wanted) = std::env::var("GRADSTEP_ADAPTER") {
        let name = gpu.name();
        assert!(name.contains(&wanted), "GRADSTEP_ADAPTER={wanted}, but the adapter is {name}");
    }
    gpu
}

fn off() -> bool {
    let off = mode() == "off";
    if off {
        say("skipped: GRADSTEP_GPU=off");
    }
    off
}

fn mode() -> String {
    let mode = std::env::var("GRADSTEP_GPU").unwrap_or_else(|_| "auto".into());
    assert!(
        ["require", "auto", "off"].contains(&mode.as_str()),
        "GRADSTEP_GPU is {mode:?}; it must be `require`, `auto` or `off`"
    );
    mode
}

fn say(what: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let _ = writeln!(std::io::stderr(), "{test}: {what}");
}
