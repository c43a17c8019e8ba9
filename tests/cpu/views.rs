//! Memory of any strides gives the bits that contiguous memory gives.

use gradstep::Cpu;
use ndarray::{Array2, Array3, ArrayD, IxDyn, ShapeBuilder, s};

use crate::common::run::{Number, bits, narrow};
use crate::common::table::*;

/// Steps through contiguous memory.
fn plain<T: Number>(case: &Case, shape: &[usize], p: &[T], g: &[T]) -> Vec<T> {
    let mut opt = Cpu::default().prepare(case.optimizer.clone(), shape).expect("valid");
    let mut p = p.to_vec();
    for _ in 0..3 {
        opt.step(&mut p, g).expect("valid");
    }
    p
}

fn numbers<T: Number>(n: usize) -> (Vec<T>, Vec<T>) {
    (narrow(&params(5, n)), narrow(&gradient(Values::Normal, 5, 1, &[n])))
}

fn strided_equals_contiguous<T: Number>() {
    for case in optimizers() {
        let name = case.name;
        let prepare = |shape: &[usize]| {
            Cpu::default().prepare::<T, _>(case.optimizer.clone(), shape).expect("valid")
        };
        let (p, g) = numbers::<T>(5 * 19);
        let wanted = plain(&case, &[5, 19], &p, &g);
        let p2 = Array2::from_shape_vec((5, 19), p.clone()).expect("95 elements");
        let g2 = Array2::from_shape_vec((5, 19), g.clone()).expect("95 elements");

        // Column-major memory: the view is transposed.
        let mut turned = Array2::from_shape_fn((5, 19).f(), |at| p2[at]);
        let turned_g = Array2::from_shape_fn((5, 19).f(), |at| g2[at]);
        let mut opt = prepare(&[5, 19]);
        opt.step(&mut turned, &turned_g).expect("valid");
        opt.step(turned.view_mut(), g2.view()).expect("valid");
        opt.step(&mut turned, &g).expect("a slice beside an array");
        let found: Vec<T> = turned.iter().copied().collect();
        assert_eq!(bits(&found), bits(&wanted), "{name}, transposed");

        // Every second row and every third column of something larger, both reversed.
        let fill = T::of(0.125);
        let mut large = Array2::from_elem((10, 57), fill);
        let mut large_g = Array2::from_elem((10, 57), fill);
        large.slice_mut(s![..;-2, ..;-3]).assign(&p2);
        large_g.slice_mut(s![..;-2, ..;-3]).assign(&g2);
        let mut opt = prepare(&[5, 19]);
        for _ in 0..3 {
            opt.step(large.slice_mut(s![..;-2, ..;-3]), large_g.slice(s![..;-2, ..;-3]))
                .expect("valid");
        }
        let found: Vec<T> = large.slice(s![..;-2, ..;-3]).iter().copied().collect();
        assert_eq!(bits(&found), bits(&wanted), "{name}, stepped and reversed");
        large.slice_mut(s![..;-2, ..;-3]).fill(fill);
        assert!(large.iter().all(|&x| x == fill), "{name}: an element beside the view changed");

        // A gradient that is one number, broadcast: strides of zero.
        let one = ndarray::arr0(T::of(0.5));
        let wanted = plain(&case, &[5, 19], &p, &[T::of(0.5); 95]);
        let mut found = p2.clone();
        let mut opt = prepare(&[5, 19]);
        for _ in 0..3 {
            opt.step(&mut found, one.broadcast((5, 19)).expect("a scalar")).expect("valid");
        }
        assert_eq!(bits(found.as_slice().expect("own")), bits(&wanted), "{name}, broadcast");

        // Three dimensions in another order, and a dynamic number of them.
        let (p, g) = numbers::<T>(60);
        let wanted = plain(&case, &[3, 4, 5], &p, &g);
        let p3 = Array3::from_shape_vec((3, 4, 5), p.clone()).expect("60 elements");
        let mut other = Array3::from_shape_fn((5, 3, 4), |(k, i, j)| p3[[i, j, k]]);
        let g3 = ArrayD::from_shape_vec(IxDyn(&[3, 4, 5]), g.clone()).expect("60 elements");
        let mut opt = prepare(&[3, 4, 5]);
        for _ in 0..3 {
            opt.step(other.view_mut().permuted_axes([1, 2, 0]), &g3).expect("valid");
        }
        let found: Vec<T> = other.view().permuted_axes([1, 2, 0]).iter().copied().collect();
        assert_eq!(bits(&found), bits(&wanted), "{name}, permuted");
    }
}

#[test]
fn strided_views_equal_contiguous_memory_bit_for_bit() {
    strided_equals_contiguous::<f32>();
    strided_equals_contiguous::<f64>();
}
