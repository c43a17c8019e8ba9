//! Stands in for `gpu.rs` in a build without the feature `gpu`.

use std::convert::Infallible;
use std::time::Duration;

use gradstep::Result;

use crate::Backend;
use crate::model::Mlp;

/// Never there.
pub(crate) struct Gpu(Infallible);

pub(crate) fn open() -> Result<Option<Gpu>> {
    println!("CPU only: this program was built without the feature `gpu`");
    Ok(None)
}

pub(crate) struct OnGpu(Infallible);

impl OnGpu {
    pub(crate) fn new<O>(gpu: &Gpu, _: &O, _: &Mlp) -> Result<Self> {
        match gpu.0 {}
    }
}

impl Backend for OnGpu {
    fn step(&mut self, _: &mut Mlp, _: &Mlp) -> Result<Duration> {
        match self.0 {}
    }

    fn state_bytes(&self) -> usize {
        match self.0 {}
    }
}
