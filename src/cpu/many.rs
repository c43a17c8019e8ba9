//! Many tensors on the CPU.

use std::sync::Arc;

#[cfg(feature = "parallel")]
use super::Threads;
use super::runner::{Held, Hosts, Program};
use super::{Cpu, CpuTensor, Element, Lent, LentMut, TensorMut, TensorRef};
use crate::error::{Error, Result};
use crate::gradients::{
    Average, Control, Controls, DECISION, FOLLOWED, First, Measuring, REMEMBERED,
};
use crate::host::Scalars;
use crate::layout::Layout;
use crate::logging::{debug, warning};
use crate::plan::Plan;
use crate::report::{Memory, Stats};
use crate::setup::{Groups, Key, Missing, Setup, TensorId};
use crate::snapshot::{SlotState, Snapshot, slot_shape};
use crate::trace::Watch;
use crate::value::{GRAD, GRAD_NEUTRAL, Shape};
use crate::{Accumulation, Gradients, Optimizer, Recipe};

/// The optimizer of all tensors of a [`Setup`] on the CPU.
///
/// A step borrows parameters and gradients, one call for each tensor, and runs when all are there:
/// ```
/// # use gradstep::{Cpu, Group, Setup, optim::AdamW};
/// # let setup = Setup::new().tensor("w", [3]).group(Group::new("all", AdamW::new(0.1)));
/// # let mut optimizer = setup.cpu::<f32>(&Cpu::default())?;
/// # let (mut w, g) = ([0.0f32; 3], [1.0f32; 3]);
/// let mut step = optimizer.begin();
/// step.tensor("w", &mut w, &g)?;
/// step.finish()?;
/// # Ok::<(), gradstep::Error>(())
/// ```
/// After the first step nothing is allocated, on one thread.
#[derive(Debug)]
pub struct CpuOptimizer<T: Element> {
    groups: Groups,
    missing: Missing,
    gradients: Gradients,
    #[cfg(feature = "parallel")]
    threads: Threads,
    /// By number; none for frozen ones.
    tensors: Vec<Option<CpuTensor<T>>>,
    /// Host values of a step, for each optimizer and kind of tensors.
    prepared: Vec<Prepared<T>>,
    /// Which of them are a tensor's, by number; anything for frozen ones.
    prepared_of: Vec<usize>,
    guard: Option<Guard<T>>,
    sums: Option<Sums<T>>,
    average: Option<Averages<T>>,
    t: u64,
    /// Where lent memory is kept during a step: its allocation outlives it.
    lent: Vec<Lending<'static, T>>,
    watched: bool,
}

/// What all tensors of an optimizer and kind have in common in a step.
#[derive(Debug)]
struct Prepared<T: Element> {
    unit: usize,
    /// One of their programs: the Host values of all of them are the same.
    program: Arc<Program<T>>,
    hosts: Hosts<T>,
}

/// Programs that several tensors have in common.
struct Programs<T: Element> {
    /// Elements of all tensors.
    elements: usize,
    made: Vec<Made<T>>,
}

/// By optimizer, shape and layout.
type Made<T> = (usize, Vec<usize>, Layout, Arc<Program<T>>);

/// What decides on a step before any parameter changes.
#[derive(Debug)]
struct Guard<T: Element> {
    measures: Vec<Option<CpuTensor<T>>>,
    control: Scalars,
    controls: Controls,
}

/// Sums of gradients of micro-batches.
#[derive(Debug)]
struct Sums<T: Element> {
    kind: Accumulation,
    tensors: Vec<Option<Kept<T>>>,
}

/// Averages of the parameters.
#[derive(Debug)]
struct Averages<T: Element> {
    kind: Average,
    tensors: Vec<Option<Kept<T>>>,
}

/// Values of a tensor's extent that a small definition changes.
#[derive(Debug)]
struct Kept<T: Element> {
    tensor: CpuTensor<T>,
    values: Vec<T>,
    /// Gradients in a sum. For an average: 1 while it is swapped with the parameter.
    count: u32,
}

/// Parameter and gradient of a tensor, for one step.
#[derive(Debug)]
struct Lending<'a, T>(Option<LentMut<'a, T>>, Option<Lent<'a, T>>);

impl<T> Default for Lending<'_, T> {
    fn default() -> Self {
        Self(None, None)
    }
}

/// The same allocation for memory of another lifetime: collecting in place keeps it.
fn recycle<'b, T>(mut lent: Vec<Lending<'_, T>>) -> Vec<Lending<'b, T>> {
    lent.clear();
    lent.into_iter().map(|_| Lending::default()).collect()
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Outcome {
    /// True if a gradient was not finite and nothing was changed.
    pub skipped: bool,
    /// The norm of all gradients together, unscaled and clipped by value, where it was taken.
    pub grad_norm: Option<f64>,
    /// What gradients were multiplied by to clip their norm; 1: they were not clipped.
    pub clip_factor: f64,
    /// What the loss of the next step is to be multiplied by.
    pub loss_scale: f64,
    /// The first tensor whose gradient was not finite, where the step was skipped. On the GPU it is
    /// not known, nor where each gradient is finite and only their norm is not.
    pub not_finite: Option<TensorId>,
}

