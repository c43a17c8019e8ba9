// The package and its pages in Node and in a real browser: `node run.mjs PLAYWRIGHT_CORE CHROMIUM`,
// and a part of a test's name to run that alone.
import { readFile, mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromiumArguments, golden, root, serve } from "./server.mjs";

const [playwright, executablePath, only = ""] = process.argv.slice(2);
const { origin, server } = await serve();

function assert(holds, text) {
  if (!holds) throw new Error(text);
}

let failed = 0;
async function test(name, body) {
  if (!name.includes(only)) return;
  const began = Date.now();
  try {
    await body();
    console.log(`ok      ${name} (${Date.now() - began} ms)`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}: ${error?.stack ?? error}`);
  }
}

function within(results, cases = 19, steps = 24 * (17 * 12 + 2 * 10)) {
  let worst = [0, ""];
  let compared = 0;
  for (const [name, tensors] of Object.entries(results)) {
    for (const [tensor, { error, compared: n }] of Object.entries(tensors)) {
      compared += n;
      if (!(error <= worst[0])) worst = [error, `${name} ${tensor}`];
    }
  }
  assert(Object.keys(results).length === cases, "not all cases ran");
  assert(compared === steps, `${compared} steps were compared`);
  assert(worst[0] <= 1, `${worst[1]} is wrong by ${worst[0]} of what is allowed`);
  console.log(`        worst: ${worst[0].toFixed(3)} of what is allowed, ${worst[1]}`);
}

const { Optimizer } = await import("../index.min.js");
const { all } = await import("../check/golden.js");
const { tolerance } = await import("../check/data.mjs");
const allowed = await tolerance("OFFICIAL_F32");
const fetchFile = async (name) => new Uint8Array(await readFile(join(golden, `${name}.safetensors`)));

await test("in Node, every optimizer follows the official trajectories", async () => {
  const results = await all(Optimizer, fetchFile, allowed);
  within(results);
  // … and with the bits of the native CPU.
  const bits = JSON.parse(await readFile(join(golden, "bits.json"), "utf8"));
  for (const [name, tensors] of Object.entries(results)) {
    for (const [tensor, { hash }] of Object.entries(tensors)) {
      const wanted = bits[name][tensor];
      assert(hash === wanted, `${name} ${tensor}: bits ${hash}, natively ${wanted}`);
    }
  }
});

await test("in Node, micro-batches and averages are what they are said to be", async () => {
  const { beside } = await import("./page.js");
  assert((await beside(false)) === 5, "other steps");
});

await test("in Node, modules are loaded by name, and known by what is in them", async () => {
  const bytes = (name) => readFile(join(root, `web/pkg/gradstep_${name}_bg.wasm`));
  const again = (n) => import(`../index.min.js?${n}`);
  const compiled = await WebAssembly.compile(await bytes("cpu"));
  const sources = [undefined, { cpu: true }, { gpu: bytes("gpu"), cpu: false }, bytes("gpu"), compiled];
  for (const [i, source] of sources.entries()) {
    const { init, optimizers } = await again(i);
    await init(source);
    const names = (await optimizers()).map(({ name, variant }) => variant ?? name);
    assert(names.join() === "torch,hf,paper,adam,adamw,came,sgd,sm3", names.join());
  }
  const { init } = await again("wrong");
  const error = await init(new Uint8Array(3)).catch((e) => e);
  assert(error instanceof WebAssembly.CompileError, `${error}`);
});

const { chromium } = await import(playwright);
const profile = await mkdtemp(join(tmpdir(), "gradstep-chromium-"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath,
  headless: true,
  args: chromiumArguments,
});
const complaints = [];
context.on("page", (made) => {
  made.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  made.on("pageerror", (error) => complaints.push(String(error)));
});
const page = await context.newPage();
await page.goto(`${origin}/test/page.html`);
await page.waitForFunction("window.ready");

await test("the self-check: in Chromium on GPU and CPU, every optimizer follows the official trajectories", async () => {
  const check = await context.newPage();
  await check.goto(`${origin}/check/index.html`);
  await check.waitForFunction(() => window.checked, undefined, { timeout: 240_000 });
  const { results, speed, text } = await check.evaluate(() => window.checked);
  assert(results.map(({ id }) => id).join() === "gpu,cpu", "not both were checked");
  for (const { cases } of results) {
    within(Object.fromEntries(cases.map(({ name, tensors }) => [name, tensors])));
  }
  assert(speed.step > 0 && speed.copy > 0, "the speed was not measured");
  console.log(`        AdamW ${speed.step.toFixed(2)} GB/s, a copy ${speed.copy.toFixed(2)} GB/s`);
  const verdict = await check.textContent("#verdict");
  assert(verdict.includes("All 38 runs agree"), verdict);
  assert((await check.locator("#cases td.wrong").count()) === 0, "the page calls something wrong");
  assert((await check.locator("#cases tr").count()) === 19, "not all cases are shown");
  assert(await check.locator("#note").isHidden(), await check.textContent("#note"));
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  await check.locator("#copy").click();
  await check.waitForFunction(() => document.querySelector("#copy").textContent === "Copied");
  assert((await check.evaluate(() => navigator.clipboard.readText())) === text, "another text was copied");
  assert(/swiftshader/.test(text) && /19 of 19 within/.test(text), text);
  await check.close();
});

await test("the self-check without WebGPU checks the processor, and says so", async () => {
  const check = await context.newPage();
  await check.addInitScript(() => {
    Object.defineProperty(Navigator.prototype, "gpu", { get: () => undefined });
  });
  await check.goto(`${origin}/check/index.html`);
  await check.waitForFunction(() => window.checked, undefined, { timeout: 240_000 });
  await check.evaluate(() => window.checked);
  const verdict = await check.textContent("#verdict");
  assert(verdict.includes("All 19 runs agree"), verdict);
  const note = await check.textContent("#note");
  assert(note.includes("no WebGPU"), note);
  await check.close();
});

await test("in a Worker, on a device of its own", async () => {
  const cases = ["came_default", "torch_adamw"];
  const run = ([t, c]) => window.tests.inWorker(t, c);
  within(await page.evaluate(run, [allowed, cases]), 2, 24 * 2 * 12);
});

await test("the page's own device and buffers are used, ahead of a submission, and state moves", async () => {
  const { bytes, describe } = await page.evaluate(() => window.tests.ownBuffers());
  assert(bytes > 1000, `a file of ${bytes} bytes`);
  assert(/weight .*\n/.test(describe) && /no weight decay/.test(describe), describe);
});

await test("micro-batches and averages are the same on GPU and CPU, and what they are said to be", async () => {
  assert((await page.evaluate(() => window.tests.beside(true))) === 5, "other steps");
});

await test("what is wrong is an Error with the library's message", async () => {
  const found = await page.evaluate(() => window.tests.errors());
  const wanted = [
    /no optimizer is called `nope`; there are adafactor/,
    /`betas\[0\]` of adamw is 2; it must be at least 0 and less than 1/,
    /the kinds are constant, linear/,
    /parameter buffer of `w` lacks GPUBufferUsage.STORAGE/,
    /parameter buffer of `w` has 32 bytes, and its shape takes 36/,
    /0 gradients were given for 1 parameters/,
    /there is no gradient of `w`/,
    /parameter and gradient of `w` are one buffer/,
    /gradient of `w` must be a GPUBuffer/,
    /the checkpoint: /,
    /it has no number `momentum`/,
    /this optimizer was disposed of/,
  ];
  assert(found.length === wanted.length, `${found.length} errors`);
  wanted.forEach((pattern, i) => assert(pattern.test(found[i]), `${found[i]} is not ${pattern}`));
});

await test("a lost device is an error that names it, of every call", async () => {
  const found = await page.evaluate(() => window.tests.lost());
  assert(found.length === 4, `${found.length} results`);
  // The first step may have been over.
  found.forEach((text, i) => {
    const ok = /the graphics device is lost/.test(text) || (i === 0 && text === "resolved");
    assert(ok, `call ${i}: ${text}`);
  });
});

await test("1000 optimizers leave the heap as large as 500 of them", async () => {
  const { middle, end } = await page.evaluate(() => window.tests.leaks(1000));
  assert(end === middle, `${middle} bytes grew to ${end}`);
});

await test("the examples of both READMEs run", async () => {
  for (const file of ["README.md", "web/README.md"]) {
    const text = await readFile(join(root, file), "utf8");
    const examples = [...text.matchAll(/```js\n(.*?)```/gs)];
    assert(examples.length === (file === "README.md" ? 1 : 2), `${file}: ${examples.length} examples`);
    for (const [, code] of examples) await page.evaluate((c) => window.tests.readme(c), code);
  }
});

await test("a Rust program on wgpu's WebGPU backend equals the CPU", async () => {
  const both = await page.evaluate(async () => {
    const { default: load, train } = await import("/pkg/example/example.js");
    await load({ module_or_path: "/pkg/example/example_bg.wasm" });
    return Array.from(await train(10));
  });
  const half = both.length / 2;
  assert(half === 24 * 40, `${half} parameters`);
  const worst = Math.max(...both.slice(0, half).map((x, i) => Math.abs(x - both[half + i])));
  const moved = Math.max(...both.slice(half).map((x, i) => Math.abs(x - Math.sin(i * 0.37))));
  assert(worst < 1e-5 && moved > 1e-2, `it differs by ${worst}, after it moved by ${moved}`);
});

const SMALL = "side=48&features=16&width=24&batch=128";

// Waits until the demo has taken so many steps; what it shows then.
async function learned(demo, steps) {
  await demo.waitForFunction(
    (n) => Number(document.querySelector("#steps").textContent.replaceAll(",", "")) >= n,
    steps,
    { timeout: 120_000 },
  );
  const course = await demo.getAttribute("#chart", "aria-label");
  const [a, b] = [...course.matchAll(/ ([0-9.e-]+), begun at ([0-9.e-]+)/g)];
  const at = async (id) => ({
    loss: Number((id === "a" ? a : b)[1]),
    begun: Number((id === "a" ? a : b)[2]),
    picture: await demo.locator(`#side-${id} canvas`).screenshot(),
    state: Number.parseFloat(await demo.textContent(`#side-${id} .bytes`)),
  });
  return { a: await at("a"), b: await at("b") };
}

