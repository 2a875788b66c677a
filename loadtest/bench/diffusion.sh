#!/usr/bin/env bash
# Set-up of diffusion.py: a Python environment with torch and diffusers (several GB, once), and checkpoints of real ones' size.
#
#   loadtest/bench/diffusion.sh DEPS [option of diffusion.py]…
set -euo pipefail
deps=${1:?usage: diffusion.sh DEPS}
shift
cd "$(dirname "$0")/../.."
python=$(gpu-node/setup/venv.sh "$deps/venv")
python3 loadtest/bench/diffusion.py --binaries "$(realpath -m "${CARGO_TARGET_DIR:-target}")/release" \
  --python "$python" --full-size "$deps/full-size" "$@"
