#!/usr/bin/env bash
# Lays out libtorch 2.11.0 for tch 0.24.0 in DIR from pinned wheels; does nothing when it is there already.
#
#   gpu-node/setup/libtorch.sh DIR          the files a CPU build needs (0.5 GB)
#   gpu-node/setup/libtorch.sh --cuda DIR   the same with its CUDA 13.0 libraries (several GB)
#
# pip fetches the wheels, so a mirror or a proxy configured for pip is honoured, and every wheel is checked against
# the hashes in libtorch*.txt before it is unpacked. Prints the folder to use as LIBTORCH.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
complain() { echo "libtorch.sh: $*" >&2; exit 1; }

cuda=no
if [ "${1:-}" = --cuda ]; then cuda=yes; shift; fi
dir=${1:?usage: libtorch.sh [--cuda] DIR}
stamp="$dir/.complete-2.11.0-$cuda"
if [ -e "$stamp" ]; then echo "$dir"; exit 0; fi

[ "$(uname -sm)" = "Linux x86_64" ] ||
  complain "the pinned wheels are for Linux x86_64; set LIBTORCH to a libtorch 2.11.0 of your own"
command -v python3 >/dev/null || complain "python3 with pip is needed to fetch libtorch"
python3 -m pip --version >/dev/null 2>&1 || complain "python3 has no pip (Debian: apt-get install python3-pip)"

parent=$(dirname "$dir")
mkdir -p "$parent"
# Two runs at once (a demo beside the tests) must not unpack over each other: the second waits, then finds the stamp.
exec 9>"$parent/.libtorch.lock"
flock 9
if [ -e "$stamp" ]; then echo "$dir"; exit 0; fi
if [ -e "$dir" ] && ! compgen -G "$dir/.complete-*" >/dev/null; then
  complain "$dir exists and was not made by this script; move it away or choose another folder"
fi

work=$(mktemp -d "$parent/.libtorch.XXXXXX")
trap 'rm -rf "$work"' EXIT

requirements=(-r "$here/libtorch.txt")
size="about 0.5 GB"
if [ "$cuda" = yes ]; then requirements+=(-r "$here/libtorch-cuda.txt"); size="several GB"; fi
# pip matches platform tags literally: every manylinux level that these wheels name.
platforms=()
for tag in 2_28 2_27 2_25 2_18 2_17 2_12 2_5 2014 2010 1; do
  case "$tag" in *_*) platforms+=(--platform "manylinux_${tag}_x86_64") ;; *) platforms+=(--platform "manylinux${tag}_x86_64") ;; esac
done

echo "libtorch.sh: fetching libtorch 2.11.0 ($size, once) into $dir" >&2
python3 -m pip download --progress-bar on --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
  --python-version 3.11 --implementation cp "${platforms[@]}" -d "$work/wheels" "${requirements[@]}" </dev/null >&2

echo "libtorch.sh: unpacking" >&2
python3 - "$work" "$cuda" <<'PY'
# Unpacks only what a C++ build and run need: headers and libraries of torch, and for CUDA the nvidia libraries where
# torch's own run paths ($ORIGIN/../../nvidia/…) look for them.
import pathlib, sys, zipfile

work, cuda = pathlib.Path(sys.argv[1]), sys.argv[2] == "yes"
out = work / "libtorch"
needed = {"libc10.so", "libtorch_cpu.so", "libgomp.so.1", "libcudart.so.13", "libcupti.so.13"}
skipped = {"libtorch_python.so", "libshm.so"}  # Python's own


def cpu_target(path):
    if path.parts[:2] == ("torch", "include"):
        return out / "include" / pathlib.PurePosixPath(*path.parts[2:])
    return out / "lib" / path.name if path.name in needed else None


def cuda_target(path):
    if path.parts[:2] == ("torch", "include") or path.parts[0] == "nvidia" and ".so" in path.name:
        return out / "site" / path
    if path.parts[:2] == ("torch", "lib") and len(path.parts) == 3 and path.name not in skipped:
        return out / "site" / path
    return None


for wheel in sorted((work / "wheels").glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            path = pathlib.PurePosixPath(info.filename)
            target = None if info.is_dir() else (cuda_target if cuda else cpu_target)(path)
            if target is None:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as source, open(target, "wb") as sink:
                while chunk := source.read(1 << 20):
                    sink.write(chunk)
    wheel.unlink()

if cuda:
    needed = {"libc10.so", "libtorch_cpu.so", "libgomp.so.1", "libtorch.so", "libtorch_cuda.so", "libc10_cuda.so"}
    (out / "lib").symlink_to("site/torch/lib")
    (out / "include").symlink_to("site/torch/include")
else:
    # torch-sys links -ltorch; on the CPU all of it lives in libtorch_cpu.
    (out / "lib" / "libtorch.so").write_text("INPUT(libtorch_cpu.so)\n")
missing = sorted(name for name in needed if not (out / "lib" / name).exists())
if missing:
    sys.exit(f"libtorch.sh: the wheels lack {', '.join(missing)}")
(out / "lib" / "libgomp.so").symlink_to("libgomp.so.1")
(out / "build-version").write_text("2.11.0\n")  # torch-sys compares it with the version it was written for
PY

touch "$work/libtorch/${stamp##*/}"
rm -rf "$dir"
mv "$work/libtorch" "$dir"
echo "$dir"
