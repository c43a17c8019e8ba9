//! How a tensor of any rank is seen: [`Layout`], [`Dims`].

use crate::definition::Recipe;
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::trace::{Graph, Kind, Watch};
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
    pub kind: Kind,
    /// Number of matrices.
    pub batch: usize,
    /// Rows of each.
    pub rows: usize,
    /// Columns of each.
    pub cols: usize,
}

impl Dims {
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

    /// The kind of a matrix of a single row or column.
    fn line(&self) -> Option<Kind> {
        match (self.batch, self.rows, self.cols) {
            _ if self.kind != Kind::Matrix => None,
            (1, 1, _) => Some(Kind::Row),
            (1, _, 1) => Some(Kind::Column),
            _ => None,
        }
    }

    /// The same elements as the CPU's loops go over them: rows and columns are one long row.
    pub(crate) fn walked(self, kind: Kind) -> Self {
        match kind {
            Kind::Row | Kind::Column => Self { kind, ..Self::vector(self.len()) },
            Kind::Vector | Kind::Matrix => self,
        }
    }

    /// Elements of state that a definition keeps for such a tensor.
    #[must_use]
    pub fn state_len(&self, graph: &Graph) -> usize {
        graph.own_slots().iter().map(|s| self.count(s.shape)).sum()
    }
}

impl Layout {
    /// The dimensions under which `recipe` sees a tensor of `shape`, and the traced definition.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if the number of elements overflows, [`Error::Definition`] if the
    /// definition is not valid.
    pub fn resolve(self, recipe: Recipe, shape: &[usize]) -> Result<(Dims, Graph)> {
        self.resolve_watched(recipe, shape, Watch::Nothing)
    }

    /// The same, with statistics.
    pub(crate) fn resolve_watched(
        self,
        recipe: Recipe,
        shape: &[usize],
        watch: Watch,
    ) -> Result<(Dims, Graph)> {
        let n = element_count(shape)?;
        let rank = shape.len();
        let kind = match self {
            // The official codes do not factor what has less than two dimensions.
            _ if !recipe.is_factored() || rank < 2 => Kind::Vector,
            Self::Vector => Kind::Vector,
            _ => Kind::Matrix,
        };
        let graph = recipe.trace_watched(kind, watch)?;
        if kind == Kind::Vector {
            return Ok((Dims::vector(n), graph));
        }
        if n == 0 {
            // A tensor without elements keeps no state, however large its other dimensions are.
            return Ok((Dims::matrix(1, 0, 0), graph));
        }
        let leading = shape[..rank - 2].iter().product();
        let last_two = Dims::matrix(leading, shape[rank - 2], shape[rank - 1]);
        let flatten = Dims::matrix(1, shape[0], shape[1..].iter().product());
        let dims = match self {
            Self::LastTwo => last_two,
            Self::Flatten => flatten,
            _ if last_two.state_len(&graph) <= flatten.state_len(&graph) => last_two,
            _ => flatten,
        };
        Ok((dims, graph))
    }

    /// The plan of the CPU for a tensor of `shape`.
    ///
    /// # Errors
    /// As for [`resolve`](Self::resolve).
    pub fn plan(self, recipe: Recipe, shape: &[usize]) -> Result<(Dims, Plan)> {
        let (dims, graph) = self.resolve_for_loops(recipe, shape, Watch::Nothing)?;
        Ok((dims, Plan::new(graph, dims.is_fused())?))
    }

    /// The dimensions, and the definition as the CPU's loops run it.
    pub(crate) fn resolve_for_loops(
        self,
        recipe: Recipe,
        shape: &[usize],
        watch: Watch,
    ) -> Result<(Dims, Graph)> {
        let (dims, graph) = self.resolve_watched(recipe, shape, watch)?;
        let Some(kind) = dims.line().filter(|&kind| recipe.has(kind)) else {
            return Ok((dims, graph));
        };
        match recipe.trace_watched(kind, watch) {
            Ok(line) => Ok((dims, line)),
            // What is reported may take a level more there than the step. Then it goes as any matrix.
            Err(_) if watch != Watch::Nothing && recipe.trace(kind).is_ok() => Ok((dims, graph)),
            Err(error) => Err(error),
        }
    }
}

impl Dims {
    /// Whether levels may share a sweep: not where a handful of rows is long. A sweep of whole rows would then
    /// have little to share among workers, and what columns are reduced to is complete after one walk down.
    pub(crate) const fn is_fused(&self) -> bool {
        // Under miri small tensors have all the seams of large ones.
        let long = if cfg!(miri) { 32 } else { 256 };
        !(self.rows <= 64 && self.cols >= long)
    }
}

/// The number of elements, if memory can hold them.
pub(crate) fn element_count(shape: &[usize]) -> Result<usize> {
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
