#!/usr/bin/env bash
# The encoders' frontier: bytes, SSIMULACRA2 and processor time of every encoder on the judging half of the corpus, beside sharp and
# avifenc; and how near to its target a final comes. Writes docs/encoders/*.csv and .svg. With --learn: the tables that predict quality.
#
#   encoders.sh [--learn] DEPS CURVES [EVERY [PLAIN]]    CURVES: the built example `encoder_curves`; of every EVERY pictures one is taken,
#                                                        of those with 1280 px of four times as many;
#                                                        PLAIN: the example built without default features, for --learn
set -euo pipefail

learn=
if [ "${1:-}" = --learn ]; then learn=1; shift; fi
deps=$1 curves=$2 every=${3:-1} plain=${4:-}
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
"$root/scripts/apt.sh" avifdec=libavif-bin avifenc=libavif-bin dpkg-deb=dpkg

venv=$deps/encoders-venv
"$root/scripts/venv.sh" "$venv" numpy==2.4.6 pillow==13.0.0
corpus=$deps/encoders-corpus
"$venv/bin/python" "$here/render/corpus.py" "$corpus" "$root/gpu-node/models/studio-tiny/samples.png"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
widths=(320 640 1280)
# Larger pictures take longer and say much the same: fewer of them.
if [ -n "$learn" ]; then thinner=(1 2 8); else thinner=(1 1 4); fi

if [ -n "$learn" ]; then
  for at in 0 1 2; do
    "$curves" curves "$corpus/training" "${widths[$at]}" $((every * thinner[at])) >"$work/${widths[$at]}.csv"
  done
  # What takes the place of encoders that are features.
  "$plain" curves "$corpus/training" 320,640 $((every * 2)) ravif-quick,ravif-final,jpeg-final >"$work/plain.csv"
  "$venv/bin/python" "$here/render/fit.py" "$work"/*.csv >"$work/tables.rs"
  cp "$work/tables.rs" "$root/edge/src/render/quality/tables.rs"
  echo "edge/src/render/quality/tables.rs is learned; raise ENCODER_EPOCH, and run make bench-encoders for the honest figures"
  exit
fi

"$root/scripts/npm.sh" "$here/render/sharp" "$deps/sharp" sharp/package.json
for at in 0 1 2; do
  width=${widths[$at]} of=$((every * thinner[at]))
  echo "encoders: $width px: our encoders" >&2
  "$curves" curves "$corpus/judging" "$width" "$of" >"$work/own-$width.csv"
  "$curves" judge "$corpus/judging" "$width" "$of" >"$work/judged-$width.csv"
  echo "encoders: $width px: sharp and avifenc" >&2
  "$curves" pictures "$corpus/judging" "$width" "$of" "$work/$width"
  SHARP_FOLDER=$deps/sharp node "$here/render/sharp/encode.mjs" "$work/$width" 16,25,35,45,55,65,75
  "$venv/bin/python" "$here/render/avifenc.py" "$work/$width" 16,25,35,45,55,65,75
  for file in "$work/$width"/*.avif; do
    avifdec --jobs 1 "$file" "${file%.avif}.decoded.png" >/dev/null
  done
  "$curves" score "$work/$width" >"$work/peers-$width.csv"
  rm -r "${work:?}/$width"
done
"$venv/bin/python" "$here/render/frontier.py" "$work" "$root/docs/encoders"
