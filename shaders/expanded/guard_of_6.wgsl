// control of a vector: 4 bytes a parameter in 1 sweeps.
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
    max_norm: f32,
    max_value: f32,
    tests: f32,
    micro: f32,
    growth: f32,
    backoff: f32,
    interval: f32,
    host_42: f32,
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
    // Of each gradient: where in its buffer it begins, and 0 where it is left out.
    grads: array<vec4<u32>, 6>,
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
@group(0) @binding(4) var<storage, read> grad_0: array<f32>;
@group(0) @binding(5) var<storage, read> grad_1: array<f32>;
@group(0) @binding(6) var<storage, read> grad_2: array<f32>;
@group(0) @binding(7) var<storage, read> grad_3: array<f32>;
@group(0) @binding(8) var<storage, read> grad_4: array<f32>;
@group(0) @binding(9) var<storage, read> grad_5: array<f32>;

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

fn at_slot_go(t: Tensor) -> u32 {
    return t.small;
}

fn at_grad_min(t: Tensor) -> u32 {
    return t.small + 1u;
}

fn at_grad_max(t: Tensor) -> u32 {
    return t.small + 2u;
}

fn at_grad_scale(t: Tensor) -> u32 {
    return t.small + 3u;
}

fn at_loss_scale(t: Tensor) -> u32 {
    return t.small + 4u;
}

fn at_clip_factor(t: Tensor) -> u32 {
    return t.small + 5u;
}

fn at_good_steps(t: Tensor) -> u32 {
    return t.small + 6u;
}

fn at_slot_skipped(t: Tensor) -> u32 {
    return t.small + 7u;
}

fn at_grad_norm(t: Tensor) -> u32 {
    return t.small + 8u;
}

fn at_15(t: Tensor) -> u32 {
    return t.small + 9u;
}

fn at_22(t: Tensor) -> u32 {
    return t.small + 10u;
}

fn at_27(t: Tensor) -> u32 {
    return t.small + 11u;
}

fn at_45(t: Tensor) -> u32 {
    return t.small + 12u;
}

fn at_48(t: Tensor) -> u32 {
    return t.small + 13u;
}

fn at_49(t: Tensor) -> u32 {
    return t.small + 14u;
}

fn partials_22(t: Tensor) -> u32 {
    return t.partials;
}

