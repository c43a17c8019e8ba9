//! Interpreter 1: records a definition as a graph.
//!
//! Equal operations on equal operands become one node (hash-consing). Every node knows its
//! [`Shape`] and its *level*: the number of full-size reductions on the longest path to it. From
//! this graph come the [`Plan`](crate::Plan), the shaders, and the tables of the CPU's loops.

use std::cell::RefCell;
use std::fmt;
use std::panic::Location;

use crate::definition::{Definition, Levels};
use crate::error::{Error, Result};
use crate::value::{Axis, Binary, Interpreter, Reduction, Shape, SlotDecl, Step, Unary, Value};

/// How the elements of a tensor are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(u8)]
pub enum Kind {
    /// One long vector.
    Vector,
    /// Batch × rows × cols.
    Matrix,
    /// One matrix of a single row: values of columns are elements.
    Row,
    /// One matrix of a single column: values of rows are elements.
    Column,
}

impl Kind {
    pub(crate) const fn of(number: u8) -> Self {
        match number {
            0 => Self::Vector,
            1 => Self::Matrix,
            2 => Self::Row,
            _ => Self::Column,
        }
    }

    /// How far a value of a shape varies over such a tensor.
    #[inline(always)]
    pub(crate) const fn shape(self, shape: Shape) -> Shape {
        match (self, shape) {
            (Self::Vector | Self::Matrix, same) => same,
            (Self::Row, Shape::Cols) | (Self::Column, Shape::Rows) => Shape::Full,
            (_, Shape::Rows | Shape::Cols | Shape::Matrix) => Shape::Scalar,
            (_, same) => same,
        }
    }

    /// What a reduction over an axis runs over; none if over one element.
    #[inline(always)]
    pub(crate) const fn axis(self, axis: Axis) -> Option<Axis> {
        match (self, axis) {
            (Self::Vector | Self::Matrix, same) => Some(same),
            (Self::Row, Axis::Col) | (Self::Column, Axis::Row) => None,
            _ => Some(Axis::Tensor),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Vector => "vector",
            Self::Matrix => "matrix",
            Self::Row => "row",
            Self::Column => "column",
        })
    }
}

/// A node of a [`Graph`], by its number.
pub type NodeId = usize;

/// A slot of a [`Graph`], by its number.
pub type SlotId = usize;

/// What a node computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// A number in the text, by its bits.
    Literal(u64),
    /// A hyper-parameter, by its number in [`Graph::hypers`].
    Hyper(usize),
    /// The step number.
    StepNumber,
    /// The number of elements along an axis.
    Count(Axis),
    /// The gradient.
    Grad,
    /// The parameter before the step.
    Param,
    /// A slot before the step.
    Old(SlotId),
    /// What was just stored in a full-size slot. At later levels it is read back.
    New(SlotId, NodeId),
    /// An operation of one operand.
    Unary(Unary, NodeId),
    /// An operation of two operands.
    Binary(Binary, NodeId, NodeId),
    /// `[a, b, x, y]`: `x` where `a < b`, else `y`.
    Select([NodeId; 4]),
    /// A reduction.
    Reduce(Reduction, Axis, NodeId),
}

impl Op {
    /// The same on operands of other numbers.
    fn renamed(self, of: impl Fn(NodeId) -> NodeId) -> Self {
        match self {
            Self::New(s, a) => Self::New(s, of(a)),
            Self::Unary(op, a) => Self::Unary(op, of(a)),
            Self::Binary(op, a, b) => Self::Binary(op, of(a), of(b)),
            Self::Select(list) => Self::Select(list.map(of)),
            Self::Reduce(kind, axis, a) => Self::Reduce(kind, axis, of(a)),
            same => same,
        }
    }

    /// The operands.
    pub(crate) fn args(&self) -> impl Iterator<Item = NodeId> + use<> {
        let (list, n) = match *self {
            Self::New(_, a) | Self::Unary(_, a) | Self::Reduce(_, _, a) => ([a, 0, 0, 0], 1),
            Self::Binary(_, a, b) => ([a, b, 0, 0], 2),
            Self::Select(list) => (list, 4),
            _ => ([0; 4], 0),
        };
        list.into_iter().take(n)
    }
}

