//! A definition of a test as an optimizer.

use std::fmt;
use std::marker::PhantomData;

use gradstep::{Definition, Optimizer, Recipe};

/// The definition `D` with a fixed set of hyper-parameters.
pub struct Plain<D>(pub Vec<(&'static str, f64)>, PhantomData<D>);

impl<D> Plain<D> {
    pub fn new(hyper: &[(&'static str, f64)]) -> Self {
        Self(hyper.to_vec(), PhantomData)
    }
}

impl<D> fmt::Debug for Plain<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<D: Definition> Optimizer for Plain<D> {
    fn hyper(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, x)| *x)
    }
    fn recipe(&self) -> Recipe {
        Recipe::of::<D>()
    }
}
