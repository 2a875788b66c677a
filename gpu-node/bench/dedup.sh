#!/usr/bin/env bash
# Look-ups of near-duplicates beside faiss, then what comparing two masters takes.
#
#   dedup.sh DEPS EXAMPLES [COUNT ...]    EXAMPLES: the folder of the built examples
set -euo pipefail

deps=$1 examples=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)

venv=$deps/dedup-venv
"$here/../../scripts/venv.sh" "$venv" faiss-cpu==1.15.1 numpy==2.4.6

"$examples/dedup_bench"
"$venv/bin/python" "$here/dedup.py" "$examples/dedup_index_bench" "$@"
