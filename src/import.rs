//! The state of PyTorch's optimizers.
//!
//! A run that began with `torch.optim.AdamW` or `came_pytorch.CAME` goes on here as if nothing had
//! happened: same state, same step number. In Python, with the optimizer as it is:
//! ```python
//! import json, torch
//! from safetensors.torch import save_file
//!
//! def save_state(path, model, optimizer, step):
//!     names = {p: n for n, p in model.named_parameters()}
//!     tensors = {f"param/{n}": p.detach() for p, n in names.items()}
//!     for p, slots in optimizer.state.items():
//!         for slot, x in slots.items():
//!             if x is not None:
//!                 tensors[f"state/{names[p]}/{slot}"] = torch.as_tensor(x)
//!     groups = [g | {"params": [names[p] for p in g["params"]]} for g in optimizer.param_groups]
//!     kind = type(optimizer)
//!     metadata = {
//!         "optimizer": f"{kind.__module__}.{kind.__qualname__}",
//!         "settings": json.dumps(groups, default=float),
//!         "step": str(step),
//!     }
//!     save_file({k: x.contiguous() for k, x in tensors.items()}, path, metadata)
//! ```
//! Then here:
//! ```no_run
//! use gradstep::{Cpu, import::Torch};
//!
//! let bytes = std::fs::read("state.safetensors").unwrap();
//! let imported = Torch::read(&bytes)?;
//! let snapshot = imported.snapshot()?;
//! let mut optimizer = imported.setup().cpu::<f32>(&Cpu::default())?; // or a setup of your own
//! optimizer.restore(&snapshot)?;
//! // The parameters are there too, and belong to you:
//! let w = snapshot.tensor("layer.weight").and_then(|t| t.param.clone());
//! # Ok::<(), gradstep::Error>(())
//! ```
//!
//! # The file
//!
//! A safetensors file of F64, F32, F16 or BF16 tensors; the short ones are widened.
//!
//! | tensor | meaning |
//! |---|---|
//! | `param/<name>` | a parameter; it may be left out where its state tells its shape |
//! | `state/<name>/<slot>` | its state, by PyTorch's name of the slot |
//!
//! Others are ignored. The metadata: `optimizer`, a name or class that
//! [`reference`](mod@crate::reference) knows; `settings`, a JSON object of its keyword arguments, or a list of
//! such objects, one for each group, with the names of its tensors as `params`; `step`, the number of
//! steps taken, which counts only where the state has none (SGD and SM3).
//!
//! # What becomes of it
//!
//! Slots get the names and shapes of this library ([`slot_shape`]): `row_var` of shape
//! `[5, 3, 1]` becomes `exp_avg_sq_row` of shape `[5, 3]`. `step` becomes the one step number of the
//! snapshot; an optimizer here has no other, so that parameters at different steps are an error
//! (they have been without gradients at times, or were added later). CAME's and Adafactor's `RMS`,
//! which nothing reads, is left out.
//!
//! A tensor of SGD without a momentum buffer has not had a gradient yet. It begins with a momentum
//! of zero, which is the same unless there is dampening: then it is an error.

use std::collections::{BTreeMap, BTreeSet};

use safetensors::tensor::{Metadata, TensorView};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value as Json};

use crate::definition::Optimizer;
use crate::error::{Error, Result};
use crate::reference::Reference;
use crate::setup::{Group, Select, Setup};
use crate::snapshot::{GroupState, SlotState, Snapshot, TensorState, Values, slot_shape};
use crate::trace::Graph;
use crate::value::{GRAD, Shape};

/// What PyTorch calls the step number of a parameter.
const STEP: &str = "step";

/// The state of an optimizer of PyTorch, from the bytes of a safetensors file.
///
/// # Errors
/// [`Error::Import`] for a file that is not as described [above](self), with the tensor's name;
/// [`Error::NoOptimizer`] or [`Error::Setting`] for its metadata.
pub fn torch(bytes: &[u8]) -> Result<Snapshot> {
    Torch::read(bytes)?.snapshot()
}

/// A file of PyTorch's state.
#[derive(Debug)]
pub struct Torch<'a> {
    groups: Vec<TorchGroup>,
    tensors: Vec<TorchTensor<'a>>,
    /// The number of steps of the metadata.
    step: Option<u64>,
    /// How many bytes the file has.
    len: usize,
}

#[derive(Debug)]
struct TorchGroup {
    name: String,
    optimizer: Reference,
    /// The names of its tensors; all where there is one group and it has no list.
    params: Option<BTreeSet<String>>,
}

