// What a TypeScript program writes; the compiler checks it, nobody runs it.
import { init, Optimizer, optimizers } from "gradstep";

export async function use(device: GPUDevice, weight: GPUBuffer, gradient: GPUBuffer): Promise<number> {
  await init(new URL("https://example.org/gradstep_gpu_bg.wasm"));
  await init({ gpu: fetch("https://example.org/gradstep_gpu_bg.wasm"), cpu: true });
  const names: string[] = (await optimizers()).map(({ name, variant }) => `${name} ${variant ?? ""}`);
  const gpu = await Optimizer.create({
    device,
    optimizer: "came",
    lr: { kind: "cosine", from: 2e-4, steps: 100, warmup: 10 },
    betas: [0.9, 0.999, 0.9999],
    params: [{ name: "weight", shape: [64, 32], buffer: weight }],
    clipNorm: 1,
  });
  gpu.encode(device.createCommandEncoder(), { weight: gradient });
  await gpu.step([gradient]);
  const file: Uint8Array = await gpu.exportState();
  const cpu = await Optimizer.create({
    params: [{ name: "weight", shape: [64, 32], data: new Float32Array(2048) }],
    groups: [
      { name: "frozen", params: /bias$/, frozen: true },
      { name: "others", optimizer: "adamw", noDecay: (p) => p.shape.length < 2, weightDecay: 0.1 },
    ],
    lossScale: "dynamic",
  });
  await cpu.importState(file);
  const outcome = await cpu.step({ weight: new Float32Array(2048) });
  const summing = await Optimizer.create({
    optimizer: "adamw",
    params: [{ name: "weight", shape: [64, 32] }],
    accumulate: { batches: 4, kind: "sum" },
    average: "polyak",
  });
  const last = await summing.step({ weight: new Float32Array(2048) }, { last: true });
  const skipped: boolean | undefined = last?.skipped;
  // @ts-expect-error a micro-batch has no outcome
  last.skipped;
  const norm: number = await summing.withAverages((o) => o.param("weight").length + o.pending);
  // @ts-expect-error there is no such average
  await Optimizer.create({ device, optimizer: "sgd", average: "mean", params: [] });
  const stepped: boolean = gpu.encode(device.createCommandEncoder(), [gradient], { last: true });
  gpu.encodeSwap(device.createCommandEncoder());
  await gpu.swapAverages();
  summing.discard();
  // @ts-expect-error a step on typed arrays takes no buffers
  await cpu.step({ weight: gradient });
  // @ts-expect-error there is no such schedule
  await Optimizer.create({ device, optimizer: "sgd", lr: { kind: "cosign" }, params: [] });
  const values: Float32Array = cpu.param("weight");
  return outcome.clipFactor + names.length + values.length + norm + Number(skipped ?? stepped);
}
