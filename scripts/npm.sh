#!/usr/bin/env bash
# Installs the npm packages of a folder that holds package.json and package-lock.json, which pins them, digests included. Does
# nothing, and asks no network, when they are there.
#
#   scripts/npm.sh SOURCE INTO MARK
#
# MARK is a file below INTO/node_modules that is there when the packages are.
set -euo pipefail
source=$(cd "${1:?scripts/npm.sh SOURCE INTO MARK}" && pwd)
into=$2
mark=$3

if cmp -s "$source/package-lock.json" "$into/package-lock.json" && [ -f "$into/node_modules/$mark" ]; then
  exit 0
fi
mkdir -p "$into"
cp "$source/package.json" "$source/package-lock.json" "$into/"
cd "$into"
if ! timeout 300 npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2 </dev/null; then
  rm -f package-lock.json # tried again next time
  exit 1
fi
