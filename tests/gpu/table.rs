//! Every optimizer on every shape with every family of values: the GPU equals the CPU.

use gradstep::Layout;
use gradstep::gpu::wgpu::Limits;

use crate::common::gate;
use crate::common::table::{Tensor, Values, medium_shapes, optimizers, seed_of, small_shapes};
use crate::run::{Run, tensor, wait};

/// What the GPU treats apart: sums of many row tiles, rows that are cut, many small matrices.
pub(crate) fn gpu_shapes() -> Vec<Tensor> {
    use Layout::{Auto, Flatten, LastTwo};
    [
        (&[256, 9][..], Auto),
        (&[257, 9], Auto),
        (&[700, 33], Auto),
        (&[2, 300, 20], LastTwo),
        (&[2, 16_384], Auto),
        (&[2, 16_385], Auto),
        (&[3, 17_000], Auto),
        (&[2, 2, 16_500], LastTwo),
        (&[17, 16_400], Flatten),
        (&[255, 3, 2], LastTwo),
        (&[256, 3, 2], LastTwo),
        (&[300, 1, 2], LastTwo),
        (&[20, 15, 2, 3], LastTwo),
        (&[2, 65], Auto),
    ]
    .map(|(shape, layout)| tensor(shape, layout))
    .to_vec()
}

/// Tensors whose columns four divide: around a vector, a workgroup of them and a tile, in whole rows, in
/// pieces of rows and with row tiles that are gathered.
pub(crate) fn even_shapes() -> Vec<Tensor> {
    use Layout::{Auto, LastTwo};
    [
        (&[1][..], Auto),
        (&[4], Auto),
        (&[67], Auto),
        (&[260], Auto),
        (&[5004], Auto),
        (&[5, 4], Auto),
        (&[7, 8], Auto),
        (&[17, 60], Auto),
        (&[1, 64], Auto),
        (&[40, 256], Auto),
        (&[3, 260], Auto),
        (&[2, 4100], Auto),
        (&[300, 8], Auto),
        (&[3, 5, 8], LastTwo),
        (&[260, 3, 4], LastTwo),
        (&[2, 16_388], Auto),
        (&[2, 2, 16_500], LastTwo),
    ]
    .map(|(shape, layout)| tensor(shape, layout))
    .to_vec()
}

/// Matrices of many rows, of which each tile settles its own.
pub(crate) fn tall_shapes() -> Vec<Tensor> {
    use Layout::{Auto, LastTwo};
    [(&[5000, 8][..], Auto), (&[3001, 5], Auto), (&[3, 700, 6], LastTwo)]
        .map(|(shape, layout)| tensor(shape, layout))
        .to_vec()
}

fn run(tensors: &[Tensor], values: Values, steps: u64, test: &'static str) {
    let Some(gpu) = gate::gpu() else { return };
    for case in optimizers() {
        let name = format!("{} {values:?}", case.name);
        let run =
            Run { seed: seed_of(&name), name, tensors: tensors.to_vec(), values, steps, test };
        run.check(gpu, || case.optimizer.clone(), |_, _| {});
    }
}

#[test]
fn the_device_has_exactly_the_default_limits() {
    let Some(gpu) = gate::gpu() else { return };
    assert_eq!(gpu.device().limits(), Limits::defaults(), "{}", gpu.name());
    assert!(!gpu.name().is_empty(), "the adapter has a name");
}

#[test]
fn small_tensors_with_normal_gradients_equal_the_cpu() {
    run(&small_shapes(), Values::Normal, 24, "small_tensors_with_normal_gradients_equal_the_cpu");
}

#[test]
fn small_tensors_with_mixed_gradients_equal_the_cpu() {
    run(&small_shapes(), Values::Mixed, 24, "small_tensors_with_mixed_gradients_equal_the_cpu");
}

#[test]
fn small_tensors_with_idle_rows_equal_the_cpu() {
    run(&small_shapes(), Values::IdleRows, 24, "small_tensors_with_idle_rows_equal_the_cpu");
}

