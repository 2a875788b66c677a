#!/usr/bin/env bash
# Look-ups of near-duplicates beside faiss, then what comparing two masters takes.
#
#   dedup.sh DEPS EXAMPLES [COUNT ...]    EXAMPLES: the folder of the built examples
set -euo pipefail

deps=$1 examples=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)

venv=$deps/dedup-venv
if ! [ -e "$venv/ready" ]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet faiss-cpu==1.15.1 numpy
  touch "$venv/ready"
fi

"$examples/dedup_bench"
"$venv/bin/python" "$here/dedup.py" "$examples/dedup_index_bench" "$@"
