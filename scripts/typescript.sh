#!/usr/bin/env bash
# Checks the types of the preview's scripts, which JSDoc comments state, with TypeScript. Pinned by package-lock.json, digest
# included; nothing of it is served.
#
#   scripts/typescript.sh DEPS
set -euo pipefail
scripts=$(cd "$(dirname "$0")" && pwd)
into=${1:?scripts/typescript.sh DEPS}/typescript

"$scripts/apt.sh" node=nodejs npm=npm
"$scripts/npm.sh" "$scripts/typescript" "$into" typescript/bin/tsc || {
  echo "typescript.sh: npm could not install TypeScript" >&2
  exit 1
}
node "$into/node_modules/typescript/bin/tsc" --noEmit --allowJs --checkJs --strict --noUncheckedIndexedAccess --target es2022 \
  --module es2022 --moduleResolution bundler --lib es2022,dom,dom.iterable "$scripts"/../edge/src/preview/assets/*.js
