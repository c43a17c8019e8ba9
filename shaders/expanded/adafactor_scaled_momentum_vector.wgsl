// adafactor_scaled_momentum of a vector: 40 bytes a parameter in 2 sweeps.
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
    host_36: f32,
    host_40: f32,
    host_47: f32,
    host_57: f32,
    host_61: f32,
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

fn at_25(t: Tensor) -> u32 {
    return t.small;
}

fn at_45(t: Tensor) -> u32 {
    return t.small + 1u;
}

fn at_51(t: Tensor) -> u32 {
    return t.small + 2u;
}

fn at_65(t: Tensor) -> u32 {
    return t.small + 3u;
}

fn partials_25(t: Tensor) -> u32 {
    return t.partials;
}

fn partials_45(t: Tensor) -> u32 {
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
    var sum_25 = 0.0;
    var sum_45 = 0.0;
    for (var c = lid; c < tile.cols; c += WIDTH) {
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v7 = param[window.param + e];
            let v24 = v7 * v7;
            let v29 = v6 * v6;
            let v34 = v29 + hosts.eps1;
            let v35 = exp_avg_sq[e];
            let v37 = select(v34, v35, hosts.host_36 < 0.5);
            let v38 = v34 - v35;
            let v41 = v38 * hosts.host_40;
            let v42 = v37 + v41;
            let v43 = v42;
            let v44 = v29 / v43;
            exp_avg_sq[e] = v43;
            sum_25 += v24;
            sum_45 += v44;
        }
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
    lanes[lid] = sum_45;
    workgroupBarrier();
    if (lid == 0u) {
        for (var i = 1u; i < WIDTH; i++) {
            sum_45 += lanes[i];
        }
        small[partials_45(t) + tile.index] = sum_45;
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
    var sum_25 = 0.0;
    for (var i = lid; i < t.batch * t.row_tiles * t.col_tiles; i += SETTLE) {
        sum_25 += small[partials_25(t) + i];
    }
    let total_25 = sum_lanes(lid, sum_25);
    if (lid == 0u) {
        small[at_25(t)] = total_25 / (f32(t.batch) * (f32(t.rows) * f32(t.cols)));
    }
    var sum_45 = 0.0;
    for (var i = lid; i < t.batch * t.row_tiles * t.col_tiles; i += SETTLE) {
        sum_45 += small[partials_45(t) + i];
    }
    let total_45 = sum_lanes(lid, sum_45);
    if (lid == 0u) {
        small[at_45(t)] = total_45 / (f32(t.batch) * (f32(t.rows) * f32(t.cols)));
    }
    storageBarrier();
    for (var i = lid; i < 1u; i += SETTLE) {
        let v25 = small[at_25(t)];
        let v26 = sqrt(v25);
        let v27 = max(v26, hosts.eps2);
        let v28 = hosts.host_23 * v27;
        let v45 = small[at_45(t)];
        let v46 = sqrt(v45);
        let v48 = v46 * hosts.host_47;
        let v49 = max(v48, 1.0);
        let v50 = 1.0 / v49;
        let v51 = v28 * v50;
        small[at_51(t) + i] = v51;
        let v65 = v28 * hosts.weight_decay;
        small[at_65(t) + i] = v65;
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
    let v51 = small[at_51(t)];
    let v65 = small[at_65(t)];
    for (var c = lid; c < tile.cols; c += WIDTH) {
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v7 = param[window.param + e];
            let v43 = exp_avg_sq[e];
            let v52 = inverseSqrt(v43);
            let v53 = v6 * v52;
            let v54 = v53 * v51;
            let v56 = exp_avg[e];
            let v58 = select(v54, v56, hosts.host_57 < 0.5);
            let v59 = v54 - v56;
            let v62 = v59 * hosts.host_61;
            let v63 = v58 + v62;
            let v64 = v63;
            let v66 = v7 * v65;
            let v67 = v64 + v66;
            let v68 = v7 - v67;
            param[window.param + e] = v68;
            exp_avg[e] = v64;
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
