// Pictures to learn: one drawn by code, or the visitor's own.
import { random } from "./network.js";

function canvas(side) {
  const made = document.createElement("canvas");
  made.width = made.height = side;
  const to = made.getContext("2d", { willReadFrequently: true });
  to.scale(side / 256, side / 256);
  return { made, to };
}

function ridge(to, { uniform }, base, height, rough, fill) {
  let points = [base - height * uniform(), base - height * uniform()];
  for (let depth = 0, reach = height; depth < 7; depth++, reach *= rough) {
    const finer = [];
    points.forEach((y, i) => {
      if (i > 0) finer.push((points[i - 1] + y) / 2 + reach * (uniform() - 0.5));
      finer.push(y);
    });
    points = finer;
  }
  to.beginPath();
  to.moveTo(-2, 260);
  points.forEach((y, i) => to.lineTo((i * 260) / (points.length - 1) - 2, y));
  to.lineTo(260, 260);
  to.fillStyle = fill;
  to.fill();
}

function tree(to, x, foot, height) {
  for (let i = 0; i < 7; i++) {
    const y = foot - height + (i * height) / 7;
    const wide = height * (0.05 + 0.035 * i);
    to.beginPath();
    to.moveTo(x, y - height * 0.08);
    to.lineTo(x + wide, y + height * 0.17);
    to.lineTo(x - wide, y + height * 0.17);
    to.fill();
  }
}

/** An evening at a lake. */
export function drawn(side) {
  const { made, to } = canvas(side);
  const r = random(22);
  const sky = to.createLinearGradient(0, 0, 0, 165);
  const tones = ["#141c4a", "#3b2a73", "#a8427f", "#f2775c", "#ffd08a"];
  tones.forEach((tone, i) => sky.addColorStop(i / (tones.length - 1), tone));
  to.fillStyle = sky;
  to.fillRect(0, 0, 256, 165);
  for (let i = 0; i < 70; i++) {
    const y = 85 * r.uniform() ** 1.5;
    to.fillStyle = `rgba(255, 250, 230, ${(0.9 * r.uniform() * (1 - y / 95)).toFixed(2)})`;
    to.beginPath();
    to.arc(256 * r.uniform(), y, 0.5 + 0.9 * r.uniform(), 0, 7);
    to.fill();
  }
  const glow = to.createRadialGradient(158, 118, 12, 158, 118, 95);
  glow.addColorStop(0, "rgba(255, 226, 150, 0.85)");
  glow.addColorStop(1, "rgba(255, 170, 110, 0)");
  to.fillStyle = glow;
  to.fillRect(0, 0, 256, 165);
  to.fillStyle = "#fff3cf";
  to.beginPath();
  to.arc(158, 118, 21, 0, 7);
  to.fill();
  ridge(to, r, 150, 62, 0.55, "#7d3f78");
  ridge(to, r, 160, 44, 0.55, "#4c2c66");
  ridge(to, r, 168, 20, 0.6, "#2a1f4e");
  const lake = to.createLinearGradient(0, 165, 0, 256);
  lake.addColorStop(0, "#e8826a");
  lake.addColorStop(0.35, "#8a3f7c");
  lake.addColorStop(1, "#191c45");
  to.fillStyle = lake;
  to.fillRect(0, 165, 256, 91);
  for (let i = 0; i < 150; i++) {
    const y = 166 + 88 * r.uniform() ** 1.3;
    const near = (y - 160) / 96;
    const x = 158 + r.normal() * (10 + 45 * near);
    const wide = 5 + 22 * near * r.uniform();
    to.fillStyle = `rgba(255, 222, 150, ${(0.75 * (1 - 0.7 * near)).toFixed(2)})`;
    to.fillRect(x - wide / 2, y, wide, 0.8 + 1.4 * near);
  }
  to.fillStyle = "#0d1026";
  for (let i = 0; i < 9; i++) tree(to, -4 + 12 * i + 6 * r.uniform(), 236 + 6 * r.uniform(), 116 - 10 * i + 22 * r.uniform());
  for (let i = 0; i < 4; i++) tree(to, 226 + 11 * i, 250, 44 + 16 * i + 10 * r.uniform());
  ridge(to, r, 246, 7, 0.7, "#0d1026");
  to.strokeStyle = "#241a40";
  to.lineWidth = 1.3;
  for (const [x, y, s] of [[96, 52, 7], [112, 60, 5], [84, 66, 5]]) {
    to.beginPath();
    to.moveTo(x - s, y - s / 3);
    to.quadraticCurveTo(x - s / 3, y - s / 2, x, y + s / 5);
    to.quadraticCurveTo(x + s / 3, y - s / 2, x + s, y - s / 3);
    to.stroke();
  }
  return made;
}

/** The middle of an image file, as a square. */
export async function fromFile(file, side) {
  let image;
  try {
    image = await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name || "This file"} is no image that the browser can read.`);
  }
  const { made, to } = canvas(256);
  const least = Math.min(image.width, image.height);
  to.imageSmoothingQuality = "high";
  to.fillStyle = "#fff";
  to.fillRect(0, 0, 256, 256);
  to.drawImage(image, (image.width - least) / 2, (image.height - least) / 2, least, least, 0, 0, 256, 256);
  image.close();
  return scaled(made, side);
}

/** A picture in another size. */
export function scaled(from, side) {
  if (from.width === side) return from;
  const { made, to } = canvas(side);
  to.imageSmoothingQuality = "high";
  to.drawImage(from, 0, 0, 256, 256);
  return made;
}

/** Its pixels, four bytes each. */
export function pixels(from) {
  const { data } = from.getContext("2d").getImageData(0, 0, from.width, from.height);
  return new Uint32Array(data.buffer);
}
