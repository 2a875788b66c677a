#!/usr/bin/env bash
# Installs Pillow, which reads our files as Python programs do, into a virtual environment: DEPS/pillow. Debian's is too old for AVIF.
#
#   tests/setup/pillow.sh DEPS
set -euo pipefail
into=${1:?tests/setup/pillow.sh DEPS}/pillow
package=pillow==13.0.0

if ! timeout 300 "$(dirname "$0")/../../scripts/venv.sh" "$into" "$package" >&2 </dev/null; then
  rm -rf "$into" # tried again next time
  echo "missing: Pillow (Python package $package; needs python3 with venv and pip)"
  exit 1
fi
