//! The small values between sweeps: where they lie, and the little interpreter that fills them.
//!
//! Small values are few (a row value is one in `cols` elements), so they are interpreted: in the
//! order of the graph, in the precision of the state, a stretch at a time that stays in the nearer
//! caches through all operations. Means of them are summed in `f64`.

use crate::cpu::lane::{binary, unary};
use crate::cpu::memory::Aligned;
use crate::cpu::simd::Simd;
use crate::cpu::{Element, Isa, Lanes};
use crate::layout::Dims;
use crate::plan::Plan;
use crate::trace::{Kind, NodeId, Op, SlotId};
use crate::value::{Axis, Binary, Reduction, Shape, Unary};

/// Values that go through all operations of a run together, and columns of a piece at most that are settled
/// while they are in the cache.
pub(crate) const STRETCH: usize = 4096;

/// Where the small values of a tensor lie: one array for each node and each slot, the same for all
/// tensors of one definition and size.
#[derive(Debug)]
pub(crate) struct Places {
    dims: Dims,
    /// Columns of a batch entry, padded to whole vectors.
    pub(crate) stride: usize,
    len: usize,
    nodes: Vec<usize>,
    slots: Vec<usize>,
}

impl Places {
    /// `temporary`: nodes without a place.
    fn new(order: &Order<'_>, dims: Dims, lanes: usize, temporary: &[bool]) -> Self {
        let graph = &order.plan.graph;
        let mut this = Self {
            dims,
            stride: dims.cols.next_multiple_of(lanes),
            len: 0,
            nodes: Vec::new(),
            slots: Vec::new(),
        };
        let mut place = |shape: Shape| {
            let at = this.len;
            this.len += extent(dims, this.stride, shape).next_multiple_of(lanes);
            at
        };
        this.slots = graph.slots.iter().map(|s| place(s.shape)).collect();
        let of = |n: NodeId| match order.lies_in(n) {
            Some(s) => this.slots[s],
            None if temporary[n] => usize::MAX,
            None => place(graph.nodes[n].shape),
        };
        this.nodes = (0..graph.nodes.len()).map(of).collect();
        this
    }

    /// The small values of a tensor before its first step.
    pub(crate) fn memory<T: Element>(&self, plan: &Plan) -> Aligned<T> {
        let mut memory = Aligned::apart(3, self.len, T::zero());
        for (s, decl) in plan.graph.slots.iter().enumerate() {
            let n = extent(self.dims, self.stride, decl.shape);
            memory[self.slots[s]..][..n].fill(T::narrow(decl.init));
        }
        for (n, node) in plan.graph.nodes.iter().enumerate() {
            if let Op::Count(axis) = node.op {
                #[allow(clippy::cast_precision_loss, reason = "a count of elements, rounded once")]
                let count = count(self.dims, axis) as f64;
                memory[self.nodes[n]] = T::narrow(count);
            }
        }
        memory
    }

    /// Where the array of a node begins.
    pub(crate) fn node(&self, n: NodeId) -> usize {
        self.nodes[n]
    }

    /// Where a slot of shape Scalar is.
    pub(crate) fn scalar(&self, s: SlotId) -> usize {
        self.slots[s]
    }

    /// The values of a small slot, without padding.
    pub(crate) fn slot<T: Element>(&self, memory: &[T], s: SlotId, shape: Shape) -> Vec<T> {
        let at = self.slots[s];
        match shape {
            Shape::Cols => (0..self.dims.batch)
                .flat_map(|b| &memory[at + b * self.stride..][..self.dims.cols])
                .copied()
                .collect(),
            _ => memory[at..at + self.dims.count(shape)].to_vec(),
        }
    }

    /// Overwrites the values of a small slot. The length has been checked.
    pub(crate) fn set_slot<T: Element>(
        &self,
        memory: &mut [T],
        s: SlotId,
        shape: Shape,
        values: &[T],
    ) {
        let at = self.slots[s];
        match shape {
            Shape::Cols if self.dims.cols > 0 => {
                for (b, row) in values.chunks(self.dims.cols).enumerate() {
                    memory[at + b * self.stride..][..row.len()].copy_from_slice(row);
                }
            }
            _ => memory[at..at + values.len()].copy_from_slice(values),
        }
    }
}

/// When small values are settled.
struct Order<'a> {
    plan: &'a Plan,
    /// Before which level, as the plan counts its settles.
    before: Vec<usize>,
    /// Whether it is a value of columns that are complete after one walk down, made of what is there by then:
    /// it is settled after each piece of columns, while that is in the nearest cache.
    early: Vec<bool>,
}

impl<'a> Order<'a> {
    /// `shallow`: whether columns are complete after one walk down.
    fn new(plan: &'a Plan, shallow: bool) -> Self {
        let graph = &plan.graph;
        let nodes = &graph.nodes;
        let used = graph.reachable();
        let mut before: Vec<_> = nodes.iter().map(|n| usize::from(n.level)).collect();
        let of_columns = |n: NodeId| {
            used[n]
                && nodes[n].shape == Shape::Cols
                && matches!(nodes[n].op, Op::Unary(..) | Op::Binary(..) | Op::Select(..))
        };
        // What only later settles need is made there, on the way: it need not lie in memory until then.
        for n in (0..nodes.len()).rev().filter(|&n| of_columns(n)) {
            let read = plan.levels.iter().any(|l| l.reads.contains(&n));
            let of_old = nodes[n].op.args().any(|a| matches!(nodes[a].op, Op::Old(_)));
            let users =
                (n + 1..nodes.len()).filter(|&m| used[m] && nodes[m].op.args().any(|a| a == n));
            if !read && !of_old && !graph.stores.contains(&n) {
                let first = users.map(|m| before[m]).min();
                before[n] = before[n].max(first.unwrap_or(0));
            }
        }
        let mut early = vec![false; nodes.len()];
        for n in (0..nodes.len()).filter(|&n| shallow && of_columns(n)) {
            let there = |a: NodeId| {
                nodes[a].shape == Shape::Host
                    || before[a] < before[n]
                    || early[a]
                    || sums_columns(plan, a)
            };
            early[n] =
                (1..=plan.sweeps.len()).contains(&before[n]) && nodes[n].op.args().all(there);
        }
        Self { plan, before, early }
    }

