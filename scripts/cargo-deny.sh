#!/usr/bin/env bash
# Builds the pinned cargo-deny into DIR/tools (two minutes on two cores, once) and prints the path of its binary.
#
#   scripts/cargo-deny.sh DIR
set -euo pipefail
dir=${1:?usage: cargo-deny.sh DIR}
version=0.20.2
binary="$dir/tools/bin/cargo-deny"

if [ ! -x "$binary" ] || [ "$("$binary" --version)" != "cargo-deny $version" ]; then
  echo "cargo-deny.sh: building cargo-deny $version (about two minutes, once)" >&2
  build=$(mktemp -d)
  trap 'rm -rf "$build"' EXIT
  # Unoptimised and without its TLS roots: it reads a few hundred manifests from disk, and its build time is what costs.
  CARGO_TARGET_DIR="$build" CARGO_PROFILE_DEV_DEBUG=0 cargo install -q cargo-deny --version "=$version" --locked \
    --no-default-features --debug --force --root "$dir/tools" >&2 </dev/null
fi
echo "$binary"
