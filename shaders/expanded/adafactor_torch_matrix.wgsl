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
    host_36: f32,
    eps2: f32,
    host_48: f32,
    host_59: f32,
    host_65: f32,
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

fn at_27(t: Tensor) -> u32 {
    return t.small + t.batch * t.cols + t.batch * t.rows;
}

fn at_31(t: Tensor) -> u32 {
    return t.small + t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_32(t: Tensor) -> u32 {
    return t.small + 2u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_33(t: Tensor) -> u32 {
    return t.small + t.batch + 2u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_34(t: Tensor) -> u32 {
    return t.small + 2u * t.batch + 2u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_50(t: Tensor) -> u32 {
    return t.small + 2u * t.batch + 2u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_53(t: Tensor) -> u32 {
    return t.small + 1u + 2u * t.batch + 2u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_57(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 2u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_63(t: Tensor) -> u32 {
    return t.small + 3u + 2u * t.batch + 2u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn partials_18(t: Tensor) -> u32 {
    return t.partials;
}

fn partials_21(t: Tensor) -> u32 {
    return t.partials + t.col_tiles * t.batch * t.rows;
}

fn partials_50(t: Tensor) -> u32 {
    return t.partials + t.col_tiles * t.batch * t.rows + t.row_tiles * t.batch * t.cols;
}

fn partials_57(t: Tensor) -> u32 {
    return t.partials + t.batch * t.row_tiles * t.col_tiles + t.col_tiles * t.batch * t.rows + t.row_tiles * t.batch * t.cols;
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
    var sum_50 = 0.0;
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
            let v49 = v7 * v7;
            row_0[i * WIDTH + lid] += v12;
            sum_21 += v12;
            sum_50 += v49;
        }
        small[partials_21(t) + (tile.down * t.batch + tile.b) * t.cols + tile.col + c] = sum_21;
    }
    lanes[lid] = sum_50;
    workgroupBarrier();
    if (lid == 0u) {
        for (var i = 1u; i < WIDTH; i++) {
            sum_50 += lanes[i];
        }
        small[partials_50(t) + tile.index] = sum_50;
    }
    workgroupBarrier();
    workgroupBarrier();
    if (lid < tile.rows) {
        var sum_18 = row_0[lid * WIDTH];
        for (var i = 1u; i < WIDTH; i++) {
            sum_18 += row_0[lid * WIDTH + i];
        }
        small[partials_18(t) + tile.across * t.batch * t.rows + tile.row + lid] = sum_18;
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
    var sum_50 = 0.0;
    for (var i = lid; i < t.batch * t.row_tiles * t.col_tiles; i += SETTLE) {
        sum_50 += small[partials_50(t) + i];
    }
    let total_50 = sum_lanes(lid, sum_50);
    if (lid == 0u) {
        small[at_50(t)] = total_50 / (f32(t.batch) * (f32(t.rows) * f32(t.cols)));
    }
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        var sum_18 = 0.0;
        for (var k = 0u; k < t.col_tiles; k++) {
            sum_18 += small[partials_18(t) + k * t.batch * t.rows + i];
        }
        let v18 = sum_18 / f32(t.cols);
        let v20 = v18 + 0.0;
        let v23 = small[at_exp_avg_sq_row(t) + i];
        let v25 = v20 - v23;
        let v26 = v25 * hosts.host_24;
        let v27 = v23 + v26;
        small[at_27(t) + i] = v27;
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        var sum_21 = 0.0;
        for (var k = 0u; k < t.row_tiles; k += t.per_group) {
            sum_21 += small[partials_21(t) + k * t.batch * t.cols + i];
        }
        let v21 = sum_21 / f32(t.rows);
        let v22 = v21 + 0.0;
        let v28 = small[at_exp_avg_sq_col(t) + i];
        let v29 = v22 - v28;
        let v30 = v29 * hosts.host_24;
        let v31 = v28 + v30;
        small[at_31(t) + i] = v31;
    }
    storageBarrier();
    for (var i = lid; i < 1u; i += SETTLE) {
        let v50 = small[at_50(t)];
        let v51 = sqrt(v50);
        let v52 = max(v51, hosts.eps2);
        let v53 = hosts.host_48 * v52;
        small[at_53(t) + i] = v53;
    }
    if (t.batch >= SETTLE) {
        for (var b = lid; b < t.batch; b += SETTLE) {
            var sum_32 = 0.0;
            for (var i = 0u; i < t.rows; i++) {
                sum_32 += small[at_27(t) + b * t.rows + i];
            }
            small[at_32(t) + b] = sum_32 / f32(t.rows);
        }
    } else {
        for (var b = 0u; b < t.batch; b++) {
            var part = 0.0;
            for (var i = lid; i < t.rows; i += SETTLE) {
                part += small[at_27(t) + b * t.rows + i];
            }
            let sum_32 = sum_lanes(lid, part);
            if (lid == 0u) {
                small[at_32(t) + b] = sum_32 / f32(t.rows);
            }
        }
    }
    storageBarrier();
    for (var i = lid; i < t.batch; i += SETTLE) {
        let v32 = small[at_32(t) + i];
        let v33 = max(v32, hosts.eps1);
        small[at_33(t) + i] = v33;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        let v27 = small[at_27(t) + i];
        let v33 = small[at_33(t) + i / t.rows];
        let v34 = v27 / v33;
        small[at_34(t) + i] = v34;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        small[at_exp_avg_sq_row(t) + i] = small[at_27(t) + i];
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        small[at_exp_avg_sq_col(t) + i] = small[at_31(t) + i];
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
    var sum_57 = 0.0;
    for (var c = lid; c < tile.cols; c += WIDTH) {
        let v31 = small[at_31(t) + tile.b * t.cols + tile.col + c];
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v34 = small[at_34(t) + tile.row + i];
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v35 = v34 * v31;
            let v37 = max(v35, hosts.host_36);
            let v54 = inverseSqrt(v37);
            let v55 = v6 * v54;
            let v56 = v55 * v55;
            sum_57 += v56;
        }
    }
    lanes[lid] = sum_57;
    workgroupBarrier();
    if (lid == 0u) {
        for (var i = 1u; i < WIDTH; i++) {
            sum_57 += lanes[i];
        }
        small[partials_57(t) + tile.index] = sum_57;
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
    var sum_57 = 0.0;
    for (var i = lid; i < t.batch * t.row_tiles * t.col_tiles; i += SETTLE) {
        sum_57 += small[partials_57(t) + i];
    }
    let total_57 = sum_lanes(lid, sum_57);
    if (lid == 0u) {
        small[at_57(t)] = total_57 / (f32(t.batch) * (f32(t.rows) * f32(t.cols)));
    }
    storageBarrier();
    for (var i = lid; i < 1u; i += SETTLE) {
        let v57 = small[at_57(t)];
        let v58 = sqrt(v57);
        let v60 = v58 * hosts.host_59;
        let v61 = max(v60, 1.0);
        let v62 = 1.0 / v61;
        let v53 = small[at_53(t)];
        let v63 = v53 * v62;
        small[at_63(t) + i] = v63;
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
    let v63 = small[at_63(t)];
    for (var c = lid; c < tile.cols; c += WIDTH) {
        let v31 = small[at_31(t) + tile.b * t.cols + tile.col + c];
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v34 = small[at_34(t) + tile.row + i];
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v7 = param[window.param + e];
            let v35 = v34 * v31;
            let v37 = max(v35, hosts.host_36);
            let v54 = inverseSqrt(v37);
            let v55 = v6 * v54;
            let v64 = v55 * v63;
            let v66 = v7 * hosts.host_65;
            let v67 = v64 + v66;
            let v68 = v7 - v67;
            param[window.param + e] = v68;
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
