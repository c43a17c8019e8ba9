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
    host_42: f32,
    host_59: f32,
    host_68: f32,
    host_72: f32,
    host_83: f32,
    host_87: f32,
    host_99: f32,
    host_114: f32,
    host_115: f32,
    host_128: f32,
    host_136: f32,
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

fn at_36(t: Tensor) -> u32 {
    return t.small + 2u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_46(t: Tensor) -> u32 {
    return t.small + t.batch + 2u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_50(t: Tensor) -> u32 {
    return t.small + t.batch + 2u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_51(t: Tensor) -> u32 {
    return t.small + 2u * t.batch + 2u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_52(t: Tensor) -> u32 {
    return t.small + 2u * t.batch + 3u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_57(t: Tensor) -> u32 {
    return t.small + 2u * t.batch + 4u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_62(t: Tensor) -> u32 {
    return t.small + 1u + 2u * t.batch + 4u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_63(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 4u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_64(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 4u * t.batch * t.cols + 4u * t.batch * t.rows;
}

fn at_95(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 4u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_103(t: Tensor) -> u32 {
    return t.small + 2u + 3u * t.batch + 4u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_104(t: Tensor) -> u32 {
    return t.small + 2u + 4u * t.batch + 4u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_105(t: Tensor) -> u32 {
    return t.small + 2u + 4u * t.batch + 4u * t.batch * t.cols + 6u * t.batch * t.rows;
}

fn at_106(t: Tensor) -> u32 {
    return t.small + 2u + 4u * t.batch + 4u * t.batch * t.cols + 7u * t.batch * t.rows;
}

fn at_120(t: Tensor) -> u32 {
    return t.small + 2u + 4u * t.batch + 5u * t.batch * t.cols + 7u * t.batch * t.rows;
}

fn partials_17(t: Tensor) -> u32 {
    return t.partials;
}

fn partials_19(t: Tensor) -> u32 {
    return t.partials + t.col_tiles * t.batch * t.rows;
}

fn partials_57(t: Tensor) -> u32 {
    return t.partials + t.col_tiles * t.batch * t.rows + t.row_tiles * t.batch * t.cols;
}

fn partials_78(t: Tensor) -> u32 {
    return t.partials + t.batch * t.row_tiles * t.col_tiles + t.col_tiles * t.batch * t.rows + t.row_tiles * t.batch * t.cols;
}

fn partials_80(t: Tensor) -> u32 {
    return t.partials + t.batch * t.row_tiles * t.col_tiles + 2u * t.col_tiles * t.batch * t.rows + t.row_tiles * t.batch * t.cols;
}

fn partials_125(t: Tensor) -> u32 {
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
        small[at_exp_avg_sq_row(t) + i] = v30;
        let v43 = v30 * hosts.host_42;
        let v46 = inverseSqrt(v43);
        small[at_46(t) + i] = v46;
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
    }
    storageBarrier();
    if (t.batch >= SETTLE) {
        for (var b = lid; b < t.batch; b += SETTLE) {
            var sum_36 = 0.0;
            for (var i = 0u; i < t.rows; i++) {
                sum_36 += small[at_exp_avg_sq_row(t) + b * t.rows + i];
            }
            small[at_36(t) + b] = sum_36 / f32(t.rows);
        }
    } else {
        for (var b = 0u; b < t.batch; b++) {
            var part = 0.0;
            for (var i = lid; i < t.rows; i += SETTLE) {
                part += small[at_exp_avg_sq_row(t) + b * t.rows + i];
            }
            let sum_36 = sum_lanes(lid, part);
            if (lid == 0u) {
                small[at_36(t) + b] = sum_36 / f32(t.rows);
            }
        }
    }
    storageBarrier();
    for (var i = lid; i < t.batch; i += SETTLE) {
        let v36 = small[at_36(t) + i];
        let v45 = v36 * hosts.host_42;
        let v50 = sqrt(v45);
        small[at_50(t) + i] = v50;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        let v50 = small[at_50(t) + i / t.rows];
        let v46 = small[at_46(t) + i];
        let v63 = v50 * v46;
        small[at_63(t) + i] = v63;
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        let v50 = small[at_50(t) + i / t.cols];
        let v51 = small[at_51(t) + i];
        let v52 = v50 * v51;
        small[at_52(t) + i] = v52;
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
        let v52 = small[at_52(t) + tile.b * t.cols + tile.col + c];
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v46 = small[at_46(t) + tile.row + i];
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v47 = v6 * v46;
            let v48 = v47 * v47;
            let v55 = v48 * v52;
            let v56 = v55 * v52;
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
        small[at_62(t) + i] = v62;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        let v63 = small[at_63(t) + i];
        let v62 = small[at_62(t)];
        let v64 = v63 * v62;
        small[at_64(t) + i] = v64;
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
        let v51 = small[at_51(t) + tile.b * t.cols + tile.col + c];
        var sum_80 = 0.0;
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v64 = small[at_64(t) + tile.row + i];
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v65 = v6 * v64;
            let v66 = v65 * v51;
            let v67 = exp_avg[e];
            let v69 = select(v66, v67, hosts.host_68 < 0.5);
            let v70 = v66 - v67;
            let v73 = v70 * hosts.host_72;
            let v74 = v69 + v73;
            let v75 = v74;
            let v76 = v66 - v75;
            let v77 = v76 * v76;
            exp_avg[e] = v75;
            row_0[i * WIDTH + lid] += v77;
            sum_80 += v77;
        }
        small[partials_80(t) + (tile.down * t.batch + tile.b) * t.cols + tile.col + c] = sum_80;
    }
    workgroupBarrier();
    if (lid < tile.rows) {
        var sum_78 = row_0[lid * WIDTH];
        for (var i = 1u; i < WIDTH; i++) {
            sum_78 += row_0[lid * WIDTH + i];
        }
        small[partials_78(t) + tile.across * t.batch * t.rows + tile.row + lid] = sum_78;
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
        var sum_78 = 0.0;
        for (var k = 0u; k < t.col_tiles; k++) {
            sum_78 += small[partials_78(t) + k * t.batch * t.rows + i];
        }
        let v78 = sum_78 / f32(t.cols);
        let v79 = v78 + hosts.eps2;
        let v82 = small[at_exp_avg_res_row(t) + i];
        let v84 = select(v79, v82, hosts.host_83 < 0.5);
        let v85 = v79 - v82;
        let v88 = v85 * hosts.host_87;
        let v89 = v84 + v88;
        small[at_exp_avg_res_row(t) + i] = v89;
        let v100 = v89 * hosts.host_99;
        let v104 = inverseSqrt(v100);
        small[at_104(t) + i] = v104;
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        var sum_80 = 0.0;
        for (var k = 0u; k < t.row_tiles; k += t.per_group) {
            sum_80 += small[partials_80(t) + k * t.batch * t.cols + i];
        }
        let v80 = sum_80 / f32(t.rows);
        let v81 = v80 + hosts.eps2;
        let v90 = small[at_exp_avg_res_col(t) + i];
        let v91 = select(v81, v90, hosts.host_83 < 0.5);
        let v92 = v81 - v90;
        let v93 = v92 * hosts.host_87;
        let v94 = v91 + v93;
        small[at_exp_avg_res_col(t) + i] = v94;
        let v101 = v94 * hosts.host_99;
        let v106 = inverseSqrt(v101);
        small[at_106(t) + i] = v106;
    }
    storageBarrier();
    if (t.batch >= SETTLE) {
        for (var b = lid; b < t.batch; b += SETTLE) {
            var sum_95 = 0.0;
            for (var i = 0u; i < t.rows; i++) {
                sum_95 += small[at_exp_avg_res_row(t) + b * t.rows + i];
            }
            small[at_95(t) + b] = sum_95 / f32(t.rows);
        }
    } else {
        for (var b = 0u; b < t.batch; b++) {
            var part = 0.0;
            for (var i = lid; i < t.rows; i += SETTLE) {
                part += small[at_exp_avg_res_row(t) + b * t.rows + i];
            }
            let sum_95 = sum_lanes(lid, part);
            if (lid == 0u) {
                small[at_95(t) + b] = sum_95 / f32(t.rows);
            }
        }
    }
    storageBarrier();
    for (var i = lid; i < t.batch; i += SETTLE) {
        let v95 = small[at_95(t) + i];
        let v102 = v95 * hosts.host_99;
        let v103 = sqrt(v102);
        small[at_103(t) + i] = v103;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        let v103 = small[at_103(t) + i / t.rows];
        let v104 = small[at_104(t) + i];
        let v105 = v103 * v104;
        small[at_105(t) + i] = v105;
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        let v103 = small[at_103(t) + i / t.cols];
        let v106 = small[at_106(t) + i];
        let v120 = v103 * v106;
        small[at_120(t) + i] = v120;
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
    var sum_125 = 0.0;
    for (var c = lid; c < tile.cols; c += WIDTH) {
        let v120 = small[at_120(t) + tile.b * t.cols + tile.col + c];
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v104 = small[at_104(t) + tile.row + i];
            let v75 = exp_avg[e];
            let v117 = v75 * v104;
            let v118 = v117 * v117;
            let v123 = v118 * v120;
            let v124 = v123 * v120;
            sum_125 += v124;
        }
    }
    lanes[lid] = sum_125;
    workgroupBarrier();
    if (lid == 0u) {
        for (var i = 1u; i < WIDTH; i++) {
            sum_125 += lanes[i];
        }
        small[partials_125(t) + tile.index] = sum_125;
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
        lanes[lid] += small[partials_125(t) + i];
    }
    workgroupBarrier();
    var sum_125 = lanes[0];
    for (var i = 1u; i < WIDTH; i++) {
        sum_125 += lanes[i];
    }
    workgroupBarrier();
    let v125 = sum_125 / (f32(t.batch) * f32(t.rows) * f32(t.cols));
    let v126 = sqrt(v125);
    let v127 = v126 * hosts.host_114;
    let v129 = v127 * hosts.host_128;
    let v130 = max(v129, 1.0);
    let v131 = 1.0 / v130;
    let v132 = hosts.host_115 * v131;
    for (var c = lid; c < tile.cols; c += WIDTH) {
        let v106 = small[at_106(t) + tile.b * t.cols + tile.col + c];
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v105 = small[at_105(t) + tile.row + i];
            let v133 = v105 * v132;
            let v7 = param[window.param + e];
            let v75 = exp_avg[e];
            let v134 = v75 * v133;
            let v135 = v134 * v106;
            let v137 = v7 * hosts.host_136;
            let v138 = v135 + v137;
            let v139 = v7 - v138;
            param[window.param + e] = v139;
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
