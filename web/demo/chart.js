// The losses of both networks over the steps, on a scale of powers of ten.

/** Losses of a run of any length in a bounded space: means of ever more steps. */
export class Curve {
  constructor(most = 600) {
    this.most = most;
    this.width = 1;
    this.points = [];
    this.pending = [];
  }

  add(values) {
    for (const value of values) {
      this.pending.push(value);
      if (this.pending.length < this.width) continue;
      this.points.push(this.pending.reduce((a, b) => a + b, 0) / this.width);
      this.pending = [];
      if (this.points.length < this.most) continue;
      this.points = this.points.flatMap((p, i, all) => (i % 2 ? [(all[i - 1] + p) / 2] : []));
      this.width *= 2;
    }
  }

  get steps() {
    return this.points.length * this.width;
  }
}

const exponent = (x) => Math.log10(x);

// A round distance of ticks, so that there are some five.
function round(range) {
  const unit = 10 ** Math.floor(exponent(range / 5));
  return unit * [1, 2, 5, 10].find((f) => (f * unit * 6) >= range);
}

const short = (n) => (n >= 1e6 ? `${n / 1e6}M` : n >= 1e3 ? `${n / 1e3}k` : `${n}`);

// A colour of the style sheet, as a canvas takes it.
function themed(element, name) {
  element.style.color = `var(--${name})`;
  const { color } = getComputedStyle(element);
  element.style.color = "";
  return color;
}

/** Draws curves as [{ curve, colour }], the colour by its name in the style sheet. */
export function draw(canvas, lines) {
  const ink = themed(canvas, "muted");
  const rule = themed(canvas, "line");
  const ratio = devicePixelRatio || 1;
  const { clientWidth: wide, clientHeight: high } = canvas;
  if (canvas.width !== Math.round(wide * ratio)) canvas.width = Math.round(wide * ratio);
  if (canvas.height !== Math.round(high * ratio)) canvas.height = Math.round(high * ratio);
  const to = canvas.getContext("2d");
  to.setTransform(ratio, 0, 0, ratio, 0, 0);
  to.clearRect(0, 0, wide, high);
  to.font = "12px system-ui, sans-serif";

  const points = lines.flatMap(({ curve }) => curve.points).filter((p) => p > 0 && Number.isFinite(p));
  const steps = Math.max(20, ...lines.map(({ curve }) => curve.steps));
  const top = Math.min(10, Math.max(0.1, ...points.slice(0, 1), ...points) * 1.15);
  const low = Math.min(0.01, ...points) * 0.8;
  const [left, right, above, below] = [52, wide - 10, 8, high - 38];
  const x = (step) => left + ((right - left) * step) / steps;
  const y = (loss) => above + ((below - above) * (exponent(top) - exponent(loss))) / (exponent(top) - exponent(low));

  to.lineWidth = 1;
  to.fillStyle = ink;
  to.strokeStyle = rule;
  to.textBaseline = "middle";
  to.textAlign = "right";
  for (let e = Math.floor(exponent(low)); e <= exponent(top); e++) {
    for (const f of [1, 3]) {
      const loss = f * 10 ** e;
      if (loss < low || loss > top) continue;
      to.beginPath();
      to.moveTo(left, Math.round(y(loss)) + 0.5);
      to.lineTo(right, Math.round(y(loss)) + 0.5);
      to.stroke();
      to.fillText(e < -3 ? loss.toExponential(0) : loss.toFixed(Math.max(0, -e)), left - 8, y(loss));
    }
  }
  to.textBaseline = "top";
  to.textAlign = "center";
  const tick = round(steps);
  for (let step = 0; step <= steps; step += tick) {
    const room = x(step) > right - 12;
    to.textAlign = room ? "right" : "center";
    to.fillText(short(step), x(step), below + 6);
  }
  to.textAlign = "center";
  to.fillText("step", (left + right) / 2, below + 22);

  to.save();
  to.beginPath();
  to.rect(left, above, right - left, below - above);
  to.clip();
  to.lineWidth = 2;
  to.lineJoin = "round";
  for (const { curve, colour } of lines) {
    to.strokeStyle = themed(canvas, colour);
    to.beginPath();
    curve.points.forEach((loss, i) => {
      if (loss > 0 && Number.isFinite(loss)) to.lineTo(x((i + 0.5) * curve.width), y(loss));
    });
    to.stroke();
  }
  to.restore();
}
