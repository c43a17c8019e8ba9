//! Equal bits for any number of threads and on every instruction set.

use gradstep::{Cpu, Isa};

use crate::common::run::{Number, Problem, bits, narrow};
use crate::common::table::*;

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