async function opened(demo, url) {
  await demo.goto(`${origin}/demo/index.html?${url}`);
  await learned(demo, 1);
}

async function learns(demo, url, steps) {
  await opened(demo, url);
  await goesOn(demo, steps);
}

// Both networks learn what they were given.
async function goesOn(demo, steps) {
  const before = await learned(demo, 1);
  const after = await learned(demo, steps);
  for (const id of ["a", "b"]) {
    const { begun, loss } = after[id];
    assert(loss < 0.1 * begun, `${id}: the loss went from ${begun} to ${loss}`);
    assert(!before[id].picture.equals(after[id].picture), `${id}: the canvas has not changed`);
    assert(after[id].state > 0, `${id}: there is no state`);
  }
  assert(after.b.state < after.a.state, "CAME keeps less than AdamW");
  const text = ({ begun, loss }) => `${begun} to ${loss}`;
  console.log(`        losses ${text(after.a)}, ${text(after.b)}`);
}

await test("the demo learns a picture on the GPU, and is changed while it does", async () => {
  const demo = await context.newPage();
  await learns(demo, SMALL, 200);
  assert((await demo.textContent("#where")).includes("WebGPU"), "it is not on the GPU");
  assert(await demo.locator("#note").isHidden(), await demo.textContent("#note"));
  // A rate of nearly nothing: the picture stands still. Another optimizer: both start over.
  await demo.locator("#rate-a").fill("-5");
  assert((await demo.textContent("#side-a output")) === "1.0e-5", "the rate is not shown");
  await demo.locator("#side-a select").selectOption("sm3");
  await demo.waitForFunction(() => document.querySelector("#key-a").textContent.startsWith("SM3 "));
  await demo.close();
});

