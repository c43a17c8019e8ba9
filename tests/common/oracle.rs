//! Interpreter 3: plain evaluation of whole `f64` arrays, in the order of the text.
//!
//! A value is the index of an array; every operation makes a new array, at once, by one loop over
//! batch × rows × cols. There are no levels, sweeps or settles, and nothing is shared with the
//! library's own interpreters but the vocabulary. It depends on nothing but `gradstep`.

use std::cell::RefCell;
use std::collections::BTreeMap;

use gradstep::value::{Axis, Binary, Interpreter, Reduction, Shape, SlotDecl, Step, Unary};
use gradstep::{Definition, Dims, Graph, Kind, Op};

/// Hyper-parameters by name.
pub type Hyper<'a> = &'a dyn Fn(&str) -> f64;

/// An optimizer's state for one tensor, between steps.
#[derive(Clone, Debug)]
pub struct Oracle {
    pub dims: Dims,
    pub t: u64,
    pub slots: BTreeMap<&'static str, Vec<f64>>,
}

impl Oracle {
    pub fn new(dims: Dims) -> Self {
        Self { dims, t: 0, slots: BTreeMap::new() }
    }

    /// One step of a definition, run as it is written.
    pub fn step<D: Definition>(&mut self, hyper: Hyper<'_>, param: &mut [f64], grad: &[f64]) {
        self.run(hyper, param, grad, |arrays| D::step(Step::new(arrays)));
    }

    /// One step of a traced definition, node by node in the order of the trace.
    pub fn step_graph(&mut self, graph: &Graph, hyper: Hyper<'_>, param: &mut [f64], grad: &[f64]) {
        self.run(hyper, param, grad, |arrays| replay(graph, arrays));
    }

    fn run(
        &mut self,
        hyper: Hyper<'_>,
        param: &mut [f64],
        grad: &[f64],
        f: impl FnOnce(&Arrays<'_>),
    ) {
        self.t += 1;
        if self.dims.is_empty() {
            return; // a tensor without elements has no means
        }
        let arrays = Arrays {
            dims: self.dims,
            t: self.t,
            hyper,
            grad,
            param: param.to_vec(),
            before: &self.slots,
            decls: RefCell::default(),
            values: RefCell::default(),
            after: RefCell::default(),
            new_param: RefCell::default(),
        };
        f(&arrays);
        param.copy_from_slice(&arrays.new_param.take().expect("the definition sets the parameter"));
        self.slots = arrays.after.take();
    }
}

/// An array of some shape. One value stands for all indices that the shape does not vary along.
type Array = (Shape, Vec<f64>);

/// One step in progress.
pub struct Arrays<'a> {
    dims: Dims,
    t: u64,
    hyper: Hyper<'a>,
    grad: &'a [f64],
    param: Vec<f64>,
    before: &'a BTreeMap<&'static str, Vec<f64>>,
    decls: RefCell<Vec<SlotDecl>>,
    values: RefCell<Vec<Array>>,
    after: RefCell<BTreeMap<&'static str, Vec<f64>>>,
    new_param: RefCell<Option<Vec<f64>>>,
}

impl Arrays<'_> {
    fn push(&self, shape: Shape, data: Vec<f64>) -> usize {
        self.values.borrow_mut().push((shape, data));
        self.values.borrow().len() - 1
    }

    /// Where a shape keeps the value for element (b, i, j).
    fn place(&self, shape: Shape, [b, i, j]: [usize; 3]) -> usize {
        match shape {
            Shape::Host | Shape::Scalar => 0,
            Shape::Matrix => b,
            Shape::Rows => b * self.dims.rows + i,
            Shape::Cols => b * self.dims.cols + j,
            Shape::Full => (b * self.dims.rows + i) * self.dims.cols + j,
        }
    }

    /// All (b, i, j) that `shape` tells apart, in order.
    fn indices(&self, shape: Shape) -> impl Iterator<Item = [usize; 3]> + use<> {
        let varies = |least: Shape, n: usize| if least.fits(shape) { n } else { 1 };
        let Dims { batch, rows, cols, .. } = self.dims;
        let (rows, cols) = (varies(Shape::Rows, rows), varies(Shape::Cols, cols));
        let batch = varies(Shape::Matrix, batch);
        let row = move |b, i| (0..cols).map(move |j| [b, i, j]);
        (0..batch).flat_map(move |b| (0..rows).flat_map(move |i| row(b, i)))
    }

    /// Element by element, broadcasting.
    fn map<const N: usize>(&self, args: [usize; N], f: impl Fn([f64; N]) -> f64) -> usize {
        let values = self.values.borrow();
        let shape = args.iter().fold(Shape::Host, |s, &a| s.join(values[a].0));
        let get = |at, a: usize| values[a].1[self.place(values[a].0, at)];
        let data = self.indices(shape).map(|at| f(args.map(|a| get(at, a)))).collect();
        drop(values);
        self.push(shape, data)
    }

    /// The values of `a`, repeated to fill `shape`.
    fn spread(&self, a: usize, shape: Shape) -> Vec<f64> {
        let (own, data) = &self.values.borrow()[a];
        assert!(own.fits(shape), "a value of shape {own} is stored where {shape} is kept");
        self.indices(shape).map(|at| data[self.place(*own, at)]).collect()
    }
}

