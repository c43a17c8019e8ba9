// sm3_momentum of a matrix in tiles of whole rows: 20 bytes a parameter in 1 sweeps.
// Printed from the definition into shaders/step.wgsl; do not edit.

const WIDTH = 64u;
const ROWS = 16u;
const SETTLE = 256u;
const EXPONENT = 0x7f800000u;
const LOWEST = -3.40282346638528859812e+38f;

// Hyper-parameters and what follows from them, computed once a step in f64.
struct Hosts {
    // 0: the step is skipped, nothing is written.
    go: f32,
    grad_min: f32,
    grad_max: f32,
    grad_scale: f32,
    lr: f32,
    eps: f32,
    host_23: f32,
    host_28: f32,
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
@group(0) @binding(4) var<storage, read> grad: array<f32>;
@group(0) @binding(5) var<storage, read_write> param: array<f32>;
@group(0) @binding(6) var<storage, read_write> momentum_buffer: array<f32>;

var<workgroup> lanes: array<f32, SETTLE>;
var<workgroup> row_0: array<f32, WIDTH * ROWS>;

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

fn at_accumulator_0(t: Tensor) -> u32 {
    return t.small;
}

fn at_accumulator_1(t: Tensor) -> u32 {
    return t.small + t.batch * t.rows;
}

fn partials_16(t: Tensor) -> u32 {
    return t.partials;
}

@compute @workgroup_size(WIDTH)
fn sweep_1(
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
    // Level 0.
    for (var i = 0u; i < tile.rows; i++) {
        row_0[i * WIDTH + lid] = LOWEST;
    }
    for (var c = lid; c < tile.cols; c += WIDTH) {
        let v12 = small[at_accumulator_1(t) + tile.b * t.cols + tile.col + c];
        var sum_16 = LOWEST;
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v11 = small[at_accumulator_0(t) + tile.row + i];
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v7 = param[window.param + e];
            let v10 = v6 * v6;
            let v13 = min(v11, v12);
            let v14 = v13 + v10;
            let v17 = v14 + hosts.eps;
            let v18 = inverseSqrt(v17);
            let v19 = v6 * v18;
            let v21 = momentum_buffer[e];
            let v25 = select(v19, v21, hosts.host_23 < 0.5);
            let v26 = v19 - v21;
            let v29 = v26 * hosts.host_28;
            let v30 = v25 + v29;
            let v31 = v30;
            let v32 = v31 * hosts.lr;
            let v33 = v7 - v32;
            param[window.param + e] = v33;
            momentum_buffer[e] = v31;
            row_0[i * WIDTH + lid] = max(row_0[i * WIDTH + lid], v14);
            sum_16 = max(sum_16, v14);
        }
        small[partials_16(t) + (tile.down * t.batch + tile.b) * t.cols + tile.col + c] = sum_16;
    }
    storageBarrier();
    workgroupBarrier();
    if (lid < tile.rows) {
        var sum_15 = row_0[lid * WIDTH];
        for (var i = 1u; i < WIDTH; i++) {
            sum_15 = max(sum_15, row_0[lid * WIDTH + i]);
        }
        let v15 = sum_15;
        small[at_accumulator_0(t) + tile.row + lid] = v15;
    }
    workgroupBarrier();
}

// Adds the column sums of groups of row tiles, where there are many.
@compute @workgroup_size(WIDTH)
fn gather_1(
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
        var sum_16 = small[partials_16(t) + first * span + c];
        for (var i = first + 1u; i < end; i++) {
            sum_16 = max(sum_16, small[partials_16(t) + i * span + c]);
        }
        small[partials_16(t) + first * span + c] = sum_16;
    }
}

// The small values between two sweeps: one workgroup for each tensor.
@compute @workgroup_size(SETTLE)
fn settle_1(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let index = group.y * groups.x + group.x;
    if (index >= window.n_tensors || hosts.go == 0.0) {
        return;
    }
    let t = tensor_at(index);
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        var sum_16 = LOWEST;
        for (var k = 0u; k < t.row_tiles; k += t.per_group) {
            sum_16 = max(sum_16, small[partials_16(t) + k * t.batch * t.cols + i]);
        }
        let v16 = sum_16;
        small[at_accumulator_1(t) + i] = v16;
    }
}

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