/// A value of the traced definition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Node {
    /// What it computes.
    pub op: Op,
    /// How far it varies.
    pub shape: Shape,
    /// The number of full-size reductions on the longest path to it.
    pub level: u8,
}

/// A traced definition.
#[derive(Clone, Debug)]
pub struct Graph {
    /// The definition's name.
    pub name: &'static str,
    /// How the tensor was seen.
    pub kind: Kind,
    /// The nodes; operands come before their users.
    pub nodes: Vec<Node>,
    /// Names of the hyper-parameters, in order of first use.
    pub hypers: Vec<&'static str>,
    /// The declared slots, in order of declaration. Where the tensor is a row or a column their shapes
    /// are what is left of the declared ones.
    pub slots: Vec<SlotDecl>,
    /// The shapes as they were declared.
    pub(crate) declared: Vec<Shape>,
    /// The new value of each slot.
    pub stores: Vec<NodeId>,
    /// The new value of the parameter; `None` if the definition only
    /// [measures](Definition::MEASURES).
    pub param: Option<NodeId>,
    /// The node of each call in order, before hash-consing: what the CPU's lanes count by.
    pub(crate) calls: Vec<NodeId>,
    /// The operand of each full-size reduction call, in order, and the node of its result.
    pub(crate) reductions: Vec<(NodeId, NodeId)>,
    /// What the definition reports: names and values.
    pub(crate) reports: Vec<(&'static str, NodeId)>,
    /// How many slots, from the first on, are the definition's own. The others hold statistics.
    pub(crate) own_slots: usize,
}

/// Which statistics of a step are kept in slots of their own.
#[allow(unnameable_types, reason = "an inner part of `Recipe`")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Watch {
    /// None.
    #[default]
    Nothing,
    /// What the definition reports.
    Reports,
    /// Also the squares of gradient and update, and how many updates are zero: [`UPDATES`].
    Updates,
}

/// The slots of [`Watch::Updates`].
pub(crate) const UPDATES: [&str; 3] = ["mean_square_grad", "mean_square_update", "zero_updates"];

impl Graph {
    /// Records one run of a definition's step.
    ///
    /// # Errors
    /// [`Error::Definition`] if it breaks a rule that can be seen without a plan: shapes of slots,
    /// powers of values that are not Host, missing or double stores, a wrong [`Definition::LEVELS`].
    pub fn trace<D: Definition>(kind: Kind) -> Result<Self> {
        Self::trace_watched::<D>(kind, Watch::Nothing)
    }

    /// The same, with statistics.
    pub(crate) fn trace_watched<D: Definition>(kind: Kind, watch: Watch) -> Result<Self> {
        let trace = Trace::new(D::NAME, kind);
        D::step(Step::new(&trace));
        let flat = kind == Kind::Vector && D::LEVELS.of(Kind::Matrix) == 0;
        trace.finish(watch, D::MEASURES, D::LEVELS.of(kind), flat)
    }

    pub(crate) fn error(&self, problem: String, remedy: impl Into<String>) -> Error {
        Error::Definition { definition: self.name, problem, remedy: remedy.into() }
    }

    fn check_param(&self, measures: bool) -> Result<()> {
        match (self.param, measures) {
            (None, false) => Err(self.error(
                "it never sets the parameter".into(),
                "call `set_param` once, at the end of `step`",
            )),
            (Some(_), true) => Err(self.error(
                "it sets the parameter, but says that it only measures".into(),
                "leave `MEASURES` out",
            )),
            _ => Ok(()),
        }
    }