#[derive(Debug)]
struct TorchTensor<'a> {
    name: String,
    /// None: in no group, so it is frozen.
    group: Option<usize>,
    shape: Vec<usize>,
    param: Option<TensorView<'a>>,
    slots: BTreeMap<String, TensorView<'a>>,
}

/// What is known of a tensor before its group is.
#[derive(Default)]
struct Found<'a> {
    param: Option<TensorView<'a>>,
    slots: BTreeMap<String, TensorView<'a>>,
}

fn fail(what: impl Into<String>, problem: impl Into<String>, remedy: &'static str) -> Error {
    Error::Import { what: what.into(), problem: problem.into(), remedy }
}

/// How many bytes of values the header tells of; none where it cannot be read.
fn end_of_values(bytes: &[u8]) -> Option<usize> {
    let (len, rest) = bytes.split_first_chunk()?;
    let header = rest.get(..usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
    serde_json::from_slice::<Metadata>(header).ok().map(|header| header.data_len())
}

impl<'a> Torch<'a> {
    /// Reads a file. Its tensors are looked at, not copied.
    ///
    /// # Errors
    /// As for [`torch`].
    pub fn read(bytes: &'a [u8]) -> Result<Self> {
        let invalid = |e: safetensors::SafeTensorError| {
            fail("the file", format!("is no safetensors file: {e}"), "write it as documented")
        };
        // safetensors adds what follows a header to its length before it compares them with the file,
        // and that overflows where ranges end at the last address.
        if let Some(end) = end_of_values(bytes).filter(|&end| end > bytes.len()) {
            let problem = format!("tells of {end} bytes and has {}", bytes.len());
            return Err(fail("the file", problem, "write it as documented"));
        }
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(invalid)?;
        let file = SafeTensors::deserialize(bytes).map_err(invalid)?;
        let metadata = header.metadata().clone().unwrap_or_default();

        let mut found: BTreeMap<String, Found<'a>> = BTreeMap::new();
        for (key, view) in file.tensors() {
            if let Some(name) = key.strip_prefix("param/") {
                found.entry(name.into()).or_default().param = Some(view);
            } else if let Some(rest) = key.strip_prefix("state/") {
                // Names may have slashes, slots have none.
                let Some((name, slot)) = rest.rsplit_once('/') else {
                    let problem = "names no slot".to_string();
                    return Err(fail(of(&key), problem, "name it state/<name>/<slot>"));
                };
                found.entry(name.into()).or_default().slots.insert(slot.into(), view);
            }
        }
        // The parameters' type, or where there are none, that of their state. (PyTorch's step
        // numbers are F32 whatever the parameters are.)
        let slots = found.values().flat_map(|f| f.slots.iter().filter(|s| s.0 != STEP));
        let of_slots = slots.filter_map(|s| epsilon_of(s.1.dtype())).fold(0.0, f64::max);
        let params = found.values().filter_map(|f| epsilon_of(f.param.as_ref()?.dtype()));
        let epsilon = params.reduce(f64::max).unwrap_or(of_slots);

        let Some(optimizer) = metadata.get("optimizer") else {
            let remedy = "name the optimizer there, as `came` or `torch.optim.adamw.AdamW`";
            return Err(fail("the metadata", "has no `optimizer`", remedy));
        };
        let groups = groups(optimizer, metadata.get("settings").map(String::as_str), epsilon)?;
        let step = match metadata.get(STEP) {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| {
                let problem = format!("is {text}");
                fail("`step` of the metadata", problem, "write the number of steps taken")
            })?),
        };
        let tensors = found.into_iter().map(|(name, found)| {
            let takes = |g: &TorchGroup| g.params.as_ref().is_none_or(|p| p.contains(&name));
            let group = groups.iter().position(takes);
            if let (None, Some(slot)) = (group, found.slots.keys().next()) {
                return Err(fail(
                    of(&format!("state/{name}/{slot}")),
                    "belongs to a parameter of no group",
                    "name the parameter in the `params` of one of the settings",
                ));
            }
            let shape = match &found.param {
                Some(param) => param.shape().to_vec(),
                None => shape_from_state(&name, &found.slots)?,
            };
            Ok(TorchTensor { name, group, shape, param: found.param, slots: found.slots })
        });
        let tensors: Vec<_> = tensors.collect::<Result<_>>()?;
        for name in groups.iter().filter_map(|g| g.params.as_ref()).flatten() {
            if !tensors.iter().any(|t| t.name == *name) {
                let problem = "is named by a group, but has neither a value nor state";
                return Err(fail(of(name), problem, "save `param/<name>` with it"));
            }
        }
        Ok(Self { groups, tensors, step, len: bytes.len() })
    }

    /// The optimizers of its groups.
    pub fn optimizers(&self) -> impl ExactSizeIterator<Item = &Reference> {
        self.groups.iter().map(|g| &g.optimizer)
    }

    /// A setup of its tensors, in the order of their names, with its groups and their settings.
    /// Parameters of no group are frozen.
    #[must_use]
    pub fn setup(&self) -> Setup {
        let mut setup = Setup::new();
        for tensor in &self.tensors {
            setup = setup.tensor(&tensor.name, &tensor.shape);
        }
        for group in &self.groups {
            let layout = group.optimizer.layout();
            let made = Group::new(&group.name, group.optimizer.clone()).layout(layout);
            setup = setup.group(match &group.params {
                Some(names) => made.of(Select::names(names.iter().cloned())),
                None => made,
            });
        }
        match self.has_frozen() {
            true => setup.group(Group::frozen(FROZEN)),
            false => setup,
        }
    }

    fn has_frozen(&self) -> bool {
        self.tensors.iter().any(|t| t.group.is_none())
    }

    /// The state in this library's names and shapes.
    ///
    /// # Errors
    /// [`Error::Import`] for a slot that is missing, unknown or of another shape, and for parameters
    /// at different steps.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let step = self.step()?;
        let mut groups: Vec<_> = self
            .groups
            .iter()
            .map(|g| GroupState {
                name: g.name.clone(),
                optimizer: g.optimizer.recipe().name().into(),
                hypers: BTreeMap::new(),
            })
            .collect();
        if self.has_frozen() {
            groups.push(GroupState { name: FROZEN.into(), ..GroupState::default() });
        }
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for tensor in &self.tensors {
            let group = tensor.group.unwrap_or(self.groups.len());
            let slots = match self.groups.get(group) {
                None => Vec::new(),
                Some(of) => {
                    let (slots, graph) = tensor.slots(&of.optimizer, step, self.len)?;
                    let names = graph.hypers.iter().filter(|h| !GRAD.contains(h));
                    let value = |h: &&str| Some(((*h).to_string(), of.optimizer.hyper(h)?));
                    groups[group].hypers.extend(names.filter_map(value));
                    slots
                }
            };
            let param = match &tensor.param {
                Some(view) => Some(values(&format!("param/{}", tensor.name), view)?),
                None => None,
            };
            let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
            tensors.push(TensorState { name, group, shape, param, slots });
        }
        Ok(Snapshot { step, groups, tensors, numbers: BTreeMap::new() })
    }

    /// The one step number of all parameters.
    fn step(&self) -> Result<u64> {
        let mut first: Option<(&str, u64)> = None;
        for tensor in &self.tensors {
            let Some(view) = tensor.slots.get(STEP) else { continue };
            let key = format!("state/{}/{STEP}", tensor.name);
            let t = whole(view).ok_or_else(|| {
                fail(of(&key), "is not one whole number", "save the step number as it is")
            })?;
            match first {
                Some((other, s)) if s != t => {
                    return Err(fail(
                        of(&key),
                        format!("is {t}, while that of `{other}` is {s}"),
                        "an optimizer here has one step number: make one for each",
                    ));
                }
                _ => first = Some((&tensor.name, t)),
            }
        }
        if let Some((_, t)) = first {
            return Ok(t);
        }
        match self.tensors.iter().find(|t| !t.slots.is_empty()) {
            Some(tensor) if self.step.is_none() => Err(fail(
                "the metadata",
                format!("has no `step`, and the state of `{}` has none", tensor.name),
                "write the number of steps taken",
            )),
            _ => Ok(self.step.unwrap_or(0)),
        }
    }
}