impl Outcome {
    /// That of a step for which nothing was measured.
    pub(crate) fn unguarded(loss_scale: f64) -> Self {
        Self { skipped: false, grad_norm: None, clip_factor: 1.0, loss_scale, not_finite: None }
    }
}

impl Setup {
    /// Prepares all tensors on the CPU.
    ///
    /// # Errors
    /// [`Error::Setup`] for what does not fit together, and those of
    /// [`Cpu::prepare`](crate::Cpu::prepare).
    pub fn cpu<T: Element>(&self, cpu: &Cpu) -> Result<CpuOptimizer<T>> {
        CpuOptimizer::new(self, cpu)
    }
}

impl<T: Element> Programs<T> {
    fn new(groups: &Groups) -> Self {
        let active = groups.tensors.iter().filter(|t| t.unit.is_some());
        // Each tensor's own number was checked; all of them together need not fit.
        let count = active.map(|t| t.info.shape.iter().product());
        Self { elements: count.fold(0usize, usize::saturating_add), made: Vec::new() }
    }
}

/// A tensor of optimizer `unit`, by the program that others of its shape have.
fn shared<T: Element>(
    programs: &mut Programs<T>,
    cpu: &Cpu,
    (unit, optimizer): (usize, &dyn Optimizer),
    shape: &[usize],
    layout: Layout,
    watch: Watch,
) -> Result<CpuTensor<T>> {
    let known = programs.made.iter().find(|(u, s, l, _)| *u == unit && s == shape && *l == layout);
    let program = match known {
        Some((.., program)) => program.clone(),
        None => {
            let program = CpuTensor::program(cpu, optimizer, shape, layout, watch)?;
            let program = Arc::new(program.beside(programs.elements));
            programs.made.push((unit, shape.to_vec(), layout, program.clone()));
            program
        }
    };
    Ok(CpuTensor::of(program, shape))
}

/// The same for a definition of the library that goes over all tensors as vectors.
fn side<T: Element>(
    groups: &Groups,
    cpu: &Cpu,
    settings: &dyn Optimizer,
) -> Result<Vec<Option<CpuTensor<T>>>> {
    let mut programs = Programs::new(groups);
    let mut tensor = |shape: &[usize]| {
        shared(&mut programs, cpu, (0, settings), shape, Layout::Vector, Watch::Nothing)
    };
    let tensors = groups.tensors.iter();
    tensors.map(|t| t.unit.map(|_| tensor(&t.info.shape)).transpose()).collect()
}

impl<T: Element> Kept<T> {
    fn all(groups: &Groups, cpu: &Cpu, settings: &dyn Optimizer) -> Result<Vec<Option<Self>>> {
        let kept = |tensor: CpuTensor<T>| {
            let values = vec![T::zero(); tensor.runner.seen_as().len()];
            Self { tensor, values, count: 0 }
        };
        let tensors = side(groups, cpu, settings)?;
        Ok(tensors.into_iter().map(|t| t.map(kept)).collect())
    }

    /// How many steps are in an average.
    fn counted(&self) -> f64 {
        self.tensor.number(FOLLOWED)
    }

    /// Runs its definition with these settings.
    fn run(&mut self, settings: &dyn Optimizer, input: &Lent<'_, T>) {
        let hyper = |name: &str| crate::host::hyper(settings, GRAD_NEUTRAL, name);
        self.tensor.prepare(1, hyper);
        let held = &mut Held::default();
        self.tensor.update(None, LentMut::Slice(&mut self.values), input, held);
    }
}

impl<T: Element> CpuOptimizer<T> {
    fn new(setup: &Setup, cpu: &Cpu) -> Result<Self> {
        let groups = setup.assign()?;
        let watch = if setup.watch { Watch::Updates } else { Watch::Nothing };
        let mut programs = Programs::new(&groups);
        let tensors = groups.tensors.iter().map(|t| {
            let mut make = |u: usize| {
                let of = (u, &groups.units[u].optimizer as &dyn Optimizer);
                let made = shared(&mut programs, cpu, of, &t.info.shape, t.layout, watch);
                made.map_err(|e| e.of("tensor", &t.info.name))
            };
            t.unit.map(&mut make).transpose()
        });
        let tensors = tensors.collect::<Result<Vec<_>>>()?;
        if setup.gradients != Gradients::default() || setup.accumulation.is_some() {
            // Now, and not in the first step that clips something.
            programs.made.iter().for_each(|p| p.3.make_room());
        }
        let gradients = setup.gradients.clone();
        let guard = match gradients.needs_all() {
            true => Some(Guard::new(&groups, &gradients, cpu)?),
            false => None,
        };
        let sums = match setup.accumulation {
            Some(kind) => Some(Sums { kind, tensors: Kept::all(&groups, cpu, &First(true))? }),
            None => None,
        };
        let average = match setup.average {
            Some(kind) => Some(Averages { kind, tensors: Kept::all(&groups, cpu, &kind)? }),
            None => None,
        };
        let mut prepared: Vec<Prepared<T>> = Vec::new();
        let mut prepared_of = vec![0; tensors.len()];
        for ((tensor, t), of) in tensors.iter().zip(&groups.tensors).zip(&mut prepared_of) {
            let (Some(tensor), Some(unit)) = (tensor, t.unit) else { continue };
            let program = &tensor.runner.program;
            let kind = |program: &Program<T>| program.plan.graph.kind;
            let is_of = |p: &Prepared<T>| p.unit == unit && kind(&p.program) == kind(program);
            *of = prepared.iter().position(is_of).unwrap_or_else(|| {
                let hosts = Hosts::new(&program.plan);
                prepared.push(Prepared { unit, program: program.clone(), hosts });
                prepared.len() - 1
            });
        }
        let lent = Vec::with_capacity(tensors.len());
        debug!("prepared {} tensors in {} groups on the CPU", tensors.len(), groups.names.len());
        Ok(Self {
            groups,
            missing: setup.missing,
            gradients,
            #[cfg(feature = "parallel")]
            threads: cpu.threads.clone(),
            tensors,
            prepared,
            prepared_of,
            guard,
            sums,
            average,
            t: 0,
            lent,
            watched: setup.watch,
        })
    }