    fn check(&self, stated: u8, flat: bool) -> Result<()> {
        if let Some(slot) = self.stores.iter().position(|&n| n == usize::MAX) {
            return Err(self.error(
                format!("slot `{}` is declared but never set", self.slots[slot].name),
                "set it once in every step, or do not declare it",
            ));
        }
        for (what, len, most) in [
            ("operations", self.calls.len(), crate::cpu::MAX_CALLS),
            ("full-size slots", self.full_slots().count(), crate::cpu::MAX_FULL_SLOTS),
            ("full-size reductions", self.reductions.len(), crate::cpu::MAX_REDUCTIONS),
        ] {
            if len > most {
                return Err(self.error(
                    format!("it has {len} {what}, and the limit is {most}"),
                    "split it or compute less",
                ));
            }
        }
        let levels =
            self.stored().map(|n| self.nodes[n].level).max().unwrap_or(0).saturating_add(1);
        // The last settle may be for small slots only: then no loop is needed at that level.
        let loops = self
            .stored()
            .filter(|&n| self.nodes[n].shape == Shape::Full || Some(n) == self.param)
            .chain(self.needed_reductions())
            .map(|n| self.nodes[n].level)
            .max()
            .unwrap_or(0)
            .saturating_add(1);
        debug_assert!(loops <= levels, "loops are counted among the levels");
        if loops > Levels::MAX {
            return Err(self.error(
                format!("it has {loops} levels, and the limit is {}", Levels::MAX),
                "make fewer of its reductions depend on each other",
            ));
        }
        self.check_reports()?;
        if loops != stated {
            let kind = self.kind;
            return Err(self.error(
                format!("its LEVELS says {stated} for a {kind}, but it has {loops}"),
                match (flat, kind) {
                    (true, _) => format!("write `Levels::flat({loops})`"),
                    (_, Kind::Vector) => format!("write `Levels::factored({loops}, …)`"),
                    (_, Kind::Matrix) => format!("write `Levels::factored(…, {loops})`"),
                    (_, Kind::Row) => format!("write `.with_lines({loops}, …)`"),
                    (_, Kind::Column) => format!("write `.with_lines(…, {loops})`"),
                },
            ));
        }
        Ok(())
    }

    /// [`Error::Definition`] if a report needs a trip through memory that nothing else needs.
    fn check_reports(&self) -> Result<()> {
        if matches!(self.kind, Kind::Row | Kind::Column) {
            // A mean over values of columns may be one over elements here. It goes with a trip that is
            // made anyway, or else the number of levels tells.
            return Ok(());
        }
        let mut used = vec![false; self.nodes.len()];
        self.param.into_iter().for_each(|n| used[n] = true);
        self.stores[..self.own_slots].iter().for_each(|&n| used[n] = true);
        self.spread(&mut used);
        for &(name, n) in &self.reports {
            let mut needs = vec![false; self.nodes.len()];
            needs[n] = true;
            self.spread(&mut needs);
            if self.reductions.iter().any(|&(_, r)| needs[r] && !used[r]) {
                return Err(self.error(
                    format!("the report `{name}` needs a full-size reduction of its own"),
                    "report what the step computes anyway",
                ));
            }
        }
        Ok(())
    }

    /// Marks the operands of all nodes that are marked.
    pub(crate) fn spread(&self, used: &mut [bool]) {
        for n in (0..self.nodes.len()).rev() {
            if used[n] {
                self.nodes[n].op.args().for_each(|a| used[a] = true);
            }
        }
    }

    /// The slots that are the definition's own.
    pub(crate) fn own_slots(&self) -> &[SlotDecl] {
        &self.slots[..self.own_slots]
    }

    /// Their names, with the shapes that were declared.
    pub(crate) fn declared_slots(&self) -> impl Iterator<Item = (&'static str, Shape)> {
        self.own_slots().iter().zip(&self.declared).map(|(slot, &shape)| (slot.name, shape))
    }

    /// The slots that hold statistics.
    #[cfg(feature = "gpu")]
    pub(crate) fn watched_slots(&self) -> &[SlotDecl] {
        &self.slots[self.own_slots..]
    }

    /// All stored nodes: the parameter first, then the slots.
    pub(crate) fn stored(&self) -> impl Iterator<Item = NodeId> {
        self.param.into_iter().chain(self.stores.iter().copied())
    }