/// The name of the group of parameters that no group of PyTorch has.
const FROZEN: &str = "frozen";

/// The groups of the metadata.
fn groups(optimizer: &str, settings: Option<&str>, epsilon: f64) -> Result<Vec<TorchGroup>> {
    let what = "`settings` of the metadata";
    let parsed = serde_json::from_str(settings.unwrap_or("{}")).map_err(|e| {
        let remedy = "write it with json.dumps; infinity is the text \"inf\"";
        fail(what, format!("is not JSON ({e})"), remedy)
    })?;
    let remedy = "write an object of keyword arguments, or a list of them";
    let wrong = |found: &Json| fail(what, format!("has {found}"), remedy);
    let list = match parsed {
        Json::Array(list) => list,
        one => vec![one],
    };
    let count = list.len();
    let mut groups: Vec<TorchGroup> = Vec::with_capacity(count);
    for (i, group) in list.into_iter().enumerate() {
        let Json::Object(mut settings) = group else { return Err(wrong(&group)) };
        let params = params(&mut settings).map_err(|found| wrong(&found))?;
        if params.is_none() && count > 1 {
            let problem = format!("has {count} groups, but number {i} has no `params`");
            return Err(fail(what, problem, "list the names of its tensors there"));
        }
        let taken = |p: &&String| {
            groups.iter().any(|g| g.params.as_ref().is_some_and(|params| params.contains(*p)))
        };
        if let Some(twice) = params.iter().flatten().find(taken) {
            let problem = "is named by two groups";
            return Err(fail(of(twice), problem, "name it in one of them"));
        }
        let name = if count == 1 { "all".into() } else { format!("group {i}") };
        let optimizer = Reference::with_epsilon(optimizer, &settings, epsilon)?;
        groups.push(TorchGroup { name, optimizer, params });
    }
    Ok(groups)
}

