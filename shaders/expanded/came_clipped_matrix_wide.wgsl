// came_clipped of a matrix in tiles of pieces of rows: 36 bytes a parameter in 5 sweeps.
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
    host_58: f32,
    host_67: f32,
    host_71: f32,
    host_82: f32,
    host_86: f32,
    host_97: f32,
    host_112: f32,
    host_113: f32,
    host_126: f32,
    host_134: f32,
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

fn at_48(t: Tensor) -> u32 {
    return t.small + 3u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_49(t: Tensor) -> u32 {
    return t.small + t.batch + 3u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_50(t: Tensor) -> u32 {
    return t.small + 2u * t.batch + 3u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_51(t: Tensor) -> u32 {
    return t.small + 2u * t.batch + 4u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_56(t: Tensor) -> u32 {
    return t.small + 2u * t.batch + 5u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_61(t: Tensor) -> u32 {
    return t.small + 1u + 2u * t.batch + 5u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_62(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 5u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_63(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 5u * t.batch * t.cols + 6u * t.batch * t.rows;
}

fn at_88(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 5u * t.batch * t.cols + 7u * t.batch * t.rows;
}

fn at_93(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 5u * t.batch * t.cols + 8u * t.batch * t.rows;
}

fn at_98(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 6u * t.batch * t.cols + 8u * t.batch * t.rows;
}

fn at_100(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 6u * t.batch * t.cols + 9u * t.batch * t.rows;
}

fn at_101(t: Tensor) -> u32 {
    return t.small + 2u + 3u * t.batch + 6u * t.batch * t.cols + 9u * t.batch * t.rows;
}

fn at_102(t: Tensor) -> u32 {
    return t.small + 2u + 4u * t.batch + 6u * t.batch * t.cols + 9u * t.batch * t.rows;
}

fn at_103(t: Tensor) -> u32 {
    return t.small + 2u + 4u * t.batch + 6u * t.batch * t.cols + 10u * t.batch * t.rows;
}

fn at_104(t: Tensor) -> u32 {
    return t.small + 2u + 4u * t.batch + 6u * t.batch * t.cols + 11u * t.batch * t.rows;
}

fn at_118(t: Tensor) -> u32 {
    return t.small + 2u + 4u * t.batch + 7u * t.batch * t.cols + 11u * t.batch * t.rows;
}

fn partials_17(t: Tensor) -> u32 {
    return t.partials;
}

fn partials_19(t: Tensor) -> u32 {
    return t.partials + t.col_tiles * t.batch * t.rows;
}

fn partials_56(t: Tensor) -> u32 {
    return t.partials + t.col_tiles * t.batch * t.rows + t.row_tiles * t.batch * t.cols;
}

fn partials_77(t: Tensor) -> u32 {
    return t.partials + t.batch * t.row_tiles * t.col_tiles + t.col_tiles * t.batch * t.rows + t.row_tiles * t.batch * t.cols;
}

fn partials_79(t: Tensor) -> u32 {
    return t.partials + t.batch * t.row_tiles * t.col_tiles + 2u * t.col_tiles * t.batch * t.rows + t.row_tiles * t.batch * t.cols;
}

fn partials_123(t: Tensor) -> u32 {
    return t.partials + t.batch * t.row_tiles * t.col_tiles + 2u * t.col_tiles * t.batch * t.rows + 2u * t.row_tiles * t.batch * t.cols;
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
        small[partials_17(t) + tile.across * t.batch * t.rows + tile.row + lid] = sum_17;
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
        var sum_17 = 0.0;
        for (var k = 0u; k < t.col_tiles; k++) {
            sum_17 += small[partials_17(t) + k * t.batch * t.rows + i];
        }
        let v17 = sum_17 / f32(t.cols);
        let v18 = v17 + hosts.eps1;
        let v21 = small[at_exp_avg_sq_row(t) + i];
        let v25 = select(v18, v21, hosts.host_23 < 0.5);
        let v26 = v18 - v21;
        let v29 = v26 * hosts.host_28;
        let v30 = v25 + v29;
        small[at_30(t) + i] = v30;
        let v42 = v30 * hosts.host_41;
        small[at_42(t) + i] = v42;
        let v44 = inverseSqrt(v42);
        small[at_44(t) + i] = v44;
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
    }
    storageBarrier();
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
        let v62 = v49 * v44;
        small[at_62(t) + i] = v62;
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        let v49 = small[at_49(t) + i / t.cols];
        let v50 = small[at_50(t) + i];
        let v51 = v49 * v50;
        small[at_51(t) + i] = v51;
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
    // Level 1.
    var sum_56 = 0.0;
    for (var c = lid; c < tile.cols; c += WIDTH) {
        let v51 = small[at_51(t) + tile.b * t.cols + tile.col + c];
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v44 = small[at_44(t) + tile.row + i];
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v45 = v6 * v44;
            let v46 = v45 * v45;
            let v54 = v46 * v51;
            let v55 = v54 * v51;
            sum_56 += v55;
        }
    }
    lanes[lid] = sum_56;
    workgroupBarrier();
    if (lid == 0u) {
        for (var i = 1u; i < WIDTH; i++) {
            sum_56 += lanes[i];
        }
        small[partials_56(t) + tile.index] = sum_56;
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
    var sum_56 = 0.0;
    for (var i = lid; i < t.batch * t.row_tiles * t.col_tiles; i += SETTLE) {
        sum_56 += small[partials_56(t) + i];
    }
    let total_56 = sum_lanes(lid, sum_56);
    if (lid == 0u) {
        small[at_56(t)] = total_56 / (f32(t.batch) * (f32(t.rows) * f32(t.cols)));
    }
    storageBarrier();
    for (var i = lid; i < 1u; i += SETTLE) {
        let v56 = small[at_56(t)];
        let v57 = sqrt(v56);
        let v59 = v57 * hosts.host_58;
        let v60 = max(v59, 1.0);
        let v61 = 1.0 / v60;
        small[at_61(t) + i] = v61;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        let v62 = small[at_62(t) + i];
        let v61 = small[at_61(t)];
        let v63 = v62 * v61;
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
    for (var i = 0u; i < tile.rows; i++) {
        row_0[i * WIDTH + lid] = 0.0;
    }
    for (var c = lid; c < tile.cols; c += WIDTH) {
        let v50 = small[at_50(t) + tile.b * t.cols + tile.col + c];
        var sum_79 = 0.0;
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v63 = small[at_63(t) + tile.row + i];
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v64 = v6 * v63;
            let v65 = v64 * v50;
            let v66 = exp_avg[e];
            let v68 = select(v65, v66, hosts.host_67 < 0.5);
            let v69 = v65 - v66;
            let v72 = v69 * hosts.host_71;
            let v73 = v68 + v72;
            let v74 = v73;
            let v75 = v65 - v74;
            let v76 = v75 * v75;
            exp_avg[e] = v74;
            row_0[i * WIDTH + lid] += v76;
            sum_79 += v76;
        }
        small[partials_79(t) + (tile.down * t.batch + tile.b) * t.cols + tile.col + c] = sum_79;
    }
    workgroupBarrier();
    if (lid < tile.rows) {
        var sum_77 = row_0[lid * WIDTH];
        for (var i = 1u; i < WIDTH; i++) {
            sum_77 += row_0[lid * WIDTH + i];
        }
        small[partials_77(t) + tile.across * t.batch * t.rows + tile.row + lid] = sum_77;
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
        var sum_77 = 0.0;
        for (var k = 0u; k < t.col_tiles; k++) {
            sum_77 += small[partials_77(t) + k * t.batch * t.rows + i];
        }
        let v77 = sum_77 / f32(t.cols);
        let v78 = v77 + hosts.eps2;
        let v81 = small[at_exp_avg_res_row(t) + i];
        let v83 = select(v78, v81, hosts.host_82 < 0.5);
        let v84 = v78 - v81;
        let v87 = v84 * hosts.host_86;
        let v88 = v83 + v87;
        small[at_88(t) + i] = v88;
        let v98 = v88 * hosts.host_97;
        small[at_98(t) + i] = v98;
        let v102 = inverseSqrt(v98);
        small[at_102(t) + i] = v102;
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        var sum_79 = 0.0;
        for (var k = 0u; k < t.row_tiles; k += t.per_group) {
            sum_79 += small[partials_79(t) + k * t.batch * t.cols + i];
        }
        let v79 = sum_79 / f32(t.rows);
        let v80 = v79 + hosts.eps2;
        let v89 = small[at_exp_avg_res_col(t) + i];
        let v90 = select(v80, v89, hosts.host_82 < 0.5);
        let v91 = v80 - v89;
        let v92 = v91 * hosts.host_86;
        let v93 = v90 + v92;
        small[at_93(t) + i] = v93;
        let v99 = v93 * hosts.host_97;
        let v104 = inverseSqrt(v99);
        small[at_104(t) + i] = v104;
    }
    storageBarrier();
    if (t.batch >= SETTLE) {
        for (var b = lid; b < t.batch; b += SETTLE) {
            var sum_100 = 0.0;
            for (var i = 0u; i < t.rows; i++) {
                sum_100 += small[at_98(t) + b * t.rows + i];
            }
            small[at_100(t) + b] = sum_100 / f32(t.rows);
        }
    } else {
        for (var b = 0u; b < t.batch; b++) {
            var part = 0.0;
            for (var i = lid; i < t.rows; i += SETTLE) {
                part += small[at_98(t) + b * t.rows + i];
            }
            let sum_100 = sum_lanes(lid, part);
            if (lid == 0u) {
                small[at_100(t) + b] = sum_100 / f32(t.rows);
            }
        }
    }
    storageBarrier();
    for (var i = lid; i < t.batch; i += SETTLE) {
        let v100 = small[at_100(t) + i];
        let v101 = sqrt(v100);
        small[at_101(t) + i] = v101;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        let v101 = small[at_101(t) + i / t.rows];
        let v102 = small[at_102(t) + i];
        let v103 = v101 * v102;
        small[at_103(t) + i] = v103;
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        let v101 = small[at_101(t) + i / t.cols];
        let v104 = small[at_104(t) + i];
        let v118 = v101 * v104;
        small[at_118(t) + i] = v118;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        small[at_exp_avg_res_row(t) + i] = small[at_88(t) + i];
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        small[at_exp_avg_res_col(t) + i] = small[at_93(t) + i];
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
    var sum_123 = 0.0;
    for (var c = lid; c < tile.cols; c += WIDTH) {
        let v118 = small[at_118(t) + tile.b * t.cols + tile.col + c];
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v102 = small[at_102(t) + tile.row + i];
            let v74 = exp_avg[e];
            let v115 = v74 * v102;
            let v116 = v115 * v115;
            let v121 = v116 * v118;
            let v122 = v121 * v118;
            sum_123 += v122;
        }
    }
    lanes[lid] = sum_123;
    workgroupBarrier();
    if (lid == 0u) {
        for (var i = 1u; i < WIDTH; i++) {
            sum_123 += lanes[i];
        }
        small[partials_123(t) + tile.index] = sum_123;
    }
    workgroupBarrier();
}

@compute @workgroup_size(WIDTH)
fn sweep_5(
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
    lanes[lid] = 0.0;
    for (var i = lid; i < t.batch * t.row_tiles * t.col_tiles; i += WIDTH) {
        lanes[lid] += small[partials_123(t) + i];
    }
    workgroupBarrier();
    var sum_123 = lanes[0];
    for (var i = 1u; i < WIDTH; i++) {
        sum_123 += lanes[i];
    }
    workgroupBarrier();
    let v123 = sum_123 / (f32(t.batch) * f32(t.rows) * f32(t.cols));
    let v124 = sqrt(v123);
    let v125 = v124 * hosts.host_112;
    let v127 = v125 * hosts.host_126;
    let v128 = max(v127, 1.0);
    let v129 = 1.0 / v128;
    let v130 = hosts.host_113 * v129;
    for (var c = lid; c < tile.cols; c += WIDTH) {
        let v104 = small[at_104(t) + tile.b * t.cols + tile.col + c];
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v103 = small[at_103(t) + tile.row + i];
            let v131 = v103 * v130;
            let v7 = param[window.param + e];
            let v74 = exp_avg[e];
            let v132 = v74 * v131;
            let v133 = v132 * v104;
            let v135 = v7 * hosts.host_134;
            let v136 = v133 + v135;
            let v137 = v7 - v136;
            param[window.param + e] = v137;
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
