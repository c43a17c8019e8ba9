//! The whole state of an optimizer over many tensors, in host memory and tied to no backend.
//!
//! A [`Snapshot`] is what is saved, loaded, imported and moved between backends.

use std::collections::BTreeMap;

use crate::cpu::Element;
use crate::decimal::plain;
use crate::error::{Error, Result};
use crate::gradients::not_usable;
use crate::layout::Dims;
use crate::text::extents;
use crate::value::Shape;

/// The state of an optimizer over many tensors.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The number of steps taken, skipped ones included.
    pub step: u64,
    /// The groups, in order.
    pub groups: Vec<GroupState>,
    /// The tensors, in order.
    pub tensors: Vec<TensorState>,
    /// Other numbers of the whole optimizer, by name: loss scale, skipped steps.
    pub numbers: BTreeMap<String, f64>,
}

impl Snapshot {
    /// A tensor by name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorState> {
        self.tensors.iter().find(|t| t.name == name)
    }

    /// Adds the values of a parameter, which belong to the caller on the CPU.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor that the snapshot does not have, [`Error::Shape`] for another
    /// number of values.
    pub fn set_param(&mut self, name: &str, values: impl Into<Values>) -> Result<()> {
        let count = self.tensors.len();
        let Some(tensor) = self.tensors.iter_mut().find(|t| t.name == name) else {
            return Err(Error::Tensor {
                tensor: name.into(),
                problem: format!("is none of the {count} in the snapshot"),
                remedy: "use a name of the setup",
            });
        };
        let values = values.into();
        if values.len() != count_of(&tensor.shape) {
            return Err(Error::Shape {
                what: format!("parameter `{name}`"),
                expected: tensor.shape.clone(),
                found: vec![values.len()],
            });
        }
        tensor.param = Some(values);
        Ok(())
    }

    /// Everything in which this does not fit `expected`: tensors, slots and numbers that are missing,
    /// unexpected, there twice or of another shape, and groups with another optimizer. Values,
    /// precision, steps and hyper-parameters may differ.
    #[must_use]
    pub fn differences(&self, expected: &Self) -> Vec<String> {
        let mut list = Vec::new();
        let optimizer = |s: &Self, t: &TensorState| {
            s.groups.get(t.group).map(|g| g.optimizer.clone()).unwrap_or_default()
        };
        let (found, known) = (self.by_name(), expected.by_name());
        for wanted in &expected.tensors {
            let name = &wanted.name;
            let Some(t) = find(&found, name) else {
                list.push(format!("tensor `{name}` is missing"));
                continue;
            };
            if t.shape != wanted.shape {
                let (is, should) = (extents(&t.shape), extents(&wanted.shape));
                list.push(format!("tensor `{name}` has shape {is} and not {should}"));
            }
            let params = t.param.as_ref().map(Values::len);
            if let Some(n) = params.filter(|&n| n != count_of(&t.shape)) {
                let shape = extents(&t.shape);
                list.push(format!("tensor `{name}` has {n} values and shape {shape}"));
            }
            let (is, should) = (optimizer(self, t), optimizer(expected, wanted));
            if is != should && !is.is_empty() {
                list.push(format!("tensor `{name}` has state of \"{is}\" and not of \"{should}\""));
                continue;
            }
            for slot in &wanted.slots {
                match t.slot(&slot.name) {
                    None => list.push(format!("slot `{}` of `{name}` is missing", slot.name)),
                    Some(s) if s.shape != slot.shape => list.push(format!(
                        "slot `{}` of `{name}` has shape {} and not {}",
                        s.name,
                        extents(&s.shape),
                        extents(&slot.shape)
                    )),
                    Some(s) if s.values.len() != count_of(&s.shape) => {
                        let n = s.values.len();
                        list.push(format!(
                            "slot `{}` of `{name}` has {n} values and shape {}",
                            s.name,
                            extents(&s.shape)
                        ));
                    }
                    Some(_) => {}
                }
            }
            let unexpected = t.slots.iter().filter(|s| wanted.slot(&s.name).is_none());
            list.extend(unexpected.map(|s| format!("slot `{}` of `{name}` is unexpected", s.name)));
            let slots = t.slots.iter().enumerate();
            let twice = slots.filter(|(i, s)| t.slots[..*i].iter().any(|u| u.name == s.name));
            list.extend(
                twice.map(|(_, s)| format!("slot `{}` of `{name}` is there twice", s.name)),
            );
        }
        let unexpected = self.tensors.iter().filter(|t| find(&known, &t.name).is_none());
        list.extend(unexpected.map(|t| format!("tensor `{}` is unexpected", t.name)));
        if found.windows(2).any(|pair| pair[0].name == pair[1].name) {
            list.push("a tensor occurs twice".into());
        }
        for name in expected.numbers.keys().filter(|n| !self.numbers.contains_key(*n)) {
            list.push(format!("number `{name}` is missing"));
        }
        for name in self.numbers.keys().filter(|n| !expected.numbers.contains_key(*n)) {
            list.push(format!("number `{name}` is unexpected"));
        }
        list
    }

    /// The tensors in the order of their names.
    fn by_name(&self) -> Vec<&TensorState> {
        let mut list: Vec<_> = self.tensors.iter().collect();
        list.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        list
    }

    /// [`Error::Snapshot`] unless this has exactly what `expected` has, and numbers with which training
    /// can go on.
    pub(crate) fn check(&self, expected: &Self) -> Result<()> {
        let mut problems = self.differences(expected);
        for (name, &x) in &self.numbers {
            if let Some(expected) = not_usable(name, x) {
                problems.push(format!("number `{name}` is {} and not {expected}", plain(x)));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(Error::Snapshot { problems }) }
    }
}

