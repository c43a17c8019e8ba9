// Optimizers on a page's own WebGPU device, or on typed arrays.
//
// The library itself is in WASM: it writes a plan (WGSL, buffers, dispatches) and computes the
// constants of each step. What stands here only carries that out. No formula does.

// The two parts, of which a page loads those that it needs, each with a WASM module of its own: the plan
// for a device, and the steps over typed arrays.
const PARTS = {
  gpu: [() => import("./gpu.js"), () => new URL("./pkg/gradstep_gpu_bg.wasm", import.meta.url)],
  cpu: [() => import("./cpu.js"), () => new URL("./pkg/gradstep_cpu_bg.wasm", import.meta.url)],
};
const loaded = {};

// What a URL has.
async function fetched(source) {
  if (typeof source !== "string" && !(source instanceof URL)) return source;
  if (source.protocol !== "file:") return fetch(source);
  // Node reads files, but does not fetch them.
  const { readFile } = await import("node:fs/promises");
  return readFile(source);
}

// Loads a part, once.
function load(name, source) {
  const [script, wasm] = PARTS[name];
  loaded[name] ??= (async () => {
    const [part, from] = await Promise.all([script(), fetched(source ?? wasm())]);
    await part.load({ module_or_path: from });
    return part;
  })().catch((error) => {
    delete loaded[name];
    throw error;
  });
  return loaded[name];
}

// What a page is likely to need.
const usual = () => (globalThis.navigator?.gpu ? "gpu" : "cpu");

// A source as a compiled module, and which of the two it is.
async function recognized(source) {
  let from = await fetched(await source);
  if (from instanceof Response) from = await from.arrayBuffer();
  const module = from instanceof WebAssembly.Module ? from : await WebAssembly.compile(from);
  const isGpu = WebAssembly.Module.exports(module).some(({ name }) => name.startsWith("plan_"));
  return [isGpu ? "gpu" : "cpu", module];
}

/**
 * Loads ahead what `Optimizer.create` loads where nobody did: what a browser with or without WebGPU is
 * likely to need, or those of `gpu` and `cpu` that `sources` has. What it has of them is `true`, or where
 * the module comes from, if not from beside this file: a URL, a Response, bytes, or a compiled module.
 * Such a source alone is taken for what it turns out to be.
 */
export async function init(sources) {
  if (sources === undefined) return void (await load(usual()));
  const { gpu, cpu } = sources;
  const given = gpu || cpu ? Object.entries({ gpu, cpu }) : [await recognized(sources)];
  const source = (from) => (from === true ? undefined : from);
  await Promise.all(given.filter(([, from]) => from).map(([name, from]) => load(name, source(from))));
}

/** The optimizers that are known by name, each with its `variant` or null. */
export async function optimizers() {
  return JSON.parse((await (loaded.gpu ?? loaded.cpu ?? load(usual()))).optimizers());
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

/** The optimizer of all parameters of a model. */
export class Optimizer {
  #on;
  #disposed = false;

  constructor(on) {
    this.#on = on;
  }

  /** Makes one: on `device` where that is given, on typed arrays otherwise. */
  static async create(options) {
    const json = JSON.stringify(settings(options));
    const part = await load(options.device ? "gpu" : "cpu");
    return new Optimizer(await part.create(json, options));
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
    const on = this.#alive();
    return on.encode(encoder, () => inOrder(grads, on), last);
  }

  /** Takes a step, or a micro-batch. On typed arrays the parameters have changed when it resolves. */
  async step(grads, { last } = {}) {
    const on = this.#alive();
    return on.step(() => inOrder(grads, on), last);
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
    const found = this.#alive().params.find((p) => p.name === name);
    if (!found) throw new Error(`there is no parameter \`${name}\``);
    return found.value;
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
function inOrder(grads, { params, frozen }) {
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
