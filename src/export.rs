//! A whole step as data: WGSL texts and a JSON layout from which any program with a WebGPU device can
//! run it, in any language, without this library.
//!
//! wgpu cannot adopt a device or buffers that belong to a page, to Dawn, or to another version of
//! wgpu. So what the GPU backend would do is written down instead, from the same structures that the
//! backend is made of:
//! ```
//! use gradstep::export::Limits;
//! use gradstep::{Gradients, Group, Setup, optim::Came};
//!
//! let setup = Setup::new()
//!     .tensor("w", [6, 4])
//!     .group(Group::new("all", Came::new(1e-3)))
//!     .gradients(Gradients::new().clip_norm(1.0));
//! let mut export = setup.export(Limits::default())?;
//! let plan = export.json();
//! assert!(plan["modules"][0]["code"].as_str().unwrap().contains("fn sweep_1("));
//! assert_eq!(plan["tensors"][0]["slots"][0]["name"], "exp_avg_sq_row");
//! // The constants of each step can be had from here, too, …
//! let words = export.begin_step()?;
//! assert_eq!(words.len() as u64 * 4, plan["buffers"][0]["bytes"]);
//! # Ok::<(), gradstep::Error>(())
//! ```
//! … or be computed by whoever reads the plan, from the expressions that it contains.
//!
//! Each parameter and each gradient lies in a buffer of its own, from its first byte on. Everything is
//! `f32`, little-endian. Tensors whose columns (of a vector: elements) four divide are taken four columns
//! at once, the others one: a module for each, where there are both.
//!
//! # The plan
//!
//! | key | meaning |
//! |---|---|
//! | `format`, `version` | `"gradstep plan"`, 1 |
//! | `modules` | WGSL: `name`, `code`, and `bindings` of group 0 for every entry point, each with `binding` and `type` (`uniform`, `storage`, `read-only-storage`). Make the bind group layout of them: no entry point uses all |
//! | `buffers` | what to allocate. `role`: `constants`, `window`, `table`, `state`, `sum`, `spare`, `unused` are yours; `param` and `grad` are those of `tensor`, which exist already. `bytes`, `usage` (WebGPU's names), and `init`: nothing (zeros), `{"u32": [..]}`, `{"f32": x}` (everywhere), or `{"runs": [[first, count, x], ..]}` of floats among zeros |
//! | `binds` | bind groups: `module`, and `entries` with `binding`, `buffer`, `offset`, `size` in bytes. Where gradients are measured, one holds those of several tensors |
//! | `step` | what one step does, in order. `{"dispatch": {"module", "entry", "bind", "groups": [x, y]}}`, or `{"copy": {"from", "from_offset", "to", "to_offset", "size"}}` |
//! | `constants` | how the constants of a step are computed, see below |
//! | `tensors` | `name`, `shape`, `group`; where it is not frozen also `param` and `grad` (buffers) and `slots`: `name`, `shape`, `initial`, and `places`, each the `elements` `[from, to)` of the slot in a `buffer` at an `offset` |
//! | `guard` | where gradients are clipped by norm or tested: `buffer` and `offset` of each of its numbers. `go` is 0 after a step that was skipped |
//! | `accumulate` | with [`Setup::accumulate`]: `micro`, what one micro-batch does, a list like `step`; and `kind`, `mean` or `sum`. A step then takes the sums, not the gradients |
//! | `average` | with [`Setup::average`]: `follow`, what comes after `step`, with the same constants, from the step numbered `from` on; and `swap`, which exchanges parameters and averages. Averages are among the `slots` of each tensor |
//!
//! # Constants
//!
//! Before each step, buffer 0 is written: for each entry of `constants`, `words` from the byte `at`
//! on. A word is the number of a node in `program`, a list of which each node depends on those before it
//! only, and is computed in `f64`, rounded to `f32` once and clamped to finite numbers. `op` is one of
//!
//! | op | value |
//! |---|---|
//! | `literal` | `value` |
//! | `hyper` | the hyper-parameter `name`; what it is at the first step is in `hypers`. Those in `scheduled` change from step to step |
//! | `step` | the number of the step, from 1 on |
//! | `neg`, `sqrt`, `rsqrt`, `abs`, `sign` | of `args[0]`; `rsqrt` is 1/√x |
//! | `finite` | 1 where `args[0]` is finite, else 0 |
//! | `add`, `sub`, `mul`, `div`, `pow` | of `args[0]` and `args[1]` |
//! | `min`, `max` | the lesser, the greater of both |
//! | `differ` | 1 where both are different, else 0 |
//! | `select` | `args[2]` where `args[0] < args[1]`, else `args[3]` |
//!
//! Numbers that JSON does not have are the strings `inf`, `-inf` and `nan`. A skipped step counts.
//!
//! With `accumulate` they are written before each micro-batch, too: `first` is 1 in the first one of a
//! step, else 0. Where `kind` is `mean`, those of a step after n of them have n for `micro`, n times
//! `grad_min` and `grad_max`, and `grad_scale` divided by n. `swap` needs those of any step.

use std::ops::Range;
use std::sync::Arc;

use crate::blueprint::{
    self, AsOne, Bind, Call, Class, Classes, FOUR, Found, Image, Owner, Placed, Stretch, bound,
};
use crate::cpu::many::{AVERAGED, no_average, not_begun};
use crate::cut::{Layouts, Piece};
use crate::definition::Optimizer;
use crate::error::{Error, Result};
use crate::gradients::{
    Accumulation, Average, Between, Controls, DECISION, FOLLOWED, First, Gradients,
};
use crate::json::{Json, Writer};
use crate::layout::{Dims, Layout};
use crate::plan::Plan;
use crate::setup::{Groups, Missing, Setup};
use crate::snapshot::{Snapshot, Values};
use crate::trace::{Kind, Op, Watch};
use crate::value::{Binary, GRAD_NEUTRAL, Shape, Unary};
use crate::wgsl::{self, Form, Given, Program};

/// The version of the format.
pub const VERSION: u32 = 1;

/// Limits of the device that is to run a plan, by WebGPU's names. The defaults are those that every
/// device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "a plan depends on nothing else of a device")]
pub struct Limits {
    /// `maxStorageBufferBindingSize`, or `maxBufferSize` if that is less.
    pub max_storage_buffer_binding_size: u64,
    /// `maxStorageBuffersPerShaderStage`.
    pub max_storage_buffers_per_shader_stage: u32,
    /// `maxComputeWorkgroupsPerDimension`.
    pub max_compute_workgroups_per_dimension: u32,
    /// `minStorageBufferOffsetAlignment`.
    pub min_storage_buffer_offset_alignment: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_storage_buffer_binding_size: 128 << 20,
            max_storage_buffers_per_shader_stage: 8,
            max_compute_workgroups_per_dimension: 65_535,
            min_storage_buffer_offset_alignment: 256,
        }
    }
}