    /// Begins a step: nothing happens before [`CpuStepping::finish`].
    pub fn begin<'a>(&mut self) -> CpuStepping<'_, 'a, T> {
        let mut lent = recycle(std::mem::take(&mut self.lent));
        lent.resize_with(self.tensors.len(), Lending::default);
        CpuStepping { optimizer: self, lent }
    }

    /// Begins a step in which each tensor is changed as soon as its gradient is there, so that the
    /// gradient can be dropped: see [`CpuRelease`].
    ///
    /// # Errors
    /// [`Error::Setup`] if gradients are clipped by their norm, tested, or scaled dynamically, which
    /// takes all of them first, or accumulated; those of [`CpuStepping::finish`].
    pub fn begin_release(&mut self) -> Result<CpuRelease<'_, T>> {
        if self.guard.is_some() || self.sums.is_some() {
            return Err(cannot_release());
        }
        self.check_swapped()?;
        self.groups.schedule(self.t)?;
        self.t = self.t.saturating_add(1);
        let mut lent = recycle(std::mem::take(&mut self.lent));
        lent.resize_with(self.tensors.len(), Lending::default);
        Ok(CpuRelease { seen: lent, optimizer: self })
    }

    /// Adds the gradient of a micro-batch to the sum of its tensor.
    ///
    /// # Errors
    /// [`Error::Setup`] without [`Setup::accumulate`], [`Error::Tensor`] or [`Error::Shape`].
    pub fn accumulate<'k, 'g>(
        &mut self,
        tensor: impl Into<Key<'k>>,
        grad: impl TensorRef<'g, T>,
    ) -> Result<()> {
        let (index, _) = self.groups.active(tensor.into())?;
        let grad = grad.lend();
        check_grad(&self.groups, index, &grad)?;
        let Some(sum) = self.sums.as_mut().and_then(|s| s.tensors[index].as_mut()) else {
            return Err(Error::Setup {
                what: "accumulation".into(),
                problem: "this setup keeps no sums".into(),
                remedy: "ask for them with `Setup::accumulate`".into(),
            });
        };
        sum.run(&First(sum.count == 0), &grad);
        sum.count = sum.count.saturating_add(1);
        Ok(())
    }

    /// Forgets the gradients accumulated since the last step: the next one is the first again.
    pub fn discard_micro(&mut self) {
        if let Some(sums) = &mut self.sums {
            sums.tensors.iter_mut().flatten().for_each(|k| k.count = 0);
        }
    }

    fn check_swapped(&self) -> Result<()> {
        let Some(average) = &self.average else { return Ok(()) };
        let is = |k: &Option<Kept<T>>| k.as_ref().is_some_and(|k| k.count == 1);
        match average.tensors.iter().position(is) {
            None => Ok(()),
            Some(i) => Err(swapped(&self.groups, i)),
        }
    }

    /// Runs a step over what was lent.
    fn run(&mut self, lent: &mut [Lending<'_, T>]) -> Result<Outcome> {
        self.check_swapped()?;
        let mut micro = 1.0;
        if let Some(sums) = &self.sums {
            let counts = || sums.tensors.iter().map(|k| k.as_ref().map_or(0, |k| k.count));
            let most = counts().max().unwrap_or(0);
            for (i, n) in counts().enumerate().filter(|&(_, n)| n != most) {
                let lent = lent[i].0.is_some() && n == 0;
                if n > 0 || lent && self.missing == Missing::Error {
                    return Err(self.fail(
                        i,
                        format!("has gradients of {n} micro-batches where others have {most}"),
                        "accumulate each micro-batch for every tensor",
                    ));
                }
            }
            let mut unused = counts().enumerate().filter(|&(i, n)| n > 0 && lent[i].0.is_none());
            if let Some((i, n)) = unused.next() {
                return Err(self.fail(
                    i,
                    format!("has gradients of {n} micro-batches, but its parameter was not lent"),
                    "lend it with `param`, or drop the gradients of all with `discard_micro`",
                ));
            }
            micro = sums.kind.divisor(most);
        }
        for (i, tensor) in self.tensors.iter().enumerate() {
            let has_sum = self
                .sums
                .as_ref()
                .map(|s| lent[i].0.is_some() && s.tensors[i].as_ref().is_some_and(|k| k.count > 0));
            let there = has_sum.unwrap_or(lent[i].0.is_some());
            if tensor.is_some() && !there && self.missing == Missing::Error {
                return Err(missing(&self.groups, i));
            }
            if !there {
                lent[i] = Lending::default();
            }
        }
        self.groups.schedule(self.t)?;
        let (grad, outcome) = self.decide(lent, micro);
        self.t = self.t.saturating_add(1);
        if !outcome.skipped {
            self.update(lent, grad);
        }
        self.discard_micro();
        Ok(outcome)
    }

    fn fail(&self, index: usize, problem: String, remedy: &'static str) -> Error {
        Error::Tensor { tensor: self.groups.tensors[index].info.name.clone(), problem, remedy }
    }

    /// Whether the step goes ahead, and what is done to its gradients.
    fn decide(&mut self, lent: &[Lending<'_, T>], micro: f64) -> ([f64; 3], Outcome) {
        let Some(guard) = &mut self.guard else {
            let loss_scale = self.gradients.loss_scale.initial();
            let outcome = Outcome::unguarded(loss_scale);
            return (self.gradients.fixed(micro), outcome);
        };
        let scale = guard.loss_scale() * micro;
        let most = guard.controls.gradients.max_value.unwrap_or(f64::INFINITY) * scale;
        let settings = Measuring { most, unscale: 1.0 / scale };
        let hyper = |name: &str| crate::host::hyper(&settings, GRAD_NEUTRAL, name);
        let (mut sum_sq, mut bad, mut first_bad) = (0.0, 0.0f64, None);
        for (i, measure) in guard.measures.iter_mut().enumerate() {
            let (Some(measure), Lending(Some(_), given)) = (measure, &lent[i]) else { continue };
            let sum = self.sums.as_ref().and_then(|s| s.tensors[i].as_ref());
            measure.prepare(1, hyper);
            // Views of different lifetimes are different types, hence two calls.
            match (given, sum) {
                (Some(grad), _) => measure.measure(grad),
                (None, Some(kept)) => measure.measure(&Lent::Slice(&kept.values)),
                (None, None) => continue,
            }
            // The slots of `Measure`, in the order of its text.
            sum_sq += measure.scalar(0).widen();
            if measure.scalar(1).widen() > bad {
                (bad, first_bad) = (1.0, Some(TensorId(i)));
            }
        }
        guard.controls.micro = micro;
        (guard.controls.sum_sq, guard.controls.bad) = (sum_sq, bad);
        let (grad, mut outcome) = guard.decide();
        if outcome.skipped {
            outcome.not_finite = first_bad;
            warning!(
                "step {} is skipped: {} not finite; the loss scale is {}",
                self.t.saturating_add(1),
                match first_bad {
                    Some(id) =>
                        format!("the gradient of `{}` is", self.groups.tensors[id.0].info.name),
                    None => "the norm of all gradients is".into(),
                },
                outcome.loss_scale
            );
        }
        (grad, outcome)
    }

    fn update(&mut self, lent: &mut [Lending<'_, T>], grad: [f64; 3]) {
        let t = self.t;
        for Prepared { unit, program, hosts } in &mut self.prepared {
            let optimizer = &self.groups.units[*unit].optimizer;
            hosts.prepare(&program.plan, t, |name| crate::host::hyper(optimizer, grad, name));
        }
        let (prepared, prepared_of) = (self.prepared.as_slice(), self.prepared_of.as_slice());
        let kind = self.average.as_ref().and_then(|a| a.counting(t));
        let sums = self.sums.as_ref().map(|s| s.tensors.as_slice());
        let averages = self.average.as_mut().map(|a| a.tensors.as_mut_slice());
        let work = |held: &mut Held<T>,
                    (i, tensor): (usize, &mut Option<CpuTensor<T>>),
                    lending: &mut Lending<'_, T>,
                    average: Option<&mut Kept<T>>| {
            let Some(tensor) = tensor else { return };
            let Lending(Some(param), given) = std::mem::take(lending) else { return };
            let hosts = Some(&prepared[prepared_of[i]].hosts);
            let average = average.zip(kind);
            match (given, sums.and_then(|s| s[i].as_ref())) {
                (Some(grad), _) => tensor.update_and_follow(hosts, param, &grad, average, held),
                (None, Some(kept)) => {
                    let grad = Lent::Slice(&kept.values);
                    tensor.update_and_follow(hosts, param, &grad, average, held);
                }
                (None, None) => {}
            }
        };
        #[cfg(feature = "parallel")]
        if !matches!(self.threads, Threads::One) && self.tensors.len() > 1 {
            use rayon::prelude::*;
            let tensors = &mut self.tensors;
            let threads = &self.threads;
            let all = || {
                let pairs = tensors.par_iter_mut().enumerate().zip(lent.par_iter_mut());
                match averages {
                    Some(averages) => pairs.zip(averages.par_iter_mut()).for_each_init(
                        Held::default,
                        |held, ((tensor, l), a)| {
                            work(held, tensor, l, a.as_mut());
                        },
                    ),
                    None => pairs.for_each_init(Held::default, |held, (tensor, l)| {
                        work(held, tensor, l, None);
                    }),
                }
            };
            match threads {
                Threads::Own(pool) => pool.install(all),
                _ => all(),
            }
            return;
        }
        let (mut averages, held) = (averages, &mut Held::default());
        for (i, (tensor, l)) in self.tensors.iter_mut().zip(lent).enumerate() {
            let average = averages.as_mut().and_then(|a| a[i].as_mut());
            work(held, (i, tensor), l, average);
        }
    }

    /// The groups, and which tensor is in which. Printable.
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// The groups, to change their hyper-parameters.
    pub fn groups_mut(&mut self) -> &mut Groups {
        &mut self.groups
    }

    /// The number of steps taken, skipped ones included.
    pub fn steps(&self) -> u64 {
        self.t
    }

    /// Sets the number of steps taken, after state was restored.
    pub fn set_steps(&mut self, t: u64) {
        self.t = t;
    }

    /// How many steps were skipped because gradients were not finite.
    pub fn skipped(&self) -> u64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        self.guard.as_ref().map_or(0, |g| g.number("skipped") as u64)
    }

    /// What the loss of the next step is to be multiplied by.
    pub fn loss_scale(&self) -> f64 {
        self.guard.as_ref().map_or(self.gradients.loss_scale.initial(), Guard::loss_scale)
    }

    /// The plan by which a tensor runs. Printable.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn plan<'k>(&self, tensor: impl Into<Key<'k>>) -> Result<&Plan> {
        Ok(self.active(tensor.into())?.runner.plan())
    }

    /// What the last step did to a tensor. After a step that was skipped: the one before.
    ///
    /// # Errors
    /// [`Error::Tensor`], or [`Error::Setup`] without [`Setup::watch`].
    pub fn stats<'k>(&self, tensor: impl Into<Key<'k>>) -> Result<Stats> {
        let tensor = self.active(tensor.into())?;
        if self.watched { Ok(tensor.stats()) } else { Err(not_watched()) }
    }

    /// What the state takes.
    pub fn memory(&self) -> Memory {
        let active = |i: usize| self.tensors[i].is_some();
        Memory::new(&self.outline(), size_of::<T>(), active, self.sums.is_some(), 0)
    }

    /// A copy of the values of a slot.
    ///
    /// # Errors
    /// [`Error::Tensor`] or [`Error::NoSlot`].
    pub fn slot<'k>(&self, tensor: impl Into<Key<'k>>, name: &str) -> Result<Vec<T>> {
        self.active(tensor.into())?.slot(name)
    }

    /// Overwrites the values of a slot.
    ///
    /// # Errors
    /// [`Error::Tensor`], [`Error::NoSlot`] or [`Error::Shape`].
    pub fn set_slot<'k>(
        &mut self,
        tensor: impl Into<Key<'k>>,
        name: &str,
        values: &[T],
    ) -> Result<()> {
        let (index, _) = self.groups.active(tensor.into())?;
        match &mut self.tensors[index] {
            Some(tensor) => tensor.set_slot(name, values),
            None => Ok(()),
        }
    }

    /// The average of a parameter; that of the parameter itself while they are swapped.
    ///
    /// # Errors
    /// [`Error::Tensor`], or [`Error::Setup`] without [`Setup::average`].
    pub fn average<'k>(&self, tensor: impl Into<Key<'k>>) -> Result<&[T]> {
        let (index, _) = self.groups.active(tensor.into())?;
        let kept = self.average.as_ref().and_then(|a| a.tensors[index].as_ref());
        kept.map(|k| k.values.as_slice()).ok_or_else(no_average)
    }

    /// Swaps a parameter with its average, to evaluate with it; a second call swaps them back. No
    /// step is taken while one is swapped.
    ///
    /// # Errors
    /// [`Error::Tensor`], [`Error::Shape`], or [`Error::Setup`] without [`Setup::average`] or before
    /// the first step that counts.
    pub fn swap_average<'k, 'p>(
        &mut self,
        tensor: impl Into<Key<'k>>,
        param: impl TensorMut<'p, T>,
    ) -> Result<()> {
        let (index, _) = self.groups.active(tensor.into())?;
        let mut param = param.lend();
        let info = &self.groups.tensors[index].info;
        param.check(&format!("parameter `{}`", info.name), &info.shape)?;
        let average = self.average.as_mut().ok_or_else(no_average)?;
        if let Some(kept) = &mut average.tensors[index] {
            if kept.counted() == 0.0 && !kept.values.is_empty() {
                return Err(not_begun());
            }
            kept.tensor.scratch.resize(kept.values.len(), T::zero());
            let copy = &mut kept.tensor.scratch[..kept.values.len()];
            param.copy_to(copy);
            param.copy_from(&kept.values);
            kept.values.copy_from_slice(copy);
            kept.count = 1 - kept.count;
        }
        Ok(())
    }

    fn active(&self, key: Key<'_>) -> Result<&CpuTensor<T>> {
        let (index, _) = self.groups.active(key)?;
        // Only frozen tensors have none, and those are not active.
        self.tensors[index].as_ref().ok_or_else(|| missing(&self.groups, index))
    }
}