// Drops a file on the page: its name, type, and what is in it, or none for a picture of two colours.
async function drop(demo, name, type, text) {
  const transfer = await demo.evaluateHandle(async ([name, type, text]) => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 80, height: 40 });
    const to = canvas.getContext("2d");
    for (const [colour, x] of [["#2060e0", 0], ["#e04020", 40]]) {
      to.fillStyle = colour;
      to.fillRect(x, 0, 40, 40);
    }
    const content = text ?? (await new Promise((resolve) => canvas.toBlob(resolve, type)));
    const made = new DataTransfer();
    made.items.add(new File([content], name, { type }));
    return made;
  }, [name, type, text]);
  await demo.dispatchEvent("main", "dragover", { dataTransfer: transfer });
  const dropping = () => demo.evaluate(() => document.body.classList.contains("dropping"));
  assert(await dropping(), "the page does not show where to drop");
  await demo.dispatchEvent("main", "drop", { dataTransfer: transfer });
  assert(!(await dropping()), "the page waits for a drop that is over");
}

// Waits until both have begun anew and shown a loss.
const anew = (demo) =>
  demo.waitForFunction(() => ["a", "b"].every((id) => / [0-9.]+/.test(document.querySelector(`#key-${id}`).textContent)));

await test("the demo learns a picture that is dropped on it", async () => {
  const demo = await context.newPage();
  await opened(demo, SMALL);
  const target = (x) =>
    demo.evaluate((x) => {
      const canvas = document.querySelector("#target");
      const at = [Math.round(x * canvas.width), canvas.height >> 1];
      return [...canvas.getContext("2d").getImageData(...at, 1, 1).data];
    }, x);
  const lake = await target(0.25);
  await drop(demo, "notes.txt", "text/plain", "no picture");
  await demo.waitForFunction(() => !document.querySelector("#note").hidden);
  assert(String(await target(0.25)) === String(lake), "what is no picture is shown");
  await drop(demo, "own.png", "image/png");
  await demo.waitForFunction(() => !document.querySelector("#own").hidden);
  assert(await demo.locator("#note").isHidden(), "the note stays");
  const near = (found, wanted) => found.every((c, i) => Math.abs(c - wanted[i]) < 8);
  // The middle of it, a square.
  assert(near(await target(0.25), [0x20, 0x60, 0xe0, 255]), `left it is ${await target(0.25)}`);
  assert(near(await target(0.75), [0xe0, 0x40, 0x20, 255]), `right it is ${await target(0.75)}`);
  await anew(demo);
  await goesOn(demo, 80);
  await demo.close();
});