/// A set of tensors whose steps somebody else runs: the plan, the constants of each step, and what is
/// remembered between steps on the host.
#[derive(Debug)]
pub struct Export {
    groups: Groups,
    gradients: Gradients,
    /// For each unit of the groups.
    classes: Vec<Classes<()>>,
    tensors: Vec<Placed>,
    members: Vec<Option<Member>>,
    guard: Option<Guard>,
    sums: Option<Sums>,
    average: Option<Averages>,
    device: Device,
    constants: Vec<f32>,
    t: u64,
}

/// A tensor that is not frozen.
#[derive(Debug)]
struct Member {
    param: usize,
    grad: usize,
    /// None without elements.
    state: Option<State>,
    /// None without averages or elements.
    followed: Option<Followed>,
}

/// The average of a parameter: its buffer, and where the number of steps in it lies.
#[derive(Debug)]
struct Followed {
    buffer: usize,
    state: State,
}

/// Sums of gradients of micro-batches.
#[derive(Debug)]
struct Sums {
    kind: Accumulation,
    classes: Classes<()>,
    micro: Vec<Command>,
    /// How many gradients are in them.
    count: u32,
}

/// Averages of the parameters.
#[derive(Debug)]
struct Averages {
    kind: Average,
    classes: Classes<()>,
    /// The same, to begin averages that no step has begun.
    fill: Classes<()>,
    follow: Vec<Command>,
    swap: Vec<Command>,
    /// Whether a step that counts was begun. The device may have skipped it.
    begun: bool,
    swapped: bool,
}

/// Where the state of a group of tensors lies.
#[derive(Debug)]
struct State {
    layouts: Layouts,
    small: usize,
    /// Of each chunk, the buffers of full-size slots.
    slots: Vec<Vec<usize>>,
}

/// A tensor as something steps it.
#[derive(Debug)]
struct Made {
    state: State,
    commands: Vec<Command>,
}

#[derive(Debug)]
struct Guard {
    classes: Classes<()>,
    controls: Controls,
    state: State,
}

/// What is on the device.
#[derive(Debug, Default)]
struct Device {
    limits: Limits,
    modules: Vec<Module>,
    buffers: Vec<Buffer>,
    binds: Vec<(usize, Vec<Entry>)>,
    step: Vec<Command>,
    /// Whether parameters are swapped with averages.
    swapped: bool,
}

#[derive(Debug)]
struct Module {
    name: String,
    program: Arc<Program>,
    bindings: Vec<(u32, Bind, u64)>,
}

#[derive(Debug)]
struct Buffer {
    label: String,
    role: Role,
    bytes: u64,
    init: Init,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Constants,
    Window,
    Table,
    State,
    Sum,
    Spare,
    Unused,
    /// Of a tensor.
    Param(usize),
    Grad(usize),
}

#[derive(Debug)]
enum Init {
    Zeros,
    Words(Vec<u32>),
    Everywhere(f64),
    Runs(Vec<f32>),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    binding: u32,
    buffer: usize,
    offset: u64,
    size: u64,
}

#[derive(Clone, Copy, Debug)]
enum Command {
    Dispatch { module: usize, pipeline: usize, bind: usize, groups: (u32, u32) },
    Copy { from: usize, from_offset: u64, to: usize, to_offset: u64, size: u64 },
}

impl Command {
    const fn copy(from: usize, to: usize, size: u64) -> Self {
        Self::Copy { from, from_offset: 0, to, to_offset: 0, size }
    }
}

/// The buffer of the constants.
const CONSTANTS: usize = 0;

/// A part of a buffer that is bound for a parameter or a gradient, and the word where it begins there.
type Part = (usize, u64, u64, u32);

/// What is bound of a chunk beside its table: the words of the uniform `window`, parameter and
/// gradients.
struct Lent {
    window: Vec<u32>,
    param: Option<Part>,
    grads: Vec<Part>,
}

impl Setup {
    /// Writes down how all tensors are stepped on a device with these limits, each parameter and each
    /// gradient in a buffer of its own.
    ///
    /// # Errors
    /// [`Error::Setup`] for what does not fit together, for statistics, which a plan does not have, and
    /// for tensors that may be left out of a step;
    /// [`Error::GpuLimit`], [`Error::TooLarge`] or [`Error::Definition`].
    pub fn export(&self, limits: Limits) -> Result<Export> {
        Export::new(self, limits)
    }
}

