#!/usr/bin/env bash
# Installs axe-core, which says whether a page is accessible (tests/src/axe.rs). Pinned by package-lock.json, digest included; it
# runs in the test's browser alone.
#
#   tests/setup/axe.sh DEPS
set -euo pipefail
source=$(cd "$(dirname "$0")/axe" && pwd)
into=${1:?tests/setup/axe.sh DEPS}/axe

if cmp -s "$source/package-lock.json" "$into/package-lock.json" && [ -f "$into/node_modules/axe-core/axe.min.js" ]; then
  exit 0
fi
mkdir -p "$into"
cp "$source/package.json" "$source/package-lock.json" "$into/"
cd "$into"
if ! timeout 300 npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2 </dev/null; then
  rm -f package-lock.json # tried again next time
  echo "missing: axe (npm package axe-core)"
  exit 1
fi