await test("the demo is used by the keyboard alone", async () => {
  const demo = await context.newPage();
  await opened(demo, `${SMALL}&cpu`);
  const focused = () =>
    demo.evaluate(() => {
      const { activeElement: at } = document;
      const shown = at.matches(".unseen") ? at.parentElement : at;
      const visible = getComputedStyle(shown).outlineStyle !== "none";
      return { name: at.id || (at.closest(".side")?.id ?? at.tagName.toLowerCase()), visible };
    });
  const order = [];
  const tab = async (to) => {
    for (let i = 0; i < 20; i++) {
      await demo.keyboard.press("Tab");
      const { name, visible } = await focused();
      order.push(name);
      assert(visible, `one does not see where one is, at ${name}`);
      if (name === to) return;
    }
    throw new Error(`${to} is not reached, but ${order}`);
  };
  const text = (selector) => demo.textContent(selector);
  await tab("pause");
  await demo.keyboard.press("Enter");
  assert((await text("#pause")) === "Go on", "it is not paused");
  await demo.keyboard.press("Space");
  assert((await text("#pause")) === "Pause", "it does not go on");
  await tab("side-a");
  const label = await demo.evaluate(() => document.querySelector("#side-a select").selectedOptions[0].label);
  await demo.keyboard.press("ArrowDown");
  await demo.waitForFunction((label) => !document.querySelector("#key-a").textContent.startsWith(label), label);
  await anew(demo);
  await tab("rate-a");
  const rate = await text("#side-a output");
  await demo.keyboard.press("ArrowLeft");
  assert((await text("#side-a output")) !== rate, "the rate stays");
  // Letters, wherever one is but in a list.
  await demo.keyboard.press("p");
  assert((await text("#pause")) === "Go on", "p does not pause");
  // Begun anew, it has no loss until it goes on.
  await demo.keyboard.press("r");
  await demo.waitForFunction(() => !/ [0-9.]+/.test(document.querySelector("#key-a").textContent));
  await demo.keyboard.press("p");
  await anew(demo);
  await tab("side-b");
  await tab("rate-b");
  const wanted = ["pause", "restart", "file", "network", "side-a", "rate-a", "side-b", "rate-b"];
  assert(order.join() === wanted.join(), `the order is ${order}`);
  await demo.close();
});

await test("the demo learns without WebGPU, and says so", async () => {
  const demo = await context.newPage();
  await demo.addInitScript(() => {
    Object.defineProperty(Navigator.prototype, "gpu", { get: () => undefined });
  });
  await learns(demo, "network=small", 200);
  const note = await demo.textContent("#note");
  assert(note.includes("no WebGPU") && (await demo.locator("#note").isVisible()), note);
  await demo.close();
});

await test("the console has no errors", async () => {
  assert(complaints.length === 0, complaints.join("\n"));
});

await context.close();
server.close();
if (failed > 0) {
  console.log(`${failed} tests failed`);
  process.exit(1);
}