impl Export {
    fn new(setup: &Setup, limits: Limits) -> Result<Self> {
        for (there, what) in [
            (setup.watch, "statistics"),
            (setup.missing == Missing::Skip, "steps without some of the tensors"),
        ] {
            if there {
                return Err(Error::Setup {
                    what: what.into(),
                    problem: "an exported plan has none".into(),
                    remedy: "leave them out of the setup".into(),
                });
            }
        }
        let mut groups = setup.assign()?;
        let binding = limits.max_storage_buffer_binding_size;
        let alignment = limits.min_storage_buffer_offset_alignment.max(16).into();
        let capacity = blueprint::range_capacity(binding, alignment);
        let mut device = Device { limits, ..Device::default() };
        device.buffer("constants".into(), Role::Constants, 0, Init::Zeros);

        let of = |recipe| Classes::new(recipe, Watch::Nothing, Owner::Other);
        let mut classes: Vec<_> = groups.units.iter().map(|u| of(u.optimizer.recipe())).collect();
        let mut tensors = Vec::new();
        for t in &groups.tensors {
            let Some(unit) = t.unit else {
                tensors.push(Placed::FROZEN);
                continue;
            };
            let (optimizer, shape) = (&groups.units[unit].optimizer, &t.info.shape);
            let made = device.class(
                &mut classes[unit],
                optimizer,
                shape,
                t.layout,
                Given::Apart,
                capacity,
            );
            let (class, dims) = made.map_err(|e| e.of("tensor", &t.info.name))?;
            tensors.push(Placed { dims, class: Some((unit, class)) });
        }

        let lens = || tensors.iter().map(|t: &Placed| t.class.map(|_| t.dims.len()));
        let gradients = setup.gradients.clone();
        // What takes tensors as vectors depends on nothing of their lengths, but on whether four divide all.
        let even = lens().flatten().all(|len| len.is_multiple_of(FOUR));
        let vector = &[if even { FOUR } else { 1 }];
        let mut guard = None;
        if gradients.needs_all() {
            let what = "clipping by the norm and tests of gradients";
            let remedy = "leave them out, or make several sets of the tensors";
            blueprint::check_total(lens().flatten(), what, remedy)?;
            let controls = Controls::new(gradients.clone());
            let mut of_guard = of(controls.recipe());
            let lens: Vec<_> = lens().map(|len| len.unwrap_or(0)).collect();
            let all = AsOne::in_place(&lens, capacity);
            let given = all.given(limits.max_storage_buffers_per_shader_stage);
            device.class(&mut of_guard, &controls, vector, Layout::Vector, given, capacity)?;
            guard = Some((controls, of_guard, all));
        }
        let mut flat = |optimizer: &dyn Optimizer| {
            let (mut classes, layout) = (of(optimizer.recipe()), Layout::Vector);
            device.class(&mut classes, optimizer, vector, layout, Given::Apart, capacity)?;
            Ok::<_, Error>(classes)
        };
        let mut sums = match setup.accumulation {
            Some(kind) => {
                let (classes, micro) = (flat(&First(true))?, Vec::new());
                Some(Sums { kind, classes, micro, count: 0 })
            }
            None => None,
        };
        let mut average = match setup.average {
            Some(kind) => Some(Averages {
                kind,
                classes: flat(&kind)?,
                fill: flat(&Between(kind))?,
                follow: Vec::new(),
                swap: Vec::new(),
                begun: false,
                swapped: false,
            }),
            None => None,
        };
        device.swapped = average.is_some();
        let more = sums.iter_mut().map(|s| &mut s.classes);
        let more = more.chain(average.iter_mut().flat_map(|a| [&mut a.classes, &mut a.fill]));
        let all = classes.iter_mut().chain(guard.as_mut().map(|g| &mut g.1)).chain(more);
        let words = blueprint::place_constants(all);
        device.buffers[CONSTANTS].bytes = words as u64 * 4;

        // Parameters and gradients.
        let mut given = Vec::new();
        for (i, (t, info)) in tensors.iter().zip(&groups.tensors).enumerate() {
            let (name, bytes) = (&info.info.name, t.dims.len() as u64 * 4);
            given.push(t.class.map(|_| {
                let mut make =
                    |what, role| device.buffer(format!("{what} {name}"), role, bytes, Init::Zeros);
                let (param, grad) = (make("param", Role::Param(i)), make("grad", Role::Grad(i)));
                let sum = sums.is_some().then(|| make("sum", Role::Sum));
                // What a step takes comes before what is given.
                (param, sum.unwrap_or(grad), grad)
            }));
        }

        let guard = match guard {
            Some((controls, of_guard, all)) => {
                let grads: Vec<_> = given.iter().map(|g| g.map(|g| g.1)).collect();
                let state = device.guard(&of_guard, &all, &grads)?;
                let graph = &of_guard[0].plan.graph;
                let go = graph.slots.iter().position(|s| s.name == DECISION[0]).unwrap_or(0);
                let places = &of_guard[0].program.places;
                let from_offset = blueprint::small_slot(places, &state.layouts, 0, go) as u64 * 4;
                let followers = classes.iter().chain(average.iter().map(|a| &a.classes));
                for (to_offset, size) in followers.flat_map(Classes::decided) {
                    let (from, to) = (state.small, CONSTANTS);
                    device.step.push(Command::Copy { from, from_offset, to, to_offset, size });
                }
                Some(Guard { classes: of_guard, controls, state })
            }
            None => None,
        };

        let mut members = Vec::new();
        let mut spare = None;
        for (i, (t, given)) in tensors.iter().zip(given).enumerate() {
            let (Some((unit, class)), Some((param, used, grad))) = (t.class, given) else {
                members.push(None);
                continue;
            };
            let mut member = Member { param, grad, state: None, followed: None };
            if !t.dims.is_empty() {
                let name = &groups.tensors[i].info.name;
                let of = &classes[unit];
                let step = device.member(name, of, class, t.dims, capacity, (param, used))?;
                device.step.extend(step.commands);
                member.state = Some(step.state);
                let (flat, _) = Layout::Vector.resolve(First(true).recipe(), &[t.dims.len()])?;
                if let Some(sums) = &mut sums {
                    let of = &sums.classes;
                    let made = device.member(name, of, 0, flat, capacity, (used, grad))?;
                    sums.micro.extend(made.commands);
                }
                if let Some(average) = &mut average {
                    let bytes = device.buffers[param].bytes;
                    let label = format!("average {name}");
                    let buffer = device.buffer(label, Role::State, bytes, Init::Zeros);
                    let of = &average.classes;
                    let made = device.member(name, of, 0, flat, capacity, (buffer, param))?;
                    average.swap.extend(device.again(&made.commands, average.fill.offset(0)));
                    let spare = *spare.get_or_insert_with(|| {
                        device.buffer("spare".into(), Role::Spare, 0, Init::Zeros)
                    });
                    device.buffers[spare].bytes = device.buffers[spare].bytes.max(bytes);
                    for (from, to) in [(param, spare), (buffer, param), (spare, buffer)] {
                        average.swap.push(Command::copy(from, to, bytes));
                    }
                    average.follow.extend(made.commands);
                    member.followed = Some(Followed { buffer, state: made.state });
                }
            }
            members.push(Some(member));
        }
        groups.schedule(0)?;
        let constants = vec![0.0; words];
        Ok(Self {
            groups,
            gradients,
            classes,
            tensors,
            members,
            guard,
            sums,
            average,
            device,
            constants,
            t: 0,
        })
    }

