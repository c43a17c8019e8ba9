//! The printer: from a [`Plan`] to WGSL.
//!
//! The text is `shaders/step.wgsl` with its marked places filled in: one `match` line for each
//! operation, one entry point for each dispatch. Where small values lie in memory is decided here
//! (`Places`) and read by the GPU backend, so that it is typed once.

use std::fmt::Write as _;

use crate::decimal::precise_single;
use crate::error::Result;
use crate::layout::Dims;
use crate::plan::{Buffer, Plan};
use crate::text::{joined, replaced};
use crate::trace::{Kind, Node, NodeId, Op, SlotId};
use crate::value::{Axis, Binary, GRAD, Reduction, Shape, Unary};

/// Threads of a workgroup of a sweep: each takes every so-manieth column of a tile.
pub(crate) const WIDTH: u32 = 64;
/// Rows of a tile at most.
pub(crate) const ROWS: u32 = 16;
/// Columns of a tile at most where rows are cut.
pub(crate) const COLS: u32 = 4096;
/// Columns up to which a tile has whole rows.
pub(crate) const WHOLE_ROW: usize = 16 * 1024;
/// Row tiles above which a gather adds them up in groups before the settle.
pub(crate) const GATHER: u32 = 16;
/// Dispatches of a program at most, where its settles allow it.
const DISPATCHES: usize = 8;
/// Storage buffers that every program binds besides gradients, parameters and full-size slots: the
/// table and the small values.
const FIXED_BUFFERS: u32 = 2;
/// Gradients that one dispatch measures at most, on devices that bind more buffers than they have to.
const MOST_GRADS: u32 = 30;
/// The first binding of a gradient.
pub(crate) const FIRST_GRAD: u32 = 4;
/// The binding of the parameter, where there is one.
pub(crate) const PARAM: u32 = 5;
/// The first binding of a full-size slot.
pub(crate) const FIRST_SLOT: u32 = 6;

/// The skeleton without its introduction, for which each definition has its own, and in small programs
/// without comments.
const SKELETON: &str = {
    const ALL: &[u8] = include_bytes!("../shaders/step.wgsl");
    const LINES: ([u8; ALL.len()], usize) = lines(ALL);
    match str::from_utf8(LINES.0.split_at(LINES.1).0) {
        Ok(text) => text,
        Err(_) => panic!("the skeleton is no text"),
    }
};

/// The lines of the skeleton that are printed, and their length.
const fn lines<const N: usize>(all: &[u8]) -> ([u8; N], usize) {
    let (mut out, mut len) = ([b' '; N], 0);
    let (mut from, mut introduction) = (0, true);
    while from < all.len() {
        let mut first = from;
        while all[first] == b' ' {
            first += 1;
        }
        introduction = introduction && all[first] != b'\n';
        let marker = all[first] == b'/' && all[first + 3] == b'@';
        let comment = all[first] == b'/' && !marker && cfg!(gradstep_compact);
        let mut more = true;
        while more {
            if !introduction && !comment {
                out[len] = all[from];
                len += 1;
            }
            more = all[from] != b'\n';
            from += 1;
        }
    }
    (out, len)
}

/// How parameters and gradients are bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Given {
    /// A parameter, and a gradient beside it.
    Apart,
    /// Both in one buffer.
    Pooled,
    /// For a definition that only measures, without full-size slots: no parameter, and so many
    /// gradients, which are one vector together.
    Several(u32),
}

impl Given {
    /// The buffers of `n` gradients that are measured, where a shader may have so many storage
    /// buffers.
    pub(crate) fn several(n: usize, storage_buffers: u32) -> Self {
        let most = storage_buffers.saturating_sub(FIXED_BUFFERS).clamp(1, MOST_GRADS);
        Self::Several(u32::try_from(n).unwrap_or(most).clamp(1, most))
    }

    /// How many gradients are bound at once.
    pub(crate) fn grads(self) -> usize {
        match self {
            Self::Apart => 1,
            Self::Pooled => 0,
            Self::Several(n) => n as usize,
        }
    }
}

/// How the program of a plan is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Form {
    pub(crate) given: Given,
    /// Whether a thread takes four neighbouring columns at once: gradients, parameters and full-size
    /// slots are arrays of `vec4<f32>` then.
    pub(crate) vectors: bool,
}

impl Form {
    /// Bytes of an element of a gradient, a parameter or a full-size slot.
    pub(crate) fn element(self) -> u64 {
        if self.vectors { 16 } else { 4 }
    }

    /// The element at a word of a buffer.
    pub(crate) fn at(self, word: u32) -> u32 {
        if self.vectors { word / 4 } else { word }
    }
}

/// The number of storage buffers that the program of `plan` binds.
pub(crate) fn storage_buffers(plan: &Plan, given: Given) -> u32 {
    let given = match given {
        // A definition may be run either way.
        Given::Apart | Given::Pooled => 2,
        Given::Several(n) => n,
    };
    let slots = u32::try_from(plan.graph.full_slots().count());
    slots.unwrap_or(u32::MAX).saturating_add(FIXED_BUFFERS + given)
}

/// What is dispatched, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dispatch {
    /// A sweep over all tiles, by the name of its entry point.
    Sweep(String),
    /// Adds column sums of many row tiles.
    Gather(String),
    /// Settles small values, one workgroup per tensor.
    Settle(String),
}

impl Dispatch {
    /// The entry point.
    #[must_use]
    pub fn entry(&self) -> &str {
        match self {
            Self::Sweep(name) | Self::Gather(name) | Self::Settle(name) => name,
        }
    }
}

/// A definition in WGSL, with what is needed to run it.
#[derive(Clone, Debug)]
pub struct Program {
    /// The whole module.
    pub source: String,
    /// Entry points in the order in which they are dispatched.
    pub dispatches: Vec<Dispatch>,
    /// The Host values of the uniform `hosts`, in order, after the word `go`.
    pub hosts: Vec<NodeId>,
    pub(crate) places: Places,
}

impl Program {
    /// Bytes of the uniform `hosts`.
    pub(crate) fn hosts_bytes(&self) -> u64 {
        (self.hosts.len() as u64 + 1) * 4
    }

    /// How many of its first words stand for [`GRAD`] values after `go`: all, or none.
    pub(crate) fn grad_words(&self, plan: &Plan) -> usize {
        let is = |&(&n, name): &(&NodeId, &&str)| match plan.graph.nodes[n].op {
            Op::Hyper(h) => plan.graph.hypers[h] == *name,
            _ => false,
        };
        let found = self.hosts.iter().zip(&GRAD).filter(is).count();
        if found == GRAD.len() { found } else { 0 }
    }
}

/// Something small that has a place in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Small {
    Slot(SlotId),
    Node(NodeId),
}

/// Where small values and partial sums lie: each array begins after those before it, whose lengths
/// are multiples of a tensor's counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    small: Vec<(Small, Shape)>,
    /// The reductions whose partial sums have a place, in order.
    partials: Vec<(NodeId, Axis)>,
}

/// How a tensor is cut, as far as places depend on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    pub(crate) dims: Dims,
    pub(crate) row_tiles: usize,
    pub(crate) col_tiles: usize,
}

impl Cut {
    pub(crate) fn tiles(&self) -> usize {
        self.dims.batch * self.row_tiles * self.col_tiles
    }

    fn span(&self, axis: Axis) -> usize {
        match axis {
            Axis::Row => self.col_tiles * self.dims.batch * self.dims.rows,
            Axis::Col => self.row_tiles * self.dims.batch * self.dims.cols,
            Axis::Matrix | Axis::Tensor => self.tiles(),
        }
    }
}

impl Places {
    /// Elements of small values, slots included.
    pub(crate) fn small_len(&self, dims: &Dims) -> usize {
        self.small.iter().map(|&(_, shape)| dims.count(shape)).sum()
    }

