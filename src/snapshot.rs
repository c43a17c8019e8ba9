//! The whole state of an optimizer over many tensors, in host memory and tied to no backend.
//!
//! A [`Snapshot`] is what is saved, loaded, imported and moved between backends.

use std::collections::BTreeMap;

use crate::cpu::Element;
use crate::layout::Dims;
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