    /// Operands of the full-size reductions that something stored depends on.
    fn needed_reductions(&self) -> impl Iterator<Item = NodeId> {
        let used = self.reachable();
        self.reductions.iter().filter(move |(_, r)| used[*r]).map(|(a, _)| *a)
    }

    /// Which nodes something stored depends on.
    pub(crate) fn reachable(&self) -> Vec<bool> {
        let mut used = vec![false; self.nodes.len()];
        for n in self.stored() {
            used[n] = true;
        }
        self.spread(&mut used);
        used
    }

    /// The full-size slots, in the order of declaration, which is also that of the CPU's tables.
    pub(crate) fn full_slots(&self) -> impl Iterator<Item = SlotId> {
        (0..self.slots.len()).filter(|&s| self.slots[s].shape == Shape::Full)
    }

    /// The same mathematics where a mean over columns, of column means times values of columns,
    /// stands as one mean over elements.
    ///
    /// Definitions take such factors out of a sweep, which saves a multiplication an element. Where
    /// rows are cut, the other form is better: it leaves a number for each tile, not for each
    /// column of each.
    #[must_use]
    pub(crate) fn with_means_of_elements(&self) -> Self {
        let mut out = Self { nodes: Vec::with_capacity(self.nodes.len()), ..self.clone() };
        let mut map: Vec<NodeId> = Vec::with_capacity(self.nodes.len());
        let mut moved = Vec::new();
        let means = self.column_means();
        for (n, node) in self.nodes.iter().enumerate() {
            let mut op = node.op.renamed(|a| map[a]);
            if let Some((full, factors)) = self.scaled_column_means(n, &means) {
                let level = self.nodes[full].level;
                let product = factors.iter().fold(map[full], |product, &factor| {
                    let op = Op::Binary(Binary::Mul, product, map[factor]);
                    out.nodes.push(Node { op, shape: Shape::Full, level });
                    out.nodes.len() - 1
                });
                let axis = if node.shape == Shape::Matrix { Axis::Matrix } else { Axis::Tensor };
                op = Op::Reduce(Reduction::Mean, axis, product);
                moved.push((product, out.nodes.len()));
            }
            out.nodes.push(Node { op, ..*node });
            map.push(out.nodes.len() - 1);
        }
        let of = |n: &mut NodeId| *n = map[*n];
        out.calls.iter_mut().for_each(of);
        out.stores.iter_mut().for_each(of);
        out.param.iter_mut().for_each(of);
        out.reports.iter_mut().for_each(|r| of(&mut r.1));
        for (a, r) in &mut out.reductions {
            of(a);
            of(r);
        }
        out.reductions.extend(moved);
        out
    }

    /// For a mean over columns of the mean over rows of a Full value, times values of columns that
    /// are known when it is: that Full value, and those factors.
    fn scaled_column_means(&self, n: NodeId, means: &[bool]) -> Option<(NodeId, Vec<NodeId>)> {
        let Op::Reduce(Reduction::Mean, _, product) = self.nodes[n].op else { return None };
        // Along the products, innermost first: they keep their order, and with it their range.
        let (mut at, mut factors) = (product, Vec::new());
        let full = loop {
            match self.nodes[at].op {
                _ if !means[at] => return None,
                Op::Binary(_, x, y) => {
                    let (on, factor) = if means[x] { (x, y) } else { (y, x) };
                    factors.insert(0, factor);
                    at = on;
                }
                Op::Reduce(_, _, of) => break of,
                _ => return None,
            }
        };
        let early = |&f: &NodeId| self.nodes[f].level <= self.nodes[full].level;
        factors.iter().all(early).then_some((full, factors))
    }

    /// Which nodes are means over rows of a Full value, or products of one and something else.
    fn column_means(&self) -> Vec<bool> {
        let mut are = vec![false; self.nodes.len()];
        for (n, node) in self.nodes.iter().enumerate() {
            are[n] = match node.op {
                Op::Reduce(Reduction::Mean, Axis::Col, of) => self.nodes[of].shape == Shape::Full,
                Op::Binary(Binary::Mul, x, y) => node.shape == Shape::Cols && are[x] != are[y],
                _ => false,
            };
        }
        are
    }

