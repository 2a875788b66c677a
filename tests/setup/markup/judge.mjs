// Says what our markup is to others: every fault is a line, and nothing is said of what is right.
//
//   node judge.mjs NODE_MODULES_FOLDER FOLDER
//
// FOLDER holds pages/*.html, which the W3C's validator reads in one run, and cases.json: a list of {name, html, react, next, data}.
// React renders the components, TypeScript compiles them and holds the structured data against schema.org's vocabulary (schema-dts).
import { execFileSync } from "node:child_process";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";

// vnu looks for the lazy <img> right behind a <source>, and takes a second <source> for none. That `auto` stands beside
// `loading="lazy"` alone is tested in edge/src/seo/picture.rs.
const SOURCES_AUTO = ".*value starting with .auto. is only valid for lazy-loaded images.*";

const [modules, folder] = process.argv.slice(2).map((path) => resolve(path));
const require = createRequire(join(modules, "package.json"));
const ts = require("typescript");
const React = require("react");
const { renderToStaticMarkup } = require("react-dom/server");
const cases = JSON.parse(readFileSync(join(folder, "cases.json"), "utf8"));
const faults = [];

// The elements of a fragment, with sorted attributes, and its texts: what two spellings of the same HTML have in common.
function parts(html) {
  const decoded = (text) =>
    text
      .replace(/&#x([0-9a-f]+);/gi, (_, code) => String.fromCodePoint(parseInt(code, 16)))
      .replace(/&#([0-9]+);/g, (_, code) => String.fromCodePoint(Number(code)))
      .replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&quot;/g, '"').replace(/&amp;/g, "&");
  const found = [];
  for (const [, tag, text] of html.matchAll(/<([^>]*)>|([^<]+)/g)) {
    if (text !== undefined) {
      if (text.trim()) found.push(decoded(text).trim());
    } else {
      const name = tag.match(/^\/?[a-z0-9]+/i)?.[0].toLowerCase();
      const attributes = [...tag.matchAll(/ ([a-z:-]+)="([^"]*)"/gi)].map(([, key, value]) => `${key.toLowerCase()}=${decoded(value)}`);
      found.push([name, ...attributes.sort()].join("\n"));
    }
  }
  return JSON.stringify(found, null, 1);
}

function component(source, imported) {
  const options = { module: ts.ModuleKind.CommonJS, jsx: ts.JsxEmit.React, target: ts.ScriptTarget.ES2022 };
  const { outputText, diagnostics } = ts.transpileModule(source, { compilerOptions: options, reportDiagnostics: true });
  if (diagnostics.length > 0) throw new Error(diagnostics.map((fault) => ts.flattenDiagnosticMessageText(fault.messageText, " ")).join("; "));
  const module = { exports: {} };
  new Function("React", "require", "exports", "module", outputText)(React, imported, module.exports, module);
  return module.exports.default;
}

const render = (source, imported) => renderToStaticMarkup(React.createElement(component(source, imported)));

// What next/image makes of a loader: a candidate for each of its own widths, which are not the edge's.
function Image({ loader, src, priority, ...props }) {
  const srcSet = [16, 384, 640, 750, 828, 1080, 1200, 1920, 3840].map((width) => `${loader({ src, width })} ${width}w`).join(", ");
  return React.createElement("img", { srcSet, loading: priority ? undefined : "lazy", ...props });
}

for (const { name, html, react, next, widths } of cases) {
  try {
    const rendered = render(react).replace(/^<link rel="preload"[^>]*>/, "");
    if (parts(rendered) !== parts(html)) faults.push(`${name}: React renders ${rendered}`);
    const image = render(next, () => ({ default: Image, __esModule: true }));
    for (const [, wanted] of image.matchAll(/ (\d+)w[,"]/g)) {
      const candidate = image.match(new RegExp(`[?&;]w=(\\d+)(?:&amp;[a-z]+=[^ ]*)? ${wanted}w`));
      const rung = widths.find((width) => width >= Number(wanted)) ?? widths.at(-1);
      if (Number(candidate?.[1]) !== rung) faults.push(`${name}: Next asks for ${candidate?.[1]} where ${wanted} is wanted`);
    }
    if (!image.includes("srcSet=") && !image.includes("srcset=")) faults.push(`${name}: Next renders ${image}`);
  } catch (error) {
    faults.push(`${name}: ${error}`);
  }
}

// A value that is no member of its type, or a property that the type has not, does not compile.
const kinds = ["ImageObject", "Product", "Article"];
const typed = cases.flatMap(({ data }) => data).map((data, index) => {
  // The vocabulary names the terms of the IPTC by addresses of its own.
  const text = JSON.stringify(data, (key, value) => {
    if (key !== "digitalSourceType") return value;
    const term = value.replace("http://cv.iptc.org/newscodes/digitalsourcetype/", "");
    return `https://schema.org/${term[0].toUpperCase()}${term.slice(1)}DigitalSource`;
  });
  return `export const data${index}: WithContext<${kinds.includes(data["@type"]) ? data["@type"] : "never"}> = ${text};`;
});
// Beside the packages, where the compiler finds them.
const file = join(modules, `judged-${process.pid}.ts`);
writeFileSync(file, [`import type { ${kinds.join(", ")}, WithContext } from "schema-dts";`, ...typed].join("\n"));
const program = ts.createProgram([file], { noEmit: true, strict: true, module: ts.ModuleKind.NodeNext, moduleResolution: ts.ModuleResolutionKind.NodeNext, target: ts.ScriptTarget.ES2022, types: [] });
for (const fault of ts.getPreEmitDiagnostics(program)) {
  const line = fault.file?.getLineAndCharacterOfPosition(fault.start ?? 0).line ?? 0;
  faults.push(`schema.org: ${ts.flattenDiagnosticMessageText(fault.messageText, " ")} in ${typed[line - 1]?.slice(0, 200)}`);
}

rmSync(file);

try {
  execFileSync("java", ["-Xmx512m", "-Xss8m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-jar", join(modules, "node_modules/vnu-jar/build/dist/vnu.jar"), "--errors-only", "--filterpattern", SOURCES_AUTO, "--format", "gnu", join(folder, "pages")], { stdio: ["ignore", "pipe", "pipe"] });
} catch (error) {
  faults.push(`vnu: ${error.stdout ?? ""}${error.stderr ?? error}`);
}

for (const fault of faults) console.log(fault);
