// adafactor_torch of a matrix in tiles of whole rows: 24 bytes a parameter in 3 sweeps.
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
    eps1: f32,
    host_24: f32,
    host_29: f32,
    host_41: f32,
    eps2: f32,
    host_52: f32,
    host_61: f32,
    host_69: f32,
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

fn at_37(t: Tensor) -> u32 {
    return t.small + t.batch * t.cols + t.batch * t.rows;
}

fn at_38(t: Tensor) -> u32 {
    return t.small + t.batch + t.batch * t.cols + t.batch * t.rows;
}

fn at_54(t: Tensor) -> u32 {
    return t.small + 2u * t.batch + t.batch * t.cols + t.batch * t.rows;
}

fn at_57(t: Tensor) -> u32 {
    return t.small + 1u + 2u * t.batch + t.batch * t.cols + t.batch * t.rows;
}

fn at_59(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + t.batch * t.cols + t.batch * t.rows;
}

fn at_65(t: Tensor) -> u32 {
    return t.small + 3u + 2u * t.batch + t.batch * t.cols + t.batch * t.rows;
}

fn partials_37(t: Tensor) -> u32 {
    return t.partials;
}

fn partials_21(t: Tensor) -> u32 {
    return t.partials + t.batch * t.row_tiles * t.col_tiles;
}

fn partials_54(t: Tensor) -> u32 {
    return t.partials + t.batch * t.row_tiles * t.col_tiles + t.row_tiles * t.batch * t.cols;
}

fn partials_59(t: Tensor) -> u32 {
    return t.partials + 2u * t.batch * t.row_tiles * t.col_tiles + t.row_tiles * t.batch * t.cols;
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
        row_0[i * WIDTH + lid] = 0.0;
    }
    var sum_54 = 0.0;
    for (var c = lid; c < tile.cols; c += WIDTH) {
        var sum_21 = 0.0;
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v7 = param[window.param + e];
            let v12 = v6 * v6;
            let v53 = v7 * v7;
            row_0[i * WIDTH + lid] += v12;
            sum_21 += v12;
            sum_54 += v53;
        }
        small[partials_21(t) + (tile.down * t.batch + tile.b) * t.cols + tile.col + c] = sum_21;
    }
    lanes[lid] = sum_54;
    workgroupBarrier();
    if (lid == 0u) {
        for (var i = 1u; i < WIDTH; i++) {
            sum_54 += lanes[i];
        }
        small[partials_54(t) + tile.index] = sum_54;
    }
    workgroupBarrier();
    workgroupBarrier();
    var sum_37 = 0.0;
    if (lid < tile.rows) {
        var sum_18 = row_0[lid * WIDTH];
        for (var i = 1u; i < WIDTH; i++) {
            sum_18 += row_0[lid * WIDTH + i];
        }
        let v18 = sum_18 / f32(t.cols);
        let v20 = v18 + 0.0;
        let v23 = small[at_exp_avg_sq_row(t) + tile.row + lid];
        let v26 = select(v20, v23, hosts.host_24 < 0.5);
        let v27 = v20 - v23;
        let v30 = v27 * hosts.host_29;
        let v31 = v26 + v30;
        small[at_exp_avg_sq_row(t) + tile.row + lid] = v31;
        sum_37 += v31;
    }
    workgroupBarrier();
    lanes[lid] = sum_37;
    workgroupBarrier();
    if (lid == 0u) {
        for (var i = 1u; i < tile.rows; i++) {
            sum_37 += lanes[i];
        }
        small[partials_37(t) + tile.index] = sum_37;
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
        var sum_21 = small[partials_21(t) + first * span + c];
        for (var i = first + 1u; i < end; i++) {
            sum_21 += small[partials_21(t) + i * span + c];
        }
        small[partials_21(t) + first * span + c] = sum_21;
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
    var sum_54 = 0.0;
    for (var i = lid; i < t.batch * t.row_tiles * t.col_tiles; i += SETTLE) {
        sum_54 += small[partials_54(t) + i];
    }
    let total_54 = sum_lanes(lid, sum_54);
    if (lid == 0u) {
        small[at_54(t)] = total_54 / (f32(t.batch) * (f32(t.rows) * f32(t.cols)));
    }
    if (t.batch >= SETTLE) {
        for (var b = lid; b < t.batch; b += SETTLE) {
            var sum_37 = 0.0;
            for (var i = 0u; i < t.row_tiles * t.col_tiles; i++) {
                sum_37 += small[partials_37(t) + b * t.row_tiles * t.col_tiles + i];
            }
            small[at_37(t) + b] = sum_37 / f32(t.rows);
        }
    } else {
        for (var b = 0u; b < t.batch; b++) {
            var part = 0.0;
            for (var i = lid; i < t.row_tiles * t.col_tiles; i += SETTLE) {
                part += small[partials_37(t) + b * t.row_tiles * t.col_tiles + i];
            }
            let sum_37 = sum_lanes(lid, part);
            if (lid == 0u) {
                small[at_37(t) + b] = sum_37 / f32(t.rows);
            }
        }
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        var sum_21 = 0.0;
        for (var k = 0u; k < t.row_tiles; k += t.per_group) {
            sum_21 += small[partials_21(t) + k * t.batch * t.cols + i];
        }
        let v21 = sum_21 / f32(t.rows);
        let v22 = v21 + 0.0;
        let v32 = small[at_exp_avg_sq_col(t) + i];
        let v33 = select(v22, v32, hosts.host_24 < 0.5);
        let v34 = v22 - v32;
        let v35 = v34 * hosts.host_29;
        let v36 = v33 + v35;
        small[at_exp_avg_sq_col(t) + i] = v36;
    }
    storageBarrier();
    for (var i = lid; i < 1u; i += SETTLE) {
        let v54 = small[at_54(t)];
        let v55 = sqrt(v54);
        let v56 = max(v55, hosts.eps2);
        let v57 = hosts.host_52 * v56;
        small[at_57(t) + i] = v57;
    }
    for (var i = lid; i < t.batch; i += SETTLE) {
        let v37 = small[at_37(t) + i];
        let v38 = max(v37, hosts.eps1);
        small[at_38(t) + i] = v38;
    }
}

