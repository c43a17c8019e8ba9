// The network of the demo, forward and backward. Matrices are row by row. The bias of a layer is the
// last row of its weights, and its input has a last column of ones that is not stored.

// ── The input: Fourier features of some pixels, and their colours. ──────────────────────────────────

struct Job {
  step: u32,
  first: u32,
  rows: u32,
  // 1: pixels drawn at random by the step; 0: in order from `first`.
  random: u32,
}

override SIDE: u32 = 256;
override FEATURES: u32 = 64;

@group(0) @binding(0) var<uniform> job: Job;
@group(0) @binding(1) var<storage, read> picture: array<u32>;
@group(0) @binding(2) var<storage, read> frequencies: array<vec2f>;
@group(0) @binding(3) var<storage, read_write> features: array<f32>;
@group(0) @binding(4) var<storage, read_write> wanted: array<f32>;

// Well mixed bits of a number.
fn mix_bits(x: u32) -> u32 {
  var h = x * 0x9e3779b9u + 0x7f4a7c15u;
  h = (h ^ (h >> 16u)) * 0x85ebca6bu;
  h = (h ^ (h >> 13u)) * 0xc2b2ae35u;
  return h ^ (h >> 16u);
}

@compute @workgroup_size(64)
fn look(@builtin(global_invocation_id) id: vec3u) {
  let row = id.x / FEATURES;
  let f = id.x % FEATURES;
  if (row >= job.rows) {
    return;
  }
  let pixels = SIDE * SIDE;
  var pixel = min(job.first + row, pixels - 1u);
  if (job.random == 1u) {
    pixel = mix_bits(mix_bits(job.step) ^ row) % pixels;
  }
  let at = (vec2f(vec2u(pixel % SIDE, pixel / SIDE)) + 0.5) / f32(SIDE);
  let turns = dot(frequencies[f], at);
  let angle = 6.2831853 * (turns - floor(turns));
  features[row * 2u * FEATURES + f] = sin(angle);
  features[row * 2u * FEATURES + FEATURES + f] = cos(angle);
  if (f == 0u) {
    let colour = unpack4x8unorm(picture[pixel]);
    wanted[row * 3u] = colour.r;
    wanted[row * 3u + 1u] = colour.g;
    wanted[row * 3u + 2u] = colour.b;
  }
}

// ── C = A·B, for a layer and both products of its gradient. ─────────────────────────────────────────

struct Size {
  m: u32,
  n: u32,
  k: u32,
  // How much of k a workgroup sums; there are as many parts of C as it takes.
  part: u32,
}

override A_TRANSPOSED: bool = false;
override B_TRANSPOSED: bool = false;
// A has the ones.
override ONES: bool = false;
// What becomes of C: 0 nothing, 1 negative numbers are zero, 2 it is zero where `gate` is.
override END: u32 = 0;

@group(0) @binding(0) var<uniform> size: Size;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;
@group(0) @binding(4) var<storage, read> gate: array<f32>;

fn get_a(i: u32, k: u32) -> f32 {
  if (i >= size.m || k >= size.k) {
    return 0.0;
  }
  if (A_TRANSPOSED) {
    let width = select(size.m, size.m - 1u, ONES);
    if (i == width) {
      return 1.0;
    }
    return a[k * width + i];
  }
  let width = select(size.k, size.k - 1u, ONES);
  if (k == width) {
    return 1.0;
  }
  return a[i * width + k];
}

fn get_b(k: u32, j: u32) -> f32 {
  if (k >= size.k || j >= size.n) {
    return 0.0;
  }
  if (B_TRANSPOSED) {
    return b[j * size.k + k];
  }
  return b[k * size.n + j];
}

// Tiles of 16 by 32; a thread has 4 by 4 elements of C.
var<workgroup> tile_a: array<f32, 512>;
var<workgroup> tile_b: array<f32, 512>;

