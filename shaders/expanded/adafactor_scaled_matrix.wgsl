// adafactor_scaled of a matrix in tiles of whole rows: 20 bytes a parameter in 2 sweeps.
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
    weight_decay: f32,
    eps2: f32,
    host_23: f32,
    host_39: f32,
    host_43: f32,
    host_63: f32,
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
var<workgroup> local_52: array<f32, ROWS>;

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

fn at_25(t: Tensor) -> u32 {
    return t.small + t.batch * t.cols + t.batch * t.rows;
}

fn at_28(t: Tensor) -> u32 {
    return t.small + 1u + t.batch * t.cols + t.batch * t.rows;
}

fn at_51(t: Tensor) -> u32 {
    return t.small + 2u + t.batch * t.cols + t.batch * t.rows;
}

fn at_52(t: Tensor) -> u32 {
    return t.small + 2u + t.batch + t.batch * t.cols + t.batch * t.rows;
}

fn at_55(t: Tensor) -> u32 {
    return t.small + 2u + t.batch + t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_56(t: Tensor) -> u32 {
    return t.small + 2u + t.batch + 2u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_57(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 2u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_60(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 3u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_61(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 4u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_67(t: Tensor) -> u32 {
    return t.small + 3u + 2u * t.batch + 4u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_72(t: Tensor) -> u32 {
    return t.small + 4u + 2u * t.batch + 4u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn partials_51(t: Tensor) -> u32 {
    return t.partials;
}

fn partials_25(t: Tensor) -> u32 {
    return t.partials + t.batch * t.row_tiles * t.col_tiles;
}

fn partials_36(t: Tensor) -> u32 {
    return t.partials + 2u * t.batch * t.row_tiles * t.col_tiles;
}

fn partials_55(t: Tensor) -> u32 {
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
    var sum_25 = 0.0;
    for (var i = 0u; i < tile.rows; i++) {
        row_0[i * WIDTH + lid] = 0.0;
    }
    for (var c = lid; c < tile.cols; c += WIDTH) {
        var sum_36 = 0.0;
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v7 = param[window.param + e];
            let v24 = v7 * v7;
            let v29 = v6 * v6;
            sum_25 += v24;
            row_0[i * WIDTH + lid] += v29;
            sum_36 += v29;
        }
        small[partials_36(t) + (tile.down * t.batch + tile.b) * t.cols + tile.col + c] = sum_36;
    }
    lanes[lid] = sum_25;
    workgroupBarrier();
    if (lid == 0u) {
        for (var i = 1u; i < WIDTH; i++) {
            sum_25 += lanes[i];
        }
        small[partials_25(t) + tile.index] = sum_25;
    }
    workgroupBarrier();
    workgroupBarrier();
    var sum_51 = 0.0;
    if (lid < tile.rows) {
        var sum_34 = row_0[lid * WIDTH];
        for (var i = 1u; i < WIDTH; i++) {
            sum_34 += row_0[lid * WIDTH + i];
        }
        let v34 = sum_34 / f32(t.cols);
        let v35 = v34 + hosts.eps1;
        let v38 = small[at_exp_avg_sq_row(t) + tile.row + lid];
        let v40 = select(v35, v38, hosts.host_39 < 0.5);
        let v41 = v35 - v38;
        let v44 = v41 * hosts.host_43;
        let v45 = v40 + v44;
        small[at_exp_avg_sq_row(t) + tile.row + lid] = v45;
        sum_51 += v45;
        let v52 = inverseSqrt(v45);
        small[at_52(t) + tile.row + lid] = v52;
        local_52[lid] = v52;
    }
    workgroupBarrier();
    lanes[lid] = sum_51;
    workgroupBarrier();
    if (lid == 0u) {
        for (var i = 1u; i < tile.rows; i++) {
            sum_51 += lanes[i];
        }
        small[partials_51(t) + tile.index] = sum_51;
    }
    workgroupBarrier();
    // Level 1.
    for (var c = lid; c < tile.cols; c += WIDTH) {
        var sum_55 = 0.0;
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v52 = local_52[i];
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v53 = v6 * v52;
            let v54 = v53 * v53;
            sum_55 += v54;
        }
        small[partials_55(t) + (tile.down * t.batch + tile.b) * t.cols + tile.col + c] = sum_55;
    }
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
        var sum_36 = small[partials_36(t) + first * span + c];
        for (var i = first + 1u; i < end; i++) {
            sum_36 += small[partials_36(t) + i * span + c];
        }
        small[partials_36(t) + first * span + c] = sum_36;
        var sum_55 = small[partials_55(t) + first * span + c];
        for (var i = first + 1u; i < end; i++) {
            sum_55 += small[partials_55(t) + i * span + c];
        }
        small[partials_55(t) + first * span + c] = sum_55;
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
    var sum_25 = 0.0;
    for (var i = lid; i < t.batch * t.row_tiles * t.col_tiles; i += SETTLE) {
        sum_25 += small[partials_25(t) + i];
    }
    let total_25 = sum_lanes(lid, sum_25);
    if (lid == 0u) {
        small[at_25(t)] = total_25 / (f32(t.batch) * (f32(t.rows) * f32(t.cols)));
    }
    if (t.batch >= SETTLE) {
        for (var b = lid; b < t.batch; b += SETTLE) {
            var sum_51 = 0.0;
            for (var i = 0u; i < t.row_tiles * t.col_tiles; i++) {
                sum_51 += small[partials_51(t) + b * t.row_tiles * t.col_tiles + i];
            }
            small[at_51(t) + b] = sum_51 / f32(t.rows);
        }
    } else {
        for (var b = 0u; b < t.batch; b++) {
            var part = 0.0;
            for (var i = lid; i < t.row_tiles * t.col_tiles; i += SETTLE) {
                part += small[partials_51(t) + b * t.row_tiles * t.col_tiles + i];
            }
            let sum_51 = sum_lanes(lid, part);
            if (lid == 0u) {
                small[at_51(t) + b] = sum_51 / f32(t.rows);
            }
        }
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        var sum_36 = 0.0;
        for (var k = 0u; k < t.row_tiles; k += t.per_group) {
            sum_36 += small[partials_36(t) + k * t.batch * t.cols + i];
        }
        let v36 = sum_36 / f32(t.rows);
        let v37 = v36 + hosts.eps1;
        let v46 = small[at_exp_avg_sq_col(t) + i];
        let v47 = select(v37, v46, hosts.host_39 < 0.5);
        let v48 = v37 - v46;
        let v49 = v48 * hosts.host_43;
        let v50 = v47 + v49;
        small[at_exp_avg_sq_col(t) + i] = v50;
        let v57 = inverseSqrt(v50);
        small[at_57(t) + i] = v57;
        var sum_55 = 0.0;
        for (var k = 0u; k < t.row_tiles; k += t.per_group) {
            sum_55 += small[partials_55(t) + k * t.batch * t.cols + i];
        }
        let v55 = sum_55 / f32(t.rows);
        small[at_55(t) + i] = v55;
    }
    storageBarrier();
    for (var i = lid; i < 1u; i += SETTLE) {
        let v25 = small[at_25(t)];
        let v26 = sqrt(v25);
        let v27 = max(v26, hosts.eps2);
        let v28 = hosts.host_23 * v27;
        small[at_28(t) + i] = v28;
        let v72 = v28 * hosts.weight_decay;
        small[at_72(t) + i] = v72;
    }
    for (var i = lid; i < t.batch; i += SETTLE) {
        let v51 = small[at_51(t) + i];
        let v56 = sqrt(v51);
        small[at_56(t) + i] = v56;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        let v56 = small[at_56(t) + i / t.cols];
        let v57 = small[at_57(t) + i];
        let v58 = v56 * v57;
        let v55 = small[at_55(t) + i];
        let v59 = v55 * v58;
        let v60 = v59 * v58;
        small[at_60(t) + i] = v60;
    }
    storageBarrier();
    var sum_61 = 0.0;
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        sum_61 += small[at_60(t) + i];
    }
    let total_61 = sum_lanes(lid, sum_61);
    if (lid == 0u) {
        small[at_61(t)] = total_61 / (f32(t.batch) * f32(t.cols));
    }
    storageBarrier();
    for (var i = lid; i < 1u; i += SETTLE) {
        let v61 = small[at_61(t)];
        let v62 = sqrt(v61);
        let v64 = v62 * hosts.host_63;
        let v65 = max(v64, 1.0);
        let v66 = 1.0 / v65;
        let v28 = small[at_28(t)];
        let v67 = v28 * v66;
        small[at_67(t) + i] = v67;
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
    // Level 2.
    let v56 = small[at_56(t) + tile.b];
    let v67 = small[at_67(t)];
    let v72 = small[at_72(t)];
    for (var c = lid; c < tile.cols; c += WIDTH) {
        let v57 = small[at_57(t) + tile.b * t.cols + tile.col + c];
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v52 = small[at_52(t) + tile.row + i];
            let v68 = v56 * v52;
            let v69 = v68 * v67;
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v7 = param[window.param + e];
            let v70 = v6 * v69;
            let v71 = v70 * v57;
            let v73 = v7 * v72;
            let v74 = v71 + v73;
            let v75 = v7 - v74;
            param[window.param + e] = v75;
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
