//! The tensors of a model, by name, and the groups into which they fall.
//!
//! A [`Setup`] says which tensors there are, which optimizer each group of them has, and what is
//! done to gradients. It is checked once, when it becomes a
//! [`CpuOptimizer`](crate::CpuOptimizer) or, on the GPU, a `GpuOptimizer` or a `GpuForeign`.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use crate::cpu::many::AVERAGED;
use crate::decimal::plain;
use crate::definition::{Optimizer, Recipe};
use crate::error::{Error, Result};
use crate::gradients::{Accumulation, Average, FOLLOWED, Gradients};
use crate::layout::{Layout, element_count};
use crate::schedule::Schedule;
use crate::snapshot::{GroupState, Snapshot, TensorState};
use crate::text::{extents, joined};
use crate::trace::Kind;
use crate::value::GRAD;

/// A tensor by its number, so that no name is looked up: see [`Groups::id`]. It is the same in all sets
/// of a setup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TensorId(pub(crate) usize);

impl TensorId {
    /// Its place in the order of registration, from 0.
    #[must_use]
    pub fn index(self) -> usize {
        self.0
    }
}

/// A tensor by name or by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// By name.
    Name(&'a str),
    /// By number.
    Id(TensorId),
}

impl<'a> From<&'a str> for Key<'a> {
    fn from(name: &'a str) -> Self {
        Self::Name(name)
    }
}

impl<'a> From<&'a String> for Key<'a> {
    fn from(name: &'a String) -> Self {
        Self::Name(name)
    }
}

impl From<TensorId> for Key<'_> {
    fn from(id: TensorId) -> Self {
        Self::Id(id)
    }
}

/// A tensor as it was registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().fold(1, |n, &d| n.saturating_mul(d))
    }

    /// True for a tensor without elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Which tensors: by name, rank, size, or any test of your own.
#[derive(Clone)]
pub struct Select(Arc<Rule>);

type Test = dyn Fn(&TensorInfo) -> bool + Send + Sync;

enum Rule {
    All,
    /// A test and how it reads.
    Test(String, Box<Test>),
    And(Select, Select),
    Or(Select, Select),
    Not(Select),
}

fn range_text(range: &impl RangeBounds<usize>) -> String {
    let from = match range.start_bound() {
        Bound::Included(&n) => n,
        Bound::Excluded(&n) => n.saturating_add(1),
        Bound::Unbounded => 0,
    };
    match range.end_bound() {
        Bound::Unbounded => format!("at least {from}"),
        Bound::Included(&n) if n == from => format!("{n}"),
        Bound::Included(&n) => format!("from {from} to {n}"),
        Bound::Excluded(&n) if n == from.saturating_add(1) => format!("{from}"),
        Bound::Excluded(&n) => format!("from {from} to less than {n}"),
    }
}

impl Select {
    fn of(rule: Rule) -> Self {
        Self(Arc::new(rule))
    }

    /// Every tensor.
    #[must_use]
    pub fn all() -> Self {
        Self::of(Rule::All)
    }

    /// Tensors that `test` holds for; `text` says in a listing what that is.
    pub fn test(
        text: impl Into<String>,
        test: impl Fn(&TensorInfo) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self::of(Rule::Test(text.into(), Box::new(test)))
    }

    /// Tensors of so many dimensions: `Select::rank(2..)`.
    pub fn rank(range: impl RangeBounds<usize> + Send + Sync + 'static) -> Self {
        let text = format!("its rank is {}", range_text(&range));
        Self::test(text, move |t| range.contains(&t.shape.len()))
    }

    /// Tensors of so many elements.
    pub fn size(range: impl RangeBounds<usize> + Send + Sync + 'static) -> Self {
        let text = format!("its size is {}", range_text(&range));
        Self::test(text, move |t| range.contains(&t.len()))
    }