/// Takes the names of a group's tensors out of its settings.
fn params(settings: &mut Map<String, Json>) -> Result<Option<BTreeSet<String>>, Json> {
    match settings.remove("params") {
        None => Ok(None),
        Some(Json::Array(names)) => {
            let names = names.into_iter().map(|name| match name {
                Json::String(name) => Ok(name),
                other => Err(other),
            });
            Ok(Some(names.collect::<Result<_, _>>()?))
        }
        Some(other) => Err(other),
    }
}

fn of(key: &str) -> String {
    format!("tensor `{key}`")
}

/// The shape of a parameter that is not in the file: that of a slot with one value per element, or
/// rows and columns put together.
fn shape_from_state(name: &str, slots: &BTreeMap<String, TensorView<'_>>) -> Result<Vec<usize>> {
    let shape = |slot: &str| slots.get(slot).map(|v| v.shape());
    let full = ["exp_avg", "momentum_buffer", "exp_avg_sq", "variance"].into_iter().find_map(shape);
    let rows_and_cols = || {
        let rows = shape("exp_avg_sq_row").or_else(|| shape("row_var")?.split_last().map(|x| x.1));
        let cols = shape("exp_avg_sq_col").or_else(|| shape("col_var"));
        Some([rows?, &cols?[cols?.len().checked_sub(1)?..]].concat())
    };
    full.map(<[usize]>::to_vec).or_else(rows_and_cols).ok_or_else(|| {
        let problem = "is not in the file, and its state does not tell its shape";
        fail(of(&format!("param/{name}")), problem, "save the parameter too")
    })
}

