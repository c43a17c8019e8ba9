//! Equal bits for any number of threads and on every instruction set.

use gradstep::{Cpu, Group, Isa, Missing, Setup};

use crate::common::run::{Number, Problem, bits, narrow};
use crate::common::table::*;
use crate::common::tolerance::{STATE, STEP};

/// Every instruction set of this processor, and every number of threads on the best one.
fn ways() -> Vec<Cpu> {
    let mut ways = vec![Cpu::default()];
    for isa in [Isa::Baseline, Isa::Avx2, Isa::Avx512] {
        match Cpu::single_threaded().with_isa(isa) {
            Ok(cpu) => ways.push(cpu),
            Err(error) => eprintln!("not compared: {error}"),
        }
    }
    #[cfg(feature = "parallel")]
    for threads in [2, 7] {
        ways.push(Cpu::default().with_threads(threads).expect("threads"));
    }
    ways
}

fn same_bits<T: Number>(shapes: &[Tensor], steps: u64, test: &'static str) {
    let ways = ways();
    for case in optimizers() {
        for tensor in shapes {
            let name = format!("{} {:?}", case.name, tensor.layout);
            let problem = Problem {
                seed: seed_of(&name),
                name,
                optimizer: case.optimizer.clone(),
                tensor: tensor.clone(),
                values: Values::Mixed,
                steps,
                test,
            };
            let gradients: Vec<Vec<T>> =
                (1..=steps).map(|t| narrow(&problem.gradient(t))).collect();
            let mut first = None;
            for cpu in &ways {
                let mut p: Vec<T> = narrow(&problem.start());
                let mut opt = problem.prepare::<T>(cpu);
                for g in &gradients {
                    opt.step(&mut p, g).expect("a valid step");
                }
                let mut all = bits(&p);
                for (slot, _) in opt.slots().collect::<Vec<_>>() {
                    all.extend(bits(&opt.slot(slot).expect("a slot")));
                }
                let first = first.get_or_insert_with(|| all.clone());
                let different = first.iter().zip(&all).position(|(a, b)| a != b);
                assert_eq!(
                    different,
                    None,
                    "{} on {:?}: {cpu:?} differs from {:?} at this element of parameter and slots; \
                     repeat: GRADSTEP_SEED={} cargo test --test cpu {test}",
                    problem.name,
                    tensor.shape,
                    ways[0],
                    base_seed(),
                );
            }
        }
    }
}

#[test]
fn threads_and_instructions_do_not_change_a_bit_of_f32() {
    let wide: [(&[usize], _); 2] =
        [(&[64, 32_768], gradstep::Layout::Auto), (&[1 << 21], gradstep::Layout::Auto)];
    let wide = wide.map(|(shape, layout)| Tensor { shape: shape.to_vec(), layout });
    let test = "threads_and_instructions_do_not_change_a_bit_of_f32";
    same_bits::<f32>(&all_shapes(), 3, test);
    same_bits::<f32>(&wide, 2, test);
}

#[test]
fn threads_and_instructions_do_not_change_a_bit_of_f64() {
    let test = "threads_and_instructions_do_not_change_a_bit_of_f64";
    same_bits::<f64>(&all_shapes(), 2, test);
}

/// Matrices of few columns or few rows: vectors that are not full, and every number of rows that loops do
/// not take together.
fn thin_shapes() -> Vec<[usize; 2]> {
    let mut shapes = Vec::new();
    for (i, cols) in (2..131).enumerate() {
        shapes.push([1 + i % 9, cols]);
        shapes.push([64 + i * 7 % 11, cols]);
    }
    // Several blocks of rows, and several segments.
    for cols in [2, 3, 7, 8, 9, 15, 17, 31, 127] {
        shapes.push([1000 + cols, cols]);
    }
    shapes.extend([[270_001, 2], [70_003, 9], [20_001, 33], [3, 9001], [5, 300_003]]);
    // So large that they are gone over in shorter pieces.
    shapes.extend([[800_003, 2], [3, 600_001], [48, 40_003]]);
    shapes
}

/// What is not a number has no sign and no payload that anybody promised.
fn same_number<T: Number>(x: T) -> u64 {
    let x = x.wide();
    if x.is_nan() { f64::NAN.to_bits() } else { x.to_bits() }
}

