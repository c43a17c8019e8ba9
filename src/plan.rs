//! The scheduler: from a [`Graph`] to levels, sweeps and settles.
//!
//! **The rule.** The level of a value is the number of full-size reductions on the longest path to
//! it. Level *k* evaluates the Full values of level *k* that are stored or reduced. Small values
//! are *settled* between levels: settle *k* runs before level *k* and holds the small values of
//! level *k*. That is the whole scheduler; what follows only says which levels share a trip
//! through memory.
//!
//! **Sweeps.** A sweep is one trip. A level joins the sweep of the one before when the newest small
//! values that it reads are *row-local*: made of row reductions of this sweep and of values that
//! were there before it. The sweep then goes over blocks of rows, evaluates the first level,
//! settles those rows, and evaluates the next level while the block is still in cache.
//!
//! **Recompute, do not spill.** A Full value of a lower level that is needed again is computed
//! again from its inputs, except one that was stored in a slot, which is read back. Reading the
//! *old* value of a slot after the level that stored it is an error.

use std::fmt;
use std::ops::Range;

use crate::error::Result;
use crate::trace::{Graph, Node, NodeId, Op, SlotId};
use crate::value::{Axis, Shape};

/// Full-size memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Buffer {
    /// The gradient.
    Grad,
    /// The parameter.
    Param,
    /// A full-size slot.
    Slot(SlotId),
}

/// What one pass over the elements does.
#[derive(Clone, Debug, Default)]
pub struct Level {
    /// The Full values to evaluate, operands first.
    pub full: Vec<NodeId>,
    /// The memory they read.
    pub loads: Vec<Buffer>,
    /// The memory they write, and with which value.
    pub stores: Vec<(Buffer, NodeId)>,
    /// The reductions they feed.
    pub reductions: Vec<NodeId>,
    /// The small values (not Host) that they read.
    pub reads: Vec<NodeId>,
}

/// One trip through memory.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// The levels that share it.
    pub levels: Range<usize>,
    /// Row values that are settled for each block of rows between those levels, operands first.
    pub local: Vec<NodeId>,
    /// Memory read, each once.
    pub loads: Vec<Buffer>,
    /// Memory written.
    pub stores: Vec<Buffer>,
}

/// How a definition runs over one kind of tensor. Printable.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The traced definition.
    pub graph: Graph,
    /// Whether levels may share a sweep.
    pub fused: bool,
    /// The passes.
    pub levels: Vec<Level>,
    /// Which passes share a trip.
    pub sweeps: Vec<Sweep>,
    /// `settles[k]`: the small values of level k, operands first. The last one comes after all
    /// levels.
    pub settles: Vec<Vec<NodeId>>,
    /// The Host values that anything not Host reads.
    pub hosts: Vec<NodeId>,
    /// All Host values that something stored depends on, operands first.
    pub host_program: Vec<NodeId>,
}

impl Plan {
    /// Schedules a graph. Where `fused` is false each level is a sweep of its own, which suits
    /// tensors of a few very long rows.
    ///
    /// # Errors
    /// [`Error::Definition`](crate::Error::Definition) if an old value is read after its level.
    pub fn new(graph: Graph, fused: bool) -> Result<Self> {
        let used = graph.reachable();
        let is_small = |n: &Node| n.shape != Shape::Full && n.shape != Shape::Host;
        // The parameter may be given a small value: that takes a level too.
        let count = 1
            + (0..graph.nodes.len())
                .filter(|&n| {
                    used[n] && (graph.nodes[n].shape == Shape::Full || Some(n) == graph.param)
                })
                .map(|n| usize::from(graph.nodes[n].level))
                .max()
                .unwrap_or(0);
        let last = (0..graph.nodes.len())
            .filter(|&n| used[n])
            .map(|n| usize::from(graph.nodes[n].level))
            .max()
            .unwrap_or(0);

        let levels: Vec<_> =
            (0..count).map(|k| Level::new(&graph, &used, k)).collect::<Result<_>>()?;
        let settles: Vec<Vec<NodeId>> = (0..=last.max(count - 1) + 1)
            .map(|k| {
                (0..graph.nodes.len())
                    .filter(|&n| used[n] && is_small(&graph.nodes[n]))
                    .filter(|&n| usize::from(graph.nodes[n].level) == k)
                    .collect()
            })
            .collect();
        check_small_slots(&graph, &used)?;

        let host_program: Vec<NodeId> = (0..graph.nodes.len())
            .filter(|&n| used[n] && graph.nodes[n].shape == Shape::Host)
            .collect();
        let mut read = vec![false; graph.nodes.len()];
        for n in (0..graph.nodes.len()).filter(|&n| used[n]) {
            if graph.nodes[n].shape != Shape::Host {
                graph.nodes[n].op.args().for_each(|a| read[a] = true);
            }
        }
        graph.stored().for_each(|n| read[n] = true);
        let hosts = host_program.iter().copied().filter(|&n| read[n]).collect();

        let mut plan =
            Self { graph, fused, levels, sweeps: Vec::new(), settles, hosts, host_program };
        plan.make_sweeps();
        Ok(plan)
    }

