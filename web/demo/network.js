// What both backends agree on: the shape of the network and where it starts.

/** Random numbers that are the same on every visit. */
export function random(seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let h = Math.imul(state ^ (state >>> 15), state | 1);
    h ^= h + Math.imul(h ^ (h >>> 7), h | 61);
    return ((h ^ (h >>> 14)) >>> 0) / 2 ** 32;
  };
  const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  return { uniform, normal };
}

/** The layers as [inputs with the ones, outputs]. */
export const layers = ({ features, width }) => [
  [2 * features + 1, width],
  [width + 1, width],
  [width + 1, 3],
];

/** Weights to begin with. The last row is the bias; the picture begins grey. */
export function initial(size, seed = 7) {
  const { normal } = random(seed);
  const shapes = layers(size);
  return shapes.map(([inputs, outputs], l) => {
    const last = l === shapes.length - 1;
    const scale = Math.sqrt((last ? 0.1 : 2) / (inputs - 1));
    return Float32Array.from({ length: inputs * outputs }, (_, i) => {
      const bias = i >= (inputs - 1) * outputs;
      return bias ? (last ? 0.5 : 0) : scale * normal();
    });
  });
}

/** How often each feature goes up and down across the picture, and along it. */
export function frequencies({ features, side }, seed = 3) {
  const { normal } = random(seed);
  const most = side / 22;
  return Float32Array.from({ length: 2 * features }, () => most * normal());
}

export const NAMES = ["layer 1", "layer 2", "layer 3"];
