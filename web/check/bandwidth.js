// How fast memory is during a step of AdamW, beside a plain copy.
import { Optimizer } from "../index.js";

// Parameter, gradient and two moments are read; parameter and moments are written.
const STEP_BYTES = 28;
// Twice eight: each is read and written.
const COPY_BYTES = 16;

const median = (list) => list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)];

// Milliseconds of one `f`, without what a submission costs: the slope between one and many, of which
// there are enough for a coarse clock.
async function time(device, record) {
  const run = async (count) => {
    const encoder = device.createCommandEncoder();
    for (let i = 0; i < count; i++) record(encoder);
    const commands = encoder.finish();
    const began = performance.now();
    device.queue.submit([commands]);
    await device.queue.onSubmittedWorkDone();
    return performance.now() - began;
  };
  await run(1);
  let many = 1;
  while (many < 512 && (await run(many)) < 40) many *= 2;
  const slopes = [];
  for (let i = 0; i < 5; i++) {
    const one = await run(1);
    slopes.push(((await run(1 + many)) - one) / many);
  }
  return Math.max(median(slopes), 1e-3);
}

async function measure(device, elements) {
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
  const make = (size) => device.createBuffer({ size, usage });
  const [weight, grad] = [make(4 * elements), make(4 * elements)];
  // Together as large as parameter, gradient and moments, so that caches help both alike.
  const [from, to] = [make(8 * elements), make(8 * elements)];
  const opt = await Optimizer.create({
    device,
    optimizer: "adamw",
    params: [{ name: "w", shape: [elements / 1024, 1024], buffer: weight }],
  });
  try {
    // Memory that was never written may be none yet.
    const encoder = device.createCommandEncoder();
    [weight, grad, from, to].forEach((buffer) => encoder.clearBuffer(buffer));
    device.queue.submit([encoder.finish()]);
    const step = await time(device, (encoder) => opt.encode(encoder, [grad]));
    const copying = await time(device, (encoder) => {
      encoder.copyBufferToBuffer(from, 0, to, 0, 8 * elements);
    });
    return {
      elements,
      milliseconds: step,
      step: (STEP_BYTES * elements) / step / 1e6,
      copy: (COPY_BYTES * elements) / copying / 1e6,
    };
  } finally {
    opt.dispose();
    [weight, grad, from, to].forEach((buffer) => buffer.destroy());
  }
}

/** GB/s of a step and of a copy, on a tensor large enough to tell, if the device allows. */
export async function bandwidth(device) {
  const { maxBufferSize, maxStorageBufferBindingSize } = device.limits;
  const most = Math.min(maxBufferSize, maxStorageBufferBindingSize, 2 ** 26) / 4;
  let result;
  for (let elements = 2 ** 20; elements <= most; elements *= 4) {
    result = await measure(device, elements);
    if (result.milliseconds > 2) break;
  }
  return result;
}
