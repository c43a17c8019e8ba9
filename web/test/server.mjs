// What the tests and the pictures have in common: a file server for this folder, and the browser's flags.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { dirname, extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

export const web = join(dirname(fileURLToPath(import.meta.url)), "..");
export const root = join(web, "..");
export const golden = join(root, "tests/golden");

const TYPES = {
  ".html": "text/html", ".js": "text/javascript", ".wasm": "application/wasm", ".css": "text/css",
  ".json": "application/json", ".wgsl": "text/plain",
};

export async function serve() {
  const server = createServer(async (request, response) => {
    try {
      const path = normalize(decodeURIComponent(new URL(request.url, "http://x").pathname));
      if (path === "/favicon.ico") return response.writeHead(204).end();
      const file = path.startsWith("/golden/") ? join(golden, path.slice(8)) : join(web, path);
      const body = await readFile(file);
      response.writeHead(200, { "content-type": TYPES[extname(file)] ?? "application/octet-stream" });
      response.end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { server, origin: `http://127.0.0.1:${server.address().port}` };
}

export const chromiumArguments = [
  "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--enable-unsafe-webgpu",
  "--use-webgpu-adapter=swiftshader",
  // Without these a canvas of WebGPU takes the device with it.
  "--enable-features=Vulkan", "--use-vulkan=swiftshader", "--use-angle=vulkan",
];
