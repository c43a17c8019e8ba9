//! What an arena refuses, in words.

use gradstep::optim::{AdamW, Came};
use gradstep::{Error, Layout};

use crate::common::gate;
use crate::run::{step, wait};

fn says(error: &Error, words: &[&str]) {
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

#[test]
fn wrong_indices_lengths_and_names_are_refused() {
    let Some(gpu) = gate::gpu() else { return };
    let arena = wait(gpu.arena(Came::new(1e-3), &[&[3, 4][..], &[5]])).expect("valid");
    assert_eq!((arena.len(), arena.is_empty()), (2, false), "two tensors");
    let error = arena.write_param(2, &[]).expect_err("no such tensor");
    assert!(matches!(error, Error::Count { expected: 2, found: 3, .. }), "{error}");
    for error in [
        arena.param(7).map(drop).expect_err("no such tensor"),
        arena.grad(usize::MAX).map(drop).expect_err("no such tensor"),
        wait(arena.read_param(2)).map(drop).expect_err("no such tensor"),
        wait(arena.read_slot(2, "exp_avg")).map(drop).expect_err("no such tensor"),
        arena.write_slot(2, "exp_avg", &[]).expect_err("no such tensor"),
    ] {
        says(&error, &["tensors", "2 are registered"]);
    }
    let error = arena.write_grad(0, &[0.0; 11]).expect_err("too short");
    says(&error, &["gradient of tensor 0", "[11]", "[3, 4]"]);
    let error = arena.write_param(1, &[0.0; 6]).expect_err("too long");
    says(&error, &["parameter of tensor 1", "[6]", "[5]"]);
    let error = arena.write_slot(0, "exp_avg_sq_row", &[0.0; 4]).expect_err("three rows");
    says(&error, &["exp_avg_sq_row", "[4]", "[3]"]);
    let error = wait(arena.read_slot(0, "momentum")).expect_err("no such slot");
    says(&error, &["came", "`momentum`", "exp_avg", "exp_avg_res_col"]);
    // Slots of the matrices are not slots of the vectors, and the other way round.
    let error = wait(arena.read_slot(1, "exp_avg_sq_row")).expect_err("of matrices only");
    says(&error, &["`exp_avg_sq_row`", "exp_avg_sq"]);
    let error = arena.write_slot(0, "exp_avg_sq", &[0.0; 12]).expect_err("of vectors only");
    says(&error, &["`exp_avg_sq`", "exp_avg_sq_row"]);
}

#[test]
fn shapes_that_are_too_large_are_refused() {
    let Some(gpu) = gate::gpu() else { return };
    let error = wait(gpu.arena(AdamW::default(), &[[1 << 20, 1 << 13]])).expect_err("2^33");
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    says(&error, &["8589934592", "4294967295"]);
    let error = wait(gpu.arena(AdamW::default(), &[[usize::MAX, 2]])).expect_err("overflow");
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}

#[test]
fn an_arena_without_tensors_or_elements_takes_steps() {
    let Some(gpu) = gate::gpu() else { return };
    let none: [[usize; 1]; 0] = [];
    let mut arena = wait(gpu.arena(Came::new(1e-3), &none)).expect("valid");
    step(gpu, &mut arena);
    assert_eq!((arena.steps(), arena.dispatches(), arena.is_empty()), (1, 0, true), "nothing");
    let shapes = [(vec![0], Layout::Auto), (vec![2, 0, 3], Layout::LastTwo)];
    let mut arena = wait(gpu.arena_with(Came::new(1e-3), &shapes)).expect("valid");
    step(gpu, &mut arena);
    assert_eq!((arena.steps(), arena.dispatches()), (1, 0), "no elements");
    assert_eq!(wait(arena.read_param(1)), Ok(vec![]), "an empty parameter");
    assert_eq!(arena.write_param(0, &[]), Ok(()), "an empty parameter");
    assert!(arena.param(0).expect("a tensor").is_empty(), "no regions");
}

#[test]
fn regions_name_every_element_once_and_begin_where_they_can_be_bound() {
    let Some(gpu) = gate::gpu() else { return };
    let shapes = [&[3, 5][..], &[70], &[65], &[3, 4, 5], &[2, 17_000]];
    let arena = wait(gpu.arena(Came::new(1e-3), &shapes)).expect("valid");
    for (i, shape) in shapes.iter().enumerate() {
        for regions in [arena.param(i), arena.grad(i)] {
            let regions = regions.expect("a tensor");
            assert_eq!(regions.len(), 1, "{shape:?} fits one binding");
            assert_eq!(regions[0].elements, 0..shape.iter().product(), "{shape:?}");
            assert_eq!(regions[0].offset % 256, 0, "{shape:?}");
            assert!(!regions[0].to_string().is_empty(), "{shape:?}");
        }
    }
}
