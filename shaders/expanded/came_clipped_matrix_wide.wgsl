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
    host_37: f32,
    host_48: f32,
    host_59: f32,
    host_71: f32,
    host_82: f32,
    host_96: f32,
    host_97: f32,
    host_108: f32,
    host_116: f32,
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

fn at_26(t: Tensor) -> u32 {
    return t.small + 2u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_30(t: Tensor) -> u32 {
    return t.small + 2u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_38(t: Tensor) -> u32 {
    return t.small + 3u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_39(t: Tensor) -> u32 {
    return t.small + 3u * t.batch * t.cols + 4u * t.batch * t.rows;
}

fn at_40(t: Tensor) -> u32 {
    return t.small + 4u * t.batch * t.cols + 4u * t.batch * t.rows;
}

fn at_43(t: Tensor) -> u32 {
    return t.small + 4u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_44(t: Tensor) -> u32 {
    return t.small + t.batch + 4u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_45(t: Tensor) -> u32 {
    return t.small + t.batch + 5u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_46(t: Tensor) -> u32 {
    return t.small + t.batch + 6u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_51(t: Tensor) -> u32 {
    return t.small + 1u + t.batch + 6u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_53(t: Tensor) -> u32 {
    return t.small + 2u + t.batch + 6u * t.batch * t.cols + 5u * t.batch * t.rows;
}

fn at_54(t: Tensor) -> u32 {
    return t.small + 2u + t.batch + 6u * t.batch * t.cols + 6u * t.batch * t.rows;
}

fn at_55(t: Tensor) -> u32 {
    return t.small + 2u + t.batch + 6u * t.batch * t.cols + 7u * t.batch * t.rows;
}

fn at_74(t: Tensor) -> u32 {
    return t.small + 2u + t.batch + 7u * t.batch * t.cols + 7u * t.batch * t.rows;
}

fn at_78(t: Tensor) -> u32 {
    return t.small + 2u + t.batch + 7u * t.batch * t.cols + 8u * t.batch * t.rows;
}

fn at_83(t: Tensor) -> u32 {
    return t.small + 2u + t.batch + 8u * t.batch * t.cols + 8u * t.batch * t.rows;
}

fn at_84(t: Tensor) -> u32 {
    return t.small + 2u + t.batch + 8u * t.batch * t.cols + 9u * t.batch * t.rows;
}

fn at_85(t: Tensor) -> u32 {
    return t.small + 2u + t.batch + 9u * t.batch * t.cols + 9u * t.batch * t.rows;
}

fn at_87(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 9u * t.batch * t.cols + 9u * t.batch * t.rows;
}

fn at_89(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 9u * t.batch * t.cols + 10u * t.batch * t.rows;
}

fn at_100(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 10u * t.batch * t.cols + 10u * t.batch * t.rows;
}

fn at_103(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 10u * t.batch * t.cols + 11u * t.batch * t.rows;
}

fn at_104(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 11u * t.batch * t.cols + 11u * t.batch * t.rows;
}

fn at_105(t: Tensor) -> u32 {
    return t.small + 2u + 2u * t.batch + 12u * t.batch * t.cols + 11u * t.batch * t.rows;
}

fn at_112(t: Tensor) -> u32 {
    return t.small + 3u + 2u * t.batch + 12u * t.batch * t.cols + 11u * t.batch * t.rows;
}

fn at_113(t: Tensor) -> u32 {
    return t.small + 4u + 2u * t.batch + 12u * t.batch * t.cols + 11u * t.batch * t.rows;
}

fn partials_17(t: Tensor) -> u32 {
    return t.partials;
}

fn partials_19(t: Tensor) -> u32 {
    return t.partials + t.col_tiles * t.batch * t.rows;
}

fn partials_42(t: Tensor) -> u32 {
    return t.partials + t.col_tiles * t.batch * t.rows + t.row_tiles * t.batch * t.cols;
}

fn partials_66(t: Tensor) -> u32 {
    return t.partials + t.col_tiles * t.batch * t.rows + 2u * t.row_tiles * t.batch * t.cols;
}

fn partials_68(t: Tensor) -> u32 {
    return t.partials + 2u * t.col_tiles * t.batch * t.rows + 2u * t.row_tiles * t.batch * t.cols;
}

fn partials_102(t: Tensor) -> u32 {
    return t.partials + 2u * t.col_tiles * t.batch * t.rows + 3u * t.row_tiles * t.batch * t.cols;
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
        let v24 = v18 - v21;
        let v25 = v24 * hosts.host_23;
        let v26 = v21 + v25;
        small[at_26(t) + i] = v26;
        let v38 = v26 * hosts.host_37;
        small[at_38(t) + i] = v38;
        let v40 = 1.0 / v38;
        small[at_40(t) + i] = v40;
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        var sum_19 = 0.0;
        for (var k = 0u; k < t.row_tiles; k += t.per_group) {
            sum_19 += small[partials_19(t) + k * t.batch * t.cols + i];
        }
        let v19 = sum_19 / f32(t.rows);
        let v20 = v19 + hosts.eps1;
        let v27 = small[at_exp_avg_sq_col(t) + i];
        let v28 = v20 - v27;
        let v29 = v28 * hosts.host_23;
        let v30 = v27 + v29;
        small[at_30(t) + i] = v30;
        let v39 = v30 * hosts.host_37;
        small[at_39(t) + i] = v39;
        let v55 = inverseSqrt(v39);
        small[at_55(t) + i] = v55;
    }
    storageBarrier();
    if (t.batch >= SETTLE) {
        for (var b = lid; b < t.batch; b += SETTLE) {
            var sum_43 = 0.0;
            for (var i = 0u; i < t.rows; i++) {
                sum_43 += small[at_38(t) + b * t.rows + i];
            }
            small[at_43(t) + b] = sum_43 / f32(t.rows);
        }
    } else {
        for (var b = 0u; b < t.batch; b++) {
            var part = 0.0;
            for (var i = lid; i < t.rows; i += SETTLE) {
                part += small[at_38(t) + b * t.rows + i];
            }
            let sum_43 = sum_lanes(lid, part);
            if (lid == 0u) {
                small[at_43(t) + b] = sum_43 / f32(t.rows);
            }
        }
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        let v38 = small[at_38(t) + i];
        let v43 = small[at_43(t) + i / t.rows];
        let v52 = v38 / v43;
        let v53 = inverseSqrt(v52);
        small[at_53(t) + i] = v53;
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        let v43 = small[at_43(t) + i / t.cols];
        let v39 = small[at_39(t) + i];
        let v44 = v43 / v39;
        small[at_44(t) + i] = v44;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        small[at_exp_avg_sq_row(t) + i] = small[at_26(t) + i];
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        small[at_exp_avg_sq_col(t) + i] = small[at_30(t) + i];
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
        var sum_42 = 0.0;
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v40 = small[at_40(t) + tile.row + i];
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v16 = v6 * v6;
            let v41 = v16 * v40;
            sum_42 += v41;
        }
        small[partials_42(t) + (tile.down * t.batch + tile.b) * t.cols + tile.col + c] = sum_42;
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
        var sum_42 = 0.0;
        for (var k = 0u; k < t.row_tiles; k += t.per_group) {
            sum_42 += small[partials_42(t) + k * t.batch * t.cols + i];
        }
        let v42 = sum_42 / f32(t.rows);
        let v44 = small[at_44(t) + i];
        let v45 = v42 * v44;
        small[at_45(t) + i] = v45;
    }
    storageBarrier();
    var sum_46 = 0.0;
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        sum_46 += small[at_45(t) + i];
    }
    let total_46 = sum_lanes(lid, sum_46);
    if (lid == 0u) {
        small[at_46(t)] = total_46 / (f32(t.batch) * f32(t.cols));
    }
    storageBarrier();
    for (var i = lid; i < 1u; i += SETTLE) {
        let v46 = small[at_46(t)];
        let v47 = sqrt(v46);
        let v49 = v47 * hosts.host_48;
        let v50 = max(v49, 1.0);
        let v51 = 1.0 / v50;
        small[at_51(t) + i] = v51;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        let v53 = small[at_53(t) + i];
        let v51 = small[at_51(t)];
        let v54 = v53 * v51;
        small[at_54(t) + i] = v54;
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
        let v55 = small[at_55(t) + tile.b * t.cols + tile.col + c];
        var sum_68 = 0.0;
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v54 = small[at_54(t) + tile.row + i];
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v56 = v54 * v55;
            let v57 = v6 * v56;
            let v58 = exp_avg[e];
            let v60 = v57 - v58;
            let v61 = v60 * hosts.host_59;
            let v62 = v58 + v61;
            let v63 = v62;
            let v64 = v57 - v63;
            let v65 = v64 * v64;
            exp_avg[e] = v63;
            row_0[i * WIDTH + lid] += v65;
            sum_68 += v65;
        }
        small[partials_68(t) + (tile.down * t.batch + tile.b) * t.cols + tile.col + c] = sum_68;
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
        let v67 = v66 + hosts.eps2;
        let v70 = small[at_exp_avg_res_row(t) + i];
        let v72 = v67 - v70;
        let v73 = v72 * hosts.host_71;
        let v74 = v70 + v73;
        small[at_74(t) + i] = v74;
        let v83 = v74 * hosts.host_82;
        small[at_83(t) + i] = v83;
        let v100 = 1.0 / v83;
        small[at_100(t) + i] = v100;
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        var sum_68 = 0.0;
        for (var k = 0u; k < t.row_tiles; k += t.per_group) {
            sum_68 += small[partials_68(t) + k * t.batch * t.cols + i];
        }
        let v68 = sum_68 / f32(t.rows);
        let v69 = v68 + hosts.eps2;
        let v75 = small[at_exp_avg_res_col(t) + i];
        let v76 = v69 - v75;
        let v77 = v76 * hosts.host_71;
        let v78 = v75 + v77;
        small[at_78(t) + i] = v78;
        let v84 = v78 * hosts.host_82;
        small[at_84(t) + i] = v84;
        let v89 = inverseSqrt(v84);
        small[at_89(t) + i] = v89;
    }
    storageBarrier();
    if (t.batch >= SETTLE) {
        for (var b = lid; b < t.batch; b += SETTLE) {
            var sum_85 = 0.0;
            for (var i = 0u; i < t.rows; i++) {
                sum_85 += small[at_83(t) + b * t.rows + i];
            }
            small[at_85(t) + b] = sum_85 / f32(t.rows);
        }
    } else {
        for (var b = 0u; b < t.batch; b++) {
            var part = 0.0;
            for (var i = lid; i < t.rows; i += SETTLE) {
                part += small[at_83(t) + b * t.rows + i];
            }
            let sum_85 = sum_lanes(lid, part);
            if (lid == 0u) {
                small[at_85(t) + b] = sum_85 / f32(t.rows);
            }
        }
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        let v83 = small[at_83(t) + i];
        let v85 = small[at_85(t) + i / t.rows];
        let v86 = v83 / v85;
        let v87 = inverseSqrt(v86);
        small[at_87(t) + i] = v87;
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        let v85 = small[at_85(t) + i / t.cols];
        let v84 = small[at_84(t) + i];
        let v103 = v85 / v84;
        small[at_103(t) + i] = v103;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        small[at_exp_avg_res_row(t) + i] = small[at_74(t) + i];
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        small[at_exp_avg_res_col(t) + i] = small[at_78(t) + i];
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
        var sum_102 = 0.0;
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v100 = small[at_100(t) + tile.row + i];
            let v63 = exp_avg[e];
            let v99 = v63 * v63;
            let v101 = v99 * v100;
            sum_102 += v101;
        }
        small[partials_102(t) + (tile.down * t.batch + tile.b) * t.cols + tile.col + c] = sum_102;
    }
}

// The small values between two sweeps: one workgroup for each tensor.
@compute @workgroup_size(SETTLE)
fn settle_4(
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
        var sum_102 = 0.0;
        for (var k = 0u; k < t.row_tiles; k += t.per_group) {
            sum_102 += small[partials_102(t) + k * t.batch * t.cols + i];
        }
        let v102 = sum_102 / f32(t.rows);
        let v103 = small[at_103(t) + i];
        let v104 = v102 * v103;
        small[at_104(t) + i] = v104;
    }
    storageBarrier();
    var sum_105 = 0.0;
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        sum_105 += small[at_104(t) + i];
    }
    let total_105 = sum_lanes(lid, sum_105);
    if (lid == 0u) {
        small[at_105(t)] = total_105 / (f32(t.batch) * f32(t.cols));
    }
    storageBarrier();
    for (var i = lid; i < 1u; i += SETTLE) {
        let v105 = small[at_105(t)];
        let v106 = sqrt(v105);
        let v107 = v106 * hosts.host_96;
        let v109 = v107 * hosts.host_108;
        let v110 = max(v109, 1.0);
        let v111 = 1.0 / v110;
        let v112 = hosts.host_97 * v111;
        small[at_112(t) + i] = v112;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        let v87 = small[at_87(t) + i];
        let v112 = small[at_112(t)];
        let v113 = v87 * v112;
        small[at_113(t) + i] = v113;
    }
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
    for (var c = lid; c < tile.cols; c += WIDTH) {
        let v89 = small[at_89(t) + tile.b * t.cols + tile.col + c];
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v113 = small[at_113(t) + tile.row + i];
            let v7 = param[window.param + e];
            let v63 = exp_avg[e];
            let v114 = v113 * v89;
            let v115 = v63 * v114;
            let v117 = v7 * hosts.host_116;
            let v118 = v115 + v117;
            let v119 = v7 - v118;
            param[window.param + e] = v119;
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
