//! One loop for all definitions, where the size of the program matters more than its speed.
//!
//! With `--cfg gradstep_compact` among the compiler's flags, no loops are compiled for definitions.
//! This one reads the plan instead, and does what [`Lane`](super::lane) would: the same operations on
//! the same elements in the same order, so the same bits. It goes over a block of elements for each
//! operation, which costs a few times the time of the compiled loops; all of it is some kilobytes,
//! where they are megabytes. The package for browsers is built like that.

use super::lane::{Reduced, Span, Tables, Uniform};
use super::{Element, MAX_REDUCTIONS};
use crate::plan::{Buffer, Plan};
use crate::trace::{NodeId, Op};
use crate::value::{Axis, Binary, GRAD, Reduction, Shape, Unary};

/// Elements that each operation goes over: some vectors.
const BLOCK: usize = 64;

/// A block of values, by its number.
type Place = usize;

/// What a block is filled with.
#[derive(Clone, Copy, Debug)]
enum Fill {
    Grad,
    Param,
    Slot(usize),
    /// Small values of a call: column values, row values, and what is constant over a matrix.
    Cols(usize),
    Rows(usize),
    Uniform(usize),
    Unary(Unary, Place),
    Binary(Binary, Place, Place),
    Select([Place; 4]),
}

#[derive(Clone, Copy, Debug)]
enum Use {
    Param,
    Slot(usize),
    /// A reduction, by its number among the calls.
    Sum(usize, Reduction, Axis),
}

/// A level: what blocks are filled with, in order, and what becomes of them.
#[derive(Debug, Default)]
struct Level {
    fills: Vec<Fill>,
    uses: Vec<(Use, Place)>,
}

/// A plan as this loop reads it.
#[derive(Debug)]
pub(crate) struct Code(Vec<Level>);

impl Code {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self((0..plan.levels.len()).map(|k| Level::new(plan, k)).collect())
    }
}

impl Level {
    fn new(plan: &Plan, k: usize) -> Self {
        let graph = &plan.graph;
        let mut this = Self::default();
        let mut places = vec![None; graph.nodes.len()];
        for &n in &plan.levels[k].full {
            this.place(plan, k, n, &mut places);
        }
        for &(buffer, n) in &plan.levels[k].stores {
            let to = match buffer {
                Buffer::Slot(s) => Use::Slot(full(plan, s)),
                _ => Use::Param,
            };
            let place = this.place(plan, k, n, &mut places);
            this.uses.push((to, place));
        }
        let mut seen = Vec::new();
        for (r, &(a, node)) in graph.reductions.iter().enumerate() {
            if let Op::Reduce(kind, axis, _) = graph.nodes[node].op
                && plan.levels[k].reductions.contains(&node)
                && !seen.contains(&node)
            {
                seen.push(node);
                let place = this.place(plan, k, a, &mut places);
                this.uses.push((Use::Sum(r, kind, axis), place));
            }
        }
        this
    }

    /// The block that has a node, filled where it is not yet.
    fn place(&mut self, plan: &Plan, k: usize, n: NodeId, places: &mut [Option<Place>]) -> Place {
        if let Some(place) = places[n] {
            return place;
        }
        let node = &plan.graph.nodes[n];
        let mut of = |a: NodeId| self.place(plan, k, a, places);
        let fill = match node.op {
            _ if node.shape != Shape::Full => {
                let call = plan.graph.calls.iter().position(|&c| c == n).unwrap_or(0);
                match node.shape {
                    Shape::Cols => Fill::Cols(call),
                    Shape::Rows => Fill::Rows(call),
                    _ => Fill::Uniform(call),
                }
            }
            Op::Grad => Fill::Grad,
            Op::Param => Fill::Param,
            Op::Old(s) => Fill::Slot(full(plan, s)),
            Op::New(s, _) if usize::from(node.level) < k => Fill::Slot(full(plan, s)),
            // What is done to the gradient is done before a loop sees it.
            Op::Binary(_, a, b) if conditions(plan, b) => {
                let place = of(a);
                places[n] = Some(place);
                return place;
            }
            Op::New(_, a) => {
                let place = of(a);
                places[n] = Some(place);
                return place;
            }
            Op::Unary(op, a) => Fill::Unary(op, of(a)),
            Op::Binary(op, a, b) => Fill::Binary(op, of(a), of(b)),
            Op::Select(args) => Fill::Select(args.map(of)),
            // Nothing else has shape Full.
            _ => Fill::Grad,
        };
        self.fills.push(fill);
        places[n] = Some(self.fills.len() - 1);
        self.fills.len() - 1
    }
}

/// The number of a slot among the full-size ones.
fn full(plan: &Plan, slot: usize) -> usize {
    plan.graph.full_slots().take_while(|&s| s != slot).count()
}

/// Whether a node is one of those between the gradient and a definition.
fn conditions(plan: &Plan, n: NodeId) -> bool {
    match plan.graph.nodes[n].op {
        Op::Hyper(h) => GRAD.contains(&plan.graph.hypers[h]),
        _ => false,
    }
}

fn join<T: Element>(kind: Reduction, acc: T, x: T) -> T {
    match kind {
        Reduction::Mean => acc + x,
        Reduction::Max => Binary::Max.apply(acc, x),
    }
}

