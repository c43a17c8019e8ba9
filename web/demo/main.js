// The demo: what the visitor sees and does.
import { Curve, draw } from "./chart.js";
import { CpuTrainer } from "./cpu.js";
import { GpuTrainer, findDevice } from "./gpu.js";
import { choices } from "./optimizers.js";
import { drawn, fromFile, pixels, scaled } from "./picture.js";

const $ = (selector, of = document) => of.querySelector(selector);
const query = new URLSearchParams(location.search);
const BIG = 256;

// Sizes of the network. `side` of the picture, `features` in, `width` of the layers, `batch` of pixels.
const SIZES = {
  gpu: {
    small: { label: "small", side: 128, features: 32, width: 64, batch: 1024 },
    medium: { label: "medium", side: 256, features: 64, width: 128, batch: 2048 },
    large: { label: "large", side: 256, features: 128, width: 256, batch: 4096 },
  },
  cpu: {
    small: { label: "small", side: 48, features: 16, width: 24, batch: 128 },
    medium: { label: "medium", side: 64, features: 24, width: 40, batch: 192 },
  },
};

const sides = ["a", "b"].map((id) => {
  const card = $(`#side-${id}`);
  return {
    id,
    card,
    select: $("select", card),
    about: $(".about", card),
    canvas: $("canvas", card),
    slider: $("input", card),
    output: $("output", card),
    sharp: $(".sharp", card),
    bytes: $(".bytes", card),
    key: $(`#key-${id}`),
    curve: new Curve(),
  };
});

let known;
let device;
let place;
let picture = drawn(BIG);
let trainer;
let running = !query.has("paused");
let perFrame = 1;
let generation = 0;
const rates = [];

const rateOf = (slider) => 10 ** Number(slider.value);
const written = (rate) => (rate < 1e-3 ? rate.toExponential(1) : rate.toPrecision(2));
const sizes = () => (device ? SIZES.gpu : SIZES.cpu);

function say(text) {
  $("#news").textContent = text;
}

function note(text) {
  $("#note").textContent = text;
  $("#note").hidden = !text;
}

function size() {
  const own = { ...sizes()[$("#network").value] };
  for (const key of ["side", "features", "width", "batch"]) {
    if (query.has(key)) own[key] = Number(query.get(key));
  }
  return own;
}

const megabytes = (n) => (n / 1e6).toFixed(n < 1e5 ? 4 : 2);

// A number, its unit, and a line below.
function fill(element, value, ...more) {
  element.textContent = `${value} `;
  for (const text of more) {
    const small = document.createElement("small");
    small.textContent = text;
    element.append(small);
  }
}

// A canvas keeps the kind of context that it had first: another backend or size takes another.
function fresh(side, pixelsAcross) {
  const canvas = side.canvas.cloneNode();
  canvas.width = canvas.height = pixelsAcross;
  side.canvas.replaceWith(canvas);
  side.canvas = canvas;
}

/** Trains anew, with what is chosen. */
async function restart() {
  const mine = ++generation;
  trainer?.dispose();
  trainer = undefined;
  const shape = size();
  const target = scaled(picture, shape.side);
  const options = sides.map((side) => {
    const choice = known.get(side.select.value);
    fresh(side, shape.side);
    side.about.textContent = choice.note;
    side.key.textContent = choice.label;
    side.curve = new Curve();
    side.begun = undefined;
    fill(side.sharp, "–", "", "\u00a0");
    return { ...choice.options, lr: rateOf(side.slider) };
  });
  const canvases = sides.map((side) => side.canvas);
  const show = $("#target");
  show.width = show.height = picture.width;
  show.getContext("2d").drawImage(picture, 0, 0);
  let made;
  try {
    const data = pixels(target);
    made = device
      ? await GpuTrainer.create(device, shape, data, options, canvases)
      : await CpuTrainer.create(shape, data, options, canvases);
  } catch (error) {
    if (mine === generation) failed(error);
    return;
  }
  if (mine !== generation) return made.dispose();
  trainer = made;
  perFrame = 1;
  $("#count").textContent = made.parameters.toLocaleString("en");
  made.nets.forEach(({ optimizer }, i) => {
    const each = optimizer.stateBytes / made.parameters;
    const below = `${each.toFixed(each < 1 ? 2 : 1)} bytes a number`;
    fill(sides[i].bytes, megabytes(optimizer.stateBytes), "MB", below);
  });
  made.paint();
  train(made).catch((error) => trainer === made && failed(error));
}

function failed(error) {
  console.warn(error);
  trainer = undefined;
  note(`Training stopped: ${error.message} “Start over” tries again.`);
  say("Training stopped.");
}

const nextFrame = () => new Promise(requestAnimationFrame);

async function train(mine) {
  let lastRead = 0;
  let since = performance.now();
  let counted = 0;
  while (trainer === mine) {
    await nextFrame();
    if (!running) {
      since = performance.now();
      counted = mine.steps;
      continue;
    }
    mine.nets.forEach(({ optimizer }, i) => {
      if (rates[i] !== undefined) optimizer.setHyper("lr", rates[i]);
      rates[i] = undefined;
    });
    const began = performance.now();
    await mine.advance(perFrame);
    if (trainer !== mine) return;
    const took = performance.now() - began;
    // Some 20 ms of training in a frame, changed gently.
    perFrame = Math.round(Math.min(64, Math.max(1, perFrame * Math.min(1.5, Math.max(0.5, 20 / took)))));
    // A part of the picture costs a third of a step.
    mine.paint(2 * perFrame);
    const now = performance.now();
    if (now - lastRead < 250) continue;
    lastRead = now;
    const losses = await mine.losses();
    if (trainer !== mine) return;
    update(losses);
    $("#steps").textContent = mine.steps.toLocaleString("en");
    if (now - since > 900) {
      const speed = ((mine.steps - counted) * 1000) / (now - since);
      $("#speed").textContent = speed < 10 ? speed.toFixed(1) : Math.round(speed).toLocaleString("en");
      since = now;
      counted = mine.steps;
    }
  }
}