    /// Tensors of exactly these names.
    pub fn names<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        let list = joined(names.iter().map(String::as_str), ", ");
        let text = format!("its name is one of {list}");
        Self::test(text, move |t| names.contains(&t.name))
    }

    /// Tensors whose whole name matches a glob: `*` is anything, `?` one character, `[ab]` a choice,
    /// `{a,b}` alternatives. A `*` goes over dots and slashes.
    ///
    /// # Errors
    /// [`Error::Setup`] for a glob that is not valid.
    #[cfg(feature = "patterns")]
    pub fn glob(glob: &str) -> Result<Self> {
        let made = globset::Glob::new(glob).map_err(|e| pattern("glob", glob, &e))?;
        let matcher = made.compile_matcher();
        let text = format!("its name matches `{glob}`");
        Ok(Self::test(text, move |t| matcher.is_match(&t.name)))
    }

    /// Tensors in whose name a regular expression is found; `^` and `$` bind it to the ends.
    ///
    /// # Errors
    /// [`Error::Setup`] for an expression that is not valid.
    #[cfg(feature = "patterns")]
    pub fn regex(regex: &str) -> Result<Self> {
        let made =
            regex::Regex::new(regex).map_err(|e| pattern("regular expression", regex, &e))?;
        let text = format!("its name matches /{regex}/");
        Ok(Self::test(text, move |t| made.is_match(&t.name)))
    }

    /// Tensors that both select.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self::of(Rule::And(self, other))
    }

    /// Tensors that one of both selects.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self::of(Rule::Or(self, other))
    }

    /// Tensors that this does not select.
    #[must_use]
    #[allow(clippy::should_implement_trait, reason = "it reads as `and` and `or` do")]
    pub fn not(self) -> Self {
        Self::of(Rule::Not(self))
    }

    /// Whether it selects a tensor.
    #[must_use]
    pub fn selects(&self, tensor: &TensorInfo) -> bool {
        match &*self.0 {
            Rule::All => true,
            Rule::Test(_, test) => test(tensor),
            Rule::And(a, b) => a.selects(tensor) && b.selects(tensor),
            Rule::Or(a, b) => a.selects(tensor) || b.selects(tensor),
            Rule::Not(a) => !a.selects(tensor),
        }
    }
}

#[cfg(feature = "patterns")]
fn pattern(what: &str, text: &str, error: &dyn fmt::Display) -> Error {
    Error::Setup {
        what: format!("the {what} `{text}`"),
        problem: error.to_string(),
        remedy: "correct it".into(),
    }
}

impl fmt::Display for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Rule::All => f.write_str("it takes every tensor"),
            Rule::Test(text, _) => f.write_str(text),
            Rule::And(a, b) => write!(f, "{a} and {b}"),
            Rule::Or(a, b) => write!(f, "({a} or {b})"),
            Rule::Not(a) => write!(f, "not ({a})"),
        }
    }
}

impl fmt::Debug for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Select({self})")
    }
}

/// An optimizer that a group holds: any that is `Clone + Send + Sync`.
#[allow(unnameable_types, reason = "a bound of `Group::new`, met by a blanket implementation")]
pub trait Settings: Optimizer + Send + Sync {
    /// A copy.
    fn boxed(&self) -> Box<dyn Settings>;
}

impl<O: Optimizer + Clone + Send + Sync + 'static> Settings for O {
    fn boxed(&self) -> Box<dyn Settings> {
        Box::new(self.clone())
    }
}

/// A function of the number of steps before.
#[derive(Clone)]
struct Rate(Arc<dyn Fn(u64) -> f64 + Send + Sync>);

impl fmt::Debug for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rate")
    }
}

/// Tensors that are treated alike: one optimizer with one set of hyper-parameters.
#[derive(Clone)]
pub struct Group {
    name: String,
    select: Select,
    optimizer: Option<Arc<dyn Settings>>,
    lr_factor: f64,
    schedules: Vec<(String, Rate)>,
    undecayed: Option<Select>,
    layout: Option<Layout>,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheduled: Vec<_> = self.schedules.iter().map(|s| &s.0).collect();
        f.debug_struct("Group")
            .field("name", &self.name)
            .field("select", &self.select)
            .field("optimizer", &self.optimizer)
            .field("lr_factor", &self.lr_factor)
            .field("scheduled", &scheduled)
            .finish_non_exhaustive()
    }
}

