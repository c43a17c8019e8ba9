//! The only place where a tolerance is written, and the only measure of an error.
//!
//! The measure of a trajectory is the relative error of the *displacement* Δ = p_t − p_0 in the
//! Euclidean norm, beyond what rounding the parameter once a step explains:
//!
//! ‖Δ − Δref‖ ≤ factor·u·max‖Δref‖ + roundings·u·t·‖p‖,    u = 2⁻²⁴ for `f32`, 2⁻⁵³ for `f64`
//!
//! where the maximum is over the steps so far (a parameter may come back to where it began, its
//! errors do not go away) and `roundings` is 1, but for [`ONE_PLACE`].
//!
//! (The parameter itself would hide everything: a step of 1e-3 may be wrong by a tenth and move the
//! parameter by a relative 1e-4 only.)

use std::fmt::Write as _;

/// A tolerance in units of round-off, and why it is no smaller.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    pub factor: f64,
    /// Roundings of the parameter itself in a step.
    pub roundings: f64,
    pub reason: &'static str,
}

/// No test may ask for more than this. In `f32` it is a relative 3e-5.
pub const CEILING: f64 = 512.0;

/// `f32` has 24 bits, `f64` has 53.
pub const F32: f64 = 1.0 / (1u64 << 24) as f64;
pub const F64: f64 = 1.0 / (1u64 << 53) as f64;

/// This library's `f64` against an official code's `f64`.
pub const OFFICIAL_F64: Tolerance = Tolerance {
    factor: 450.0,
    roundings: 1.0,
    reason: "5e-14. The same formulas in another order of operations, 24 steps; a moving average \
             is `old + (1-β)(x-old)` here and `β·old + (1-β)x` there",
};
/// This library's `f32` against an official code's `f32`.
pub const OFFICIAL_F32: Tolerance = Tolerance {
    factor: 168.0,
    roundings: 1.0,
    reason: "1e-5. Both sides round, and the official codes compute with β rounded to f32: 1-β is \
             then wrong by up to 3e-5 of itself for β = 0.999",
};
/// Roundings of the parameter in a step where a tensor of one element hardly moves: two numbers
/// beside each other are up to two units apart, and then there are no others that average out.
pub const ONE_PLACE: f64 = 2.0;
/// The only official case and tensor that need it: after its first step, which moves it by 1e-4 of
/// itself, it lies one place beside the official one.
pub const ONE_PLACE_FOR: [&str; 2] = ["hf_adafactor_momentum", "scalar"];
/// The CPU against the oracle, displacement.
pub const STEP: Tolerance = Tolerance {
    factor: 64.0,
    roundings: 1.0,
    reason: "some 20 roundings between gradient and step, each at most one unit, and the errors \
             of the moving averages they pass through; sums add less since they are f64 above a \
             tile",
};
/// The CPU against the oracle, state.
pub const STATE: Tolerance = Tolerance {
    factor: 96.0,
    roundings: 1.0,
    reason: "as for a step: state is what a step is made of",
};
/// The CPU in `f64` against the oracle, on tensors of many tiles.
pub const LONG_F64: Tolerance = Tolerance {
    factor: 512.0,
    roundings: 1.0,
    reason: "6e-14. Tiles are summed in f64 in sequence. That is exact enough for f32; for f64 it \
             costs n/2 units over n tiles of equal terms (64 rows are a tile to a column)",
};
/// Sums over a million elements, state.
pub const LONG_SUM: Tolerance = Tolerance {
    factor: 16.0,
    roundings: 1.0,
    reason: "1e-6. A lane sums at most 256 terms in f32, whose rounding errors are random and \
             average out over the 16 lanes; everything above is f64. The length must not show",
};

/// Sums over a million equal elements, state.
pub const EQUAL_TERMS: Tolerance = Tolerance {
    factor: 128.0,
    roundings: 1.0,
    reason: "equal terms round the same way in every lane: half of 256 terms at the worst, \
             whatever the length",
};

/// The GPU against the CPU, both in `f32`, displacement and state.
pub const GPU: Tolerance = Tolerance {
    factor: 168.0,
    roundings: 1.0,
    reason: "1e-5. WGSL allows 2.5 units for a division and 2 for an inverse square root, and \
             everything else as on the CPU, whose own tolerance is 64; sums are f32 in a tree",
};

