// adafactor_scaled_momentum of a matrix in tiles of whole rows: 28 bytes a parameter in 2 sweeps.
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
    host_55: f32,
    host_68: f32,
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
@group(0) @binding(6) var<storage, read_write> exp_avg: array<f32>;

var<workgroup> lanes: array<f32, SETTLE>;
var<workgroup> row_0: array<f32, WIDTH * ROWS>;
var<workgroup> local_47: array<f32, ROWS>;

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

fn at_42(t: Tensor) -> u32 {
    return t.small + 2u + t.batch * t.cols + t.batch * t.rows;
}

fn at_46(t: Tensor) -> u32 {
    return t.small + 2u + t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_49(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_50(t: Tensor) -> u32 {
    return t.small + 2u + 3u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_52(t: Tensor) -> u32 {
    return t.small + 2u + t.batch + 3u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_53(t: Tensor) -> u32 {
    return t.small + 2u + t.batch + 4u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_59(t: Tensor) -> u32 {
    return t.small + 3u + t.batch + 4u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_61(t: Tensor) -> u32 {
    return t.small + 4u + t.batch + 4u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_62(t: Tensor) -> u32 {
    return t.small + 4u + t.batch + 4u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_63(t: Tensor) -> u32 {
    return t.small + 4u + t.batch + 4u * t.batch * t.cols + 4u * t.batch * t.rows;
}

fn at_73(t: Tensor) -> u32 {
    return t.small + 4u + t.batch + 5u * t.batch * t.cols + 4u * t.batch * t.rows;
}

fn partials_25(t: Tensor) -> u32 {
    return t.partials;
}

fn partials_36(t: Tensor) -> u32 {
    return t.partials + t.batch * t.row_tiles * t.col_tiles;
}

fn partials_49(t: Tensor) -> u32 {
    return t.partials + t.batch * t.row_tiles * t.col_tiles + t.row_tiles * t.batch * t.cols;
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
    if (lid < tile.rows) {
        var sum_34 = row_0[lid * WIDTH];
        for (var i = 1u; i < WIDTH; i++) {
            sum_34 += row_0[lid * WIDTH + i];
        }
        let v34 = sum_34 / f32(t.cols);
        let v35 = v34 + hosts.eps1;
        let v38 = small[at_exp_avg_sq_row(t) + tile.row + lid];
        let v40 = v35 - v38;
        let v41 = v40 * hosts.host_39;
        let v42 = v38 + v41;
        small[at_42(t) + tile.row + lid] = v42;
        let v47 = 1.0 / v42;
        local_47[lid] = v47;
    }
    workgroupBarrier();
    // Level 1.
    for (var c = lid; c < tile.cols; c += WIDTH) {
        var sum_49 = 0.0;
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v47 = local_47[i];
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v29 = v6 * v6;
            let v48 = v29 * v47;
            sum_49 += v48;
        }
        small[partials_49(t) + (tile.down * t.batch + tile.b) * t.cols + tile.col + c] = sum_49;
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
        var sum_49 = small[partials_49(t) + first * span + c];
        for (var i = first + 1u; i < end; i++) {
            sum_49 += small[partials_49(t) + i * span + c];
        }
        small[partials_49(t) + first * span + c] = sum_49;
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
            var sum_50 = 0.0;
            for (var i = 0u; i < t.rows; i++) {
                sum_50 += small[at_42(t) + b * t.rows + i];
            }
            small[at_50(t) + b] = sum_50 / f32(t.rows);
        }
    } else {
        for (var b = 0u; b < t.batch; b++) {
            var part = 0.0;
            for (var i = lid; i < t.rows; i += SETTLE) {
                part += small[at_42(t) + b * t.rows + i];
            }
            let sum_50 = sum_lanes(lid, part);
            if (lid == 0u) {
                small[at_50(t) + b] = sum_50 / f32(t.rows);
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
        let v43 = small[at_exp_avg_sq_col(t) + i];
        let v44 = v37 - v43;
        let v45 = v44 * hosts.host_39;
        let v46 = v43 + v45;
        small[at_46(t) + i] = v46;
        let v63 = inverseSqrt(v46);
        small[at_63(t) + i] = v63;
        var sum_49 = 0.0;
        for (var k = 0u; k < t.row_tiles; k += t.per_group) {
            sum_49 += small[partials_49(t) + k * t.batch * t.cols + i];
        }
        let v49 = sum_49 / f32(t.rows);
        small[at_49(t) + i] = v49;
    }
    storageBarrier();
    for (var i = lid; i < 1u; i += SETTLE) {
        let v25 = small[at_25(t)];
        let v26 = sqrt(v25);
        let v27 = max(v26, hosts.eps2);
        let v28 = hosts.host_23 * v27;
        small[at_28(t) + i] = v28;
        let v73 = v28 * hosts.weight_decay;
        small[at_73(t) + i] = v73;
    }
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        let v42 = small[at_42(t) + i];
        let v50 = small[at_50(t) + i / t.rows];
        let v60 = v42 / v50;
        let v61 = inverseSqrt(v60);
        small[at_61(t) + i] = v61;
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        let v50 = small[at_50(t) + i / t.cols];
        let v46 = small[at_46(t) + i];
        let v51 = v50 / v46;
        let v49 = small[at_49(t) + i];
        let v52 = v49 * v51;
        small[at_52(t) + i] = v52;
    }
    storageBarrier();
    var sum_53 = 0.0;
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        sum_53 += small[at_52(t) + i];
    }
    let total_53 = sum_lanes(lid, sum_53);
    if (lid == 0u) {
        small[at_53(t)] = total_53 / (f32(t.batch) * f32(t.cols));
    }
    storageBarrier();
    for (var i = lid; i < 1u; i += SETTLE) {
        let v53 = small[at_53(t)];
        let v54 = sqrt(v53);
        let v56 = v54 * hosts.host_55;
        let v57 = max(v56, 1.0);
        let v58 = 1.0 / v57;
        let v28 = small[at_28(t)];
        let v59 = v28 * v58;
        small[at_59(t) + i] = v59;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        let v61 = small[at_61(t) + i];
        let v59 = small[at_59(t)];
        let v62 = v61 * v59;
        small[at_62(t) + i] = v62;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        small[at_exp_avg_sq_row(t) + i] = small[at_42(t) + i];
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        small[at_exp_avg_sq_col(t) + i] = small[at_46(t) + i];
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
    let v73 = small[at_73(t)];
    for (var c = lid; c < tile.cols; c += WIDTH) {
        let v63 = small[at_63(t) + tile.b * t.cols + tile.col + c];
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v62 = small[at_62(t) + tile.row + i];
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v7 = param[window.param + e];
            let v64 = v62 * v63;
            let v65 = v6 * v64;
            let v67 = exp_avg[e];
            let v69 = v65 - v67;
            let v70 = v69 * hosts.host_68;
            let v71 = v67 + v70;
            let v72 = v71;
            let v74 = v7 * v73;
            let v75 = v72 + v74;
            let v76 = v7 - v75;
            param[window.param + e] = v76;
            exp_avg[e] = v72;
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
