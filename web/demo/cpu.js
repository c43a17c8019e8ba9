// A smaller network of the same kind in plain JavaScript, for browsers without WebGPU. The optimizers
// are those of the package, on typed arrays.
import { Optimizer } from "../index.js";
import { NAMES, frequencies, initial, layers, random } from "./network.js";

export class CpuTrainer {
  static async create(size, pixels, sides, canvases) {
    const trainer = new CpuTrainer(size, pixels);
    for (const [s, options] of sides.entries()) {
      const weights = initial(size);
      const params = trainer.shapes.map((shape, l) => ({ name: NAMES[l], shape, data: weights[l] }));
      trainer.nets.push({
        weights,
        grads: weights.map((w) => new Float32Array(w.length)),
        optimizer: await Optimizer.create({ ...options, params }),
        losses: [],
        image: new ImageData(size.side, size.side),
        context: canvases[s].getContext("2d"),
      });
    }
    return trainer;
  }

  constructor(size, pixels) {
    const { side, batch, features } = size;
    this.size = size;
    this.shapes = layers(size);
    this.parameters = this.shapes.reduce((n, [i, o]) => n + i * o, 0);
    this.nets = [];
    this.steps = 0;
    this.chunk = 0;
    this.draws = random(11);
    // The features of all pixels, once.
    const waves = frequencies(size);
    this.features = new Float32Array(side * side * 2 * features);
    for (let p = 0; p < side * side; p++) {
      const x = ((p % side) + 0.5) / side;
      const y = (Math.floor(p / side) + 0.5) / side;
      for (let f = 0; f < features; f++) {
        const angle = 2 * Math.PI * (waves[2 * f] * x + waves[2 * f + 1] * y);
        this.features[(p * 2 + 0) * features + f] = Math.sin(angle);
        this.features[(p * 2 + 1) * features + f] = Math.cos(angle);
      }
    }
    const bytes = new Uint8Array(pixels.buffer);
    this.colours = Float32Array.from({ length: 3 * side * side }, (_, i) => {
      return bytes[4 * Math.floor(i / 3) + (i % 3)] / 255;
    });
    this.values = [2 * features, ...this.shapes.map(([, o]) => o)].map((o) => new Float32Array(batch * o));
    this.slopes = this.shapes.map(([, o]) => new Float32Array(batch * o));
  }

  #look(pixelOf, rows) {
    const n = 2 * this.size.features;
    for (let r = 0; r < rows; r++) {
      const p = pixelOf(r);
      this.values[0].set(this.features.subarray(p * n, (p + 1) * n), r * n);
    }
  }

  #forward(weights, rows) {
    this.shapes.forEach(([inputs, outputs], l) => {
      const [from, to, w] = [this.values[l], this.values[l + 1], weights[l]];
      const k = inputs - 1;
      const last = l === this.shapes.length - 1;
      for (let r = 0; r < rows; r++) {
        const at = r * outputs;
        for (let j = 0; j < outputs; j++) to[at + j] = w[k * outputs + j];
        for (let i = 0; i < k; i++) {
          const x = from[r * k + i];
          if (x === 0) continue;
          for (let j = 0; j < outputs; j++) to[at + j] += x * w[i * outputs + j];
        }
        if (!last) for (let j = 0; j < outputs; j++) if (to[at + j] < 0) to[at + j] = 0;
      }
    });
  }

  #backward({ weights, grads }, rows) {
    for (let l = this.shapes.length - 1; l >= 0; l--) {
      const [inputs, outputs] = this.shapes[l];
      const [x, slope, w, grad] = [this.values[l], this.slopes[l], weights[l], grads[l]];
      const k = inputs - 1;
      grad.fill(0);
      for (let r = 0; r < rows; r++) {
        const at = r * outputs;
        for (let i = 0; i < k; i++) {
          const value = x[r * k + i];
          let sum = 0;
          // A value of zero has no part in the weights' gradient, and no slope of its own.
          if (value !== 0) {
            for (let j = 0; j < outputs; j++) {
              grad[i * outputs + j] += value * slope[at + j];
              sum += w[i * outputs + j] * slope[at + j];
            }
          }
          if (l > 0) this.slopes[l - 1][r * k + i] = sum;
        }
        for (let j = 0; j < outputs; j++) grad[k * outputs + j] += slope[at + j];
      }
    }
  }

  async advance(count) {
    const { batch, side } = this.size;
    for (let s = 0; s < count; s++) {
      const chosen = Array.from({ length: batch }, () => Math.floor(this.draws.uniform() * side * side));
      this.#look((r) => chosen[r], batch);
      for (const net of this.nets) {
        this.#forward(net.weights, batch);
        const found = this.values.at(-1);
        const slope = this.slopes.at(-1);
        let sum = 0;
        for (let i = 0; i < 3 * batch; i++) {
          const d = found[i] - this.colours[3 * chosen[Math.floor(i / 3)] + (i % 3)];
          sum += d * d;
          slope[i] = (2 * d) / (3 * batch);
        }
        net.losses.push(sum / (3 * batch));
        this.#backward(net, batch);
        await net.optimizer.step(net.grads);
      }
      this.steps += 1;
    }
  }

  paint(parts = Infinity) {
    const { batch, side } = this.size;
    const chunks = Math.ceil((side * side) / batch);
    for (let c = 0; c < Math.min(parts, chunks); c++) {
      const first = this.chunk * batch;
      const rows = Math.min(batch, side * side - first);
      this.#look((r) => first + r, rows);
      for (const { weights, image } of this.nets) {
        this.#forward(weights, rows);
        const found = this.values.at(-1);
        for (let r = 0; r < rows; r++) {
          for (let j = 0; j < 3; j++) image.data[4 * (first + r) + j] = 255 * found[3 * r + j];
          image.data[4 * (first + r) + 3] = 255;
        }
      }
      this.chunk = (this.chunk + 1) % chunks;
      if (this.chunk === 0) this.nets.forEach(({ context, image }) => context.putImageData(image, 0, 0));
    }
  }

  async losses() {
    return this.nets.map((net) => net.losses.splice(0));
  }

  dispose() {
    this.nets.forEach(({ optimizer }) => optimizer.dispose());
  }
}
