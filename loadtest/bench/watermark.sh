#!/usr/bin/env bash
# The watermark's table: what is found after each attack, beside invisible-watermark; scores, speed, false detections.
#
#   watermark.sh DEPS BENCH [TRIALS]    BENCH: the built example `watermark_bench`; TRIALS: false-detection trials (3000000)
set -euo pipefail

deps=$1 bench=$2 trials=${3:-3000000}
here=$(cd "$(dirname "$0")" && pwd)
command -v avifdec >/dev/null || "$here/../../scripts/apt.sh" avifdec=libavif-bin

venv=$deps/watermark-venv
# invisible-watermark comes without its dependencies: they are PyTorch and onnxruntime, for a method that is not measured.
"$here/../../scripts/venv.sh" "$venv" numpy==2.4.6 pillow==13.0.0 scikit-image==0.26.0 opencv-python-headless==5.0.0.93 \
  PyWavelets==1.9.0 -- invisible-watermark==0.2.0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$venv/bin/python" "$here/watermark/pictures.py" "$work/pictures"
"$bench" speed
"$bench" sizes "$work/pictures"
"$bench" table "$work/pictures"
# Pictures of others, which the encoders' bench fetches.
corpus=$deps/encoders-corpus
"$venv/bin/python" "$here/render/corpus.py" "$corpus" "$here/../../gpu-node/models/studio-tiny/samples.png"
"$bench" rungs "$corpus/judging"
"$venv/bin/python" "$here/watermark/peer.py" "$work/pictures" "$bench" "$work/peer"
"$bench" trials "$work/pictures" "$trials"