impl Group {
    /// A group of every tensor that no group before it has taken.
    pub fn new(name: impl Into<String>, optimizer: impl Settings + 'static) -> Self {
        Self { optimizer: Some(Arc::new(optimizer)), ..Self::frozen(name) }
    }

    /// A group whose tensors are never changed.
    pub fn frozen(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            select: Select::all(),
            optimizer: None,
            lr_factor: 1.0,
            schedules: Vec::new(),
            undecayed: None,
            layout: None,
        }
    }

    /// Takes the tensors that `select` selects, of those that no group before it has taken.
    #[must_use]
    pub fn of(mut self, select: Select) -> Self {
        self.select = select;
        self
    }

    /// Multiplies `lr`, scheduled or not, by this factor.
    #[must_use]
    pub fn lr_factor(mut self, factor: f64) -> Self {
        self.lr_factor = factor;
        self
    }

    /// Sets a hyper-parameter before each step to what a schedule gives for the number of steps
    /// before it.
    #[must_use]
    pub fn schedule(self, hyper: impl Into<String>, schedule: Schedule) -> Self {
        self.schedule_with(hyper, move |step| schedule.at(step))
    }

    /// Sets a hyper-parameter before each step to what a function of the number of steps before it
    /// gives: `f(0)` at the first.
    #[must_use]
    pub fn schedule_with(
        mut self,
        hyper: impl Into<String>,
        f: impl Fn(u64) -> f64 + Send + Sync + 'static,
    ) -> Self {
        self.schedules.push((hyper.into(), Rate(Arc::new(f))));
        self
    }

    /// Leaves weight decay out for those of its tensors that `select` selects.
    #[must_use]
    pub fn without_decay(mut self, select: Select) -> Self {
        self.undecayed = Some(select);
        self
    }

    /// Sees its tensors by this layout, where they are not registered with one of their own.
    #[must_use]
    pub fn layout(mut self, layout: Layout) -> Self {
        self.layout = Some(layout);
        self
    }
}

/// What happens in a step to a tensor for which no gradient is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Missing {
    /// The step fails, and names the tensor.
    #[default]
    Error,
    /// The tensor and its state stay as they are. The step number goes on.
    Skip,
}

/// Tensors, groups, and what is done to gradients.
///
/// ```
/// use gradstep::optim::{AdamW, Came};
/// use gradstep::{Cpu, Gradients, Group, Select, Setup};
///
/// let setup = Setup::new()
///     .tensor("embed", [6, 4])
///     .tensor("layer.weight", [4, 4])
///     .tensor("layer.bias", [4])
///     .group(Group::new("matrices", Came::new(1e-3)).of(Select::rank(2..)))
///     .group(Group::new("others", AdamW::new(1e-3)))
///     .gradients(Gradients::new().clip_norm(1.0));
/// let mut optimizer = setup.cpu::<f32>(&Cpu::default())?;
/// println!("{}", optimizer.groups());
///
/// let (mut embed, mut weight, mut bias) = ([0.1; 24], [0.2; 16], [0.0; 4]);
/// let mut step = optimizer.begin();
/// step.tensor("embed", &mut embed, &[0.3; 24])?;
/// step.tensor("layer.weight", &mut weight, &[0.1; 16])?;
/// step.tensor("layer.bias", &mut bias, &[0.5; 4])?;
/// let outcome = step.finish()?;
/// assert!(!outcome.skipped && outcome.grad_norm > Some(1.0));
/// # Ok::<(), gradstep::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Setup {
    tensors: Vec<(TensorInfo, Option<Layout>)>,
    groups: Vec<Group>,
    pub(crate) gradients: Gradients,
    pub(crate) average: Option<Average>,
    pub(crate) missing: Missing,
    pub(crate) accumulation: Option<Accumulation>,
    pub(crate) watch: bool,
    #[cfg(feature = "gpu")]
    pub(crate) in_place: bool,
}

