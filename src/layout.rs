//! How a tensor of any rank is seen: [`Layout`], [`Dims`].

use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::definition::Recipe;
use crate::trace::Kind;
use crate::value::Shape;

/// How a tensor of any rank becomes batch × rows × cols.
///
/// It is fixed when a tensor is registered. It matters to optimizers that tell rows from columns;
/// to the others every tensor is one long vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Layout {
    /// Vectors and scalars as `Vector`, anything of higher rank by whichever of `LastTwo` and
    /// `Flatten` has the smaller state.
    #[default]
    Auto,
    /// One long vector: nothing is factored.
    Vector,
    /// The last two dimensions are rows and columns, those before are batch. This is what the
    /// official codes of CAME and Adafactor do; it keeps MORE state than AdamW for a 3×3
    /// convolution.
    LastTwo,
    /// The first dimension against all the others.
    Flatten,
}

/// A tensor as a definition sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Dims {
    /// Matrix or vector.
    #[cfg_attr(feature = "serde", serde(skip, default = "Dims::vector_kind"))]
    pub kind: Kind,
    /// Number of matrices.
    pub batch: usize,
    /// Rows of each.
    pub rows: usize,
    /// Columns of each.
    pub cols: usize,
}

impl Dims {
    #[cfg(feature = "serde")]
    fn vector_kind() -> Kind {
        Kind::Vector
    }

    const fn vector(n: usize) -> Self {
        Self { kind: Kind::Vector, batch: 1, rows: 1, cols: n }
    }

    const fn matrix(batch: usize, rows: usize, cols: usize) -> Self {
        Self { kind: Kind::Matrix, batch, rows, cols }
    }

    /// Number of elements.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.batch * self.rows * self.cols
    }

    /// True for a tensor without elements.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of values of a small or full shape.
    #[must_use]
    pub const fn count(&self, shape: Shape) -> usize {
        match shape {
            Shape::Host => 0,
            Shape::Scalar => 1,
            Shape::Matrix => self.batch,
            Shape::Rows => self.batch * self.rows,
            Shape::Cols => self.batch * self.cols,
            Shape::Full => self.len(),
        }
    }

    /// Elements of state that `plan` keeps for such a tensor.
    #[must_use]
    pub fn state_len(&self, plan: &Plan) -> usize {
        plan.graph.slots.iter().map(|s| self.count(s.shape)).sum()
    }
}

impl Layout {
    /// The dimensions under which `recipe` sees a tensor of `shape`, and its plan.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if the number of elements overflows, [`Error::Definition`] if the
    /// definition is not valid.
    pub fn plan(self, recipe: Recipe, shape: &[usize]) -> Result<(Dims, Plan)> {
        let n = element_count(shape)?;
        let matrix = |dims: Dims| {
            let fused = dims.is_fused();
            Ok((dims, Plan::new(recipe.trace(Kind::Matrix)?, fused)?))
        };
        let vector = || Ok((Dims::vector(n), Plan::new(recipe.trace(Kind::Vector)?, false)?));
        if !recipe.is_factored() {
            return vector();
        }
        let rank = shape.len();
        let last_two = || match rank {
            0 | 1 => Dims::matrix(1, 1, n),
            // A tensor without elements keeps no state, however large its other dimensions are.
            _ if n == 0 => Dims::matrix(1, 0, 0),
            _ => {
                let leading = shape[..rank - 2].iter().product();
                Dims::matrix(leading, shape[rank - 2], shape[rank - 1])
            }
        };
        let flatten = || match rank {
            0 | 1 => Dims::matrix(1, 1, n),
            _ if n == 0 => Dims::matrix(1, 0, 0),
            _ => Dims::matrix(1, shape[0], shape[1..].iter().product()),
        };
        match self {
            Self::Vector => vector(),
            // The official codes do not factor what has less than two dimensions.
            _ if rank < 2 => vector(),
            Self::LastTwo => matrix(last_two()),
            Self::Flatten => matrix(flatten()),
            Self::Auto if rank == 2 => matrix(last_two()),
            Self::Auto => {
                let (a, b) = (matrix(last_two())?, matrix(flatten())?);
                Ok(if a.0.state_len(&a.1) <= b.0.state_len(&b.1) { a } else { b })
            }
        }
    }
}

impl Dims {
    /// Whether levels may share a sweep: not where a handful of rows is very long, since a sweep
    /// of whole rows would then have nothing to share among workers.
    pub(crate) const fn is_fused(&self) -> bool {
        !(self.rows <= 64 && self.cols >= 1 << 15)
    }
}

/// The number of elements, if memory can hold them.
fn element_count(shape: &[usize]) -> Result<usize> {
    let most = isize::MAX as usize / 8;
    // Zero dimensions do not hide an overflow among the others.
    let product = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)));
    match product {
        Some(p) if p <= most => Ok(if shape.contains(&0) { 0 } else { p }),
        _ => Err(Error::TooLarge {
            shape: shape.to_vec(),
            problem: format!("more than {most} elements"),
        }),
    }
}
