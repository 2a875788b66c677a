#!/usr/bin/env bash
# Set-up of the bench in peers/: ipx, thumbor and oximg as peers, photographs of the judging half as their originals.
#
#   peers.sh DEPS BINARIES [option of the bench]…    BINARIES: folder of bildkante-edge and examples/encoder_curves
set -euo pipefail
usage="usage: peers.sh DEPS BINARIES [option of the bench]…"
deps=${1:?$usage} binaries=${2:?$usage}
shift 2
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
"$root/scripts/apt.sh" node=nodejs npm=npm nasm=nasm cmake=cmake dpkg-deb=dpkg

venv=$deps/encoders-venv
"$root/scripts/venv.sh" "$venv" numpy==2.4.6 pillow==13.0.0
"$venv/bin/python" "$here/render/corpus.py" "$deps/encoders-corpus" "$root/gpu-node/models/studio-tiny/samples.png"

"$root/scripts/npm.sh" "$here/peers/ipx" "$deps/ipx" ipx/package.json
# Pillow 12.3 is the last one below 13, which thumbor excludes; its wheel has libaom in it.
"$root/scripts/venv.sh" "$deps/thumbor" thumbor==7.8.0 pillow==12.3.0
"$here/peers/oximg.sh" "$deps/oximg" "$venv/bin/python"

PYTHONPATH=$here "$venv/bin/python" -m peers --binaries "$binaries" --corpus "$deps/encoders-corpus/judging" \
  --ipx "$deps/ipx" --thumbor "$deps/thumbor" --oximg "$deps/oximg" "$@"
