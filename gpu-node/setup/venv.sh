#!/usr/bin/env bash
# Makes DIR a Python environment with the pinned diffusers stack: the peer that `make bench-diffusion` measures
# against, and what wrote the parity fixtures. Several GB, because PyPI's torch brings its CUDA libraries.
#
#   gpu-node/setup/venv.sh DIR      prints the path of its python
set -euo pipefail
dir=${1:?usage: venv.sh DIR}
requirements="$(dirname "$0")/requirements.txt"
stamp="$dir/.complete-$(sha256sum "$requirements" | cut -c1-16)"

if [ ! -e "$stamp" ]; then
  command -v python3 >/dev/null || { echo "venv.sh: python3 is missing" >&2; exit 1; }
  if [ ! -x "$dir/bin/python" ]; then
    python3 -m venv "$dir" >&2 || { echo "venv.sh: no virtual environment (Debian: apt-get install python3-venv)" >&2; exit 1; }
  fi
  echo "venv.sh: installing torch, diffusers and transformers into $dir (several GB, once)" >&2
  "$dir/bin/python" -m pip install -q --disable-pip-version-check --only-binary=:all: -r "$requirements" >&2 </dev/null
  touch "$stamp"
fi
echo "$dir/bin/python"
