// adafactor_momentum of a matrix in tiles of whole rows: 24 bytes a parameter in 2 sweeps.
// Printed from the definition into shaders/step.wgsl; do not edit.

const WIDTH = 64u;
const ROWS = 16u;
const SETTLE = 256u;
const LOWEST = -3.40282346638528859812e+38f;

// Hyper-parameters and what follows from them, computed once a step in f64.
struct Hosts {
    eps1: f32,
    host_16: f32,
    host_25: f32,
    host_47: f32,
    host_55: f32,
    host_60: f32,
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
var<workgroup> local_40: array<f32, ROWS>;

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

fn at_28(t: Tensor) -> u32 {
    return t.small + t.batch * t.cols + t.batch * t.rows;
}

fn at_33(t: Tensor) -> u32 {
    return t.small + t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_34(t: Tensor) -> u32 {
    return t.small + 2u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_36(t: Tensor) -> u32 {
    return t.small + t.batch + 2u * t.batch * t.cols + 2u * t.batch * t.rows;
}

fn at_37(t: Tensor) -> u32 {
    return t.small + t.batch + 2u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_42(t: Tensor) -> u32 {
    return t.small + t.batch + 3u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_44(t: Tensor) -> u32 {
    return t.small + t.batch + 4u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_45(t: Tensor) -> u32 {
    return t.small + t.batch + 5u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn at_51(t: Tensor) -> u32 {
    return t.small + 1u + t.batch + 5u * t.batch * t.cols + 3u * t.batch * t.rows;
}

fn partials_29(t: Tensor) -> u32 {
    return t.partials;
}

fn partials_42(t: Tensor) -> u32 {
    return t.partials + t.row_tiles * t.batch * t.cols;
}

@compute @workgroup_size(WIDTH)
fn sweep_1(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let index = group.y * groups.x + group.x;
    if (index >= window.n_tiles) {
        return;
    }
    let tile = tile_at(index);
    let t = tensor_at(tile.tensor);
    // Level 0.
    for (var i = 0u; i < tile.rows; i++) {
        row_0[i * WIDTH + lid] = 0.0;
    }
    for (var c = lid; c < tile.cols; c += WIDTH) {
        var sum_29 = 0.0;
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v0 = grad[window.grad + e];
            let v17 = v0 * v0;
            let v18 = v17 + hosts.eps1;
            row_0[i * WIDTH + lid] += v18;
            sum_29 += v18;
        }
        small[partials_29(t) + (tile.down * t.batch + tile.b) * t.cols + tile.col + c] = sum_29;
    }
    workgroupBarrier();
    if (lid < tile.rows) {
        var sum_23 = row_0[lid * WIDTH];
        for (var i = 1u; i < WIDTH; i++) {
            sum_23 += row_0[lid * WIDTH + i];
        }
        let v23 = sum_23 / f32(t.cols);
        let v24 = small[at_exp_avg_sq_row(t) + tile.row + lid];
        let v26 = v23 - v24;
        let v27 = v26 * hosts.host_25;
        let v28 = v24 + v27;
        small[at_28(t) + tile.row + lid] = v28;
        let v40 = 1.0 / v28;
        local_40[lid] = v40;
    }
    workgroupBarrier();
    // Level 1.
    for (var c = lid; c < tile.cols; c += WIDTH) {
        var sum_42 = 0.0;
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v40 = local_40[i];
            let v0 = grad[window.grad + e];
            let v17 = v0 * v0;
            let v41 = v17 * v40;
            sum_42 += v41;
        }
        small[partials_42(t) + (tile.down * t.batch + tile.b) * t.cols + tile.col + c] = sum_42;
    }
}

// Adds the column sums of groups of row tiles, where there are many.
@compute @workgroup_size(WIDTH)
fn gather_1(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let index = group.y * groups.x + group.x;
    if (index >= window.n_gathers) {
        return;
    }
    let item = window.gathers + 3u * index;
    let t = tensor_at(table[item]);
    let first = table[item + 1u];
    let end = min(first + t.per_group, t.row_tiles);
    let c = table[item + 2u] + lid;
    let span = t.batch * t.cols;
    if (c < span) {
        var sum_29 = small[partials_29(t) + first * span + c];
        for (var i = first + 1u; i < end; i++) {
            sum_29 += small[partials_29(t) + i * span + c];
        }
        small[partials_29(t) + first * span + c] = sum_29;
        var sum_42 = small[partials_42(t) + first * span + c];
        for (var i = first + 1u; i < end; i++) {
            sum_42 += small[partials_42(t) + i * span + c];
        }
        small[partials_42(t) + first * span + c] = sum_42;
    }
}

// The small values between two sweeps: one workgroup for each tensor.
@compute @workgroup_size(SETTLE)
fn settle_1(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let index = group.y * groups.x + group.x;
    if (index >= window.n_tensors) {
        return;
    }
    let t = tensor_at(index);
    if (t.batch >= SETTLE) {
        for (var b = lid; b < t.batch; b += SETTLE) {
            var sum_34 = 0.0;
            for (var i = 0u; i < t.rows; i++) {
                sum_34 += small[at_28(t) + b * t.rows + i];
            }
            small[at_34(t) + b] = sum_34 / f32(t.rows);
        }
    } else {
        for (var b = 0u; b < t.batch; b++) {
            var part = 0.0;
            for (var i = lid; i < t.rows; i += SETTLE) {
                part += small[at_28(t) + b * t.rows + i];
            }
            let sum_34 = sum_lanes(lid, part);
            if (lid == 0u) {
                small[at_34(t) + b] = sum_34 / f32(t.rows);
            }
        }
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        var sum_29 = 0.0;
        for (var k = 0u; k < t.row_tiles; k += t.per_group) {
            sum_29 += small[partials_29(t) + k * t.batch * t.cols + i];
        }
        let v29 = sum_29 / f32(t.rows);
        let v30 = small[at_exp_avg_sq_col(t) + i];
        let v31 = v29 - v30;
        let v32 = v31 * hosts.host_25;
        let v33 = v30 + v32;
        small[at_33(t) + i] = v33;
        let v37 = inverseSqrt(v33);
        small[at_37(t) + i] = v37;
        var sum_42 = 0.0;
        for (var k = 0u; k < t.row_tiles; k += t.per_group) {
            sum_42 += small[partials_42(t) + k * t.batch * t.cols + i];
        }
        let v42 = sum_42 / f32(t.rows);
        small[at_42(t) + i] = v42;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        let v28 = small[at_28(t) + i];
        let v34 = small[at_34(t) + i / t.rows];
        let v35 = v28 / v34;
        let v36 = inverseSqrt(v35);
        small[at_36(t) + i] = v36;
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        let v34 = small[at_34(t) + i / t.cols];
        let v33 = small[at_33(t) + i];
        let v43 = v34 / v33;
        let v42 = small[at_42(t) + i];
        let v44 = v42 * v43;
        small[at_44(t) + i] = v44;
    }
    storageBarrier();
    var sum_45 = 0.0;
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        sum_45 += small[at_44(t) + i];
    }
    let total_45 = sum_lanes(lid, sum_45);
    if (lid == 0u) {
        small[at_45(t)] = total_45 / (f32(t.batch) * f32(t.cols));
    }
    storageBarrier();
    for (var i = lid; i < 1u; i += SETTLE) {
        let v45 = small[at_45(t)];
        let v46 = sqrt(v45);
        let v48 = v46 * hosts.host_47;
        let v49 = max(v48, 1.0);
        let v50 = 1.0 / v49;
        let v51 = hosts.host_16 * v50;
        small[at_51(t) + i] = v51;
    }
    storageBarrier();
    for (var i = lid; i < t.batch * t.rows; i += SETTLE) {
        small[at_exp_avg_sq_row(t) + i] = small[at_28(t) + i];
    }
    for (var i = lid; i < t.batch * t.cols; i += SETTLE) {
        small[at_exp_avg_sq_col(t) + i] = small[at_33(t) + i];
    }
}

@compute @workgroup_size(WIDTH)
fn sweep_2(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let index = group.y * groups.x + group.x;
    if (index >= window.n_tiles) {
        return;
    }
    let tile = tile_at(index);
    let t = tensor_at(tile.tensor);
    // Level 2.
    let v51 = small[at_51(t)];
    for (var c = lid; c < tile.cols; c += WIDTH) {
        let v37 = small[at_37(t) + tile.b * t.cols + tile.col + c];
        for (var i = 0u; i < tile.rows; i++) {
            let e = tile.at + i * t.cols + c;
            let v36 = small[at_36(t) + tile.row + i];
            let v0 = grad[window.grad + e];
            let v1 = param[window.param + e];
            let v38 = v36 * v37;
            let v39 = v0 * v38;
            let v52 = v39 * v51;
            let v54 = exp_avg[e];
            let v56 = v52 - v54;
            let v57 = v56 * hosts.host_55;
            let v58 = v54 + v57;
            let v59 = v58;
            let v61 = v1 * hosts.host_60;
            let v62 = v59 + v61;
            let v63 = v1 - v62;
            param[window.param + e] = v63;
            exp_avg[e] = v59;
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
