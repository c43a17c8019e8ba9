//! How tensors are cut: into tiles, one for each workgroup of a sweep, and into pieces that fit a
//! binding.

use std::ops::Range;

use crate::blueprint::FOUR;
use crate::layout::Dims;
use crate::plan::Plan;
use crate::trace::Kind;
use crate::wgsl::{COLS, Cut, GATHER, Places, ROWS, WHOLE_ROW, WIDTH};

/// Words of a tensor, a tile and a gather item in the table of the shader.
pub(crate) const TENSOR_WORDS: usize = 8;
pub(crate) const TILE_WORDS: usize = 10;
pub(crate) const GATHER_WORDS: usize = 3;

/// Whether tiles have whole rows, so that levels may share a sweep: not where rows are so long that
/// a few workgroups would do all the work, or where one does not fit a binding.
pub(crate) fn whole_rows(dims: &Dims, capacity: usize) -> bool {
    dims.kind == Kind::Matrix && dims.cols <= WHOLE_ROW.min(capacity)
}

/// A stretch of a tensor in one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) chunk: usize,
    /// Its first element in the chunk.
    pub(crate) at: usize,
    /// Its elements of the tensor.
    pub(crate) elements: Range<usize>,
}

/// What one binding of each full-size buffer holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) len: usize,
    pub(crate) tiles: Vec<[u32; TILE_WORDS]>,
}

/// All tensors of one kind, cut.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layouts {
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) tensors: Vec<[u32; TENSOR_WORDS]>,
    pub(crate) gathers: Vec<[u32; GATHER_WORDS]>,
    /// Per tensor.
    pub(crate) pieces: Vec<Vec<Piece>>,
    pub(crate) cuts: Vec<Cut>,
    /// Elements of small values and partial sums, all tensors together.
    pub(crate) small_len: usize,
}

#[allow(clippy::cast_possible_truncation, reason = "lengths below 2^32 are checked before")]
fn word(x: usize) -> u32 {
    x as u32
}

