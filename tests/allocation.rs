//! After the first step a step on one thread allocates nothing.
//!
//! A binary of its own: the allocator counts everything that the process does.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use gradstep::optim::{AdamW, Came};
use gradstep::{
    Accumulation, Average, Cpu, CpuStep, Gradients, Group, LossScale, Schedule, Select, Setup,
};
use ndarray::Array2;

use common::run::{Number, narrow};
use common::table::{Any, Values, gradient, optimizers, params};

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is the system's allocator; counting touches a thread-local Cell only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = COUNT.try_with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(p, layout) }
    }
    unsafe fn realloc(&self, p: *mut u8, layout: Layout, n: usize) -> *mut u8 {
        let _ = COUNT.try_with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's contract.
        unsafe { System.realloc(p, layout, n) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(f: impl FnOnce()) -> usize {
    let before = COUNT.get();
    f();
    COUNT.get() - before
}

fn no_allocation<T: Number>() {
    for case in optimizers() {
        for shape in [&[][..], &[1000], &[33, 21], &[300, 700], &[3, 40_000], &[4, 5, 6]] {
            let n: usize = shape.iter().product();
            let mut p: Vec<T> = narrow(&params(1, n));
            let g: Vec<T> = narrow(&gradient(Values::Normal, 1, 1, shape));
            let mut opt: CpuStep<T, Any> =
                Cpu::single_threaded().prepare(case.optimizer.clone(), shape).expect("valid");
            opt.step(&mut p, &g).expect("valid");
            opt.optimizer_mut().set("lr", 0.5); // room for the override
            for t in 1..4 {
                let count = allocations(|| {
                    opt.optimizer_mut().set("lr", 0.1 / f64::from(t));
                    opt.step(&mut p[..], &g[..]).expect("valid");
                });
                assert_eq!(count, 0, "{} on {shape:?}, slices", case.name);
            }
            let &[rows, cols] = shape else { continue };
            let mut a = Array2::from_shape_vec((rows, cols), p).expect("its size");
            let g = Array2::from_shape_vec((rows, cols), g).expect("its size");
            let count = allocations(|| {
                opt.step(&mut a, &g).expect("valid");
                opt.step(a.view_mut(), g.view()).expect("valid");
            });
            assert_eq!(count, 0, "{} on {shape:?}, views", case.name);
            // Strided: the first step makes room for copies.
            let mut b = Array2::from_elem((cols, rows), T::of(0.5));
            opt.step(b.t().mapv(|x| x).view_mut(), &g).expect("valid");
            opt.step(b.view_mut().reversed_axes(), &g).expect("valid");
            let count = allocations(|| opt.step(b.view_mut().reversed_axes(), &g).expect("valid"));
            assert_eq!(count, 0, "{} on {shape:?}, strided views", case.name);
        }
    }
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(vec![1, 2, 3]))), 1);
}

#[test]
fn a_step_allocates_nothing_after_the_first() {
    no_allocation::<f32>();
    no_allocation::<f64>();
}

/// A set of tensors with everything that goes around a step.
fn no_allocation_in_a_set<T: Number>() {
    let shapes: [(&str, &[usize]); 4] =
        [("w", &[33, 21]), ("b", &[21]), ("s", &[]), ("c", &[4, 3, 3, 3])];
    let lr = Schedule::cosine(1e-2, 0.0, 100).expect("valid").with_warmup(3);
    let gradients =
        Gradients::new().clip_norm(1.0).clip_value(3.0).loss_scale(LossScale::dynamic());
    let plain = Setup::new()
        .tensors(shapes)
        .group(Group::new("matrices", Came::new(1e-2)).of(Select::rank(2..)).schedule("lr", lr))
        .group(Group::new("others", AdamW::new(1e-2)));
    let full = plain.clone().gradients(gradients).average(Average::Ema { decay: 0.9 }).watch();
    let sums = full.clone().accumulate(Accumulation::Mean);
    let mut params = shapes.map(|(_, shape)| narrow::<T>(&params(1, shape.iter().product())));
    let grads = shapes.map(|(_, shape)| narrow::<T>(&gradient(Values::Normal, 1, 1, shape)));
    // Nothing is clipped before the last step.
    let late = plain.clone().gradients(Gradients::new().clip_norm(1e6));
    for setup in [&plain, &full, &late] {
        let mut set = setup.cpu::<T>(&Cpu::single_threaded()).expect("valid");
        for t in 0..4 {
            let mut grads = grads.clone();
            if t == 3 {
                grads.iter_mut().flatten().for_each(|g| *g = *g * T::of(1e6));
            }
            let count = allocations(|| {
                let mut step = set.begin();
                for (((name, _), p), g) in shapes.iter().zip(&mut params).zip(&grads) {
                    step.tensor(*name, &mut p[..], &g[..]).expect("lent");
                }
                step.finish().expect("a step");
            });
            assert!(t == 0 || count == 0, "{count} allocations in step {t}");
        }
    }
    let mut set = plain.cpu::<T>(&Cpu::single_threaded()).expect("valid");
    for t in 0..4 {
        let count = allocations(|| {
            let mut step = set.begin_release().expect("nothing needs all gradients");
            for (((name, _), p), g) in shapes.iter().zip(&mut params).zip(&grads) {
                step.tensor(*name, &mut p[..], &g[..]).expect("lent");
            }
            step.finish().expect("a step");
        });
        assert!(t == 0 || count == 0, "{count} allocations in released step {t}");
    }
    let mut set = sums.cpu::<T>(&Cpu::single_threaded()).expect("valid");
    for t in 0..4 {
        let count = allocations(|| {
            for ((name, _), g) in shapes.iter().zip(&grads) {
                set.accumulate(*name, &g[..]).expect("a micro-batch");
                set.accumulate(*name, &g[..]).expect("a micro-batch");
            }
            let mut step = set.begin();
            for ((name, _), p) in shapes.iter().zip(&mut params) {
                step.param(*name, &mut p[..]).expect("lent");
            }
            step.finish().expect("a step");
        });
        assert!(t == 0 || count == 0, "{count} allocations in step {t} of micro-batches");
    }
}

#[test]
fn a_step_of_a_set_allocates_nothing_after_the_first() {
    no_allocation_in_a_set::<f32>();
    no_allocation_in_a_set::<f64>();
}