    /// The slot in whose memory a value lies.
    fn lies_in(&self, n: NodeId) -> Option<SlotId> {
        let graph = &self.plan.graph;
        match graph.nodes[n].op {
            // Unless it becomes another slot's new value: slots are committed one after the other, so
            // that one is copied first.
            Op::Old(s) if !graph.stores.contains(&n) => Some(s),
            _ => self.made_in_place(n),
        }
    }

    /// The slot in whose memory a new value is made, because nothing reads the old one afterwards.
    fn made_in_place(&self, n: NodeId) -> Option<SlotId> {
        let plan = self.plan;
        let graph = &plan.graph;
        let by_index = matches!(graph.nodes[n].op, Op::Unary(..) | Op::Binary(..) | Op::Select(..));
        let s = graph.stores.iter().position(|&stored| stored == n).filter(|_| by_index)?;
        let shape = graph.slots[s].shape;
        if shape != graph.nodes[n].shape || matches!(shape, Shape::Full | Shape::Host) {
            return None;
        }
        let reads_old = |node: &crate::trace::Node| {
            node.op.args().any(|a| matches!(graph.nodes[a].op, Op::Old(of) if of == s))
        };
        // What is settled for a block of rows, or for a piece of columns, comes before what the settles after
        // that sweep do.
        let sweep = plan.sweeps.iter().find(|sweep| sweep.local.contains(&n));
        let follows = |m: NodeId| {
            let node = &graph.nodes[m];
            m > n
                || self.early[n] && !self.early[m] && self.before[m] == self.before[n]
                || sweep.is_some_and(|sweep| {
                    node.shape != Shape::Full
                        && usize::from(node.level) > sweep.levels.start
                        && !sweep.local.contains(&m)
                })
        };
        let mut nodes = graph.nodes.iter().enumerate();
        (!nodes.any(|(m, node)| follows(m) && reads_old(node))).then_some(s)
    }
}

/// Whether a value is what columns of full-size values are reduced to.
fn sums_columns(plan: &Plan, n: NodeId) -> bool {
    let nodes = &plan.graph.nodes;
    matches!(nodes[n].op, Op::Reduce(_, Axis::Col, a) if nodes[a].shape == Shape::Full)
}

fn extent(dims: Dims, stride: usize, shape: Shape) -> usize {
    match shape {
        Shape::Cols => dims.batch * stride,
        Shape::Full => 0,
        _ => dims.count(shape),
    }
}

/// The number of elements that a reduction over `axis` runs over.
pub(crate) fn count(dims: Dims, axis: Axis) -> usize {
    match axis {
        // Its rows are walked as columns.
        Axis::Row if dims.kind == Kind::Column => dims.rows,
        Axis::Col if dims.kind == Kind::Column => dims.cols,
        Axis::Row => dims.cols,
        Axis::Col => dims.rows,
        Axis::Matrix => dims.rows * dims.cols,
        Axis::Tensor => dims.len(),
    }
}

// ---------------------------------------------------------------------- what is done

/// How a value is found, given an index into the run's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moves {
    /// One for all.
    Not,
    /// One for each batch entry.
    WithBatch,
    WithIndex,
}

/// Where a value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    Host,
    Small,
    /// What is needed for the stretch at hand only.
    Scratch,
}

#[derive(Clone, Copy, Debug)]
struct Operand {
    memory: Memory,
    at: usize,
    moves: Moves,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Unary(Unary),
    Binary(Binary),
    Select,
    Copy,
    Chain(Chain),
}

impl Work {
    /// The operation on one number of each operand.
    #[inline(always)]
    fn apply<T: Element>(self, of: impl Fn(usize) -> T) -> T {
        match self {
            Self::Unary(op) => op.apply(of(0)),
            Self::Binary(op) => op.apply(of(0), of(1)),
            Self::Copy => of(0),
            Self::Select if of(0) < of(1) => of(2),
            Self::Select => of(3),
            Self::Chain(chain) => chain.apply(&of)[0],
        }
    }
}

/// Operands that any [`Work`] has at most.
const MAX_ARGS: usize = 7;

/// An operation of a [`Chain`], as [`Work`] and on vectors.
macro_rules! link {
    (Select) => {
        Work::Select
    };
    (Rsqrt) => {
        Work::Unary(Unary::Rsqrt)
    };
    ($op:ident) => {
        Work::Binary(Binary::$op)
    };
    (Select $v:ident $a:ident $b:ident $x:ident $y:ident) => {
        $v::select_less($a, $b, $x, $y)
    };
    (Rsqrt $v:ident $x:ident) => {
        unary::<$v>(Unary::Rsqrt, $x)
    };
    ($op:ident $v:ident $x:ident $y:ident) => {
        binary::<$v>(Binary::$op, $x, $y)
    };
}

/// The first, if the second is there.
macro_rules! with {
    ($this:expr, $there:ident) => {
        $this
    };
}

macro_rules! last {
    ($last:ident) => { $last };
    ($_:ident $($rest:ident)+) => { last!($($rest)+) };
}

