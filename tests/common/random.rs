//! A definition made of bytes.
//!
//! [`Random`]'s `step` walks a byte string and does what the bytes say: operations, reductions,
//! slots of every shape. Most strings make a valid definition; the others are refused by the tracer
//! or the planner, never by a panic. Whatever is accepted must run as the oracle says.
//!
//! Two things keep the comparison honest. Every value carries a bound of its magnitude, and is
//! clamped when the bound grows; roots and quotients stay away from zero; what jumps (`sign`,
//! comparisons) is multiplied by something that vanishes where it jumps. And every value carries a
//! bound of its rounding error, in units of round-off, which is the tolerance.
//!
//! `Definition::step` has no `self`: the bytes lie in a thread-local, so these definitions run on
//! the thread that set them.

use std::cell::{Cell, RefCell};

use gradstep::value::{Axis, Interpreter, Shape, Slot, Step, Value};
use gradstep::{
    Cpu, CpuStep, Definition, Element, Error, Kind, Layout, Levels, Optimizer, Plan, Recipe,
};

use super::oracle::Oracle;

thread_local! {
    static PROGRAM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// The greatest rounding error of what a step stores.
    static ERROR: Cell<f64> = const { Cell::new(0.0) };
}

/// The most levels that the walk makes.
pub const MAX_LEVELS: u8 = 5;
/// Of gradients and initial parameters.
pub const GREATEST: f64 = 4.0;
/// Of what is stored.
const STORED: f64 = 8.0;
const NAMES: [&str; 5] = ["s0", "s1", "s2", "s3", "s4"];
const HYPERS: [(&str, f64); 4] = [("h0", 0.1), ("h1", 0.9), ("h2", 0.999), ("h3", 1e-3)];

/// The definition that the bytes describe, for the right number of levels.
#[derive(Clone, Copy, Debug)]
pub struct Random<const MATRIX: bool, const LEVELS: u8>;

impl<const MATRIX: bool, const LEVELS: u8> Definition for Random<MATRIX, LEVELS> {
    const NAME: &'static str = "Random";
    const LEVELS: Levels = if MATRIX { Levels::factored(0, LEVELS) } else { Levels::flat(LEVELS) };

    #[inline(always)]
    fn step<I: Interpreter>(s: Step<'_, I>) {
        // Shared by all levels: speed does not matter here, the time to compile does.
        PROGRAM.with_borrow(|bytes| Walk::run(s, bytes));
    }
}

/// A recipe with the hyper-parameters that the walk asks for.
#[derive(Clone, Copy, Debug)]
pub struct Optim(pub Recipe);

impl Optimizer for Optim {
    fn hyper(&self, name: &str) -> Option<f64> {
        HYPERS.iter().find(|h| h.0 == name).map(|h| h.1)
    }
    fn recipe(&self) -> Recipe {
        self.0
    }
}

/// Makes `bytes` the definition of this thread.
pub fn set_program(bytes: &[u8]) {
    PROGRAM.set(bytes.to_vec());
}

/// A bound of the rounding error of what the last step of this thread stored, in units of round-off.
pub fn error() -> f64 {
    ERROR.get()
}

/// The recipe with as many levels as the bytes need.
///
/// # Errors
/// If the bytes do not make a valid definition.
pub fn recipe(kind: Kind, bytes: &[u8]) -> Result<Recipe, Error> {
    set_program(bytes);
    let recipes: [Recipe; 5] = match kind {
        Kind::Vector => [
            Recipe::of::<Random<false, 1>>(),
            Recipe::of::<Random<false, 2>>(),
            Recipe::of::<Random<false, 3>>(),
            Recipe::of::<Random<false, 4>>(),
            Recipe::of::<Random<false, 5>>(),
        ],
        // It has no loops for single rows and columns: these are matrices like others.
        _ => [
            Recipe::of::<Random<true, 1>>(),
            Recipe::of::<Random<true, 2>>(),
            Recipe::of::<Random<true, 3>>(),
            Recipe::of::<Random<true, 4>>(),
            Recipe::of::<Random<true, 5>>(),
        ],
    };
    for recipe in recipes {
        match recipe.trace(kind) {
            Err(Error::Definition { problem, .. }) if problem.contains("LEVELS") => {}
            Err(error) => return Err(error),
            Ok(graph) => {
                for fused in [false, true] {
                    Plan::new(graph.clone(), fused)?;
                }
                return Ok(recipe);
            }
        }
    }
    panic!("more than {MAX_LEVELS} levels");
}