fn partials_27(t: Tensor) -> u32 {
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
    let v7 = small[at_loss_scale(t)];
    let v8 = v7 * hosts.micro;
    let v10 = max(v8, 1.0);
    let v12 = 1.7014117e38 / v10;
    let v13 = min(hosts.max_value, v12);
    let v14 = v13 * v8;
    let v15 = 1.0 / v8;
    let v17 = -(v14);
    var sum_22 = 0.0;
    var sum_27 = LOWEST;
    switch (tile.down) {
        case 0u: {
            if (window.grads[0].y != 0u) {
                for (var c = lid; c < tile.cols; c += WIDTH) {
                    for (var i = 0u; i < tile.rows; i++) {
                        let e = tile.at + i * t.cols + c;
                        let v16 = grad_0[window.grads[0].x + e];
                        let v18 = max(v16, v17);
                        let v19 = min(v18, v14);
                        let v20 = v19 * v15;
                        let v21 = v20 * v20;
                        let v25 = select(1.0, 0.0, (bitcast<u32>(v16) & EXPONENT) == EXPONENT);
                        let v26 = 1.0 - v25;
                        sum_22 += v21;
                        sum_27 = max(sum_27, v26);
                    }
                }
            }
        }
        case 1u: {
            if (window.grads[1].y != 0u) {
                for (var c = lid; c < tile.cols; c += WIDTH) {
                    for (var i = 0u; i < tile.rows; i++) {
                        let e = tile.at + i * t.cols + c;
                        let v16 = grad_1[window.grads[1].x + e];
                        let v18 = max(v16, v17);
                        let v19 = min(v18, v14);
                        let v20 = v19 * v15;
                        let v21 = v20 * v20;
                        let v25 = select(1.0, 0.0, (bitcast<u32>(v16) & EXPONENT) == EXPONENT);
                        let v26 = 1.0 - v25;
                        sum_22 += v21;
                        sum_27 = max(sum_27, v26);
                    }
                }
            }
        }
        case 2u: {
            if (window.grads[2].y != 0u) {
                for (var c = lid; c < tile.cols; c += WIDTH) {
                    for (var i = 0u; i < tile.rows; i++) {
                        let e = tile.at + i * t.cols + c;
                        let v16 = grad_2[window.grads[2].x + e];
                        let v18 = max(v16, v17);
                        let v19 = min(v18, v14);
                        let v20 = v19 * v15;
                        let v21 = v20 * v20;
                        let v25 = select(1.0, 0.0, (bitcast<u32>(v16) & EXPONENT) == EXPONENT);
                        let v26 = 1.0 - v25;
                        sum_22 += v21;
                        sum_27 = max(sum_27, v26);
                    }
                }
            }
        }
        case 3u: {
            if (window.grads[3].y != 0u) {
                for (var c = lid; c < tile.cols; c += WIDTH) {
                    for (var i = 0u; i < tile.rows; i++) {
                        let e = tile.at + i * t.cols + c;
                        let v16 = grad_3[window.grads[3].x + e];
                        let v18 = max(v16, v17);
                        let v19 = min(v18, v14);
                        let v20 = v19 * v15;
                        let v21 = v20 * v20;
                        let v25 = select(1.0, 0.0, (bitcast<u32>(v16) & EXPONENT) == EXPONENT);
                        let v26 = 1.0 - v25;
                        sum_22 += v21;
                        sum_27 = max(sum_27, v26);
                    }
                }
            }
        }
        case 4u: {
            if (window.grads[4].y != 0u) {
                for (var c = lid; c < tile.cols; c += WIDTH) {
                    for (var i = 0u; i < tile.rows; i++) {
                        let e = tile.at + i * t.cols + c;
                        let v16 = grad_4[window.grads[4].x + e];
                        let v18 = max(v16, v17);
                        let v19 = min(v18, v14);
                        let v20 = v19 * v15;
                        let v21 = v20 * v20;
                        let v25 = select(1.0, 0.0, (bitcast<u32>(v16) & EXPONENT) == EXPONENT);
                        let v26 = 1.0 - v25;
                        sum_22 += v21;
                        sum_27 = max(sum_27, v26);
                    }
                }
            }
        }
        default: {
            if (window.grads[5].y != 0u) {
                for (var c = lid; c < tile.cols; c += WIDTH) {
                    for (var i = 0u; i < tile.rows; i++) {
                        let e = tile.at + i * t.cols + c;
                        let v16 = grad_5[window.grads[5].x + e];
                        let v18 = max(v16, v17);
                        let v19 = min(v18, v14);
                        let v20 = v19 * v15;
                        let v21 = v20 * v20;
                        let v25 = select(1.0, 0.0, (bitcast<u32>(v16) & EXPONENT) == EXPONENT);
                        let v26 = 1.0 - v25;
                        sum_22 += v21;
                        sum_27 = max(sum_27, v26);
                    }
                }
            }
        }
    }
    lanes[lid] = sum_22;
    workgroupBarrier();
    if (lid == 0u) {
        for (var i = 1u; i < WIDTH; i++) {
            sum_22 += lanes[i];
        }
        small[partials_22(t) + tile.index] = sum_22;
    }
    workgroupBarrier();
    lanes[lid] = sum_27;
    workgroupBarrier();
    if (lid == 0u) {
        for (var i = 1u; i < WIDTH; i++) {
            sum_27 = max(sum_27, lanes[i]);
        }
        small[partials_27(t) + tile.index] = sum_27;
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
    var sum_22 = 0.0;
    for (var i = lid; i < t.batch * t.row_tiles * t.col_tiles; i += SETTLE) {
        sum_22 += small[partials_22(t) + i];
    }
    let total_22 = sum_lanes(lid, sum_22);
    if (lid == 0u) {
        small[at_22(t)] = total_22 / (f32(t.batch) * (f32(t.rows) * f32(t.cols)));
    }
    var sum_27 = LOWEST;
    for (var i = lid; i < t.batch * t.row_tiles * t.col_tiles; i += SETTLE) {
        sum_27 = max(sum_27, small[partials_27(t) + i]);
    }
    let total_27 = max_lanes(lid, sum_27);
    if (lid == 0u) {
        small[at_27(t)] = total_27;
    }
    for (var i = lid; i < 1u; i += SETTLE) {
        let v7 = small[at_loss_scale(t)];
        let v8 = v7 * hosts.micro;
        let v10 = max(v8, 1.0);
        let v12 = 1.7014117e38 / v10;
        let v13 = min(hosts.max_value, v12);
        let v14 = v13 * v8;
        small[at_grad_max(t) + i] = v14;
        let v15 = 1.0 / v8;
        small[at_15(t) + i] = v15;
        let v17 = -(v14);
        small[at_grad_min(t) + i] = v17;
        let v39 = small[at_good_steps(t)];
        let v40 = v39 + 1.0;
        let v43 = v7 * hosts.growth;
        let v44 = select(v7, v43, v7 < hosts.host_42);
        let v45 = select(v44, v7, v40 < hosts.interval);
        small[at_45(t) + i] = v45;
        let v46 = v7 * hosts.backoff;
        let v48 = max(v46, 1.1754944e-38);
        small[at_48(t) + i] = v48;
        let v49 = select(0.0, v40, v40 < hosts.interval);
        small[at_49(t) + i] = v49;
    }
    storageBarrier();
    for (var i = lid; i < 1u; i += SETTLE) {
        let v22 = small[at_22(t)];
        let v24 = v22 * (f32(t.batch) * f32(t.rows) * f32(t.cols));
        let v28 = sqrt(v24);
        small[at_grad_norm(t) + i] = v28;
        let v30 = select(1.0, 0.0, (bitcast<u32>(v28) & EXPONENT) == EXPONENT);
        let v27 = small[at_27(t)];
        let v32 = select(0.0, v30, v27 < 0.5);
        let v33 = select(v32, 1.0, hosts.tests < 0.5);
        small[at_slot_go(t) + i] = v33;
        let v35 = v28 + 1e-6;
        let v36 = hosts.max_norm / v35;
        let v37 = select(v36, 1.0, v35 < hosts.max_norm);
        small[at_clip_factor(t) + i] = v37;
        let v15 = small[at_15(t)];
        let v38 = v15 * v37;
        small[at_grad_scale(t) + i] = v38;
        let v48 = small[at_48(t)];
        let v45 = small[at_45(t)];
        let v50 = select(v45, v48, v33 < 0.5);
        small[at_loss_scale(t) + i] = v50;
        let v49 = small[at_49(t)];
        let v51 = select(v49, 0.0, v33 < 0.5);
        small[at_good_steps(t) + i] = v51;
        let v53 = 1.0 - v33;
        let v52 = small[at_slot_skipped(t)];
        let v54 = v52 + v53;
        small[at_slot_skipped(t) + i] = v54;
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