    /// The plan, as told [above](self).
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let mut out = Writer::default();
        self.write(&mut out);
        self.constants_json(out.key("constants"));
        out.end_object();
        Json::parse(&out.finish()).map_or(serde_json::Value::Null, Into::into)
    }

    /// The plan as a text, without `constants`: for who takes those of each step from
    /// [`begin_step`](Self::begin_step).
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = Writer::default();
        self.write(&mut out);
        out.end_object();
        out.finish()
    }

    /// The plan without `constants`, its end left open.
    fn write(&self, out: &mut Writer) {
        out.object();
        out.key("format").text("gradstep plan");
        out.key("version").whole(VERSION.into());
        out.key("modules").list();
        self.device.modules.iter().for_each(|m| m.json(out));
        out.end_list();
        out.key("buffers").list();
        self.device.buffers.iter().for_each(|b| b.json(out, self.device.swapped));
        out.end_list();
        out.key("binds").list();
        self.device.binds.iter().for_each(|b| bind_json(out, b));
        out.end_list();
        self.device.commands(out.key("step"), &self.device.step);
        out.key("tensors").list();
        (0..self.tensors.len()).for_each(|i| self.tensor_json(out, i));
        out.end_list();
        self.guard_json(out.key("guard"));
        match &self.sums {
            Some(sums) => {
                out.key("accumulate").object();
                out.key("kind").text(match sums.kind {
                    Accumulation::Mean => "mean",
                    Accumulation::Sum => "sum",
                });
                self.device.commands(out.key("micro"), &sums.micro);
                out.end_object();
            }
            None => out.key("accumulate").null(),
        }
        match &self.average {
            Some(average) => {
                out.key("average").object();
                out.key("from").whole(average.kind.first());
                self.device.commands(out.key("follow"), &average.follow);
                self.device.commands(out.key("swap"), &average.swap);
                out.end_object();
            }
            None => out.key("average").null(),
        }
    }

    /// The constants of the next step, which is counted from now on: the words of buffer 0.
    ///
    /// # Errors
    /// [`Error::In`] for a hyper-parameter out of its range, [`Error::Structure`]; [`Error::Setup`] with
    /// [`Setup::accumulate`], see [`begin_micro`](Self::begin_micro), and while averages are swapped
    /// in. Nothing is counted then.
    pub fn begin_step(&mut self) -> Result<&[f32]> {
        if self.sums.is_some() {
            return Err(Error::Setup {
                what: "this step".into(),
                problem: "it follows micro-batches".into(),
                remedy: "begin the last of them with `begin_micro`, and the step with it".into(),
            });
        }
        self.step_constants(1.0)?;
        Ok(&self.constants)
    }

    /// The constants of the next micro-batch, which is counted from now on: the words of buffer 0. With
    /// the `last` one a step begins, whose constants they are, too: `accumulate.micro` of the plan is
    /// done, and then `step`.
    ///
    /// # Errors
    /// As for [`begin_step`](Self::begin_step); [`Error::Setup`] without [`Setup::accumulate`].
    pub fn begin_micro(&mut self, last: bool) -> Result<&[f32]> {
        self.check_swapped()?;
        let Some(sums) = &self.sums else {
            return Err(Error::Setup {
                what: "accumulation".into(),
                problem: "this setup keeps no sums".into(),
                remedy: "ask for them with `Setup::accumulate`".into(),
            });
        };
        let (before, count) = (sums.count, sums.count.saturating_add(1));
        if last {
            self.step_constants(sums.kind.divisor(count))?;
        }
        if let Some(sums) = &mut self.sums {
            let first = First(before == 0);
            sums.classes.constants(dynamic(&first), 1, GRAD_NEUTRAL, &mut self.constants);
            sums.count = if last { 0 } else { count };
        }
        Ok(&self.constants)
    }

    fn step_constants(&mut self, micro: f64) -> Result<()> {
        self.check_swapped()?;
        self.groups.schedule(self.t)?;
        let t = self.t.saturating_add(1);
        // The guard overwrites them on the device.
        let grad = self.gradients.fixed(micro);
        for (classes, unit) in self.classes.iter_mut().zip(&self.groups.units) {
            classes.constants(dynamic(&unit.optimizer), t, grad, &mut self.constants);
        }
        if let Some(guard) = &mut self.guard {
            guard.controls.micro = micro;
            let controls = dynamic(&guard.controls);
            guard.classes.constants(controls, t, GRAD_NEUTRAL, &mut self.constants);
        }
        if let Some(average) = &mut self.average {
            let kind = dynamic(&average.kind);
            average.classes.constants(kind, t, GRAD_NEUTRAL, &mut self.constants);
            average.begun |= average.kind.counts(t);
        }
        self.t = t;
        Ok(())
    }

    /// Whether averages follow the step that was begun last: `average.follow` of the plan is done after
    /// it.
    #[must_use]
    pub fn follows(&self) -> bool {
        self.average.as_ref().is_some_and(|a| a.kind.counts(self.t))
    }

    /// The constants with which `average.swap` of the plan is done now. A second time it swaps back. No
    /// step is taken in between. As long as the device has skipped every step, an average is the
    /// parameter.
    ///
    /// # Errors
    /// [`Error::Setup`] without [`Setup::average`] or before the first step that counts.
    pub fn begin_swap(&mut self) -> Result<&[f32]> {
        let average = self.average.as_mut().ok_or_else(no_average)?;
        if !average.begun {
            return Err(not_begun());
        }
        let fill = Between(average.kind);
        average.fill.constants(dynamic(&fill), 1, GRAD_NEUTRAL, &mut self.constants);
        average.swapped = !average.swapped;
        Ok(&self.constants)
    }

    fn check_swapped(&self) -> Result<()> {
        match &self.average {
            Some(average) if average.swapped => Err(Error::Setup {
                what: "the parameters".into(),
                problem: "their averages are swapped in for them".into(),
                remedy: "swap them back first".into(),
            }),
            _ => Ok(()),
        }
    }

    fn check_settled(&self) -> Result<()> {
        self.check_swapped()?;
        match self.pending() {
            0 => Ok(()),
            n => Err(Error::Setup {
                what: "the sums of gradients".into(),
                problem: format!("they hold {n} micro-batches that no step has used"),
                remedy: "finish the step first".into(),
            }),
        }
    }

    /// Micro-batches since the last step.
    #[must_use]
    pub fn pending(&self) -> u32 {
        self.sums.as_ref().map_or(0, |s| s.count)
    }

    /// Forgets the micro-batches since the last step: the next one is the first again.
    pub fn discard_micro(&mut self) {
        if let Some(sums) = &mut self.sums {
            sums.count = 0;
        }
    }

    /// The number of steps begun.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.t
    }

    /// The groups, and which tensor is in which. Printable.
    #[must_use]
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// The groups, to change their hyper-parameters. The plan stays as it is, but for `hypers`.
    pub fn groups_mut(&mut self) -> &mut Groups {
        &mut self.groups
    }

    /// Bytes of the optimizer's state, averages and sums of gradients not counted.
    #[must_use]
    pub fn state_bytes(&self) -> usize {
        let bytes = |t: &Placed| {
            let (unit, class) = t.class.filter(|_| !t.dims.is_empty())?;
            Some(4 * t.dims.state_len(&self.classes[unit][class].plan.graph))
        };
        self.tensors.iter().filter_map(bytes).sum()
    }

    /// The buffers that a [`snapshot`](Self::snapshot) reads: state and parameters.
    pub fn state_buffers(&self) -> impl Iterator<Item = usize> {
        let is = |b: &Buffer| matches!(b.role, Role::State | Role::Param(_)) && b.bytes > 0;
        let buffers = self.device.buffers.iter().enumerate();
        buffers.filter(move |(_, b)| is(b)).map(|(i, _)| i)
    }

    /// Everything that is needed to go on from here, parameters included. `read` gives elements of a
    /// buffer as they are on the device.
    ///
    /// # Errors
    /// [`Error::Setup`] while averages are swapped in, or after micro-batches that no step has followed.
    pub fn snapshot(
        &self,
        mut read: impl FnMut(usize, Range<usize>) -> Vec<f32>,
    ) -> Result<Snapshot> {
        self.check_settled()?;
        let mut snapshot = self.outline();
        for (i, state) in snapshot.tensors.iter_mut().enumerate() {
            let Some(member) = &self.members[i] else { continue };
            let len = self.tensors[i].dims.len();
            let param = if len == 0 { Vec::new() } else { read(member.param, 0..len) };
            state.param = Some(Values::F32(param));
            for slot in &mut state.slots {
                let mut values = vec![0.0; slot.shape.iter().product()];
                for (buffer, at, to) in self.places(i, &slot.name) {
                    let n = to.len();
                    values[to].copy_from_slice(&read(buffer, at..at + n));
                }
                slot.values = Values::F32(values);
            }
        }
        if let Some(guard) = &self.guard {
            for (name, value) in &mut snapshot.numbers {
                for (buffer, at, _) in guard.state.places(&guard.classes[0], 0, name) {
                    *value = read(buffer, at..at + 1).first().map_or(f64::NAN, |&x| x.into());
                }
            }
        }
        Ok(snapshot)
    }

    /// Goes back to a snapshot, taken here or on another backend or precision. `write` is called for
    /// each stretch of a buffer that is to be overwritten from an element on; parameters are among
    /// them where the snapshot has them. Hyper-parameters stay as they are: see
    /// [`Groups::apply_hypers`].
    ///
    /// # Errors
    /// [`Error::Snapshot`] that lists all differences; nothing has changed then. [`Error::Setup`] as for
    /// [`snapshot`](Self::snapshot).
    pub fn restore(
        &mut self,
        snapshot: &Snapshot,
        mut write: impl FnMut(usize, usize, &[f32]),
    ) -> Result<()> {
        self.check_settled()?;
        snapshot.check(&self.outline())?;
        let mut begun = false;
        for state in &snapshot.tensors {
            let Some(id) = self.groups.id(&state.name) else { continue };
            let i = id.index();
            let Some(member) = &self.members[i] else { continue };
            if let Some(param) = state.param.as_ref().filter(|p| !p.is_empty()) {
                write(member.param, 0, &param.to::<f32>());
            }
            for slot in &state.slots {
                let values = slot.values.to::<f32>();
                begun |= slot.name == FOLLOWED && values.iter().any(|&n| n > 0.0);
                for (buffer, at, from) in self.places(i, &slot.name) {
                    write(buffer, at, &values[from]);
                }
            }
        }
        if let Some(guard) = &self.guard {
            for (name, &value) in &snapshot.numbers {
                for (buffer, at, _) in guard.state.places(&guard.classes[0], 0, name) {
                    #[allow(clippy::cast_possible_truncation, reason = "the device has f32")]
                    write(buffer, at, &[value as f32]);
                }
            }
        }
        if let Some(average) = &mut self.average {
            average.begun = begun;
        }
        self.t = snapshot.step;
        Ok(())
    }

    /// Where a slot of a tensor lies, as [`State::places`] has it; its average is one of them.
    fn places(&self, tensor: usize, name: &str) -> Vec<(usize, usize, Range<usize>)> {
        let (Some(member), Some((unit, class))) =
            (&self.members[tensor], self.tensors[tensor].class)
        else {
            return Vec::new();
        };
        match (name, &self.average, &member.followed, &member.state) {
            (AVERAGED, Some(_), Some(followed), _) => {
                vec![(followed.buffer, 0, 0..self.tensors[tensor].dims.len())]
            }
            (FOLLOWED, Some(average), Some(followed), _) => {
                followed.state.places(&average.classes[0], 0, FOLLOWED)
            }
            (.., Some(state)) => state.places(&self.classes[unit][class], 0, name),
            (.., None) => Vec::new(),
        }
    }

    fn outline(&self) -> Snapshot {
        let classes = |u: usize| &self.classes[u];
        let (averaged, guarded) = (self.average.is_some(), self.guard.is_some());
        blueprint::outline(&self.groups, self.t, classes, &self.tensors, averaged, guarded)
    }

    fn constants_json(&self, out: &mut Writer) {
        let grad = self.gradients.fixed(1.0);
        out.list();
        for (classes, unit) in self.classes.iter().zip(&self.groups.units) {
            for c in 0..classes.len() {
                class_constants(out, classes, c, &unit.optimizer, grad);
                out.key("group").text(&self.groups.names[unit.group]);
                out.key("scheduled").list();
                unit.scheduled().for_each(|name| out.text(name));
                out.end_list();
                out.end_object();
            }
        }
        if let Some(guard) = &self.guard {
            class_constants(out, &guard.classes, 0, &guard.controls, GRAD_NEUTRAL);
            out.end_object();
        }
        if let Some(sums) = &self.sums {
            class_constants(out, &sums.classes, 0, &First(true), GRAD_NEUTRAL);
            out.end_object();
        }
        if let Some(Averages { kind, classes, fill, .. }) = &self.average {
            class_constants(out, classes, 0, kind, GRAD_NEUTRAL);
            out.end_object();
            class_constants(out, fill, 0, &Between(*kind), GRAD_NEUTRAL);
            out.end_object();
        }
        out.end_list();
    }

    fn tensor_json(&self, out: &mut Writer, i: usize) {
        let assigned = &self.groups.tensors[i];
        out.object();
        out.key("name").text(&assigned.info.name);
        sizes(out.key("shape"), &assigned.info.shape);
        out.key("group").text(&self.groups.names[assigned.group]);
        if let (Some(member), Some((unit, class))) = (&self.members[i], self.tensors[i].class) {
            let (dims, class) = (self.tensors[i].dims, &self.classes[unit][class]);
            out.key("slots").list();
            let slots = class.plan.graph.own_slots().iter().map(|s| (s.name, s.shape, s.init));
            let more = [(AVERAGED, Shape::Full, 0.0), (FOLLOWED, Shape::Scalar, 0.0)];
            let more = more.into_iter().filter(|_| self.average.is_some());
            for (name, shape, initial) in slots.chain(more) {
                out.object();
                out.key("name").text(name);
                let shape = crate::snapshot::slot_shape(shape, &assigned.info.shape, dims);
                sizes(out.key("shape"), &shape);
                number(out.key("initial"), initial);
                out.key("places").list();
                self.places(i, name).into_iter().for_each(|p| place_json(out, p));
                out.end_list();
                out.end_object();
            }
            out.end_list();
            size(out.key("param"), member.param);
            size(out.key("grad"), member.grad);
        }
        out.end_object();
    }

    fn guard_json(&self, out: &mut Writer) {
        let Some(guard) = &self.guard else { return out.null() };
        let class = &guard.classes[0];
        out.object();
        for s in class.plan.graph.own_slots() {
            let Some(&(buffer, at, _)) = guard.state.places(class, 0, s.name).first() else {
                continue;
            };
            out.key(s.name).object();
            size(out.key("buffer"), buffer);
            size(out.key("offset"), at * 4);
            out.end_object();
        }
        out.end_object();
    }
}

