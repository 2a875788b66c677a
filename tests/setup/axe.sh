#!/usr/bin/env bash
# Installs axe-core, which says whether a page is accessible (tests/src/axe.rs). Pinned by package-lock.json, digest included; it
# runs in the test's browser alone.
#
#   tests/setup/axe.sh DEPS
set -euo pipefail
here=$(dirname "$0")
deps=${1:?tests/setup/axe.sh DEPS}

if ! "$here/../../scripts/npm.sh" "$here/axe" "$deps/axe" axe-core/axe.min.js; then
  echo "missing: axe (npm package axe-core)"
  exit 1
fi
