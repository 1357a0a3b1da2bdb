// The dashboard as static files: hashed names below assets/, each with its gzip beside it, nothing inline (the policy of
// the pages would not run it), nothing from elsewhere.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";

const OUT = process.env.SCIDAQ_DASHBOARD ?? "../src/scidaq/web/dashboard";

/** A server that compresses what never changes at each request would be wasteful: it is done once, here. */
const compressed = {
  name: "compressed",
  closeBundle() {
    for (const file of readdirSync(OUT, { recursive: true }).map(String)) {
      if (!/\.(html|js|css|svg)$/.test(file)) continue;
      writeFileSync(`${OUT}/${file}.gz`, gzipSync(readFileSync(`${OUT}/${file}`), { level: 9 }));
    }
  },
};

export default defineConfig({
  plugins: [svelte(), compressed],
  build: {
    outDir: OUT,
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
    rolldownOptions: { checks: { pluginTimings: false } },
  },
  // `npx vite` beside a running station, for working on the dashboard.
  server: { proxy: Object.fromEntries(["/api", "/health", "/metrics", "/docs"].map((path) => [path, { target: "http://127.0.0.1:8080", ws: true, changeOrigin: true }])) },
});
