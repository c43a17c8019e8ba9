// came_clipped of a matrix in tiles of whole rows: 28 bytes a parameter in 3 sweeps.
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
    host_42: f32,
    host_57: f32,
    host_66: f32,
    host_70: f32,
    host_81: f32,
    host_85: f32,
    host_97: f32,
    host_112: f32,
    host_113: f32,
    host_124: f32,
    host_132: f32,
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
var<workgroup> local_46: array<f32, ROWS>;
var<workgroup> local_102: array<f32, ROWS>;

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

fn at_36(t: Tensor) -> u32 {
    return t.small + 2u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_46(t: Tensor) -> u32 {
    return t.small + t.batch + 2u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_49(t: Tensor) -> u32 {
    return t.small + t.batch + 2u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_50(t: Tensor) -> u32 {
    return t.small + t.batch + 3u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_51(t: Tensor) -> u32 {
    return t.small + 2u * t.batch + 3u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_54(t: Tensor) -> u32 {
    return t.small + 2u * t.batch + 4u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_55(t: Tensor) -> u32 {
    return t.small + 2u * t.batch + 5u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_60(t: Tensor) -> u32 {
    return t.small + 1u + 2u * t.batch + 5u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_93(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 5u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_101(t: Tensor) -> u32 {
    return t.small + 2u + 3u * t.batch + 5u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_102(t: Tensor) -> u32 {
    return t.small + 2u + 4u * t.batch + 5u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_104(t: Tensor) -> u32 {
    return t.small + 2u + 4u * t.batch + 5u * t.batch * t.cols + 4u * t.batch * t.rows;
}

fn at_117(t: Tensor) -> u32 {
    return t.small + 2u + 4u * t.batch + 6u * t.batch * t.cols + 4u * t.batch * t.rows;
}

fn at_120(t: Tensor) -> u32 {
    return t.small + 2u + 4u * t.batch + 7u * t.batch * t.cols + 4u * t.batch * t.rows;
}

fn at_121(t: Tensor) -> u32 {
    return t.small + 2u + 4u * t.batch + 8u * t.batch * t.cols + 4u * t.batch * t.rows;
}

fn at_128(t: Tensor) -> u32 {
    return t.small + 3u + 4u * t.batch + 8u * t.batch * t.cols + 4u * t.batch * t.rows;
}

fn partials_36(t: Tensor) -> u32 {
    return t.partials;
}

fn partials_93(t: Tensor) -> u32 {
    return t.partials + t.batch * t.row_tiles * t.col_tiles;
}

fn partials_19(t: Tensor) -> u32 {
    return t.partials + 2u * t.batch * t.row_tiles * t.col_tiles;
}

fn partials_49(t: Tensor) -> u32 {
    return t.partials + 2u * t.batch * t.row_tiles * t.col_tiles + t.row_tiles * t.batch * t.cols;
}

fn partials_78(t: Tensor) -> u32 {
    return t.partials + 2u * t.batch * t.row_tiles * t.col_tiles + 2u * t.row_tiles * t.batch * t.cols;
}

fn partials_117(t: Tensor) -> u32 {
    return t.partials + 2u * t.batch * t.row_tiles * t.col_tiles + 3u * t.row_tiles * t.batch * t.cols;
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
    var sum_36 = 0.0;
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
        small[at_exp_avg_sq_row(t) + tile.row + lid] = v30;
        sum_36 += v30;
        let v43 = v30 * hosts.host_42;
        let v46 = inverseSqrt(v43);
        small[at_46(t) + tile.row + lid] = v46;
        local_46[lid] = v46;
    }
    workgroupBarrier();
    lanes[lid] = sum_36;
    workgroupBarrier();
    if (lid == 0u) {
        for (var i = 1u; i < tile.rows; i++) {
            sum_36 += lanes[i];
        }
        small[partials_36(t) + tile.index] = sum_36;
    }
    workgroupBarrier();
    // Level 1.
    for (var c = lid; c < tile.cols; c += WIDTH) {
        var sum_49 = 0.0;
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v46 = local_46[i];
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v47 = v6 * v46;
            let v48 = v47 * v47;
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
        var sum_19 = small[partials_19(t) + first * span + c];
        for (var i = first + 1u; i < end; i++) {
            sum_19 += small[partials_19(t) + i * span + c];
        }
        small[partials_19(t) + first * span + c] = sum_19;
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
    if (t.batch >= SETTLE) {
        for (var b = lid; b < t.batch; b += SETTLE) {
            var sum_36 = 0.0;
            for (var i = 0u; i < t.row_tiles * t.col_tiles; i++) {
                sum_36 += small[partials_36(t) + b * t.row_tiles * t.col_tiles + i];
            }
            small[at_36(t) + b] = sum_36 / f32(t.rows);
        }
    } else {
        for (var b = 0u; b < t.batch; b++) {
            var part = 0.0;
            for (var i = lid; i < t.row_tiles * t.col_tiles; i += SETTLE) {
                part += small[partials_36(t) + b * t.row_tiles * t.col_tiles + i];
            }
            let sum_36 = sum_lanes(lid, part);
            if (lid == 0u) {
                small[at_36(t) + b] = sum_36 / f32(t.rows);
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
        small[at_exp_avg_sq_col(t) + i] = v35;
        let v44 = v35 * hosts.host_42;
        let v51 = inverseSqrt(v44);
        small[at_51(t) + i] = v51;
        var sum_49 = 0.0;
        for (var k = 0u; k < t.row_tiles; k += t.per_group) {
            sum_49 += small[partials_49(t) + k * t.batch * t.cols + i];
        }
        let v49 = sum_49 / f32(t.rows);
        small[at_49(t) + i] = v49;
    }
    storageBarrier();
    for (var i = lid; i < t.batch; i += SETTLE) {
        let v36 = small[at_36(t) + i];
        let v45 = v36 * hosts.host_42;
        let v50 = sqrt(v45);
        small[at_50(t) + i] = v50;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        let v50 = small[at_50(t) + i / t.cols];
        let v51 = small[at_51(t) + i];
        let v52 = v50 * v51;
        let v49 = small[at_49(t) + i];
        let v53 = v49 * v52;
        let v54 = v53 * v52;
        small[at_54(t) + i] = v54;
    }
    storageBarrier();
    var sum_55 = 0.0;
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        sum_55 += small[at_54(t) + i];
    }
    let total_55 = sum_lanes(lid, sum_55);
    if (lid == 0u) {
        small[at_55(t)] = total_55 / (f32(t.batch) * f32(t.cols));
    }
    storageBarrier();
    for (var i = lid; i < 1u; i += SETTLE) {
        let v55 = small[at_55(t)];
        let v56 = sqrt(v55);
        let v58 = v56 * hosts.host_57;
        let v59 = max(v58, 1.0);
        let v60 = 1.0 / v59;
        small[at_60(t) + i] = v60;
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
    let v50 = small[at_50(t) + tile.b];
    let v60 = small[at_60(t)];
    for (var i = 0u; i < tile.rows; i++) {
        row_0[i * WIDTH + lid] = 0.0;
    }
    for (var c = lid; c < tile.cols; c += WIDTH) {
        let v51 = small[at_51(t) + tile.b * t.cols + tile.col + c];
        var sum_78 = 0.0;
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v46 = small[at_46(t) + tile.row + i];
            let v61 = v50 * v46;
            let v62 = v61 * v60;
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v63 = v6 * v62;
            let v64 = v63 * v51;
            let v65 = exp_avg[e];
            let v67 = select(v64, v65, hosts.host_66 < 0.5);
            let v68 = v64 - v65;
            let v71 = v68 * hosts.host_70;
            let v72 = v67 + v71;
            let v73 = v72;
            let v74 = v64 - v73;
            let v75 = v74 * v74;
            exp_avg[e] = v73;
            row_0[i * WIDTH + lid] += v75;
            sum_78 += v75;
        }
        small[partials_78(t) + (tile.down * t.batch + tile.b) * t.cols + tile.col + c] = sum_78;
    }
    workgroupBarrier();
    var sum_93 = 0.0;
    if (lid < tile.rows) {
        var sum_76 = row_0[lid * WIDTH];
        for (var i = 1u; i < WIDTH; i++) {
            sum_76 += row_0[lid * WIDTH + i];
        }
        let v76 = sum_76 / f32(t.cols);
        let v77 = v76 + hosts.eps2;
        let v80 = small[at_exp_avg_res_row(t) + tile.row + lid];
        let v82 = select(v77, v80, hosts.host_81 < 0.5);
        let v83 = v77 - v80;
        let v86 = v83 * hosts.host_85;
        let v87 = v82 + v86;
        small[at_exp_avg_res_row(t) + tile.row + lid] = v87;
        sum_93 += v87;
        let v98 = v87 * hosts.host_97;
        let v102 = inverseSqrt(v98);
        small[at_102(t) + tile.row + lid] = v102;
        local_102[lid] = v102;
    }
    workgroupBarrier();
    lanes[lid] = sum_93;
    workgroupBarrier();
    if (lid == 0u) {
        for (var i = 1u; i < tile.rows; i++) {
            sum_93 += lanes[i];
        }
        small[partials_93(t) + tile.index] = sum_93;
    }
    workgroupBarrier();
    // Level 3.
    for (var c = lid; c < tile.cols; c += WIDTH) {
        var sum_117 = 0.0;
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v102 = local_102[i];
            let v73 = exp_avg[e];
            let v115 = v73 * v102;
            let v116 = v115 * v115;
            sum_117 += v116;
        }
        small[partials_117(t) + (tile.down * t.batch + tile.b) * t.cols + tile.col + c] = sum_117;
    }
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
        var sum_78 = small[partials_78(t) + first * span + c];
        for (var i = first + 1u; i < end; i++) {
            sum_78 += small[partials_78(t) + i * span + c];
        }
        small[partials_78(t) + first * span + c] = sum_78;
        var sum_117 = small[partials_117(t) + first * span + c];
        for (var i = first + 1u; i < end; i++) {
            sum_117 += small[partials_117(t) + i * span + c];
        }
        small[partials_117(t) + first * span + c] = sum_117;
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
    if (t.batch >= SETTLE) {
        for (var b = lid; b < t.batch; b += SETTLE) {
            var sum_93 = 0.0;
            for (var i = 0u; i < t.row_tiles * t.col_tiles; i++) {
                sum_93 += small[partials_93(t) + b * t.row_tiles * t.col_tiles + i];
            }
            small[at_93(t) + b] = sum_93 / f32(t.rows);
        }
    } else {
        for (var b = 0u; b < t.batch; b++) {
            var part = 0.0;
            for (var i = lid; i < t.row_tiles * t.col_tiles; i += SETTLE) {
                part += small[partials_93(t) + b * t.row_tiles * t.col_tiles + i];
            }
            let sum_93 = sum_lanes(lid, part);
            if (lid == 0u) {
                small[at_93(t) + b] = sum_93 / f32(t.rows);
            }
        }
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        var sum_78 = 0.0;
        for (var k = 0u; k < t.row_tiles; k += t.per_group) {
            sum_78 += small[partials_78(t) + k * t.batch * t.cols + i];
        }
        let v78 = sum_78 / f32(t.rows);
        let v79 = v78 + hosts.eps2;
        let v88 = small[at_exp_avg_res_col(t) + i];
        let v89 = select(v79, v88, hosts.host_81 < 0.5);
        let v90 = v79 - v88;
        let v91 = v90 * hosts.host_85;
        let v92 = v89 + v91;
        small[at_exp_avg_res_col(t) + i] = v92;
        let v99 = v92 * hosts.host_97;
        let v104 = inverseSqrt(v99);
        small[at_104(t) + i] = v104;
        var sum_117 = 0.0;
        for (var k = 0u; k < t.row_tiles; k += t.per_group) {
            sum_117 += small[partials_117(t) + k * t.batch * t.cols + i];
        }
        let v117 = sum_117 / f32(t.rows);
        small[at_117(t) + i] = v117;
    }
    storageBarrier();
    for (var i = lid; i < t.batch; i += SETTLE) {
        let v93 = small[at_93(t) + i];
        let v100 = v93 * hosts.host_97;
        let v101 = sqrt(v100);
        small[at_101(t) + i] = v101;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        let v101 = small[at_101(t) + i / t.cols];
        let v104 = small[at_104(t) + i];
        let v118 = v101 * v104;
        let v117 = small[at_117(t) + i];
        let v119 = v117 * v118;
        let v120 = v119 * v118;
        small[at_120(t) + i] = v120;
    }
    storageBarrier();
    var sum_121 = 0.0;
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        sum_121 += small[at_120(t) + i];
    }
    let total_121 = sum_lanes(lid, sum_121);
    if (lid == 0u) {
        small[at_121(t)] = total_121 / (f32(t.batch) * f32(t.cols));
    }
    storageBarrier();
    for (var i = lid; i < 1u; i += SETTLE) {
        let v121 = small[at_121(t)];
        let v122 = sqrt(v121);
        let v123 = v122 * hosts.host_112;
        let v125 = v123 * hosts.host_124;
        let v126 = max(v125, 1.0);
        let v127 = 1.0 / v126;
        let v128 = hosts.host_113 * v127;
        small[at_128(t) + i] = v128;
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
    // Level 4.
    let v101 = small[at_101(t) + tile.b];
    let v128 = small[at_128(t)];
    for (var c = lid; c < tile.cols; c += WIDTH) {
        let v104 = small[at_104(t) + tile.b * t.cols + tile.col + c];
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v102 = small[at_102(t) + tile.row + i];
            let v103 = v101 * v102;
            let v129 = v103 * v128;
            let v7 = param[window.param + e];
            let v73 = exp_avg[e];
            let v130 = v73 * v129;
            let v131 = v130 * v104;
            let v133 = v7 * hosts.host_132;
            let v134 = v131 + v133;
            let v135 = v7 - v134;
            param[window.param + e] = v135;
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