    /// Schedules a graph for tensors whose rows are cut, each piece for another workgroup: no levels
    /// share a sweep, and a mean over everything is taken element by element.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn cut(graph: &Graph) -> Result<Self> {
        Self::new(graph.with_means_of_elements(), false)
    }

    fn make_sweeps(&mut self) {
        let mut k = 0;
        while k < self.levels.len() {
            let mut end = k + 1;
            let mut local = Vec::new();
            while self.fused && end < self.levels.len() {
                let Some(more) = self.row_local(k, end) else {
                    break;
                };
                local.extend(more);
                end += 1;
            }
            local.sort_unstable();
            local.dedup();
            let (mut loads, mut stores) = (Vec::new(), Vec::new());
            for level in &self.levels[k..end] {
                for &b in &level.loads {
                    if !loads.contains(&b) && !stores.contains(&b) {
                        loads.push(b);
                    }
                }
                stores.extend(level.stores.iter().map(|s| s.0));
            }
            self.sweeps.push(Sweep { levels: k..end, local, loads, stores });
            k = end;
        }
    }

    /// The row-local values that level `level` needs if it joins a sweep that began with `first`;
    /// `None` if it needs something that is not row-local.
    fn row_local(&self, first: usize, level: usize) -> Option<Vec<NodeId>> {
        let mut found = Vec::new();
        let mut open = self.levels[level].reads.clone();
        while let Some(n) = open.pop() {
            let node = &self.graph.nodes[n];
            if usize::from(node.level) <= first || found.contains(&n) {
                continue;
            }
            let of_rows = match node.op {
                Op::Reduce(_, axis, a) => {
                    axis == Axis::Row && self.graph.nodes[a].shape == Shape::Full
                }
                _ => node.shape == Shape::Rows,
            };
            if !of_rows {
                return None;
            }
            found.push(n);
            if !matches!(node.op, Op::Reduce(..)) {
                let small = |&a: &NodeId| self.graph.nodes[a].shape != Shape::Host;
                open.extend(node.op.args().filter(small));
            }
        }
        Some(found)
    }

    /// Bytes of memory that a step moves per parameter, for values of `size` bytes: every full-size
    /// buffer that a sweep reads or writes, once each. Small values are not counted.
    #[must_use]
    pub fn bytes_per_parameter(&self, size: usize) -> usize {
        self.sweeps.iter().map(|s| (s.loads.len() + s.stores.len()) * size).sum()
    }

    /// Slots that are committed by settle `k`, with their new values.
    pub(crate) fn commits(&self, k: usize) -> impl Iterator<Item = (SlotId, NodeId)> {
        let slots = self.graph.slots.iter().zip(&self.graph.stores).enumerate();
        slots
            .filter(|(_, (decl, _))| decl.shape != Shape::Full)
            .map(|(s, (_, &n))| (s, n))
            .filter(move |&(_, n)| usize::from(self.graph.nodes[n].level) == k)
    }

    pub(crate) fn buffer_name(&self, buffer: Buffer) -> &'static str {
        match buffer {
            Buffer::Grad => "grad",
            Buffer::Param => "param",
            Buffer::Slot(s) => self.graph.slots[s].name,
        }
    }
}

impl Level {
    fn new(graph: &Graph, used: &[bool], k: usize) -> Result<Self> {
        let at = |n: NodeId| usize::from(graph.nodes[n].level);
        let mut level = Self::default();
        let mut needed = vec![false; graph.nodes.len()];
        if let Some(param) = graph.param.filter(|&n| at(n) == k) {
            level.stores.push((Buffer::Param, param));
        }
        for s in graph.full_slots().filter(|&s| at(graph.stores[s]) == k) {
            level.stores.push((Buffer::Slot(s), graph.stores[s]));
        }
        for (n, node) in graph.nodes.iter().enumerate().filter(|(n, _)| used[*n]) {
            if let Op::Reduce(_, _, a) = node.op
                && graph.nodes[a].shape == Shape::Full
                && at(a) == k
            {
                level.reductions.push(n);
                needed[a] = true;
            }
        }
        level.stores.iter().for_each(|&(_, n)| needed[n] = true);
        for n in (0..graph.nodes.len()).rev().filter(|&n| used[n]) {
            if !needed[n] {
                continue;
            }
            let node = &graph.nodes[n];
            if node.shape != Shape::Full {
                if node.shape != Shape::Host {
                    level.reads.push(n);
                }
                continue;
            }
            level.full.push(n);
            let load = match node.op {
                Op::Grad => Some(Buffer::Grad),
                Op::Param => Some(Buffer::Param),
                Op::Old(s) => Some(Buffer::Slot(s)),
                Op::New(s, _) if at(n) < k => Some(Buffer::Slot(s)),
                _ => None,
            };
            match load {
                Some(buffer) => level.loads.push(buffer),
                None => node.op.args().for_each(|a| needed[a] = true),
            }
        }
        level.full.reverse();
        level.reads.reverse();
        level.loads.sort_unstable();
        for n in &level.full {
            let (name, stored) = match graph.nodes[*n].op {
                Op::Old(s) => (graph.slots[s].name, at(graph.stores[s])),
                Op::Param => ("param", graph.param.map_or(usize::MAX, at)),
                _ => continue,
            };
            if stored < k {
                return Err(stale(graph, name, stored, k));
            }
        }
        Ok(level)
    }
}

