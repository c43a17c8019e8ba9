//! Runs a case on the CPU and on the oracle, and compares.

use gradstep::{Cpu, CpuStep, Element};

use super::oracle::Oracle;
use super::table::{Any, Tensor, Values, gradient, params};
use super::tolerance::{self, Tolerance, What};

/// A type of number that a backend computes with.
pub trait Number: Element {
    const UNIT: f64;
    fn of(x: f64) -> Self;
    fn wide(self) -> f64;
    fn bits(self) -> u64;
}

impl Number for f32 {
    const UNIT: f64 = tolerance::F32;
    fn of(x: f64) -> Self {
        x as Self
    }
    fn wide(self) -> f64 {
        self.into()
    }
    fn bits(self) -> u64 {
        self.to_bits().into()
    }
}

impl Number for f64 {
    const UNIT: f64 = tolerance::F64;
    fn of(x: f64) -> Self {
        x
    }
    fn wide(self) -> f64 {
        self
    }
    fn bits(self) -> u64 {
        self.to_bits()
    }
}

pub fn narrow<T: Number>(x: &[f64]) -> Vec<T> {
    x.iter().map(|&x| T::of(x)).collect()
}

pub fn widen<T: Number>(x: &[T]) -> Vec<f64> {
    x.iter().map(|&x| x.wide()).collect()
}

pub fn bits<T: Number>(x: &[T]) -> Vec<u64> {
    x.iter().map(|&x| x.bits()).collect()
}

/// A problem to be solved by whoever can.
#[derive(Clone, Debug)]
pub struct Problem {
    pub name: String,
    pub optimizer: Any,
    pub tensor: Tensor,
    pub values: Values,
    pub seed: u64,
    pub steps: u64,
    pub test: &'static str,
}

impl Problem {
    pub fn prepare<T: Number>(&self, cpu: &Cpu) -> CpuStep<T, Any> {
        let Tensor { shape, layout } = &self.tensor;
        cpu.prepare_with(self.optimizer.clone(), shape, *layout)
            .unwrap_or_else(|e| panic!("{} on {shape:?}: {e}", self.name))
    }

    pub fn start(&self) -> Vec<f64> {
        params(self.seed, self.tensor.shape.iter().product())
    }

    pub fn gradient(&self, t: u64) -> Vec<f64> {
        gradient(self.values, self.seed, t, &self.tensor.shape)
    }

    pub fn what(&self, t: u64) -> What<'_> {
        What {
            case: &self.name,
            shape: &self.tensor.shape,
            seed: self.seed,
            step: t,
            test: self.test,
        }
    }

    /// Parameters and state of the CPU equal those of the oracle, after every step.
    pub fn check<T: Number>(&self, cpu: &Cpu, step: Tolerance, state: Tolerance) {
        let mut opt = self.prepare::<T>(cpu);
        let mut oracle = Oracle::new(opt.dims());
        let graph = opt.plan().graph.clone();
        let start = self.start();
        let mut wanted = start.clone();
        let mut found: Vec<T> = narrow(&start);
        let mut moved = 0.0;
        let mut sizes = std::collections::BTreeMap::new();
        for t in 1..=self.steps {
            let g = self.gradient(t);
            opt.step(&mut found, &narrow::<T>(&g)).expect("a valid step");
            oracle.step_graph(&graph, &|name| self.optimizer.get(name), &mut wanted, &g);
            tolerance::check(
                step,
                T::UNIT,
                &self.what(t),
                &mut moved,
                &start,
                &widen(&found),
                &wanted,
            );
            for (name, wanted) in &oracle.slots {
                let found = widen(&opt.slot(name).expect("a slot of the graph"));
                let size = sizes.entry(*name).or_insert(0.0);
                tolerance::check_slot(state, T::UNIT, &self.what(t), name, size, &found, wanted);
            }
        }
        assert_eq!(opt.steps(), self.steps, "{}", self.name);
    }
}
