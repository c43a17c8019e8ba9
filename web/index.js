// Optimizers on a page's own WebGPU device, or on typed arrays.
//
// The library itself is in WASM: it writes a plan (WGSL, buffers, dispatches) and computes the
// constants of each step. What stands here only carries that out. No formula does.

import load, { Host, Plan } from "./pkg/gradstep.js";

let loaded;

/**
 * Loads the WASM module, once. `source` is where it comes from, if not from beside this file: a URL,
 * a Response, bytes, or a compiled module.
 */
export function init(source) {
  loaded ??= (async () => {
    let from = source ?? new URL("./pkg/gradstep_bg.wasm", import.meta.url);
    if (from instanceof URL && from.protocol === "file:") {
      // Node reads files, but does not fetch them.
      const { readFile } = await import("node:fs/promises");
      from = await readFile(from);
    }
    await load({ module_or_path: from });
  })().catch((error) => {
    loaded = undefined;
    throw error;
  });
  return loaded;
}

const snake = (name) => name.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);

// What an option selects: names, a pattern, or a function of name and shape.
function selected(what, option, params) {
  if (option === undefined) return params.map((p) => p.name);
  if (option instanceof RegExp) return params.filter((p) => option.test(p.name)).map((p) => p.name);
  if (typeof option === "function") return params.filter((p) => option(p)).map((p) => p.name);
  if (Array.isArray(option)) {
    const unknown = option.find((name) => !params.some((p) => p.name === name));
    if (unknown !== undefined) throw new Error(`${what}: there is no parameter \`${unknown}\``);
    return option;
  }
  throw new TypeError(`${what}: pass a list of names, a RegExp or a function`);
}

const OF_GROUP = ["name", "params", "optimizer", "layout", "lrFactor", "noDecay", "schedules", "frozen"];
// What is done to gradients and beside the step.
const OF_STEP = ["clipNorm", "clipValue", "checkFinite", "lossScale", "average", "accumulate"];
const OF_ALL = ["device", "groups", ...OF_STEP];

// A group in the words of the planner. What is no option of ours is a setting of the optimizer.
function group(options, params, isAll) {
  const name = options.name ?? "all";
  const what = `group \`${name}\``;
  const out = { name, layout: options.layout, lrFactor: options.lrFactor };
  if (!isAll) out.params = selected(what, options.params, params);
  if (options.frozen) return out;
  if (typeof options.optimizer !== "string") {
    throw new TypeError(`${what}: \`optimizer\` must be the name of one, as "adamw"`);
  }
  out.optimizer = options.optimizer;
  out.settings = {};
  for (const [key, value] of Object.entries(options)) {
    if (OF_GROUP.includes(key) || (isAll && OF_ALL.includes(key))) continue;
    // A learning rate that is a schedule.
    if (key === "lr" && value !== null && typeof value === "object") continue;
    out.settings[snake(key)] = value;
  }
  const lr = options.lr !== null && typeof options.lr === "object" ? { lr: options.lr } : {};
  out.schedules = { ...lr, ...options.schedules };
  // The optimizers that have no default learning rate want one, which the schedule replaces.
  if (out.schedules.lr !== undefined && options.optimizer === "came") out.settings.lr ??= 0;
  if (options.noDecay !== undefined) {
    out.undecayed = selected(`${what}, \`noDecay\``, options.noDecay, params);
  }
  return out;
}

function settings(options) {
  const { params } = options;
  if (!Array.isArray(params)) throw new TypeError("`params` must be a list");
  const groups = options.groups
    ? options.groups.map((g) => group(g, params, false))
    : [group(options, params, true)];
  return {
    params: params.map(({ name, shape, layout }) => ({ name, shape, layout })),
    groups,
    ...Object.fromEntries(OF_STEP.map((name) => [name, options[name]])),
  };
}

const numel = (shape) => shape.reduce((n, d) => n * d, 1);

