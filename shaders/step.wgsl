// One step of an optimizer over many tensors.
//
// This file is a skeleton. It is valid as it lies here (its stub is a plain gradient descent); the
// library keeps it as it is, except that it prints the lines between `@begin name` and `@end name`
// anew for each definition. What comes out is under `expanded/`.
//
// A tensor is batch × rows × cols. It is cut into tiles, and each workgroup of a sweep goes over
// one tile: thread `lid` takes every WIDTH-th column and walks down its rows. Sums along a column
// stay in a register, sums along a row in workgroup memory, and both leave as partial sums that
// the settle after the sweep adds in a fixed order. No atomics: two runs give equal bits.
//
// A tile of whole rows has all that belongs to them. Thread `lid` settles row `lid` of it after the
// sums are made; of what is reduced over rows, a tile leaves one partial sum. So a settle goes over
// columns and tiles, not over rows: what rows need of it is made where elements read it.
//
// Where all rows begin at multiples of four elements a thread takes four neighbouring columns at once:
// what is as large as the tensor is bound as vectors of four, and there are four of each value.

const WIDTH = 64u;
const ROWS = 16u;
const SETTLE = 256u;
const EXPONENT = 0x7f800000u;
const LOWEST = -3.40282346638528859812e+38f;

// Hyper-parameters and what follows from them, computed once a step in f64.
struct Hosts {
    // 0: the step is skipped, nothing is written.
    go: f32,
    // @begin hosts
    lr: f32,
    // @end hosts
}

// Where in the bound buffers the parameters and gradients begin, and where in the table the lists.
struct Window {
    param: u32,
    grad: u32,
    tiles: u32,
    n_tiles: u32,
    gathers: u32,
    n_gathers: u32,
    n_tensors: u32,
    spare: u32,
    // @begin grads
    // @end grads
}

struct Tensor {
    batch: u32,
    rows: u32,
    cols: u32,
    // First of its small values, and of its partial sums.
    small: u32,
    partials: u32,
    // Tiles of each matrix, down and across.
    row_tiles: u32,
    col_tiles: u32,
    // How many row tiles a gather adds up.
    per_group: u32,
}

struct Tile {
    tensor: u32,
    // Its first element, its batch entry, its first row (over all entries) and column.
    at: u32,
    b: u32,
    row: u32,
    col: u32,
    rows: u32,
    cols: u32,
    // Its place among the tiles: down, across, and in the tensor. Of a vector that lies in several
    // buffers, down to which of them.
    down: u32,
    across: u32,
    index: u32,
}

@group(0) @binding(0) var<uniform> hosts: Hosts;
@group(0) @binding(1) var<uniform> window: Window;
@group(0) @binding(2) var<storage, read> table: array<u32>;
@group(0) @binding(3) var<storage, read_write> small: array<f32>;
// @begin buffers
@group(0) @binding(4) var<storage, read> grad: array<f32>;
@group(0) @binding(5) var<storage, read_write> param: array<f32>;
// @end buffers

var<workgroup> lanes: array<f32, SETTLE>;
// @begin shared
// @end shared

fn tensor_at(index: u32) -> Tensor {
    let i = 8u * index;
    return Tensor(table[i], table[i + 1u], table[i + 2u], table[i + 3u], table[i + 4u],
        table[i + 5u], table[i + 6u], table[i + 7u]);
}

fn tile_at(index: u32) -> Tile {
    let i = window.tiles + 10u * index;
    return Tile(table[i], table[i + 1u], table[i + 2u], table[i + 3u], table[i + 4u],
        table[i + 5u], table[i + 6u], table[i + 7u], table[i + 8u], table[i + 9u]);
}

// @begin places
// @end places

// @begin fours
// Small values of four columns.
fn four(at: u32) -> vec4<f32> {
    return vec4(small[at], small[at + 1u], small[at + 2u], small[at + 3u]);
}

// Writes them, of the last columns those that there are.
fn put(at: u32, x: vec4<f32>, cols: u32) {
    for (var i = 0u; i < min(cols, 4u); i++) {
        small[at + i] = x[i];
    }
}

fn sum4(x: vec4<f32>) -> f32 {
    return (x.x + x.y) + (x.z + x.w);
}

fn max4(x: vec4<f32>) -> f32 {
    return max(max(x.x, x.y), max(x.z, x.w));
}
// @end fours

// @begin sweep
@compute @workgroup_size(WIDTH)
fn sweep(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let index = group.y * groups.x + group.x;
    if (index >= window.n_tiles || hosts.go == 0.0) {
        return;
    }
    let tile = tile_at(index);
    let t = tensor_at(tile.tensor);
    // @begin level
    // @begin before
    // @end before
    // @begin columns
    for (var c = lid; c < tile.cols; c += WIDTH) {
        // @begin column
        // @end column
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            // @begin element
            let g = grad[window.grad + e];
            param[window.param + e] -= hosts.lr * g;
            // @end element
        }
        // @begin column_done
        // @end column_done
    }
    // @end columns
    // @begin after
    // @end after
    // @end level
}
// @end sweep

// @begin gather
// Adds the column sums of groups of row tiles, where there are many.
@compute @workgroup_size(WIDTH)
fn gather(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let index = group.y * groups.x + group.x;
    if (index >= window.n_gathers || hosts.go == 0.0) {
        return;
    }
    let item = window.gathers + 3u * index;
    let t = tensor_at(table[item]);
    let first = table[item + 1u];
    let end = min(first + t.per_group, t.row_tiles);
    let c = table[item + 2u] + lid;
    let span = t.batch * t.cols;
    if (c < span) {
        // @begin sums
        // @end sums
    }
}
// @end gather

// @begin settle
// The small values between two sweeps: one workgroup for each tensor.
@compute @workgroup_size(SETTLE)
fn settle(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let index = group.y * groups.x + group.x;
    if (index >= window.n_tensors || hosts.go == 0.0) {
        return;
    }
    let t = tensor_at(index);
    // @begin values
    // @end values
}
// @end settle

// The sum over a workgroup of SETTLE threads, in a fixed tree, for its first thread.
fn sum_lanes(lid: u32, x: f32) -> f32 {
    lanes[lid] = x;
    workgroupBarrier();
    for (var half = SETTLE / 2u; half > 0u; half /= 2u) {
        if (lid < half) {
            lanes[lid] += lanes[lid + half];
        }
        workgroupBarrier();
    }
    let total = lanes[0];
    workgroupBarrier();
    return total;
}

// The greatest value over a workgroup of SETTLE threads.
fn max_lanes(lid: u32, x: f32) -> f32 {
    lanes[lid] = x;
    workgroupBarrier();
    for (var half = SETTLE / 2u; half > 0u; half /= 2u) {
        if (lid < half) {
            lanes[lid] = max(lanes[lid], lanes[lid + half]);
        }
        workgroupBarrier();
    }
    let greatest = lanes[0];
    workgroupBarrier();
    return greatest;
}
