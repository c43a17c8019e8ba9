// The steps over typed arrays, for `index.js`.

import { Host } from "./pkg/gradstep_cpu.js";

export { default as load, optimizers } from "./pkg/gradstep_cpu.js";

class Cpu {
  constructor(json, { params }) {
    this.params = params.map(({ name, shape, data }) => {
      const value = data ?? new Float32Array(shape.reduce((n, d) => n * d, 1));
      if (!(value instanceof Float32Array)) {
        throw new TypeError(`the data of parameter \`${name}\` must be a Float32Array`);
      }
      return { name, value };
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
    this.wasm.swap(this.params.map((p, i) => (this.frozen[i] ? undefined : p.value)));
  }

  step(given, last = this.wasm.is_last()) {
    const grads = given();
    grads.forEach((grad, i) => {
      if (grad !== undefined && !(grad instanceof Float32Array)) {
        throw new TypeError(`the gradient of \`${this.params[i].name}\` must be a Float32Array`);
      }
    });
    const outcome = this.wasm.step(this.params.map((p) => p.value), grads, last);
    if (outcome === undefined) return undefined;
    this.last = JSON.parse(outcome);
    return this.last;
  }

  outcome() {
    return this.last;
  }

  save() {
    return this.wasm.save(this.params.map((p) => p.value));
  }

  load(file) {
    this.wasm.load(file).forEach((values, i) => {
      if (values !== undefined) this.params[i].value.set(values);
    });
  }

  dispose() {
    this.wasm.free();
  }
}

export const create = (json, options) => new Cpu(json, options);
