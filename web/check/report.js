// Results as plain text, for a bug report.

/** Upper ends of the bins of the histogram, in units of round-off. */
export const BINS = [0, 0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, Infinity];

export const binLabel = (i) => {
  if (i === 0) return "0";
  if (BINS[i] === Infinity) return `> ${BINS[i - 1]}`;
  return `≤ ${BINS[i]}`;
};

/** How many errors fall into each bin. */
export function histogram(units) {
  const counts = BINS.map(() => 0);
  for (const u of units) {
    const bin = BINS.findIndex((end) => u <= end);
    // What is not a number is beyond all.
    counts[bin < 0 ? BINS.length - 1 : bin] += 1;
  }
  return counts;
}

const pad = (text, n) => String(text).padEnd(n);

/** `results` has, for each backend, `name`, `cases` and `units`. */
export function report({ device, results, speed, problems }) {
  const lines = ["gradstep self-check", `date      ${new Date().toISOString()}`];
  lines.push(`browser   ${navigator.userAgent}`);
  for (const [key, value] of Object.entries(device)) lines.push(`${pad(key, 9)} ${value}`);
  if (speed) {
    lines.push(
      `bandwidth AdamW ${speed.step.toFixed(1)} GB/s, copy ${speed.copy.toFixed(1)} GB/s (${speed.elements} elements)`,
    );
  }
  problems.forEach((text) => lines.push(`problem   ${text}`));
  for (const { name, cases, units } of results) {
    const bad = cases.filter((c) => !(c.error <= 1)).length;
    lines.push("", `${name}: ${cases.length - bad} of ${cases.length} within the tolerance`);
    for (const c of cases) {
      const verdict = c.error <= 1 ? "ok   " : "WRONG";
      lines.push(`  ${verdict} ${pad(c.name, 26)} ${c.error.toFixed(3)} of the tolerance, at ${c.worst}`);
    }
    const counts = histogram(units).map((n, i) => `${binLabel(i)}: ${n}`);
    lines.push(`  errors in units of round-off: ${counts.join(", ")}`);
  }
  return `${lines.join("\n")}\n`;
}