impl Setup {
    /// No tensors and no groups.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a tensor, with the layout of its group. The first one has number 0.
    #[must_use]
    pub fn tensor(mut self, name: impl Into<String>, shape: impl AsRef<[usize]>) -> Self {
        let info = TensorInfo { name: name.into(), shape: shape.as_ref().to_vec() };
        self.tensors.push((info, None));
        self
    }

    /// Registers a tensor with a layout of its own.
    #[must_use]
    pub fn tensor_with(
        mut self,
        name: impl Into<String>,
        shape: impl AsRef<[usize]>,
        layout: Layout,
    ) -> Self {
        let info = TensorInfo { name: name.into(), shape: shape.as_ref().to_vec() };
        self.tensors.push((info, Some(layout)));
        self
    }

    /// Registers many tensors.
    #[must_use]
    pub fn tensors<N: Into<String>, S: AsRef<[usize]>>(
        self,
        tensors: impl IntoIterator<Item = (N, S)>,
    ) -> Self {
        tensors.into_iter().fold(self, |this, (name, shape)| this.tensor(name, shape))
    }

    /// Adds a group. Each tensor falls into the first group that selects it.
    #[must_use]
    pub fn group(mut self, group: Group) -> Self {
        self.groups.push(group);
        self
    }

    /// What is done to gradients.
    #[must_use]
    pub fn gradients(mut self, gradients: Gradients) -> Self {
        self.gradients = gradients;
        self
    }

    /// Keeps an average of the parameters.
    #[must_use]
    pub fn average(mut self, average: Average) -> Self {
        self.average = Some(average);
        self
    }

    /// What happens to a tensor without a gradient.
    #[must_use]
    pub fn missing(mut self, missing: Missing) -> Self {
        self.missing = missing;
        self
    }

    /// Keeps sums of gradients, so that a step may follow several micro-batches.
    #[must_use]
    pub fn accumulate(mut self, accumulation: Accumulation) -> Self {
        self.accumulation = Some(accumulation);
        self
    }

    /// Makes statistics of each step: see [`Stats`](crate::report::Stats).
    ///
    /// It adds no trip through memory. On the GPU it adds a dispatch for each optimizer, kind of
    /// tensor and step at most; nothing is read back before it is asked for.
    #[must_use]
    pub fn watch(mut self) -> Self {
        self.watch = true;
        self
    }

    /// Measures gradients in the caller's own buffers on a GPU ([`gpu_foreign`](Self::gpu_foreign)) where
    /// they lie, and copies none of them.
    ///
    /// Clipping by the norm, the test for finite gradients and the dynamic loss scale take three
    /// dispatches a step at most, whatever the number of tensors, up to twelve bindings' worth of gradients
    /// (400 million parameters by WebGPU's default limits), and above that as few as can be: one, and one
    /// for each six bindings' worth. A device that binds more or larger buffers takes as much fewer.
    /// For more than twelve tensors that takes copies: all gradients but the largest are copied together
    /// in each step before they are measured, which takes 4 bytes a parameter, and the buffers of these
    /// gradients need the usage `COPY_SRC`. A tensor that is skipped ([`Missing::Skip`]) counts as zeros.
    ///
    /// With this there are no copies, and one dispatch for all and one for each six tensors: up to twelve
    /// tensors it is the same.
    ///
    /// Norms may differ in their last places between the two, since sums are made in another order. Nothing
    /// is copied where nothing is measured. The other kinds of sets never copy gradients.
    #[cfg(feature = "gpu")]
    #[must_use]
    pub fn measure_in_place(mut self) -> Self {
        self.in_place = true;
        self
    }