impl State {
    /// Where a slot of a tensor lies: buffer, first element there, and elements of the slot.
    fn places(
        &self,
        class: &Class<()>,
        tensor: usize,
        name: &str,
    ) -> Vec<(usize, usize, Range<usize>)> {
        let graph = &class.plan.graph;
        let Some(slot) = graph.slots.iter().position(|s| s.name == name) else {
            return Vec::new();
        };
        if let Some(k) = graph.full_slots().position(|s| s == slot) {
            let place = |p: &Piece| (self.slots[p.chunk][k], p.at, p.elements.clone());
            return self.layouts.pieces[tensor].iter().map(place).collect();
        }
        let at = blueprint::small_slot(&class.program.places, &self.layouts, tensor, slot);
        let n = self.layouts.cuts[tensor].dims.count(graph.slots[slot].shape);
        vec![(self.small, at, 0..n)]
    }
}

impl Device {
    fn buffer(&mut self, label: String, role: Role, bytes: u64, init: Init) -> usize {
        self.buffers.push(Buffer { label, role, bytes, init });
        self.buffers.len() - 1
    }

    /// Finds or makes the class of a tensor.
    fn class(
        &mut self,
        classes: &mut Classes<()>,
        optimizer: &dyn Optimizer,
        shape: &[usize],
        layout: Layout,
        given: Given,
        capacity: usize,
    ) -> Result<(usize, Dims)> {
        let (dims, found) = classes.find(optimizer, shape, layout, capacity)?;
        let (plan, vectors) = match found {
            Found::Known(class) => return Ok((class, dims)),
            Found::New(plan, vectors) => (*plan, vectors),
        };
        let form = Form { given, vectors };
        let available = self.limits.max_storage_buffers_per_shader_stage;
        blueprint::check_storage_buffers(&plan, given, available)?;
        let program = wgsl::print_form(&plan, form)?;
        // Groups with one optimizer share its programs.
        let known = self.modules.iter().find(|m| m.program.source == program.source);
        let program = match known {
            Some(module) => module.program.clone(),
            None => {
                let bindings = blueprint::bindings(&plan, &program, form);
                let wide = plan.graph.kind == Kind::Matrix && !plan.fused;
                let name = format!(
                    "{} {}{}",
                    plan.graph.name,
                    plan.graph.kind,
                    if wide { " wide" } else { "" }
                );
                let program = Arc::new(program);
                self.modules.push(Module { name, program: program.clone(), bindings });
                program
            }
        };
        Ok((classes.add(plan, vectors, program, ()), dims))
    }

