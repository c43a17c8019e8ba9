// The golden trajectories, on the package: in a page, in a Worker, in Node. Nothing here knows which.

/** A safetensors file: metadata, and tensors by name. */
export function parse(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = Number(view.getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  const { __metadata__: metadata = {}, ...infos } = header;
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets: [from, upto] }] of Object.entries(infos)) {
    const data = bytes.slice(8 + length + from, 8 + length + upto).buffer;
    tensors[name] = { shape, data: dtype === "F64" ? new Float64Array(data) : new Float32Array(data) };
  }
  return { metadata, tensors };
}

// SM3 keeps one accumulator per axis in its paper, and here those of rows and columns.
const deviates = (name, tensor) =>
  name.startsWith("po_sm3") && ["conv_2x3x3x2", "batch_3x5x4"].includes(tensor);

const norm = (x) => Math.sqrt(x.reduce((sum, v) => sum + v * v, 0));
const difference = (a, b) => Array.from(a, (x, i) => x - b[i]);
const UNIT = 2 ** -24;

/** FNV-1a over the bits of values, from where another left off. */
export function hash(values, from = 0x811c9dc5) {
  let h = from;
  for (const byte of new Uint8Array(values.buffer, values.byteOffset, values.byteLength)) {
    h = Math.imul(h ^ byte, 0x01000193) >>> 0;
  }
  return h;
}

function arrayBuffer(device, values) {
  const buffer = device.createBuffer({
    size: Math.max(values.byteLength, 4),
    usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC,
  });
  device.queue.writeBuffer(buffer, 0, values);
  return buffer;
}

/** Copies a buffer to the host. */
export async function read(device, buffer) {
  const to = device.createBuffer({
    size: buffer.size,
    usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
  });
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(buffer, 0, to, 0, buffer.size);
  device.queue.submit([encoder.finish()]);
  await to.mapAsync(GPUMapMode.READ);
  const values = new Float32Array(to.getMappedRange().slice(0));
  to.destroy();
  return values;
}

/**
 * Steps all tensors of a case, on `device` or on typed arrays, by the settings of the official code,
 * and compares each step with its `f32`. Returns for each tensor the worst error in units of the
 * tolerance, the error of each step in units of the
 * parameter's round-off, and a hash of the bits of all steps.
 */
export async function run(Optimizer, name, inputs, file, tolerance, device) {
  const names = Object.keys(inputs.tensors)
    .filter((key) => key.startsWith("p0/"))
    .map((key) => key.slice(3))
    .filter((tensor) => !deviates(name, tensor));
  const start = names.map((n) => Float32Array.from(inputs.tensors[`p0/${n}`].data));
  const params = names.map((n, i) => {
    const { shape } = inputs.tensors[`p0/${n}`];
    const values = start[i].slice();
    return device
      ? { name: n, shape, buffer: arrayBuffer(device, values) }
      : { name: n, shape, data: values };
  });
  const settings = JSON.parse(file.metadata.settings_with_defaults);
  const opt = await Optimizer.create({
    ...settings,
    optimizer: file.metadata.optimizer,
    params,
    device,
  });
  const results = names.map(() => ({ error: 0, moved: 0, compared: 0, units: [], hash: undefined }));
  const grads = device && params.map((p) => arrayBuffer(device, new Float32Array(p.buffer.size / 4)));
  for (let t = 0; t < 24; t++) {
    const given = names.map((n) => Float32Array.from(inputs.tensors[`grad/${t}/${n}`].data));
    if (device) {
      given.forEach((g, i) => device.queue.writeBuffer(grads[i], 0, g));
      await opt.step(grads);
    } else {
      await opt.step(given);
    }
    for (const [i, n] of names.entries()) {
      const wanted = file.tensors[`f32/trajectory/${t}/${n}`]?.data;
      const found = device ? await read(device, params[i].buffer) : params[i].data;
      const result = results[i];
      result.hash = hash(found.subarray(0, start[i].length), result.hash);
      if (!wanted) continue;
      result.compared += 1;
      const { factor, rare } = tolerance;
      const { roundings } = rare.of === `${name} ${n}` ? rare : tolerance;
      result.moved = Math.max(result.moved, norm(difference(wanted, start[i])));
      const last = UNIT * norm(Array.from(wanted));
      const allowed = factor * UNIT * result.moved + roundings * (t + 1) * last;
      const error = norm(difference(found.subarray(0, start[i].length), wanted));
      // What is not a number is wrong.
      const part = error === 0 ? 0 : error / allowed;
      result.units.push(error === 0 ? 0 : error / last);
      result.error = Number.isFinite(part) ? Math.max(result.error, part) : Infinity;
    }
  }
  opt.dispose();
  for (const buffer of [...(grads ?? []), ...params.map((p) => p.buffer)]) buffer?.destroy();
  return Object.fromEntries(names.map((n, i) => [n, results[i]]));
}

export const CASES = [
  "came_default", "came_wd", "came_betas", "torch_sgd_plain", "torch_sgd_momentum",
  "torch_sgd_nesterov", "torch_adam", "torch_adam_l2", "torch_adam_amsgrad", "torch_adamw",
  "torch_adamw_amsgrad", "torch_adafactor_default", "torch_adafactor_wd", "hf_adafactor_default",
  "hf_adafactor_lr", "hf_adafactor_momentum", "hf_adafactor_warmup", "po_sm3", "po_sm3_momentum",
];

/** All cases. `fetchFile` gives the bytes of a golden file. */
export async function all(Optimizer, fetchFile, tolerance, device, cases = CASES) {
  const inputs = parse(await fetchFile("inputs"));
  const out = {};
  for (const name of cases) {
    out[name] = await run(Optimizer, name, inputs, parse(await fetchFile(name)), tolerance, device);
  }
  return out;
}