@compute @workgroup_size(WIDTH)
fn sweep_2(
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
    // Level 1.
    let v38 = small[at_38(t) + tile.b];
    var sum_59 = 0.0;
    for (var c = lid; c < tile.cols; c += WIDTH) {
        let v36 = small[at_exp_avg_sq_col(t) + tile.b * t.cols + tile.col + c];
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v31 = small[at_exp_avg_sq_row(t) + tile.row + i];
            let v39 = v31 / v38;
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v12 = v6 * v6;
            let v40 = v39 * v36;
            let v42 = max(v40, hosts.host_41);
            let v58 = v12 / v42;
            sum_59 += v58;
        }
    }
    lanes[lid] = sum_59;
    workgroupBarrier();
    if (lid == 0u) {
        for (var i = 1u; i < WIDTH; i++) {
            sum_59 += lanes[i];
        }
        small[partials_59(t) + tile.index] = sum_59;
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
    if (index >= window.n_tensors || hosts.go == 0.0) {
        return;
    }
    let t = tensor_at(index);
    var sum_59 = 0.0;
    for (var i = lid; i < t.batch * t.row_tiles * t.col_tiles; i += SETTLE) {
        sum_59 += small[partials_59(t) + i];
    }
    let total_59 = sum_lanes(lid, sum_59);
    if (lid == 0u) {
        small[at_59(t)] = total_59 / (f32(t.batch) * (f32(t.rows) * f32(t.cols)));
    }
    storageBarrier();
    for (var i = lid; i < 1u; i += SETTLE) {
        let v59 = small[at_59(t)];
        let v60 = sqrt(v59);
        let v62 = v60 * hosts.host_61;
        let v63 = max(v62, 1.0);
        let v64 = 1.0 / v63;
        let v57 = small[at_57(t)];
        let v65 = v57 * v64;
        small[at_65(t) + i] = v65;
    }
}

@compute @workgroup_size(WIDTH)
fn sweep_3(
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
    // Level 2.
    let v38 = small[at_38(t) + tile.b];
    let v65 = small[at_65(t)];
    for (var c = lid; c < tile.cols; c += WIDTH) {
        let v36 = small[at_exp_avg_sq_col(t) + tile.b * t.cols + tile.col + c];
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v31 = small[at_exp_avg_sq_row(t) + tile.row + i];
            let v39 = v31 / v38;
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v7 = param[window.param + e];
            let v40 = v39 * v36;
            let v42 = max(v40, hosts.host_41);
            let v66 = inverseSqrt(v42);
            let v67 = v6 * v66;
            let v68 = v67 * v65;
            let v70 = v7 * hosts.host_69;
            let v71 = v68 + v70;
            let v72 = v7 - v71;
            param[window.param + e] = v72;
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
