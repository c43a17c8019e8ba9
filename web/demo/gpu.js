// The network on WebGPU. Two copies of it train on one device, each with an optimizer of the package;
// nothing comes back but the losses.
import { Optimizer } from "../index.js";
import { NAMES, frequencies, initial, layers } from "./network.js";

const RING = 4096;
const ceil = (a, b) => Math.ceil(a / b);

/** A device, or why there is none. */
export async function findDevice() {
  if (!navigator.gpu) throw new Error("This browser has no WebGPU.");
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) throw new Error("This browser has WebGPU, but found no graphics adapter for it.");
  const device = await adapter.requestDevice();
  const { vendor, architecture, device: model, description } = adapter.info ?? {};
  const name = description || [vendor, architecture, model].filter(Boolean).join(" ");
  return { device, name: name || "a graphics adapter without a name" };
}

export class GpuTrainer {
  static async create(device, size, pixels, sides, canvases) {
    const trainer = new GpuTrainer(device, size);
    try {
      await trainer.#prepare(pixels, sides, canvases);
    } catch (error) {
      trainer.dispose();
      throw error;
    }
    return trainer;
  }

  constructor(device, size) {
    this.device = device;
    this.size = size;
    this.shapes = layers(size);
    this.parameters = this.shapes.reduce((n, [i, o]) => n + i * o, 0);
    this.own = [];
    this.nets = [];
    this.steps = 0;
    this.read = 0;
    this.chunk = 0;
  }

