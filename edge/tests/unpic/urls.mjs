// Builds the URLs of edge/tests/unpic.rs with the real library.
//
//   node urls.mjs FOLDER-OF-UNPIC
//
// Prints one JSON object: `cases` with each case's URL beside it, and `grid`, what imgix gets for many sizes.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const { transformUrl } = await import(pathToFileURL(`${process.argv[2]}/node_modules/unpic/esm/mod.js`));
const cases = JSON.parse(readFileSync(new URL("cases.json", import.meta.url)));
const build = (url, provider, { width, height, format, quality, ...own }) =>
  transformUrl({ url, provider, width, height, format, quality }, { [provider]: own });

const base = "https://img.example.com/i/studio/hero/teal-mug?product=mug&colour=teal";
const built = cases.map((one) => ({ ...one, url: build(one.base ?? base, one.provider, one.operations) }));

const grid = [];
for (const width of [undefined, 1, 320, 640.4, 8192]) {
  for (const height of [undefined, 1, 333.5]) {
    for (const format of [undefined, "avif", "webp", "jpg", "jpeg", "png"]) {
      for (const quality of [undefined, 1, 75, 100]) {
        const operations = { width, height, format, quality };
        grid.push({ ...operations, url: build(base, "imgix", { ...operations }) });
      }
    }
  }
}
process.stdout.write(JSON.stringify({ cases: built, grid }));