pub(crate) fn not_watched() -> Error {
    Error::Setup {
        what: "statistics".into(),
        problem: "this setup makes none".into(),
        remedy: "ask for them with `Setup::watch`".into(),
    }
}

pub(crate) fn no_average() -> Error {
    Error::Setup {
        what: "the average of the parameters".into(),
        problem: "this setup keeps none".into(),
        remedy: "ask for it with `Setup::average`".into(),
    }
}

pub(crate) fn not_begun() -> Error {
    Error::Setup {
        what: "the average of the parameters".into(),
        problem: "no step has counted yet".into(),
        remedy: "swap after the first one".into(),
    }
}

pub(crate) fn cannot_release() -> Error {
    Error::Setup {
        what: "a step that releases gradients".into(),
        problem: "clipping by the norm, the test for finite gradients, a dynamic loss scale \
                  and accumulation need all gradients before the first tensor changes"
            .into(),
        remedy: "leave them out of the setup, or use `begin`".into(),
    }
}

pub(crate) fn swapped(groups: &Groups, index: usize) -> Error {
    Error::Tensor {
        tensor: groups.tensors[index].info.name.clone(),
        problem: "holds its average, not its parameter".into(),
        remedy: "swap it back before a step",
    }
}

pub(crate) fn twice(groups: &Groups, index: usize) -> Error {
    Error::Tensor {
        tensor: groups.tensors[index].info.name.clone(),
        problem: "was given twice".into(),
        remedy: "give it once in a step",
    }
}

