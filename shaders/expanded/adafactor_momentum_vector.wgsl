// adafactor_momentum of a vector: 36 bytes a parameter in 2 sweeps.
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
    host_22: f32,
    host_30: f32,
    host_34: f32,
    host_41: f32,
    host_51: f32,
    host_55: f32,
    host_59: f32,
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

fn at_39(t: Tensor) -> u32 {
    return t.small;
}

fn at_45(t: Tensor) -> u32 {
    return t.small + 1u;
}

fn partials_39(t: Tensor) -> u32 {
    return t.partials;
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
    var sum_39 = 0.0;
    for (var c = lid; c < tile.cols; c += WIDTH) {
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v23 = v6 * v6;
            let v28 = v23 + hosts.eps1;
            let v29 = exp_avg_sq[e];
            let v31 = select(v28, v29, hosts.host_30 < 0.5);
            let v32 = v28 - v29;
            let v35 = v32 * hosts.host_34;
            let v36 = v31 + v35;
            let v37 = v36;
            let v38 = v23 / v37;
            exp_avg_sq[e] = v37;
            sum_39 += v38;
        }
    }
    lanes[lid] = sum_39;
    workgroupBarrier();
    if (lid == 0u) {
        for (var i = 1u; i < WIDTH; i++) {
            sum_39 += lanes[i];
        }
        small[partials_39(t) + tile.index] = sum_39;
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
    var sum_39 = 0.0;
    for (var i = lid; i < t.batch * t.row_tiles * t.col_tiles; i += SETTLE) {
        sum_39 += small[partials_39(t) + i];
    }
    let total_39 = sum_lanes(lid, sum_39);
    if (lid == 0u) {
        small[at_39(t)] = total_39 / (f32(t.batch) * (f32(t.rows) * f32(t.cols)));
    }
    storageBarrier();
    for (var i = lid; i < 1u; i += SETTLE) {
        let v39 = small[at_39(t)];
        let v40 = sqrt(v39);
        let v42 = v40 * hosts.host_41;
        let v43 = max(v42, 1.0);
        let v44 = 1.0 / v43;
        let v45 = hosts.host_22 * v44;
        small[at_45(t) + i] = v45;
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
    let v45 = small[at_45(t)];
    for (var c = lid; c < tile.cols; c += WIDTH) {
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v3 = grad[window.grad + e];
            let v4 = max(v3, hosts.grad_min);
            let v5 = min(v4, hosts.grad_max);
            let v6 = v5 * hosts.grad_scale;
            let v7 = param[window.param + e];
            let v37 = exp_avg_sq[e];
            let v46 = inverseSqrt(v37);
            let v47 = v6 * v46;
            let v48 = v47 * v45;
            let v50 = exp_avg[e];
            let v52 = select(v48, v50, hosts.host_51 < 0.5);
            let v53 = v48 - v50;
            let v56 = v53 * hosts.host_55;
            let v57 = v52 + v56;
            let v58 = v57;
            let v60 = v7 * hosts.host_59;
            let v61 = v58 + v60;
            let v62 = v7 - v61;
            param[window.param + e] = v62;
            exp_avg[e] = v58;
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