    /// Elements of partial sums.
    pub(crate) fn partials_len(&self, cut: &Cut) -> usize {
        self.partials.iter().map(|&(_, axis)| cut.span(axis)).sum()
    }

    /// Where a small slot begins, from the start of its tensor's small values.
    pub(crate) fn slot(&self, slot: SlotId, dims: &Dims) -> usize {
        let before = self.small.iter().take_while(|(s, _)| *s != Small::Slot(slot));
        before.map(|&(_, shape)| dims.count(shape)).sum()
    }

    fn wgsl(&self, plan: &Plan) -> String {
        let mut out = String::new();
        let mut places = |base: &str, arrays: Vec<(String, &'static str)>| {
            let mut before: Vec<(&str, u32)> = Vec::new();
            for (name, extent) in arrays {
                let terms: String = before
                    .iter()
                    .map(|&(extent, n)| match (extent, n) {
                        ("1u", n) => format!(" + {n}u"),
                        (_, 1) => format!(" + {extent}"),
                        _ => format!(" + {n}u * {extent}"),
                    })
                    .collect();
                let _ = writeln!(
                    out,
                    "fn {name}(t: Tensor) -> u32 {{\n    return {base}{terms};\n}}\n"
                );
                match before.binary_search_by_key(&extent, |b| b.0) {
                    Ok(known) => before[known].1 += 1,
                    Err(place) => before.insert(place, (extent, 1)),
                }
            }
        };
        let small = self.small.iter().map(|&(s, shape)| (small_place(plan, s), extent(shape).0));
        places("t.small", small.collect());
        let partials = self.partials.iter().map(|&(n, axis)| {
            let extent = match axis {
                Axis::Row => "t.col_tiles * t.batch * t.rows",
                Axis::Col => "t.row_tiles * t.batch * t.cols",
                Axis::Matrix | Axis::Tensor => "t.batch * t.row_tiles * t.col_tiles",
            };
            (format!("partials_{n}"), extent)
        });
        places("t.partials", partials.collect());
        out.truncate(out.trim_ascii_end().len());
        out
    }
}

fn small_place(plan: &Plan, small: Small) -> String {
    match small {
        Small::Slot(s) => format!("at_{}", slot_ident(plan, s)),
        Small::Node(n) => format!("at_{n}"),
    }
}

/// A slot's name as an identifier of WGSL: as it is where that is a name of its own.
fn slot_ident(plan: &Plan, slot: SlotId) -> String {
    // Words without an underscore are builtin functions, locals and whatever else; these are what
    // the module gives to its own.
    const OWN: [&str; 13] = [
        "at_",
        "gather_",
        "local_",
        "max_lanes",
        "partials_",
        "read_",
        "row_",
        "settle_",
        "slot",
        "sum_",
        "sweep_",
        "tensor_at",
        "tile_at",
    ];
    let free = |text: &str| text.contains('_') && !OWN.iter().any(|own| text.starts_with(own));
    unique("slot", slot, plan.graph.slots.iter().map(|s| s.name), free)
}

/// A hyper-parameter's name as a member of the uniform.
fn hyper_ident(plan: &Plan, hyper: usize) -> String {
    const OWN: [&str; 4] = ["go", "host_", "hyper", "step_number"];
    let free = |text: &str| !OWN.iter().any(|own| text.starts_with(own));
    unique("hyper", hyper, plan.graph.hypers.iter().copied(), free)
}

/// The name at `index` as an identifier: as it is where it is one and is `free`, else with `prefix`
/// in front, and with its number where another name before it looks the same.
fn unique<'n>(
    prefix: &str,
    index: usize,
    names: impl Iterator<Item = &'n str>,
    free: impl Fn(&str) -> bool,
) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let mut texts: Vec<String> =
        names.take(index + 1).map(|n| n.chars().map(safe).collect()).collect();
    let text = texts.pop().unwrap_or_default();
    let word = text.starts_with(|c: char| c.is_ascii_alphabetic());
    if texts.contains(&text) {
        format!("{prefix}{index}_{text}")
    } else if word && free(&text) && !RESERVED.split_ascii_whitespace().any(|r| r == text) {
        text
    } else {
        format!("{prefix}_{text}")
    }
}

/// The keywords and reserved words of WGSL.
const RESERVED: &str = "
    alias break case const const_assert continue continuing default diagnostic discard else enable
    false fn for if let loop override requires return struct switch true var while

    NULL Self abstract active alignas alignof as asm asm_fragment async attribute auto await become
    cast catch class co_await co_return co_yield coherent column_major common compile
    compile_fragment concept const_cast consteval constexpr constinit crate debugger decltype delete
    demote demote_to_helper do dynamic_cast enum explicit export extends extern external fallthrough
    filter final finally friend from fxgroup get goto groupshared highp impl implements import inline
    instanceof interface layout lowp macro macro_rules match mediump meta mod module move mut mutable
    namespace new nil noexcept noinline nointerpolation non_coherent noncoherent noperspective null
    nullptr of operator package packoffset partition pass patch pixelfragment precise precision
    premerge priv protected pub public readonly ref regardless register reinterpret_cast require
    resource restrict self set shared sizeof smooth snorm static static_assert static_cast std
    subroutine super target template this thread_local throw trait try type typedef typeid typename
    typeof union unless unorm unsafe unsized use using varying virtual volatile wgsl where with
    writeonly yield
";

/// Prints a plan.
///
/// With `pooled`, parameter and gradient lie in one buffer, which is then bound once. With `vectors`,
/// a thread takes four neighbouring columns at once, as is possible where rows begin at multiples of
/// four elements.
///
/// # Errors
/// [`Error::Definition`](crate::Error::Definition) if the definition has more row sums in one
/// level than workgroup memory holds.
pub fn print(plan: &Plan, pooled: bool, vectors: bool) -> Result<Program> {
    let given = if pooled { Given::Pooled } else { Given::Apart };
    print_form(plan, Form { given, vectors })
}

pub(crate) fn print_form(plan: &Plan, form: Form) -> Result<Program> {
    Printer::new(plan, form)?.program()
}

/// A set of nodes, which are few, in order.
#[derive(Debug, Default)]
struct Nodes(Vec<NodeId>);

impl Nodes {
    /// False if it was there.
    fn insert(&mut self, n: NodeId) -> bool {
        match self.0.binary_search(&n) {
            Ok(_) => false,
            Err(place) => {
                self.0.insert(place, n);
                true
            }
        }
    }

    fn contains(&self, n: &NodeId) -> bool {
        self.0.contains(n)
    }

    fn extend(&mut self, nodes: impl IntoIterator<Item = NodeId>) {
        for n in nodes {
            self.insert(n);
        }
    }
}

impl FromIterator<NodeId> for Nodes {
    fn from_iter<N: IntoIterator<Item = NodeId>>(nodes: N) -> Self {
        let mut this = Self::default();
        this.extend(nodes);
        this
    }
}

/// A stretch between two sweeps, or before the first, or after the last.
#[derive(Default)]
struct Settle {
    nodes: Vec<NodeId>,
    commits: Vec<(SlotId, NodeId)>,
    /// Phase of each node: within one, values depend on each other index by index only.
    phase: Vec<(NodeId, usize)>,
}

struct Printer<'a> {
    plan: &'a Plan,
    form: Form,
    settles: Vec<Settle>,
    places: Places,
    /// Small nodes with a place in memory.
    kept: Nodes,
    /// Those of them that lie in the slots that are set to them.
    in_slots: Vec<(SlotId, NodeId)>,
    /// Row values that tiles of whole rows settle, each for its own.
    local: Nodes,
    /// What a level reads of what its sweep settles.
    shared: Nodes,
    /// Nodes that each workgroup of a sweep settles for itself, as far out as they are constant.
    repeated: Nodes,
    hosts: Vec<NodeId>,
}