pub(crate) fn missing(groups: &Groups, index: usize) -> Error {
    Error::Tensor {
        tensor: groups.tensors[index].info.name.clone(),
        problem: "has no gradient in this step".into(),
        remedy: "give one, freeze the tensor, or let the setup skip it (`Missing::Skip`)",
    }
}

fn check_grad<T: Element>(groups: &Groups, index: usize, grad: &Lent<'_, T>) -> Result<()> {
    let info = &groups.tensors[index].info;
    if grad.fits(&info.shape) {
        return Ok(());
    }
    grad.check(&format!("gradient of `{}`", info.name), &info.shape)
}

impl<T: Element> CpuTensor<T> {
    /// The number in a slot of shape Scalar.
    fn number(&self, slot: &str) -> f64 {
        let index = self.slots().position(|(name, _)| name == slot);
        index.map_or(f64::NAN, |i| self.scalar(i).widen())
    }

    /// A step, and then the average of the parameter with this weight.
    fn update_and_follow(
        &mut self,
        hosts: Option<&Hosts<T>>,
        mut param: LentMut<'_, T>,
        grad: &Lent<'_, T>,
        average: Option<(&mut Kept<T>, Average)>,
        held: &mut Held<T>,
    ) {
        self.update(hosts, param.reborrow(), grad, held);
        if let Some((kept, kind)) = average {
            kept.run(&kind, &param.as_lent());
        }
    }
}

