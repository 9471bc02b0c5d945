// Builds the page into src/tacit/explore/static, with a hash of its sources that tests/explore/test_bundle.py checks.
import { createHash } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync, copyFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { dirname, join } from "node:path";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const out = join(here, "..", "src", "tacit", "explore", "static");

await build({
  entryPoints: { app: join(here, "src", "main.js"), style: join(here, "src", "style.css") },
  outdir: out, bundle: true, minify: true, format: "iife", target: ["chrome111", "firefox115", "safari16.4"],
  charset: "utf8", legalComments: "none",
});
copyFileSync(join(here, "src", "index.html"), join(out, "index.html"));

const hash = createHash("sha256");
for (const name of readdirSync(join(here, "src")).sort()) {
  hash.update(name).update("\0").update(readFileSync(join(here, "src", name))).update("\0");
}
writeFileSync(join(out, "sources.sha256"), `${hash.digest("hex")}\n`);