    fn module(&self, program: &Arc<Program>) -> usize {
        self.modules.iter().position(|m| Arc::ptr_eq(&m.program, program)).unwrap_or(0)
    }

    /// The buffers of what is cut, but for windows.
    fn state(&mut self, name: &str, plan: &Plan, image: &mut Image) -> (Vec<usize>, State) {
        let small = std::mem::take(&mut image.small);
        let bytes = small.len() as u64 * 4;
        let small = self.buffer(format!("small {name}"), Role::State, bytes, Init::Runs(small));
        let (mut tables, mut slots) = (Vec::new(), Vec::new());
        let list = std::mem::take(&mut image.tables);
        for (chunk, table) in image.layouts.chunks.iter().zip(list) {
            let bytes = table.len() as u64 * 4;
            let (label, init) = (format!("table {name}"), Init::Words(table));
            tables.push(self.buffer(label, Role::Table, bytes, init));
            let of_chunk = plan.graph.full_slots().map(|s| {
                let decl = &plan.graph.slots[s];
                let (label, bytes) = (format!("{} {name}", decl.name), chunk.len as u64 * 4);
                self.buffer(label, Role::State, bytes, Init::Everywhere(decl.init))
            });
            slots.push(of_chunk.collect());
        }
        let layouts = std::mem::take(&mut image.layouts);
        (tables, State { layouts, small, slots })
    }

    /// Binds a chunk.
    #[allow(clippy::too_many_arguments, reason = "everything that is bound")]
    fn bind(
        &mut self,
        name: &str,
        program: &Arc<Program>,
        constants: u64,
        table: usize,
        small: usize,
        slots: &[usize],
        Lent { window, param, grads }: Lent,
    ) -> usize {
        let bytes = window.len() as u64 * 4;
        let (label, words) = (format!("window {name}"), Init::Words(window));
        let window = self.buffer(label, Role::Window, bytes, words);
        let module = self.module(program);
        let whole = |buffer: usize| (buffer, 0, self.buffers[buffer].bytes.max(16));
        let entries = self.modules[module].bindings.iter().filter_map(|&(binding, what, bytes)| {
            let (buffer, offset, size) = match what {
                Bind::Hosts => (CONSTANTS, constants, bytes),
                Bind::Window => whole(window),
                Bind::Table => whole(table),
                Bind::Small => whole(small),
                Bind::Param => param.map(|p| (p.0, p.1, p.2))?,
                Bind::Grad(k) => grads.get(k).map(|g| (g.0, g.1, g.2))?,
                Bind::Slot(k) => whole(slots[k]),
            };
            Some(Entry { binding, buffer, offset, size })
        });
        let entries = entries.collect();
        self.binds.push((module, entries));
        self.binds.len() - 1
    }

