#!/usr/bin/env bash
# Builds oximg, an image server in Rust, once; with AVIF where that can be.
#
#   oximg.sh FOLDER PYTHON
#
# Its AVIF wants SVT-AV1 4.1 and dav1d 1.3, which Debian 12 lacks; PyAV's wheel carries both as shared libraries.
set -euo pipefail
folder=${1:?oximg.sh FOLDER PYTHON} python=${2:?oximg.sh FOLDER PYTHON}
wanted="oximg 0.18.1, av 18.1.0"
[ "$(cat "$folder/ready" 2>/dev/null)" = "$wanted" ] && exit 0

rm -rf "$folder"
mkdir -p "$folder/lib"
folder=$(realpath "$folder")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

libraries() {
  "$python" -m pip download --quiet --no-deps --only-binary :all: -d "$work" av==18.1.0 >&2 || return
  "$python" -m zipfile -e "$work"/av-*.whl "$work/av" || return
  cp "$work"/av/av.libs/libSvtAv1Enc-* "$work"/av/av.libs/libdav1d-* "$folder/lib/" || return
  ln -s "$(basename "$folder"/lib/libSvtAv1Enc-*)" "$folder/lib/libSvtAv1Enc.so"
  ln -s "$(basename "$folder"/lib/libdav1d-*)" "$folder/lib/libdav1d.so"
}

# Not in the target folder of the workspace, whose build it would disturb.
build() {
  SVT_AV1_LIB_DIR=$folder/lib SYSTEM_DEPS_DAV1D_NO_PKG_CONFIG=1 SYSTEM_DEPS_DAV1D_LIB=dav1d \
    SYSTEM_DEPS_DAV1D_SEARCH_NATIVE=$folder/lib RUSTFLAGS="-C link-arg=-Wl,-rpath,$folder/lib" CARGO_TARGET_DIR=$work/target \
    cargo install --quiet --locked --root "$folder" "$@" oximg@0.18.1 --bin oximg
}

echo "oximg: building it, once (some minutes)" >&2
if ! { libraries && build --features avif; }; then
  echo "oximg: not with AVIF; building it without" >&2
  build
fi
echo "$wanted" > "$folder/ready"
