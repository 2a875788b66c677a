#!/usr/bin/env bash
# Installs c2pa-python, which judges our Content Credentials, into a virtual environment: DEPS/c2pa, with Python packages
# pinned by c2pa/requirements.txt.
#
#   tests/setup/c2pa.sh DEPS
set -euo pipefail
source=$(cd "$(dirname "$0")/c2pa" && pwd)
into=${1:?tests/setup/c2pa.sh DEPS}/c2pa

if cmp -s "$source/requirements.txt" "$into/requirements.txt" && "$into/bin/python" -c 'import c2pa' 2>/dev/null; then
  exit 0
fi
rm -rf "$into"
if ! python3 -m venv "$into" >&2 ||
  ! timeout 300 "$into/bin/pip" install --quiet --disable-pip-version-check --no-deps \
    --requirement "$source/requirements.txt" >&2 </dev/null; then
  rm -rf "$into" # tried again next time
  echo "missing: c2pa-python (Python package c2pa-python; needs Python 3.10 with venv and pip)"
  exit 1
fi
cp "$source/requirements.txt" "$into/"
