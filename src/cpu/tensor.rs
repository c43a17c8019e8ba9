//! What may be stepped: slices, arrays and views that lend their memory for one step.

use ndarray::{
    ArrayBase, ArrayView, ArrayViewD, ArrayViewMut, ArrayViewMutD, Data, DataMut, Dimension,
};

use super::Element;
use crate::error::{Error, Result};

/// A parameter: `&mut [T]`, `&mut Vec<T>`, `&mut Array`, `ArrayViewMut`.
///
/// A type of your own lends its memory as one of them.
pub trait TensorMut<'a, T: Element> {
    /// Lends the memory for one step.
    fn lend(self) -> LentMut<'a, T>;
}

/// A gradient: `&[T]`, `&Vec<T>`, `&Array`, `ArrayView`.
pub trait TensorRef<'a, T: Element> {
    /// Lends the memory for one step.
    fn lend(self) -> Lent<'a, T>;
}

/// Memory lent for writing.
#[derive(Debug)]
pub enum LentMut<'a, T> {
    /// Contiguous, row-major; its length is checked.
    Slice(&'a mut [T]),
    /// Any strides; its shape is checked.
    View(ArrayViewMutD<'a, T>),
}

/// Memory lent for reading.
#[derive(Debug)]
pub enum Lent<'a, T> {
    /// Contiguous, row-major; its length is checked.
    Slice(&'a [T]),
    /// Any strides; its shape is checked.
    View(ArrayViewD<'a, T>),
}

fn wrong(what: &str, shape: &[usize], found: &[usize]) -> Result<()> {
    Err(Error::Shape { what: what.into(), expected: shape.to_vec(), found: found.to_vec() })
}

impl<T: Element> LentMut<'_, T> {
    pub(crate) fn fits(&self, shape: &[usize]) -> bool {
        match self {
            Self::Slice(s) => s.len() == shape.iter().product::<usize>(),
            Self::View(v) => v.shape() == shape,
        }
    }

    pub(crate) fn reborrow(&mut self) -> LentMut<'_, T> {
        match self {
            Self::Slice(s) => LentMut::Slice(s),
            Self::View(v) => LentMut::View(v.view_mut()),
        }
    }

    pub(crate) fn as_lent(&self) -> Lent<'_, T> {
        match self {
            Self::Slice(s) => Lent::Slice(s),
            Self::View(v) => Lent::View(v.view()),
        }
    }

    pub(crate) fn check(&self, what: &str, shape: &[usize]) -> Result<()> {
        match self {
            _ if self.fits(shape) => Ok(()),
            Self::Slice(s) => wrong(what, shape, &[s.len()]),
            Self::View(v) => wrong(what, shape, v.shape()),
        }
    }

    pub(crate) fn slice(&mut self) -> Option<&mut [T]> {
        match self {
            Self::Slice(s) => Some(s),
            Self::View(v) => v.as_slice_mut(),
        }
    }

    pub(crate) fn copy_to(&self, to: &mut [T]) {
        match self {
            Self::Slice(s) => to.copy_from_slice(s),
            Self::View(v) => to.iter_mut().zip(v).for_each(|(to, &x)| *to = x),
        }
    }

    pub(crate) fn copy_from(&mut self, from: &[T]) {
        match self {
            Self::Slice(s) => s.copy_from_slice(from),
            Self::View(v) => v.iter_mut().zip(from).for_each(|(to, &x)| *to = x),
        }
    }
}

impl<T: Element> Lent<'_, T> {
    pub(crate) fn fits(&self, shape: &[usize]) -> bool {
        match self {
            Self::Slice(s) => s.len() == shape.iter().product::<usize>(),
            Self::View(v) => v.shape() == shape,
        }
    }

    pub(crate) fn check(&self, what: &str, shape: &[usize]) -> Result<()> {
        match self {
            _ if self.fits(shape) => Ok(()),
            Self::Slice(s) => wrong(what, shape, &[s.len()]),
            Self::View(v) => wrong(what, shape, v.shape()),
        }
    }

    pub(crate) fn slice(&self) -> Option<&[T]> {
        match self {
            Self::Slice(s) => Some(s),
            Self::View(v) => v.as_slice(),
        }
    }

    pub(crate) fn copy_to(&self, to: &mut [T]) {
        match self {
            Self::Slice(s) => to.copy_from_slice(s),
            Self::View(v) => to.iter_mut().zip(v).for_each(|(to, &x)| *to = x),
        }
    }
}

impl<'a, T: Element> TensorMut<'a, T> for LentMut<'a, T> {
    fn lend(self) -> Self {
        self
    }
}

impl<'a, T: Element> TensorRef<'a, T> for Lent<'a, T> {
    fn lend(self) -> Self {
        self
    }
}

impl<'a, T: Element> TensorMut<'a, T> for &'a mut [T] {
    fn lend(self) -> LentMut<'a, T> {
        LentMut::Slice(self)
    }
}

impl<'a, T: Element, const N: usize> TensorMut<'a, T> for &'a mut [T; N] {
    fn lend(self) -> LentMut<'a, T> {
        LentMut::Slice(self)
    }
}

impl<'a, T: Element> TensorMut<'a, T> for &'a mut Vec<T> {
    fn lend(self) -> LentMut<'a, T> {
        LentMut::Slice(self)
    }
}

impl<'a, T: Element, D: Dimension> TensorMut<'a, T> for ArrayViewMut<'a, T, D> {
    fn lend(self) -> LentMut<'a, T> {
        LentMut::View(self.into_dyn())
    }
}

impl<'a, T: Element, S: DataMut<Elem = T>, D: Dimension> TensorMut<'a, T>
    for &'a mut ArrayBase<S, D>
{
    fn lend(self) -> LentMut<'a, T> {
        LentMut::View(self.view_mut().into_dyn())
    }
}

impl<'a, T: Element> TensorRef<'a, T> for &'a [T] {
    fn lend(self) -> Lent<'a, T> {
        Lent::Slice(self)
    }
}

impl<'a, T: Element, const N: usize> TensorRef<'a, T> for &'a [T; N] {
    fn lend(self) -> Lent<'a, T> {
        Lent::Slice(self)
    }
}

impl<'a, T: Element> TensorRef<'a, T> for &'a Vec<T> {
    fn lend(self) -> Lent<'a, T> {
        Lent::Slice(self)
    }
}

impl<'a, T: Element, D: Dimension> TensorRef<'a, T> for ArrayView<'a, T, D> {
    fn lend(self) -> Lent<'a, T> {
        Lent::View(self.into_dyn())
    }
}

impl<'a, T: Element, S: Data<Elem = T>, D: Dimension> TensorRef<'a, T> for &'a ArrayBase<S, D> {
    fn lend(self) -> Lent<'a, T> {
        Lent::View(self.view().into_dyn())
    }
}