/** The optimizer of all parameters of a model. */
export class Optimizer {
  #on;
  #disposed = false;

  constructor(on) {
    this.#on = on;
  }

  /** Makes one: on `device` where that is given, on typed arrays otherwise. */
  static async create(options) {
    await init();
    const json = JSON.stringify(settings(options));
    if (options.device) return new Optimizer(await Gpu.create(json, options));
    return new Optimizer(new Cpu(json, options));
  }

  #alive() {
    if (this.#disposed) throw new Error("this optimizer was disposed of; create another");
    return this.#on;
  }

  /**
   * Records a step into a GPUCommandEncoder, of which nothing is submitted. `grads` has the GPUBuffer
   * of each gradient, by name or in the order of the parameters. With `accumulate` it is a micro-batch,
   * and a step after the last of them, or where `last` says so. Returns whether there is a step.
   */
  encode(encoder, grads, { last } = {}) {
    return this.#alive().encode(encoder, grads, last);
  }

  /** Takes a step, or a micro-batch. On typed arrays the parameters have changed when it resolves. */
  async step(grads, { last } = {}) {
    return this.#alive().step(grads, last);
  }

  /** Micro-batches since the last step. */
  get pending() {
    return this.#alive().wasm.pending();
  }

  /** Forgets the micro-batches since the last step. */
  discard() {
    this.#alive().wasm.discard();
  }

  /** Records the exchange of all parameters and their averages. A second one swaps them back. */
  encodeSwap(encoder) {
    this.#alive().encodeSwap(encoder);
  }

  /** Swaps all parameters and their averages. A second call swaps them back. */
  async swapAverages() {
    return this.#alive().swap();
  }

  /** Calls `f` while the averages are in the place of the parameters. */
  async withAverages(f) {
    await this.swapAverages();
    try {
      return await f(this);
    } finally {
      await this.swapAverages();
    }
  }

  /** What became of the last step: waits for the device. */
  async outcome() {
    return this.#alive().outcome();
  }

  /** The state and the parameters as the bytes of a safetensors file. */
  async exportState() {
    return this.#alive().save();
  }

  /** Goes back to such a file: parameters, state, step number and hyper-parameters. */
  async importState(file) {
    await this.#alive().load(file);
  }

  /** The number of steps taken or recorded. */
  get steps() {
    return this.#alive().wasm.steps();
  }

  /** Bytes of the optimizer's state. */
  get stateBytes() {
    return this.#alive().wasm.state_bytes();
  }

  /** Which parameter is in which group, and why, as text. */
  describe() {
    return this.#alive().wasm.describe();
  }

  /** A hyper-parameter, as `lr`. */
  getHyper(name, group = "all") {
    return this.#alive().wasm.hyper(group, name);
  }

  /** Sets a hyper-parameter from the next step on. Nothing is compiled anew. */
  setHyper(name, value, group = "all") {
    this.#alive().wasm.set_hyper(group, name, value);
  }

  /** The GPUBuffer or typed array of a parameter. */
  param(name) {
    return this.#alive().param(name);
  }

  /** Frees everything that was allocated here. The page's own buffers stay. */
  dispose() {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#on.dispose();
  }

  [Symbol.dispose ?? Symbol.for("Symbol.dispose")]() {
    this.dispose();
  }
}

// Gradients by name or in order, in the order of the parameters. Frozen ones have none.
function inOrder(grads, params, frozen) {
  if (grads === null || typeof grads !== "object") {
    throw new TypeError("pass the gradients as a list, or as an object by name");
  }
  const list = Array.isArray(grads);
  if (list && grads.length !== params.length) {
    throw new Error(`${grads.length} gradients were given for ${params.length} parameters`);
  }
  return params.map((p, i) => {
    const grad = list ? grads[i] : grads[p.name];
    if (frozen[i]) return undefined;
    if (grad === undefined || grad === null) throw new Error(`there is no gradient of \`${p.name}\``);
    return grad;
  });
}