    /// Sorts tensors into groups, and checks everything that needs no backend.
    pub(crate) fn assign(&self) -> Result<Groups> {
        self.gradients.check()?;
        self.average.map_or(Ok(()), Average::check)?;
        for (info, _) in &self.tensors {
            element_count(&info.shape).map_err(|e| e.of("tensor", &info.name))?;
        }
        let name = |i: usize| self.tensors[i].0.name.as_str();
        let mut by_name: Vec<usize> = (0..self.tensors.len()).collect();
        by_name.sort_unstable_by(|&a, &b| name(a).cmp(name(b)).then(a.cmp(&b)));
        let twice = by_name.windows(2).filter(|pair| name(pair[0]) == name(pair[1]));
        // That of the one which comes first.
        if let Some(pair) = twice.min_by_key(|pair| pair[1]) {
            let (first, i) = (pair[0], pair[1]);
            return Err(Error::Setup {
                what: format!("tensor `{}`", name(i)),
                problem: format!("its name is given to tensors {first} and {i}"),
                remedy: "give each a name of its own".into(),
            });
        }
        for (i, group) in self.groups.iter().enumerate() {
            let fail = |problem: String, remedy: &str| {
                let what = format!("group `{}`", group.name);
                Err(Error::Setup { what, problem, remedy: remedy.into() })
            };
            if self.groups[..i].iter().any(|g| g.name == group.name) {
                return fail("there are two of this name".into(), "give each a name of its own");
            }
            if !(group.lr_factor >= 0.0 && group.lr_factor.is_finite()) {
                let problem = format!("its lr_factor is {}", plain(group.lr_factor));
                return fail(problem, "it must be finite and not negative");
            }
            let Some(optimizer) = &group.optimizer else {
                if !group.schedules.is_empty() {
                    return fail("it is frozen and has schedules".into(), "leave them out");
                }
                continue;
            };
            optimizer.check().map_err(|e| e.of("group", &group.name))?;
            if let Some(name) = reserved(&**optimizer) {
                let problem = format!("its definition has a `{name}`, as the library has");
                return fail(problem, "give it another name");
            }
            let lacks = |names: &[&str]| names.iter().all(|n| optimizer.hyper(n).is_none());
            if group.lr_factor != 1.0 && lacks(&["lr"]) {
                let factor = plain(group.lr_factor);
                let problem = format!("its lr_factor is {factor}, but it has no `lr`");
                return fail(problem, "leave the factor out");
            }
            if group.undecayed.is_some() && lacks(&DECAYS) {
                let problem = format!("it has none of {} to leave out", joined(DECAYS, ", "));
                return fail(problem, "drop `without_decay`");
            }
            for (k, (hyper, rate)) in group.schedules.iter().enumerate() {
                if group.schedules[..k].iter().any(|s| s.0 == *hyper) {
                    let problem = format!("`{hyper}` has two schedules");
                    return fail(problem, "join them into one");
                }
                // (`optimizer.boxed()` would box another handle to the shared one, which cannot be set.)
                if !(**optimizer).boxed().set_hyper(hyper, rate.0(0)) {
                    return fail(
                        format!("it has no number `{hyper}` that a schedule could set"),
                        "use the name of one of its optimizer's hyper-parameters",
                    );
                }
            }
        }
        let mut groups = Groups {
            tensors: Vec::new(),
            by_name,
            names: self.groups.iter().map(|g| g.name.clone()).collect(),
            units: Vec::new(),
        };
        for (info, layout) in &self.tensors {
            let found = self.groups.iter().position(|g| g.select.selects(info));
            let Some(group) = found else {
                return Err(Error::Setup {
                    what: format!("tensor `{}` of shape {}", info.name, extents(&info.shape)),
                    problem: format!("none of {} groups takes it", self.groups.len()),
                    remedy: "add a last group without `of`, or a frozen one".into(),
                });
            };
            let of = &self.groups[group];
            let undecayed = of.undecayed.as_ref().filter(|s| s.selects(info));
            let unit = of.optimizer.as_ref().map(|optimizer| {
                let decays = undecayed.is_none();
                let same = |u: &Unit| u.group == group && u.optimizer.decays == decays;
                groups.units.iter().position(same).unwrap_or_else(|| {
                    groups.units.push(Unit {
                        group,
                        recipe: optimizer.recipe(),
                        optimizer: Tuned {
                            inner: (**optimizer).boxed(),
                            lr_factor: of.lr_factor,
                            decays,
                        },
                        schedules: of.schedules.clone(),
                    });
                    groups.units.len() - 1
                })
            });
            groups.tensors.push(Assigned {
                info: info.clone(),
                layout: layout.or(of.layout).unwrap_or_default(),
                group,
                unit,
                why: of.select.to_string(),
                undecayed: undecayed.map(ToString::to_string),
            });
        }
        Ok(groups)
    }
}