    /// The part of a buffer with these elements.
    fn part(&self, buffer: usize, elements: &Range<usize>) -> Part {
        let alignment = self.limits.min_storage_buffer_offset_alignment.max(16).into();
        let (from, upto) = (elements.start as u64 * 4, elements.end as u64 * 4);
        let (offset, size, base) = bound(from, upto, alignment);
        (buffer, offset, size, base)
    }

    /// A tensor with parameter and gradient in buffers of their own.
    fn member(
        &mut self,
        name: &str,
        classes: &Classes<()>,
        index: usize,
        dims: Dims,
        capacity: usize,
        (param, grad): (usize, usize),
    ) -> Result<Made> {
        let Class { plan, program, vectors, .. } = &classes[index];
        let form = Form { given: Given::Apart, vectors: *vectors };
        let mut layouts = Layouts::default();
        layouts.push(plan, &program.places, dims, capacity);
        let binding = self.limits.max_storage_buffer_binding_size;
        let mut image = Image::new(&plan.graph, &program.places, layouts, binding)?;
        let (tables, state) = self.state(name, plan, &mut image);
        let mut binds = Vec::new();
        // A group of one tensor: each chunk holds one piece of it.
        for piece in &state.layouts.pieces[0] {
            let c = piece.chunk;
            let (p, g) = (self.part(param, &piece.elements), self.part(grad, &piece.elements));
            let mut window = image.windows[c].to_vec();
            (window[0], window[1]) = (form.at(p.3), form.at(g.3));
            let lent = Lent { window, param: Some(p), grads: vec![g] };
            let (constants, slots) = (classes.offset(index), &state.slots[c]);
            binds.push(self.bind(name, program, constants, tables[c], state.small, slots, lent));
        }
        let limit = self.limits.max_compute_workgroups_per_dimension;
        let module = self.module(program);
        let calls = blueprint::calls(&program.dispatches, &image.windows, limit).into_iter();
        let command = |Call { pipeline, chunk, groups }| Command::Dispatch {
            module,
            pipeline,
            bind: binds[chunk],
            groups,
        };
        Ok(Made { commands: calls.map(command).collect(), state })
    }

    /// The same dispatches with the constants that lie at `offset`.
    fn again(&mut self, commands: &[Command], offset: u64) -> Vec<Command> {
        let mut known: Vec<(usize, usize)> = Vec::new();
        let mut other = |bind: usize| {
            if let Some(&(_, made)) = known.iter().find(|k| k.0 == bind) {
                return made;
            }
            let (module, entries) = &self.binds[bind];
            let entries = entries.iter().map(|e| match e.buffer {
                CONSTANTS => Entry { offset, ..*e },
                _ => *e,
            });
            let made = (*module, entries.collect());
            self.binds.push(made);
            known.push((bind, self.binds.len() - 1));
            self.binds.len() - 1
        };
        let again = |command: &Command| match *command {
            Command::Dispatch { module, pipeline, bind, groups } => {
                Command::Dispatch { module, pipeline, bind: other(bind), groups }
            }
            copy @ Command::Copy { .. } => copy,
        };
        commands.iter().map(again).collect()
    }

    /// What measures all gradients, and decides.
    fn guard(
        &mut self,
        classes: &Classes<()>,
        all: &AsOne,
        grads: &[Option<usize>],
    ) -> Result<State> {
        const NAME: &str = "guard";
        let Class { plan, program, vectors, .. } = &classes[0];
        let given = all.given(self.limits.max_storage_buffers_per_shader_stage);
        let form = Form { given, vectors: *vectors };
        let layouts = all.layouts(&program.places, given);
        let binding = self.limits.max_storage_buffer_binding_size;
        let mut image = Image::new(&plan.graph, &program.places, layouts, binding)?;
        let (tables, state) = self.state(NAME, plan, &mut image);
        let mut none = None;
        let mut binds = Vec::new();
        for (c, &chunk) in image.windows.iter().enumerate() {
            let part = |k: usize| match all.stretches.get(c * given.grads() + k)? {
                Stretch::InPlace(tensor, elements) => Some(self.part(grads[*tensor]?, elements)),
                // Nothing is copied.
                Stretch::Page(_) => None,
            };
            let parts: Vec<_> = (0..given.grads()).map(part).collect();
            let bases = parts.iter().map(|p| Some(form.at(p.as_ref()?.3)));
            let window = blueprint::several(chunk, bases);
            let mut unused = || {
                let make = || self.buffer("unused".into(), Role::Unused, 16, Init::Zeros);
                (*none.get_or_insert_with(make), 0, 16, 0)
            };
            let grads = parts.into_iter().map(|p| p.unwrap_or_else(&mut unused)).collect();
            let lent = Lent { window, param: None, grads };
            let (constants, slots) = (classes.offset(0), &state.slots[c]);
            binds.push(self.bind(NAME, program, constants, tables[c], state.small, slots, lent));
        }
        let limit = self.limits.max_compute_workgroups_per_dimension;
        let module = self.module(program);
        for Call { pipeline, chunk, groups } in
            blueprint::calls(&program.dispatches, &image.windows, limit)
        {
            self.step.push(Command::Dispatch { module, pipeline, bind: binds[chunk], groups });
        }
        Ok(state)
    }

    fn commands(&self, out: &mut Writer, list: &[Command]) {
        out.list();
        list.iter().for_each(|c| self.command(out, c));
        out.end_list();
    }

    fn command(&self, out: &mut Writer, command: &Command) {
        out.object();
        match *command {
            Command::Dispatch { module, pipeline, bind, groups } => {
                out.key("dispatch").object();
                size(out.key("module"), module);
                out.key("entry").text(self.modules[module].program.dispatches[pipeline].entry());
                size(out.key("bind"), bind);
                out.key("groups").wholes([groups.0.into(), groups.1.into()]);
            }
            Command::Copy { from, from_offset, to, to_offset, size: bytes } => {
                out.key("copy").object();
                size(out.key("from"), from);
                out.key("from_offset").whole(from_offset);
                size(out.key("to"), to);
                out.key("to_offset").whole(to_offset);
                out.key("size").whole(bytes);
            }
        }
        out.end_object();
        out.end_object();
    }
}

impl Module {
    fn json(&self, out: &mut Writer) {
        out.object();
        out.key("name").text(&self.name);
        out.key("code").text(&self.program.source);
        out.key("bindings").list();
        for &(binding, what, _) in &self.bindings {
            out.object();
            out.key("binding").whole(binding.into());
            out.key("type").text(match what {
                _ if what.is_uniform() => "uniform",
                _ if what.is_read_only() => "read-only-storage",
                _ => "storage",
            });
            out.end_object();
        }
        out.end_list();
        out.end_object();
    }
}

