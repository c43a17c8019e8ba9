// The self-check: golden trajectories on this browser's device and processor.
import { Optimizer, init } from "../index.js";
import { bandwidth } from "./bandwidth.js";
import { CASES, parse, run } from "./golden.js";
import { BINS, binLabel, histogram, report } from "./report.js";

const $ = (selector) => document.querySelector(selector);
const data = new URL("../pkg/golden/", import.meta.url);

const element = (tag, { text, ...attributes } = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
};

async function bytes(name) {
  const response = await fetch(new URL(name, data));
  if (!response.ok) throw new Error(`${name} is missing (${response.status}); scripts/build-web brings it`);
  return new Uint8Array(await response.arrayBuffer());
}

// The page's device and what is known of it.
async function findDevice() {
  if (!navigator.gpu) throw new Error("This browser has no WebGPU: only the processor is checked.");
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) throw new Error("WebGPU found no graphics adapter: only the processor is checked.");
  const features = ["subgroups", "shader-f16", "timestamp-query"].filter((f) => adapter.features.has(f));
  const device = await adapter.requestDevice();
  const { vendor, architecture, device: model, description, isFallbackAdapter } = adapter.info ?? {};
  const { maxStorageBufferBindingSize, maxComputeInvocationsPerWorkgroup } = adapter.limits;
  const about = {
    vendor,
    family: architecture,
    model: [model, description].filter(Boolean).join(" "),
    kind: isFallbackAdapter ? "software" : undefined,
    features: features.join(", "),
    limits: `bindings of ${Math.round(maxStorageBufferBindingSize / 2 ** 20)} MiB, ${maxComputeInvocationsPerWorkgroup} invocations`,
  };
  return { device, about: Object.fromEntries(Object.entries(about).filter(([, value]) => value)) };
}

// A name for people: the class, its package, and what was set.
function title(file, name) {
  const { optimizer, settings } = file.metadata;
  const set = Object.entries(JSON.parse(settings))
    .filter(([key]) => !["foreach", "fused"].includes(key))
    .map(([key, value]) => `${key} ${JSON.stringify(value)}`);
  const row = element("tr", { "data-case": name });
  const head = element("th", { scope: "row", text: `${optimizer.split(".").at(-1)} ` });
  head.append(element("small", { text: `${optimizer.split(".")[0]}, ${set.join(", ") || "defaults"}` }));
  row.append(head, element("td", { text: "…" }), element("td", { text: "…" }));
  return row;
}

function cell(row, backend, error) {
  const to = row.children[backend === "gpu" ? 1 : 2];
  const right = error <= 1;
  const percent = Number.isFinite(error) ? `${(100 * error).toFixed(1)} %` : "not finite";
  const fill = element("i", { style: `width: ${Math.min(100, 100 * error) || 100}%` });
  to.className = right ? "" : "wrong";
  to.replaceChildren(
    element("div", { class: "result" },
      element("div", { class: `bar ${right ? backend : "bad"}`, "aria-hidden": "true" }, fill),
      element("span", { text: `${right ? "✓" : "✗ wrong"} ${percent}` })),
  );
}

function spread(results) {
  const counts = results.map(({ units }) => histogram(units));
  const most = Math.max(1, ...counts.flat());
  $("#spread").replaceChildren(
    ...BINS.map((_, bin) => {
      const pair = element("div", { class: "pair" });
      results.forEach(({ id }, i) => {
        const count = counts[i][bin];
        // The number above the bars has room for a fifth.
        const bar = element("i", { class: id, style: `height: ${(86 * count) / most}%` });
        if (count > 0) bar.dataset.count = count;
        pair.append(bar);
      });
      return element("div", {}, pair, element("small", { text: binLabel(bin) }));
    }),
  );
  const text = results.map(({ name }, i) => {
    return `${name}: ${counts[i].map((n, bin) => `${n} errors ${binLabel(bin)}`).join(", ")}`;
  });
  $("#spread").setAttribute("aria-label", `Histogram of errors in units of round-off. ${text.join(". ")}`);
}

function showSpeed(speed) {
  const most = Math.max(speed.step, speed.copy);
  const line = (label, value, kind) => [
    element("span", { text: label }),
    element("div", { class: `bar ${kind}`, "aria-hidden": "true" }, element("i", { style: `width: ${(100 * value) / most}%` })),
    element("b", { text: `${value.toFixed(value < 10 ? 1 : 0)} GB/s` }),
  ];
  $("#speed").replaceChildren(
    element("div", { class: "speed" }, ...line("AdamW step", speed.step, "gpu"), ...line("copy", speed.copy, "plain")),
    element("p", {
      class: "small muted",
      text: `${((100 * speed.step) / speed.copy).toPrecision(2)} % of a copy's, with ${speed.elements.toLocaleString("en")} parameters.`,
    }),
  );
}

