#!/usr/bin/env bash
# A Python environment with the packages that a bench names, made once, and again where the list changes.
#
#   venv.sh FOLDER PACKAGE ... [-- PACKAGE ...]    those behind `--` come without their dependencies
set -euo pipefail

venv=$1
shift
wanted="$*"
[ "$(cat "$venv/ready" 2>/dev/null)" = "$wanted" ] && exit 0

packages=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  packages+=("$1")
  shift
done
rm -rf "$venv"
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet "${packages[@]}"
if [ $# -gt 1 ]; then
  shift
  "$venv/bin/pip" install --quiet --no-deps "$@"
fi
printf '%s' "$wanted" > "$venv/ready"