impl Buffer {
    fn json(&self, out: &mut Writer, swapped: bool) {
        let (role, usage) = match self.role {
            Role::Constants => ("constants", &["UNIFORM", "COPY_DST"][..]),
            Role::Window => ("window", &["UNIFORM", "COPY_DST"][..]),
            Role::Table => ("table", &["STORAGE", "COPY_DST"][..]),
            Role::State => ("state", &["STORAGE", "COPY_DST", "COPY_SRC"][..]),
            Role::Sum => ("sum", &["STORAGE"][..]),
            Role::Spare => ("spare", &["COPY_DST", "COPY_SRC"][..]),
            Role::Unused => ("unused", &["STORAGE"][..]),
            Role::Param(_) if swapped => ("param", &["STORAGE", "COPY_DST", "COPY_SRC"][..]),
            Role::Param(_) => ("param", &["STORAGE"][..]),
            Role::Grad(_) => ("grad", &["STORAGE"][..]),
        };
        let given = matches!(self.role, Role::Param(_) | Role::Grad(_));
        // WebGPU has no bindings of less.
        let bytes = if given { self.bytes } else { self.bytes.max(16) };
        out.object();
        out.key("label").text(&self.label);
        out.key("role").text(role);
        out.key("usage").list();
        usage.iter().for_each(|name| out.text(name));
        out.end_list();
        out.key("bytes").whole(bytes);
        if let Role::Param(tensor) | Role::Grad(tensor) = self.role {
            size(out.key("tensor"), tensor);
        }
        match &self.init {
            Init::Everywhere(x) if *x != 0.0 => {
                out.key("init").object();
                number(out.key("f32"), *x);
                out.end_object();
            }
            Init::Words(words) => {
                out.key("init").object();
                out.key("u32").wholes(words.iter().map(|&x| x.into()));
                out.end_object();
            }
            Init::Runs(values) if values.iter().any(|x| x.to_bits() != 0) => {
                out.key("init").object();
                out.key("runs").list();
                let mut at = 0;
                for run in values.chunk_by(|a, b| a.to_bits() == b.to_bits()) {
                    if run[0].to_bits() != 0 {
                        out.list();
                        size(out, at);
                        size(out, run.len());
                        number(out, run[0].into());
                        out.end_list();
                    }
                    at += run.len();
                }
                out.end_list();
                out.end_object();
            }
            _ => {}
        }
        out.end_object();
    }
}

fn bind_json(out: &mut Writer, (module, entries): &(usize, Vec<Entry>)) {
    out.object();
    size(out.key("module"), *module);
    out.key("entries").list();
    for e in entries {
        out.object();
        out.key("binding").whole(e.binding.into());
        size(out.key("buffer"), e.buffer);
        out.key("offset").whole(e.offset);
        out.key("size").whole(e.size);
        out.end_object();
    }
    out.end_list();
    out.end_object();
}

fn place_json(out: &mut Writer, (buffer, at, elements): (usize, usize, Range<usize>)) {
    out.object();
    size(out.key("buffer"), buffer);
    size(out.key("offset"), at * 4);
    sizes(out.key("elements"), &[elements.start, elements.end]);
    out.end_object();
}

fn size(out: &mut Writer, x: usize) {
    out.whole(x as u64);
}

fn sizes(out: &mut Writer, list: &[usize]) {
    out.wholes(list.iter().map(|&x| x as u64));
}

/// A number, or the name of one that JSON does not have.
fn number(out: &mut Writer, x: f64) {
    match x {
        x if x.is_finite() => out.number(x),
        x if x.is_nan() => out.text("nan"),
        x if x > 0.0 => out.text("inf"),
        _ => out.text("-inf"),
    }
}

/// So that what is generic is compiled once for all optimizers: a download is to be small.
fn dynamic(optimizer: &dyn Optimizer) -> &dyn Optimizer {
    optimizer
}

/// How the constants of a class are computed: an object, its end left open.
fn class_constants(
    out: &mut Writer,
    classes: &Classes<()>,
    index: usize,
    optimizer: &dyn Optimizer,
    grad: [f64; 3],
) {
    let Class { plan, program, .. } = &classes[index];
    let graph = &plan.graph;
    let place = |n: &usize| plan.host_program.iter().position(|m| m == n);
    let op = |out: &mut Writer, name: &str, args: &[usize]| {
        out.key("op").text(name);
        sizes(out.key("args"), &args.iter().filter_map(place).collect::<Vec<_>>());
    };
    let literal = |out: &mut Writer, x: f64| {
        out.key("op").text("literal");
        number(out.key("value"), x);
    };
    out.object();
    out.key("definition").text(graph.name);
    out.key("at").whole(classes.offset(index));
    out.key("hypers").object();
    for &name in &graph.hypers {
        number(out.key(name), crate::host::hyper(optimizer, grad, name));
    }
    out.end_object();
    out.key("program").list();
    for &n in &plan.host_program {
        out.object();
        match graph.nodes[n].op {
            Op::Literal(bits) => literal(out, f64::from_bits(bits)),
            Op::Hyper(h) => {
                out.key("op").text("hyper");
                out.key("name").text(graph.hypers[h]);
            }
            Op::StepNumber => out.key("op").text("step"),
            Op::Unary(of, a) => op(out, unary(of), &[a]),
            Op::Binary(of, a, b) => op(out, binary(of), &[a, b]),
            Op::Select(args) => op(out, "select", &args),
            // Nothing else has shape Host.
            _ => literal(out, f64::NAN),
        }
        out.end_object();
    }
    // Whether the step goes ahead; the guard overwrites it on the device.
    out.object();
    literal(out, 1.0);
    out.end_object();
    out.end_list();
    let words = [plan.host_program.len()].into_iter();
    sizes(
        out.key("words"),
        &words.chain(program.hosts.iter().filter_map(place)).collect::<Vec<_>>(),
    );
}

fn unary(op: Unary) -> &'static str {
    match op {
        Unary::Neg => "neg",
        Unary::Sqrt => "sqrt",
        Unary::Rsqrt => "rsqrt",
        Unary::Abs => "abs",
        Unary::Sign => "sign",
        Unary::Finite => "finite",
    }
}

fn binary(op: Binary) -> &'static str {
    match op {
        Binary::Add => "add",
        Binary::Sub => "sub",
        Binary::Mul => "mul",
        Binary::Div => "div",
        Binary::Min => "min",
        Binary::Max => "max",
        Binary::Differ => "differ",
        Binary::Pow => "pow",
    }
}