struct Item<'a, I: Interpreter> {
    v: Value<'a, I>,
    shape: Shape,
    level: u8,
    /// A bound of its magnitude, and of its error in units of round-off.
    most: f64,
    error: f64,
}

impl<I: Interpreter> Clone for Item<'_, I> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<I: Interpreter> Copy for Item<'_, I> {}

struct Walk<'a, 'b, I: Interpreter> {
    s: Step<'a, I>,
    bytes: std::slice::Iter<'b, u8>,
    items: [Item<'a, I>; 16],
    next: usize,
    slots: [Option<(Slot<'a, I>, Shape, bool)>; 5],
    calls: usize,
    reductions: usize,
    error: f64,
}

impl<'a, 'b, I: Interpreter> Walk<'a, 'b, I> {
    #[inline(never)]
    fn run(s: Step<'a, I>, bytes: &'b [u8]) {
        let grad = Item { v: s.grad(), shape: Shape::Full, level: 0, most: GREATEST, error: 0.0 };
        let param = Item { v: s.param(), most: STORED, ..grad };
        let mut walk = Walk {
            s,
            bytes: bytes.iter(),
            items: [grad; 16],
            next: 1,
            slots: [None; 5],
            calls: 0,
            reductions: 0,
            error: 0.0,
        };
        walk.push(param);
        walk.declare();
        // Stores at the end need at most 14 calls each, an operation not more than 20.
        while walk.bytes.len() > 0 && walk.calls < 256 - 6 * 14 - 20 {
            let item = walk.operation();
            walk.push(item);
        }
        for k in 0..walk.slots.len() {
            if let Some((slot, shape, false)) = walk.slots[k] {
                let x = walk.highest(shape);
                let old = walk.old(slot, shape);
                let new = walk.add(walk.scaled(old, 0.5), x);
                walk.set(k, new);
            }
        }
        let x = walk.highest(Shape::Full);
        let x = match walk.byte() % 4 {
            0 => x,
            _ => walk.add(param, walk.scaled(x, 0.25)),
        };
        let x = walk.clamped(x);
        walk.error = walk.error.max(x.error);
        s.set_param(x.v);
        ERROR.set(walk.error);
    }

    fn byte(&mut self) -> usize {
        usize::from(self.bytes.next().copied().unwrap_or(0))
    }

    fn push(&mut self, item: Item<'a, I>) {
        self.items[self.next % 16] = item;
        self.next += 1;
    }

    fn pick(&mut self) -> Item<'a, I> {
        let b = self.byte();
        // Most of the time something recent.
        let back = if b < 192 { b % 4 } else { b % 16 };
        self.items[(self.next + 15 - back % self.next.min(16)) % 16]
    }

    fn declare(&mut self) {
        let n = self.byte() % 6;
        for (k, name) in NAMES.into_iter().enumerate().take(n) {
            let b = self.byte();
            let shapes = [
                Shape::Full,
                Shape::Rows,
                Shape::Cols,
                Shape::Matrix,
                Shape::Scalar,
                Shape::Full,
                Shape::Rows,
                Shape::Cols,
            ];
            let shape = shapes[b % 8];
            let init = if b >= 128 { 0.5 } else { 0.0 };
            self.slots[k] = Some((self.s.slot(name, shape, init), shape, false));
        }
    }

    fn old(&mut self, slot: Slot<'a, I>, shape: Shape) -> Item<'a, I> {
        self.calls += 1;
        Item { v: slot.old(), shape, level: 0, most: STORED, error: 0.0 }
    }

    fn set(&mut self, k: usize, new: Item<'a, I>) -> Item<'a, I> {
        let new = self.clamped(new);
        let Some((slot, shape, done)) = &mut self.slots[k] else {
            return new;
        };
        *done = true;
        self.calls += 1;
        self.error = self.error.max(new.error);
        let kept = if *shape == Shape::Full { Shape::Full } else { new.shape };
        Item { v: slot.set(new.v), shape: kept, ..new }
    }

    /// At most [`STORED`].
    fn clamped(&mut self, a: Item<'a, I>) -> Item<'a, I> {
        if a.most <= STORED {
            return a;
        }
        self.calls += 4;
        Item { v: a.v.at_most(STORED).at_least(-STORED), most: STORED, ..a }
    }

    fn joined(a: Item<'a, I>, b: Item<'a, I>, v: Value<'a, I>) -> Item<'a, I> {
        let (shape, level) = (a.shape.join(b.shape), a.level.max(b.level));
        Item { v, shape, level, most: 0.0, error: 0.0 }
    }

    fn add(&mut self, a: Item<'a, I>, b: Item<'a, I>) -> Item<'a, I> {
        self.calls += 1;
        let most = a.most + b.most;
        Item { most, error: a.error + b.error + most, ..Self::joined(a, b, a.v + b.v) }
    }

    fn sub(&mut self, a: Item<'a, I>, b: Item<'a, I>) -> Item<'a, I> {
        self.calls += 1;
        let most = a.most + b.most;
        Item { most, error: a.error + b.error + most, ..Self::joined(a, b, a.v - b.v) }
    }

    fn mul(&mut self, a: Item<'a, I>, b: Item<'a, I>) -> Item<'a, I> {
        self.calls += 1;
        let most = a.most * b.most;
        let error = a.error * b.most + b.error * a.most + most;
        Item { most, error, ..Self::joined(a, b, a.v * b.v) }
    }

    /// Times a number that is a power of two.
    fn scaled(&self, a: Item<'a, I>, by: f64) -> Item<'a, I> {
        Item { v: a.v * by, most: a.most * by, error: a.error * by, ..a }
    }

    fn reduced(&mut self, axis: Axis, max: bool, a: Item<'a, I>) -> Item<'a, I> {
        let full = a.shape == Shape::Full;
        if full && (self.reductions >= 8 || a.level + 1 >= MAX_LEVELS) {
            return a;
        }
        self.calls += 1;
        self.reductions += usize::from(full);
        let v = match (axis, max) {
            (Axis::Row, false) => a.v.row_mean(),
            (Axis::Col, false) => a.v.col_mean(),
            (Axis::Matrix, false) => a.v.mean(),
            (Axis::Tensor, false) => a.v.tensor_mean(),
            (Axis::Row, true) => a.v.row_max(),
            (Axis::Col, true) => a.v.col_max(),
            (Axis::Matrix, true) => a.v.max(),
            (Axis::Tensor, true) => a.v.tensor_max(),
        };
        // A lane adds at most 256 terms before its sum goes into an `f64`.
        let error = a.error + if max { 0.0 } else { 300.0 * a.most };
        let level = a.level + u8::from(full);
        Item { v, shape: a.shape.reduced(axis), level, error, ..a }
    }

    /// `a`, reduced as far as `shape` demands. If no reduction is left, a number.
    fn fitted(&mut self, a: Item<'a, I>, shape: Shape) -> Item<'a, I> {
        if a.shape.fits(shape) {
            return a;
        }
        let axis = match shape {
            Shape::Rows => Axis::Row,
            Shape::Cols => Axis::Col,
            Shape::Matrix => Axis::Matrix,
            _ => Axis::Tensor,
        };
        let a = self.reduced(axis, false, a);
        if a.shape.fits(shape) { a } else { self.host() }
    }

    /// A recent value that fits, of the highest level there is: what is stored late reads nothing
    /// stale. Now and then any value.
    fn highest(&mut self, shape: Shape) -> Item<'a, I> {
        let first = self.pick();
        if self.byte() % 8 == 7 {
            return self.fitted(first, shape);
        }
        let mut best = self.fitted(first, shape);
        for item in self.items {
            if item.shape.fits(shape) && item.level > best.level {
                best = item;
            }
        }
        best
    }

    fn host(&mut self) -> Item<'a, I> {
        let b = self.byte();
        self.calls += 3;
        let [h] = self.s.hyper([HYPERS[b / 4 % 4].0]);
        let v = match b % 4 {
            0 => h,
            1 => h.pow(self.s.t()),
            2 => 1.0 / (self.s.t() + 1.0),
            _ => (h - 0.25).abs().sqrt().at_most(self.s.t()),
        };
        Item { v, shape: Shape::Host, level: 0, most: 1.0, error: 16.0 }
    }

    fn operation(&mut self) -> Item<'a, I> {
        let op = self.byte();
        let a = self.pick();
        match op % 20 {
            0 => {
                let b = self.pick();
                let sum = self.add(a, b);
                self.clamped(sum)
            }
            1 => {
                let b = self.pick();
                let difference = self.sub(a, b);
                self.clamped(difference)
            }
            2 | 3 => {
                let b = self.pick();
                let product = self.mul(a, b);
                self.clamped(product)
            }
            4 => {
                let b = self.pick();
                self.calls += 4;
                let (most, below) = (a.most * 2.0, b.error + b.most + 0.5);
                let error = a.error * 2.0 + a.most * 4.0 * below + most;
                let v = a.v / (b.v.abs() + 0.5);
                let quotient = Item { most, error, ..Self::joined(a, b, v) };
                self.clamped(quotient)
            }
            5 => {
                self.calls += 4;
                let error = 1.5 * (a.error + a.most + 1.0) + a.most + 1.0;
                Item { v: (a.v.abs() + 0.125).sqrt(), most: a.most + 1.0, error, ..a }
            }
            6 => {
                self.calls += 4;
                let error = 11.5 * (a.error + a.most + 1.0) + 6.0;
                Item { v: (a.v.abs() + 0.125).rsqrt(), most: 3.0, error, ..a }
            }
            7 => {
                self.calls += 1;
                Item { v: -a.v, ..a }
            }
            8 => {
                let b = self.pick();
                self.calls += 1;
                let v = if op < 128 { a.v.at_most(b.v) } else { a.v.at_least(b.v) };
                let (most, error) = (a.most.max(b.most), a.error.max(b.error));
                Item { most, error, ..Self::joined(a, b, v) }
            }
            9 => {
                // |a|, and the sign of something exact.
                self.calls += 2;
                let v = a.v.sign() * a.v;
                let size = Item { v, error: 2.0 * a.error, ..a };
                if op < 128 {
                    return size;
                }
                self.calls += 4;
                let g = self.s.grad();
                let v = g.sign() * g.differs_from(0.0);
                let sign = Item { v, most: 1.0, error: 0.0, ..self.grad() };
                self.mul(size, sign)
            }
            10 => {
                // Continuous: both sides vanish where the comparison turns.
                let (b, x, y) = (self.pick(), self.pick(), self.pick());
                let d = self.sub(b, a);
                let (x, y) = (self.mul(d, x), self.mul(d, y));
                self.calls += 1;
                let v = a.v.less_than(b.v).select(x.v, y.v);
                let jump = d.error * (x.most + y.most) / d.most.max(1e-3);
                let (most, error) = (x.most.max(y.most), x.error.max(y.error) + jump);
                let item = Item { most, error, ..Self::joined(d, Self::joined(x, y, v), v) };
                self.clamped(item)
            }
            11 => self.host(),
            12 => {
                let axes = [Axis::Row, Axis::Col, Axis::Matrix, Axis::Tensor];
                self.calls += 4;
                let v = 1.0 / (self.s.count(axes[op / 20 % 4]) + 1.0);
                Item { v, shape: Shape::Scalar, level: 0, most: 1.0, error: 4.0 }
            }
            13 => {
                let b = self.pick();
                let w = self.host();
                let d = self.sub(b, a);
                let d = self.mul(d, w);
                let sum = self.add(a, d);
                self.clamped(sum)
            }
            14 | 15 => {
                let axes = [Axis::Row, Axis::Col, Axis::Row, Axis::Col, Axis::Matrix, Axis::Tensor];
                self.reduced(axes[op / 20 % 6], op.is_multiple_of(3), a)
            }
            16 => {
                let k = self.byte() % 5;
                match self.slots[k] {
                    Some((slot, shape, false)) => self.old(slot, shape),
                    _ => a,
                }
            }
            _ => {
                let k = self.byte() % 5;
                let Some((slot, shape, false)) = self.slots[k] else {
                    return a;
                };
                let x = self.fitted(a, shape);
                let new = match op % 4 {
                    0 => x,
                    _ => {
                        let old = self.old(slot, shape);
                        let w = self.host();
                        let d = self.sub(x, old);
                        let d = self.mul(d, w);
                        self.add(old, d)
                    }
                };
                self.set(k, new)
            }
        }
    }

    fn grad(&self) -> Item<'a, I> {
        let v = self.s.grad();
        Item { v, shape: Shape::Full, level: 0, most: GREATEST, error: 0.0 }
    }
}

/// A type of number to compare in.
pub trait Real: Element {
    const UNIT: f64;
    fn of(x: f64) -> Self;
    fn wide(self) -> f64;
}

impl Real for f32 {
    const UNIT: f64 = 1.0 / (1u64 << 24) as f64;
    #[allow(clippy::cast_possible_truncation, reason = "rounding is what it is for")]
    fn of(x: f64) -> Self {
        x as Self
    }
    fn wide(self) -> f64 {
        self.into()
    }
}

impl Real for f64 {
    const UNIT: Self = 1.0 / (1u64 << 53) as Self;
    fn of(x: f64) -> Self {
        x
    }
    fn wide(self) -> f64 {
        self
    }
}

/// Numbers between ±[`GREATEST`] that `f32` has too: some zeros, some ties.
pub fn numbers(seed: u64, n: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let number = |_| {
        let bits = next();
        match bits % 8 {
            0 => 0.0,
            1 => f64::from(u8::try_from(bits >> 60).expect("four bits")) / 4.0 - 2.0,
            _ => f64::from(u32::try_from(bits >> 44).expect("twenty bits")) / 131_072.0 - 4.0,
        }
    };
    (0..n).map(number).collect()
}

/// What is compared.
#[derive(Clone, Debug)]
pub struct Problem {
    pub program: Vec<u8>,
    pub shape: Vec<usize>,
    pub layout: Layout,
    pub seed: u64,
    pub steps: u64,
}

impl Problem {
    /// The kind of tensor that the layout makes of the shape.
    pub fn kind(&self) -> Kind {
        match self.layout {
            Layout::Vector => Kind::Vector,
            _ if self.shape.len() < 2 => Kind::Vector,
            _ => Kind::Matrix,
        }
    }

    /// Compares the CPU with the oracle, in `f64` and in `f32`. Returns the number of levels.
    ///
    /// # Errors
    /// If the program is not a valid definition.
    ///
    /// # Panics
    /// If they differ.
    pub fn check(&self) -> Result<usize, Error> {
        let recipe = recipe(self.kind(), &self.program)?;
        self.check_in::<f64>(recipe);
        Ok(self.check_in::<f32>(recipe))
    }

    fn check_in<T: Real>(&self, recipe: Recipe) -> usize {
        let optimizer = Optim(recipe);
        let mut step: CpuStep<T, _> = Cpu::single_threaded()
            .prepare_with(optimizer, &self.shape, self.layout)
            .expect("the recipe was traced");
        let mut oracle = Oracle::new(step.dims());
        let n = self.shape.iter().product();
        let mut wanted = numbers(self.seed, n);
        let mut found: Vec<T> = wanted.iter().map(|&x| T::of(x)).collect();
        let hyper = |name: &str| optimizer.hyper(name).expect("one of the walk's");
        for t in 1..=self.steps {
            let grad = numbers(self.seed ^ t << 32, n);
            let lent: Vec<T> = grad.iter().map(|&x| T::of(x)).collect();
            ERROR.set(0.0);
            oracle_step(&mut oracle, step.plan(), &hyper, &mut wanted, &grad);
            let tolerance = T::UNIT * (2.0 * ERROR.get() + 1.0);
            step.step(&mut found, &lent).expect("a valid step");
            let what = |name: &str| {
                format!("{name} after step {t} in {}\n{}", std::any::type_name::<T>(), step.plan())
            };
            // Both take the next step from the same state, so that errors do not grow.
            settle_on(&found, &mut wanted, tolerance, || what("param"));
            for (name, wanted) in &mut oracle.slots {
                let found = step.slot(name).expect("a slot");
                settle_on(&found, wanted, tolerance, || what(name));
            }
        }
        step.plan().levels.len()
    }

    /// The program in WGSL, for both kinds of plan and of buffers.
    ///
    /// # Panics
    /// If the program is not a valid definition, or cannot be printed.
    pub fn shaders(&self) -> Vec<String> {
        let kind = self.kind();
        let graph = recipe(kind, &self.program).and_then(|recipe| recipe.trace(kind));
        let graph = graph.expect("a valid definition");
        let mut sources = Vec::new();
        for fused in [false, true] {
            let plan = Plan::new(graph.clone(), fused).expect("a valid definition");
            for (pooled, vectors) in [(false, false), (true, false), (false, true), (true, true)] {
                match gradstep::wgsl::print(&plan, pooled, vectors) {
                    Ok(program) => sources.push(program.source),
                    // Row sums that do not fit workgroup memory.
                    Err(Error::Definition { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        sources
    }

    /// Prepares the program and then runs another one in its place: wrong numbers are right,
    /// anything else is not. Memory beside the tensor stays as it is.
    pub fn misbehave(&self, other: &[u8]) -> Result<(), Error> {
        let recipe = recipe(self.kind(), &self.program)?;
        let mut step: CpuStep<f32, _> = Cpu::single_threaded()
            .prepare_with(Optim(recipe), &self.shape, self.layout)
            .expect("the recipe was traced");
        let n: usize = self.shape.iter().product();
        let mut param = vec![1.0f32; n + 2];
        let grad: Vec<f32> = numbers(self.seed, n).iter().map(|&x| f32::of(x)).collect();
        for program in [other, &self.program, other] {
            set_program(program);
            step.step(&mut param[1..=n], &grad).expect("a step");
        }
        assert_eq!((param[0], param[n + 1]), (1.0, 1.0), "memory beside the tensor");
        Ok(())
    }
}

/// The oracle runs the text of the definition, not its graph.
fn oracle_step(
    oracle: &mut Oracle,
    plan: &Plan,
    hyper: &dyn Fn(&str) -> f64,
    param: &mut [f64],
    grad: &[f64],
) {
    let kind = oracle.dims.kind;
    assert_eq!(kind, plan.graph.kind, "the plan's tensor");
    match kind {
        // The number of levels does not change the text.
        Kind::Vector => oracle.step::<Random<false, 1>>(hyper, param, grad),
        _ => oracle.step::<Random<true, 1>>(hyper, param, grad),
    }
}

/// Compares, and then makes `wanted` what was found.
fn settle_on<T: Real>(found: &[T], wanted: &mut [f64], tolerance: f64, what: impl Fn() -> String) {
    assert_eq!(found.len(), wanted.len(), "the length of {}", what());
    for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let error = (found.wide() - *wanted).abs();
        assert!(
            error <= tolerance,
            "element {i} is {found:?}, not {wanted:?}: wrong by {error:e}, {tolerance:e} allowed, \
             {}",
            what()
        );
        *wanted = found.wide();
    }
}
