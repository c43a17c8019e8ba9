//! After the first step a step on one thread allocates nothing.
//!
//! A binary of its own: the allocator counts everything that the process does.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use gradstep::{Cpu, CpuStep};
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