    /// A node in words, its operands by number.
    pub(crate) fn describe(&self, n: NodeId) -> String {
        let node = &self.nodes[n];
        match node.op {
            Op::Literal(bits) => format!("{:?}", f64::from_bits(bits)),
            Op::Hyper(h) => self.hypers[h].to_string(),
            Op::StepNumber => "t".into(),
            Op::Count(axis) => format!("count({axis:?})"),
            Op::Grad => "grad".into(),
            Op::Param => "param".into(),
            Op::Old(s) => format!("old {}", self.slots[s].name),
            Op::New(s, a) => format!("new {} = %{a}", self.slots[s].name),
            Op::Unary(op, a) => format!("{op:?}(%{a})").to_lowercase(),
            Op::Binary(Binary::Add, a, b) => format!("%{a} + %{b}"),
            Op::Binary(Binary::Sub, a, b) => format!("%{a} - %{b}"),
            Op::Binary(Binary::Mul, a, b) => format!("%{a} * %{b}"),
            Op::Binary(Binary::Div, a, b) => format!("%{a} / %{b}"),
            Op::Binary(op, a, b) => format!("{op:?}(%{a}, %{b})").to_lowercase(),
            Op::Select([a, b, x, y]) => format!("if %{a} < %{b} then %{x} else %{y}"),
            Op::Reduce(kind, axis, a) => format!("{axis:?} {kind:?}(%{a})").to_lowercase(),
        }
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} of a {}", self.name, self.kind)?;
        for (n, node) in self.nodes.iter().enumerate() {
            writeln!(f, "%{n:<3} {:6} level {}  {}", node.shape, node.level, self.describe(n))?;
        }
        for (slot, value) in self.slots.iter().zip(&self.stores) {
            writeln!(f, "{} ({}) <- %{value}", slot.name, slot.shape)?;
        }
        match self.param {
            Some(n) => write!(f, "param <- %{n}"),
            None => Ok(()),
        }
    }
}

/// The recording interpreter.
struct Trace {
    kind: Kind,
    graph: RefCell<Graph>,
    error: RefCell<Option<Error>>,
}

impl Trace {
    fn new(name: &'static str, kind: Kind) -> Self {
        let graph = Graph {
            name,
            kind,
            nodes: Vec::new(),
            hypers: Vec::new(),
            slots: Vec::new(),
            declared: Vec::new(),
            stores: Vec::new(),
            param: None,
            calls: Vec::new(),
            reductions: Vec::new(),
            reports: Vec::new(),
            own_slots: 0,
        };
        Self { kind, graph: RefCell::new(graph), error: RefCell::default() }
    }

    /// The graph of what was recorded, or its first error.
    fn finish(self, watch: Watch, measures: bool, stated: u8, flat: bool) -> Result<Graph> {
        self.watch(watch);
        if let Some(error) = self.error.into_inner() {
            return Err(error);
        }
        let graph = self.graph.into_inner();
        graph.check_param(measures)?;
        graph.check(stated, flat)?;
        Ok(graph)
    }

    /// Adds statistics, in slots after all others.
    fn watch(&self, watch: Watch) {
        let (reports, param) = {
            let mut graph = self.graph.borrow_mut();
            graph.own_slots = graph.slots.len();
            (graph.reports.clone(), graph.param)
        };
        if watch == Watch::Nothing {
            return;
        }
        let s = Step::new(self);
        for (name, node) in reports {
            s.slot(name, Shape::Scalar, 0.0).set(Value::of_node(self, node));
        }
        if let (Watch::Updates, Some(new)) = (watch, param) {
            let old = Value::of_node(self, self.node(Op::Param, Shape::Full, 0));
            let update = Value::of_node(self, new) - old;
            let is_zero = 1.0 - Value::of_node(self, new).differs_from(old);
            for (name, value) in
                UPDATES.into_iter().zip([s.grad().square(), update.square(), is_zero])
            {
                s.slot(name, Shape::Scalar, 0.0).set(value.tensor_mean());
            }
        }
    }

