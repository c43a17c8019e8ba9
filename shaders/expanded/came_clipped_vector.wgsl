// came_clipped of a vector: 40 bytes a parameter in 3 sweeps.
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
    host_20: f32,
    host_31: f32,
    host_38: f32,
    host_44: f32,
    host_52: f32,
    host_53: f32,
    host_59: f32,
    host_65: f32,
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
@group(0) @binding(6) var<storage, read_write> exp_avg_sq: array<f32>;
@group(0) @binding(7) var<storage, read_write> exp_avg: array<f32>;

var<workgroup> lanes: array<f32, SETTLE>;

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

fn at_36(t: Tensor) -> u32 {
    return t.small;
}

fn at_41(t: Tensor) -> u32 {
    return t.small + 1u;
}

fn at_56(t: Tensor) -> u32 {
    return t.small + 2u;
}

fn at_63(t: Tensor) -> u32 {
    return t.small + 3u;
}

fn partials_36(t: Tensor) -> u32 {
    return t.partials;
}

fn partials_56(t: Tensor) -> u32 {
    return t.partials + t.batch * t.row_tiles * t.col_tiles;
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
    var sum_36 = 0.0;
    for (var c = lid; c < tile.cols; c += WIDTH) {
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v16 = v6 * v6;
            let v17 = v16 + hosts.eps1;
            let v18 = exp_avg_sq[e];
            let v21 = v17 - v18;
            let v22 = v21 * hosts.host_20;
            let v23 = v18 + v22;
            let v24 = v23;
            let v32 = v24 * hosts.host_31;
            let v33 = inverseSqrt(v32);
            let v34 = v6 * v33;
            let v35 = v34 * v34;
            exp_avg_sq[e] = v24;
            sum_36 += v35;
        }
    }
    lanes[lid] = sum_36;
    workgroupBarrier();
    if (lid == 0u) {
        for (var i = 1u; i < WIDTH; i++) {
            sum_36 += lanes[i];
        }
        small[partials_36(t) + tile.index] = sum_36;
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
    var sum_36 = 0.0;
    for (var i = lid; i < t.batch * t.row_tiles * t.col_tiles; i += SETTLE) {
        sum_36 += small[partials_36(t) + i];
    }
    let total_36 = sum_lanes(lid, sum_36);
    if (lid == 0u) {
        small[at_36(t)] = total_36 / (f32(t.batch) * (f32(t.rows) * f32(t.cols)));
    }
    storageBarrier();
    for (var i = lid; i < 1u; i += SETTLE) {
        let v36 = small[at_36(t)];
        let v37 = sqrt(v36);
        let v39 = v37 * hosts.host_38;
        let v40 = max(v39, 1.0);
        let v41 = 1.0 / v40;
        small[at_41(t) + i] = v41;
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
    let v41 = small[at_41(t)];
    var sum_56 = 0.0;
    for (var c = lid; c < tile.cols; c += WIDTH) {
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v24 = exp_avg_sq[e];
            let v32 = v24 * hosts.host_31;
            let v33 = inverseSqrt(v32);
            let v34 = v6 * v33;
            let v42 = v34 * v41;
            let v43 = exp_avg[e];
            let v45 = v42 - v43;
            let v46 = v45 * hosts.host_44;
            let v47 = v43 + v46;
            let v48 = v47;
            let v55 = v48 * v48;
            exp_avg[e] = v48;
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
        let v58 = v57 * hosts.host_52;
        let v60 = v58 * hosts.host_59;
        let v61 = max(v60, 1.0);
        let v62 = 1.0 / v61;
        let v63 = hosts.host_53 * v62;
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
    let v63 = small[at_63(t)];
    for (var c = lid; c < tile.cols; c += WIDTH) {
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v7 = param[window.param + e];
            let v48 = exp_avg[e];
            let v64 = v48 * v63;
            let v66 = v7 * hosts.host_65;
            let v67 = v64 + v66;
            let v68 = v7 - v67;
            param[window.param + e] = v68;
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
