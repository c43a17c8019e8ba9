//! Memory of parameters and gradients as frameworks give it, and memory that lies as the state of a step
//! does, for its rivals.

use std::ops::{Deref, DerefMut};

use gradstep::Element;

const PAGE: usize = 4096;
const LINE: usize = 64;
/// Bytes from which on state lies in large pages.
const LARGE: usize = 2 << 20;

enum Memory<T> {
    Heap(Vec<T>),
    #[cfg(target_os = "linux")]
    Pages(memmap2::MmapMut),
}

/// Numbers that begin at a cache line.
pub(crate) struct Laid<T> {
    memory: Memory<T>,
    first: usize,
    len: usize,
}

impl<T: Element> Laid<T> {
    /// A parameter or a gradient: from the allocator, and where large pieces of it begin that it takes from the
    /// system, on the first cache line of a page behind its own notes. What was freed before decides otherwise,
    /// and now and then for a place at which one array's stores meet another's loads.
    pub(crate) fn tensor(values: impl ExactSizeIterator<Item = T>) -> Self {
        let len = values.len();
        let around = if len * size_of::<T>() < PAGE { LINE } else { PAGE };
        let memory = Memory::Heap(vec![T::zero(); len + (around + LINE) / size_of::<T>()]);
        let mut this = Self { memory, first: 0, len };
        this.first = (around + LINE - this.begins() % around) % around / size_of::<T>();
        this.iter_mut().zip(values).for_each(|(to, value)| *to = value);
        this
    }

    /// Numbers of a file that another process has mapped, too.
    #[cfg(target_os = "linux")]
    pub(crate) fn in_file(file: &std::fs::File, byte: usize, len: usize) -> std::io::Result<Self> {
        let mut options = memmap2::MmapOptions::new();
        options.offset(byte as u64).len(len * size_of::<T>());
        // SAFETY: the other process changes the file only while this one waits for a line from it.
        let memory = Memory::Pages(unsafe { options.map_mut(file)? });
        Ok(Self { memory, first: 0, len })
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn in_file(_: &std::fs::File, _: usize, _: usize) -> std::io::Result<Self> {
        Err(std::io::Error::other("memory is shared with another process on Linux only"))
    }

    /// The `index`th array of a state: each at another place of its page, the large ones in large pages
    /// where the system has some.
    pub(crate) fn state(index: usize, len: usize) -> Self {
        let room = len + PAGE / size_of::<T>();
        let memory = Self::in_pages(room).unwrap_or_else(|| Memory::Heap(vec![T::zero(); room]));
        let mut this = Self { memory, first: 0, len };
        let wanted = PAGE / 6 * (index % 5 + 1) / LINE * LINE;
        this.first = (wanted + PAGE - this.begins()) % PAGE / size_of::<T>();
        this
    }

    #[cfg(target_os = "linux")]
    fn in_pages(len: usize) -> Option<Memory<T>> {
        let bytes = len * size_of::<T>();
        if bytes < LARGE {
            return None;
        }
        let pages = memmap2::MmapMut::map_anon(bytes).ok()?;
        let _ = pages.advise(memmap2::Advice::HugePage);
        Some(Memory::Pages(pages))
    }

    #[cfg(not(target_os = "linux"))]
    fn in_pages(_: usize) -> Option<Memory<T>> {
        let _ = LARGE;
        None
    }

    fn start(&self) -> *const T {
        match &self.memory {
            Memory::Heap(values) => values.as_ptr(),
            #[cfg(target_os = "linux")]
            Memory::Pages(pages) => pages.as_ptr().cast(),
        }
    }

    /// The byte of its page where the memory begins.
    fn begins(&self) -> usize {
        self.start().addr() % PAGE
    }
}

impl<T: Element> Deref for Laid<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: there are `len` numbers behind the first ones, which are skipped; the bytes of pages are
        // zeros, which are numbers, and pages are aligned to them.
        unsafe { std::slice::from_raw_parts(self.start().add(self.first), self.len) }
    }
}

impl<T: Element> DerefMut for Laid<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let start = match &mut self.memory {
            Memory::Heap(values) => values.as_mut_ptr(),
            #[cfg(target_os = "linux")]
            Memory::Pages(pages) => pages.as_mut_ptr().cast(),
        };
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(start.add(self.first), self.len) }
    }
}