    /// Appends a node, or finds the equal one.
    fn node(&self, op: Op, shape: Shape, level: u8) -> NodeId {
        let nodes = &mut self.graph.borrow_mut().nodes;
        // They are few.
        nodes.iter().position(|n| n.op == op).unwrap_or_else(|| {
            nodes.push(Node { op, shape, level });
            nodes.len() - 1
        })
    }

    /// A node that is the result of a call that the lanes count.
    fn call(&self, op: Op, shape: Shape, level: u8) -> NodeId {
        let node = self.node(op, shape, level);
        self.graph.borrow_mut().calls.push(node);
        node
    }

    fn get(&self, n: NodeId) -> Node {
        self.graph.borrow().nodes[n]
    }

    /// Keeps the first error.
    fn fail(&self, error: impl FnOnce(&Graph) -> Error) {
        let mut slot = self.error.borrow_mut();
        if slot.is_none() {
            *slot = Some(error(&self.graph.borrow()));
        }
    }

    fn joined(&self, args: &[NodeId]) -> (Shape, u8) {
        args.iter().fold((Shape::Host, 0), |(shape, level), &a| {
            let node = self.get(a);
            (shape.join(node.shape), level.max(node.level))
        })
    }
}

fn place(location: &Location<'_>) -> String {
    format!("{}:{}:{}", location.file(), location.line(), location.column())
}

impl Interpreter for Trace {
    type Repr = NodeId;
    type Slot = SlotId;

    fn is_matrix(&self) -> bool {
        self.kind != Kind::Vector
    }

    fn literal(&self, x: f64) -> NodeId {
        self.call(Op::Literal(x.to_bits()), Shape::Host, 0)
    }

    fn hyper(&self, name: &'static str) -> NodeId {
        let h = {
            let hypers = &mut self.graph.borrow_mut().hypers;
            hypers.iter().position(|&h| h == name).unwrap_or_else(|| {
                hypers.push(name);
                hypers.len() - 1
            })
        };
        self.call(Op::Hyper(h), Shape::Host, 0)
    }

    fn step_number(&self) -> NodeId {
        self.call(Op::StepNumber, Shape::Host, 0)
    }

    fn count(&self, axis: Axis) -> NodeId {
        self.call(Op::Count(axis), Shape::Scalar, 0)
    }

    fn grad(&self) -> NodeId {
        self.node(Op::Grad, Shape::Full, 0)
    }

    fn param(&self) -> NodeId {
        if self.graph.borrow().param.is_some() {
            self.fail(|g| {
                g.error(
                    "it reads the old parameter after the new one was set".into(),
                    "call `param` once, at the beginning of `step`, and `set_param` at its end",
                )
            });
        }
        self.node(Op::Param, Shape::Full, 0)
    }

    fn unary(&self, op: Unary, a: NodeId) -> NodeId {
        let (shape, level) = self.joined(&[a]);
        self.call(Op::Unary(op, a), shape, level)
    }

    #[track_caller]
    fn binary(&self, op: Binary, a: NodeId, b: NodeId) -> NodeId {
        let (shape, level) = self.joined(&[a, b]);
        if op == Binary::Pow && shape != Shape::Host {
            let location = Location::caller();
            self.fail(|g| {
                g.error(
                    format!("the power at {} has an operand of shape {shape}", place(location)),
                    "powers are for Host values; write `square`, `sqrt` or products of them",
                )
            });
        }
        self.call(Op::Binary(op, a, b), shape, level)
    }

    fn select_less(&self, a: NodeId, b: NodeId, x: NodeId, y: NodeId) -> NodeId {
        let args = [a, b, x, y];
        let (shape, level) = self.joined(&args);
        self.call(Op::Select(args), shape, level)
    }

