// adafactor of a matrix in tiles of whole rows: 16 bytes a parameter in 2 sweeps.
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
    host_22: f32,
    host_31: f32,
    host_53: f32,
    host_59: f32,
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
var<workgroup> local_46: array<f32, ROWS>;

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

fn at_34(t: Tensor) -> u32 {
    return t.small + t.batch * t.cols + t.batch * t.rows;
}

fn at_39(t: Tensor) -> u32 {
    return t.small + t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_40(t: Tensor) -> u32 {
    return t.small + 2u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_42(t: Tensor) -> u32 {
    return t.small + t.batch + 2u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_43(t: Tensor) -> u32 {
    return t.small + t.batch + 2u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_48(t: Tensor) -> u32 {
    return t.small + t.batch + 3u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_50(t: Tensor) -> u32 {
    return t.small + t.batch + 4u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_51(t: Tensor) -> u32 {
    return t.small + t.batch + 5u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_57(t: Tensor) -> u32 {
    return t.small + 1u + t.batch + 5u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn partials_35(t: Tensor) -> u32 {
    return t.partials;
}

fn partials_48(t: Tensor) -> u32 {
    return t.partials + t.row_tiles * t.batch * t.cols;
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
    for (var c = lid; c < tile.cols; c += WIDTH) {
        var sum_35 = 0.0;
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v23 = v6 * v6;
            let v24 = v23 + hosts.eps1;
            row_0[i * WIDTH + lid] += v24;
            sum_35 += v24;
        }
        small[partials_35(t) + (tile.down * t.batch + tile.b) * t.cols + tile.col + c] = sum_35;
    }
    workgroupBarrier();
    if (lid < tile.rows) {
        var sum_29 = row_0[lid * WIDTH];
        for (var i = 1u; i < WIDTH; i++) {
            sum_29 += row_0[lid * WIDTH + i];
        }
        let v29 = sum_29 / f32(t.cols);
        let v30 = small[at_exp_avg_sq_row(t) + tile.row + lid];
        let v32 = v29 - v30;
        let v33 = v32 * hosts.host_31;
        let v34 = v30 + v33;
        small[at_34(t) + tile.row + lid] = v34;
        let v46 = 1.0 / v34;
        local_46[lid] = v46;
    }
    workgroupBarrier();
    // Level 1.
    for (var c = lid; c < tile.cols; c += WIDTH) {
        var sum_48 = 0.0;
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v46 = local_46[i];
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v23 = v6 * v6;
            let v47 = v23 * v46;
            sum_48 += v47;
        }
        small[partials_48(t) + (tile.down * t.batch + tile.b) * t.cols + tile.col + c] = sum_48;
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
        var sum_35 = small[partials_35(t) + first * span + c];
        for (var i = first + 1u; i < end; i++) {
            sum_35 += small[partials_35(t) + i * span + c];
        }
        small[partials_35(t) + first * span + c] = sum_35;
        var sum_48 = small[partials_48(t) + first * span + c];
        for (var i = first + 1u; i < end; i++) {
            sum_48 += small[partials_48(t) + i * span + c];
        }
        small[partials_48(t) + first * span + c] = sum_48;
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
    if (t.batch >= SETTLE) {
        for (var b = lid; b < t.batch; b += SETTLE) {
            var sum_40 = 0.0;
            for (var i = 0u; i < t.rows; i++) {
                sum_40 += small[at_34(t) + b * t.rows + i];
            }
            small[at_40(t) + b] = sum_40 / f32(t.rows);
        }
    } else {
        for (var b = 0u; b < t.batch; b++) {
            var part = 0.0;
            for (var i = lid; i < t.rows; i += SETTLE) {
                part += small[at_34(t) + b * t.rows + i];
            }
            let sum_40 = sum_lanes(lid, part);
            if (lid == 0u) {
                small[at_40(t) + b] = sum_40 / f32(t.rows);
            }
        }
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        var sum_35 = 0.0;
        for (var k = 0u; k < t.row_tiles; k += t.per_group) {
            sum_35 += small[partials_35(t) + k * t.batch * t.cols + i];
        }
        let v35 = sum_35 / f32(t.rows);
        let v36 = small[at_exp_avg_sq_col(t) + i];
        let v37 = v35 - v36;
        let v38 = v37 * hosts.host_31;
        let v39 = v36 + v38;
        small[at_39(t) + i] = v39;
        let v43 = inverseSqrt(v39);
        small[at_43(t) + i] = v43;
        var sum_48 = 0.0;
        for (var k = 0u; k < t.row_tiles; k += t.per_group) {
            sum_48 += small[partials_48(t) + k * t.batch * t.cols + i];
        }
        let v48 = sum_48 / f32(t.rows);
        small[at_48(t) + i] = v48;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        let v34 = small[at_34(t) + i];
        let v40 = small[at_40(t) + i / t.rows];
        let v41 = v34 / v40;
        let v42 = inverseSqrt(v41);
        small[at_42(t) + i] = v42;
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        let v40 = small[at_40(t) + i / t.cols];
        let v39 = small[at_39(t) + i];
        let v49 = v40 / v39;
        let v48 = small[at_48(t) + i];
        let v50 = v48 * v49;
        small[at_50(t) + i] = v50;
    }
    storageBarrier();
    var sum_51 = 0.0;
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        sum_51 += small[at_50(t) + i];
    }
    let total_51 = sum_lanes(lid, sum_51);
    if (lid == 0u) {
        small[at_51(t)] = total_51 / (f32(t.batch) * f32(t.cols));
    }
    storageBarrier();
    for (var i = lid; i < 1u; i += SETTLE) {
        let v51 = small[at_51(t)];
        let v52 = sqrt(v51);
        let v54 = v52 * hosts.host_53;
        let v55 = max(v54, 1.0);
        let v56 = 1.0 / v55;
        let v57 = hosts.host_22 * v56;
        small[at_57(t) + i] = v57;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        small[at_exp_avg_sq_row(t) + i] = small[at_34(t) + i];
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        small[at_exp_avg_sq_col(t) + i] = small[at_39(t) + i];
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
    let v57 = small[at_57(t)];
    for (var c = lid; c < tile.cols; c += WIDTH) {
        let v43 = small[at_43(t) + tile.b * t.cols + tile.col + c];
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v42 = small[at_42(t) + tile.row + i];
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v7 = param[window.param + e];
            let v44 = v42 * v43;
            let v45 = v6 * v44;
            let v58 = v45 * v57;
            let v60 = v7 * hosts.host_59;
            let v61 = v58 + v60;
            let v62 = v7 - v61;
            param[window.param + e] = v62;
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