@compute @workgroup_size(8, 8)
fn multiply(
  @builtin(workgroup_id) group: vec3u,
  @builtin(local_invocation_id) local: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let rows = group.y * 32u;
  let columns = group.x * 32u;
  let end = min((group.z + 1u) * size.part, size.k);
  var sum: array<vec4f, 4>;
  for (var start = group.z * size.part; start < end; start += 16u) {
    for (var l = thread; l < 512u; l += 64u) {
      // Neighbours read neighbours.
      let long = vec2u(l % 32u, l / 32u);
      let short = vec2u(l / 16u, l % 16u);
      let ia = select(short, long, A_TRANSPOSED);
      let ib = select(long, short, B_TRANSPOSED);
      let ka = start + ia.y;
      let kb = start + ib.y;
      tile_a[ia.y * 32u + ia.x] = select(0.0, get_a(rows + ia.x, ka), ka < end);
      tile_b[ib.y * 32u + ib.x] = select(0.0, get_b(kb, columns + ib.x), kb < end);
    }
    workgroupBarrier();
    for (var k = 0u; k < 16u; k++) {
      let at_a = k * 32u + local.y * 4u;
      let at_b = k * 32u + local.x * 4u;
      let right = vec4f(tile_b[at_b], tile_b[at_b + 1u], tile_b[at_b + 2u], tile_b[at_b + 3u]);
      sum[0] += tile_a[at_a] * right;
      sum[1] += tile_a[at_a + 1u] * right;
      sum[2] += tile_a[at_a + 2u] * right;
      sum[3] += tile_a[at_a + 3u] * right;
    }
    workgroupBarrier();
  }
  for (var y = 0u; y < 4u; y++) {
    let i = rows + local.y * 4u + y;
    for (var x = 0u; x < 4u; x++) {
      let j = columns + local.x * 4u + x;
      if (i < size.m && j < size.n) {
        var value = sum[y][x];
        if (END == 1u) {
          value = max(value, 0.0);
        }
        if (END == 2u && gate[i * size.n + j] <= 0.0) {
          value = 0.0;
        }
        c[(group.z * size.m + i) * size.n + j] = value;
      }
    }
  }
}

// ── The parts of a product become one. ──────────────────────────────────────────────────────────────

@group(0) @binding(0) var<storage, read> parts: array<f32>;
@group(0) @binding(1) var<storage, read_write> whole: array<f32>;

@compute @workgroup_size(64)
fn gather(@builtin(global_invocation_id) id: vec3u) {
  let n = arrayLength(&whole);
  if (id.x >= n) {
    return;
  }
  var sum = 0.0;
  for (var i = id.x; i < arrayLength(&parts); i += n) {
    sum += parts[i];
  }
  whole[id.x] = sum;
}

// ── The loss, into a ring that is read now and then, and its gradient. ──────────────────────────────

@group(0) @binding(0) var<uniform> now: Job;
@group(0) @binding(1) var<storage, read> found: array<f32>;
@group(0) @binding(2) var<storage, read> right: array<f32>;
@group(0) @binding(3) var<storage, read_write> slope: array<f32>;
@group(0) @binding(4) var<storage, read_write> ring: array<f32>;

var<workgroup> sums: array<f32, 256>;

@compute @workgroup_size(256)
fn compare(@builtin(local_invocation_index) thread: u32) {
  let n = now.rows * 3u;
  var sum = 0.0;
  for (var i = thread; i < n; i += 256u) {
    let d = found[i] - right[i];
    sum += d * d;
    slope[i] = 2.0 * d / f32(n);
  }
  sums[thread] = sum;
  workgroupBarrier();
  for (var half = 128u; half > 0u; half /= 2u) {
    if (thread < half) {
      sums[thread] += sums[thread + half];
    }
    workgroupBarrier();
  }
  if (thread == 0u) {
    ring[now.step % arrayLength(&ring)] = sums[0] / f32(n);
  }
}

// ── What the network sees, on a canvas. ─────────────────────────────────────────────────────────────

@group(0) @binding(0) var<storage, read> colours: array<f32>;

@vertex
fn corner(@builtin(vertex_index) i: u32) -> @builtin(position) vec4f {
  return vec4f(f32(i & 1u) * 4.0 - 1.0, f32(i >> 1u) * 4.0 - 1.0, 0.0, 1.0);
}

@fragment
fn show(@builtin(position) at: vec4f) -> @location(0) vec4f {
  let pixel = u32(at.y) * SIDE + u32(at.x);
  let i = pixel * 3u;
  return vec4f(saturate(vec3f(colours[i], colours[i + 1u], colours[i + 2u])), 1.0);
}
