//! What sets of named tensors have in common, wherever parameters and gradients lie.

use super::device::Gpu;
use super::engine::{Class, Core, Group, State};
use super::flat::Guard;
use crate::Outcome;
use crate::blueprint::{Owner, Placed, outline};
use crate::cpu::many::not_watched;
use crate::definition::Optimizer;
use crate::error::Result;
use crate::gradients::{DECISION, Gradients};
use crate::plan::Plan;
use crate::report::{Memory, Stats};
use crate::setup::{Groups, Key, Setup, Unit};
use crate::snapshot::Snapshot;
use crate::trace::{UPDATES, Watch};
use crate::value::GRAD_NEUTRAL;
use crate::wgsl::Given;

/// Groups, compiled, and what decides on their steps.
#[derive(Debug)]
pub(crate) struct Set {
    pub(crate) gpu: Gpu,
    pub(crate) groups: Groups,
    pub(crate) gradients: Gradients,
    pub(crate) guard: Option<Guard>,
    /// The number of steps recorded.
    pub(crate) t: u64,
    /// One for each unit of the groups.
    pub(crate) cores: Vec<Core>,
    pub(crate) tensors: Vec<Placed>,
    watched: bool,
}

impl Set {
    /// Sorts tensors into groups and classes, and compiles.
    pub(crate) async fn new(
        setup: &Setup,
        gpu: &Gpu,
        owner: Owner,
        capacity: usize,
    ) -> Result<Self> {
        gpu.check_alive()?;
        let groups = setup.assign()?;
        let watch = if setup.watch { Watch::Updates } else { Watch::Nothing };
        let core = |u: &Unit| Core::new(gpu, u.optimizer.recipe(), watch, owner);
        let mut cores: Vec<_> = groups.units.iter().map(core).collect();
        for t in &groups.tensors {
            let Some(unit) = t.unit else { continue };
            let seen = cores[unit].classes.expect(&t.info.shape, t.layout, capacity);
            seen.map_err(|e| e.of("tensor", &t.info.name))?;
        }
        let given = match owner {
            Owner::Library => Given::Apart,
            Owner::Other => Given::Pooled,
        };
        let mut tensors = Vec::new();
        for t in &groups.tensors {
            let Some(unit) = t.unit else {
                tensors.push(Placed::FROZEN);
                continue;
            };
            let (optimizer, shape) = (&groups.units[unit].optimizer, &t.info.shape);
            let made = cores[unit].class(optimizer, shape, t.layout, given, capacity).await;
            let (class, dims) = made.map_err(|e| e.of("tensor", &t.info.name))?;
            tensors.push(Placed { dims, class: Some((unit, class)) });
        }
        let (gpu, gradients) = (gpu.clone(), setup.gradients.clone());
        Ok(Self { gpu, groups, gradients, guard: None, t: 0, cores, tensors, watched: setup.watch })
    }

    /// Checks hyper-parameters and computes the constants of the next step.
    pub(crate) fn constants(&mut self, micro: f64, constants: &mut [f32]) -> Result<()> {
        self.groups.schedule(self.t)?;
        let t = self.t.saturating_add(1);
        // The guard overwrites them on the device.
        let grad = self.gradients.fixed(micro);
        for (core, unit) in self.cores.iter_mut().zip(&self.groups.units) {
            core.classes.constants(&unit.optimizer, t, grad, constants);
        }
        if let Some(guard) = &mut self.guard {
            guard.controls.micro = micro;
            guard.flat.core.classes.constants(&guard.controls, t, GRAD_NEUTRAL, constants);
        }
        Ok(())
    }

    pub(crate) async fn outcome(&self) -> Result<Outcome> {
        let Some(guard) = &self.guard else {
            let loss_scale = self.gradients.loss_scale.initial();
            return Ok(Outcome::unguarded(loss_scale));
        };
        Ok(Outcome {
            skipped: guard.flat.number(DECISION[0]).await? == 0.0,
            grad_norm: Some(guard.flat.number("grad_norm").await?),
            clip_factor: guard.flat.number("clip_factor").await?,
            loss_scale: guard.flat.number("loss_scale").await?,
            not_finite: None,
        })
    }