/// Operands in `[…]`, and operations on them and on each other's results. A definition's own text stays where it
/// is: graphs are searched for these, and what is not found goes operation by operation, with the same bits.
macro_rules! chains {
    ($(
        $(#[$doc:meta])*
        $name:ident [$($arg:ident)*] $(keeps $kept:ident)? { $($made:ident = $op:ident($($of:ident)*);)* }
    )*) => {
        /// Operations one after the other, each of which needs what the one before made, and nobody else does,
        /// but for one that may be kept: one loop over the values instead of one for each operation, and no
        /// memory between them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Chain {
            $($(#[$doc])* $name,)*
        }

        impl Chain {
            /// Those that are searched for, the longest first.
            const ALL: &[Self] =
                if cfg!(gradstep_compact) { &[] } else { &[$(Self::$name),*] };

            /// Its operands, operations and what is kept.
            const fn links(self) -> Links {
                match self {
                    $(Self::$name => {
                        #[allow(non_camel_case_types, dead_code, reason = "names, for their numbers")]
                        enum N { $($arg,)* $($made,)* }
                        let args = [$(N::$arg as usize),*].len();
                        let kept: &[usize] = &[$(N::$kept as usize - args)?];
                        let links: &[(Work, &[usize])] = &[$((link!($op), &[$(N::$of as usize),*])),*];
                        Links { args, links, kept: if let [kept] = kept { Some(*kept) } else { None } }
                    })*
                }
            }

            /// Leaves the last result in the first place, and what is kept in the second.
            ///
            /// # Safety
            /// As for [`each_value`].
            #[inline(always)]
            unsafe fn each_value<V: Simd>(
                self,
                to: [*mut V::T; 2],
                n: usize,
                operands: [Source<V::T>; MAX_ARGS],
            ) {
                match self {
                    $(Self::$name => {
                        let [$($arg,)* ..] = operands;
                        let one = |args: [V::T; _]| {
                            let [_last, _kept] = self.apply(&|i| args[i]);
                            [_last $(, with!(_kept, $kept))?]
                        };
                        // SAFETY: the caller's contract.
                        let vector = |[$($arg),*]: [V; _]| unsafe {
                            $(let $made = link!($op V $($of)*);)*
                            [last!($($made)*) $(, $kept)?]
                        };
                        let [last, _kept] = to;
                        let to = [last $(, with!(_kept, $kept))?];
                        // SAFETY: the caller's contract.
                        unsafe { each_value::<V, _, _>(to, n, [$($arg),*], one, vector) };
                    })*
                }
            }
        }
    };
}

/// A [`Chain`]'s number of operands; its operations, each with which of the operands, or of the results after
/// them, it takes; and the number of the operation whose result is kept.
struct Links {
    args: usize,
    links: &'static [(Work, &'static [usize])],
    kept: Option<usize>,
}

chains! {
    /// A moving average of `x + e`, and `1/√(scale·average)`.
    RaisedMeanScaledRsqrt [x e w half old share scale] keeps mean {
        new = Add(x e);
        near = Select(w half old new);
        way = Sub(new old);
        part = Mul(way share);
        mean = Add(near part);
        scaled = Mul(mean scale);
        norm = Rsqrt(scaled);
    }
    /// The same without a scale.
    RaisedMeanRsqrt [x e w half old share] keeps mean {
        new = Add(x e);
        near = Select(w half old new);
        way = Sub(new old);
        part = Mul(way share);
        mean = Add(near part);
        norm = Rsqrt(mean);
    }
    /// A moving average of `x + e`: [`Value::lerp`](crate::value::Value::lerp).
    RaisedMean [x e w half old share] {
        new = Add(x e);
        near = Select(w half old new);
        way = Sub(new old);
        part = Mul(way share);
        mean = Add(near part);
    }
    /// The same of what is as it is.
    Mean [w half old new share] {
        near = Select(w half old new);
        way = Sub(new old);
        part = Mul(way share);
        mean = Add(near part);
    }
    /// `x·(k·y)²`, one factor after the other.
    TwoHalves [x k y] {
        half = Mul(k y);
        first = Mul(x half);
        product = Mul(first half);
    }
    /// `y/√(scale·x)`.
    ScaledNorm [x scale y] {
        scaled = Mul(x scale);
        norm = Rsqrt(scaled);
        product = Mul(y norm);
    }
    /// `1/√(scale·x)`.
    ScaledRsqrt [x scale] {
        scaled = Mul(x scale);
        norm = Rsqrt(scaled);
    }
    /// `y/√x`.
    Norm [x y] {
        norm = Rsqrt(x);
        product = Mul(y norm);
    }
    /// `x·y·z`.
    Products [x y z] {
        product = Mul(x y);
        all = Mul(product z);
    }
}

impl Chain {
    /// The last result, and the one that is kept.
    fn apply<T: Element>(self, of: &dyn Fn(usize) -> T) -> [T; 2] {
        let Links { args, links, kept } = self.links();
        let mut made = [T::zero(); MAX_ARGS];
        for (i, &(work, from)) in links.iter().enumerate() {
            made[i] = work.apply(|arg| match from[arg] {
                operand if operand < args => of(operand),
                result => made[result - args],
            });
        }
        let last = links.len() - 1;
        [made[last], made[kept.unwrap_or(last)]]
    }

    /// It as a draft, if the first of the drafts are its operations, and of what they make in between nobody else
    /// needs what is not kept: `inner`. What is kept has a place of its own: `outer`.
    fn found(
        self,
        drafts: &[Draft],
        inner: impl Fn(Name, usize) -> bool,
        outer: impl Fn(Name) -> bool,
    ) -> Option<(usize, Draft)> {
        let Links { args, links, kept } = self.links();
        let drafts = drafts.get(..links.len())?;
        let mut names = vec![None; args];
        names.extend(drafts.iter().map(|d| Some(d.to)));
        for (&(work, of), draft) in links.iter().zip(drafts) {
            if draft.work != work {
                return None;
            }
            for (&i, &arg) in of.iter().zip(&draft.args) {
                if *names[i].get_or_insert(arg) != arg {
                    return None;
                }
            }
        }
        let (last, between) = drafts.split_last()?;
        let mut between = between.iter().enumerate();
        let fits = |(i, d): (usize, &Draft)| match Some(i) == kept {
            true => outer(d.to),
            false => inner(d.to, links.len()),
        };
        names.truncate(args);
        // What it makes itself is not there for it to read.
        if drafts.iter().any(|d| names.contains(&Some(d.to))) {
            return None;
        }
        let draft = Draft {
            work: Work::Chain(self),
            to: last.to,
            also: kept.map(|i| drafts[i].to),
            args: names.into_iter().flatten().collect(),
        };
        between.all(fits).then_some((links.len(), draft))
    }
}

