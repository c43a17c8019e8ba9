//! The small values between sweeps: tables of them, and the little interpreter that fills them.
//!
//! Small values are few (a row value is one in `cols` elements), so they are interpreted from the
//! graph, one whole array per operation, in the precision of the state. Means of them are summed
//! in `f64`.

use std::ops::Range;

use crate::cpu::memory::Aligned;
use crate::cpu::{Element, Isa, Lanes};
use crate::layout::Dims;
use crate::plan::Plan;
use crate::trace::{NodeId, Op};
use crate::value::{Axis, Binary, Reduction, Shape, Unary};

/// Where the small values of one tensor lie: one array per node and per slot.
#[derive(Debug)]
pub(crate) struct Small<T: Lanes> {
    pub(crate) dims: Dims,
    isa: Isa,
    /// Columns of a batch entry, padded to whole vectors.
    pub(crate) stride: usize,
    memory: Aligned<T>,
    nodes: Vec<usize>,
    slots: Vec<usize>,
    /// Host values by node.
    pub(crate) hosts: Vec<T>,
    host_values: Vec<f64>,
}

/// A place among the small values of one batch entry, or of all.
#[derive(Clone, Copy)]
struct Operand<T> {
    from: *const T,
    /// Elements per batch entry; 0 for one value for all.
    stride: usize,
    /// True if there is one value per batch entry or less.
    constant: bool,
}

impl<T: Element> Operand<T> {
    /// # Safety
    /// `i` is below the number of values of the shape.
    #[inline(always)]
    unsafe fn get(self, b: usize, i: usize) -> T {
        let i = if self.constant { 0 } else { i };
        // SAFETY: the caller's contract.
        unsafe { *self.from.add(b * self.stride + i) }
    }
}

impl<T: Element> Small<T> {
    pub(crate) fn new(plan: &Plan, dims: Dims, isa: Isa) -> Self {
        let stride = dims.cols.next_multiple_of(T::LANES);
        let mut len = 0;
        let mut place = |shape: Shape| {
            let at = len;
            len += Self::extent(dims, stride, shape).next_multiple_of(T::LANES);
            at
        };
        let slots: Vec<usize> = plan.graph.slots.iter().map(|s| place(small(s.shape))).collect();
        let nodes: Vec<usize> = plan
            .graph
            .nodes
            .iter()
            .enumerate()
            .map(|(id, n)| match n.op {
                // An old value is the slot itself, unless it becomes another slot's new one: slots
                // are committed one after the other, so that one is copied first.
                Op::Old(s) if !plan.graph.stores.contains(&id) => slots[s],
                _ => place(small(n.shape)),
            })
            .collect();
        let mut this = Self {
            dims,
            isa,
            stride,
            memory: Aligned::filled(len, T::zero()),
            hosts: vec![T::zero(); nodes.len()],
            host_values: vec![0.0; nodes.len()],
            nodes,
            slots,
        };
        for (s, decl) in plan.graph.slots.iter().enumerate() {
            let n = Self::extent(dims, stride, small(decl.shape));
            let at = this.slots[s];
            this.memory[at..at + n].fill(T::narrow(decl.init));
        }
        for (n, node) in plan.graph.nodes.iter().enumerate() {
            if let Op::Count(axis) = node.op {
                #[allow(clippy::cast_precision_loss, reason = "a count of elements, rounded once")]
                let count = count(dims, axis) as f64;
                let at = this.nodes[n];
                this.memory[at] = T::narrow(count);
            }
        }
        this
    }

    fn extent(dims: Dims, stride: usize, shape: Shape) -> usize {
        match shape {
            Shape::Cols => dims.batch * stride,
            Shape::Full => 0,
            _ => dims.count(shape),
        }
    }

    /// Evaluates all Host values in `f64`.
    pub(crate) fn eval_hosts(&mut self, plan: &Plan, t: u64, hyper: impl Fn(&str) -> f64) {
        crate::host::eval_all(plan, &mut self.host_values, t, hyper);
        for &n in &plan.hosts {
            self.hosts[n] = T::narrow(self.host_values[n]);
        }
    }

    /// The array of a node, for tables of pointers.
    pub(crate) fn node_ptr(&mut self, n: NodeId) -> *mut T {
        let at = self.nodes[n];
        // SAFETY: the place was laid out within the memory.
        unsafe { self.memory.as_mut_ptr().add(at) }
    }