impl Layouts {
    /// One long vector that lies in buffers of these lengths: of each chunk, those that are bound at
    /// once. There is one chunk at least.
    pub(crate) fn flat<'l>(places: &Places, chunks: impl Iterator<Item = &'l [usize]>) -> Self {
        let mut this = Self::default();
        let width = COLS as usize;
        let (mut first, mut index) = (0, 0);
        let mut pieces = Vec::new();
        for (chunk, lens) in chunks.enumerate() {
            let (start, mut tiles) = (first, Vec::new());
            for (down, &len) in lens.iter().enumerate() {
                for at in (0..len).step_by(width) {
                    let n = width.min(len - at);
                    tiles.push([0, at, 0, 0, first + at, 1, n, down, index, index].map(word));
                    index += 1;
                }
                first += len;
            }
            this.chunks.push(Chunk { len: first - start, tiles });
            pieces.push(Piece { chunk, at: 0, elements: start..first });
        }
        if this.chunks.is_empty() {
            this.chunks.push(Chunk::default());
        }
        // Means over no elements are 0.
        let dims = Dims { kind: Kind::Vector, batch: 1, rows: 1, cols: first.max(1) };
        let cut = Cut { dims, row_tiles: 1, col_tiles: index };
        let small = places.small_len(&dims);
        this.small_len = small + places.partials_len(&cut);
        this.tensors.push([1, 1, dims.cols, 0, small, 1, index, 1].map(word));
        this.pieces.push(pieces);
        this.cuts.push(cut);
        this
    }

    /// Appends a tensor. `capacity` is the number of elements of a chunk at most.
    pub(crate) fn push(&mut self, plan: &Plan, places: &Places, dims: Dims, capacity: usize) {
        let index = self.tensors.len();
        let (rows, cols) = (dims.rows, dims.cols);
        let mut row_step = (ROWS as usize).min(rows.max(1));
        let mut col_step = if plan.fused { cols.max(1) } else { COLS as usize };
        if row_step * cols > capacity {
            // One row at a time, so that every tile is one stretch of memory.
            row_step = if plan.fused { (capacity / cols).max(1) } else { 1 };
            col_step = col_step.min(capacity);
        }
        let cut =
            Cut { dims, row_tiles: rows.div_ceil(row_step), col_tiles: cols.div_ceil(col_step) };
        let per_group =
            if plan.fused && cut.row_tiles > GATHER as usize { cut.row_tiles.isqrt() } else { 1 };
        let small = self.small_len;
        let partials = small + places.small_len(&dims);
        self.small_len = partials + places.partials_len(&cut);
        self.tensors.push([
            word(dims.batch),
            word(rows),
            word(cols),
            word(small),
            word(partials),
            word(cut.row_tiles),
            word(cut.col_tiles),
            word(per_group),
        ]);
        if per_group > 1 {
            for first in (0..cut.row_tiles).step_by(per_group) {
                for col in (0..dims.batch * cols).step_by(WIDTH as usize) {
                    self.gathers.push([word(index), word(first), word(col)]);
                }
            }
        }
        self.cuts.push(cut);

        let mut pieces: Vec<Piece> = Vec::new();
        for b in 0..dims.batch {
            for down in 0..cut.row_tiles {
                let r = down * row_step;
                let n_rows = row_step.min(rows - r);
                let row = b * rows + r;
                // Tiles beside each other share their rows' memory and stay together, unless the
                // tile is (a piece of) one row.
                let band = if n_rows == 1 { col_step } else { cols };
                for first in (0..cols).step_by(band) {
                    let start = row * cols + first;
                    let len = if n_rows == 1 { band.min(cols - first) } else { n_rows * cols };
                    let (chunk, at) = self.place(&mut pieces, start, len, capacity);
                    for col in (first..(first + band).min(cols)).step_by(col_step) {
                        let across = col / col_step;
                        let tile = (b * cut.row_tiles + down) * cut.col_tiles + across;
                        self.chunks[chunk].tiles.push([
                            word(index),
                            word(at + col - first),
                            word(b),
                            word(row),
                            word(col),
                            word(n_rows),
                            word(col_step.min(cols - col)),
                            word(down),
                            word(across),
                            word(tile),
                        ]);
                    }
                }
            }
        }
        self.pieces.push(pieces);
        // The last vector of four is whole.
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.len = chunk.len.next_multiple_of(FOUR);
        }
    }

    /// Whether all tiles begin and end where vectors of four do, but for the last one of a vector.
    #[cfg(feature = "gpu")]
    pub(crate) fn by_four(&self) -> bool {
        let vectors = self.cuts.iter().all(|c| c.dims.kind == Kind::Vector);
        let mut tiles = self.chunks.iter().flat_map(|c| &c.tiles);
        tiles.all(|t| t[1].is_multiple_of(4) && (vectors || t[6].is_multiple_of(4)))
    }

    /// Finds room for `len` elements from `start` of the tensor at hand: its chunk and first
    /// element there.
    fn place(
        &mut self,
        pieces: &mut Vec<Piece>,
        start: usize,
        len: usize,
        capacity: usize,
    ) -> (usize, usize) {
        // A new tensor begins at a multiple of 256 bytes, so that its region can be bound alone.
        let align = |n: usize| {
            if pieces.is_empty() { n.next_multiple_of(64) } else { n }
        };
        let fits = self.chunks.last().is_some_and(|c| align(c.len) + len <= capacity);
        if !fits {
            self.chunks.push(Chunk::default());
        }
        let chunk = self.chunks.len() - 1;
        let at = if fits { align(self.chunks[chunk].len) } else { 0 };
        self.chunks[chunk].len = at + len;
        match pieces.last_mut() {
            Some(p) if p.chunk == chunk && p.elements.end == start => p.elements.end += len,
            _ => pieces.push(Piece { chunk, at, elements: start..start + len }),
        }
        (chunk, at)
    }

    /// The table of a chunk, and where its tiles and gather items begin.
    pub(crate) fn table(&self, chunk: usize) -> (Vec<u32>, usize, usize) {
        let mut words: Vec<u32> = self.tensors.iter().flatten().copied().collect();
        let tiles = words.len();
        words.extend(self.chunks[chunk].tiles.iter().flatten());
        let gathers = words.len();
        if chunk == 0 {
            words.extend(self.gathers.iter().flatten());
        }
        (words, tiles, gathers)
    }
}