/// Steps over memory with others' around it: the same bits everywhere, within what the oracle says, and
/// nothing else is written.
fn thin_matrices<T: Number>(test: &'static str) {
    const AROUND: usize = 40;
    let ways = ways();
    for (i, [rows, cols]) in thin_shapes().into_iter().enumerate() {
        let large = rows * cols > 100_000;
        for (k, case) in optimizers().into_iter().enumerate() {
            let factored = ["adafactor", "came", "sm3"].iter().any(|f| case.name.starts_with(f));
            if !factored || (large && k % 3 != 0) {
                continue;
            }
            let problem = Problem {
                seed: seed_of(case.name) + i as u64,
                name: case.name.to_string(),
                optimizer: case.optimizer.clone(),
                tensor: Tensor { shape: vec![rows, cols], layout: gradstep::Layout::Auto },
                values: Values::Normal,
                steps: 2,
                test,
            };
            if !large {
                problem.check::<T>(&ways[0], STEP, STATE);
            }
            let mut first = None;
            for cpu in &ways {
                let mut memory = vec![T::of(7.0); rows * cols + 2 * AROUND];
                let inside = AROUND..AROUND + rows * cols;
                memory[inside.clone()].copy_from_slice(&narrow::<T>(&problem.start()));
                let mut opt = problem.prepare::<T>(cpu);
                let mut all = Vec::new();
                for t in 1..=3 {
                    let mut g: Vec<T> = narrow(&problem.gradient(t));
                    if t == 3 {
                        let at = g.len() / 2;
                        g[at] = T::of(f64::NAN);
                    }
                    opt.step(&mut memory[inside.clone()], &g).expect("a valid step");
                    all.extend(memory.iter().map(|&x| same_number(x)));
                    for (slot, _) in opt.slots().collect::<Vec<_>>() {
                        let slot = opt.slot(slot).expect("a slot");
                        all.extend(slot.into_iter().map(same_number));
                    }
                }
                let around = memory[..AROUND].iter().chain(&memory[inside.end..]);
                assert!(
                    around.copied().all(|x| x == T::of(7.0)),
                    "{} on {rows}x{cols}: {cpu:?} writes beside the parameter",
                    case.name
                );
                let first = first.get_or_insert_with(|| all.clone());
                let different = first.iter().zip(&all).position(|(a, b)| a != b);
                assert_eq!(
                    different, None,
                    "{} on {rows}x{cols}: {cpu:?} differs from {:?} at this element",
                    case.name, ways[0]
                );
            }
        }
    }
}

#[test]
fn thin_matrices_of_f32_are_the_same_everywhere() {
    thin_matrices::<f32>("thin_matrices_of_f32_are_the_same_everywhere");
}

#[test]
fn thin_matrices_of_f64_are_the_same_everywhere() {
    thin_matrices::<f64>("thin_matrices_of_f64_are_the_same_everywhere");
}

/// Several rows at a time in the nearer caches, one at a time where others have to come from the memory.
#[test]
fn a_matrix_beside_large_tensors_takes_the_steps_that_it_takes_alone() {
    let test = "a_matrix_beside_large_tensors_takes_the_steps_that_it_takes_alone";
    let shapes = [("a", vec![67, 200]), ("b", vec![9, 1025]), ("c", vec![2, 33, 70])];
    for cpu in ways() {
        for case in optimizers() {
            let setup = Setup::new()
                .tensors(shapes.clone())
                .tensor("others", [1 << 21])
                .group(Group::new("all", case.optimizer.clone()))
                .missing(Missing::Skip);
            let mut beside = setup.cpu::<f32>(&cpu).expect("a valid setup");
            let problem = |(name, shape): &(&str, Vec<usize>)| Problem {
                seed: seed_of(case.name),
                name: format!("{} of {name}", case.name),
                optimizer: case.optimizer.clone(),
                tensor: Tensor { shape: shape.clone(), layout: gradstep::Layout::Auto },
                values: Values::Normal,
                steps: 2,
                test,
            };
            let problems = shapes.each_ref().map(problem);
            let mut alone = problems.each_ref().map(|p| p.prepare::<f32>(&cpu));
            let mut params =
                problems.each_ref().map(|p| [(); 2].map(|()| narrow::<f32>(&p.start())));
            for t in 1..=2 {
                let grads = problems.each_ref().map(|p| narrow::<f32>(&p.gradient(t)));
                let mut step = beside.begin();
                for (i, [p, q]) in params.iter_mut().enumerate() {
                    alone[i].step(p.as_mut_slice(), &grads[i]).expect("a valid step");
                    step.tensor(shapes[i].0, q.as_mut_slice(), &grads[i]).expect("it fits");
                }
                step.finish().expect("a valid step");
            }
            for (i, [p, q]) in params.iter().enumerate() {
                assert_eq!(bits(p), bits(q), "{}: {cpu:?}", problems[i].name);
                for (slot, _) in alone[i].slots().collect::<Vec<_>>() {
                    let both = [alone[i].slot(slot), beside.slot(shapes[i].0, slot)];
                    let [alone, beside] = both.map(|s| bits(&s.expect("a slot")));
                    assert_eq!(alone, beside, "`{slot}` of {}: {cpu:?}", problems[i].name);
                }
            }
        }
    }
}