impl<'a> Printer<'a> {
    fn new(plan: &'a Plan, form: Form) -> Result<Self> {
        let (mut local, mut repeated) = (Nodes::default(), Nodes::default());
        // Whether the only level makes what comes before it itself, and all of it comes again after it.
        let only = plan.levels.len() == 1 && Settle::new(plan, 0..1, [&local; 2]).is_plain(plan);
        if plan.fused && !only {
            rows_of_tiles(plan, &mut local, &mut repeated);
        }
        let mut settles = Vec::new();
        let mut from = 0;
        for i in 0..=plan.sweeps.len() {
            let upto = match plan.sweeps.get(i) {
                Some(sweep) => sweep.levels.start + 1,
                None => plan.settles.len(),
            };
            settles.push(Settle::new(plan, from..upto.max(from), [&local, &repeated]));
            from = upto.max(from);
        }
        if let [before, after] = &mut settles[..]
            && only
            && after.is_dispatched()
        {
            // Each workgroup of the sweep makes what it reads of them; all are made once more after
            // it, where slots are set that the sweep must find as they were.
            repeated.extend(std::mem::take(before).nodes);
            *after = Settle::new(plan, 0..from, [&local; 2]);
        }
        let mut printer = Self {
            plan,
            form,
            settles,
            places: Places::default(),
            kept: Nodes::default(),
            in_slots: Vec::new(),
            local,
            shared: Nodes::default(),
            repeated,
            hosts: hosts(plan),
        };
        printer.repeat();
        printer.keep();
        let limit = (16 * 1024 - 4 * 256) / (4 * WIDTH * ROWS);
        for (k, level) in plan.levels.iter().enumerate() {
            let n = level.reductions.iter().filter(|&&n| printer.axis(n) == Axis::Row).count();
            if n > limit as usize {
                return Err(plan.graph.error(
                    format!("level {k} has {n} row reductions, and the GPU has room for {limit}"),
                    "compute one of them at another level",
                ));
            }
        }
        Ok(printer)
    }