/// One operation on all values of a run.
#[derive(Clone, Copy, Debug)]
struct Call {
    work: Work,
    to: Operand,
    /// Where a result in between is kept.
    also: Option<Operand>,
    args: [Operand; MAX_ARGS],
}

/// A node, or the old or new value in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Node(NodeId),
    Slot(SlotId),
}

/// The same before places are known.
#[derive(Clone, Debug)]
struct Draft {
    work: Work,
    to: Name,
    also: Option<Name>,
    args: Vec<Name>,
}

impl Draft {
    fn new(work: Work, to: Name, args: Vec<Name>) -> Self {
        Self { work, to, also: None, args }
    }
}

/// Operations that go from index to index of one shape.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    shape: Shape,
    drafts: Vec<Draft>,
    calls: Vec<Call>,
    /// Whether any operation leaves more than one result.
    keeps: bool,
    /// Values that it is given in the scratch memory, and where.
    given: Vec<(NodeId, usize)>,
    /// Whether any operand goes with the batch.
    by_batch: bool,
}

/// A mean or maximum of small values.
#[derive(Clone, Copy, Debug)]
struct Reduce {
    kind: Reduction,
    nodes: [NodeId; 2],
    from: usize,
    /// Values of a batch entry, and from one to the next.
    len: usize,
    stride: usize,
    to: usize,
    /// One for each batch entry; else one for all.
    by_batch: bool,
}

#[derive(Clone, Debug)]
enum Stage {
    Run(Run),
    Reduce(Reduce),
}

/// What happens to the small values between two sweeps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settle(Vec<Stage>);

const BY_INDEX: [Shape; 4] = [Shape::Scalar, Shape::Matrix, Shape::Rows, Shape::Cols];

/// Collects runs: an operation waits for others of its shape until something needs it.
struct Builder<'a> {
    order: &'a Order<'a>,
    dims: Dims,
    stages: Vec<Stage>,
    /// One for each of [`BY_INDEX`].
    open: [Run; 4],
    /// Nodes that wait, and in which run.
    waits: Vec<(NodeId, usize)>,
}

impl Run {
    fn new(shape: Shape) -> Self {
        Self {
            shape,
            drafts: Vec::new(),
            calls: Vec::new(),
            keeps: false,
            given: Vec::new(),
            by_batch: false,
        }
    }

    /// Where in the scratch memory it is given the value `n`, if it is.
    pub(crate) fn given(&self, n: NodeId) -> Option<usize> {
        self.given.iter().find(|given| given.0 == n).map(|given| given.1)
    }

    fn uses(&self, n: NodeId) -> bool {
        self.drafts.iter().any(|d| d.args.contains(&Name::Node(n)))
    }

    /// Makes chains of operations. Those of a single value wait for each other either way.
    fn chain(&mut self, temporary: &[bool]) {
        if matches!(self.shape, Shape::Scalar | Shape::Matrix) {
            return;
        }
        let uses = |drafts: &[Draft], name| {
            drafts.iter().flat_map(|d| &d.args).filter(|&&a| a == name).count()
        };
        let mut i = 0;
        while i < self.drafts.len() {
            let found = Chain::ALL.iter().find_map(|chain| {
                let inner = |name, n| {
                    matches!(name, Name::Node(node) if temporary[node])
                        && uses(&self.drafts, name) == uses(&self.drafts[i..i + n], name)
                };
                let outer = |name| matches!(name, Name::Node(node) if !temporary[node]);
                chain.found(&self.drafts[i..], inner, outer)
            });
            if let Some((n, draft)) = found {
                self.drafts.splice(i..i + n, [draft]);
            }
            i += 1;
        }
    }