/// What `without_decay` leaves out.
const DECAYS: [&str; 2] = ["weight_decay", "decoupled_weight_decay"];

/// A slot or hyper-parameter of a definition whose name means something else in a set.
fn reserved(optimizer: &dyn Settings) -> Option<&'static str> {
    let hyper = GRAD.into_iter().find(|name| optimizer.hyper(name).is_some());
    let slot = || {
        let graphs = [Kind::Vector, Kind::Matrix].map(|kind| optimizer.recipe().trace(kind));
        let slots = graphs.iter().flatten().flat_map(|g| &g.slots);
        slots.map(|s| s.name).find(|name| [AVERAGED, FOLLOWED].contains(name))
    };
    hyper.or_else(slot)
}

/// The settings of a group's optimizer with what the group changes of them.
#[derive(Debug)]
pub(crate) struct Tuned {
    inner: Box<dyn Settings>,
    lr_factor: f64,
    decays: bool,
}

impl Optimizer for Tuned {
    fn hyper(&self, name: &str) -> Option<f64> {
        let value = self.inner.hyper(name)?;
        Some(match name {
            "lr" => value * self.lr_factor,
            _ if !self.decays && DECAYS.contains(&name) => 0.0,
            _ => value,
        })
    }

    fn set_hyper(&mut self, name: &str, value: f64) -> bool {
        self.inner.set_hyper(name, value)
    }

    fn initial(&self, slot: &str) -> Option<f64> {
        self.inner.initial(slot)
    }

    fn recipe(&self) -> Recipe {
        self.inner.recipe()
    }

    fn check(&self) -> Result<()> {
        self.inner.check()
    }
}

/// Tensors of one group with the same hyper-parameters.
#[derive(Debug)]
pub(crate) struct Unit {
    pub(crate) group: usize,
    pub(crate) optimizer: Tuned,
    recipe: Recipe,
    schedules: Vec<(String, Rate)>,
}

impl Unit {
    /// The hyper-parameters that schedules set.
    #[cfg(feature = "export")]
    pub(crate) fn scheduled(&self) -> impl Iterator<Item = &str> {
        self.schedules.iter().map(|s| s.0.as_str())
    }

    /// Sets what is scheduled for the step after `steps` others, and checks everything.
    pub(crate) fn schedule(&mut self, steps: u64) -> Result<()> {
        for (hyper, rate) in &self.schedules {
            self.optimizer.set_hyper(hyper, rate.0(steps));
        }
        self.optimizer.check()?;
        let recipe = self.optimizer.recipe();
        if recipe == self.recipe {
            return Ok(());
        }
        Err(Error::Structure {
            optimizer: self.recipe.name(),
            what: format!("its settings now select {}", recipe.name()),
        })
    }
}

/// A tensor and where it fell.
#[derive(Clone, Debug)]
pub(crate) struct Assigned {
    pub(crate) info: TensorInfo,
    pub(crate) layout: Layout,
    pub(crate) group: usize,
    /// None if it is frozen.
    pub(crate) unit: Option<usize>,
    why: String,
    undecayed: Option<String>,
}

/// Which tensor fell into which group, and why. Printable.
#[derive(Debug)]
pub struct Groups {
    pub(crate) tensors: Vec<Assigned>,
    /// The numbers of the tensors in the order of their names.
    by_name: Vec<usize>,
    pub(crate) names: Vec<String>,
    pub(crate) units: Vec<Unit>,
}

