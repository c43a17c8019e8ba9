//! Random definitions run on the CPU as the oracle says, whatever they do.
//!
//! `GRADSTEP_SEED` sets the seed, `GRADSTEP_CASES` the number of random cases.

#![allow(missing_docs, reason = "a test")]

#[path = "common/oracle.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with other tests")]
mod oracle;
#[path = "common/random.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the fuzz targets")]
mod random;
#[path = "common/table.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with other tests")]
#[allow(clippy::cast_possible_truncation, reason = "numbers are rounded to f32 on purpose")]
mod table;

use std::cell::RefCell;
use std::fmt::Debug;

use gradstep::Layout;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use random::Problem;

fn cases(usual: u32) -> u32 {
    let parse = |s: String| s.parse().expect("GRADSTEP_CASES is a whole number");
    std::env::var("GRADSTEP_CASES").map_or(usual, parse)
}

/// Runs `body` for so many random values, and says how to repeat what fails.
fn for_all<T: Debug>(test: &str, cases: u32, values: impl Strategy<Value = T>, body: impl Fn(T)) {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&table::base_seed().to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let run = TestRunner::new_with_rng(config, rng).run(&values, |value| {
        body(value);
        Ok(())
    });
    if let Err(error) = run {
        let seed = table::base_seed();
        panic!(
            "{error}\nRepeat: GRADSTEP_SEED={seed} GRADSTEP_CASES={cases} \
             cargo test --test random_definitions {test}"
        );
    }
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
    let cases = cases(400);
    for_all("random_definitions_equal_the_oracle", cases, problems(), |problem| {
        let levels = problem.check().unwrap_or_else(|e| {
            if std::env::var_os("SHOW_REFUSED").is_some() {
                eprintln!("{e}");
            }
            0
        });
        counts.borrow_mut()[levels] += 1;
    });
    let counts = counts.into_inner();
    let valid = cases - counts[0];
    eprintln!("{counts:?}");
    // Of a few, there may be none of a kind; those of five levels are one in three hundred.
    if cases >= 400 {
        let usual = std::env::var_os("GRADSTEP_SEED").is_none();
        let most = if usual || cases >= 4000 { 5 } else { 4 };
        assert!(valid >= cases / 2, "only {valid} of {cases} byte strings were definitions");
        for (n, count) in counts.iter().enumerate().take(most + 1).skip(1) {
            assert!(*count > 1, "only {count} definitions of {n} levels");
        }
    }
}

#[test]
fn random_definitions_are_valid_wgsl() {
    for_all("random_definitions_are_valid_wgsl", cases(60), problems(), |problem| {
        if random::recipe(problem.kind(), &problem.program).is_err() {
            return;
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
    });
}

#[test]
fn a_definition_that_becomes_another_one_stays_in_its_memory() {
    let test = "a_definition_that_becomes_another_one_stays_in_its_memory";
    let other = prop::collection::vec(any::<u8>(), 4..140);
    for_all(test, cases(100), (problems(), other), |(problem, other)| {
        let _ = problem.misbehave(&other);
    });
}