impl<T: Element> Averages<T> {
    /// Its kind, if the parameters after step `t` count.
    fn counting(&self, t: u64) -> Option<Average> {
        self.kind.counts(t).then_some(self.kind)
    }
}

impl<T: Element> Guard<T> {
    fn new(groups: &Groups, gradients: &Gradients, cpu: &Cpu) -> Result<Self> {
        let settings = Measuring { most: f64::INFINITY, unscale: 1.0 };
        let measures = side(groups, cpu, &settings)?;
        let controls = Controls::new(gradients.clone());
        let told = Told(&controls);
        let control = Scalars::new(&told)?;
        Ok(Self { measures, control, controls })
    }

    fn number(&self, slot: &str) -> f64 {
        self.control.number(slot)
    }

    fn loss_scale(&self) -> f64 {
        self.number("loss_scale")
    }

    fn decide(&mut self) -> ([f64; 3], Outcome) {
        let told = Told(&self.controls);
        let hyper = |name: &str| crate::host::hyper(&told, GRAD_NEUTRAL, name);
        self.control.step(1, hyper);
        let [go, min, max, scale] = DECISION.map(|name| self.number(name));
        let outcome = Outcome {
            skipped: go == 0.0,
            grad_norm: Some(self.number("grad_norm")),
            clip_factor: self.number("clip_factor"),
            loss_scale: self.loss_scale(),
            not_finite: None,
        };
        ([min, max, scale], outcome)
    }
}

/// [`Control`] that is told what was measured.
#[derive(Debug)]
struct Told<'a>(&'a Controls);

impl Optimizer for Told<'_> {
    fn hyper(&self, name: &str) -> Option<f64> {
        self.0.hyper(name)
    }

    fn initial(&self, slot: &str) -> Option<f64> {
        self.0.initial(slot)
    }

    fn recipe(&self) -> Recipe {
        Recipe::of::<Control<false>>()
    }
}

/// A step of a [`CpuOptimizer`] that is being put together. Dropped, it has done nothing.
#[derive(Debug)]
pub struct CpuStepping<'s, 'a, T: Element> {
    optimizer: &'s mut CpuOptimizer<T>,
    lent: Vec<Lending<'a, T>>,
}