    /// The value of a slot of shape Scalar.
    pub(crate) fn scalar(&self, s: usize) -> T {
        self.memory[self.slots[s]]
    }

    /// The values of a small slot, without padding.
    pub(crate) fn slot(&self, s: usize, shape: Shape) -> Vec<T> {
        let at = self.slots[s];
        match shape {
            Shape::Cols => (0..self.dims.batch)
                .flat_map(|b| &self.memory[at + b * self.stride..][..self.dims.cols])
                .copied()
                .collect(),
            _ => self.memory[at..at + self.dims.count(shape)].to_vec(),
        }
    }

    /// Overwrites the values of a small slot. The length has been checked.
    pub(crate) fn set_slot(&mut self, s: usize, shape: Shape, values: &[T]) {
        let at = self.slots[s];
        match shape {
            Shape::Cols if self.dims.cols > 0 => {
                for (b, row) in values.chunks(self.dims.cols).enumerate() {
                    self.memory[at + b * self.stride..][..row.len()].copy_from_slice(row);
                }
            }
            _ => self.memory[at..at + values.len()].copy_from_slice(values),
        }
    }

    /// A table for a settle, by raw pointers: workers settle disjoint rows at the same time.
    pub(crate) fn table(&mut self) -> Table<'_, T> {
        Table {
            dims: self.dims,
            isa: self.isa,
            stride: self.stride,
            memory: self.memory.as_mut_ptr(),
            nodes: &self.nodes,
            slots: &self.slots,
            hosts: &self.hosts,
        }
    }
}

macro_rules! each {
    ($op:ident in $enum:ident [$($variant:ident)*] => |$bound:ident| $body:block) => {
        match $op {
            $($enum::$variant => { let $bound = $enum::$variant; $body })*
        }
    };
}

fn small(shape: Shape) -> Shape {
    if shape == Shape::Full { Shape::Host } else { shape }
}

/// The number of elements that a reduction over `axis` runs over.
pub(crate) fn count(dims: Dims, axis: Axis) -> usize {
    match axis {
        Axis::Row => dims.cols,
        Axis::Col => dims.rows,
        Axis::Matrix => dims.rows * dims.cols,
        Axis::Tensor => dims.len(),
    }
}

/// The small values, open to several workers.
#[derive(Clone, Copy)]
pub(crate) struct Table<'a, T> {
    dims: Dims,
    isa: Isa,
    stride: usize,
    memory: *mut T,
    nodes: &'a [usize],
    slots: &'a [usize],
    hosts: &'a [T],
}

// SAFETY: workers settle disjoint rows, and read only what is settled.
unsafe impl<T: Send + Sync> Send for Table<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Table<'_, T> {}