    fn reduce(&self, kind: Reduction, axis: Axis, a: NodeId) -> NodeId {
        let node = self.get(a);
        let reduced = self.kind.axis(axis).map(|axis| (axis, node.shape.reduced(axis)));
        let Some((axis, shape)) = reduced.filter(|&(_, shape)| shape != node.shape) else {
            // Nothing varies along this axis: mean and max are the value itself.
            self.graph.borrow_mut().calls.push(a);
            return a;
        };
        let full = node.shape == Shape::Full;
        let level = node.level.saturating_add(u8::from(full));
        let result = self.call(Op::Reduce(kind, axis, a), shape, level);
        if full {
            self.graph.borrow_mut().reductions.push((a, result));
        }
        result
    }

    #[track_caller]
    fn slot(&self, decl: SlotDecl) -> SlotId {
        let location = Location::caller();
        if decl.shape == Shape::Host {
            self.fail(|g| {
                g.error(
                    format!("slot `{}` at {} has shape Host", decl.name, place(location)),
                    "state belongs to a tensor: declare it with shape Scalar",
                )
            });
        }
        if self.graph.borrow().slots.iter().any(|s| s.name == decl.name) {
            self.fail(|g| {
                g.error(
                    format!("slot `{}` is declared twice, again at {}", decl.name, place(location)),
                    "declare it once and keep the `Slot`, which is `Copy`",
                )
            });
        }
        let mut graph = self.graph.borrow_mut();
        graph.slots.push(SlotDecl { shape: self.kind.shape(decl.shape), ..decl });
        graph.declared.push(decl.shape);
        graph.stores.push(usize::MAX);
        graph.slots.len() - 1
    }

    fn old(&self, slot: SlotId) -> NodeId {
        let decl = self.graph.borrow().slots[slot];
        // The lanes load where they stand, and by now they would load the new value.
        if self.graph.borrow().stores[slot] != usize::MAX {
            self.fail(|g| {
                g.error(
                    format!(
                        "it reads the old value of slot `{}` after the new one is set",
                        decl.name
                    ),
                    "call `old` before `set` and keep the value, which is `Copy`",
                )
            });
        }
        self.call(Op::Old(slot), decl.shape, 0)
    }

    #[track_caller]
    fn store(&self, slot: SlotId, value: NodeId) -> NodeId {
        let location = Location::caller();
        let decl = self.graph.borrow().slots[slot];
        let node = self.get(value);
        if !node.shape.fits(decl.shape) {
            self.fail(|g| {
                Error::shape_clash(g.name, decl.name, decl.shape, node.shape, &place(location))
            });
        }
        if self.graph.borrow().stores[slot] != usize::MAX {
            self.fail(|g| {
                g.error(
                    format!("slot `{}` is set twice, again at {}", decl.name, place(location)),
                    "set it once and use the value that `set` returns",
                )
            });
        }
        let stored = if decl.shape == Shape::Full {
            self.node(Op::New(slot, value), Shape::Full, node.level)
        } else {
            value
        };
        let mut graph = self.graph.borrow_mut();
        graph.calls.push(stored);
        graph.stores[slot] = stored;
        stored
    }

    #[track_caller]
    fn report(&self, name: &'static str, value: NodeId) {
        let location = Location::caller();
        let shape = self.get(value).shape;
        if !matches!(shape, Shape::Host | Shape::Scalar) {
            self.fail(|g| {
                g.error(
                    format!("`{name}`, reported at {}, has shape {shape}", place(location)),
                    "report a Host or Scalar value: reduce it first",
                )
            });
        }
        let mut graph = self.graph.borrow_mut();
        let twice = graph.reports.iter().any(|r| r.0 == name);
        if twice || graph.slots.iter().any(|s| s.name == name) {
            drop(graph);
            self.fail(|g| {
                g.error(
                    format!("`{name}`, reported at {}, is the name of another", place(location)),
                    "give each report a name that no slot and no other report has",
                )
            });
        } else {
            graph.reports.push((name, value));
        }
    }

    #[track_caller]
    fn store_param(&self, value: NodeId) {
        let location = Location::caller();
        if self.graph.borrow().param.is_some() {
            self.fail(|g| {
                g.error(
                    format!("the parameter is set twice, again at {}", place(location)),
                    "compute the whole update first and call `set_param` once",
                )
            });
        }
        self.graph.borrow_mut().param = Some(value);
    }
}
