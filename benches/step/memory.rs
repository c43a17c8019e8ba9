//! Memory that lies as the state of a step does, for its rivals.

use std::ops::{Deref, DerefMut};

const PAGE: usize = 4096;
/// Bytes from which on it lies in large pages.
const LARGE: usize = 2 << 20;

enum Memory {
    Heap(Vec<f32>),
    #[cfg(target_os = "linux")]
    Pages(memmap2::MmapMut),
}

/// The `index`th array of a state: at whole cache lines, each at another place of its page, the large ones
/// in large pages where the system has some.
pub(crate) struct Laid {
    memory: Memory,
    first: usize,
    len: usize,
}

impl Laid {
    pub(crate) fn new(index: usize, len: usize) -> Self {
        let words = PAGE / size_of::<f32>();
        let room = len + words;
        let memory = Self::in_pages(room).unwrap_or_else(|| Memory::Heap(vec![0.0; room]));
        let mut this = Self { memory, first: 0, len };
        let begins = this.start().addr() / size_of::<f32>() % words;
        let wanted = words / 6 * (index % 5 + 1) / 16 * 16;
        this.first = (wanted + words - begins) % words;
        this
    }

    #[cfg(target_os = "linux")]
    fn in_pages(words: usize) -> Option<Memory> {
        let bytes = words * size_of::<f32>();
        if bytes < LARGE {
            return None;
        }
        let pages = memmap2::MmapMut::map_anon(bytes).ok()?;
        let _ = pages.advise(memmap2::Advice::HugePage);
        Some(Memory::Pages(pages))
    }

    #[cfg(not(target_os = "linux"))]
    fn in_pages(words: usize) -> Option<Memory> {
        let _ = LARGE;
        let _ = words;
        None
    }

    fn start(&self) -> *const f32 {
        match &self.memory {
            Memory::Heap(words) => words.as_ptr(),
            #[cfg(target_os = "linux")]
            Memory::Pages(pages) => pages.as_ptr().cast(),
        }
    }
}

impl Deref for Laid {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: there are `len` words behind the first ones, less than a page of which are skipped; the
        // bytes of pages are zeros, which are numbers, and pages are aligned to words.
        unsafe { std::slice::from_raw_parts(self.start().add(self.first), self.len) }
    }
}

impl DerefMut for Laid {
    fn deref_mut(&mut self) -> &mut [f32] {
        let start = match &mut self.memory {
            Memory::Heap(words) => words.as_mut_ptr(),
            #[cfg(target_os = "linux")]
            Memory::Pages(pages) => pages.as_mut_ptr().cast(),
        };
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(start.add(self.first), self.len) }
    }
}