impl Interpreter for Arrays<'_> {
    type Repr = usize;
    type Slot = usize;

    fn is_matrix(&self) -> bool {
        self.dims.kind == Kind::Matrix
    }
    fn literal(&self, x: f64) -> usize {
        self.push(Shape::Host, vec![x])
    }
    fn hyper(&self, name: &'static str) -> usize {
        // What stands between the gradient and the step does nothing here.
        let value = match name {
            "grad_min" => f64::NEG_INFINITY,
            "grad_max" => f64::INFINITY,
            "grad_scale" => 1.0,
            _ => (self.hyper)(name),
        };
        self.push(Shape::Host, vec![value])
    }
    fn step_number(&self) -> usize {
        self.push(Shape::Host, vec![self.t as f64])
    }
    fn count(&self, axis: Axis) -> usize {
        let Dims { batch, rows, cols, .. } = self.dims;
        let n = match axis {
            Axis::Row => cols,
            Axis::Col => rows,
            Axis::Matrix => rows * cols,
            Axis::Tensor => batch * rows * cols,
        };
        self.push(Shape::Scalar, vec![n as f64])
    }
    fn grad(&self) -> usize {
        self.push(Shape::Full, self.grad.to_vec())
    }
    fn param(&self) -> usize {
        self.push(Shape::Full, self.param.clone())
    }
    fn unary(&self, op: Unary, a: usize) -> usize {
        self.map([a], |[x]| match op {
            Unary::Neg => -x,
            Unary::Sqrt => x.sqrt(),
            Unary::Rsqrt => 1.0 / x.sqrt(),
            Unary::Abs => x.abs(),
            Unary::Finite => f64::from(u8::from(x.is_finite())),
            Unary::Sign => f64::from(i8::from(x > 0.0) - i8::from(x < 0.0)),
        })
    }
    fn binary(&self, op: Binary, a: usize, b: usize) -> usize {
        self.map([a, b], |[x, y]| match op {
            Binary::Add => x + y,
            Binary::Sub => x - y,
            Binary::Mul => x * y,
            Binary::Div => x / y,
            Binary::Min => {
                if y < x {
                    y
                } else {
                    x
                }
            }
            Binary::Max => {
                if x < y {
                    y
                } else {
                    x
                }
            }
            Binary::Pow => x.powf(y),
            Binary::Differ => f64::from(u8::from(x != y)),
        })
    }
    fn select_less(&self, a: usize, b: usize, x: usize, y: usize) -> usize {
        self.map([a, b, x, y], |[a, b, x, y]| if a < b { x } else { y })
    }
    fn reduce(&self, kind: Reduction, axis: Axis, a: usize) -> usize {
        let (shape, data) = self.values.borrow()[a].clone();
        let to = shape.reduced(axis);
        let mut terms = vec![Vec::new(); self.indices(to).count()];
        self.indices(shape).zip(data).for_each(|(at, x)| terms[self.place(to, at)].push(x));
        let reduced = |x: &Vec<f64>| match kind {
            Reduction::Mean => sum(x) / x.len() as f64,
            Reduction::Max => x.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        };
        self.push(to, terms.iter().map(reduced).collect())
    }
    fn slot(&self, decl: SlotDecl) -> usize {
        self.decls.borrow_mut().push(decl);
        self.decls.borrow().len() - 1
    }
    fn old(&self, slot: usize) -> usize {
        let SlotDecl { name, shape, init } = self.decls.borrow()[slot];
        let fresh = || vec![init; self.dims.count(shape)];
        self.push(shape, self.before.get(name).cloned().unwrap_or_else(fresh))
    }
    fn store(&self, slot: usize, value: usize) -> usize {
        let SlotDecl { name, shape, .. } = self.decls.borrow()[slot];
        self.after.borrow_mut().insert(name, self.spread(value, shape));
        value
    }
    fn store_param(&self, value: usize) {
        *self.new_param.borrow_mut() = Some(self.spread(value, Shape::Full));
    }
}

/// A sum that keeps what rounding loses (Neumaier): a reference must not be the one that errs.
fn sum(terms: &[f64]) -> f64 {
    let (mut sum, mut lost) = (0.0f64, 0.0);
    for &x in terms {
        let next = sum + x;
        let (large, small) = if sum.abs() < x.abs() { (x, sum) } else { (sum, x) };
        lost += (large - next) + small;
        sum = next;
    }
    if lost.is_finite() { sum + lost } else { sum }
}

/// Calls the interpreter as a traced definition would.
fn replay(graph: &Graph, to: &Arrays<'_>) {
    let slots: Vec<usize> = graph.slots.iter().map(|&decl| to.slot(decl)).collect();
    let mut values = Vec::new();
    for node in &graph.nodes {
        let value = |n: usize| values[n];
        let value = match node.op {
            Op::Literal(bits) => to.literal(f64::from_bits(bits)),
            Op::Hyper(h) => to.hyper(graph.hypers[h]),
            Op::StepNumber => to.step_number(),
            Op::Count(axis) => to.count(axis),
            Op::Grad => to.grad(),
            Op::Param => to.param(),
            Op::Old(s) => to.old(slots[s]),
            Op::New(_, a) => value(a),
            Op::Unary(op, a) => to.unary(op, value(a)),
            Op::Binary(op, a, b) => to.binary(op, value(a), value(b)),
            Op::Select([a, b, x, y]) => to.select_less(value(a), value(b), value(x), value(y)),
            Op::Reduce(kind, axis, a) => to.reduce(kind, axis, value(a)),
        };
        values.push(value);
    }
    for (slot, &value) in slots.iter().zip(&graph.stores) {
        to.store(*slot, values[value]);
    }
    if let Some(param) = graph.param {
        to.store_param(values[param]);
    }
}
