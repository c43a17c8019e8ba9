// came of a vector, four columns at once: 36 bytes a parameter in 2 sweeps.
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
    host_25: f32,
    host_34: f32,
    host_39: f32,
    host_47: f32,
    host_51: f32,
    host_59: f32,
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
@group(0) @binding(4) var<storage, read> grad: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> param: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> exp_avg_sq: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> exp_avg: array<vec4<f32>>;

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

fn at_37(t: Tensor) -> u32 {
    return t.small;
}

fn at_42(t: Tensor) -> u32 {
    return t.small + 1u;
}

fn partials_37(t: Tensor) -> u32 {
    return t.partials;
}

// Small values of four columns.
fn four(at: u32) -> vec4<f32> {
    return vec4(small[at], small[at + 1u], small[at + 2u], small[at + 3u]);
}

// Writes them, of the last columns those that there are.
fn put(at: u32, x: vec4<f32>, cols: u32) {
    for (var i = 0u; i < min(cols, 4u); i++) {
        small[at + i] = x[i];
    }
}

fn sum4(x: vec4<f32>) -> f32 {
    return (x.x + x.y) + (x.z + x.w);
}

fn max4(x: vec4<f32>) -> f32 {
    return max(max(x.x, x.y), max(x.z, x.w));
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
    var sum_four_37 = vec4(0.0);
    for (var c = 4u * lid; c < tile.cols; c += 4u * WIDTH) {
        let inside = vec4(c, c + 1u, c + 2u, c + 3u) < vec4(tile.cols);
        for (var i = 0u; i < tile.rows; i++) {
            let e = (tile.at + i * t.cols + c) / 4u;
            let v3 = grad[window.grad + e];
            let v4 = max(v3, vec4(hosts.grad_min));
            let v5 = min(v4, vec4(hosts.grad_max));
            let v6 = v5 * hosts.grad_scale;
            let v16 = v6 * v6;
            let v17 = v16 + hosts.eps1;
            let v18 = exp_avg_sq[e];
            let v22 = select(v17, v18, hosts.host_20 < 0.5);
            let v23 = v17 - v18;
            let v26 = v23 * hosts.host_25;
            let v27 = v22 + v26;
            let v28 = v27;
            let v35 = v28 * hosts.host_34;
            let v36 = v16 / v35;
            exp_avg_sq[e] = v28;
            sum_four_37 += select(vec4(0.0), v36, inside);
        }
    }
    var sum_37 = sum4(sum_four_37);
    lanes[lid] = sum_37;
    workgroupBarrier();
    if (lid == 0u) {
        for (var i = 1u; i < WIDTH; i++) {
            sum_37 += lanes[i];
        }
        small[partials_37(t) + tile.index] = sum_37;
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
    var sum_37 = 0.0;
    for (var i = lid; i < t.batch * t.row_tiles * t.col_tiles; i += SETTLE) {
        sum_37 += small[partials_37(t) + i];
    }
    let total_37 = sum_lanes(lid, sum_37);
    if (lid == 0u) {
        small[at_37(t)] = total_37 / (f32(t.batch) * (f32(t.rows) * f32(t.cols)));
    }
    storageBarrier();
    for (var i = lid; i < 1u; i += SETTLE) {
        let v37 = small[at_37(t)];
        let v38 = sqrt(v37);
        let v40 = v38 * hosts.host_39;
        let v41 = max(v40, 1.0);
        let v42 = 1.0 / v41;
        small[at_42(t) + i] = v42;
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
    let v42 = small[at_42(t)];
    for (var c = 4u * lid; c < tile.cols; c += 4u * WIDTH) {
        for (var i = 0u; i < tile.rows; i++) {
            let e = (tile.at + i * t.cols + c) / 4u;
            let v3 = grad[window.grad + e];
            let v4 = max(v3, vec4(hosts.grad_min));
            let v5 = min(v4, vec4(hosts.grad_max));
            let v6 = v5 * hosts.grad_scale;
            let v7 = param[window.param + e];
            let v28 = exp_avg_sq[e];
            let v35 = v28 * hosts.host_34;
            let v43 = inverseSqrt(v35);
            let v44 = v6 * v43;
            let v45 = v44 * v42;
            let v46 = exp_avg[e];
            let v48 = select(v45, v46, hosts.host_47 < 0.5);
            let v49 = v45 - v46;
            let v52 = v49 * hosts.host_51;
            let v53 = v48 + v52;
            let v54 = v53;
            let v60 = v54 * hosts.host_59;
            let v62 = v7 * hosts.host_61;
            let v63 = v60 + v62;
            let v64 = v7 - v63;
            param[window.param + e] = v64;
            exp_avg[e] = v54;
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