    pub(crate) async fn skipped(&self) -> Result<u64> {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        match &self.guard {
            Some(guard) => Ok(guard.flat.number("skipped").await? as u64),
            None => Ok(0),
        }
    }

    pub(crate) fn guard_dispatches(&self) -> usize {
        self.guard.as_ref().map_or(0, |g| g.flat.calls.len())
    }

    pub(crate) fn plan(&self, key: Key<'_>) -> Result<&Plan> {
        let (index, unit) = self.groups.active(key)?;
        let class = self.tensors[index].class.map_or(0, |c| c.1);
        Ok(&self.cores[unit].classes[class].plan)
    }

    /// The class of a tensor that is not frozen.
    fn class(&self, tensor: &Placed) -> Option<&Class> {
        let (unit, class) = tensor.class?;
        Some(&self.cores[unit].classes[class])
    }

    pub(crate) fn state_bytes(&self) -> usize {
        let used = self.tensors.iter().filter(|t| !t.dims.is_empty());
        used.filter_map(|t| Some(4 * t.dims.state_len(&self.class(t)?.plan.graph))).sum()
    }

    /// What the state takes; `spare`: the copy by way of which averages are swapped.
    pub(crate) fn memory(&self, spare: Option<&wgpu::Buffer>, sums: bool) -> Memory {
        let active = |i: usize| self.tensors[i].class.is_some();
        let bytes = spare.map_or(0, |s| usize::try_from(s.size()).unwrap_or(usize::MAX));
        Memory::new(&self.outline(spare.is_some()), 4, active, sums, bytes)
    }

    /// Refuses more elements than what sees all of them as one vector can count.
    pub(crate) fn check_total(&self, what: &str, remedy: &str) -> Result<()> {
        let lens = self.tensors.iter().filter(|t| t.class.is_some()).map(|t| t.dims.len());
        crate::blueprint::check_total(lens, what, remedy)
    }

    pub(crate) fn check_watched(&self) -> Result<()> {
        if self.watched { Ok(()) } else { Err(not_watched()) }
    }

    /// The name of a tensor and what a step did to it, by the small values of its group and its place
    /// there. None: it is frozen.
    pub(crate) fn stats_of(
        &self,
        index: usize,
        place: Option<(&Group, usize, &State)>,
    ) -> Result<Option<(&str, Stats)>> {
        let Some((unit, class)) = self.tensors[index].class else { return Ok(None) };
        let core = &self.cores[unit];
        let mut reports = Vec::new();
        if let Some((group, k, state)) = place {
            for slot in core.classes[class].plan.graph.watched_slots() {
                let values = group.slot_of(core, k, slot.name, state)?;
                reports.push((slot.name, values.first().copied().unwrap_or(0.0).into()));
            }
        }
        let of = |name| reports.iter().find(|r| r.0 == name).map_or(0.0, |r| r.1);
        let stats = Stats::new(UPDATES.map(of), reports.iter().copied());
        Ok(Some((self.groups.tensors[index].info.name.as_str(), stats)))
    }

    /// What a snapshot has, without values.
    pub(crate) fn outline(&self, averaged: bool) -> Snapshot {
        let classes = |u: usize| &self.cores[u].classes;
        let guarded = self.guard.is_some();
        outline(&self.groups, self.t, classes, &self.tensors, averaged, guarded)
    }

    /// Fills in what the guard remembers.
    pub(crate) async fn read_numbers(&self, snapshot: &mut Snapshot) -> Result<()> {
        if let Some(guard) = &self.guard {
            for (name, value) in &mut snapshot.numbers {
                *value = guard.flat.number(name).await?;
            }
        }
        Ok(())
    }

    /// Overwrites what the guard remembers.
    pub(crate) fn write_numbers(&self, snapshot: &Snapshot) -> Result<()> {
        let Some(guard) = &self.guard else { return Ok(()) };
        snapshot.numbers.iter().try_for_each(|(name, &value)| guard.flat.set_number(name, value))
    }
}