/// What is compared: enough to find and repeat it.
#[derive(Clone, Debug)]
pub struct What<'a> {
    pub case: &'a str,
    pub shape: &'a [usize],
    pub seed: u64,
    pub step: u64,
    /// The test's name, for the command that repeats it.
    pub test: &'a str,
}

fn norm(x: impl Iterator<Item = f64>) -> f64 {
    x.map(|x| x * x).sum::<f64>().sqrt()
}

/// Checks the displacement of a parameter.
///
/// # Panics
/// If it is too far from the reference, or if the tolerance itself is above the ceiling.
///
/// `moved` is the largest displacement so far, and is kept for the next call.
pub fn check(
    t: Tolerance,
    unit: f64,
    what: &What<'_>,
    moved: &mut f64,
    start: &[f64],
    found: &[f64],
    wanted: &[f64],
) {
    let error = norm(found.iter().zip(wanted).map(|(a, b)| a - b));
    *moved = moved.max(norm(wanted.iter().zip(start).map(|(a, b)| a - b)));
    let moved = *moved;
    let rounding = t.roundings * unit * what.step as f64 * norm(wanted.iter().copied());
    judge(t, unit, what, "parameter", error, moved, rounding, found, wanted);
}

/// Checks a slot, by its norm.
///
/// # Panics
/// As [`check`].
///
/// `size` is the slot's largest norm so far, and is kept for the next call: a moving average of
/// gradients may pass through zero, and its rounding errors do not.
pub fn check_slot(
    t: Tolerance,
    unit: f64,
    what: &What<'_>,
    slot: &str,
    size: &mut f64,
    found: &[f64],
    wanted: &[f64],
) {
    let error = norm(found.iter().zip(wanted).map(|(a, b)| a - b));
    *size = size.max(norm(wanted.iter().copied()));
    let size = *size;
    // Below the normal numbers there are fewer digits: one last place a step for each element.
    let smallest = if unit == F32 { f64::from(f32::from_bits(1)) } else { f64::from_bits(1) };
    let subnormal = smallest * 4.0 * what.step as f64 * (wanted.len() as f64).sqrt();
    judge(t, unit, what, slot, error, size, subnormal, found, wanted);
}

#[allow(clippy::too_many_arguments, reason = "private, two callers")]
fn judge(
    t: Tolerance,
    unit: f64,
    what: &What<'_>,
    of: &str,
    error: f64,
    size: f64,
    floor: f64,
    found: &[f64],
    wanted: &[f64],
) {
    assert!(
        t.factor <= CEILING && !t.reason.is_empty(),
        "a tolerance of {} units is above the ceiling of {CEILING}, or has no reason",
        t.factor
    );
    assert_eq!(found.len(), wanted.len(), "{what:?}: {of} has another length");
    // What is infinite or not a number equals nothing, itself neither.
    if error.is_finite() && error <= t.factor * unit * size + floor {
        return;
    }
    let units = (error - floor) / (unit * size);
    let mut text = format!("# {what:?} {of}\n# index found wanted\n");
    for (i, (a, b)) in found.iter().zip(wanted).enumerate() {
        writeln!(text, "{i} {a:e} {b:e}").expect("a String takes all");
    }
    let place = format!("{} {:?} {} step {} {of}.txt", what.case, what.shape, what.seed, what.step);
    let place = place.replace(['/', ':'], "-").replace(' ', "_");
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("failures");
    let path = folder.join(place);
    let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, text));
    panic!(
        "{case} on {shape:?}, seed {seed}, step {step}: {of} is wrong by {units:.1} units of \
         round-off, {factor} are allowed ({reason}).\n\
         Both results: {path:?} ({written:?}).\n\
         Repeat: GRADSTEP_SEED={base} cargo test --test {binary} {test}",
        case = what.case,
        shape = what.shape,
        seed = what.seed,
        step = what.step,
        factor = t.factor,
        reason = t.reason,
        test = what.test,
        binary = env!("CARGO_CRATE_NAME"),
        base = super::table::base_seed(),
    );
}
