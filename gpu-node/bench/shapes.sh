#!/usr/bin/env bash
# Whether any number of requests in a pass gives a request the bits that it gets alone, in a network of a real one's size with
# random weights, made once; and what computing the layers of the time row by row costs.
#
#   gpu-node/bench/shapes.sh DEPS MODEL     SIDE, REQUESTS and DTYPE in the environment
set -euo pipefail
deps=${1:?usage: shapes.sh DEPS MODEL}
model=${2:?usage: shapes.sh DEPS MODEL}
cd "$(dirname "$0")/../.."
folder=$deps/full-size/$model
if [ ! -e "$folder/.complete" ]; then
  python=$(gpu-node/setup/venv.sh "$deps/venv")
  rm -rf "$folder"
  mkdir -p "$(dirname "$folder")"
  "$python" gpu-node/fixtures/make_full_size.py "$model" "$folder"
  touch "$folder/.complete"
fi
# Without --release: what is timed are libtorch's products.
export BILDKANTE_CHECKPOINT=$folder BILDKANTE_SIDE_PX=${SIDE:-256} BILDKANTE_REQUESTS=${REQUESTS:-4} BILDKANTE_DTYPE=${DTYPE:-f32}
cargo test -p bildkante-gpu-node --lib -- --ignored --nocapture what_row_by_row_costs
exec cargo test -p bildkante-gpu-node --test shapes -- --ignored --nocapture