fn stale(graph: &Graph, name: &str, stored: usize, read: usize) -> crate::Error {
    graph.error(
        format!(
            "the old value of `{name}` is needed at level {read}, but the new one is stored at \
             level {stored}"
        ),
        "use the new value, or set it later: after the last reduction whose result is combined \
         with the old value",
    )
}

/// A small slot is committed by the settle of its new value's level; nothing later may read the
/// old one.
fn check_small_slots(graph: &Graph, used: &[bool]) -> Result<()> {
    for (s, decl) in graph.slots.iter().enumerate().filter(|(_, d)| d.shape != Shape::Full) {
        let stored = usize::from(graph.nodes[graph.stores[s]].level);
        let Some(old) = graph.nodes.iter().position(|n| n.op == Op::Old(s)) else { continue };
        if graph.param == Some(old) && stored == 0 {
            return Err(stale(graph, decl.name, stored, 0));
        }
        for (n, node) in graph.nodes.iter().enumerate().filter(|(n, _)| used[*n]) {
            if !node.op.args().any(|a| a == old) {
                continue;
            }
            // A small reader runs in its own settle. A Full reader runs in its own level and again
            // wherever it is recomputed.
            let read = if node.shape == Shape::Full {
                last_evaluation(graph, used, n)
            } else {
                usize::from(node.level)
            };
            let late = if node.shape == Shape::Full { read >= stored } else { read > stored };
            if late {
                return Err(stale(graph, decl.name, stored, read));
            }
        }
    }
    Ok(())
}

/// The last level at which the Full node `n` is evaluated.
fn last_evaluation(graph: &Graph, used: &[bool], n: NodeId) -> usize {
    let mut last = vec![0; graph.nodes.len()];
    for m in (n..graph.nodes.len()).rev().filter(|&m| used[m]) {
        let node = &graph.nodes[m];
        if node.shape != Shape::Full {
            continue;
        }
        let own = usize::from(node.level);
        last[m] = last[m].max(own);
        // A stored value is read back after its level, so its operands are needed only there.
        let at = if matches!(node.op, Op::New(..)) { own } else { last[m] };
        for a in node.op.args() {
            last[a] = last[a].max(at);
        }
    }
    last[n]
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |buffers: &[Buffer]| {
            let list: Vec<_> = buffers.iter().map(|&b| self.buffer_name(b)).collect();
            if list.is_empty() { "nothing".to_string() } else { list.join(" ") }
        };
        writeln!(
            f,
            "{} of a {}: {} levels in {} sweeps, {} bytes a parameter in f32",
            self.graph.name,
            self.graph.kind,
            self.levels.len(),
            self.sweeps.len(),
            self.bytes_per_parameter(4)
        )?;
        let mut settled = 0;
        let mut settle = |f: &mut fmt::Formatter<'_>, upto: usize, local: &[NodeId]| {
            for k in settled..=upto {
                for &n in self.settles[k].iter().filter(|n| !local.contains(n)) {
                    let node = &self.graph.nodes[n];
                    writeln!(f, "    %{n:<3} {:6}  {}", node.shape, self.graph.describe(n))?;
                }
                for (s, n) in self.commits(k) {
                    writeln!(f, "    {} <- %{n}", self.graph.slots[s].name)?;
                }
            }
            settled = upto + 1;
            Ok(())
        };
        writeln!(f, "settle")?;
        settle(f, 0, &[])?;
        for (i, sweep) in self.sweeps.iter().enumerate() {
            writeln!(
                f,
                "sweep {}: read {} | write {}",
                i + 1,
                names(&sweep.loads),
                names(&sweep.stores)
            )?;
            for k in sweep.levels.clone() {
                writeln!(f, "  level {k}")?;
                for &n in
                    sweep.local.iter().filter(|&&n| usize::from(self.graph.nodes[n].level) == k)
                {
                    writeln!(
                        f,
                        "    %{n:<3} {:6}  {}  (block of rows)",
                        self.graph.nodes[n].shape,
                        self.graph.describe(n)
                    )?;
                }
                for &n in &self.levels[k].full {
                    let node = &self.graph.nodes[n];
                    let again = if usize::from(node.level) < k && node.op.args().next().is_some() {
                        if matches!(node.op, Op::New(..)) { "  (read back)" } else { "  (again)" }
                    } else {
                        ""
                    };
                    writeln!(f, "    %{n:<3} {:6}  {}{again}", node.shape, self.graph.describe(n))?;
                }
                for &(b, n) in &self.levels[k].stores {
                    writeln!(f, "    {} <- %{n}", self.buffer_name(b))?;
                }
            }
            let upto =
                if i + 1 == self.sweeps.len() { self.settles.len() - 1 } else { sweep.levels.end };
            writeln!(f, "settle")?;
            settle(f, upto, &sweep.local)?;
        }
        Ok(())
    }
}
