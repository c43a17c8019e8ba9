//! Random definitions run on the CPU as the oracle says, whatever they do.

#![allow(missing_docs, reason = "a test")]

#[path = "common/oracle.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with other tests")]
mod oracle;
#[path = "common/random.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the fuzz targets")]
mod random;

use std::cell::RefCell;

use gradstep::Layout;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use random::Problem;

fn runner(cases: u32) -> TestRunner {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    TestRunner::new_with_rng(Config { cases, failure_persistence: None, ..Config::default() }, rng)
}

fn problems() -> impl Strategy<Value = Problem> {
    let dims = prop_oneof![
        40 => prop::collection::vec(1usize..40, 1..=2),
        20 => prop::collection::vec(1usize..6, 3..=5),
        // Several blocks of rows.
        5 => Just(vec![150, 19]),
        2 => Just(vec![9, 3000]),
        // A few very long rows, whose levels do not share sweeps.
        1 => Just(vec![2, (1 << 15) + 5]),
        1 => Just(vec![70_001]),
    ];
    let layout = prop_oneof![
        Just(Layout::Auto),
        Just(Layout::LastTwo),
        Just(Layout::Flatten),
        Just(Layout::Vector)
    ];
    let program = prop::collection::vec(any::<u8>(), 4..140);
    (program, dims, layout, any::<u32>(), 1u64..4).prop_map(
        |(program, shape, layout, seed, steps)| {
            // Long tensors are slow in the oracle.
            let steps = if shape.iter().product::<usize>() > 10_000 { steps.min(2) } else { steps };
            Problem { program, shape, layout, seed: seed.into(), steps }
        },
    )
}

#[test]
fn random_definitions_equal_the_oracle() {
    // Definitions by their number of levels; 0: refused.
    let counts = RefCell::new([0; 9]);
    runner(400)
        .run(&problems(), |problem| {
            let levels = problem.check().unwrap_or_else(|e| {
                if std::env::var_os("SHOW_REFUSED").is_some() {
                    eprintln!("{e}");
                }
                0
            });
            counts.borrow_mut()[levels] += 1;
            Ok(())
        })
        .unwrap_or_else(|e| panic!("{e}"));
    let counts = counts.into_inner();
    let valid = 400 - counts[0];
    eprintln!("{counts:?}");
    assert!(valid >= 200, "only {valid} of 400 byte strings were definitions");
    for (n, count) in counts.iter().enumerate().take(6).skip(1) {
        assert!(*count > 1, "only {count} definitions of {n} levels");
    }
}

#[test]
fn random_definitions_are_valid_wgsl() {
    runner(60)
        .run(&problems(), |problem| {
            if random::recipe(problem.kind(), &problem.program).is_err() {
                return Ok(());
            }
            for source in problem.shaders() {
                let module = naga::front::wgsl::parse_str(&source)
                    .unwrap_or_else(|e| panic!("{}\n{source}", e.emit_to_string(&source)));
                let flags = naga::valid::ValidationFlags::all();
                let capabilities = naga::valid::Capabilities::empty();
                naga::valid::Validator::new(flags, capabilities)
                    .validate(&module)
                    .unwrap_or_else(|e| panic!("{}\n{source}", e.emit_to_string(&source)));
            }
            Ok(())
        })
        .unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn a_definition_that_becomes_another_one_stays_in_its_memory() {
    let other = prop::collection::vec(any::<u8>(), 4..140);
    runner(100)
        .run(&(problems(), other), |(problem, other)| {
            let _ = problem.misbehave(&other);
            Ok(())
        })
        .unwrap_or_else(|e| panic!("{e}"));
}