class Cpu {
  constructor(json, { params }) {
    this.params = params.map(({ name, shape, data }) => {
      const values = data ?? new Float32Array(numel(shape));
      if (!(values instanceof Float32Array)) {
        throw new TypeError(`the data of parameter \`${name}\` must be a Float32Array`);
      }
      return { name, values };
    });
    this.wasm = new Host(json);
    // The planner's words for it; frozen parameters take no gradient.
    const groups = JSON.parse(json).groups;
    this.frozen = this.params.map(({ name }) => {
      const of = groups.find((g) => g.params === undefined || g.params.includes(name));
      return of !== undefined && of.optimizer === undefined;
    });
  }

  encode() {
    throw new Error("this optimizer has no device: use `step`, or give `device` to `create`");
  }

  encodeSwap() {
    throw new Error("this optimizer has no device: use `swapAverages`, or give `device` to `create`");
  }

  swap() {
    // Frozen parameters have no average.
    this.wasm.swap(this.params.map((p, i) => (this.frozen[i] ? undefined : p.values)));
  }

  step(grads, last = this.wasm.is_last()) {
    const list = inOrder(grads, this.params, this.frozen);
    list.forEach((grad, i) => {
      if (grad !== undefined && !(grad instanceof Float32Array)) {
        throw new TypeError(`the gradient of \`${this.params[i].name}\` must be a Float32Array`);
      }
    });
    const outcome = this.wasm.step(this.params.map((p) => p.values), list, last);
    if (outcome === undefined) return undefined;
    this.last = JSON.parse(outcome);
    return this.last;
  }

  outcome() {
    return this.last;
  }

  save() {
    return this.wasm.save(this.params.map((p) => p.values));
  }

  load(file) {
    this.wasm.load(file).forEach((values, i) => {
      if (values !== undefined) this.params[i].values.set(values);
    });
  }

  param(name) {
    const found = this.params.find((p) => p.name === name);
    if (!found) throw new Error(`there is no parameter \`${name}\``);
    return found.values;
  }

  dispose() {
    this.wasm.free();
  }
}

const LOST =
  "its buffers are gone with it; make a new device and restore parameters and state from the last copy";

const devices = new WeakMap();

// Whether a device is gone, and who wants to know when it goes. One for all optimizers of a device:
// to ask it for its loss again and again would keep each of them alive with it.
function watched(device) {
  let watch = devices.get(device);
  if (!watch) {
    watch = { gone: undefined, waiting: new Set() };
    devices.set(device, watch);
    device.lost.then((info) => {
      const reason = info.message || info.reason;
      watch.gone = new Error(`the graphics device is lost (${reason}): ${LOST}`);
      watch.waiting.forEach((reject) => reject(watch.gone));
      watch.waiting.clear();
    });
  }
  return watch;
}

class Gpu {
  static async create(json, options) {
    const { device } = options;
    const { limits } = device;
    const binding = Math.min(limits.maxStorageBufferBindingSize, limits.maxBufferSize);
    const wasm = new Plan(
      json,
      binding,
      limits.maxStorageBuffersPerShaderStage,
      limits.maxComputeWorkgroupsPerDimension,
      limits.minStorageBufferOffsetAlignment,
    );
    const gpu = new Gpu(wasm, device);
    try {
      await gpu.prepare(options);
    } catch (error) {
      gpu.dispose();
      throw error;
    }
    return gpu;
  }

  constructor(wasm, device) {
    this.wasm = wasm;
    this.device = device;
    this.plan = JSON.parse(wasm.json());
    this.buffers = [];
    this.own = [];
    this.binds = new Map();
    this.watch = watched(device);
  }

