// came of a matrix in tiles of pieces of rows: 32 bytes a parameter in 4 sweeps.
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
    eps2: f32,
    host_21: f32,
    host_36: f32,
    host_52: f32,
    host_58: f32,
    host_68: f32,
    host_80: f32,
    host_95: f32,
    host_99: f32,
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

fn at_24(t: Tensor) -> u32 {
    return t.small + 2u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_29(t: Tensor) -> u32 {
    return t.small + 2u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_37(t: Tensor) -> u32 {
    return t.small + 3u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_38(t: Tensor) -> u32 {
    return t.small + 3u * t.batch * t.cols + 4u * t.batch * t.rows;
}

fn at_39(t: Tensor) -> u32 {
    return t.small + 4u * t.batch * t.cols + 4u * t.batch * t.rows;
}

fn at_41(t: Tensor) -> u32 {
    return t.small + t.batch + 4u * t.batch * t.cols + 4u * t.batch * t.rows;
}

fn at_42(t: Tensor) -> u32 {
    return t.small + t.batch + 4u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_45(t: Tensor) -> u32 {
    return t.small + t.batch + 5u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_48(t: Tensor) -> u32 {
    return t.small + t.batch + 5u * t.batch * t.cols + 6u * t.batch * t.rows;
}

fn at_49(t: Tensor) -> u32 {
    return t.small + t.batch + 6u * t.batch * t.cols + 6u * t.batch * t.rows;
}

fn at_50(t: Tensor) -> u32 {
    return t.small + t.batch + 7u * t.batch * t.cols + 6u * t.batch * t.rows;
}

fn at_55(t: Tensor) -> u32 {
    return t.small + 1u + t.batch + 7u * t.batch * t.cols + 6u * t.batch * t.rows;
}

fn at_71(t: Tensor) -> u32 {
    return t.small + 2u + t.batch + 7u * t.batch * t.cols + 6u * t.batch * t.rows;
}

fn at_76(t: Tensor) -> u32 {
    return t.small + 2u + t.batch + 7u * t.batch * t.cols + 7u * t.batch * t.rows;
}

fn at_81(t: Tensor) -> u32 {
    return t.small + 2u + t.batch + 8u * t.batch * t.cols + 7u * t.batch * t.rows;
}

fn at_83(t: Tensor) -> u32 {
    return t.small + 2u + t.batch + 8u * t.batch * t.cols + 8u * t.batch * t.rows;
}

fn at_85(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 8u * t.batch * t.cols + 8u * t.batch * t.rows;
}

fn at_87(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 8u * t.batch * t.cols + 9u * t.batch * t.rows;
}

fn partials_18(t: Tensor) -> u32 {
    return t.partials;
}

fn partials_25(t: Tensor) -> u32 {
    return t.partials + t.col_tiles * t.batch * t.rows;
}

fn partials_47(t: Tensor) -> u32 {
    return t.partials + t.col_tiles * t.batch * t.rows + t.row_tiles * t.batch * t.cols;
}

fn partials_66(t: Tensor) -> u32 {
    return t.partials + t.col_tiles * t.batch * t.rows + 2u * t.row_tiles * t.batch * t.cols;
}

fn partials_72(t: Tensor) -> u32 {
    return t.partials + 2u * t.col_tiles * t.batch * t.rows + 2u * t.row_tiles * t.batch * t.cols;
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
        var sum_25 = 0.0;
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v16 = v6 * v6;
            let v17 = v16 + hosts.eps1;
            row_0[i * WIDTH + lid] += v17;
            sum_25 += v17;
        }
        small[partials_25(t) + (tile.down * t.batch + tile.b) * t.cols + tile.col + c] = sum_25;
    }
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
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        var sum_18 = 0.0;
        for (var k = 0u; k < t.col_tiles; k++) {
            sum_18 += small[partials_18(t) + k * t.batch * t.rows + i];
        }
        let v18 = sum_18 / f32(t.cols);
        let v19 = small[at_exp_avg_sq_row(t) + i];
        let v22 = v18 - v19;
        let v23 = v22 * hosts.host_21;
        let v24 = v19 + v23;
        small[at_24(t) + i] = v24;
        let v37 = v24 * hosts.host_36;
        small[at_37(t) + i] = v37;
        let v45 = 1.0 / v37;
        small[at_45(t) + i] = v45;
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        var sum_25 = 0.0;
        for (var k = 0u; k < t.row_tiles; k += t.per_group) {
            sum_25 += small[partials_25(t) + k * t.batch * t.cols + i];
        }
        let v25 = sum_25 / f32(t.rows);
        let v26 = small[at_exp_avg_sq_col(t) + i];
        let v27 = v25 - v26;
        let v28 = v27 * hosts.host_21;
        let v29 = v26 + v28;
        small[at_29(t) + i] = v29;
        let v38 = v29 * hosts.host_36;
        small[at_38(t) + i] = v38;
        let v42 = inverseSqrt(v38);
        small[at_42(t) + i] = v42;
    }
    storageBarrier();
    if (t.batch >= SETTLE) {
        for (var b = lid; b < t.batch; b += SETTLE) {
            var sum_39 = 0.0;
            for (var i = 0u; i < t.rows; i++) {
                sum_39 += small[at_37(t) + b * t.rows + i];
            }
            small[at_39(t) + b] = sum_39 / f32(t.rows);
        }
    } else {
        for (var b = 0u; b < t.batch; b++) {
            var part = 0.0;
            for (var i = lid; i < t.rows; i += SETTLE) {
                part += small[at_37(t) + b * t.rows + i];
            }
            let sum_39 = sum_lanes(lid, part);
            if (lid == 0u) {
                small[at_39(t) + b] = sum_39 / f32(t.rows);
            }
        }
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        let v37 = small[at_37(t) + i];
        let v39 = small[at_39(t) + i / t.rows];
        let v40 = v37 / v39;
        let v41 = inverseSqrt(v40);
        small[at_41(t) + i] = v41;
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        let v39 = small[at_39(t) + i / t.cols];
        let v38 = small[at_38(t) + i];
        let v48 = v39 / v38;
        small[at_48(t) + i] = v48;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        small[at_exp_avg_sq_row(t) + i] = small[at_24(t) + i];
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        small[at_exp_avg_sq_col(t) + i] = small[at_29(t) + i];
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
    for (var c = lid; c < tile.cols; c += WIDTH) {
        var sum_47 = 0.0;
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v45 = small[at_45(t) + tile.row + i];
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v16 = v6 * v6;
            let v46 = v16 * v45;
            sum_47 += v46;
        }
        small[partials_47(t) + (tile.down * t.batch + tile.b) * t.cols + tile.col + c] = sum_47;
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
    if (index >= window.n_tensors || hosts.go == 0.0) {
        return;
    }
    let t = tensor_at(index);
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        var sum_47 = 0.0;
        for (var k = 0u; k < t.row_tiles; k += t.per_group) {
            sum_47 += small[partials_47(t) + k * t.batch * t.cols + i];
        }
        let v47 = sum_47 / f32(t.rows);
        let v48 = small[at_48(t) + i];
        let v49 = v47 * v48;
        small[at_49(t) + i] = v49;
    }
    storageBarrier();
    var sum_50 = 0.0;
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        sum_50 += small[at_49(t) + i];
    }
    let total_50 = sum_lanes(lid, sum_50);
    if (lid == 0u) {
        small[at_50(t)] = total_50 / (f32(t.batch) * f32(t.cols));
    }
    storageBarrier();
    for (var i = lid; i < 1u; i += SETTLE) {
        let v50 = small[at_50(t)];
        let v51 = sqrt(v50);
        let v53 = v51 * hosts.host_52;
        let v54 = max(v53, 1.0);
        let v55 = 1.0 / v54;
        small[at_55(t) + i] = v55;
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
    let v55 = small[at_55(t)];
    for (var i = 0u; i < tile.rows; i++) {
        row_0[i * WIDTH + lid] = 0.0;
    }
    for (var c = lid; c < tile.cols; c += WIDTH) {
        let v42 = small[at_42(t) + tile.b * t.cols + tile.col + c];
        var sum_72 = 0.0;
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v41 = small[at_41(t) + tile.row + i];
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v43 = v41 * v42;
            let v44 = v6 * v43;
            let v56 = v44 * v55;
            let v57 = exp_avg[e];
            let v59 = v56 - v57;
            let v60 = v59 * hosts.host_58;
            let v61 = v57 + v60;
            let v62 = v61;
            let v63 = v56 - v62;
            let v64 = v63 * v63;
            let v65 = v64 + hosts.eps2;
            exp_avg[e] = v62;
            row_0[i * WIDTH + lid] += v65;
            sum_72 += v65;
        }
        small[partials_72(t) + (tile.down * t.batch + tile.b) * t.cols + tile.col + c] = sum_72;
    }
    workgroupBarrier();
    if (lid < tile.rows) {
        var sum_66 = row_0[lid * WIDTH];
        for (var i = 1u; i < WIDTH; i++) {
            sum_66 += row_0[lid * WIDTH + i];
        }
        small[partials_66(t) + tile.across * t.batch * t.rows + tile.row + lid] = sum_66;
    }
    workgroupBarrier();
}

// The small values between two sweeps: one workgroup for each tensor.
@compute @workgroup_size(SETTLE)
fn settle_3(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let index = group.y * groups.x + group.x;
    if (index >= window.n_tensors || hosts.go == 0.0) {
        return;
    }
    let t = tensor_at(index);
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        var sum_66 = 0.0;
        for (var k = 0u; k < t.col_tiles; k++) {
            sum_66 += small[partials_66(t) + k * t.batch * t.rows + i];
        }
        let v66 = sum_66 / f32(t.cols);
        let v67 = small[at_exp_avg_res_row(t) + i];
        let v69 = v66 - v67;
        let v70 = v69 * hosts.host_68;
        let v71 = v67 + v70;
        small[at_71(t) + i] = v71;
        let v81 = v71 * hosts.host_80;
        small[at_81(t) + i] = v81;
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        var sum_72 = 0.0;
        for (var k = 0u; k < t.row_tiles; k += t.per_group) {
            sum_72 += small[partials_72(t) + k * t.batch * t.cols + i];
        }
        let v72 = sum_72 / f32(t.rows);
        let v73 = small[at_exp_avg_res_col(t) + i];
        let v74 = v72 - v73;
        let v75 = v74 * hosts.host_68;
        let v76 = v73 + v75;
        small[at_76(t) + i] = v76;
        let v82 = v76 * hosts.host_80;
        let v87 = inverseSqrt(v82);
        small[at_87(t) + i] = v87;
    }
    storageBarrier();
    if (t.batch >= SETTLE) {
        for (var b = lid; b < t.batch; b += SETTLE) {
            var sum_83 = 0.0;
            for (var i = 0u; i < t.rows; i++) {
                sum_83 += small[at_81(t) + b * t.rows + i];
            }
            small[at_83(t) + b] = sum_83 / f32(t.rows);
        }
    } else {
        for (var b = 0u; b < t.batch; b++) {
            var part = 0.0;
            for (var i = lid; i < t.rows; i += SETTLE) {
                part += small[at_81(t) + b * t.rows + i];
            }
            let sum_83 = sum_lanes(lid, part);
            if (lid == 0u) {
                small[at_83(t) + b] = sum_83 / f32(t.rows);
            }
        }
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        let v81 = small[at_81(t) + i];
        let v83 = small[at_83(t) + i / t.rows];
        let v84 = v81 / v83;
        let v85 = inverseSqrt(v84);
        small[at_85(t) + i] = v85;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        small[at_exp_avg_res_row(t) + i] = small[at_71(t) + i];
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        small[at_exp_avg_res_col(t) + i] = small[at_76(t) + i];
    }
}

@compute @workgroup_size(WIDTH)
fn sweep_4(
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
    // Level 3.
    for (var c = lid; c < tile.cols; c += WIDTH) {
        let v87 = small[at_87(t) + tile.b * t.cols + tile.col + c];
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v85 = small[at_85(t) + tile.row + i];
            let v7 = param[window.param + e];
            let v62 = exp_avg[e];
            let v96 = v85 * v87;
            let v97 = v62 * v96;
            let v98 = v97 * hosts.host_95;
            let v100 = v7 * hosts.host_99;
            let v101 = v98 + v100;
            let v102 = v7 - v101;
            param[window.param + e] = v102;
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
