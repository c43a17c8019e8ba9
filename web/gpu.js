// The steps on a page's own device, for `index.js`: carries out what the plan says.

import { Plan } from "./pkg/gradstep_gpu.js";

export { default as load, optimizers } from "./pkg/gradstep_gpu.js";

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
        this.params[i].value = t.param === undefined ? this.params[i].given : this.buffers[t.param];
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

  // Gradients in order, checked.
  #given(given) {
    this.#alive();
    const grads = given();
    grads.forEach((grad, i) => {
      if (grad === undefined) return;
      const { name, value } = this.params[i];
      const { bytes, usage } = this.plan.buffers[this.plan.tensors[i].grad];
      this.#check(grad, "gradient", name, bytes, usage);
      if (grad === value) throw new Error(`parameter and gradient of \`${name}\` are one buffer`);
    });
    return grads;
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

  encode(encoder, given, last = this.wasm.is_last()) {
    const grads = this.#given(given);
    const { words, lists } = this.#begin(last);
    this.#constants(encoder, words);
    for (const commands of lists) this.#record(encoder, commands, grads);
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

  async step(given, last = this.wasm.is_last()) {
    const grads = this.#given(given);
    const { words, lists } = this.#begin(last);
    await this.#submit("the step", words, (encoder) => {
      for (const commands of lists) this.#record(encoder, commands, grads);
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

  dispose() {
    this.own.forEach((buffer) => buffer.destroy());
    this.own = [];
    this.binds.clear();
    this.wasm.free();
  }
}

export const create = (json, options) => Gpu.create(json, options);
