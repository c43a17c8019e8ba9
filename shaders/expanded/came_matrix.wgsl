// came of a matrix in tiles of whole rows: 28 bytes a parameter in 3 sweeps.
// Printed from the definition into shaders/step.wgsl; do not edit.

const WIDTH = 64u;
const ROWS = 16u;
const SETTLE = 256u;
const LOWEST = -3.40282346638528859812e+38f;

// Hyper-parameters and what follows from them, computed once a step in f64.
struct Hosts {
    eps1: f32,
    eps2: f32,
    host_15: f32,
    host_30: f32,
    host_46: f32,
    host_52: f32,
    host_62: f32,
    host_74: f32,
    host_81: f32,
    host_89: f32,
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
var<workgroup> local_39: array<f32, ROWS>;

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

fn at_exp_avg_res_row(t: Tensor) -> u32 {
    return t.small + t.batch * t.cols + t.batch * t.rows;
}

fn at_exp_avg_res_col(t: Tensor) -> u32 {
    return t.small + t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_18(t: Tensor) -> u32 {
    return t.small + 2u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_23(t: Tensor) -> u32 {
    return t.small + 2u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_31(t: Tensor) -> u32 {
    return t.small + 3u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_32(t: Tensor) -> u32 {
    return t.small + 3u * t.batch * t.cols + 4u * t.batch * t.rows;
}

fn at_33(t: Tensor) -> u32 {
    return t.small + 4u * t.batch * t.cols + 4u * t.batch * t.rows;
}

fn at_35(t: Tensor) -> u32 {
    return t.small + t.batch + 4u * t.batch * t.cols + 4u * t.batch * t.rows;
}

fn at_36(t: Tensor) -> u32 {
    return t.small + t.batch + 4u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_41(t: Tensor) -> u32 {
    return t.small + t.batch + 5u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_43(t: Tensor) -> u32 {
    return t.small + t.batch + 6u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_44(t: Tensor) -> u32 {
    return t.small + t.batch + 7u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_49(t: Tensor) -> u32 {
    return t.small + 1u + t.batch + 7u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_65(t: Tensor) -> u32 {
    return t.small + 2u + t.batch + 7u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_70(t: Tensor) -> u32 {
    return t.small + 2u + t.batch + 7u * t.batch * t.cols + 6u * t.batch * t.rows;
}

fn at_75(t: Tensor) -> u32 {
    return t.small + 2u + t.batch + 8u * t.batch * t.cols + 6u * t.batch * t.rows;
}

fn at_82(t: Tensor) -> u32 {
    return t.small + 2u + t.batch + 8u * t.batch * t.cols + 7u * t.batch * t.rows;
}

fn at_84(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 8u * t.batch * t.cols + 7u * t.batch * t.rows;
}

fn at_85(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 8u * t.batch * t.cols + 8u * t.batch * t.rows;
}

fn partials_19(t: Tensor) -> u32 {
    return t.partials;
}

fn partials_41(t: Tensor) -> u32 {
    return t.partials + t.row_tiles * t.batch * t.cols;
}

fn partials_60(t: Tensor) -> u32 {
    return t.partials + 2u * t.row_tiles * t.batch * t.cols;
}

fn partials_66(t: Tensor) -> u32 {
    return t.partials + t.col_tiles * t.batch * t.rows + 2u * t.row_tiles * t.batch * t.cols;
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
    for (var c = lid; c < tile.cols; c += WIDTH) {
        var sum_19 = 0.0;
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v0 = grad[window.grad + e];
            let v10 = v0 * v0;
            let v11 = v10 + hosts.eps1;
            row_0[i * WIDTH + lid] += v11;
            sum_19 += v11;
        }
        small[partials_19(t) + (tile.down * t.batch + tile.b) * t.cols + tile.col + c] = sum_19;
    }
    workgroupBarrier();
    if (lid < tile.rows) {
        var sum_12 = row_0[lid * WIDTH];
        for (var i = 1u; i < WIDTH; i++) {
            sum_12 += row_0[lid * WIDTH + i];
        }
        let v12 = sum_12 / f32(t.cols);
        let v13 = small[at_exp_avg_sq_row(t) + tile.row + lid];
        let v16 = v12 - v13;
        let v17 = v16 * hosts.host_15;
        let v18 = v13 + v17;
        small[at_18(t) + tile.row + lid] = v18;
        let v31 = v18 * hosts.host_30;
        small[at_31(t) + tile.row + lid] = v31;
        let v39 = 1.0 / v31;
        local_39[lid] = v39;
    }
    workgroupBarrier();
    // Level 1.
    for (var c = lid; c < tile.cols; c += WIDTH) {
        var sum_41 = 0.0;
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v39 = local_39[i];
            let v0 = grad[window.grad + e];
            let v10 = v0 * v0;
            let v40 = v10 * v39;
            sum_41 += v40;
        }
        small[partials_41(t) + (tile.down * t.batch + tile.b) * t.cols + tile.col + c] = sum_41;
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
        var sum_19 = small[partials_19(t) + first * span + c];
        for (var i = first + 1u; i < end; i++) {
            sum_19 += small[partials_19(t) + i * span + c];
        }
        small[partials_19(t) + first * span + c] = sum_19;
        var sum_41 = small[partials_41(t) + first * span + c];
        for (var i = first + 1u; i < end; i++) {
            sum_41 += small[partials_41(t) + i * span + c];
        }
        small[partials_41(t) + first * span + c] = sum_41;
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
    if (t.batch >= SETTLE) {
        for (var b = lid; b < t.batch; b += SETTLE) {
            var sum_33 = 0.0;
            for (var i = 0u; i < t.rows; i++) {
                sum_33 += small[at_31(t) + b * t.rows + i];
            }
            small[at_33(t) + b] = sum_33 / f32(t.rows);
        }
    } else {
        for (var b = 0u; b < t.batch; b++) {
            var part = 0.0;
            for (var i = lid; i < t.rows; i += SETTLE) {
                part += small[at_31(t) + b * t.rows + i];
            }
            let sum_33 = sum_lanes(lid, part);
            if (lid == 0u) {
                small[at_33(t) + b] = sum_33 / f32(t.rows);
            }
        }
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        var sum_19 = 0.0;
        for (var k = 0u; k < t.row_tiles; k += t.per_group) {
            sum_19 += small[partials_19(t) + k * t.batch * t.cols + i];
        }
        let v19 = sum_19 / f32(t.rows);
        let v20 = small[at_exp_avg_sq_col(t) + i];
        let v21 = v19 - v20;
        let v22 = v21 * hosts.host_15;
        let v23 = v20 + v22;
        small[at_23(t) + i] = v23;
        let v32 = v23 * hosts.host_30;
        small[at_32(t) + i] = v32;
        let v36 = inverseSqrt(v32);
        small[at_36(t) + i] = v36;
        var sum_41 = 0.0;
        for (var k = 0u; k < t.row_tiles; k += t.per_group) {
            sum_41 += small[partials_41(t) + k * t.batch * t.cols + i];
        }
        let v41 = sum_41 / f32(t.rows);
        small[at_41(t) + i] = v41;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        let v31 = small[at_31(t) + i];
        let v33 = small[at_33(t) + i / t.rows];
        let v34 = v31 / v33;
        let v35 = inverseSqrt(v34);
        small[at_35(t) + i] = v35;
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        let v33 = small[at_33(t) + i / t.cols];
        let v32 = small[at_32(t) + i];
        let v42 = v33 / v32;
        let v41 = small[at_41(t) + i];
        let v43 = v41 * v42;
        small[at_43(t) + i] = v43;
    }
    storageBarrier();
    var sum_44 = 0.0;
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        sum_44 += small[at_43(t) + i];
    }
    let total_44 = sum_lanes(lid, sum_44);
    if (lid == 0u) {
        small[at_44(t)] = total_44 / (f32(t.batch) * f32(t.cols));
    }
    storageBarrier();
    for (var i = lid; i < 1u; i += SETTLE) {
        let v44 = small[at_44(t)];
        let v45 = sqrt(v44);
        let v47 = v45 * hosts.host_46;
        let v48 = max(v47, 1.0);
        let v49 = 1.0 / v48;
        small[at_49(t) + i] = v49;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        small[at_exp_avg_sq_row(t) + i] = small[at_18(t) + i];
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        small[at_exp_avg_sq_col(t) + i] = small[at_23(t) + i];
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
    // Level 2.
    let v49 = small[at_49(t)];
    for (var i = 0u; i < tile.rows; i++) {
        row_0[i * WIDTH + lid] = 0.0;
    }
    for (var c = lid; c < tile.cols; c += WIDTH) {
        let v36 = small[at_36(t) + tile.b * t.cols + tile.col + c];
        var sum_66 = 0.0;
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v35 = small[at_35(t) + tile.row + i];
            let v0 = grad[window.grad + e];
            let v37 = v35 * v36;
            let v38 = v0 * v37;
            let v50 = v38 * v49;
            let v51 = exp_avg[e];
            let v53 = v50 - v51;
            let v54 = v53 * hosts.host_52;
            let v55 = v51 + v54;
            let v56 = v55;
            let v57 = v50 - v56;
            let v58 = v57 * v57;
            let v59 = v58 + hosts.eps2;
            exp_avg[e] = v56;
            row_0[i * WIDTH + lid] += v59;
            sum_66 += v59;
        }
        small[partials_66(t) + (tile.down * t.batch + tile.b) * t.cols + tile.col + c] = sum_66;
    }
    workgroupBarrier();
    if (lid < tile.rows) {
        var sum_60 = row_0[lid * WIDTH];
        for (var i = 1u; i < WIDTH; i++) {
            sum_60 += row_0[lid * WIDTH + i];
        }
        small[partials_60(t) + tile.across * t.batch * t.rows + tile.row + lid] = sum_60;
    }
    workgroupBarrier();
}

// Adds the column sums of groups of row tiles, where there are many.
@compute @workgroup_size(WIDTH)
fn gather_2(
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
        var sum_66 = small[partials_66(t) + first * span + c];
        for (var i = first + 1u; i < end; i++) {
            sum_66 += small[partials_66(t) + i * span + c];
        }
        small[partials_66(t) + first * span + c] = sum_66;
    }
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
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        var sum_60 = 0.0;
        for (var k = 0u; k < t.col_tiles; k++) {
            sum_60 += small[partials_60(t) + k * t.batch * t.rows + i];
        }
        let v60 = sum_60 / f32(t.cols);
        let v61 = small[at_exp_avg_res_row(t) + i];
        let v63 = v60 - v61;
        let v64 = v63 * hosts.host_62;
        let v65 = v61 + v64;
        small[at_65(t) + i] = v65;
        let v75 = v65 * hosts.host_74;
        small[at_75(t) + i] = v75;
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        var sum_66 = 0.0;
        for (var k = 0u; k < t.row_tiles; k += t.per_group) {
            sum_66 += small[partials_66(t) + k * t.batch * t.cols + i];
        }
        let v66 = sum_66 / f32(t.rows);
        let v67 = small[at_exp_avg_res_col(t) + i];
        let v68 = v66 - v67;
        let v69 = v68 * hosts.host_62;
        let v70 = v67 + v69;
        small[at_70(t) + i] = v70;
        let v76 = v70 * hosts.host_74;
        let v85 = inverseSqrt(v76);
        small[at_85(t) + i] = v85;
    }
    storageBarrier();
    if (t.batch >= SETTLE) {
        for (var b = lid; b < t.batch; b += SETTLE) {
            var sum_82 = 0.0;
            for (var i = 0u; i < t.rows; i++) {
                sum_82 += small[at_75(t) + b * t.rows + i];
            }
            small[at_82(t) + b] = sum_82 / f32(t.rows);
        }
    } else {
        for (var b = 0u; b < t.batch; b++) {
            var part = 0.0;
            for (var i = lid; i < t.rows; i += SETTLE) {
                part += small[at_75(t) + b * t.rows + i];
            }
            let sum_82 = sum_lanes(lid, part);
            if (lid == 0u) {
                small[at_82(t) + b] = sum_82 / f32(t.rows);
            }
        }
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        let v75 = small[at_75(t) + i];
        let v82 = small[at_82(t) + i / t.rows];
        let v83 = v75 / v82;
        let v84 = inverseSqrt(v83);
        small[at_84(t) + i] = v84;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        small[at_exp_avg_res_row(t) + i] = small[at_65(t) + i];
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        small[at_exp_avg_res_col(t) + i] = small[at_70(t) + i];
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
    // Level 3.
    for (var c = lid; c < tile.cols; c += WIDTH) {
        let v85 = small[at_85(t) + tile.b * t.cols + tile.col + c];
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v84 = small[at_84(t) + tile.row + i];
            let v1 = param[window.param + e];
            let v56 = exp_avg[e];
            let v86 = v84 * v85;
            let v87 = v56 * v86;
            let v88 = v87 * hosts.host_81;
            let v90 = v1 * hosts.host_89;
            let v91 = v88 + v90;
            let v92 = v1 - v91;
            param[window.param + e] = v92;
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