    fn node(&self, n: NodeId) -> &'a Node {
        &self.plan.graph.nodes[n]
    }

    fn axis(&self, n: NodeId) -> Axis {
        match self.node(n).op {
            Op::Reduce(_, axis, _) => axis,
            _ => Axis::Tensor,
        }
    }

    /// Decides which settles each workgroup of the next sweep makes for itself, which saves their
    /// dispatches: where there would be more than [`DISPATCHES`], those that finish nothing but
    /// numbers of the whole tensor, since that is one partial sum for each tile.
    fn repeat(&mut self) {
        let settles = self.settles.iter().filter(|s| s.is_dispatched()).count();
        let mut spare = (self.plan.sweeps.len() + settles).saturating_sub(DISPATCHES);
        if self.plan.fused {
            return;
        }
        for i in (1..self.plan.sweeps.len()).rev() {
            let settle = &mut self.settles[i];
            if spare == 0 || !settle.is_dispatched() || !settle.is_light(self.plan, i) {
                continue;
            }
            let nodes = std::mem::take(&mut settle.nodes);
            self.repeated.extend(nodes);
            spare -= 1;
        }
    }

    /// A reduction over values of rows that tiles settle, of which each leaves a part.
    fn total(&self, n: NodeId) -> Option<(Reduction, NodeId)> {
        match self.node(n).op {
            Op::Reduce(kind, _, a) if self.local.contains(&a) => Some((kind, a)),
            _ => None,
        }
    }

    /// Decides which small values need memory: those that a sweep reads, that another phase or
    /// another settle reads, and those that slots are set to.
    fn keep(&mut self) {
        let graph = &self.plan.graph;
        for sweep in &self.plan.sweeps {
            for k in sweep.levels.clone() {
                for &n in &self.plan.levels[k].reads {
                    if sweep.local.contains(&n) {
                        self.shared.insert(n);
                    } else if !self.repeated.contains(&n) {
                        self.kept.insert(n);
                    }
                }
            }
        }
        // What the rows at hand are settled with.
        for &n in &self.local.0 {
            let level = graph.nodes[n].level;
            let apart = |&a: &NodeId| graph.nodes[a].level < level || !self.local.contains(&a);
            self.kept.extend(graph.nodes[n].op.args().filter(apart));
        }
        for &n in &self.repeated.0 {
            let args = graph.nodes[n].op.args();
            self.kept.extend(args.filter(|a| !self.repeated.contains(a)));
        }
        for settle in &mut self.settles {
            settle.commits.retain(|&(s, n)| {
                self.kept.insert(n);
                let copied = self.in_slots.iter().any(|x| x.1 == n) || !replaces(self.plan, s, n);
                if !copied {
                    self.in_slots.push((s, n));
                }
                copied
            });
        }
        for settle in &self.settles {
            for &n in &settle.nodes {
                for a in graph.nodes[n].op.args() {
                    if self.total(n).is_some() {
                        self.places.partials.push((n, Axis::Tensor));
                    } else if phase_of(&settle.phase, a) != phase_of(&settle.phase, n)
                        || !near(self.plan, a, n)
                    {
                        self.kept.insert(a);
                    }
                }
            }
        }
        let in_memory = |n: &NodeId| {
            !matches!(graph.nodes[*n].shape, Shape::Host | Shape::Full) && !resides(self.plan, *n)
        };
        self.kept.0.retain(in_memory);
        for (s, decl) in graph.slots.iter().enumerate() {
            if decl.shape != Shape::Full {
                self.places.small.push((Small::Slot(s), decl.shape));
            }
        }
        for &n in &self.kept.0 {
            if self.in_slots.iter().all(|x| x.1 != n) {
                self.places.small.push((Small::Node(n), graph.nodes[n].shape));
            }
        }
        for level in &self.plan.levels {
            for &n in &level.reductions {
                // Row sums that are settled within the sweep leave no partial sums.
                if !self.local.contains(&n) {
                    self.places.partials.push((n, self.axis(n)));
                }
            }
        }
    }

    fn program(self) -> Result<Program> {
        let Form { given, vectors } = self.form;
        let mut entries = Vec::new();
        let mut dispatches = Vec::new();
        for (i, settle) in self.settles.iter().enumerate() {
            if i > 0 {
                let name = format!("sweep_{i}");
                entries.push(self.sweep(i - 1, &name));
                dispatches.push(Dispatch::Sweep(name));
            }
            let is_sum =
                |&n: &NodeId| self.axis(n) == Axis::Col && self.node(n).shape == Shape::Cols;
            let columns: Vec<_> = settle.nodes.iter().copied().filter(is_sum).collect();
            if !columns.is_empty() && self.plan.fused {
                let name = format!("gather_{i}");
                entries.push(self.gather(&columns, &name));
                dispatches.push(Dispatch::Gather(name));
            }
            if settle.is_dispatched() {
                let name = format!("settle_{i}");
                entries.push(self.settle(settle, &name));
                dispatches.push(Dispatch::Settle(name));
            }
        }
        let most_rows = self
            .plan
            .levels
            .iter()
            .map(|l| l.reductions.iter().filter(|&&n| self.axis(n) == Axis::Row).count())
            .max()
            .unwrap_or(0);
        let mut shared = String::new();
        for i in 0..most_rows {
            let _ = writeln!(shared, "var<workgroup> row_{i}: array<f32, WIDTH * ROWS>;");
        }
        for n in &self.shared.0 {
            let _ = writeln!(shared, "var<workgroup> local_{n}: array<f32, ROWS>;");
        }
        let mut hosts = String::new();
        for &n in &self.hosts {
            let _ = writeln!(hosts, "{}: f32,", self.host_field(n));
        }
        let (mut buffers, mut grads) = (String::new(), String::new());
        let element = if vectors { "vec4<f32>" } else { "f32" };
        let buffer = |binding: u32, access: &str, name: &str| {
            format!(
                "@group(0) @binding({binding}) var<storage, {access}> {name}: array<{element}>;\n"
            )
        };
        match given {
            Given::Apart => buffers.push_str(&buffer(FIRST_GRAD, "read", "grad")),
            Given::Pooled => buffers.push_str("// Parameters and gradients, in one buffer.\n"),
            Given::Several(n) => {
                let grad = |k| buffer(FIRST_GRAD + k, "read", &format!("grad_{k}"));
                buffers.extend((0..n).map(grad));
                let _ = writeln!(
                    grads,
                    "// Of each gradient: where in its buffer it begins, and 0 where it is left out.\n\
                     grads: array<vec4<u32>, {n}>,"
                );
            }
        }
        if !matches!(given, Given::Several(_)) {
            buffers.push_str(&buffer(PARAM, "read_write", "param"));
        }
        for (binding, s) in (FIRST_SLOT..).zip(self.plan.graph.full_slots()) {
            buffers.push_str(&buffer(binding, "read_write", &slot_ident(self.plan, s)));
        }
        let (head, rest) = split(SKELETON, "sweep");
        let tail = ["gather", "settle"].iter().fold(rest.1, |text, name| {
            let (before, after) = split(&text, name);
            format!("{}{}", before.trim_ascii_end(), after.1)
        });
        let mut source = fill(&head, "hosts", &hosts);
        source = fill(&source, "grads", &grads);
        source = fill(&source, "buffers", &buffers);
        source = fill(&source, "shared", &shared);
        source = fill(&source, "places", &self.places.wgsl(self.plan));
        let (before, (fours, after)) = split(&source, "fours");
        source = format!("{before}{}{after}", if vectors { fours } else { String::new() });
        let text = format!(
            "// {} of a {}{}{}: {} bytes a parameter in {} sweeps.\n\
             // Printed from the definition into shaders/step.wgsl; do not edit.\n{}{}{}",
            self.plan.graph.name,
            self.plan.graph.kind,
            if self.plan.graph.kind == Kind::Vector {
                ""
            } else if self.plan.fused {
                " in tiles of whole rows"
            } else {
                " in tiles of pieces of rows"
            },
            if vectors { ", four columns at once" } else { "" },
            self.plan.bytes_per_parameter(4),
            self.plan.sweeps.len(),
            source,
            joined(entries.iter().map(String::as_str), "\n"),
            tail,
        );
        Ok(Program { source: tidy(&text), dispatches, hosts: self.hosts, places: self.places })
    }

    // ------------------------------------------------------------------ names

    fn host_field(&self, n: NodeId) -> String {
        match self.node(n).op {
            Op::Hyper(h) => hyper_ident(self.plan, h),
            Op::StepNumber => "step_number".into(),
            _ => format!("host_{n}"),
        }
    }

    /// A Host value, or a count, which needs no memory.
    fn constant(&self, n: NodeId) -> Option<String> {
        let node = self.node(n);
        match node.op {
            Op::Count(axis) => Some(match axis {
                Axis::Row => "f32(t.cols)".into(),
                Axis::Col => "f32(t.rows)".into(),
                Axis::Matrix => "(f32(t.rows) * f32(t.cols))".into(),
                Axis::Tensor => "(f32(t.batch) * f32(t.rows) * f32(t.cols))".into(),
            }),
            op if node.shape == Shape::Host => {
                Some(literal(op).unwrap_or_else(|| format!("hosts.{}", self.host_field(n))))
            }
            _ => None,
        }
    }

    fn place(&self, n: NodeId) -> String {
        match self.node(n).op {
            Op::Old(s) if resides(self.plan, n) => small_place(self.plan, Small::Slot(s)),
            _ => {
                let slot = self.in_slots.iter().find(|x| x.1 == n);
                small_place(self.plan, slot.map_or(Small::Node(n), |x| Small::Slot(x.0)))
            }
        }
    }

    /// True for a value of which there are four where a thread takes four columns at once.
    fn is_vector(&self, n: NodeId) -> bool {
        self.form.vectors && matches!(self.node(n).shape, Shape::Full | Shape::Cols)
    }

    /// A value where a vector has to stand, by its name: one for all columns is repeated.
    fn repeated_name(&self, n: NodeId, name: String) -> String {
        if self.form.vectors && !self.is_vector(n) { format!("vec4({name})") } else { name }
    }

    /// The operation on operands that have names. Where it is made for four columns at once, the result
    /// is a `vector`; in a settle it never is.
    fn expression(&self, n: NodeId, vector: bool, name: &dyn Fn(NodeId) -> String) -> String {
        // WGSL takes one number and a vector in arithmetic, and nowhere else.
        let alike = |a| if vector { self.repeated_name(a, name(a)) } else { name(a) };
        let number = |x: &str| if vector { format!("vec4({x})") } else { x.into() };
        let bits =
            |a| format!("bitcast<{}>({})", if vector { "vec4<u32>" } else { "u32" }, alike(a));
        let chosen = |no: &str, yes: &str, test: String| {
            format!("select({}, {}, {test})", number(no), number(yes))
        };
        match self.node(n).op {
            Op::Unary(op, a) => {
                let x = name(a);
                match op {
                    Unary::Neg => format!("-({x})"),
                    Unary::Sqrt => format!("sqrt({x})"),
                    Unary::Rsqrt => format!("inverseSqrt({x})"),
                    Unary::Abs => format!("abs({x})"),
                    Unary::Sign => format!("sign({x})"),
                    Unary::Finite => {
                        let exponent = number("EXPONENT");
                        chosen("1.0", "0.0", format!("({} & {exponent}) == {exponent}", bits(a)))
                    }
                }
            }
            Op::Binary(op, a, b) => {
                let (x, y) = (name(a), name(b));
                match op {
                    Binary::Add => format!("{x} + {y}"),
                    Binary::Sub => format!("{x} - {y}"),
                    Binary::Mul => format!("{x} * {y}"),
                    Binary::Div => format!("{x} / {y}"),
                    Binary::Min => format!("min({}, {})", alike(a), alike(b)),
                    Binary::Max => format!("max({}, {})", alike(a), alike(b)),
                    Binary::Differ => chosen("0.0", "1.0", format!("{} != {}", bits(a), bits(b))),
                    // Host values only: never printed.
                    Binary::Pow => format!("pow({x}, {y})"),
                }
            }
            Op::Select([a, b, x, y]) => {
                let test = match vector && (self.is_vector(a) || self.is_vector(b)) {
                    true => format!("{} < {}", alike(a), alike(b)),
                    false => format!("{} < {}", name(a), name(b)),
                };
                format!("select({}, {}, {test})", alike(y), alike(x))
            }
            Op::New(_, a) => alike(a),
            Op::Old(s) => format!("small[{}(t) + i]", small_place(self.plan, Small::Slot(s))),
            _ => String::new(),
        }
    }

    // ------------------------------------------------------------------ sweeps

    fn sweep(&self, index: usize, entry: &str) -> String {
        let (_, (section, _)) = split(SKELETON, "sweep");
        let (before, (mut level, after)) = split(&section, "level");
        if self.form.vectors {
            for (one, four) in FOUR_COLUMNS {
                level = replaced(&level, one, four);
            }
        }
        let sweep = &self.plan.sweeps[index];
        let mut read = Nodes::default();
        let body: Vec<_> =
            sweep.levels.clone().map(|k| self.level(&level, index, k, &mut read)).collect();
        replaced(
            &format!("{before}{}{after}", joined(body.iter().map(String::as_str), "")),
            "fn sweep(",
            &format!("fn {entry}("),
        )
    }

    /// `read` holds what levels before this one have read for the whole tile.
    fn level(&self, template: &str, sweep: usize, k: usize, read: &mut Nodes) -> String {
        let Form { given, vectors } = self.form;
        let level = &self.plan.levels[k];
        let sweep = &self.plan.sweeps[sweep];
        let (mut before, mut column, mut element, mut done, mut after) =
            (String::new(), String::new(), String::new(), String::new(), String::new());
        let value = |n: NodeId| self.constant(n).unwrap_or_else(|| format!("v{n}"));
        let in_sweep = |n: NodeId| self.expression(n, self.is_vector(n), &value);

        // Small values, each read or made as far out as it is constant.
        let mut old_rows = false;
        for n in self.with_repeated(level).0 {
            if self.constant(n).is_some() {
                continue;
            }
            if self.repeated.contains(&n) {
                let _ = match (self.node(n).op, self.node(n).shape) {
                    (Op::Reduce(kind, ..), _) => {
                        self.repeat_reduction(&mut before, n, kind);
                        Ok(())
                    }
                    (_, shape) => {
                        let to = match shape {
                            Shape::Rows => &mut element,
                            Shape::Cols => &mut column,
                            _ => &mut before,
                        };
                        writeln!(to, "let v{n} = {};", in_sweep(n))
                    }
                };
                continue;
            }
            let place = self.place(n);
            let _ = match self.node(n).shape {
                Shape::Rows if sweep.local.contains(&n) => {
                    writeln!(element, "let v{n} = local_{n}[i];")
                }
                Shape::Rows => {
                    old_rows |= matches!(self.node(n).op, Op::Old(_));
                    writeln!(element, "let v{n} = small[{place}(t) + tile.row + i];")
                }
                Shape::Cols => {
                    let (open, close) = if vectors { ("four(", ")") } else { ("small[", "]") };
                    writeln!(
                        column,
                        "let v{n} = {open}{place}(t) + tile.b * t.cols + tile.col + c{close};"
                    )
                }
                _ if !read.insert(n) => Ok(()),
                Shape::Matrix => writeln!(before, "let v{n} = small[{place}(t) + tile.b];"),
                _ => writeln!(before, "let v{n} = small[{place}(t)];"),
            };
        }
        for &n in &level.full {
            let node = self.node(n);
            let load = match node.op {
                Op::Grad if given == Given::Pooled => "param[window.grad + e]".to_string(),
                Op::Grad => GRAD_HERE.to_string(),
                Op::Param => "param[window.param + e]".to_string(),
                Op::Old(s) => format!("{}[e]", slot_ident(self.plan, s)),
                Op::New(s, _) if usize::from(node.level) < k => {
                    format!("{}[e]", slot_ident(self.plan, s))
                }
                _ => in_sweep(n),
            };
            let _ = writeln!(element, "let v{n} = {load};");
        }
        for &(buffer, n) in &level.stores {
            let new = self.repeated_name(n, value(n));
            let _ = match buffer {
                Buffer::Param => writeln!(element, "param[window.param + e] = {new};"),
                Buffer::Slot(s) => {
                    let name = slot_ident(self.plan, s);
                    writeln!(element, "{name}[e] = {new};")
                }
                Buffer::Grad => Ok(()),
            };
        }
        if self.has_tails() && !level.reductions.is_empty() {
            let _ =
                writeln!(column, "let inside = vec4(c, c + 1u, c + 2u, c + 3u) < vec4(tile.cols);");
        }
        // Reductions: one accumulator for each.
        let mut rows = 0;
        let mut row_sums = Vec::new();
        for &n in &level.reductions {
            let Op::Reduce(kind, axis, a) = self.node(n).op else {
                continue;
            };
            let start = identity(kind);
            let join = |acc: &str, x: &str| accumulated(kind, acc, x);
            let x = self.counted(kind, value(a));
            let (sums, begin) = match vectors {
                true => (format!("sum_four_{n}"), format!("vec4({start})")),
                false => (format!("sum_{n}"), start.to_string()),
            };
            let _ = match axis {
                Axis::Row => {
                    let _ = writeln!(
                        before,
                        "for (var i = 0u; i < tile.rows; i++) {{\n    row_{rows}[i * WIDTH + lid] = {start};\n}}"
                    );
                    row_sums.push((n, rows, kind));
                    rows += 1;
                    let x = if vectors { of_four(kind, &x) } else { x };
                    let row = format!("row_{}[i * WIDTH + lid]", rows - 1);
                    writeln!(element, "{}", join(&row, &x))
                }
                Axis::Col => {
                    let _ = writeln!(column, "var {sums} = {begin};");
                    let _ = writeln!(element, "{}", join(&sums, &x));
                    let to = format!(
                        "partials_{n}(t) + (tile.down * t.batch + tile.b) * t.cols + tile.col + c"
                    );
                    if vectors {
                        writeln!(done, "put({to}, {sums}, tile.cols - c);")
                    } else {
                        writeln!(done, "small[{to}] = {sums};")
                    }
                }
                Axis::Matrix | Axis::Tensor => {
                    let _ = writeln!(before, "var {sums} = {begin};");
                    let _ = writeln!(element, "{}", join(&sums, &x));
                    if vectors {
                        let _ = writeln!(after, "var sum_{n} = {};", of_four(kind, &sums));
                    }
                    leave(&mut after, n, kind, "WIDTH");
                    Ok(())
                }
            };
        }
        if !row_sums.is_empty() {
            // A row of a slot is set by one thread, after all have read it.
            if old_rows {
                after.push_str("storageBarrier();\n");
            }
            after.push_str("workgroupBarrier();\n");
            let (mut rows, mut named, mut totals) =
                (String::new(), Nodes::default(), String::new());
            for &(n, row, kind) in &row_sums {
                let x = format!("row_{row}[lid * WIDTH + i]");
                let line = accumulated(kind, &format!("sum_{n}"), &x);
                let _ = writeln!(
                    rows,
                    "    var sum_{n} = row_{row}[lid * WIDTH];
    for (var i = 1u; i < WIDTH; i++) {{
        {line}
    }}"
                );
                if self.local.contains(&n) {
                    let total = finished(kind, &format!("sum_{n}"), "f32(t.cols)");
                    let _ = writeln!(rows, "    let v{n} = {total};");
                } else {
                    let _ = writeln!(
                        rows,
                        "    small[partials_{n}(t) + tile.across * t.batch * t.rows + tile.row + lid] = sum_{n};"
                    );
                }
            }
            // The rows at hand are settled before the next level of this sweep.
            for &n in &self.plan.settles[k + 1] {
                if self.local.contains(&n) {
                    self.settle_row(&mut rows, n, &mut named);
                }
                if let Some((kind, a)) = self.total(n) {
                    let _ = writeln!(after, "var sum_{n} = {};", identity(kind));
                    let line = accumulated(kind, &format!("sum_{n}"), &format!("v{a}"));
                    let _ = writeln!(rows, "    {line}");
                    leave(&mut totals, n, kind, "tile.rows");
                }
            }
            after.push_str(&if_rows(&rows));
            after.push_str(&totals);
        }
        let mut text = template.to_string();
        for (name, lines) in [
            ("before", before),
            ("column", column),
            ("element", element),
            ("column_done", done),
            ("after", after),
        ] {
            text = fill(&text, name, &lines);
        }
        let (_, (loops, _)) = split(&text, "columns");
        let loops: String =
            loops.lines().map(|l| format!("{}\n", l.strip_prefix("    ").unwrap_or(l))).collect();
        let loops = match given {
            Given::Apart | Given::Pooled => loops,
            Given::Several(n) => for_each_grad(n, &loops),
        };
        format!("    // Level {k}.\n{}", fill(&text, "columns", &loops))
    }

    /// Settles a value of the row that a thread has.
    fn settle_row(&self, out: &mut String, n: NodeId, named: &mut Nodes) {
        self.settle_value(out, n, named, "tile.row + lid", "tile.b");
        if self.shared.contains(&n) {
            let _ = writeln!(out, "    local_{n}[lid] = v{n};");
        }
    }

    /// True where there may be less than four columns in the last vector of a tensor.
    fn has_tails(&self) -> bool {
        self.form.vectors && self.plan.graph.kind == Kind::Vector
    }

    /// What a value adds to a reduction.
    fn counted(&self, kind: Reduction, x: String) -> String {
        if self.has_tails() {
            return format!("select(vec4({}), {x}, inside)", identity(kind));
        }
        x
    }

    /// The small values that a level reads, with what those are made of that it settles itself,
    /// operands first.
    fn with_repeated(&self, level: &crate::plan::Level) -> Nodes {
        let mut all: Nodes = level.reads.iter().copied().collect();
        let mut open = level.reads.clone();
        while let Some(n) = open.pop() {
            if self.repeated.contains(&n) && !matches!(self.node(n).op, Op::Reduce(..)) {
                open.extend(self.node(n).op.args().filter(|&a| all.insert(a)));
            }
        }
        all
    }

    /// Adds the partial sums of all tiles up, in every workgroup of a sweep.
    fn repeat_reduction(&self, out: &mut String, n: NodeId, kind: Reduction) {
        let join = |acc: &str, x: &str| accumulated(kind, acc, x);
        let (first, tiles, count) = if self.node(n).shape == Shape::Matrix {
            let tiles = "t.row_tiles * t.col_tiles";
            (format!("tile.b * {tiles} + "), tiles.to_string(), "(f32(t.rows) * f32(t.cols))")
        } else {
            let count = "(f32(t.batch) * f32(t.rows) * f32(t.cols))";
            (String::new(), "t.batch * t.row_tiles * t.col_tiles".into(), count)
        };
        let first_terms = join("lanes[lid]", &format!("small[partials_{n}(t) + {first}i]"));
        let others = join(&format!("sum_{n}"), "lanes[i]");
        let _ = writeln!(
            out,
            "lanes[lid] = {};
for (var i = lid; i < {tiles}; i += WIDTH) {{
    {first_terms}
}}
workgroupBarrier();
var sum_{n} = lanes[0];
for (var i = 1u; i < WIDTH; i++) {{
    {others}
}}
workgroupBarrier();
let v{n} = {};",
            identity(kind),
            finished(kind, &format!("sum_{n}"), count)
        );
    }

    /// Loads the operands of a small node that have no name yet.
    fn read_small(&self, out: &mut String, n: NodeId, named: &mut Nodes, index: &str, batch: &str) {
        for a in self.node(n).op.args() {
            if self.constant(a).is_some() || !named.insert(a) {
                continue;
            }
            let place = self.place(a);
            let _ = match self.node(a).shape {
                Shape::Scalar => writeln!(out, "    let v{a} = small[{place}(t)];"),
                Shape::Matrix if self.node(n).shape != Shape::Matrix => {
                    writeln!(out, "    let v{a} = small[{place}(t) + {batch}];")
                }
                _ => writeln!(out, "    let v{a} = small[{place}(t) + {index}];"),
            };
        }
    }

    // ------------------------------------------------------------------ between sweeps

    fn gather(&self, columns: &[NodeId], entry: &str) -> String {
        let (_, (section, _)) = split(SKELETON, "gather");
        let mut sums = String::new();
        for &n in columns {
            let Op::Reduce(kind, ..) = self.node(n).op else {
                continue;
            };
            let x = format!("small[partials_{n}(t) + i * span + c]");
            let line = accumulated(kind, &format!("sum_{n}"), &x);
            let _ = writeln!(
                sums,
                "var sum_{n} = small[partials_{n}(t) + first * span + c];
for (var i = first + 1u; i < end; i++) {{
    {line}
}}
small[partials_{n}(t) + first * span + c] = sum_{n};"
            );
        }
        replaced(&fill(&section, "sums", &sums), "fn gather(", &format!("fn {entry}("))
    }

    fn settle(&self, settle: &Settle, entry: &str) -> String {
        let (_, (section, _)) = split(SKELETON, "settle");
        let phases = settle.phase.iter().map(|p| p.1 + 1).max().unwrap_or(0);
        let mut out = String::new();
        for phase in 0..phases {
            if phase > 0 {
                let _ = writeln!(out, "storageBarrier();");
            }
            let of_phase = || {
                let is = |&n: &NodeId| phase_of(&settle.phase, n) == Some(phase);
                settle.nodes.iter().copied().filter(is)
            };
            for shape in [Shape::Scalar, Shape::Matrix, Shape::Rows, Shape::Cols] {
                let nodes: Vec<_> = of_phase().filter(|&n| self.node(n).shape == shape).collect();
                self.settle_shape(&mut out, shape, &nodes);
            }
        }
        if !settle.commits.is_empty() && phases > 0 {
            let _ = writeln!(out, "storageBarrier();");
        }
        for &(s, n) in &settle.commits {
            let to = small_place(self.plan, Small::Slot(s));
            let (extent, cut) = extent(self.plan.graph.slots[s].shape);
            let from = match (self.constant(n), self.node(n).shape) {
                (Some(constant), _) => constant,
                (_, Shape::Scalar) => format!("small[{}(t)]", self.place(n)),
                (_, Shape::Matrix) => format!("small[{}(t) + i{cut}]", self.place(n)),
                _ => format!("small[{}(t) + i]", self.place(n)),
            };
            let _ = writeln!(out, "for (var i = lid; i < {extent}; i += SETTLE) {{");
            let _ = writeln!(out, "    small[{to}(t) + i] = {from};\n}}");
        }
        replaced(&fill(&section, "values", &out), "fn settle(", &format!("fn {entry}("))
    }

    /// The values of one shape in one phase.
    fn settle_shape(&self, out: &mut String, shape: Shape, nodes: &[NodeId]) {
        // Reductions to Scalar and Matrix take the whole workgroup, everything else goes by index.
        let whole = |n: &&NodeId| by_workgroup(self.plan, **n);
        for &n in nodes.iter().filter(whole) {
            self.reduce(out, n);
        }
        if nodes.iter().all(|n| whole(&n)) {
            return;
        }
        let (extent, cut) = extent(shape);
        let _ = writeln!(out, "for (var i = lid; i < {extent}; i += SETTLE) {{");
        let mut named = Nodes::default();
        let batch = format!("i{cut}");
        for &n in nodes.iter().filter(|n| !whole(n)) {
            if let Op::Reduce(kind, axis, a) = self.node(n).op {
                self.finish_by_index(out, n, kind, axis, a);
            }
            self.settle_value(out, n, &mut named, "i", &batch);
        }
        let _ = writeln!(out, "}}");
    }

    /// The value at an index, in lines of a block: its reduction, if it is one, stands there before.
    fn settle_value(
        &self,
        out: &mut String,
        n: NodeId,
        named: &mut Nodes,
        index: &str,
        batch: &str,
    ) {
        if !matches!(self.node(n).op, Op::Reduce(..)) {
            let value = |n: NodeId| self.constant(n).unwrap_or_else(|| format!("v{n}"));
            self.read_small(out, n, named, index, batch);
            let _ = writeln!(out, "    let v{n} = {};", self.expression(n, false, &value));
        }
        named.insert(n);
        if self.kept.contains(&n) {
            let _ = writeln!(out, "    small[{}(t) + {index}] = v{n};", self.place(n));
        }
    }

    /// Adds the partial sums of a row or column reduction at index `i`.
    fn finish_by_index(&self, out: &mut String, n: NodeId, kind: Reduction, axis: Axis, a: NodeId) {
        debug_assert!(self.node(a).shape == Shape::Full, "only Full values leave rows or columns");
        let start = identity(kind);
        let _ = writeln!(out, "    var sum_{n} = {start};");
        let (loops, x, count) = if axis == Axis::Row {
            (
                "for (var k = 0u; k < t.col_tiles; k++)",
                format!("small[partials_{n}(t) + k * t.batch * t.rows + i]"),
                "f32(t.cols)",
            )
        } else {
            (
                "for (var k = 0u; k < t.row_tiles; k += t.per_group)",
                format!("small[partials_{n}(t) + k * t.batch * t.cols + i]"),
                "f32(t.rows)",
            )
        };
        let join = accumulated(kind, &format!("sum_{n}"), &x);
        let _ = writeln!(out, "    {loops} {{\n        {join}\n    }}");
        let _ = writeln!(out, "    let v{n} = {};", finished(kind, &format!("sum_{n}"), count));
    }

    /// A reduction to one value per batch entry or one for all, by the whole workgroup.
    fn reduce(&self, out: &mut String, n: NodeId) {
        let Op::Reduce(kind, axis, a) = self.node(n).op else {
            return;
        };
        let from = self.node(a).shape;
        let total = |x: &str| match kind {
            Reduction::Mean => format!("sum_lanes(lid, {x})"),
            Reduction::Max => format!("max_lanes(lid, {x})"),
        };
        let join = |acc: &str, x: &str| accumulated(kind, acc, x);
        // How many terms a batch entry has, where they lie, and what a mean divides by.
        let (terms, place, count) = match from {
            Shape::Full => (
                "t.row_tiles * t.col_tiles",
                format!("partials_{n}(t)"),
                "(f32(t.rows) * f32(t.cols))",
            ),
            Shape::Rows if self.total(n).is_some() => {
                ("t.row_tiles * t.col_tiles", format!("partials_{n}(t)"), "f32(t.rows)")
            }
            Shape::Rows => ("t.rows", format!("{}(t)", self.place(a)), "f32(t.rows)"),
            Shape::Cols => ("t.cols", format!("{}(t)", self.place(a)), "f32(t.cols)"),
            _ => ("1u", format!("{}(t)", self.place(a)), "1.0"),
        };
        let start = identity(kind);
        let to = self.place(n);
        if self.node(n).shape == Shape::Scalar || axis == Axis::Tensor {
            let line = join(&format!("sum_{n}"), &format!("small[{place} + i]"));
            let value = finished(kind, &format!("total_{n}"), &format!("(f32(t.batch) * {count})"));
            let _ = writeln!(
                out,
                "var sum_{n} = {start};
for (var i = lid; i < t.batch * {terms}; i += SETTLE) {{
    {line}
}}
let total_{n} = {};
if (lid == 0u) {{
    small[{to}(t)] = {value};
}}",
                total(&format!("sum_{n}"))
            );
            return;
        }
        // Many small matrices: a thread for each. Few: the whole workgroup for each in turn.
        let value = finished(kind, &format!("sum_{n}"), count);
        let x = format!("small[{place} + b * {terms} + i]");
        let (of_one, of_part) = (join(&format!("sum_{n}"), &x), join("part", &x));
        let _ = writeln!(
            out,
            "if (t.batch >= SETTLE) {{
    for (var b = lid; b < t.batch; b += SETTLE) {{
        var sum_{n} = {start};
        for (var i = 0u; i < {terms}; i++) {{
            {of_one}
        }}
        small[{to}(t) + b] = {value};
    }}
}} else {{
    for (var b = 0u; b < t.batch; b++) {{
        var part = {start};
        for (var i = lid; i < {terms}; i += SETTLE) {{
            {of_part}
        }}
        let sum_{n} = {};
        if (lid == 0u) {{
            small[{to}(t) + b] = {value};
        }}
    }}
}}",
            total("part")
        );
    }
}

