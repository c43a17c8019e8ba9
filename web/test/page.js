// What the tests do in a page and in a Worker. Each throws what is wrong.
import { Optimizer, init } from "../index.min.js";
import { all, hash, read } from "../check/golden.js";

const fetchFile = async (name) => {
  const response = await fetch(`/golden/${name}.safetensors`);
  if (!response.ok) throw new Error(`${name}: ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
};

async function device() {
  const adapter = await navigator.gpu.requestAdapter();
  if (!adapter) throw new Error("no adapter");
  return adapter.requestDevice();
}

export async function golden(tolerance, onGpu, cases) {
  const own = onGpu ? await device() : undefined;
  const results = await all(Optimizer, fetchFile, tolerance, own, cases);
  own?.destroy();
  return results;
}

export function inWorker(tolerance, cases) {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    worker.onmessage = ({ data }) => (data.error ? reject(new Error(data.error)) : resolve(data.results));
    worker.onerror = (event) => reject(new Error(event.message));
    worker.postMessage({ tolerance, cases });
  });
}

const STORAGE = () =>
  GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC;

function buffer(on, values) {
  const made = on.createBuffer({ size: values.byteLength, usage: STORAGE() });
  on.queue.writeBuffer(made, 0, values);
  return made;
}

function assert(holds, text) {
  if (!holds) throw new Error(text);
}

// A model of two groups, with clipping, the test for finite gradients and a schedule.
const shapes = [["weight", [40, 24]], ["bias", [24]], ["frozen", [3]]];
const count = (shape) => shape.reduce((n, d) => n * d, 1);
const values = (i, t) =>
  Float32Array.from({ length: count(shapes[i][1]) }, (_, k) => Math.sin(k * 0.7 + 3 * i + 5 * t));
const rich = (params, on) => ({
  device: on,
  params,
  groups: [
    { name: "matrices", params: (p) => p.shape.length > 1, optimizer: "came", lr: { kind: "cosine", from: 1e-2, steps: 20, warmup: 2 } },
    { name: "frozen", params: ["frozen"], frozen: true },
    { name: "others", optimizer: "adamw", lr: 1e-2, weightDecay: 0.1, noDecay: ["bias"] },
  ],
  clipNorm: 2.0,
  checkFinite: true,
});

const close = (a, b, what) => {
  const worst = Math.max(...a.map((x, i) => Math.abs(x - b[i])));
  assert(a.length === b.length && worst < 1e-5, `${what} differs by ${worst}`);
};

/** The page's own device and buffers, several steps in one submission, a step that is skipped. */
export async function ownBuffers() {
  const on = await device();
  const params = shapes.map(([name, shape], i) => ({ name, shape, buffer: buffer(on, values(i, 0)) }));
  const arrays = shapes.map(([name, shape], i) => ({ name, shape, data: values(i, 0) }));
  const gpu = await Optimizer.create(rich(params, on));
  const cpu = await Optimizer.create(rich(arrays));
  assert(gpu.param("weight") === params[0].buffer, "the page's own buffer is not used");
  const encoder = on.createCommandEncoder();
  for (let t = 1; t <= 5; t++) {
    const grads = [values(0, t), values(1, t)];
    if (t === 4) grads[1][3] = Infinity;
    const outcome = await cpu.step({ weight: grads[0], bias: grads[1] });
    assert(outcome.skipped === (t === 4), `step ${t} on the CPU: skipped is ${outcome.skipped}`);
    gpu.encode(encoder, { weight: buffer(on, grads[0]), bias: buffer(on, grads[1]) });
  }
  on.queue.submit([encoder.finish()]);
  assert(gpu.steps === 5 && cpu.steps === 5, "steps are counted");
  for (const [i, param] of params.entries()) {
    close(await read(on, param.buffer), arrays[i].data, shapes[i][0]);
  }
  assert((await gpu.outcome()).skipped === false, "the last step was taken");
  // A learning rate by hand, and the state from one to the other.
  gpu.setHyper("lr", 5e-3, "others");
  assert(gpu.getHyper("lr", "others") === 5e-3, "a hyper-parameter is not set");
  const file = await gpu.exportState();
  await cpu.importState(file);
  assert(cpu.getHyper("lr", "others") === 5e-3, "hyper-parameters are restored");
  const again = await Optimizer.create(rich(params, on));
  await again.importState(file);
  assert(again.steps === 5, "the step number is restored");
  const grads = [values(0, 6), values(1, 6)];
  await cpu.step(grads.concat([undefined]));
  await again.step([buffer(on, grads[0]), buffer(on, grads[1]), undefined]);
  for (const [i, param] of params.entries()) {
    close(await read(on, param.buffer), arrays[i].data, `${shapes[i][0]} after a restore`);
  }
  const text = file.length;
  on.destroy();
  return { bytes: text, describe: cpu.describe() };
}

const refused = async (pattern, f) => {
  let text = "nothing was thrown";
  try {
    await f();
  } catch (error) {
    text = String(error);
  }
  assert(pattern.test(text), `${text} is not ${pattern}`);
};

/** Micro-batches and averages: on typed arrays, and as there on a device. */
export async function beside(onGpu) {
  const on = onGpu ? await device() : undefined;
  const more = { accumulate: 3, average: { decay: 0.5 } };
  const arrays = () => shapes.map(([name, shape], i) => ({ name, shape, data: values(i, 0) }));
  const [mine, plain, other] = [arrays(), arrays(), arrays()];
  const params = on && shapes.map(([name, shape], i) => ({ name, shape, buffer: buffer(on, values(i, 0)) }));
  const cpu = await Optimizer.create({ ...rich(mine), ...more });
  const gpu = on && (await Optimizer.create({ ...rich(params, on), ...more }));
  const straight = await Optimizer.create(rich(plain));
  const both = [cpu, gpu].filter((o) => o);
  const average = [];
  const same = async (what) => {
    for (const [i, [name]] of shapes.entries()) {
      if (on) close(await read(on, params[i].buffer), mine[i].data, `${what}, ${name} on GPU and CPU`);
    }
  };
  for (const o of both) await refused(/no step has counted yet/, () => o.swapAverages());
  for (let t = 1; t <= 4; t++) {
    // The last step takes one micro-batch less, by request.
    const n = t === 4 ? 2 : 3;
    const batches = Array.from({ length: n }, (_, k) => [0, 1].map((i) => values(i, 7 * t + k)));
    for (const [k, grads] of batches.entries()) {
      const last = t === 4 && k === 1 ? { last: true } : undefined;
      const outcome = await cpu.step(grads.concat([undefined]), last);
      assert((outcome !== undefined) === (k === n - 1), `step ${t}.${k} on the CPU gives ${outcome}`);
      assert(cpu.pending === (k + 1) % n, `${cpu.pending} micro-batches are pending`);
      if (!on) continue;
      const [weight, bias] = grads.map((g) => buffer(on, g));
      if (t % 2) {
        const encoder = on.createCommandEncoder();
        const stepped = gpu.encode(encoder, { weight, bias }, last);
        on.queue.submit([encoder.finish()]);
        assert(stepped === (k === n - 1), `step ${t}.${k} on the GPU`);
      } else {
        await gpu.step({ weight, bias }, last);
      }
    }
    const mean = [0, 1].map((i) => batches[0][i].map((_, j) => batches.reduce((s, b) => s + b[i][j], 0) / n));
    await straight.step(mean.concat([undefined]));
    for (const i of [0, 1]) {
      close(mine[i].data, plain[i].data, `step ${t} of the mean, ${shapes[i][0]}`);
      average[i] = mine[i].data.map((x, j) => (t === 1 ? x : 0.5 * (average[i][j] + x)));
    }
    await same(`step ${t}`);
  }
  assert(both.every((o) => o.steps === 4 && o.pending === 0), "micro-batches count as steps");
  // Averages in and out, also past an error.
  const before = mine.map(({ data }) => data.slice());
  const apart = average[0].reduce((d, x, j) => Math.max(d, Math.abs(x - before[0][j])), 0);
  assert(apart > 1e-3, `the averages are apart by ${apart} only`);
  for (const o of both) {
    const found = await o.withAverages(async () => {
      await refused(/swap them back/, () => o.step(o === cpu ? [...mine.map((p) => p.data)] : params.map((p, i) => buffer(on, values(i, 1)))));
      await refused(/average/, () => o.exportState());
      return o === cpu ? mine.map((p) => p.data.slice()) : Promise.all(params.map((p) => read(on, p.buffer)));
    });
    for (const i of [0, 1]) close(found[i], average[i], `the average of ${shapes[i][0]}`);
    close(found[2], before[2], "a frozen parameter");
    await refused(/by hand/, () => o.withAverages(() => Promise.reject(new Error("by hand"))));
  }
  mine.forEach(({ data }, i) => assert(data.every((x, j) => x === before[i][j]), "swapped back"));
  await same("swapped back");
  // Sums that no step has used are no state. Forgotten, they are in no step.
  const grads = [values(0, 50), values(1, 50), undefined];
  const given = (o, list) => (o === cpu ? list : list.map((g) => g && buffer(on, g)));
  for (const o of both) {
    await o.step(given(o, [values(0, 60), values(1, 60), undefined]));
    assert(o.pending === 1, "a micro-batch is pending");
    await refused(/micro-batches/, () => o.exportState());
    o.discard();
  }
  // … and the state goes on elsewhere, averages included.
  const file = await both.at(-1).exportState();
  const again = await Optimizer.create({ ...rich(other), ...more });
  await again.importState(file);
  for (const o of [...both, again]) await o.step(o === gpu ? given(o, grads) : grads, { last: true });
  await same("after that");
  other.forEach(({ data }, i) => close(data, mine[i].data, `${shapes[i][0]} after a restore`));
  await Promise.all([...both, again].map((o) => o.swapAverages()));
  await same("the averages");
  other.forEach(({ data }, i) => close(data, mine[i].data, `the average of ${shapes[i][0]} after a restore`));
  // What is wrong is said.
  for (const [wrong, pattern] of [
    [{ accumulate: 0 }, /1 at least/],
    [{ accumulate: { batches: 2, kind: "max" } }, /mean or sum/],
    [{ average: "mean" }, /polyak/],
    [{ average: { decay: 1 } }, /its decay is 1/],
    [{ average: { decay: 0.5, from: 2 } }, /`decay` or `from`/],
  ]) {
    await refused(pattern, () => Optimizer.create({ ...rich(arrays()), ...wrong }));
  }
  await refused(/keeps none/, () => straight.swapAverages());
  if (on) {
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC;
    const lacking = { name: "w", shape: [4], buffer: on.createBuffer({ size: 16, usage }) };
    await refused(/lacks GPUBufferUsage.COPY_DST/, () =>
      Optimizer.create({ device: on, optimizer: "adamw", params: [lacking], average: "polyak" }),
    );
    on.destroy();
  }
  return again.steps;
}

/** What is wrong is an Error that says so. */
export async function errors() {
  const on = await device();
  const found = [];
  const fails = async (f) => {
    try {
      await f();
      found.push("nothing was thrown");
    } catch (error) {
      found.push(error instanceof Error ? error.message : `no Error: ${error}`);
    }
  };
  const make = (more, usage = STORAGE()) =>
    Optimizer.create({
      device: on,
      optimizer: "adamw",
      params: [{ name: "w", shape: [8], buffer: on.createBuffer({ size: 32, usage }) }],
      ...more,
    });
  await fails(() => make({ optimizer: "nope" }));
  await fails(() => make({ betas: [2, 0.9] }));
  await fails(() => make({ lr: { kind: "cosign", from: 1, steps: 3 } }));
  await fails(() => make({}, GPUBufferUsage.UNIFORM));
  await fails(() => make({ params: [{ name: "w", shape: [9], buffer: on.createBuffer({ size: 32, usage: STORAGE() }) }] }));
  const opt = await make({});
  await fails(() => opt.step([]));
  await fails(() => opt.step({ v: on.createBuffer({ size: 32, usage: STORAGE() }) }));
  await fails(() => opt.step([opt.param("w")]));
  await fails(() => opt.step([new Float32Array(8)]));
  await fails(() => opt.importState(new Uint8Array(30)));
  await fails(() => opt.setHyper("momentum", 1));
  opt.dispose();
  await fails(() => opt.steps);
  on.destroy();
  return found;
}

/** A device that goes in the middle of steps: an error that names it, and no waiting for ever. */
export async function lost() {
  const on = await device();
  const opt = await Optimizer.create({
    device: on,
    optimizer: "came",
    lr: 1e-3,
    params: [{ name: "w", shape: [64, 64] }],
  });
  const grad = buffer(on, new Float32Array(64 * 64).fill(0.1));
  await opt.step([grad]);
  const waiting = [opt.step([grad]), opt.exportState()];
  on.destroy();
  const late = async () => opt.step([grad]);
  await on.lost;
  const results = await Promise.allSettled([...waiting, late(), opt.outcome()]);
  opt.dispose();
  return results.map((r) => (r.status === "rejected" ? r.reason.message : "resolved"));
}

/** Creates and disposes many times; how large the WASM heap is at the middle and the end. */
export async function leaks(times) {
  const on = await device();
  const heap = async () => {
    let bytes = 0;
    for (const name of ["gpu", "cpu"]) {
      const { load } = await import(`../${name}.min.js`);
      bytes += (await load()).memory.buffer.byteLength;
    }
    return bytes;
  };
  const once = async () => {
    const gpu = await Optimizer.create({ device: on, optimizer: "came", lr: 1e-3, params: [{ name: "w", shape: [300, 70] }] });
    gpu.dispose();
    const cpu = await Optimizer.create({ optimizer: "came", lr: 1e-3, params: [{ name: "w", shape: [300, 70] }] });
    await cpu.step([new Float32Array(300 * 70)]);
    cpu.dispose();
  };
  for (let i = 0; i < times / 2; i++) await once();
  const middle = await heap();
  for (let i = 0; i < times / 2; i++) await once();
  const end = await heap();
  on.destroy();
  return { middle, end };
}

/** The example of the README, as it stands there. */
export async function readme(text) {
  const on = await device();
  const weight = buffer(on, new Float32Array(64 * 32).fill(0.5));
  const gradient = buffer(on, new Float32Array(64 * 32).fill(0.1));
  const body = text.replace(/^import .*$/m, "");
  const Async = Object.getPrototypeOf(async () => {}).constructor;
  const run = new Async("Optimizer", "device", "weight", "gradient", `${body}\nreturn opt;`);
  const opt = await run(Optimizer, on, weight, gradient);
  assert(opt.steps >= 1 && (await opt.exportState()).length > 0, "the example took no step");
  on.destroy();
}

export { Optimizer, device, hash, init, read };
