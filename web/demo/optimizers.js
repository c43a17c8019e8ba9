// What the visitor may choose: all that the package knows. Those below have settings that suit this
// network; others run with their own defaults.
import { optimizers } from "../index.js";

const SUITED = {
  came: { label: "CAME", lr: 1e-3, note: "factored second moments with a confidence" },
  adafactor: { label: "Adafactor (torch)", lr: 1.5e-2, note: "second moments as rows and columns" },
  "adafactor hf": {
    label: "Adafactor (Hugging Face)",
    lr: 3e-3,
    note: "second moments as rows and columns",
    settings: { relative_step: false, scale_parameter: false },
  },
  "adafactor paper": { label: "Adafactor (paper)", lr: 1.5e-2, note: "second moments as rows and columns" },
  adam: { label: "Adam", lr: 5e-3, note: "two numbers for each parameter" },
  adamw: { label: "AdamW", lr: 5e-3, note: "two numbers for each parameter" },
  sgd: { label: "SGD with momentum", lr: 0.3, note: "one number for each parameter", settings: { momentum: 0.9 } },
  sm3: { label: "SM3", lr: 6e-2, note: "the greatest of a row and of a column", settings: { momentum: 0.9 } },
};

/** All optimizers by key: label, note, learning rate, and options for the package. */
export async function choices() {
  const result = new Map();
  for (const { name, variant } of await optimizers()) {
    const key = variant && variant !== "torch" ? `${name} ${variant}` : name;
    const { label = key, lr = 1e-3, note = "", settings = {} } = SUITED[key] ?? {};
    const options = { optimizer: name, ...settings, ...(variant && { variant }) };
    result.set(key, { key, label, lr, note, options });
  }
  return new Map([...result].sort(([, a], [, b]) => a.label.localeCompare(b.label)));
}
