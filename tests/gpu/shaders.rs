//! The printed programs. No device is needed.

use gradstep::gpu::wgpu::Limits;
use gradstep::wgsl;
use gradstep::{Kind, Plan, Recipe};
use naga::valid::{Capabilities, ValidationFlags, Validator};

use crate::common::table::optimizers;

/// Parses and validates a module, as a device without extensions does.
pub(crate) fn validate(name: &str, source: &str) {
    let module = naga::front::wgsl::parse_str(source)
        .unwrap_or_else(|e| panic!("{name}: {}\n{source}", e.emit_to_string(source)));
    Validator::new(ValidationFlags::all(), Capabilities::default())
        .validate(&module)
        .unwrap_or_else(|e| panic!("{name}: {}\n{source}", e.emit_to_string(source)));
}

/// All programs of a definition.
pub(crate) fn programs(recipe: Recipe) -> Vec<(String, wgsl::Program)> {
    let mut programs = Vec::new();
    for (kind, fused) in [(Kind::Vector, false), (Kind::Matrix, true), (Kind::Matrix, false)] {
        if kind == Kind::Matrix && !recipe.is_factored() {
            continue;
        }
        for (pooled, vectors) in [(false, false), (true, false), (false, true), (true, true)] {
            let name = format!(
                "{}_{}{}{}{}",
                recipe.name(),
                if kind == Kind::Matrix { "matrix" } else { "vector" },
                if fused { "_fused" } else { "" },
                if pooled { "_pooled" } else { "" },
                if vectors { "_vec4" } else { "" },
            );
            let plan = Plan::new(recipe.trace(kind).expect("valid"), fused).expect("valid");
            let program =
                wgsl::print(&plan, pooled, vectors).unwrap_or_else(|e| panic!("{name}: {e}"));
            programs.push((name, program));
        }
    }
    programs
}

#[test]
fn every_program_of_the_table_is_valid() {
    let mut known = Vec::new();
    for case in optimizers() {
        let recipe = gradstep::Optimizer::recipe(&case.optimizer);
        if known.contains(&recipe) {
            continue;
        }
        known.push(recipe);
        for (name, program) in programs(recipe) {
            validate(&name, &program.source);
            for dispatch in &program.dispatches {
                let entry = format!("fn {}(", dispatch.entry());
                assert!(program.source.contains(&entry), "{name} has no {entry}");
            }
            let bindings = program.source.matches("var<storage").count();
            let most = Limits::defaults().max_storage_buffers_per_shader_stage as usize;
            assert!(bindings <= most, "{name} binds {bindings} storage buffers");
            assert!(!program.source.contains("@begin"), "{name} has marks left");
        }
    }
}

#[test]
fn the_skeleton_is_valid_as_it_lies() {
    validate("shaders/step.wgsl", include_str!("../../shaders/step.wgsl"));
}