impl Groups {
    /// The number of a tensor.
    #[must_use]
    pub fn id(&self, name: &str) -> Option<TensorId> {
        let of = |&i: &usize| self.tensors[i].info.name.as_str().cmp(name);
        self.by_name.binary_search_by(of).ok().map(|place| TensorId(self.by_name[place]))
    }

    /// The tensors, in the order of their registration.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.tensors.iter().map(|t| &t.info)
    }

    /// The name of the group of a tensor, and why it is there.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor that was not registered.
    pub fn of<'k>(&self, tensor: impl Into<Key<'k>>) -> Result<(&str, &str)> {
        let tensor = &self.tensors[self.find(tensor.into())?];
        Ok((&self.names[tensor.group], &tensor.why))
    }

    pub(crate) fn find(&self, key: Key<'_>) -> Result<usize> {
        let found = match key {
            Key::Name(name) => self.id(name).map(TensorId::index),
            Key::Id(id) => Some(id.0),
        };
        found.filter(|&i| i < self.tensors.len()).ok_or_else(|| Error::Tensor {
            tensor: match key {
                Key::Name(name) => name.to_string(),
                Key::Id(id) => format!("number {}", id.0),
            },
            problem: format!("is none of the {} registered", self.tensors.len()),
            remedy: "register it in the setup",
        })
    }

    /// As `find`, for a tensor that a step changes: also its unit.
    pub(crate) fn active(&self, key: Key<'_>) -> Result<(usize, usize)> {
        let index = self.find(key)?;
        match self.tensors[index].unit {
            Some(unit) => Ok((index, unit)),
            None => Err(Error::Tensor {
                tensor: self.tensors[index].info.name.clone(),
                problem: format!("is frozen by group `{}`", self.names[self.tensors[index].group]),
                remedy: "leave it out of steps",
            }),
        }
    }

    pub(crate) fn schedule(&mut self, steps: u64) -> Result<()> {
        let names = &self.names;
        let mut units = self.units.iter_mut();
        units.try_for_each(|u| u.schedule(steps).map_err(|e| e.of("group", &names[u.group])))
    }

    /// The state of all groups and tensors at a step, without slots. `hypers` names those that a
    /// unit's definition asks for.
    pub(crate) fn snapshot(
        &self,
        step: u64,
        hypers: impl Fn(usize) -> Vec<&'static str>,
    ) -> Snapshot {
        let group = |(g, name): (usize, &String)| {
            let unit = self.units.iter().position(|u| u.group == g);
            let inner = unit.map(|u| &self.units[u].optimizer.inner);
            let names = unit.map(&hypers).unwrap_or_default();
            let mut values = BTreeMap::new();
            for name in names {
                if let Some(value) = inner.and_then(|o| o.hyper(name)) {
                    values.insert(name.to_string(), value);
                }
            }
            GroupState {
                name: name.clone(),
                optimizer: inner.map(|o| o.recipe().name().to_string()).unwrap_or_default(),
                hypers: values,
            }
        };
        let tensor = |t: &Assigned| TensorState {
            name: t.info.name.clone(),
            group: t.group,
            shape: t.info.shape.clone(),
            param: None,
            slots: Vec::new(),
        };
        Snapshot {
            step,
            groups: self.names.iter().enumerate().map(group).collect(),
            tensors: self.tensors.iter().map(tensor).collect(),
            numbers: BTreeMap::new(),
        }
    }

    fn group(&self, name: &str) -> Result<usize> {
        self.names.iter().position(|n| n == name).ok_or_else(|| Error::Setup {
            what: format!("group `{name}`"),
            problem: format!("there are {}", joined(self.names.iter().map(String::as_str), ", ")),
            remedy: "use one of these names".into(),
        })
    }

    /// A hyper-parameter of a group, with its factor.
    ///
    /// # Errors
    /// [`Error::Setup`] for a group or a hyper-parameter that does not exist, or a group without
    /// tensors that change.
    pub fn hyper(&self, group: &str, name: &str) -> Result<f64> {
        let index = self.group(group)?;
        let unit = self.units.iter().find(|u| u.group == index && u.optimizer.decays);
        let unit = unit.or_else(|| self.units.iter().find(|u| u.group == index));
        unit.and_then(|u| u.optimizer.hyper(name)).ok_or_else(|| no_hyper(group, name))
    }

    /// Sets a hyper-parameter of a group, in effect from the next step on. What is scheduled is set
    /// by its schedule again.
    ///
    /// # Errors
    /// [`Error::Setup`] for a group or a hyper-parameter that does not exist or cannot be set.
    pub fn set_hyper(&mut self, group: &str, name: &str, value: f64) -> Result<()> {
        let index = self.group(group)?;
        let mut set = false;
        for unit in self.units.iter_mut().filter(|u| u.group == index) {
            set |= unit.optimizer.set_hyper(name, value);
        }
        if set { Ok(()) } else { Err(no_hyper(group, name)) }
    }

    /// Sets the hyper-parameters of all groups to those of a snapshot. What is scheduled is set by its
    /// schedule again.
    ///
    /// # Errors
    /// [`Error::Snapshot`] that lists each group that does not exist, and each hyper-parameter that
    /// does not, cannot be set, or is out of range; nothing has changed then.
    pub fn apply_hypers(&mut self, snapshot: &Snapshot) -> Result<()> {
        let mut problems = Vec::new();
        let mut set: Vec<_> = self.units.iter().map(|u| (*u.optimizer.inner).boxed()).collect();
        for GroupState { name: group, hypers, .. } in &snapshot.groups {
            let Some(g) = self.names.iter().position(|n| n == group) else {
                problems.push(format!("group `{group}` is unexpected"));
                continue;
            };
            let units = || (0..self.units.len()).filter(|&u| self.units[u].group == g);
            for (name, &value) in hypers {
                let is = |x: f64| x.to_bits() == value.to_bits();
                let mut takes =
                    |u: usize| set[u].hyper(name).is_some_and(is) || set[u].set_hyper(name, value);
                // No unit is left out.
                if units().filter(|&u| takes(u)).count() < units().count().max(1) {
                    problems.push(format!("group `{group}` has no number `{name}`"));
                }
            }
            let wrong = units().find_map(|u| set[u].check().err());
            problems.extend(wrong.map(|e| format!("group `{group}`: {e}")));
        }
        if !problems.is_empty() {
            return Err(Error::Snapshot { problems });
        }
        self.units.iter_mut().zip(set).for_each(|(unit, inner)| unit.optimizer.inner = inner);
        Ok(())
    }
}

fn no_hyper(group: &str, name: &str) -> Error {
    Error::Setup {
        what: format!("group `{group}`"),
        problem: format!("it has no number `{name}`"),
        remedy: "use the name of one of its optimizer's hyper-parameters, and a group that is \
                 neither frozen nor empty"
            .into(),
    }
}

impl fmt::Display for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.tensors.iter().map(|t| t.info.name.chars().count()).max().unwrap_or(0);
        for (g, name) in self.names.iter().enumerate() {
            let mut tensors = self.tensors.iter().filter(|t| t.group == g).peekable();
            let unit = self.units.iter().find(|u| u.group == g);
            let optimizer = match (unit, tensors.peek()) {
                (Some(unit), _) => unit.recipe.name(),
                (None, Some(_)) => "frozen",
                (None, None) => "no tensors",
            };
            writeln!(f, "{name}: {optimizer}")?;
            for t in tensors {
                let (shape, layout) = (extents(&t.info.shape), t.layout);
                write!(f, "  {:width$}  {shape:14} {layout:?}: {}", t.info.name, t.why)?;
                match &t.undecayed {
                    Some(why) => writeln!(f, "; no weight decay: {why}")?,
                    None => writeln!(f)?,
                }
            }
        }
        Ok(())
    }
}
