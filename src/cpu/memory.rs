//! Memory that begins where a cache line does.
//!
//! A vector of 64 bytes that crosses a line costs two accesses. Where parameters and gradients lie is
//! the caller's choice; state and accumulators are laid out here.
//!
//! A processor takes a load for one of what was just stored where the last twelve bits of both
//! addresses agree, and waits. Large pieces of memory all begin at the same place of a page, so those
//! that a loop walks side by side are laid out at different ones ([`Aligned::apart`]).
//!
//! Large state asks the system for large pages: loops that walk several arrays look up fewer of them.

use std::ops::{Deref, DerefMut};

use super::Lanes;

/// One cache line: as many elements as a vector has lanes.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
struct Line<T: Lanes>(T::Padded);

/// Where lines lie.
#[derive(Debug)]
enum Memory<T: Lanes> {
    Heap(Vec<Line<T>>),
    #[cfg(all(target_os = "linux", not(miri)))]
    Pages(memmap2::MmapMut),
}

/// A slice of fixed length, at a multiple of 64 bytes.
#[derive(Debug)]
pub(crate) struct Aligned<T: Lanes> {
    memory: Memory<T>,
    /// Lines before the first element.
    skipped: usize,
    len: usize,
}

/// Addresses that agree up to here are taken for one another.
pub(super) const PAGE: usize = 4096;

/// Bytes from which on state lies in pages of its own.
const LARGE: usize = 2 << 20;

/// Whether an array of the state is one that asks for large pages.
pub(super) const fn has_large_pages<T>(len: usize) -> bool {
    cfg!(all(target_os = "linux", not(miri))) && len.saturating_mul(size_of::<T>()) >= LARGE
}

impl<T: Lanes> Aligned<T> {
    const ONE_BEHIND_THE_OTHER: () =
        assert!(size_of::<Line<T>>() == T::LANES * size_of::<T>(), "lines have no padding");

    pub(crate) fn filled(len: usize, value: T) -> Self {
        let () = Self::ONE_BEHIND_THE_OTHER;
        let mut line = T::padded();
        line.as_mut().fill(value);
        let lines = vec![Line(line); len.div_ceil(T::LANES)];
        Self { memory: Memory::Heap(lines), skipped: 0, len }
    }

    /// The same in pages of its own, if it is large and there are any.
    #[cfg(all(target_os = "linux", not(miri)))]
    fn in_pages(len: usize, value: T) -> Option<Self> {
        let bytes = len.checked_next_multiple_of(T::LANES)?.checked_mul(size_of::<T>())?;
        if !has_large_pages::<T>(len) {
            return None;
        }
        let pages = memmap2::MmapMut::map_anon(bytes).ok()?;
        // A wish: what becomes of it changes no result.
        let _ = pages.advise(memmap2::Advice::HugePage);
        let mut this = Self { memory: Memory::Pages(pages), skipped: 0, len };
        // They are zeros that take no memory yet.
        if value.widen().to_bits() != 0 {
            this.fill(value);
        }
        Some(this)
    }

    #[cfg(not(all(target_os = "linux", not(miri))))]
    fn in_pages(_: usize, _: T) -> Option<Self> {
        None
    }

    /// The `index`th of arrays that loops walk side by side, beside a parameter and a gradient near
    /// the beginning of a page.
    pub(crate) fn apart(index: usize, len: usize, value: T) -> Self {
        let line = size_of::<Line<T>>();
        if len * size_of::<T>() < PAGE {
            return Self::filled(len, value);
        }
        let room = len + PAGE / size_of::<T>();
        let mut this = Self::in_pages(room, value).unwrap_or_else(|| Self::filled(room, value));
        let wanted = PAGE / 6 * (index % 5 + 1) / line * line;
        let begins = this.as_ptr().addr() % PAGE;
        this.skipped = (wanted + PAGE - begins) % PAGE / line;
        this.len = len;
        this
    }

    /// Where it begins. Unlike that of a slice it claims no element, so pointers that were given out
    /// before stay good.
    pub(crate) fn as_ptr(&self) -> *const T {
        let lines: *const Line<T> = match &self.memory {
            Memory::Heap(lines) => lines.as_ptr(),
            #[cfg(all(target_os = "linux", not(miri)))]
            Memory::Pages(pages) => pages.as_ptr().cast(),
        };
        lines.wrapping_add(self.skipped).cast()
    }

    /// The same, to write there.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut T {
        let lines: *mut Line<T> = match &mut self.memory {
            Memory::Heap(lines) => lines.as_mut_ptr(),
            #[cfg(all(target_os = "linux", not(miri)))]
            Memory::Pages(pages) => pages.as_mut_ptr().cast(),
        };
        lines.wrapping_add(self.skipped).cast()
    }
}

impl<T: Lanes> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: a line is an array of LANES elements, lines lie one behind the other, and there are
        // enough of them for `len` behind those that are skipped. Pages are aligned to more than lines,
        // and their zero bytes are numbers.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) }
    }
}

impl<T: Lanes> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.len) }
    }
}
