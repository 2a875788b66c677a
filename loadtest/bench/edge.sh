#!/usr/bin/env bash
# Set-up of the bench in edge/: wrk and h2load as clients, nginx and Varnish as peers.
#
#   loadtest/bench/edge.sh DEPS [option of the bench]…
set -euo pipefail
deps=${1:?usage: edge.sh DEPS}
shift
cd "$(dirname "$0")/../.."
tests/setup/apt.sh wrk=wrk h2load=nghttp2-client openssl=openssl
nginx=$(tests/setup/nginx.sh "$deps")
varnishd=$(tests/setup/varnish.sh "$deps")
python3 loadtest/bench/edge --binaries "$(realpath -m "${CARGO_TARGET_DIR:-target}")/release" --nginx "$nginx" --varnishd "$varnishd" "$@"