    /// Finds out where everything lies. Values without a place get one in the scratch memory, which
    /// is free again after their last use; returns how many there are at a time.
    fn place(&mut self, plan: &Plan, places: &Places) -> usize {
        let shape_of = |name: Name| match name {
            Name::Node(n) => plan.graph.nodes[n].shape,
            Name::Slot(s) => plan.graph.slots[s].shape,
        };
        let moves = |name: Name| match shape_of(name) {
            of if of == self.shape => Moves::WithIndex,
            Shape::Matrix => Moves::WithBatch,
            _ => Moves::Not,
        };
        // Whose places of the scratch memory are whose: at first, of what is made elsewhere.
        let mut scratch: Vec<Option<Name>> = Vec::new();
        for name in self.drafts.iter().flat_map(|d| d.args.clone()) {
            if let Name::Node(n) = name
                && places.nodes[n] == usize::MAX
                && shape_of(name) == self.shape
                && !scratch.contains(&Some(name))
                && !self.drafts.iter().any(|d| d.to == name)
            {
                self.given.push((n, scratch.len() * STRETCH));
                scratch.push(Some(name));
            }
        }
        let mut calls = Vec::new();
        for (i, draft) in self.drafts.iter().enumerate() {
            let find = |scratch: &[Option<Name>], name: Name| {
                let small = |at| Operand { memory: Memory::Small, at, moves: moves(name) };
                match name {
                    Name::Slot(s) => small(places.slots[s]),
                    Name::Node(n) if shape_of(name) == Shape::Host => {
                        Operand { memory: Memory::Host, at: n, moves: Moves::Not }
                    }
                    Name::Node(n) if places.nodes[n] != usize::MAX => small(places.nodes[n]),
                    Name::Node(_) => {
                        let at = scratch.iter().position(|&s| s == Some(name)).unwrap_or(0);
                        let moves = Moves::WithIndex;
                        Operand { memory: Memory::Scratch, at: at * STRETCH, moves }
                    }
                }
            };
            let none = Operand { memory: Memory::Host, at: 0, moves: Moves::Not };
            let mut args = [none; MAX_ARGS];
            for (arg, &name) in args.iter_mut().zip(&draft.args) {
                *arg = find(&scratch, name);
            }
            // One vector is read before it is written, so what is used here last may lie there.
            let later = |name: Name| self.drafts[i + 1..].iter().any(|d| d.args.contains(&name));
            for place in &mut scratch {
                *place = place.filter(|&name| later(name));
            }
            if matches!(draft.to, Name::Node(n) if places.nodes[n] == usize::MAX) {
                match scratch.iter().position(Option::is_none) {
                    Some(free) => scratch[free] = Some(draft.to),
                    None => scratch.push(Some(draft.to)),
                }
            }
            let also = draft.also.map(|name| find(&scratch, name));
            calls.push(Call { work: draft.work, to: find(&scratch, draft.to), also, args });
        }
        self.by_batch = calls.iter().any(|c| c.args.iter().any(|a| a.moves == Moves::WithBatch));
        self.keeps = calls.iter().any(|c| c.also.is_some());
        self.calls = calls;
        scratch.len()
    }
}

impl<'a> Builder<'a> {
    fn new(order: &'a Order<'a>, dims: Dims) -> Self {
        let open = BY_INDEX.map(Run::new);
        Self { order, dims, stages: Vec::new(), open, waits: Vec::new() }
    }

    fn close(&mut self, run: usize) {
        self.waits.retain(|w| w.1 != run);
        let next = Run::new(self.open[run].shape);
        let run = std::mem::replace(&mut self.open[run], next);
        if !run.drafts.is_empty() {
            self.stages.push(Stage::Run(run));
        }
    }

    /// Closes what `n` waits in, unless that is the run `but`.
    fn need(&mut self, n: NodeId, but: Option<usize>) {
        if let Some(&(_, run)) = self.waits.iter().find(|w| w.0 == n)
            && Some(run) != but
        {
            self.close(run);
        }
    }

    fn push(&mut self, shape: Shape, draft: Draft) {
        let Some(run) = BY_INDEX.iter().position(|&s| s == shape) else { return };
        for &arg in &draft.args {
            if let Name::Node(n) = arg {
                self.need(n, Some(run));
            }
        }
        let in_slot = match draft.to {
            Name::Slot(_) => true,
            Name::Node(n) => self.order.made_in_place(n).is_some(),
        };
        if in_slot && matches!(shape, Shape::Scalar | Shape::Matrix) {
            // Values of other shapes that wait may be made of the old one.
            (0..BY_INDEX.len()).filter(|&r| r != run).for_each(|r| self.close(r));
        }
        if let Name::Node(n) = draft.to {
            self.waits.push((n, run));
        }
        self.open[run].drafts.push(draft);
    }

    fn node(&mut self, n: NodeId) {
        let nodes = &self.order.plan.graph.nodes;
        let node = &nodes[n];
        let of = |a: NodeId| &nodes[a];
        let work = match node.op {
            Op::Unary(op, _) => Work::Unary(op),
            Op::Binary(op, ..) => Work::Binary(op),
            Op::Select(_) => Work::Select,
            Op::Old(s) if self.order.lies_in(n).is_none() => {
                let draft = Draft::new(Work::Copy, Name::Node(n), vec![Name::Slot(s)]);
                return self.push(node.shape, draft);
            }
            Op::Reduce(kind, _, a) if of(a).shape != Shape::Full => {
                let len = match of(a).shape {
                    Shape::Rows => self.dims.rows,
                    Shape::Cols => self.dims.cols,
                    _ => 1,
                };
                let by_batch = node.shape == Shape::Matrix;
                self.need(a, None);
                let nodes = [a, n];
                let reduce = Reduce { kind, nodes, from: 0, len, stride: len, to: 0, by_batch };
                self.stages.push(Stage::Reduce(reduce));
                return;
            }
            // Counts are written once, full-size reductions by their sweep.
            _ => return,
        };
        let args = node.op.args().map(Name::Node).collect();
        self.push(node.shape, Draft::new(work, Name::Node(n), args));
    }

    fn commit(&mut self, slot: SlotId, n: NodeId) {
        if self.order.made_in_place(n) != Some(slot) {
            let draft = Draft::new(Work::Copy, Name::Slot(slot), vec![Name::Node(n)]);
            self.push(self.order.plan.graph.slots[slot].shape, draft);
        }
    }
}

/// All that happens to the small values of a plan.
pub(crate) struct Settling {
    pub(crate) places: Places,
    /// Before each sweep, and after the last one.
    pub(crate) settles: Vec<Settle>,
    /// For each level the row values that are settled for each block of rows before it.
    pub(crate) local: Vec<Option<Run>>,
    /// For each sweep the values of columns that are settled after each piece of them.
    pub(crate) early: Vec<Option<Run>>,
    /// Elements of scratch memory that a worker needs.
    pub(crate) scratch: usize,
}

