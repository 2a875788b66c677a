// What sharp makes of a folder of PNG files: encode.mjs FOLDER QUALITIES
//
// Writes NAME@sharp-eEFFORT-CHROMA@QUALITY@MILLISECONDS.avif beside each NAME.png: the processor time of one encode on one thread.

import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";

// Installed elsewhere, so that a checkout stays clean.
const sharp = createRequire(path.join(process.env.SHARP_FOLDER, "package.json"))("sharp");

const [folder, qualities] = [process.argv[2], process.argv[3].split(",").map(Number)];
const settings = [
  ["sharp-e4-444", { effort: 4 }], // sharp's default
  ["sharp-e4-420", { effort: 4, chromaSubsampling: "4:2:0" }],
  ["sharp-e2-420", { effort: 2, chromaSubsampling: "4:2:0" }],
  ["sharp-e0-420", { effort: 0, chromaSubsampling: "4:2:0" }],
];
sharp.concurrency(1);
sharp.cache(false);
console.error(`sharp ${sharp.versions.sharp}, libaom ${sharp.versions.aom}`);

for (const name of fs.readdirSync(folder).filter((name) => name.endsWith(".png")).sort()) {
  const { data, info } = await sharp(path.join(folder, name)).removeAlpha().raw().toBuffer({ resolveWithObject: true });
  for (const [setting, options] of settings) {
    for (const quality of qualities) {
      const before = process.cpuUsage();
      const file = await sharp(data, { raw: info }).avif({ quality, ...options }).toBuffer();
      const { user, system } = process.cpuUsage(before);
      const spent = ((user + system) / 1000).toFixed(1);
      fs.writeFileSync(path.join(folder, `${name.slice(0, -4)}@${setting}@${quality}@${spent}.avif`), file);
    }
  }
}