/// What each thread does that has a row of the tile.
fn if_rows(lines: &str) -> String {
    format!("if (lid < tile.rows) {{\n{lines}}}\nworkgroupBarrier();\n")
}

/// A tile's part of a reduction, of which so many threads have a part each.
fn leave(out: &mut String, n: NodeId, kind: Reduction, threads: &str) {
    let line = accumulated(kind, &format!("sum_{n}"), "lanes[i]");
    let _ = writeln!(
        out,
        "lanes[lid] = sum_{n};
workgroupBarrier();
if (lid == 0u) {{
    for (var i = 1u; i < {threads}; i++) {{
        {line}
    }}
    small[partials_{n}(t) + tile.index] = sum_{n};
}}
workgroupBarrier();"
    );
}

/// The row values that tiles settle, where they have whole rows: in `local` those that follow from the
/// sums of these rows, after them; in `repeated` those that follow from what is settled and that nothing but
/// elements read, which make them.
fn rows_of_tiles(plan: &Plan, local: &mut Nodes, repeated: &mut Nodes) {
    let (nodes, used) = (&plan.graph.nodes, plan.graph.reachable());
    // What has level 0 is made of slots alone, as they were.
    let is = |n: NodeId| used[n] && nodes[n].shape == Shape::Rows && nodes[n].level > 0;
    for n in (0..nodes.len()).filter(|&n| is(n)) {
        let mut known = 0;
        for sweep in &plan.sweeps {
            if sweep.levels.start < usize::from(nodes[n].level) {
                known = sweep.levels.start;
            }
        }
        let of_sums = |a: NodeId| usize::from(nodes[a].level) <= known || local.contains(&a);
        if matches!(nodes[n].op, Op::Reduce(..)) || nodes[n].op.args().all(of_sums) {
            local.insert(n);
        }
    }
    for n in (0..nodes.len()).rev().filter(|&n| is(n)) {
        let old = |a: NodeId| matches!(nodes[a].op, Op::Old(_));
        let read = settled_with(plan, n, &repeated.0) || plan.graph.stores.contains(&n);
        if !read && !local.contains(&n) && !nodes[n].op.args().any(old) {
            repeated.insert(n);
        }
    }
}

