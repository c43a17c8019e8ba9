// The package in a Worker: some golden trajectories on its own device.
import { golden } from "./page.js";

self.onmessage = async ({ data: { tolerance, cases } }) => {
  try {
    self.postMessage({ results: await golden(tolerance, true, cases) });
  } catch (error) {
    self.postMessage({ error: String(error?.stack ?? error) });
  }
};
