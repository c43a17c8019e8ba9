//! Memory that begins where a cache line does.
//!
//! A vector of 64 bytes that crosses a line costs two accesses. Where parameters and gradients lie is
//! the caller's choice; state and accumulators are laid out here.
//!
//! A processor takes a load for one of what was just stored where the last twelve bits of both
//! addresses agree, and waits. Large pieces of memory all begin at the same place of a page, so those
//! that a loop walks side by side are laid out at different ones ([`Aligned::apart`]).

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
    /// Lines before the first element.
    skipped: usize,
    len: usize,
}

/// Addresses that agree up to here are taken for one another.
const PAGE: usize = 4096;

impl<T: Lanes> Aligned<T> {
    const ONE_BEHIND_THE_OTHER: () =
        assert!(size_of::<Line<T>>() == T::LANES * size_of::<T>(), "lines have no padding");

    pub(crate) fn filled(len: usize, value: T) -> Self {
        let () = Self::ONE_BEHIND_THE_OTHER;
        let mut line = T::padded();
        line.as_mut().fill(value);
        Self { lines: vec![Line(line); len.div_ceil(T::LANES)], skipped: 0, len }
    }

    /// The `index`th of arrays that loops walk side by side, beside a parameter and a gradient near
    /// the beginning of a page.
    pub(crate) fn apart(index: usize, len: usize, value: T) -> Self {
        let line = size_of::<Line<T>>();
        if len * size_of::<T>() < PAGE {
            return Self::filled(len, value);
        }
        let mut this = Self::filled(len + PAGE / size_of::<T>(), value);
        let wanted = PAGE / 6 * (index % 5 + 1) / line * line;
        let begins = this.lines.as_ptr().addr() % PAGE;
        this.skipped = (wanted + PAGE - begins) % PAGE / line;
        this.len = len;
        this
    }

    /// Where it begins. Unlike that of a slice it claims no element, so pointers that were given out
    /// before stay good.
    pub(crate) fn as_ptr(&self) -> *const T {
        self.lines.as_ptr().wrapping_add(self.skipped).cast()
    }

    /// The same, to write there.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut T {
        self.lines.as_mut_ptr().wrapping_add(self.skipped).cast()
    }
}

impl<T: Lanes> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: a line is an array of LANES elements, lines lie one behind the other, and there are
        // enough of them for `len` behind those that are skipped.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) }
    }
}

impl<T: Lanes> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.len) }
    }
}