function verdict(kind, text, detail = "") {
  $(".verdict").className = `card verdict ${kind}`;
  $("#verdict").textContent = text;
  $("#detail").textContent = detail;
}

function problem(problems, text) {
  problems.push(text);
  $("#note").textContent = problems.join(" ");
  $("#note").hidden = false;
}

async function check() {
  const problems = [];
  $("#note").hidden = true;
  $("#again").disabled = $("#copy").disabled = true;
  $("#progress").className = "";
  $("#progress").value = 0;
  verdict("", "Loading …");
  await init({ gpu: Boolean(navigator.gpu), cpu: true });
  let found;
  try {
    found = await findDevice();
  } catch (error) {
    problem(problems, error.message);
  }
  const about = { ...found?.about };
  const terms = Object.entries({ ...about, browser: navigator.userAgent });
  $("#device").replaceChildren(...terms.flatMap(([key, value]) => [element("dt", { text: key }), element("dd", { text: value })]));

  const tolerance = JSON.parse(new TextDecoder().decode(await bytes("tolerance.json")));
  const inputs = parse(await bytes("inputs.safetensors"));
  const files = await Promise.all(CASES.map(async (name) => parse(await bytes(`${name}.safetensors`))));
  const rows = files.map((file, i) => title(file, CASES[i]));
  $("#cases").replaceChildren(...rows);

  const results = [];
  if (found) results.push({ id: "gpu", name: "graphics card", device: found.device, cases: [], units: [] });
  else rows.forEach((row) => (row.children[1].textContent = "–"));
  results.push({ id: "cpu", name: "processor", device: undefined, cases: [], units: [] });
  const all = results.length * CASES.length;
  let done = 0;
  let compared = 0;
  const began = performance.now();
  for (const result of results) {
    for (const [i, name] of CASES.entries()) {
      verdict("", `Checking the ${result.name} …`, name);
      let tensors = {};
      try {
        tensors = await run(Optimizer, name, inputs, files[i], tolerance, result.device);
      } catch (error) {
        problem(problems, `${name} on the ${result.name}: ${error.message}`);
        tensors = { nothing: { error: Infinity, units: [], compared: 0 } };
      }
      const [worst, { error }] = Object.entries(tensors).reduce((a, b) => (b[1].error > a[1].error ? b : a));
      result.cases.push({ name, error, worst, tensors });
      for (const { units, compared: n } of Object.values(tensors)) {
        result.units.push(...units);
        compared += n;
      }
      cell(rows[i], result.id, error);
      $("#progress").value = ++done / all;
      spread(results);
      // The page stays alive.
      await new Promise((resolve) => setTimeout(resolve));
    }
  }
  const seconds = (performance.now() - began) / 1000;

  let speed;
  if (found) {
    verdict("", "Measuring memory speed …");
    try {
      speed = await bandwidth(found.device);
      showSpeed(speed);
    } catch (error) {
      problem(problems, `The speed was not measured: ${error.message}`);
    }
    found.device.destroy();
  } else {
    $("#speed").replaceChildren(element("p", { class: "muted", text: "There is no graphics card to measure." }));
  }
  $("#progress").className = "done";
  const bad = results.flatMap(({ cases }) => cases).filter(({ error }) => !(error <= 1)).length;
  const where = found ? "graphics card and processor" : "the processor";
  const detail = `${compared.toLocaleString("en")} comparisons on ${where} in ${seconds.toFixed(1)} s`;
  if (bad === 0) verdict("good", `✓ All ${all} runs agree with the official code`, detail);
  else verdict("bad", `✗ ${bad} of ${all} runs disagree with the official code`, `${detail}. Please send us the report.`);
  const text = report({ device: about, results, speed, problems });
  $("#report").value = text;
  $("#again").disabled = $("#copy").disabled = false;
  return { results: results.map(({ id, cases }) => ({ id, cases })), speed, text };
}

async function copy() {
  const text = $("#report");
  let copied = true;
  try {
    await navigator.clipboard.writeText(text.value);
  } catch {
    // Not allowed, or the page is not served securely.
    text.select();
    copied = document.execCommand("copy");
    $("#copy").focus();
  }
  $("#copy").textContent = copied ? "Copied" : "Could not copy";
  setTimeout(() => ($("#copy").textContent = "Copy report"), 2000);
}

function start() {
  window.checked = check().catch((error) => {
    verdict("bad", "The check did not finish", error.message);
    $("#again").disabled = false;
  });
}

$("#copy").addEventListener("click", copy);
$("#again").addEventListener("click", start);
start();
