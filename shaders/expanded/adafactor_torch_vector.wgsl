// adafactor_torch of a vector: 32 bytes a parameter in 2 sweeps.
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
    host_21: f32,
    host_26: f32,
    host_30: f32,
    eps2: f32,
    host_41: f32,
    host_50: f32,
    host_58: f32,
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
@group(0) @binding(6) var<storage, read_write> exp_avg_sq: array<f32>;

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

fn at_43(t: Tensor) -> u32 {
    return t.small;
}

fn at_48(t: Tensor) -> u32 {
    return t.small + 1u;
}

fn at_54(t: Tensor) -> u32 {
    return t.small + 2u;
}

fn partials_43(t: Tensor) -> u32 {
    return t.partials;
}

fn partials_48(t: Tensor) -> u32 {
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
    var sum_43 = 0.0;
    var sum_48 = 0.0;
    for (var c = lid; c < tile.cols; c += WIDTH) {
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v7 = param[window.param + e];
            let v12 = v6 * v6;
            let v19 = v12 + 0.0;
            let v20 = exp_avg_sq[e];
            let v23 = select(v19, v20, hosts.host_21 < 0.5);
            let v24 = v19 - v20;
            let v27 = v24 * hosts.host_26;
            let v28 = v23 + v27;
            let v29 = v28;
            let v31 = max(v29, hosts.host_30);
            let v42 = v7 * v7;
            let v47 = v12 / v31;
            exp_avg_sq[e] = v29;
            sum_43 += v42;
            sum_48 += v47;
        }
    }
    lanes[lid] = sum_43;
    workgroupBarrier();
    if (lid == 0u) {
        for (var i = 1u; i < WIDTH; i++) {
            sum_43 += lanes[i];
        }
        small[partials_43(t) + tile.index] = sum_43;
    }
    workgroupBarrier();
    lanes[lid] = sum_48;
    workgroupBarrier();
    if (lid == 0u) {
        for (var i = 1u; i < WIDTH; i++) {
            sum_48 += lanes[i];
        }
        small[partials_48(t) + tile.index] = sum_48;
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
    var sum_43 = 0.0;
    for (var i = lid; i < t.batch * t.row_tiles * t.col_tiles; i += SETTLE) {
        sum_43 += small[partials_43(t) + i];
    }
    let total_43 = sum_lanes(lid, sum_43);
    if (lid == 0u) {
        small[at_43(t)] = total_43 / (f32(t.batch) * (f32(t.rows) * f32(t.cols)));
    }
    var sum_48 = 0.0;
    for (var i = lid; i < t.batch * t.row_tiles * t.col_tiles; i += SETTLE) {
        sum_48 += small[partials_48(t) + i];
    }
    let total_48 = sum_lanes(lid, sum_48);
    if (lid == 0u) {
        small[at_48(t)] = total_48 / (f32(t.batch) * (f32(t.rows) * f32(t.cols)));
    }
    storageBarrier();
    for (var i = lid; i < 1u; i += SETTLE) {
        let v43 = small[at_43(t)];
        let v44 = sqrt(v43);
        let v45 = max(v44, hosts.eps2);
        let v46 = hosts.host_41 * v45;
        let v48 = small[at_48(t)];
        let v49 = sqrt(v48);
        let v51 = v49 * hosts.host_50;
        let v52 = max(v51, 1.0);
        let v53 = 1.0 / v52;
        let v54 = v46 * v53;
        small[at_54(t) + i] = v54;
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
    let v54 = small[at_54(t)];
    for (var c = lid; c < tile.cols; c += WIDTH) {
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v7 = param[window.param + e];
            let v29 = exp_avg_sq[e];
            let v31 = max(v29, hosts.host_30);
            let v55 = inverseSqrt(v31);
            let v56 = v6 * v55;
            let v57 = v56 * v54;
            let v59 = v7 * hosts.host_58;
            let v60 = v57 + v59;
            let v61 = v7 - v60;
            param[window.param + e] = v61;
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