impl Settling {
    /// `shallow`: whether columns are complete after one walk down.
    pub(crate) fn new(plan: &Plan, dims: Dims, lanes: usize, shallow: bool) -> Self {
        let order = &Order::new(plan, shallow);
        let locals: Vec<_> = plan.sweeps.iter().flat_map(|s| s.local.iter().copied()).collect();
        let local = |k: usize| {
            let of_level = |n: &NodeId| usize::from(plan.graph.nodes[*n].level) == k;
            let mut builder = Builder::new(order, dims);
            locals.iter().copied().filter(of_level).for_each(|n| builder.node(n));
            let [_, _, rows, _] = builder.open;
            Some(rows).filter(|r| !r.drafts.is_empty())
        };
        let mut local: Vec<_> = (0..plan.levels.len()).map(local).collect();
        let settled_before = |k: usize| {
            let nodes = 0..plan.graph.nodes.len();
            nodes.filter(move |&n| {
                order.before[n] == k && plan.settles.iter().any(|s| s.contains(&n))
            })
        };
        let early = |k: usize| {
            let mut builder = Builder::new(order, dims);
            settled_before(k + 1).filter(|&n| order.early[n]).for_each(|n| builder.node(n));
            let [.., cols] = builder.open;
            Some(cols).filter(|r| !r.drafts.is_empty())
        };
        let mut early: Vec<_> = (0..plan.sweeps.len()).map(early).collect();
        let ends = plan.sweeps.iter().map(|s| s.levels.start + 1).chain([plan.settles.len()]);
        let mut settled = 0;
        let settle = |end: usize| {
            let mut builder = Builder::new(order, dims);
            for k in std::mem::replace(&mut settled, end)..end {
                let nodes = settled_before(k).filter(|n| !locals.contains(n) && !order.early[*n]);
                nodes.for_each(|n| builder.node(n));
                plan.commits(k).for_each(|(slot, n)| builder.commit(slot, n));
            }
            (0..BY_INDEX.len()).for_each(|run| builder.close(run));
            Settle(builder.stages)
        };
        let mut settles: Vec<_> = ends.map(settle).collect();

        let mut in_pieces: Vec<_> = local.iter_mut().chain(&mut early).flatten().collect();
        let temporary = temporary(order, &settles, &in_pieces);
        let places = Places::new(order, dims, lanes, &temporary);
        let runs = settles.iter_mut().flat_map(|s| &mut s.0).filter_map(|stage| match stage {
            Stage::Run(run) => Some(run),
            Stage::Reduce(_) => None,
        });
        runs.for_each(|run| run.chain(&temporary));
        let mut scratch = 0;
        for run in &mut in_pieces {
            run.chain(&temporary);
            scratch = scratch.max(run.place(plan, &places));
        }
        for stage in settles.iter_mut().flat_map(|s| &mut s.0) {
            match stage {
                Stage::Run(run) => scratch = scratch.max(run.place(plan, &places)),
                Stage::Reduce(reduce) => {
                    [reduce.from, reduce.to] = reduce.nodes.map(|n| places.nodes[n]);
                    if plan.graph.nodes[reduce.nodes[0]].shape == Shape::Cols {
                        reduce.stride = places.stride;
                    }
                }
            }
        }
        Self { places, settles, local, early, scratch: scratch * STRETCH }
    }
}

/// Which nodes are made in a run, or just before one that goes with pieces, and needed nowhere else.
fn temporary(order: &Order<'_>, settles: &[Settle], in_pieces: &[&mut Run]) -> Vec<bool> {
    let plan = order.plan;
    let graph = &plan.graph;
    let stages = || settles.iter().flat_map(|s| &s.0);
    let of_stages = stages().filter_map(|s| match s {
        Stage::Run(run) => Some(run),
        Stage::Reduce(_) => None,
    });
    let runs: Vec<&Run> = in_pieces.iter().map(|run| &**run).chain(of_stages).collect();
    let mut temporary = vec![false; graph.nodes.len()];
    for (r, run) in runs.iter().enumerate() {
        let given = run.drafts.iter().flat_map(|d| &d.args).filter(|&&name| {
            matches!(name, Name::Node(n) if sums_columns(plan, n)) && r < in_pieces.len()
        });
        for &name in run.drafts.iter().map(|d| &d.to).chain(given) {
            let Name::Node(n) = name else { continue };
            let reduced = |s: &Stage| matches!(s, Stage::Reduce(r) if r.nodes[0] == n);
            temporary[n] = order.lies_in(n).is_none()
                && !plan.levels.iter().any(|l| l.reads.contains(&n))
                && !stages().any(reduced)
                && !runs.iter().enumerate().any(|(other, run)| other != r && run.uses(n));
        }
    }
    temporary
}

// ---------------------------------------------------------------------- how it is done

/// The small values of a tensor, open to several workers.
#[derive(Clone, Copy)]
pub(crate) struct Table<'a, T> {
    pub(crate) places: &'a Places,
    pub(crate) isa: Isa,
    pub(crate) memory: *mut T,
    pub(crate) hosts: &'a [T],
}

// SAFETY: workers settle disjoint rows, and read only what is settled.
unsafe impl<T: Send + Sync> Send for Table<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Table<'_, T> {}

macro_rules! each {
    ($op:ident in $enum:ident [$($variant:ident)*] => |$bound:ident| $body:block) => {
        match $op {
            // One loop for all operations, where the size of the program matters more.
            $bound if cfg!(gradstep_compact) => $body
            $($enum::$variant => { let $bound = $enum::$variant; $body })*
        }
    };
}

/// A value, and elements to the next one: 1, or 0 for one that is the same for all.
#[derive(Clone, Copy)]
struct Source<T> {
    from: *const T,
    step: usize,
}

