#!/usr/bin/env bash
# Checks the types of the preview's scripts, which JSDoc comments state, with TypeScript. Pinned by package-lock.json, digest
# included; nothing of it is served.
#
#   scripts/typescript.sh DEPS
set -euo pipefail
scripts=$(cd "$(dirname "$0")" && pwd)
into=${1:?scripts/typescript.sh DEPS}/typescript

"$scripts/apt.sh" node=nodejs npm=npm
if ! cmp -s "$scripts/typescript/package-lock.json" "$into/package-lock.json" || [ ! -f "$into/node_modules/typescript/bin/tsc" ]; then
  mkdir -p "$into"
  cp "$scripts/typescript/package.json" "$scripts/typescript/package-lock.json" "$into/"
  (cd "$into" && timeout 300 npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2 </dev/null) || {
    rm -f "$into/package-lock.json" # tried again next time
    echo "typescript.sh: npm could not install TypeScript" >&2
    exit 1
  }
fi
node "$into/node_modules/typescript/bin/tsc" --noEmit --allowJs --checkJs --strict --noUncheckedIndexedAccess --target es2022 \
  --module es2022 --moduleResolution bundler --lib es2022,dom,dom.iterable "$scripts"/../edge/src/preview/assets/*.js
