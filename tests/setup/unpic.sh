#!/usr/bin/env bash
# Installs unpic, a library that builds image URLs for many CDNs: what it builds for imgix must parse here
# (edge/tests/unpic.rs). Pinned by package-lock.json, digest included; nothing of it is run but its own functions.
#
#   tests/setup/unpic.sh DEPS
set -euo pipefail
here=$(dirname "$0")
deps=${1:?tests/setup/unpic.sh DEPS}

if ! "$here/../../scripts/npm.sh" "$here/unpic" "$deps/unpic" unpic/package.json; then
  echo "missing: unpic (npm package unpic)"
  exit 1
fi
