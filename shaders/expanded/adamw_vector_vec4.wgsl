// adamw of a vector, four columns at once: 28 bytes a parameter in 1 sweeps.
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
    eps: f32,
    host_16: f32,
    host_21: f32,
    host_27: f32,
    host_31: f32,
    host_38: f32,
    host_44: f32,
    host_46: f32,
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
@group(0) @binding(6) var<storage, read_write> exp_avg: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> exp_avg_sq: array<vec4<f32>>;

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
    for (var c = 4u * lid; c < tile.cols; c += 4u * WIDTH) {
        for (var i = 0u; i < tile.rows; i++) {
            let e = (tile.at + i * t.cols + c) / 4u;
            let v3 = grad[window.grad + e];
            let v4 = max(v3, vec4(hosts.grad_min));
            let v5 = min(v4, vec4(hosts.grad_max));
            let v6 = v5 * hosts.grad_scale;
            let v7 = param[window.param + e];
            let v14 = exp_avg[e];
            let v18 = select(v6, v14, hosts.host_16 < 0.5);
            let v19 = v6 - v14;
            let v22 = v19 * hosts.host_21;
            let v23 = v18 + v22;
            let v24 = v23;
            let v25 = v6 * v6;
            let v26 = exp_avg_sq[e];
            let v28 = select(v25, v26, hosts.host_27 < 0.5);
            let v29 = v25 - v26;
            let v32 = v29 * hosts.host_31;
            let v33 = v28 + v32;
            let v34 = v33;
            let v35 = sqrt(v34);
            let v39 = v35 * hosts.host_38;
            let v40 = v39 + hosts.eps;
            let v41 = v24 / v40;
            let v45 = v41 * hosts.host_44;
            let v47 = v7 * hosts.host_46;
            let v48 = v45 + v47;
            let v49 = v7 - v48;
            param[window.param + e] = v49;
            exp_avg[e] = v24;
            exp_avg_sq[e] = v34;
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