/// Whether small values that are none of these are made of `n`.
fn settled_with(plan: &Plan, n: NodeId, but: &[NodeId]) -> bool {
    let used = plan.graph.reachable();
    let mut users = plan.graph.nodes.iter().enumerate().filter(|(_, u)| u.shape != Shape::Full);
    users.any(|(u, node)| used[u] && !but.contains(&u) && node.op.args().any(|a| a == n))
}

/// Whether the new value `n` of a slot may lie where the old one does: what reads that is part of it, at
/// the same index, or an element.
fn replaces(plan: &Plan, s: SlotId, n: NodeId) -> bool {
    let graph = &plan.graph;
    let mut parts = vec![false; graph.nodes.len()];
    parts[n] = true;
    graph.spread(&mut parts);
    let alike = |m: NodeId| graph.nodes[m].shape == graph.slots[s].shape;
    let parts: Vec<_> = (0..parts.len()).filter(|&r| parts[r] && alike(r)).collect();
    let apart = |old: NodeId| resides(plan, old) && !settled_with(plan, old, &parts);
    let mut old = (0..graph.nodes.len()).filter(|&m| graph.nodes[m].op == Op::Old(s));
    alike(n) && !matches!(graph.nodes[n].op, Op::Old(_)) && old.all(apart)
}

