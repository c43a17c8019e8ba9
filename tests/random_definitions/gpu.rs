//! Random definitions: their programs are valid, and run as on the CPU.

use gradstep::gpu::Gpu;
use gradstep::{Cpu, Layout, Plan, wgsl};
use pollster::block_on as wait;

use crate::common::gate;
use crate::common::random::{Optim, Problem, error, numbers, recipe};
use crate::common::table::{Rng, seed_of};
use crate::common::tolerance::F32;
use crate::validate;

/// The `n`-th byte string, and a tensor for it.
fn problem(n: u64) -> Problem {
    let mut rng = Rng(seed_of("random definitions").wrapping_add(n));
    let length = 4 + rng.below(136);
    let program = (0..length).map(|_| u8::try_from(rng.below(256)).expect("a byte")).collect();
    let shapes: [(&[usize], Layout); 8] = [
        (&[37], Layout::Auto),
        (&[5, 18], Layout::Auto),
        (&[33, 7], Layout::Auto),
        (&[300, 5], Layout::Auto),
        (&[3, 4, 5], Layout::LastTwo),
        (&[2, 20, 3], Layout::LastTwo),
        (&[2, 16_390], Layout::Auto),
        (&[260, 2, 2], Layout::LastTwo),
    ];
    let (shape, layout) = shapes[rng.below(shapes.len())];
    Problem { program, shape: shape.to_vec(), layout, seed: n, steps: 3 }
}

/// True for an error that the GPU gives by right: more row sums than its workgroups hold.
fn too_much(error: &gradstep::Error) -> bool {
    error.to_string().contains("row reductions")
}

#[test]
fn programs_of_random_definitions_are_valid() {
    let (mut valid, mut refused) = (0, 0);
    for n in 0..400 {
        let problem = problem(n);
        let Ok(recipe) = recipe(problem.kind(), &problem.program) else { continue };
        let graph = recipe.trace(problem.kind()).expect("it was traced before");
        for (fused, pooled, vectors) in [
            (false, false, false),
            (false, false, true),
            (true, false, false),
            (true, true, false),
            (true, false, true),
        ] {
            let plan = Plan::new(graph.clone(), fused).expect("it was planned before");
            match wgsl::print(&plan, pooled, vectors) {
                Ok(program) => validate(&program.source),
                Err(e) => {
                    assert!(too_much(&e), "{e}");
                    refused += 1;
                }
            }
            valid += 1;
        }
    }
    assert!(valid > 400 && refused < valid / 20, "{refused} of {valid} were refused");
}

#[test]
fn random_definitions_equal_the_cpu() {
    let Some(shared) = gate::gpu() else { return };
    let mut compared = 0;
    for n in 0..100 {
        let problem = problem(n);
        let Ok(recipe) = recipe(problem.kind(), &problem.program) else { continue };
        // All of them have one type, by which a `Gpu` keeps its programs.
        let gpu = &Gpu::new(shared.device(), shared.queue()).expect("alive");
        let shape = (&problem.shape, problem.layout);
        let mut arena = match wait(gpu.arena_with(Optim(recipe), &[shape])) {
            Ok(arena) => arena,
            Err(e) => {
                assert!(too_much(&e) || e.to_string().contains("StorageBuffers"), "{e}");
                continue;
            }
        };
        let mut cpu = Cpu::single_threaded()
            .prepare_with::<f32, _>(Optim(recipe), shape.0, shape.1)
            .expect("it was traced");
        #[allow(clippy::cast_possible_truncation, reason = "exact in f32")]
        let floats = |seed| -> Vec<f32> {
            let len = problem.shape.iter().product();
            numbers(seed, len).iter().map(|&x| x as f32).collect()
        };
        let mut wanted = floats(n);
        arena.write_param(0, &wanted).expect("written");
        for t in 1..=problem.steps {
            let g = floats(n ^ t << 32);
            arena.write_grad(0, &g).expect("written");
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            arena.encode(&mut encoder).expect("a valid step");
            gpu.queue().submit([encoder.finish()]);
            cpu.step(&mut wanted, &g).expect("a valid step");
            // Twice the bound for each side, and division and roots of 2.5 units.
            let tolerance = F32 * (6.0 * error() + 4.0);
            let compare = |name: &str, found: &[f32], wanted: &[f32]| {
                for (i, (a, b)) in found.iter().zip(wanted).enumerate() {
                    let wrong = f64::from(*a) - f64::from(*b);
                    assert!(
                        wrong.abs() <= tolerance,
                        "definition {n} on {shape:?}: {name}[{i}] is {a:e}, not {b:e}, after step \
                         {t}; {tolerance:e} are allowed; in\n{}",
                        cpu.plan()
                    );
                }
            };
            compare("param", &wait(arena.read_param(0)).expect("read"), &wanted);
            for (name, _) in cpu.slots() {
                let wanted = cpu.slot(name).expect("a slot");
                let found = wait(arena.read_slot(0, name)).expect("read");
                compare(name, &found, &wanted);
                // Both take the next step from the same state.
                arena.write_slot(0, name, &wanted).expect("written");
            }
            arena.write_param(0, &wanted).expect("written");
        }
        compared += 1;
    }
    assert!(compared > 40, "only {compared} of 100 byte strings were definitions");
}