impl<T: Element> Table<'_, T> {
    /// Where a place is.
    pub(crate) fn at(&self, place: usize) -> *mut T {
        // SAFETY: places were laid out within the memory.
        unsafe { self.memory.add(place) }
    }

    /// Settles everything between two sweeps.
    ///
    /// # Safety
    /// No sweep is running, and the scratch memory is large enough.
    pub(crate) unsafe fn settle(&self, settle: &Settle, scratch: *mut T) {
        for stage in &settle.0 {
            // SAFETY: the caller's contract; operands were settled by stages before.
            unsafe {
                match stage {
                    Stage::Run(run) => self.whole(run, scratch),
                    Stage::Reduce(reduce) => self.reduce(reduce),
                }
            }
        }
    }

    /// # Safety
    /// As for [`settle`](Self::settle).
    unsafe fn whole(&self, run: &Run, scratch: *mut T) {
        let (dims, stride) = (self.places.dims, self.places.stride);
        let (len, stride) = match run.shape {
            Shape::Rows => (dims.rows, dims.rows),
            Shape::Cols => (dims.cols, stride),
            Shape::Matrix => (1, 1),
            // SAFETY: one value.
            _ => return unsafe { self.run(run, 0, 0..1, scratch) },
        };
        if run.by_batch || dims.batch == 1 {
            for b in 0..dims.batch {
                // SAFETY: the values of a batch entry.
                unsafe { self.run(run, b, b * stride..b * stride + len, scratch) };
            }
        } else {
            // SAFETY: those of all entries, padding between them included, which nobody reads.
            unsafe { self.run(run, 0, 0..dims.batch * stride, scratch) };
        }
    }

    /// Runs over `range` of the values of its shape, which belong to batch entry `b`.
    ///
    /// # Safety
    /// Operands are settled, nobody else reads or writes these values or the scratch memory now, and
    /// that is large enough.
    pub(crate) unsafe fn run(
        &self,
        run: &Run,
        b: usize,
        range: std::ops::Range<usize>,
        scratch: *mut T,
    ) {
        if range.len() == 1 && !run.keeps {
            // SAFETY: the caller's contract.
            return unsafe { self.single(run, b, range.start, scratch) };
        }
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if self.isa >= Isa::Avx2 {
            // SAFETY: the instruction set was checked, and the caller's contract.
            return unsafe { self.run_avx2(run, b, range, scratch) };
        }
        let _ = self.isa;
        // SAFETY: the caller's contract.
        unsafe { self.run_over::<T::Baseline>(run, b, range, scratch) }
    }

    /// Runs over one value, of operations that leave one each. Most of them wait for the one before: what that made
    /// is at hand, not only in memory.
    ///
    /// # Safety
    /// As for [`run`](Self::run).
    unsafe fn single(&self, run: &Run, b: usize, at: usize, scratch: *mut T) {
        let (mut made, mut made_at) = (T::zero(), std::ptr::null());
        for call in &run.calls {
            let value = |i: usize| {
                let from = self.find(&call.args[i], b, at, scratch).from;
                // SAFETY: the caller's contract; operations come in order.
                if from == made_at { made } else { unsafe { *from } }
            };
            made = call.work.apply(value);
            let to = self.find(&call.to, b, at, scratch).from;
            made_at = to;
            // SAFETY: as above.
            unsafe { to.cast_mut().write(made) };
        }
    }

    fn find(&self, operand: &Operand, b: usize, at: usize, scratch: *mut T) -> Source<T> {
        let &Operand { memory, at: place, moves } = operand;
        let (offset, step) = match moves {
            Moves::Not => (0, 0),
            Moves::WithBatch => (b, 0),
            Moves::WithIndex => (at, 1),
        };
        let from = match memory {
            Memory::Host => self.hosts.as_ptr().wrapping_add(place),
            Memory::Small => self.memory.cast_const().wrapping_add(place + offset),
            Memory::Scratch => scratch.cast_const().wrapping_add(place),
        };
        Source { from, step }
    }

    /// # Safety
    /// As for [`run`](Self::run), and the instruction set is present.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[target_feature(enable = "avx2")]
    unsafe fn run_avx2(&self, run: &Run, b: usize, range: std::ops::Range<usize>, scratch: *mut T) {
        // SAFETY: the caller's contract.
        unsafe { self.run_over::<T::Avx2>(run, b, range, scratch) }
    }

    /// # Safety
    /// As for [`run`](Self::run), and the instruction set of the vectors is present.
    #[inline(always)]
    unsafe fn run_over<V: Simd<T = T>>(
        &self,
        run: &Run,
        b: usize,
        range: std::ops::Range<usize>,
        scratch: *mut T,
    ) {
        let mut at = range.start;
        while at < range.end {
            let n = STRETCH.min(range.end - at);
            for call in &run.calls {
                // SAFETY: the caller's contract; operations come in order.
                unsafe { self.call::<V>(call, b, at, n, scratch) };
            }
            at += n;
        }
    }

    /// # Safety
    /// As for [`run_over`](Self::run_over), for the `n` values from `at` on.
    #[inline(always)]
    unsafe fn call<V: Simd<T = T>>(
        &self,
        call: &Call,
        b: usize,
        at: usize,
        n: usize,
        scratch: *mut T,
    ) {
        let arg = |i: usize| self.find(&call.args[i], b, at, scratch);
        let place = |operand| self.find(operand, b, at, scratch).from.cast_mut();
        let to = place(&call.to);
        // SAFETY: the caller's contract; indices are within the shapes' extents.
        unsafe {
            // One loop for each operation: the `match` stays outside.
            match call.work {
                Work::Unary(op) => each!(op in Unary [Neg Sqrt Rsqrt Abs Sign Finite] => |op| {
                    let vector = |[x]: [V; 1]| [unary(op, x)];
                    each_value::<V, 1, 1>([to], n, [arg(0)], |[x]| [op.apply(x)], vector);
                }),
                Work::Binary(op) => {
                    each!(op in Binary [Add Sub Mul Div Min Max Pow Differ] => |op| {
                        let args = [arg(0), arg(1)];
                        let vector = |[x, y]: [V; 2]| [binary(op, x, y)];
                        each_value::<V, 2, 1>([to], n, args, |[x, y]| [op.apply(x, y)], vector);
                    });
                }
                Work::Copy => each_value::<V, 1, 1>([to], n, [arg(0)], |x| x, |x| x),
                Work::Select => {
                    let args = [arg(0), arg(1), arg(2), arg(3)];
                    let one = |args: [T; 4]| [Work::Select.apply(|i| args[i])];
                    let vector = |[a, b, x, y]: [V; 4]| [V::select_less(a, b, x, y)];
                    each_value::<V, 4, 1>([to], n, args, one, vector);
                }
                // None is made.
                Work::Chain(_) if cfg!(gradstep_compact) => {}
                Work::Chain(chain) => {
                    let also = call.also.as_ref().map_or(to, place);
                    chain.each_value::<V>([to, also], n, std::array::from_fn(arg));
                }
            }
        }
    }

    /// # Safety
    /// As for [`settle`](Self::settle).
    unsafe fn reduce(&self, reduce: &Reduce) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if self.isa >= Isa::Avx2 {
            // SAFETY: the instruction set was checked, and the caller's contract.
            return unsafe { self.reduce_avx2(reduce) };
        }
        // SAFETY: the caller's contract.
        unsafe { self.reduce_anywhere(reduce) }
    }

    /// # Safety
    /// As for [`settle`](Self::settle), and the instruction set is present.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[target_feature(enable = "avx2")]
    unsafe fn reduce_avx2(&self, reduce: &Reduce) {
        // SAFETY: the caller's contract.
        unsafe { self.reduce_anywhere(reduce) }
    }

    /// # Safety
    /// As for [`settle`](Self::settle).
    #[inline(always)]
    unsafe fn reduce_anywhere(&self, reduce: &Reduce) {
        let &Reduce { kind, from, len, stride, to, by_batch, .. } = reduce;
        let batch = self.places.dims.batch;
        let mut acc = Acc::new(kind);
        for b in 0..batch {
            let values = self.at(from + b * stride).cast_const();
            // SAFETY: the caller's contract: that many values lie side by side.
            acc.add(unsafe { std::slice::from_raw_parts(values, len) });
            if by_batch {
                // SAFETY: one value per batch entry.
                unsafe { self.at(to + b).write(acc.finished(len)) };
                acc = Acc::new(kind);
            }
        }
        if !by_batch {
            // SAFETY: one value.
            unsafe { self.at(to).write(acc.finished(len * batch)) };
        }
    }
}

