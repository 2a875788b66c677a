#!/usr/bin/env bash
# Installs unpic, a library that builds image URLs for many CDNs: what it builds for imgix must parse here
# (edge/tests/unpic.rs). Pinned by package-lock.json, digest included; nothing of it is run but its own functions.
#
#   tests/setup/unpic.sh DEPS
set -euo pipefail
source=$(cd "$(dirname "$0")/unpic" && pwd)
into=${1:?tests/setup/unpic.sh DEPS}/unpic

if cmp -s "$source/package-lock.json" "$into/package-lock.json" && [ -f "$into/node_modules/unpic/package.json" ]; then
  exit 0
fi
mkdir -p "$into"
cp "$source/package.json" "$source/package-lock.json" "$into/"
cd "$into"
if ! timeout 300 npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2 </dev/null; then
  rm -f package-lock.json # tried again next time
  echo "missing: unpic (npm package unpic)"
  exit 1
fi