/// # Safety
/// As for [`Kernel`](super::lane::Kernel).
pub(crate) unsafe fn kernel<T: Element, const LEVEL: usize>(
    tables: &Tables<T>,
    uniform: &mut Uniform<T>,
    span: Span,
    out: &mut Reduced<T>,
) {
    let Some(level) = tables.code.as_ref().and_then(|code| code.0.get(LEVEL)) else { return };
    for row in 0..span.groups {
        if !span.narrow {
            for &(call, from) in &uniform.reads {
                // SAFETY: the caller's contract: one value per row.
                uniform.together[call][0] = unsafe { *from.wrapping_add(row) };
            }
        }
        let of_row = Span { at: span.at + row * span.pitch, ..span };
        // SAFETY: the caller's contract.
        unsafe { run(level, tables, uniform, of_row, row, out) }
    }
}

/// # Safety
/// As for [`Kernel`](super::lane::Kernel).
unsafe fn run<T: Element>(
    level: &Level,
    tables: &Tables<T>,
    uniform: &Uniform<T>,
    span: Span,
    row: usize,
    out: &mut Reduced<T>,
) {
    let mut blocks = vec![[T::zero(); BLOCK]; level.fills.len()];
    let mut lanes = [T::padded(); MAX_REDUCTIONS];
    for (lanes, &identity) in lanes.iter_mut().zip(&tables.identity) {
        lanes.as_mut().fill(identity);
    }
    let all = (span.n - 1) * T::LANES + span.lanes;
    for done in (0..all).step_by(BLOCK) {
        let n = BLOCK.min(all - done);
        // SAFETY: the contract: all pointers are valid for the span, whose vectors these are.
        let memory =
            |from: *const T| unsafe { std::slice::from_raw_parts(from.wrapping_add(done), n) };
        for (i, &fill) in level.fills.iter().enumerate() {
            let (before, rest) = blocks.split_at_mut(i);
            let to = &mut rest[0][..n];
            let block = |place: Place| &before[place][..n];
            match fill {
                Fill::Grad => to.copy_from_slice(memory(tables.grad.wrapping_add(span.at))),
                Fill::Param => {
                    to.copy_from_slice(memory(tables.param.wrapping_add(span.at)));
                }
                Fill::Slot(s) => {
                    to.copy_from_slice(memory(tables.slots[s].wrapping_add(span.at)));
                }
                Fill::Cols(call) => {
                    to.copy_from_slice(memory(tables.cols[call].wrapping_add(span.col)));
                }
                Fill::Rows(call) if span.narrow => {
                    to.copy_from_slice(memory(uniform.rows[call].cast_const()));
                }
                Fill::Rows(call) => to.fill(uniform.together[call][0]),
                Fill::Uniform(call) => to.fill(uniform.values[call]),
                Fill::Unary(op, a) => {
                    for (to, &a) in to.iter_mut().zip(block(a)) {
                        *to = op.apply(a);
                    }
                }
                Fill::Binary(op, a, b) => binary(op, to, block(a), block(b)),
                Fill::Select([a, b, x, y]) => {
                    let (a, b) = (block(a), block(b));
                    for (i, (&x, &y)) in block(x).iter().zip(block(y)).enumerate() {
                        to[i] = if a[i] < b[i] { x } else { y };
                    }
                }
            }
        }
        for &(what, place) in &level.uses {
            let from = &blocks[place][..n];
            match what {
                // SAFETY: as above; nothing else refers to what is written.
                Use::Param => unsafe { put(tables.param.wrapping_add(span.at + done), from) },
                // SAFETY: as above.
                Use::Slot(s) => unsafe { put(tables.slots[s].wrapping_add(span.at + done), from) },
                Use::Sum(r, kind, Axis::Col) => {
                    let acc = uniform.col_acc[r].wrapping_add(span.col + done);
                    // SAFETY: column accumulators are padded to whole vectors and the worker's own.
                    let acc = unsafe { std::slice::from_raw_parts_mut(acc, n) };
                    for (acc, &x) in acc.iter_mut().zip(from) {
                        *acc = join(kind, *acc, x);
                    }
                }
                Use::Sum(r, _, Axis::Row) if span.narrow => {
                    // SAFETY: as many vectors as the span has lie there, the worker's own.
                    unsafe { put(uniform.row_acc[r].wrapping_add(done), from) }
                }
                Use::Sum(r, kind, _) => {
                    let lanes = lanes[r].as_mut();
                    for vector in from.chunks(T::LANES) {
                        for (acc, &x) in lanes.iter_mut().zip(vector) {
                            *acc = join(kind, *acc, x);
                        }
                    }
                }
            }
        }
    }
    for &(what, _) in &level.uses {
        if let Use::Sum(r, kind, Axis::Row | Axis::Matrix | Axis::Tensor) = what {
            let lanes = lanes[r].as_mut();
            let mut half = T::LANES / 2;
            while half > 0 {
                for i in 0..half {
                    lanes[i] = join(kind, lanes[i], lanes[i + half]);
                }
                half /= 2;
            }
            out[r][row] = lanes[0];
        }
    }
}

/// The operations that steps are full of, each in a loop of its own.
fn binary<T: Element>(op: Binary, to: &mut [T], a: &[T], b: &[T]) {
    macro_rules! each {
        ($op:expr) => {
            for ((to, &a), &b) in to.iter_mut().zip(a).zip(b) {
                *to = $op.apply(a, b);
            }
        };
    }
    match op {
        Binary::Add => each!(Binary::Add),
        Binary::Sub => each!(Binary::Sub),
        Binary::Mul => each!(Binary::Mul),
        Binary::Div => each!(Binary::Div),
        // The tracer has refused powers.
        Binary::Pow => {}
        op => each!(op),
    }
}

/// # Safety
/// There is room.
unsafe fn put<T: Copy>(to: *mut T, from: &[T]) {
    // SAFETY: the caller's contract.
    unsafe { to.copy_from_nonoverlapping(from.as_ptr(), from.len()) }
}