  #buffer(count, usage = GPUBufferUsage.STORAGE, values) {
    const buffer = this.device.createBuffer({
      size: Math.max(4 * count, 16),
      usage: usage | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC,
    });
    this.own.push(buffer);
    if (values) this.device.queue.writeBuffer(buffer, 0, values);
    return buffer;
  }

  #uniform(...numbers) {
    return this.#buffer(4, GPUBufferUsage.UNIFORM, Uint32Array.from(numbers));
  }

  // A dispatch that is ready to be recorded.
  async #kernel(entryPoint, constants, buffers, groups) {
    const key = JSON.stringify([entryPoint, constants]);
    this.pipelines ??= new Map();
    if (!this.pipelines.has(key)) {
      const compute = { module: this.module, entryPoint, constants };
      this.pipelines.set(key, this.device.createComputePipelineAsync({ layout: "auto", compute }));
    }
    const pipeline = await this.pipelines.get(key);
    const entries = buffers.map((buffer, binding) => ({ binding, resource: { buffer } }));
    const bind = this.device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
    return { pipeline, bind, groups };
  }

  #product({ m, n, k, parts = 1, ...constants }, a, b, c, gate = a) {
    const part = 16 * ceil(k, 16 * parts);
    const size = this.#uniform(m, n, k, part);
    const groups = [ceil(n, 32), ceil(m, 32), ceil(k, part)];
    return this.#kernel("multiply", constants, [size, a, b, c, gate], groups);
  }

  async #prepare(pixels, sides, canvases) {
    const { device, size, shapes } = this;
    const { side, features, batch } = size;
    const response = await fetch(new URL("./network.wgsl", import.meta.url));
    if (!response.ok) throw new Error(`network.wgsl: ${response.status}`);
    this.module = device.createShaderModule({ code: await response.text() });

    // Both copies work on one scratch, one after the other.
    const picture = this.#buffer(side * side, undefined, pixels);
    const waves = this.#buffer(2 * features, undefined, frequencies(size));
    const wanted = this.#buffer(3 * batch);
    const values = [2 * features, ...shapes.map(([, o]) => o)].map((o) => this.#buffer(batch * o));
    const slopes = shapes.map(([, o]) => this.#buffer(batch * o));
    const parts = Math.max(1, Math.min(8, batch >> 8));
    this.job = this.#uniform(0, 0, batch, 1);
    const constants = { SIDE: side, FEATURES: features };
    const look = (job) =>
      this.#kernel("look", constants, [job, picture, waves, values[0], wanted], [ceil(batch * features, 64)]);
    this.look = await look(this.job);
    this.chunks = [];
    for (let first = 0; first < side * side; first += batch) {
      const rows = Math.min(batch, side * side - first);
      this.chunks.push({ first, rows, look: await look(this.#uniform(0, first, rows, 0)) });
    }
    const scratch = shapes.map(([i, o]) => {
      const count = ceil(batch, 16 * ceil(batch, 16 * parts));
      return this.#buffer(count * i * o);
    });

    const format = navigator.gpu.getPreferredCanvasFormat();
    const render = await device.createRenderPipelineAsync({
      layout: "auto",
      vertex: { module: this.module, entryPoint: "corner" },
      fragment: { module: this.module, entryPoint: "show", targets: [{ format }], constants: { SIDE: side } },
    });

    for (const [s, options] of sides.entries()) {
      const start = initial(size);
      const weights = start.map((w) => this.#buffer(w.length, undefined, w));
      const grads = start.map((w) => this.#buffer(w.length));
      const ring = this.#buffer(RING);
      const forward = [];
      const backward = [];
      for (const [l, [inputs, outputs]] of shapes.entries()) {
        const last = l === shapes.length - 1;
        const layer = { m: batch, n: outputs, k: inputs, ONES: 1, END: last ? 0 : 1 };
        forward.push(await this.#product(layer, values[l], weights[l], values[l + 1]));
        const weight = { m: inputs, n: outputs, k: batch, parts, ONES: 1, A_TRANSPOSED: 1 };
        const back = [
          await this.#product(weight, values[l], slopes[l], scratch[l]),
          await this.#kernel("gather", {}, [scratch[l], grads[l]], [ceil(inputs * outputs, 64)]),
        ];
        if (l > 0) {
          const below = { m: batch, n: inputs - 1, k: outputs, B_TRANSPOSED: 1, END: 2 };
          back.push(await this.#product(below, slopes[l], weights[l], slopes[l - 1], values[l]));
        }
        backward.unshift(...back);
      }
      const compare = await this.#kernel(
        "compare", {}, [this.job, values[shapes.length], wanted, slopes[shapes.length - 1], ring], [1],
      );
      const optimizer = await Optimizer.create({
        ...options,
        device,
        params: shapes.map((shape, l) => ({ name: NAMES[l], shape, buffer: weights[l] })),
      });
      const colours = this.#buffer(3 * side * side);
      const context = canvases[s].getContext("webgpu");
      context.configure({ device, format });
      const entries = [{ binding: 0, resource: { buffer: colours } }];
      const bind = device.createBindGroup({ layout: render.getBindGroupLayout(0), entries });
      const paint = { context, render, bind };
      this.nets.push({
        grads, ring, forward, optimizer, colours, paint,
        train: [...forward, compare, ...backward],
      });
    }
    this.out = values[shapes.length];
  }

  #record(encoder, kernels) {
    const pass = encoder.beginComputePass();
    for (const { pipeline, bind, groups } of kernels) {
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, bind);
      pass.dispatchWorkgroups(...groups);
    }
    pass.end();
  }

  /** Takes steps with both optimizers and waits for the device. */
  async advance(count) {
    const { device, size } = this;
    for (let i = 0; i < count; i++) {
      device.queue.writeBuffer(this.job, 0, Uint32Array.of(this.steps, 0, size.batch, 1));
      const encoder = device.createCommandEncoder();
      this.#record(encoder, [this.look]);
      for (const { train, optimizer, grads } of this.nets) {
        this.#record(encoder, train);
        optimizer.encode(encoder, grads);
      }
      device.queue.submit([encoder.finish()]);
      this.steps += 1;
    }
    await device.queue.onSubmittedWorkDone();
  }

  /** Has the networks draw a part of their pictures; shows them when they are whole. */
  paint(parts = Infinity) {
    const { device, chunks, nets } = this;
    const encoder = device.createCommandEncoder();
    for (let i = 0; i < Math.min(parts, chunks.length); i++) {
      const { first, rows, look } = chunks[this.chunk];
      this.#record(encoder, [look]);
      for (const { forward, colours } of nets) {
        this.#record(encoder, forward);
        encoder.copyBufferToBuffer(this.out, 0, colours, 12 * first, 12 * rows);
      }
      this.chunk = (this.chunk + 1) % chunks.length;
      if (this.chunk > 0) continue;
      for (const { paint } of nets) {
        const view = paint.context.getCurrentTexture().createView();
        const pass = encoder.beginRenderPass({
          colorAttachments: [{ view, loadOp: "clear", storeOp: "store", clearValue: [0, 0, 0, 1] }],
        });
        pass.setPipeline(paint.render);
        pass.setBindGroup(0, paint.bind);
        pass.draw(3);
        pass.end();
      }
    }
    device.queue.submit([encoder.finish()]);
  }

  /** The losses since the last call, of each network. */
  async losses() {
    const { device, nets, steps } = this;
    const from = Math.max(this.read, steps - RING);
    this.read = steps;
    const encoder = device.createCommandEncoder();
    const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
    const to = device.createBuffer({ size: 4 * RING * nets.length, usage });
    nets.forEach(({ ring }, i) => encoder.copyBufferToBuffer(ring, 0, to, 4 * RING * i, 4 * RING));
    device.queue.submit([encoder.finish()]);
    await to.mapAsync(GPUMapMode.READ);
    const all = new Float32Array(to.getMappedRange());
    const result = nets.map((_, n) =>
      Array.from({ length: steps - from }, (_, i) => all[RING * n + ((from + i) % RING)]),
    );
    to.destroy();
    return result;
  }

  dispose() {
    this.nets.forEach(({ optimizer }) => optimizer.dispose());
    this.own.forEach((buffer) => buffer.destroy());
  }
}