  #alive() {
    if (this.watch.gone) throw this.watch.gone;
  }

  // Waits for a promise of the device, or for its loss.
  #wait(promise) {
    const { watch } = this;
    return new Promise((resolve, reject) => {
      if (watch.gone) return reject(watch.gone);
      watch.waiting.add(reject);
      const done = (f) => (value) => {
        watch.waiting.delete(reject);
        f(value);
      };
      // What fails because the device is gone may say so before the device does.
      const late = (error) => setTimeout(() => reject(watch.gone ?? error), 50);
      promise.then(done(resolve), done(late));
    });
  }

  // Runs `f` and throws what the device complains of.
  async #checked(what, f) {
    this.device.pushErrorScope("out-of-memory");
    this.device.pushErrorScope("validation");
    let result;
    let thrown;
    try {
      result = f();
    } catch (error) {
      thrown = error;
    }
    const errors = [this.device.popErrorScope(), this.device.popErrorScope()];
    for (const error of await this.#wait(Promise.all(errors))) {
      if (error) throw new Error(`the graphics device refused ${what}: ${error.message}`);
    }
    if (thrown) throw thrown;
    return result;
  }

  async prepare({ params }) {
    const { device, plan } = this;
    this.params = params.map(({ name, buffer }) => ({ name, given: buffer }));
    this.frozen = plan.tensors.map((t) => t.param === undefined);
    await this.#checked("the buffers", () => {
      plan.buffers.forEach((b, i) => {
        if (b.role === "grad") return;
        this.buffers[i] = b.role === "param" ? this.#param(b) : this.#make(b);
      });
      plan.tensors.forEach((t, i) => {
        this.params[i].buffer = t.param === undefined ? this.params[i].given : this.buffers[t.param];
      });
    });
    this.modules = await this.#checked("the shaders", () => {
      return plan.modules.map((m) => {
        const layout = device.createBindGroupLayout({
          label: m.name,
          entries: m.bindings.map(({ binding, type }) => ({
            binding,
            visibility: GPUShaderStage.COMPUTE,
            buffer: { type },
          })),
        });
        const module = device.createShaderModule({ label: m.name, code: m.code });
        return { layout, module, entries: new Map() };
      });
    });
    const made = [];
    const { step, accumulate, average } = plan;
    this.swaps = average?.swap ?? [];
    for (const { dispatch } of [...step, ...(accumulate?.micro ?? []), ...(average?.follow ?? []), ...this.swaps]) {
      if (!dispatch) continue;
      const { layout, module, entries } = this.modules[dispatch.module];
      if (entries.has(dispatch.entry)) continue;
      entries.set(dispatch.entry, undefined);
      const pipeline = device.createComputePipelineAsync({
        label: dispatch.entry,
        layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
        compute: { module, entryPoint: dispatch.entry },
      });
      made.push(pipeline.then((p) => entries.set(dispatch.entry, p)));
    }
    await this.#wait(Promise.all(made));
    this.gradOf = new Map();
    plan.tensors.forEach((t, i) => t.grad !== undefined && this.gradOf.set(t.grad, i));
  }

  #make({ label, bytes, usage, init }) {
    const flags = usage.reduce((all, name) => all | GPUBufferUsage[name], 0);
    const buffer = this.device.createBuffer({
      label: `gradstep ${label}`,
      size: Math.ceil(bytes / 4) * 4,
      usage: flags,
      mappedAtCreation: init !== undefined,
    });
    this.own.push(buffer);
    if (init) {
      const range = buffer.getMappedRange();
      if (init.u32) new Uint32Array(range).set(init.u32);
      const floats = new Float32Array(range);
      if (init.f32 !== undefined) floats.fill(Number(init.f32));
      for (const [first, count, x] of init.runs ?? []) floats.fill(Number(x), first, first + count);
      buffer.unmap();
    }
    return buffer;
  }

  #param({ tensor, bytes, usage, label }) {
    const { name, given } = this.params[tensor];
    if (!given) {
      return this.#make({ label, bytes: Math.max(bytes, 4), usage: [...usage, "COPY_SRC", "COPY_DST"] });
    }
    this.#check(given, "parameter", name, bytes, usage);
    return given;
  }

  #check(buffer, what, name, bytes, usage) {
    if (!(buffer instanceof GPUBuffer)) {
      throw new TypeError(`the ${what} of \`${name}\` must be a GPUBuffer`);
    }
    if (buffer.size < bytes) {
      throw new Error(`the ${what} buffer of \`${name}\` has ${buffer.size} bytes, and its shape takes ${bytes}`);
    }
    const lacking = usage.find((flag) => !(buffer.usage & GPUBufferUsage[flag]));
    if (lacking) {
      throw new Error(`the ${what} buffer of \`${name}\` lacks GPUBufferUsage.${lacking}`);
    }
  }

  // A bind group with these gradients. Buffers that were seen before are bound already.
  #bound(i, grads) {
    const bind = this.plan.binds[i];
    const given = bind.entries
      .filter((e) => this.gradOf.has(e.buffer))
      .map((e) => grads[this.gradOf.get(e.buffer)]);
    const known = this.binds.get(i);
    if (known?.given.every((grad, k) => grad === given[k])) return known.group;
    const entries = bind.entries.map(({ binding, buffer, offset, size }) => ({
      binding,
      resource: { buffer: this.buffers[buffer] ?? grads[this.gradOf.get(buffer)], offset, size },
    }));
    const { layout } = this.modules[bind.module];
    const group = this.device.createBindGroup({ label: "gradstep", layout, entries });
    this.binds.set(i, { given, group });
    return group;
  }

  // Checks gradients, and gives them in order.
  #given(grads) {
    this.#alive();
    const list = inOrder(grads, this.params, this.frozen);
    list.forEach((grad, i) => {
      if (grad === undefined) return;
      const { name, buffer } = this.params[i];
      const { bytes, usage } = this.plan.buffers[this.plan.tensors[i].grad];
      this.#check(grad, "gradient", name, bytes, usage);
      if (grad === buffer) throw new Error(`parameter and gradient of \`${name}\` are one buffer`);
    });
    return list;
  }

  #record(encoder, commands, grads) {
    let pass;
    for (const { dispatch, copy } of commands) {
      if (dispatch) {
        pass ??= encoder.beginComputePass({ label: "gradstep" });
        pass.setPipeline(this.modules[dispatch.module].entries.get(dispatch.entry));
        pass.setBindGroup(0, this.#bound(dispatch.bind, grads));
        pass.dispatchWorkgroups(...dispatch.groups);
      } else {
        pass?.end();
        pass = undefined;
        const { from, from_offset, to, to_offset, size } = copy;
        encoder.copyBufferToBuffer(this.buffers[from], from_offset, this.buffers[to], to_offset, size);
      }
    }
    pass?.end();
  }

  // The constants travel with the commands, so that steps recorded ahead keep theirs apart. When the
  // encoder is submitted, if ever, nobody tells: the browser frees the buffer after it.
  #constants(encoder, words) {
    const staging = this.device.createBuffer({
      label: "gradstep constants",
      size: words.byteLength,
      usage: GPUBufferUsage.COPY_SRC,
      mappedAtCreation: true,
    });
    new Float32Array(staging.getMappedRange()).set(words);
    staging.unmap();
    encoder.copyBufferToBuffer(staging, 0, this.buffers[0], 0, words.byteLength);
  }

  // Counts a step or a micro-batch: its constants, and the commands.
  #begin(last) {
    const { step, accumulate, average } = this.plan;
    const words = this.wasm.begin(last);
    const lists = [accumulate?.micro];
    if (last) lists.push(step, this.wasm.follows() ? average.follow : undefined);
    return { words, lists: lists.filter((list) => list) };
  }

  encode(encoder, grads, last = this.wasm.is_last()) {
    const given = this.#given(grads);
    const { words, lists } = this.#begin(last);
    this.#constants(encoder, words);
    for (const commands of lists) this.#record(encoder, commands, given);
    return last;
  }

  // Records with `f`, and submits that with these constants.
  async #submit(what, words, f) {
    this.device.pushErrorScope("validation");
    this.device.queue.writeBuffer(this.buffers[0], 0, words);
    const encoder = this.device.createCommandEncoder({ label: "gradstep" });
    f(encoder);
    this.device.queue.submit([encoder.finish()]);
    const error = await this.#wait(this.device.popErrorScope());
    if (error) throw new Error(`the graphics device refused ${what}: ${error.message}`);
  }

  async step(grads, last = this.wasm.is_last()) {
    const given = this.#given(grads);
    const { words, lists } = this.#begin(last);
    await this.#submit("the step", words, (encoder) => {
      for (const commands of lists) this.#record(encoder, commands, given);
    });
  }

  encodeSwap(encoder) {
    this.#alive();
    this.#constants(encoder, this.wasm.begin_swap());
    this.#record(encoder, this.swaps, []);
  }

  async swap() {
    this.#alive();
    await this.#submit("the swap", this.wasm.begin_swap(), (encoder) => this.#record(encoder, this.swaps, []));
  }

  // Copies of buffers, as Float32Arrays.
  async #read(list) {
    this.#alive();
    const copies = await this.#checked("a read-back", () => {
      const encoder = this.device.createCommandEncoder();
      const copies = list.map(({ buffer, offset, bytes, name }) => {
        if (!(buffer.usage & GPUBufferUsage.COPY_SRC)) {
          throw new Error(`the parameter buffer of \`${name}\` lacks GPUBufferUsage.COPY_SRC`);
        }
        const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
        const to = this.device.createBuffer({ size: bytes, usage });
        encoder.copyBufferToBuffer(buffer, offset, to, 0, bytes);
        return to;
      });
      this.device.queue.submit([encoder.finish()]);
      return copies;
    });
    try {
      await this.#wait(Promise.all(copies.map((c) => c.mapAsync(GPUMapMode.READ))));
      return copies.map((c) => new Float32Array(c.getMappedRange().slice(0)));
    } finally {
      copies.forEach((c) => c.destroy());
    }
  }

  async outcome() {
    this.#alive();
    const { guard } = this.plan;
    if (!guard) return { skipped: false, gradNorm: undefined, clipFactor: 1, lossScale: undefined };
    const names = ["go", "grad_norm", "clip_factor", "loss_scale"];
    const read = names.map((name) => {
      const { buffer, offset } = guard[name];
      return { buffer: this.buffers[buffer], offset, bytes: 4 };
    });
    const [[go], [gradNorm], [clipFactor], [lossScale]] = await this.#read(read);
    return { skipped: go === 0, gradNorm, clipFactor, lossScale };
  }

  async save() {
    const wanted = [...this.wasm.state_buffers()];
    const read = wanted.map((i) => {
      const { bytes, tensor } = this.plan.buffers[i];
      return { buffer: this.buffers[i], offset: 0, bytes, name: this.params[tensor]?.name };
    });
    const values = [];
    (await this.#read(read)).forEach((copy, k) => (values[wanted[k]] = copy));
    return this.wasm.save(values);
  }

  async load(file) {
    this.#alive();
    const writes = this.wasm.load(file);
    await this.#checked("the saved state", () => {
      for (let i = 0; i < writes.length; i += 3) {
        this.device.queue.writeBuffer(this.buffers[writes[i]], writes[i + 1] * 4, writes[i + 2]);
      }
    });
  }

  param(name) {
    const found = this.params.find((p) => p.name === name);
    if (!found) throw new Error(`there is no parameter \`${name}\``);
    return found.buffer;
  }

  dispose() {
    this.own.forEach((buffer) => buffer.destroy());
    this.own = [];
    this.binds.clear();
    this.wasm.free();
  }
}