fn phase_of(phases: &[(NodeId, usize)], n: NodeId) -> Option<usize> {
    phases.iter().find(|p| p.0 == n).map(|p| p.1)
}

impl Settle {
    fn new(plan: &Plan, levels: std::ops::Range<usize>, apart: [&Nodes; 2]) -> Self {
        let graph = &plan.graph;
        let nodes: Vec<NodeId> = levels
            .clone()
            .flat_map(|k| plan.settles.get(k).into_iter().flatten().copied())
            .filter(|n| !apart[0].contains(n) && !apart[1].contains(n))
            .filter(|&n| !resides(plan, n))
            .collect();
        let mut phase: Vec<(NodeId, usize)> = Vec::new();
        for &n in &nodes {
            let node = &graph.nodes[n];
            let after = node.op.args().filter_map(|a| {
                phase_of(&phase, a).map(|p| if near(plan, a, n) { p } else { p + 1 })
            });
            let p = after.max().unwrap_or(0);
            phase.push((n, p));
        }
        let commits = levels.flat_map(|k| plan.commits(k).collect::<Vec<_>>()).collect();
        Self { nodes, commits, phase }
    }

    /// Whether the only sweep can make this settle, which comes before it, for itself: nothing but
    /// arithmetic with numbers, all of it from what is there before the step.
    fn is_plain(&self, plan: &Plan) -> bool {
        let plain = |&n: &NodeId| {
            let node = &plan.graph.nodes[n];
            let op = matches!(node.op, Op::Unary(..) | Op::Binary(..) | Op::Select(_));
            op && node.shape.fits(Shape::Matrix)
        };
        self.is_dispatched() && self.nodes.iter().all(plain)
    }

