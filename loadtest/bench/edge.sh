#!/usr/bin/env bash
# Set-up of the bench in edge/: wrk and h2load as clients, nginx and Varnish as peers.
#
#   loadtest/bench/edge.sh DEPS [option of the bench]…
set -euo pipefail
deps=${1:?usage: edge.sh DEPS}
shift
cd "$(dirname "$0")/../.."
scripts/apt.sh wrk=wrk h2load=nghttp2-client openssl=openssl
nginx=$(tests/setup/peer.sh nginx "$deps")
varnishd=$(tests/setup/peer.sh varnish "$deps")
python3 loadtest/bench/edge --binaries "$(realpath -m "${CARGO_TARGET_DIR:-target}")/release" --nginx "$nginx" --varnishd "$varnishd" "$@"
