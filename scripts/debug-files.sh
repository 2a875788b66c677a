#!/usr/bin/env bash
# Moves the debug information of each binary into BINARY.debug beside it, where debuggers and backtraces find it by name and
# checksum. Function names stay in the binary. Does nothing to a binary that is stripped already.
#
#   scripts/debug-files.sh BINARY…
set -euo pipefail
complain() { echo "debug-files.sh: $*" >&2; exit 1; }
command -v objcopy >/dev/null || complain "no objcopy: apt-get install binutils"

for binary in "$@"; do
  [ -f "$binary" ] || complain "$binary is missing"
  [[ $(objdump -h "$binary") == *.debug_line* ]] || continue
  binary=$(realpath "$binary")
  folder=$(dirname "$binary")
  name=$(basename "$binary")
  work=$(mktemp -d "$folder/.debug.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  objcopy --only-keep-debug --compress-debug-sections=zlib "$binary" "$work/$name.debug"
  # A file of its own: cargo's copy, of which this is a hard link, stays as cargo made it.
  (cd "$work" && objcopy --strip-debug --add-gnu-debuglink="$name.debug" "$binary" "$name")
  chmod --reference="$binary" "$work/$name"
  chmod 644 "$work/$name.debug"
  mv -f "$work/$name.debug" "$folder/"
  mv -f "$work/$name" "$folder/"
  rm -rf "$work"
done
