//! A Rust program in a browser uses the crate as it is: the GPU by wgpu's WebGPU backend, the CPU by
//! the same loops as everywhere.

use gradstep::gpu::{Gpu, wgpu};
use gradstep::{Cpu, optim::Came};
use wasm_bindgen::prelude::*;

const SHAPE: [usize; 2] = [24, 40];

fn gradient(step: u32) -> Vec<f32> {
    let value = |i: usize| (i as f32 * 0.37 + step as f32).sin();
    (0..SHAPE[0] * SHAPE[1]).map(value).collect()
}

/// Takes steps of CAME on the GPU and on the CPU. Returns the parameters of both, one after the other.
#[wasm_bindgen]
pub async fn train(steps: u32) -> Result<Vec<f32>, JsError> {
    let gpu = Gpu::open().await?;
    let mut arena = gpu.arena(Came::new(1e-2), &[SHAPE]).await?;
    let mut came = Cpu::default().prepare::<f32, _>(Came::new(1e-2), SHAPE)?;
    let mut w = gradient(0);
    arena.write_param(0, &w)?;
    for step in 1..=steps {
        let g = gradient(step);
        arena.write_grad(0, &g)?;
        let mut encoder =
            gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        arena.encode(&mut encoder)?;
        gpu.queue().submit([encoder.finish()]);
        came.step(&mut w, &g)?;
    }
    let mut both = arena.read_param(0).await?;
    both.extend(w);
    Ok(both)
}