impl<T: Element> Table<'_, T> {
    /// A Host value.
    pub(crate) fn host(&self, n: NodeId) -> T {
        self.hosts[n]
    }

    /// The array of a node.
    pub(crate) fn ptr(&self, n: NodeId) -> *mut T {
        // SAFETY: the place was laid out within the memory.
        unsafe { self.memory.add(self.nodes[n]) }
    }

    fn operand(&self, plan: &Plan, n: NodeId) -> Operand<T> {
        let shape = plan.graph.nodes[n].shape;
        let (from, stride): (*const T, usize) = match shape {
            Shape::Host => (&raw const self.hosts[n], 0),
            Shape::Scalar | Shape::Full => (self.ptr(n), 0),
            Shape::Matrix => (self.ptr(n), 1),
            Shape::Rows => (self.ptr(n), self.dims.rows),
            Shape::Cols => (self.ptr(n), self.stride),
        };
        Operand { from, stride, constant: shape.fits(Shape::Matrix) }
    }

    /// Settles one node. Row values only for rows `rows` of the batch entries `batch`, everything
    /// else whole.
    ///
    /// # Safety
    /// Operands are settled, and nobody else reads or writes this node's values now.
    pub(crate) unsafe fn settle(
        &self,
        plan: &Plan,
        n: NodeId,
        batch: Range<usize>,
        rows: Range<usize>,
    ) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if self.isa >= Isa::Avx2 {
            // SAFETY: the instruction set was checked, and the caller's contract.
            return unsafe { self.settle_avx2(plan, n, batch, rows) };
        }
        let _ = self.isa;
        // SAFETY: the caller's contract.
        unsafe { self.settle_anywhere(plan, n, batch, rows) }
    }

    /// The same loops in wider registers. No bit depends on it: nothing is fused or reordered.
    ///
    /// # Safety
    /// As for [`settle`](Self::settle), and the instruction set is present.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[target_feature(enable = "avx2")]
    unsafe fn settle_avx2(&self, plan: &Plan, n: NodeId, batch: Range<usize>, rows: Range<usize>) {
        // SAFETY: the caller's contract.
        unsafe { self.settle_anywhere(plan, n, batch, rows) }
    }

    /// # Safety
    /// As for [`settle`](Self::settle).
    #[inline(always)]
    unsafe fn settle_anywhere(
        &self,
        plan: &Plan,
        n: NodeId,
        batch: Range<usize>,
        rows: Range<usize>,
    ) {
        let node = &plan.graph.nodes[n];
        let (batch, range) = match node.shape {
            Shape::Host | Shape::Full => return,
            Shape::Scalar => (0..1, 0..1),
            Shape::Matrix => (batch, 0..1),
            Shape::Rows => (batch, rows),
            Shape::Cols => (batch, 0..self.dims.cols),
        };
        let out = self.operand(plan, n);
        let arg = |a: NodeId| self.operand(plan, a);
        // SAFETY: the caller's contract; indices are within the shapes' extents.
        unsafe {
            match node.op {
                // One loop per operation: the `match` stays outside.
                Op::Unary(op, a) => each!(op in Unary [Neg Sqrt Rsqrt Abs Sign Finite] => |op| {
                    map1(out, batch, range, arg(a), |x| op.apply(x));
                }),
                Op::Binary(op, a, b) => {
                    each!(op in Binary [Add Sub Mul Div Min Max Pow Differ] => |op| {
                        map2(out, batch, range, arg(a), arg(b), |x, y| op.apply(x, y));
                    });
                }
                Op::Select([a, b, x, y]) => {
                    let (a, b, x, y) = (arg(a), arg(b), arg(x), arg(y));
                    for e in batch {
                        for i in range.clone() {
                            let less = a.get(e, i) < b.get(e, i);
                            let v = if less { x.get(e, i) } else { y.get(e, i) };
                            out.from.cast_mut().add(e * out.stride + i).write(v);
                        }
                    }
                }
                Op::Reduce(kind, _, a) => self.reduce(plan, kind, a, out, node.shape),
                Op::Old(s) if self.nodes[n] != self.slots[s] => {
                    let from = self.memory.add(self.slots[s]).cast_const();
                    map1(out, batch, range, Operand { from, ..out }, |x| x);
                }
                // Counts are written once, other old values are the slots themselves.
                _ => {}
            }
        }
    }

    /// A reduction of small values.
    ///
    /// # Safety
    /// As for [`settle`](Self::settle).
    #[inline(always)]
    unsafe fn reduce(&self, plan: &Plan, kind: Reduction, a: NodeId, out: Operand<T>, to: Shape) {
        let from = plan.graph.nodes[a].shape;
        if from == Shape::Full {
            return; // Full-size reductions are finished by the sweep.
        }
        let a = self.operand(plan, a);
        let n = match from {
            Shape::Rows => self.dims.rows,
            Shape::Cols => self.dims.cols,
            _ => 1,
        };
        let mut acc = Acc::new(kind);
        for b in 0..self.dims.batch {
            // SAFETY: the caller's contract: that many values lie side by side.
            acc.add(unsafe { std::slice::from_raw_parts(a.from.add(b * a.stride), n) });
            if to == Shape::Matrix {
                // SAFETY: one value per batch entry.
                unsafe { out.from.cast_mut().add(b).write(acc.finished(n)) };
                acc = Acc::new(kind);
            }
        }
        if to == Shape::Scalar {
            // SAFETY: one value.
            unsafe { out.from.cast_mut().write(acc.finished(n * self.dims.batch)) };
        }
    }

    /// Copies the new value of a slot into it, broadcast to the slot's shape.
    ///
    /// # Safety
    /// Nobody else uses the slot now.
    pub(crate) unsafe fn commit(&self, plan: &Plan, slot: usize, value: NodeId) {
        let shape = plan.graph.slots[slot].shape;
        let (batch, n, stride) = match shape {
            Shape::Host | Shape::Full => return,
            Shape::Scalar => (1, 1, 0),
            Shape::Matrix => (self.dims.batch, 1, 1),
            Shape::Rows => (self.dims.batch, self.dims.rows, self.dims.rows),
            Shape::Cols => (self.dims.batch, self.dims.cols, self.stride),
        };
        // SAFETY: the slot's place was laid out within the memory, with this extent.
        unsafe {
            let from = self.memory.add(self.slots[slot]);
            let out = Operand { from: from.cast_const(), stride, constant: false };
            map1(out, 0..batch, 0..n, self.operand(plan, value), |x| x);
        }
    }
}