fn find<'t>(by_name: &[&'t TensorState], name: &str) -> Option<&'t TensorState> {
    let place = by_name.binary_search_by(|t| t.name.as_str().cmp(name));
    place.ok().map(|place| by_name[place])
}

impl TensorState {
    /// A slot by name.
    #[must_use]
    pub fn slot(&self, name: &str) -> Option<&SlotState> {
        self.slots.iter().find(|s| s.name == name)
    }
}

/// A group of a [`Snapshot`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupState {
    /// Its name.
    pub name: String,
    /// The name of the definition, empty where it is not known.
    pub optimizer: String,
    /// Hyper-parameters by name.
    pub hypers: BTreeMap<String, f64>,
}

/// A tensor of a [`Snapshot`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TensorState {
    /// Its name.
    pub name: String,
    /// The index of its group.
    pub group: usize,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values, where they are part of the snapshot.
    pub param: Option<Values>,
    /// Its slots.
    pub slots: Vec<SlotState>,
}

/// A slot of a [`TensorState`].
#[derive(Clone, Debug, PartialEq)]
pub struct SlotState {
    /// Its name.
    pub name: String,
    /// Its extent: see [`slot_shape`].
    pub shape: Vec<usize>,
    /// Its values, in row-major order.
    pub values: Values,
}

/// Numbers of one of the two precisions.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Single precision.
    F32(Vec<f32>),
    /// Double precision.
    F64(Vec<f64>),
}

impl Values {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::F32(x) => x.len(),
            Self::F64(x) => x.len(),
        }
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// In the precision `T`, rounded where that is the lower one.
    #[must_use]
    pub fn to<T: Element>(&self) -> Vec<T> {
        match self {
            Self::F32(x) => x.iter().map(|&x| T::narrow(f64::from(x))).collect(),
            Self::F64(x) => x.iter().map(|&x| T::narrow(x)).collect(),
        }
    }
}

impl From<Vec<f32>> for Values {
    fn from(x: Vec<f32>) -> Self {
        Self::F32(x)
    }
}

impl From<Vec<f64>> for Values {
    fn from(x: Vec<f64>) -> Self {
        Self::F64(x)
    }
}

/// The number of elements of a shape.
fn count_of(shape: &[usize]) -> usize {
    shape.iter().fold(1, |n, &d| n.saturating_mul(d))
}

/// The extent of a slot as it is saved: that of the tensor for one value per element,
/// `[batch, rows]` and `[batch, cols]` for one per row and column, `[batch]` for one per matrix,
/// `[]` for one.
#[must_use]
pub fn slot_shape(slot: Shape, tensor: &[usize], dims: Dims) -> Vec<usize> {
    match slot {
        Shape::Full => tensor.to_vec(),
        Shape::Rows => vec![dims.batch, dims.rows],
        Shape::Cols => vec![dims.batch, dims.cols],
        Shape::Matrix => vec![dims.batch],
        Shape::Host | Shape::Scalar => Vec::new(),
    }
}
