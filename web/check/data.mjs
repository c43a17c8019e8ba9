// Brings what the self-check compares with to where a page can reach it: `node data.mjs FOLDER`.
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { CASES } from "./golden.js";

const tests = join(dirname(fileURLToPath(import.meta.url)), "../../tests");

/** A tolerance of the native tests: written there, and only there. */
export async function tolerance(name) {
  const source = await readFile(join(tests, "common/tolerance.rs"), "utf8");
  const found = new RegExp(
    `const ${name}: Tolerance = Tolerance \\{\\s*factor: ([0-9.]+),\\s*roundings: ([0-9.]+)`,
  ).exec(source);
  if (!found) throw new Error(`there is no tolerance ${name}`);
  const rare = /ONE_PLACE: f64 = ([0-9.]+);[^]*ONE_PLACE_FOR: \[&str; 2\] = \["(\w+)", "(\w+)"\];/.exec(source);
  if (!rare) throw new Error("there is no ONE_PLACE");
  const [, roundings, ...exception] = rare;
  return {
    factor: Number(found[1]),
    roundings: Number(found[2]),
    rare: { of: exception.join(" "), roundings: Number(roundings) },
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const to = process.argv[2];
  await mkdir(to, { recursive: true });
  for (const name of ["inputs", ...CASES]) {
    await copyFile(join(tests, `golden/${name}.safetensors`), join(to, `${name}.safetensors`));
  }
  await writeFile(join(to, "tolerance.json"), JSON.stringify(await tolerance("OFFICIAL_F32")));
}
