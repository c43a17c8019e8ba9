// adafactor_torch of a matrix in tiles of whole rows: 24 bytes a parameter in 3 sweeps.
// Printed from the definition into shaders/step.wgsl; do not edit.

const WIDTH = 64u;
const ROWS = 16u;
const SETTLE = 256u;
const LOWEST = -3.40282346638528859812e+38f;

// Hyper-parameters and what follows from them, computed once a step in f64.
struct Hosts {
    eps1: f32,
    host_14: f32,
    host_27: f32,
    eps2: f32,
    host_39: f32,
    host_50: f32,
    host_56: f32,
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
    // Its place among the tiles: down, across, and in the tensor.
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

fn at_exp_avg_sq_row(t: Tensor) -> u32 {
    return t.small;
}

fn at_exp_avg_sq_col(t: Tensor) -> u32 {
    return t.small + t.batch * t.rows;
}

fn at_17(t: Tensor) -> u32 {
    return t.small + t.batch * t.cols + t.batch * t.rows;
}

fn at_22(t: Tensor) -> u32 {
    return t.small + t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_23(t: Tensor) -> u32 {
    return t.small + 2u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_24(t: Tensor) -> u32 {
    return t.small + t.batch + 2u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_25(t: Tensor) -> u32 {
    return t.small + 2u * t.batch + 2u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_41(t: Tensor) -> u32 {
    return t.small + 2u * t.batch + 2u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_44(t: Tensor) -> u32 {
    return t.small + 1u + 2u * t.batch + 2u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_48(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 2u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_54(t: Tensor) -> u32 {
    return t.small + 3u + 2u * t.batch + 2u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn partials_12(t: Tensor) -> u32 {
    return t.partials;
}

fn partials_18(t: Tensor) -> u32 {
    return t.partials + t.col_tiles * t.batch * t.rows;
}

fn partials_41(t: Tensor) -> u32 {
    return t.partials + t.col_tiles * t.batch * t.rows + t.row_tiles * t.batch * t.cols;
}

fn partials_48(t: Tensor) -> u32 {
    return t.partials + t.batch * t.row_tiles * t.col_tiles + t.col_tiles * t.batch * t.rows + t.row_tiles * t.batch * t.cols;
}

@compute @workgroup_size(WIDTH)
fn sweep_1(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let index = group.y * groups.x + group.x;
    if (index >= window.n_tiles) {
        return;
    }
    let tile = tile_at(index);
    let t = tensor_at(tile.tensor);
    // Level 0.
    for (var i = 0u; i < tile.rows; i++) {
        row_0[i * WIDTH + lid] = 0.0;
    }
    var sum_41 = 0.0;
    for (var c = lid; c < tile.cols; c += WIDTH) {
        var sum_18 = 0.0;
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v0 = grad[window.grad + e];
            let v1 = param[window.param + e];
            let v6 = v0 * v0;
            let v40 = v1 * v1;
            row_0[i * WIDTH + lid] += v6;
            sum_18 += v6;
            sum_41 += v40;
        }
        small[partials_18(t) + (tile.down * t.batch + tile.b) * t.cols + tile.col + c] = sum_18;
    }
    lanes[lid] = sum_41;
    workgroupBarrier();
    if (lid == 0u) {
        for (var i = 1u; i < WIDTH; i++) {
            sum_41 += lanes[i];
        }
        small[partials_41(t) + tile.index] = sum_41;
    }
    workgroupBarrier();
    workgroupBarrier();
    if (lid < tile.rows) {
        var sum_12 = row_0[lid * WIDTH];
        for (var i = 1u; i < WIDTH; i++) {
            sum_12 += row_0[lid * WIDTH + i];
        }
        small[partials_12(t) + tile.across * t.batch * t.rows + tile.row + lid] = sum_12;
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
    if (index >= window.n_gathers) {
        return;
    }
    let item = window.gathers + 3u * index;
    let t = tensor_at(table[item]);
    let first = table[item + 1u];
    let end = min(first + t.per_group, t.row_tiles);
    let c = table[item + 2u] + lid;
    let span = t.batch * t.cols;
    if (c < span) {
        var sum_18 = small[partials_18(t) + first * span + c];
        for (var i = first + 1u; i < end; i++) {
            sum_18 += small[partials_18(t) + i * span + c];
        }
        small[partials_18(t) + first * span + c] = sum_18;
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
    if (index >= window.n_tensors) {
        return;
    }
    let t = tensor_at(index);
    var sum_41 = 0.0;
    for (var i = lid; i < t.batch * t.row_tiles * t.col_tiles; i += SETTLE) {
        sum_41 += small[partials_41(t) + i];
    }
    let total_41 = sum_lanes(lid, sum_41);
    if (lid == 0u) {
        small[at_41(t)] = total_41 / (f32(t.batch) * (f32(t.rows) * f32(t.cols)));
    }
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        var sum_12 = 0.0;
        for (var k = 0u; k < t.col_tiles; k++) {
            sum_12 += small[partials_12(t) + k * t.batch * t.rows + i];
        }
        let v12 = sum_12 / f32(t.cols);
        let v13 = small[at_exp_avg_sq_row(t) + i];
        let v15 = v12 - v13;
        let v16 = v15 * hosts.host_14;
        let v17 = v13 + v16;
        small[at_17(t) + i] = v17;
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        var sum_18 = 0.0;
        for (var k = 0u; k < t.row_tiles; k += t.per_group) {
            sum_18 += small[partials_18(t) + k * t.batch * t.cols + i];
        }
        let v18 = sum_18 / f32(t.rows);
        let v19 = small[at_exp_avg_sq_col(t) + i];
        let v20 = v18 - v19;
        let v21 = v20 * hosts.host_14;
        let v22 = v19 + v21;
        small[at_22(t) + i] = v22;
    }
    storageBarrier();
    for (var i = lid; i < 1u; i += SETTLE) {
        let v41 = small[at_41(t)];
        let v42 = sqrt(v41);
        let v43 = max(v42, hosts.eps2);
        let v44 = hosts.host_39 * v43;
        small[at_44(t) + i] = v44;
    }
    if (t.batch >= SETTLE) {
        for (var b = lid; b < t.batch; b += SETTLE) {
            var sum_23 = 0.0;
            for (var i = 0u; i < t.rows; i++) {
                sum_23 += small[at_17(t) + b * t.rows + i];
            }
            small[at_23(t) + b] = sum_23 / f32(t.rows);
        }
    } else {
        for (var b = 0u; b < t.batch; b++) {
            var part = 0.0;
            for (var i = lid; i < t.rows; i += SETTLE) {
                part += small[at_17(t) + b * t.rows + i];
            }
            let sum_23 = sum_lanes(lid, part);
            if (lid == 0u) {
                small[at_23(t) + b] = sum_23 / f32(t.rows);
            }
        }
    }
    storageBarrier();
    for (var i = lid; i < t.batch; i += SETTLE) {
        let v23 = small[at_23(t) + i];
        let v24 = max(v23, hosts.eps1);
        small[at_24(t) + i] = v24;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        let v17 = small[at_17(t) + i];
        let v24 = small[at_24(t) + i / t.rows];
        let v25 = v17 / v24;
        small[at_25(t) + i] = v25;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        small[at_exp_avg_sq_row(t) + i] = small[at_17(t) + i];
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        small[at_exp_avg_sq_col(t) + i] = small[at_22(t) + i];
    }
}

@compute @workgroup_size(WIDTH)
fn sweep_2(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let index = group.y * groups.x + group.x;
    if (index >= window.n_tiles) {
        return;
    }
    let tile = tile_at(index);
    let t = tensor_at(tile.tensor);
    // Level 1.
    var sum_48 = 0.0;
    for (var c = lid; c < tile.cols; c += WIDTH) {
        let v22 = small[at_22(t) + tile.b * t.cols + tile.col + c];
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v25 = small[at_25(t) + tile.row + i];
            let v0 = grad[window.grad + e];
            let v26 = v25 * v22;
            let v28 = max(v26, hosts.host_27);
            let v45 = inverseSqrt(v28);
            let v46 = v0 * v45;
            let v47 = v46 * v46;
            sum_48 += v47;
        }
    }
    lanes[lid] = sum_48;
    workgroupBarrier();
    if (lid == 0u) {
        for (var i = 1u; i < WIDTH; i++) {
            sum_48 += lanes[i];
        }
        small[partials_48(t) + tile.index] = sum_48;
    }
    workgroupBarrier();
}

// The small values between two sweeps: one workgroup for each tensor.
@compute @workgroup_size(SETTLE)
fn settle_2(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let index = group.y * groups.x + group.x;
    if (index >= window.n_tensors) {
        return;
    }
    let t = tensor_at(index);
    var sum_48 = 0.0;
    for (var i = lid; i < t.batch * t.row_tiles * t.col_tiles; i += SETTLE) {
        sum_48 += small[partials_48(t) + i];
    }
    let total_48 = sum_lanes(lid, sum_48);
    if (lid == 0u) {
        small[at_48(t)] = total_48 / (f32(t.batch) * (f32(t.rows) * f32(t.cols)));
    }
    storageBarrier();
    for (var i = lid; i < 1u; i += SETTLE) {
        let v48 = small[at_48(t)];
        let v49 = sqrt(v48);
        let v51 = v49 * hosts.host_50;
        let v52 = max(v51, 1.0);
        let v53 = 1.0 / v52;
        let v44 = small[at_44(t)];
        let v54 = v44 * v53;
        small[at_54(t) + i] = v54;
    }
}

@compute @workgroup_size(WIDTH)
fn sweep_3(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let index = group.y * groups.x + group.x;
    if (index >= window.n_tiles) {
        return;
    }
    let tile = tile_at(index);
    let t = tensor_at(tile.tensor);
    // Level 2.
    let v54 = small[at_54(t)];
    for (var c = lid; c < tile.cols; c += WIDTH) {
        let v22 = small[at_22(t) + tile.b * t.cols + tile.col + c];
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v25 = small[at_25(t) + tile.row + i];
            let v0 = grad[window.grad + e];
            let v1 = param[window.param + e];
            let v26 = v25 * v22;
            let v28 = max(v26, hosts.host_27);
            let v45 = inverseSqrt(v28);
            let v46 = v0 * v45;
            let v55 = v46 * v54;
            let v57 = v1 * hosts.host_56;
            let v58 = v55 + v57;
            let v59 = v1 - v58;
            param[window.param + e] = v59;
        }
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
