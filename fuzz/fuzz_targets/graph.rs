//! A random definition: the CPU equals the oracle, its WGSL is valid, and a definition that is not
//! the one that was prepared stays within its memory.
//!
//! `cargo +nightly fuzz run graph`

#![no_main]

#[path = "../../tests/common/oracle.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests")]
mod oracle;
#[path = "../../tests/common/random.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests")]
mod random;

use gradstep::Layout;
use libfuzzer_sys::fuzz_target;
use random::Problem;

fuzz_target!(|data: &[u8]| {
    let Some((&[rank, a, b, c, layout, seed, steps, other], program)) = data.split_first_chunk()
    else {
        return;
    };
    let dim = |x: u8, most: usize| 1 + usize::from(x) % most;
    let shape = match rank % 8 {
        0 => vec![dim(a, 250)],
        1..=4 => vec![dim(a, 70), dim(b, 70)],
        5 | 6 => vec![dim(a, 5), dim(b, 20), dim(c, 20)],
        _ => vec![2, dim(a, 3), 1, dim(b, 5), dim(c, 5)],
    };
    let layouts = [Layout::Auto, Layout::LastTwo, Layout::Flatten, Layout::Vector];
    let problem = Problem {
        program: program.to_vec(),
        shape,
        layout: layouts[usize::from(layout) % layouts.len()],
        seed: seed.into(),
        steps: 1 + u64::from(steps) % 3,
    };
    if problem.check().is_err() {
        return;
    }
    for source in problem.shaders() {
        let module = naga::front::wgsl::parse_str(&source)
            .unwrap_or_else(|e| panic!("{}\n{source}", e.emit_to_string(&source)));
        let (flags, capabilities) =
            (naga::valid::ValidationFlags::all(), naga::valid::Capabilities::empty());
        naga::valid::Validator::new(flags, capabilities)
            .validate(&module)
            .unwrap_or_else(|e| panic!("{}\n{source}", e.emit_to_string(&source)));
    }
    let (head, tail) = program.split_at(program.len().min(other.into()));
    let _ = problem.misbehave(&[tail, head].concat());
});