impl TorchTensor<'_> {
    /// Its slots as `optimizer` has them here, and the traced definition. `len`: the bytes of the file.
    fn slots(
        &self,
        optimizer: &Reference,
        step: u64,
        len: usize,
    ) -> Result<(Vec<SlotState>, Graph)> {
        let entry = optimizer.entry();
        let (dims, graph) = optimizer.layout().resolve(optimizer.recipe(), &self.shape)?;
        let mut left: BTreeSet<&str> = self.slots.keys().map(String::as_str).collect();
        left.retain(|slot| *slot != STEP && !entry.unused.contains(slot));
        let begun = !left.is_empty();
        let mut slots = Vec::with_capacity(graph.slots.len());
        for slot in &graph.slots {
            let theirs = entry.slots.iter().filter(|(ours, _)| *ours == slot.name).map(|x| x.1);
            // One of ours may have different names for matrices and vectors.
            let mut theirs = theirs.chain([slot.name]);
            let theirs = theirs.find(|s| self.slots.contains_key(*s)).unwrap_or(slot.name);
            let key = format!("state/{}/{theirs}", self.name);
            let shape = slot_shape(slot.shape, &self.shape, dims);
            if dims.is_empty() {
                left.clear();
                slots.push(SlotState {
                    name: slot.name.into(),
                    values: zeros(&shape, None),
                    shape,
                });
                continue;
            }
            // A small file must not ask for any amount of memory: rows and columns tell of a shape.
            let zeros = |initial: Option<f64>| match dims.count(slot.shape) {
                n if n > len => Err(fail(
                    of(&key),
                    format!("is missing, and would have {n} values where the file has {len} bytes"),
                    "save it, or the parameter",
                )),
                _ => Ok(zeros(&shape, initial)),
            };
            let values = match self.slots.get(theirs) {
                Some(view) => {
                    // Rows and columns keep a dimension of one in torch's Adafactor and in SM3.
                    let expected = match slot.shape {
                        Shape::Rows => [self.leading(), &[dims.rows]].concat(),
                        Shape::Cols => [self.leading(), &[dims.cols]].concat(),
                        _ => shape.clone(),
                    };
                    let ones = |s: &[usize]| s.iter().copied().filter(|&d| d != 1).collect();
                    let [found, wanted]: [Vec<usize>; 2] = [ones(view.shape()), ones(&expected)];
                    if found != wanted {
                        let problem = format!(
                            "has shape {:?}, where a parameter of shape {:?} has {expected:?}",
                            view.shape(),
                            self.shape
                        );
                        return Err(fail(of(&key), problem, "save it as the optimizer has it"));
                    }
                    values(&key, view)?
                }
                None if step == 0 => zeros(optimizer.initial(slot.name))?,
                None if !begun && self.may_begin_late(optimizer) => zeros(None)?,
                None => {
                    let known: Vec<_> = self.slots.keys().map(String::as_str).collect();
                    let problem = format!(
                        "is missing after {step} steps; the state of `{}` has {}",
                        self.name,
                        if known.is_empty() { "nothing".into() } else { known.join(", ") }
                    );
                    let remedy = "save all of the state, of parameters that have had as many \
                                  gradients";
                    return Err(fail(of(&key), problem, remedy));
                }
            };
            left.remove(theirs);
            slots.push(SlotState { name: slot.name.into(), shape, values });
        }
        let Some(unknown) = left.first() else { return Ok((slots, graph)) };
        let known: Vec<_> = graph.slots.iter().map(|s| s.name).collect();
        Err(fail(
            of(&format!("state/{}/{unknown}", self.name)),
            format!(
                "is unknown to {}, which has [{}]",
                optimizer.recipe().name(),
                known.join(", ")
            ),
            "check the optimizer and the settings of the metadata",
        ))
    }

    /// Its dimensions but the last two.
    fn leading(&self) -> &[usize] {
        &self.shape[..self.shape.len().saturating_sub(2)]
    }

    /// Whether a first gradient at a later step is treated as at the first one.
    fn may_begin_late(&self, optimizer: &Reference) -> bool {
        optimizer.entry().name == "sgd" && optimizer.hyper("dampening") == Some(0.0)
    }
}

fn zeros(shape: &[usize], initial: Option<f64>) -> Values {
    Values::F64(vec![initial.unwrap_or(0.0); shape.iter().product()])
}

fn epsilon_of(dtype: Dtype) -> Option<f64> {
    match dtype {
        Dtype::F64 => Some(f64::EPSILON),
        Dtype::F32 => Some(f32::EPSILON.into()),
        Dtype::F16 => Some(half::f16::EPSILON.into()),
        Dtype::BF16 => Some(half::bf16::EPSILON.into()),
        _ => None,
    }
}

/// The values of a tensor of the file.
fn values(key: &str, view: &TensorView<'_>) -> Result<Values> {
    let data = view.data();
    Ok(match view.dtype() {
        Dtype::F64 => {
            let values = data.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b));
            Values::F64(values.collect())
        }
        Dtype::F32 => {
            let values = data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b));
            Values::F32(values.collect())
        }
        Dtype::F16 => {
            let values = data.as_chunks().0.iter().map(|&b| half::f16::from_le_bytes(b).to_f32());
            Values::F32(values.collect())
        }
        Dtype::BF16 => {
            let values = data.as_chunks().0.iter().map(|&b| half::bf16::from_le_bytes(b).to_f32());
            Values::F32(values.collect())
        }
        other => {
            let problem = format!("is {other:?}");
            return Err(fail(of(key), problem, "save it as F64, F32, F16 or BF16"));
        }
    })
}

/// The one whole number of a tensor, of an integer or a floating type.
fn whole(view: &TensorView<'_>) -> Option<u64> {
    let data = view.data();
    match view.dtype() {
        Dtype::I64 => u64::try_from(i64::from_le_bytes(data.try_into().ok()?)).ok(),
        Dtype::I32 => u64::try_from(i32::from_le_bytes(data.try_into().ok()?)).ok(),
        _ => {
            let x = match values("", view).ok()? {
                Values::F32(x) => x.first().copied().map(f64::from).filter(|_| x.len() == 1)?,
                Values::F64(x) => x.first().copied().filter(|_| x.len() == 1)?,
            };
            // Whole numbers below 2⁵³ are exact.
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "tested to be one of them"
            )]
            (x.fract() == 0.0 && (0.0..9e15).contains(&x)).then_some(x as u64)
        }
    }
}
