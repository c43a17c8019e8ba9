//! Random definitions run on the CPU as the oracle says, whatever they do, and on the GPU as on the CPU.
//!
//! `GRADSTEP_SEED` sets the seed, `GRADSTEP_CASES` the number of random cases.

#![allow(missing_docs, reason = "a test")]

#[path = "../common/mod.rs"]
mod common;

// Here, because the loops of random definitions take the compiler as long as those of two optimizers.
#[cfg(feature = "gpu")]
mod gpu;

use std::cell::RefCell;
use std::fmt::Debug;

use gradstep::Layout;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use common::random::Problem;
use common::{random, table};

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
        // Few long rows: what their columns are reduced to is complete after one walk down.
        6 => Just(vec![5, 300]),
        2 => Just(vec![2, 3, 270]),
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

/// Parses and validates a module, as a device without extensions does.
fn validate(source: &str) {
    let module = naga::front::wgsl::parse_str(source)
        .unwrap_or_else(|e| panic!("{}\n{source}", e.emit_to_string(source)));
    let flags = naga::valid::ValidationFlags::all();
    naga::valid::Validator::new(flags, naga::valid::Capabilities::empty())
        .validate(&module)
        .unwrap_or_else(|e| panic!("{}\n{source}", e.emit_to_string(source)));
}

#[test]
fn random_definitions_are_valid_wgsl() {
    for_all("random_definitions_are_valid_wgsl", cases(60), problems(), |problem| {
        if random::recipe(problem.kind(), &problem.program).is_err() {
            return;
        }
        problem.shaders().iter().for_each(|source| validate(source));
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