    fn is_dispatched(&self) -> bool {
        !self.nodes.is_empty() || !self.commits.is_empty()
    }

    /// Whether each workgroup of sweep `next` can make this settle for itself: it finishes numbers
    /// of whole matrices and tensors only, keeps none of its values, and only that sweep reads them.
    fn is_light(&self, plan: &Plan, next: usize) -> bool {
        let graph = &plan.graph;
        let number = |&n: &NodeId| match graph.nodes[n].op {
            Op::Reduce(_, _, a) => {
                graph.nodes[a].shape == Shape::Full && graph.nodes[n].shape.fits(Shape::Matrix)
            }
            _ => true,
        };
        let read_here = |n: NodeId| {
            let reads = |k: usize| plan.levels[k].reads.contains(&n);
            let mut others = (0..plan.sweeps.len()).filter(|&i| i != next);
            !others.any(|i| plan.sweeps[i].levels.clone().any(reads))
                && !settled_with(plan, n, &self.nodes)
        };
        self.commits.is_empty()
            && self.nodes.iter().all(number)
            && self.nodes.iter().all(|&n| read_here(n))
    }
}

/// True for a value that needs no place of its own: a count, or a slot before the step. An old value
/// that becomes the new one of another slot is copied first.
fn resides(plan: &Plan, n: NodeId) -> bool {
    match plan.graph.nodes[n].op {
        Op::Old(_) => !plan.graph.stores.contains(&n),
        Op::Count(_) => true,
        _ => false,
    }
}

/// True for a reduction that a whole workgroup makes.
fn by_workgroup(plan: &Plan, n: NodeId) -> bool {
    let node = &plan.graph.nodes[n];
    matches!(node.op, Op::Reduce(..)) && node.shape.fits(Shape::Matrix)
}

/// True if `n` needs its operand `a` at its own index only, so that one thread can compute both.
fn near(plan: &Plan, a: NodeId, n: NodeId) -> bool {
    let (of, node) = (&plan.graph.nodes[a], &plan.graph.nodes[n]);
    of.shape == node.shape && !matches!(node.op, Op::Reduce(..)) && !by_workgroup(plan, a)
}

/// The number of values of a shape, and what takes an index to its batch entry.
fn extent(shape: Shape) -> (&'static str, &'static str) {
    match shape {
        Shape::Matrix => ("t.batch", ""),
        Shape::Rows => ("t.batch * t.rows", " / t.rows"),
        Shape::Cols => ("t.batch * t.cols", " / t.cols"),
        _ => ("1u", ""),
    }
}

fn identity(kind: Reduction) -> &'static str {
    match kind {
        Reduction::Mean => "0.0",
        Reduction::Max => "LOWEST",
    }
}

/// The statement that takes one more value into an accumulator.
fn accumulated(kind: Reduction, acc: &str, x: &str) -> String {
    match kind {
        Reduction::Mean => format!("{acc} += {x};"),
        Reduction::Max => format!("{acc} = max({acc}, {x});"),
    }
}

/// The four values of a vector, reduced to one.
fn of_four(kind: Reduction, x: &str) -> String {
    match kind {
        Reduction::Mean => format!("sum4({x})"),
        Reduction::Max => format!("max4({x})"),
    }
}

fn finished(kind: Reduction, sum: &str, count: &str) -> String {
    match kind {
        Reduction::Mean => format!("{sum} / {count}"),
        Reduction::Max => sum.into(),
    }
}

/// The Host values of the uniform: those that gradients are clipped and scaled by, which a shader
/// of the library may write, then all others.
fn hosts(plan: &Plan) -> Vec<NodeId> {
    let grad = |n: NodeId| {
        let Op::Hyper(h) = plan.graph.nodes[n].op else { return GRAD.len() };
        GRAD.iter().position(|&g| g == plan.graph.hypers[h]).unwrap_or(GRAD.len())
    };
    let printed = |n: &NodeId| literal(plan.graph.nodes[*n].op).is_none();
    let hosts: Vec<_> = plan.hosts.iter().copied().filter(printed).collect();
    let of = |g: usize| hosts.iter().copied().filter(move |&n| grad(n) == g);
    (0..=GRAD.len()).flat_map(of).collect()
}

/// A number in the text, as WGSL. What WGSL cannot write becomes a uniform.
fn literal(op: Op) -> Option<String> {
    let Op::Literal(bits) = op else { return None };
    #[allow(clippy::cast_possible_truncation, reason = "rounded once, as every Host value is")]
    let x = f64::from_bits(bits) as f32;
    if !x.is_finite() || (x != 0.0 && !x.is_normal()) {
        return None;
    }
    let text = precise_single(x);
    Some(if x < 0.0 { format!("({text})") } else { text })
}

/// What the skeleton says of a thread that takes one column at once, and of one that takes four.
const FOUR_COLUMNS: [(&str, &str); 3] = [
    ("c = lid;", "c = 4u * lid;"),
    ("c += WIDTH", "c += 4u * WIDTH"),
    ("tile.at + i * t.cols + c;", "(tile.at + i * t.cols + c) / 4u;"),
];

/// How a sweep reads the gradient.
const GRAD_HERE: &str = "grad[window.grad + e]";

/// The loops over a tile, for whichever gradient it is of: one text for each buffer, since a shader
/// cannot choose between buffers otherwise, and around the loops, so that each is as fast as one alone.
fn for_each_grad(n: u32, loops: &str) -> String {
    let of = |k: u32| {
        let loops = replaced(loops, GRAD_HERE, &format!("grad_{k}[window.grads[{k}].x + e]"));
        let loops: String = loops.lines().map(|l| format!("    {l}\n")).collect();
        format!("if (window.grads[{k}].y != 0u) {{\n{loops}}}\n")
    };
    if n == 1 {
        return of(0);
    }
    let mut out = "switch (tile.down) {\n".to_string();
    for k in 0..n {
        let case = if k + 1 == n { "default".to_string() } else { format!("case {k}u") };
        let body: String = of(k).lines().map(|l| format!("        {l}\n")).collect();
        let _ = write!(out, "    {case}: {{\n{body}    }}\n");
    }
    out.push_str("}\n");
    out
}

/// Replaces the lines between the markers of `name`, markers included, at the same indentation.
fn fill(text: &str, name: &str, lines: &str) -> String {
    let (before, (_, after)) = split(text, name);
    let indent = text
        .lines()
        .find(|l| l.trim_ascii() == format!("// @begin {name}"))
        .map_or(0, |l| l.len() - l.trim_ascii_start().len());
    let mut out = before;
    for line in lines.lines() {
        if line.is_empty() {
            out.push('\n');
        } else {
            let _ = writeln!(out, "{:indent$}{line}", "");
        }
    }
    out.push_str(&after);
    out
}

/// What stands before, between and after the marker lines of `name`.
fn split(text: &str, name: &str) -> (String, (String, String)) {
    let (begin, end) = (format!("// @begin {name}"), format!("// @end {name}"));
    let mut parts = [String::new(), String::new(), String::new()];
    let mut part = 0;
    for line in text.lines() {
        if part == 0 && line.trim_ascii() == begin || part == 1 && line.trim_ascii() == end {
            part += 1;
            continue;
        }
        parts[part].push_str(line);
        parts[part].push('\n');
    }
    let [before, between, after] = parts;
    (before, (between, after))
}

/// Single blank lines, one newline at the end.
fn tidy(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut blank = false;
    for line in text.lines() {
        let line = line.trim_ascii_end();
        if line.is_empty() && (blank || out.ends_with("{\n")) {
            continue;
        }
        blank = line.is_empty();
        out.push_str(line);
        out.push('\n');
    }
    out.truncate(out.trim_ascii_end().len());
    out.push('\n');
    out
}
