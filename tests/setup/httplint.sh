#!/usr/bin/env bash
# Installs httplint, which judges whether HTTP messages keep to their specifications, into a virtual environment:
# DEPS/httplint, with Python packages pinned by httplint/requirements.txt.
#
#   tests/setup/httplint.sh DEPS
set -euo pipefail
source=$(cd "$(dirname "$0")/httplint" && pwd)
into=${1:?tests/setup/httplint.sh DEPS}/httplint

if cmp -s "$source/requirements.txt" "$into/requirements.txt" && "$into/bin/python" -c 'import httplint' 2>/dev/null; then
  exit 0
fi
rm -rf "$into"
if ! python3 -m venv "$into" >&2 ||
  ! timeout 300 "$into/bin/pip" install --quiet --disable-pip-version-check --no-deps \
    --requirement "$source/requirements.txt" >&2 </dev/null; then
  rm -rf "$into" # tried again next time
  echo "missing: httplint (Python package httplint; needs python3 with venv and pip)"
  exit 1
fi
cp "$source/requirements.txt" "$into/"
