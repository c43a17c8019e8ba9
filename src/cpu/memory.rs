//! Memory that begins where a cache line does.
//!
//! A vector of 64 bytes that crosses a line costs two accesses. Where parameters and gradients lie is
//! the caller's choice; state and accumulators are laid out here.

use std::ops::{Deref, DerefMut};

use super::Lanes;

/// One cache line: as many elements as a vector has lanes.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
struct Line<T: Lanes>(T::Padded);

/// A slice of fixed length, at a multiple of 64 bytes.
#[derive(Clone, Debug)]
pub(crate) struct Aligned<T: Lanes> {
    lines: Vec<Line<T>>,
    len: usize,
}

impl<T: Lanes> Aligned<T> {
    const ONE_BEHIND_THE_OTHER: () =
        assert!(size_of::<Line<T>>() == T::LANES * size_of::<T>(), "lines have no padding");

    pub(crate) fn filled(len: usize, value: T) -> Self {
        let () = Self::ONE_BEHIND_THE_OTHER;
        let mut line = T::padded();
        line.as_mut().fill(value);
        Self { lines: vec![Line(line); len.div_ceil(T::LANES)], len }
    }

    /// Where it begins. Unlike that of a slice it claims no element, so pointers that were given out
    /// before stay good.
    pub(crate) fn as_ptr(&self) -> *const T {
        self.lines.as_ptr().cast()
    }

    /// The same, to write there.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut T {
        self.lines.as_mut_ptr().cast()
    }
}

impl<T: Lanes> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: a line is an array of LANES elements, lines lie one behind the other, and there are
        // enough of them for `len`.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) }
    }
}

impl<T: Lanes> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.len) }
    }
}