impl<'a, T: Element> CpuStepping<'_, 'a, T> {
    /// Lends the parameter and the gradient of a tensor: slices, arrays or views of its shape.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor that is not registered, frozen or given twice,
    /// [`Error::Shape`], [`Error::Setup`] where gradients are accumulated.
    pub fn tensor<'k>(
        &mut self,
        tensor: impl Into<Key<'k>>,
        param: impl TensorMut<'a, T>,
        grad: impl TensorRef<'a, T>,
    ) -> Result<()> {
        let grad = grad.lend();
        let index = self.lend(tensor.into(), param.lend(), Some(&grad))?;
        self.lent[index].1 = Some(grad);
        Ok(())
    }

    /// Lends the parameter of a tensor whose gradients were accumulated.
    ///
    /// # Errors
    /// As for [`tensor`](Self::tensor); [`Error::Setup`] where they are not accumulated.
    pub fn param<'k>(
        &mut self,
        tensor: impl Into<Key<'k>>,
        param: impl TensorMut<'a, T>,
    ) -> Result<()> {
        self.lend(tensor.into(), param.lend(), None).map(|_| ())
    }

    fn lend(
        &mut self,
        key: Key<'_>,
        param: LentMut<'a, T>,
        grad: Option<&Lent<'a, T>>,
    ) -> Result<usize> {
        let set = &*self.optimizer;
        if set.sums.is_some() == grad.is_some() {
            let (problem, remedy) = match grad {
                Some(_) => ("gradients are accumulated", "call `accumulate` and then `param`"),
                None => ("gradients are not accumulated", "call `tensor` with a gradient"),
            };
            return Err(Error::Setup {
                what: "this step".into(),
                problem: problem.into(),
                remedy: remedy.into(),
            });
        }
        let (index, _) = set.groups.active(key)?;
        let info = &set.groups.tensors[index].info;
        if !param.fits(&info.shape) {
            param.check(&format!("parameter `{}`", info.name), &info.shape)?;
        }
        if let Some(grad) = grad {
            check_grad(&set.groups, index, grad)?;
        }
        if self.lent[index].0.is_some() {
            return Err(twice(&set.groups, index));
        }
        self.lent[index].0 = Some(param);
        Ok(index)
    }

    /// Runs the step.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor without a gradient, [`Error::In`] or
    /// [`Error::Structure`] for hyper-parameters that were changed; nothing has changed then.
    pub fn finish(self) -> Result<Outcome> {
        let Self { optimizer, mut lent } = self;
        let result = optimizer.run(&mut lent);
        optimizer.lent = recycle(lent);
        result
    }
}

/// A step of a [`CpuOptimizer`] in which each tensor is changed at once.
///
/// Parameters are those of a whole step, bit for bit. The step is counted when it begins; a tensor
/// that fails is unchanged, those before it are not.
#[derive(Debug)]
pub struct CpuRelease<'s, T: Element> {
    optimizer: &'s mut CpuOptimizer<T>,
    /// Which tensors are done: those with a gradient, of no elements.
    seen: Vec<Lending<'static, T>>,
}

impl<T: Element> CpuRelease<'_, T> {
    /// Changes one tensor.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor that is not registered, frozen or given twice, and
    /// [`Error::Shape`].
    pub fn tensor<'k, 'p, 'g>(
        &mut self,
        tensor: impl Into<Key<'k>>,
        param: impl TensorMut<'p, T>,
        grad: impl TensorRef<'g, T>,
    ) -> Result<()> {
        let set = &mut *self.optimizer;
        let (index, unit) = set.groups.active(tensor.into())?;
        let (param, grad) = (param.lend(), grad.lend());
        let info = &set.groups.tensors[index].info;
        if !param.fits(&info.shape) {
            param.check(&format!("parameter `{}`", info.name), &info.shape)?;
        }
        check_grad(&set.groups, index, &grad)?;
        if self.seen[index].1.is_some() {
            return Err(twice(&set.groups, index));
        }
        self.seen[index].1 = Some(Lent::Slice(&[]));
        let fixed = set.gradients.fixed(1.0);
        let optimizer = &set.groups.units[unit].optimizer;
        let average = set.average.as_mut().and_then(|a| {
            let kind = a.counting(set.t)?;
            Some((a.tensors[index].as_mut()?, kind))
        });
        if let Some(tensor) = &mut set.tensors[index] {
            let hyper = |name: &str| crate::host::hyper(optimizer, fixed, name);
            tensor.prepare(set.t, hyper);
            tensor.update_and_follow(None, param, &grad, average, &mut Held::default());
        }
        Ok(())
    }

    /// Ends the step.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor that was not given; the others have changed.
    pub fn finish(self) -> Result<()> {
        let set = self.optimizer;
        let open = |i: &usize| set.tensors[*i].is_some() && self.seen[*i].1.is_none();
        let open = (0..set.tensors.len()).find(open);
        set.lent = recycle(self.seen);
        match open {
            Some(i) if set.missing == Missing::Error => Err(missing(&set.groups, i)),
            _ => Ok(()),
        }
    }
}

