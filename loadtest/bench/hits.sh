#!/usr/bin/env bash
# Set-up of hits.py: wrk as the client, nginx as the peer.
#
#   loadtest/bench/hits.sh DEPS [option of hits.py]…
set -euo pipefail
deps=${1:?usage: hits.sh DEPS}
shift
cd "$(dirname "$0")/../.."
tests/setup/apt.sh wrk=wrk
nginx=$(tests/setup/nginx.sh "$deps")
python3 loadtest/bench/hits.py --binaries "$(realpath -m "${CARGO_TARGET_DIR:-target}")/release" --nginx "$nginx" "$@"
