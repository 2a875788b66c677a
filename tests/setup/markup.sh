#!/usr/bin/env bash
# Installs the judges of our markup (edge/src/seo/judged.rs): the W3C's validator, React, and TypeScript with schema.org's
# vocabulary. Pinned by package-lock.json, digests included; the validator runs in Java, which judges.sh installs.
#
#   tests/setup/markup.sh DEPS
set -euo pipefail
source=$(cd "$(dirname "$0")/markup" && pwd)
into=${1:?tests/setup/markup.sh DEPS}/markup

if cmp -s "$source/package-lock.json" "$into/package-lock.json" && [ -f "$into/node_modules/vnu-jar/build/dist/vnu.jar" ]; then
  exit 0
fi
mkdir -p "$into"
cp "$source/package.json" "$source/package-lock.json" "$into/"
cd "$into"
if ! timeout 300 npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2 </dev/null; then
  rm -f package-lock.json # tried again next time
  echo "missing: markup (npm packages vnu-jar, react, typescript, schema-dts)"
  exit 1
fi
