// came of a matrix in tiles of whole rows: 28 bytes a parameter in 3 sweeps.
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
    host_23: f32,
    host_28: f32,
    host_41: f32,
    host_56: f32,
    host_65: f32,
    host_69: f32,
    host_80: f32,
    host_84: f32,
    host_95: f32,
    host_111: f32,
    host_115: f32,
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
@group(0) @binding(6) var<storage, read_write> exp_avg: array<f32>;

var<workgroup> lanes: array<f32, SETTLE>;
var<workgroup> row_0: array<f32, WIDTH * ROWS>;
var<workgroup> local_44: array<f32, ROWS>;

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

fn at_30(t: Tensor) -> u32 {
    return t.small + 2u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_35(t: Tensor) -> u32 {
    return t.small + 2u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_42(t: Tensor) -> u32 {
    return t.small + 3u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_44(t: Tensor) -> u32 {
    return t.small + 3u * t.batch * t.cols + 4u * t.batch * t.rows;
}

fn at_47(t: Tensor) -> u32 {
    return t.small + 3u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_48(t: Tensor) -> u32 {
    return t.small + 4u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_49(t: Tensor) -> u32 {
    return t.small + t.batch + 4u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_50(t: Tensor) -> u32 {
    return t.small + 2u * t.batch + 4u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_53(t: Tensor) -> u32 {
    return t.small + 2u * t.batch + 5u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_54(t: Tensor) -> u32 {
    return t.small + 2u * t.batch + 6u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_59(t: Tensor) -> u32 {
    return t.small + 1u + 2u * t.batch + 6u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_60(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 6u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_61(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 6u * t.batch * t.cols + 6u * t.batch * t.rows;
}

fn at_86(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 6u * t.batch * t.cols + 7u * t.batch * t.rows;
}

fn at_91(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 6u * t.batch * t.cols + 8u * t.batch * t.rows;
}

fn at_96(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 7u * t.batch * t.cols + 8u * t.batch * t.rows;
}

fn at_98(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 7u * t.batch * t.cols + 9u * t.batch * t.rows;
}

fn at_99(t: Tensor) -> u32 {
    return t.small + 2u + 3u * t.batch + 7u * t.batch * t.cols + 9u * t.batch * t.rows;
}

fn at_100(t: Tensor) -> u32 {
    return t.small + 2u + 4u * t.batch + 7u * t.batch * t.cols + 9u * t.batch * t.rows;
}

fn at_102(t: Tensor) -> u32 {
    return t.small + 2u + 4u * t.batch + 7u * t.batch * t.cols + 10u * t.batch * t.rows;
}

fn at_112(t: Tensor) -> u32 {
    return t.small + 2u + 4u * t.batch + 8u * t.batch * t.cols + 10u * t.batch * t.rows;
}

fn partials_19(t: Tensor) -> u32 {
    return t.partials;
}

fn partials_47(t: Tensor) -> u32 {
    return t.partials + t.row_tiles * t.batch * t.cols;
}

fn partials_75(t: Tensor) -> u32 {
    return t.partials + 2u * t.row_tiles * t.batch * t.cols;
}

fn partials_77(t: Tensor) -> u32 {
    return t.partials + t.col_tiles * t.batch * t.rows + 2u * t.row_tiles * t.batch * t.cols;
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
        var sum_19 = 0.0;
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v16 = v6 * v6;
            row_0[i * WIDTH + lid] += v16;
            sum_19 += v16;
        }
        small[partials_19(t) + (tile.down * t.batch + tile.b) * t.cols + tile.col + c] = sum_19;
    }
    workgroupBarrier();
    if (lid < tile.rows) {
        var sum_17 = row_0[lid * WIDTH];
        for (var i = 1u; i < WIDTH; i++) {
            sum_17 += row_0[lid * WIDTH + i];
        }
        let v17 = sum_17 / f32(t.cols);
        let v18 = v17 + hosts.eps1;
        let v21 = small[at_exp_avg_sq_row(t) + tile.row + lid];
        let v25 = select(v18, v21, hosts.host_23 < 0.5);
        let v26 = v18 - v21;
        let v29 = v26 * hosts.host_28;
        let v30 = v25 + v29;
        small[at_30(t) + tile.row + lid] = v30;
        let v42 = v30 * hosts.host_41;
        small[at_42(t) + tile.row + lid] = v42;
        let v44 = inverseSqrt(v42);
        local_44[lid] = v44;
        small[at_44(t) + tile.row + lid] = v44;
    }
    workgroupBarrier();
    // Level 1.
    for (var c = lid; c < tile.cols; c += WIDTH) {
        var sum_47 = 0.0;
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v44 = local_44[i];
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v45 = v6 * v44;
            let v46 = v45 * v45;
            sum_47 += v46;
        }
        small[partials_47(t) + (tile.down * t.batch + tile.b) * t.cols + tile.col + c] = sum_47;
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
        var sum_19 = small[partials_19(t) + first * span + c];
        for (var i = first + 1u; i < end; i++) {
            sum_19 += small[partials_19(t) + i * span + c];
        }
        small[partials_19(t) + first * span + c] = sum_19;
        var sum_47 = small[partials_47(t) + first * span + c];
        for (var i = first + 1u; i < end; i++) {
            sum_47 += small[partials_47(t) + i * span + c];
        }
        small[partials_47(t) + first * span + c] = sum_47;
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
            var sum_48 = 0.0;
            for (var i = 0u; i < t.rows; i++) {
                sum_48 += small[at_42(t) + b * t.rows + i];
            }
            small[at_48(t) + b] = sum_48 / f32(t.rows);
        }
    } else {
        for (var b = 0u; b < t.batch; b++) {
            var part = 0.0;
            for (var i = lid; i < t.rows; i += SETTLE) {
                part += small[at_42(t) + b * t.rows + i];
            }
            let sum_48 = sum_lanes(lid, part);
            if (lid == 0u) {
                small[at_48(t) + b] = sum_48 / f32(t.rows);
            }
        }
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        var sum_19 = 0.0;
        for (var k = 0u; k < t.row_tiles; k += t.per_group) {
            sum_19 += small[partials_19(t) + k * t.batch * t.cols + i];
        }
        let v19 = sum_19 / f32(t.rows);
        let v20 = v19 + hosts.eps1;
        let v31 = small[at_exp_avg_sq_col(t) + i];
        let v32 = select(v20, v31, hosts.host_23 < 0.5);
        let v33 = v20 - v31;
        let v34 = v33 * hosts.host_28;
        let v35 = v32 + v34;
        small[at_35(t) + i] = v35;
        let v43 = v35 * hosts.host_41;
        let v50 = inverseSqrt(v43);
        small[at_50(t) + i] = v50;
        var sum_47 = 0.0;
        for (var k = 0u; k < t.row_tiles; k += t.per_group) {
            sum_47 += small[partials_47(t) + k * t.batch * t.cols + i];
        }
        let v47 = sum_47 / f32(t.rows);
        small[at_47(t) + i] = v47;
    }
    storageBarrier();
    for (var i = lid; i < t.batch; i += SETTLE) {
        let v48 = small[at_48(t) + i];
        let v49 = sqrt(v48);
        small[at_49(t) + i] = v49;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        let v49 = small[at_49(t) + i / t.rows];
        let v44 = small[at_44(t) + i];
        let v60 = v49 * v44;
        small[at_60(t) + i] = v60;
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        let v49 = small[at_49(t) + i / t.cols];
        let v50 = small[at_50(t) + i];
        let v51 = v49 * v50;
        let v47 = small[at_47(t) + i];
        let v52 = v47 * v51;
        let v53 = v52 * v51;
        small[at_53(t) + i] = v53;
    }
    storageBarrier();
    var sum_54 = 0.0;
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        sum_54 += small[at_53(t) + i];
    }
    let total_54 = sum_lanes(lid, sum_54);
    if (lid == 0u) {
        small[at_54(t)] = total_54 / (f32(t.batch) * f32(t.cols));
    }
    storageBarrier();
    for (var i = lid; i < 1u; i += SETTLE) {
        let v54 = small[at_54(t)];
        let v55 = sqrt(v54);
        let v57 = v55 * hosts.host_56;
        let v58 = max(v57, 1.0);
        let v59 = 1.0 / v58;
        small[at_59(t) + i] = v59;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        let v60 = small[at_60(t) + i];
        let v59 = small[at_59(t)];
        let v61 = v60 * v59;
        small[at_61(t) + i] = v61;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        small[at_exp_avg_sq_row(t) + i] = small[at_30(t) + i];
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        small[at_exp_avg_sq_col(t) + i] = small[at_35(t) + i];
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
    for (var i = 0u; i < tile.rows; i++) {
        row_0[i * WIDTH + lid] = 0.0;
    }
    for (var c = lid; c < tile.cols; c += WIDTH) {
        let v50 = small[at_50(t) + tile.b * t.cols + tile.col + c];
        var sum_77 = 0.0;
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v61 = small[at_61(t) + tile.row + i];
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v62 = v6 * v61;
            let v63 = v62 * v50;
            let v64 = exp_avg[e];
            let v66 = select(v63, v64, hosts.host_65 < 0.5);
            let v67 = v63 - v64;
            let v70 = v67 * hosts.host_69;
            let v71 = v66 + v70;
            let v72 = v71;
            let v73 = v63 - v72;
            let v74 = v73 * v73;
            exp_avg[e] = v72;
            row_0[i * WIDTH + lid] += v74;
            sum_77 += v74;
        }
        small[partials_77(t) + (tile.down * t.batch + tile.b) * t.cols + tile.col + c] = sum_77;
    }
    workgroupBarrier();
    if (lid < tile.rows) {
        var sum_75 = row_0[lid * WIDTH];
        for (var i = 1u; i < WIDTH; i++) {
            sum_75 += row_0[lid * WIDTH + i];
        }
        small[partials_75(t) + tile.across * t.batch * t.rows + tile.row + lid] = sum_75;
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
        var sum_77 = small[partials_77(t) + first * span + c];
        for (var i = first + 1u; i < end; i++) {
            sum_77 += small[partials_77(t) + i * span + c];
        }
        small[partials_77(t) + first * span + c] = sum_77;
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
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        var sum_75 = 0.0;
        for (var k = 0u; k < t.col_tiles; k++) {
            sum_75 += small[partials_75(t) + k * t.batch * t.rows + i];
        }
        let v75 = sum_75 / f32(t.cols);
        let v76 = v75 + hosts.eps2;
        let v79 = small[at_exp_avg_res_row(t) + i];
        let v81 = select(v76, v79, hosts.host_80 < 0.5);
        let v82 = v76 - v79;
        let v85 = v82 * hosts.host_84;
        let v86 = v81 + v85;
        small[at_86(t) + i] = v86;
        let v96 = v86 * hosts.host_95;
        small[at_96(t) + i] = v96;
        let v100 = inverseSqrt(v96);
        small[at_100(t) + i] = v100;
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        var sum_77 = 0.0;
        for (var k = 0u; k < t.row_tiles; k += t.per_group) {
            sum_77 += small[partials_77(t) + k * t.batch * t.cols + i];
        }
        let v77 = sum_77 / f32(t.rows);
        let v78 = v77 + hosts.eps2;
        let v87 = small[at_exp_avg_res_col(t) + i];
        let v88 = select(v78, v87, hosts.host_80 < 0.5);
        let v89 = v78 - v87;
        let v90 = v89 * hosts.host_84;
        let v91 = v88 + v90;
        small[at_91(t) + i] = v91;
        let v97 = v91 * hosts.host_95;
        let v102 = inverseSqrt(v97);
        small[at_102(t) + i] = v102;
    }
    storageBarrier();
    if (t.batch >= SETTLE) {
        for (var b = lid; b < t.batch; b += SETTLE) {
            var sum_98 = 0.0;
            for (var i = 0u; i < t.rows; i++) {
                sum_98 += small[at_96(t) + b * t.rows + i];
            }
            small[at_98(t) + b] = sum_98 / f32(t.rows);
        }
    } else {
        for (var b = 0u; b < t.batch; b++) {
            var part = 0.0;
            for (var i = lid; i < t.rows; i += SETTLE) {
                part += small[at_96(t) + b * t.rows + i];
            }
            let sum_98 = sum_lanes(lid, part);
            if (lid == 0u) {
                small[at_98(t) + b] = sum_98 / f32(t.rows);
            }
        }
    }
    storageBarrier();
    for (var i = lid; i < t.batch; i += SETTLE) {
        let v98 = small[at_98(t) + i];
        let v99 = sqrt(v98);
        small[at_99(t) + i] = v99;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        let v99 = small[at_99(t) + i / t.rows];
        let v100 = small[at_100(t) + i];
        let v101 = v99 * v100;
        let v112 = v101 * hosts.host_111;
        small[at_112(t) + i] = v112;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        small[at_exp_avg_res_row(t) + i] = small[at_86(t) + i];
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        small[at_exp_avg_res_col(t) + i] = small[at_91(t) + i];
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
    // Level 3.
    for (var c = lid; c < tile.cols; c += WIDTH) {
        let v102 = small[at_102(t) + tile.b * t.cols + tile.col + c];
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v112 = small[at_112(t) + tile.row + i];
            let v7 = param[window.param + e];
            let v72 = exp_avg[e];
            let v113 = v72 * v112;
            let v114 = v113 * v102;
            let v116 = v7 * hosts.host_115;
            let v117 = v114 + v116;
            let v118 = v7 - v117;
            param[window.param + e] = v118;
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
