// Pictures of the pages for the README: `node screenshots.mjs PLAYWRIGHT_CORE CHROMIUM`.
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { chromiumArguments, serve, web } from "./server.mjs";

const [playwright, executablePath] = process.argv.slice(2);
const { chromium } = await import(playwright);
const { origin, server } = await serve();
const browser = await chromium.launch({ executablePath, args: chromiumArguments });

async function shoot(to, { scheme, hide, wait, url, clip }) {
  const page = await browser.newPage({ viewport: { width: 1000, height: 760 }, colorScheme: scheme });
  await page.goto(`${origin}/${url}`);
  await page.waitForFunction(wait, undefined, { timeout: 300_000 });
  await page.evaluate(() => new Promise((resolve) => setTimeout(resolve, 500)));
  const whole = await page.evaluate(() => document.documentElement.scrollHeight);
  const height = Math.min(whole, clip ?? whole);
  const bytes = await page.screenshot({ type: "jpeg", quality: 72, fullPage: true, clip: { x: 0, y: 0, width: 1000, height } });
  await writeFile(join(web, to), bytes);
  console.log(`${to}: ${bytes.length} bytes`);
  await page.close();
}

const steps = (n) => `Number(document.querySelector("#steps").textContent.replaceAll(",", "")) >= ${n}`;
// Small enough for a software adapter; on a graphics card nothing need be set.
const small = "side=64&features=24&width=48&batch=256";
await shoot("demo/light.jpg", { scheme: "light", url: `demo/index.html?${small}`, wait: steps(400) });
await shoot("demo/dark.jpg", { scheme: "dark", url: `demo/index.html?${small}&a=sgd&b=sm3`, wait: steps(250) });
await shoot("check/light.jpg", {
  scheme: "light",
  url: "check/index.html",
  wait: `document.querySelector("#progress.done")`,
  clip: 1000,
});
await browser.close();
server.close();