/// `to[i] = f(args[i])`, a vector at a time: what is read may lie where is written.
///
/// # Safety
/// The instruction set of the vectors is present, and `n` values lie behind each pointer that moves.
#[inline(always)]
unsafe fn each_value<V: Simd, const N: usize, const M: usize>(
    to: [*mut V::T; M],
    n: usize,
    args: [Source<V::T>; N],
    one: impl Fn([V::T; N]) -> [V::T; M],
    vector: impl Fn([V; N]) -> [V; M],
) {
    // SAFETY: the caller's contract.
    unsafe {
        if cfg!(gradstep_compact) {
            for i in 0..n {
                let mut values = [*args[0].from; N];
                for (value, arg) in values.iter_mut().zip(&args) {
                    *value = *arg.from.wrapping_add(i * arg.step);
                }
                for (to, made) in to.into_iter().zip(one(values)) {
                    to.wrapping_add(i).write(made);
                }
            }
            return;
        }
        // What is the same for all is read once.
        let mut values = [V::splat(*args[0].from); N];
        for (value, arg) in values.iter_mut().zip(&args) {
            *value = V::splat(*arg.from);
        }
        let mut i = 0;
        while i < n {
            // One call of `vector` for whole ones and the rest: twice, it would not be inlined.
            let rest = n - i;
            for (value, arg) in values.iter_mut().zip(&args) {
                let from = arg.from.wrapping_add(i);
                match arg.step {
                    0 => {}
                    _ if rest >= V::T::LANES => *value = V::load(from),
                    _ => *value = V::load_lanes(from, V::mask(rest)),
                }
            }
            for (to, made) in to.into_iter().zip(vector(values)) {
                let to = to.wrapping_add(i);
                if rest >= V::T::LANES {
                    made.store(to);
                } else {
                    made.store_lanes(to, V::mask(rest));
                }
            }
            i += V::T::LANES;
        }
    }
}

/// A sum or a maximum in progress: sixteen side by side, because the rounding errors of a long sum in
/// sequence show in `f64`, and each addition waits for the one before.
pub(crate) struct Acc([[f64; 8]; 2], Reduction);

impl Acc {
    #[inline(always)]
    pub(crate) fn new(kind: Reduction) -> Self {
        Self([[identity(kind); 8]; 2], kind)
    }

    /// Element i goes to sum i mod 16.
    #[inline(always)]
    pub(crate) fn add<T: Element>(&mut self, values: &[T]) {
        let Self([mut first, mut second], kind) = *self;
        let (whole, rest) = values.as_chunks::<16>();
        for values in whole {
            for i in 0..8 {
                first[i] = join(kind, first[i], values[i].widen());
            }
            for i in 0..8 {
                second[i] = join(kind, second[i], values[8 + i].widen());
            }
        }
        for (sum, x) in first.iter_mut().chain(&mut second).zip(rest) {
            *sum = join(kind, *sum, x.widen());
        }
        self.0 = [first, second];
    }

    #[inline(always)]
    pub(crate) fn total(&self) -> f64 {
        let join = |a, b| join(self.1, a, b);
        let [first, second] = self.0;
        let [a, b, c, d, e, f, g, h] = std::array::from_fn(|i| join(first[i], second[i]));
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