/// A sum or a maximum in progress: eight side by side, because the rounding errors of a long sum in
/// sequence show in `f64`.
pub(crate) struct Acc([f64; 8], Reduction);

impl Acc {
    #[inline(always)]
    pub(crate) fn new(kind: Reduction) -> Self {
        Self([identity(kind); 8], kind)
    }

    /// Element i goes to sum i mod 8.
    #[inline(always)]
    pub(crate) fn add<T: Element>(&mut self, values: &[T]) {
        for values in values.chunks(8) {
            for (sum, x) in self.0.iter_mut().zip(values) {
                *sum = join(self.1, *sum, x.widen());
            }
        }
    }

    #[inline(always)]
    pub(crate) fn total(&self) -> f64 {
        let [a, b, c, d, e, f, g, h] = self.0;
        let join = |a, b| join(self.1, a, b);
        join(join(join(a, b), join(c, d)), join(join(e, f), join(g, h)))
    }

    /// What `n` elements were reduced to.
    fn finished<T: Element>(&self, n: usize) -> T {
        #[allow(clippy::cast_precision_loss, reason = "a count of elements")]
        T::narrow(match self.1 {
            Reduction::Mean => self.total() / n as f64,
            Reduction::Max => self.total(),
        })
    }
}

/// What a reduction begins with.
pub(crate) fn identity(kind: Reduction) -> f64 {
    match kind {
        Reduction::Mean => 0.0,
        Reduction::Max => f64::NEG_INFINITY,
    }
}

/// Two parts of a reduction.
#[inline(always)]
pub(crate) fn join(kind: Reduction, a: f64, b: f64) -> f64 {
    match kind {
        Reduction::Mean => a + b,
        // One compare-and-select, as in the lanes: `f64::max` may pick either of two zeros.
        Reduction::Max if a < b => b,
        Reduction::Max => a,
    }
}

/// # Safety
/// As for [`Table::settle`].
#[inline(always)]
unsafe fn map1<T: Element>(
    out: Operand<T>,
    batch: Range<usize>,
    range: Range<usize>,
    a: Operand<T>,
    f: impl Fn(T) -> T,
) {
    for b in batch {
        for i in range.clone() {
            // SAFETY: the caller's contract.
            unsafe { out.from.cast_mut().add(b * out.stride + i).write(f(a.get(b, i))) };
        }
    }
}

/// # Safety
/// As for [`Table::settle`].
#[inline(always)]
unsafe fn map2<T: Element>(
    out: Operand<T>,
    batch: Range<usize>,
    range: Range<usize>,
    a: Operand<T>,
    b: Operand<T>,
    f: impl Fn(T, T) -> T,
) {
    for e in batch {
        // One value for the whole range is read once, so that the inner loop is a plain map.
        // SAFETY: the caller's contract.
        unsafe {
            let to = out.from.cast_mut().add(e * out.stride);
            match (a.constant, b.constant) {
                (false, false) => {
                    for i in range.clone() {
                        to.add(i).write(f(a.get(e, i), b.get(e, i)));
                    }
                }
                (true, false) => {
                    let x = a.get(e, 0);
                    for i in range.clone() {
                        to.add(i).write(f(x, b.get(e, i)));
                    }
                }
                (false, true) => {
                    let y = b.get(e, 0);
                    for i in range.clone() {
                        to.add(i).write(f(a.get(e, i), y));
                    }
                }
                (true, true) => {
                    let v = f(a.get(e, 0), b.get(e, 0));
                    for i in range.clone() {
                        to.add(i).write(v);
                    }
                }
            }
        }
    }
}
