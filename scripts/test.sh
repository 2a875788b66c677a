#!/usr/bin/env bash
# Runs every test: the crates' own, then the end-to-end ones, then the documentation's.
#
#   scripts/test.sh [--locked]
#
# A test whose outside judge is missing writes `skipped: NAME` to stderr and passes; they are listed at the end.
# With CI=true, BILDKANTE_REQUIRE_JUDGES=1 makes such a test fail instead.
set -euo pipefail

[ "${CI:-}" != true ] || export BILDKANTE_REQUIRE_JUDGES=1
# Judges that no package manager installed: tests/setup/judges.sh unpacked them into folders of their own.
setup=$(dirname "$0")/../tests/setup
deps=$(realpath -m "${BILDKANTE_DEPS:-$(dirname "$0")/../.deps}")
export BILDKANTE_HTTPLINT="${BILDKANTE_HTTPLINT:-$deps/httplint/bin/python}"
export BILDKANTE_PILLOW="${BILDKANTE_PILLOW:-$deps/pillow/bin/python}"
export BILDKANTE_AXE="${BILDKANTE_AXE:-$deps/axe/node_modules/axe-core/axe.min.js}"
export BILDKANTE_C2PA="${BILDKANTE_C2PA:-$deps/c2pa/bin/python}"
export BILDKANTE_SITEMAP_SCHEMA="${BILDKANTE_SITEMAP_SCHEMA:-$deps/markup/node_modules/sitemap/schema/sitemap.xsd}"
nginx=$("$setup/peer.sh" nginx "$deps" 2>/dev/null) || nginx=
export BILDKANTE_NGINX="${BILDKANTE_NGINX:-$nginx}"
varnish=$("$setup/peer.sh" varnish "$deps" 2>/dev/null) || varnish=
export BILDKANTE_VARNISH="${BILDKANTE_VARNISH:-$varnish}"
# What has to come is waited for three minutes: encoders of a development build take long beside other work. A test that passes waits for nothing.
export BILDKANTE_PATIENCE="${BILDKANTE_PATIENCE:-3}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
[ ! -t 1 ] || export CARGO_TERM_COLOR=always # cargo sees a pipe, the reader a terminal

status=0
cargo_test() {
  cargo test --no-fail-fast "$@" 2>&1 </dev/null | tee -a "$log" || status=1
}

# The whole workspace at once: another choice of packages would have other features of tokio and others, and most
# dependencies would be compiled twice. Cargo goes by name, and bildkante-tests, the end-to-end ones, comes last.
cargo_test "$@" --workspace --lib --bins --tests
# Tests and binaries find libtorch by their run path; documentation tests are linked without one.
LD_LIBRARY_PATH="$LIBTORCH/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" cargo_test "$@" --workspace --doc

skipped=$(grep -o 'skipped: .*' "$log" | sort -u || true)
if [ -n "$skipped" ]; then
  printf 'tests without their judge:\n%s\n' "$skipped"
fi
exit "$status"