#[test]
fn small_tensors_with_zero_gradients_equal_the_cpu() {
    run(&small_shapes(), Values::Zeros, 20, "small_tensors_with_zero_gradients_equal_the_cpu");
}

#[test]
fn small_tensors_with_huge_gradients_equal_the_cpu() {
    run(&small_shapes(), Values::Huge, 20, "small_tensors_with_huge_gradients_equal_the_cpu");
}

#[test]
fn medium_tensors_equal_the_cpu() {
    run(&medium_shapes(), Values::Mixed, 20, "medium_tensors_equal_the_cpu");
}

#[test]
fn tensors_of_every_way_of_cutting_equal_the_cpu() {
    let test = "tensors_of_every_way_of_cutting_equal_the_cpu";
    run(&gpu_shapes(), Values::Mixed, 20, test);
}

#[test]
fn tensors_taken_four_columns_at_once_equal_the_cpu() {
    let test = "tensors_taken_four_columns_at_once_equal_the_cpu";
    run(&even_shapes(), Values::Mixed, 12, test);
}

#[test]
fn tensors_of_every_way_of_cutting_with_idle_rows_equal_the_cpu() {
    let test = "tensors_of_every_way_of_cutting_with_idle_rows_equal_the_cpu";
    run(&gpu_shapes(), Values::IdleRows, 8, test);
}

#[test]
fn tall_matrices_equal_the_cpu() {
    let test = "tall_matrices_equal_the_cpu";
    run(&tall_shapes(), Values::Mixed, 12, test);
    // Alone it is taken four columns at once.
    run(&tall_shapes()[..1], Values::IdleRows, 12, test);
}

#[test]
fn many_tiny_tensors_beside_a_tall_one_equal_the_cpu() {
    let test = "many_tiny_tensors_beside_a_tall_one_equal_the_cpu";
    let mut tensors = vec![tensor(&[2, 3], Layout::Auto); 100];
    tensors.push(tensor(&[9000, 6], Layout::Auto));
    tensors.extend(vec![tensor(&[5, 1], Layout::Auto); 100]);
    run(&tensors, Values::Normal, 3, test);
}

/// Of one definition and kind of layout.
pub(crate) const MOST_DISPATCHES: usize = 8;

#[test]
fn three_hundred_tensors_take_as_many_dispatches_as_one_and_at_most_eight() {
    let Some(gpu) = gate::gpu() else { return };
    for case in optimizers() {
        // Vectors, whole rows, cut rows; of the matrices with and without a gather.
        for shape in [&[7][..], &[3, 5], &[300, 5], &[2, 16_385]] {
            let count = |n: usize| {
                let shapes = vec![shape; n];
                let arena = wait(gpu.arena(case.optimizer.clone(), &shapes)).expect("valid");
                arena.dispatches()
            };
            // Long rows take memory: fewer of them show the same.
            let many = if shape.contains(&16_385) { 9 } else { 300 };
            let (one, many) = (count(1), count(many));
            assert_eq!(one, many, "{} {shape:?}", case.name);
            assert!(many <= MOST_DISPATCHES, "{} {shape:?} takes {many} dispatches", case.name);
        }
    }
}

#[test]
fn an_arena_counts_the_state_that_the_cpu_counts() {
    let Some(gpu) = gate::gpu() else { return };
    for case in optimizers() {
        let tensors = small_shapes();
        let run = Run {
            name: case.name.into(),
            tensors,
            values: Values::Normal,
            seed: 1,
            steps: 0,
            test: "an_arena_counts_the_state_that_the_cpu_counts",
        };
        let arena = run.arena(gpu, case.optimizer.clone());
        let cpu: usize = run.cpu(|| case.optimizer.clone()).iter().map(|c| c.state_bytes()).sum();
        assert_eq!(arena.state_bytes(), cpu, "{}", case.name);
        assert_eq!(arena.len(), run.tensors.len(), "{}", case.name);
    }
}