function update(losses) {
  const recent = sides.map((side, i) => {
    side.curve.add(losses[i]);
    side.begun ??= losses[i][0];
    const last = losses[i].slice(-32);
    return last.length ? last.reduce((a, b) => a + b, 0) / last.length : NaN;
  });
  sides.forEach((side, i) => {
    const loss = recent[i];
    if (!Number.isFinite(loss)) {
      if (losses[i].length) fill(side.sharp, "diverged", "", "lower the rate, start over");
      return;
    }
    fill(side.sharp, (-10 * Math.log10(loss)).toFixed(1), "dB", `error ${loss.toPrecision(2)}`);
    side.card.classList.toggle("ahead", !(loss >= recent[1 - i]));
    side.key.textContent = `${known.get(side.select.value).label} ${loss.toPrecision(2)}`;
  });
  redraw();
}

function redraw() {
  draw($("#chart"), sides.map(({ id, curve }) => ({ curve, colour: id })));
  const course = sides.map(({ key, begun }) => `${key.textContent}, begun at ${begun?.toPrecision(2)}`);
  $("#chart").setAttribute("aria-label", `Loss curves: ${course.join("; ")}`);
}

function setRate(i) {
  const side = sides[i];
  const rate = rateOf(side.slider);
  side.output.textContent = written(rate);
  side.slider.setAttribute("aria-valuetext", written(rate));
  rates[i] = rate;
}

function suit(i) {
  const asked = query.get(`lr-${sides[i].id}`);
  sides[i].slider.value = Math.log10(asked ? Number(asked) : known.get(sides[i].select.value).lr);
  setRate(i);
}

async function use(file) {
  if (!file) return;
  try {
    picture = await fromFile(file, BIG);
  } catch (error) {
    note(error.message);
    return;
  }
  note("");
  $("#own").hidden = false;
  say("Both networks learn your image now.");
  restart();
}

function toggle() {
  running = !running;
  $("#pause").textContent = running ? "Pause" : "Go on";
  if (!running) $("#speed").textContent = "–";
  say(running ? "Training goes on." : "Training is paused.");
}

function listen() {
  sides.forEach((side, i) => {
    side.slider.addEventListener("input", () => setRate(i));
    side.select.addEventListener("change", () => {
      suit(i);
      say(`Both start over, ${known.get(side.select.value).label} against the other.`);
      restart();
    });
  });
  $("#network").addEventListener("change", restart);
  $("#pause").addEventListener("click", toggle);
  $("#restart").addEventListener("click", async () => {
    note(place.note);
    if (place.lost) await choosePlace();
    say("Both start over.");
    restart();
  });
  $("#own").addEventListener("click", () => {
    picture = drawn(BIG);
    $("#own").hidden = true;
    restart();
  });
  $("#file").addEventListener("change", ({ target }) => {
    use(target.files[0]);
    target.value = "";
  });
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
    if (event.key === "p") toggle();
    if (event.key === "r") $("#restart").click();
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    use(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => use(event.clipboardData.files[0]));
  addEventListener("resize", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

// The device, or the CPU and why.
async function choosePlace() {
  try {
    if (query.has("cpu")) throw new Error("WebGPU was not asked for.");
    const found = await findDevice();
    device = found.device;
    place = { note: "", lost: false };
    $("#where").textContent = `on WebGPU: ${found.name}`;
    const chosen = place;
    device.lost.then(({ message, reason }) => {
      chosen.lost = true;
      failed(new Error(`the graphics device is lost (${message || reason}).`));
    });
  } catch (error) {
    device = undefined;
    const text = `${error.message} So a smaller network trains on the processor instead, with the same optimizers compiled to WebAssembly.`;
    place = { note: text, lost: false };
    $("#where").textContent = "on the processor, in WebAssembly";
    $("#how").firstChild.textContent =
      "The network is a few loops of JavaScript here, and the optimizers are those of the gradstep package in WebAssembly. Nothing is sent anywhere. ";
  }
  note(place.note);
  const select = $("#network");
  const before = select.value || query.get("network") || "medium";
  select.replaceChildren(...Object.entries(sizes()).map(([key, { label }]) => new Option(label, key)));
  select.value = sizes()[before] ? before : "medium";
}

async function start() {
  try {
    known = await choices();
  } catch (error) {
    note(`The package could not be loaded (${error.message}). scripts/build-web makes it.`);
    return;
  }
  sides.forEach((side, i) => {
    side.select.replaceChildren(...[...known.values()].map(({ key, label }) => new Option(label, key)));
    const asked = query.get(side.id) ?? ["adamw", "came"][i];
    side.select.value = known.has(asked) ? asked : [...known.keys()][i];
    suit(i);
  });
  await choosePlace();
  listen();
  await restart();
}

start();