/// What a snapshot calls the averages of the parameters.
pub(crate) const AVERAGED: &str = "param_average";

impl<T: Element> CpuOptimizer<T> {
    /// What a snapshot has, without values.
    fn outline(&self) -> Snapshot {
        let hypers = |u: usize| {
            let of = |(i, t): (usize, &Option<CpuTensor<T>>)| {
                let graph = &t.as_ref()?.runner.plan().graph;
                let same = self.groups.tensors[i].unit == Some(u);
                same.then(|| graph.hypers.iter().copied().filter(|h| !GRAD.contains(h)).collect())
            };
            self.tensors.iter().enumerate().find_map(of).unwrap_or_default()
        };
        let mut outline = self.groups.snapshot(self.t, hypers);
        for (i, tensor) in self.tensors.iter().enumerate() {
            let Some(tensor) = tensor else { continue };
            let state = &mut outline.tensors[i];
            let slots = tensor.slots().map(|(name, shape)| (name, tensor.runner.seen_as(), shape));
            let averaged = [(AVERAGED, Shape::Full), (FOLLOWED, Shape::Scalar)];
            let averaged = averaged.map(|(name, shape)| (name, tensor.runner.seen_as(), shape));
            let averaged = averaged.into_iter().filter(|_| self.average.is_some());
            state.slots.extend(slots.chain(averaged).map(|(name, dims, shape)| SlotState {
                name: name.into(),
                shape: slot_shape(shape, &state.shape, dims),
                values: T::values(Vec::new()),
            }));
        }
        if let Some(guard) = &self.guard {
            for name in REMEMBERED {
                outline.numbers.insert(name.into(), guard.number(name));
            }
        }
        outline
    }

    /// Everything that is needed to go on from here, but for the parameters, which belong to the
    /// caller: see [`Snapshot::set_param`].
    ///
    /// # Errors
    /// [`Error::Tensor`] while an average is swapped in, or gradients are accumulated and no step
    /// has followed.
    pub fn snapshot(&self) -> Result<Snapshot> {
        self.check_settled()?;
        let mut snapshot = self.outline();
        for (i, tensor) in self.tensors.iter().enumerate() {
            let Some(tensor) = tensor else { continue };
            let kept = self.average.as_ref().and_then(|a| a.tensors[i].as_ref());
            for slot in &mut snapshot.tensors[i].slots {
                slot.values = T::values(match (slot.name.as_str(), kept) {
                    (AVERAGED, Some(kept)) => kept.values.clone(),
                    (FOLLOWED, Some(kept)) => kept.tensor.slot(FOLLOWED)?,
                    (name, _) => tensor.slot(name)?,
                });
            }
        }
        Ok(snapshot)
    }

    /// Goes back to a snapshot, taken here or on another backend or precision. Parameters are the
    /// caller's, and hyper-parameters stay as they are: see [`Groups::apply_hypers`].
    ///
    /// # Errors
    /// [`Error::Snapshot`] that lists all differences; nothing has changed then. [`Error::Tensor`] as
    /// for [`snapshot`](Self::snapshot).
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.check_settled()?;
        snapshot.check(&self.outline())?;
        for state in &snapshot.tensors {
            let Some(i) = self.groups.id(&state.name).map(TensorId::index) else { continue };
            let Some(tensor) = &mut self.tensors[i] else { continue };
            let kept = self.average.as_mut().and_then(|a| a.tensors[i].as_mut());
            let Some(kept) = kept else {
                for slot in &state.slots {
                    tensor.set_slot(&slot.name, &slot.values.to::<T>())?;
                }
                continue;
            };
            for slot in &state.slots {
                let values = slot.values.to::<T>();
                match slot.name.as_str() {
                    AVERAGED if values.len() == kept.values.len() => kept.values = values,
                    FOLLOWED => kept.tensor.set_slot(FOLLOWED, &values)?,
                    name => tensor.set_slot(name, &values)?,
                }
            }
        }
        if let Some(guard) = &mut self.guard {
            for (name, &value) in &snapshot.numbers {
                guard.control.set(name, value);
            }
        }
        self.t = snapshot.step;
        Ok(())
    }

    fn check_settled(&self) -> Result<()> {
        self.check_swapped()?;
        let sums = self.sums.iter().flat_map(|s| &s.tensors).enumerate();
        for (i, kept) in sums {
            if let Some(n) = kept.as_ref().map(|k| k.count).filter(|&n| n > 0) {
                let problem = format!("has gradients of {n} micro-batches that no step has used");
                return Err(self.fail(i, problem, "finish the step first"));
            }
        }
        Ok(())
    }

    /// Bytes of the optimizer's state, averages and sums of gradients not counted.
    pub fn state_bytes(&self) -> usize {
        self.tensors.iter().flatten().map(CpuTensor::state_bytes).sum()
    }

    /// Names and shapes of the slots of a tensor.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn slots<'k>(
        &self,
        tensor: impl Into<Key<'k>>,
    ) -> Result<impl Iterator<Item = (&'static str, Shape)>> {
        Ok(self.active(tensor.into())?.slots())
    }
}
