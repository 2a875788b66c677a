#!/usr/bin/env bash
# Lays out libtorch 2.11.0 (CPU) for tch 0.24.0 in DIR from pinned wheels; does nothing when it is there already.
#
#   gpu-node/setup/libtorch.sh DIR          the files a CPU build needs (0.5 GB)
#   gpu-node/setup/libtorch.sh --cuda DIR   a full torch install with its CUDA 13.0 libraries (several GB)
#
# The wheels are fetched with pip, so a mirror or a proxy configured for pip is honoured, and every byte is
# checked against the hashes below before it is unpacked. Prints the folder to use as LIBTORCH.
set -euo pipefail

cuda=no
if [ "${1:-}" = --cuda ]; then cuda=yes; shift; fi
dir=${1:?usage: libtorch.sh [--cuda] DIR}

torch=torch==2.11.0
torch_hash=7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a
runtime=nvidia-cuda-runtime==13.0.96
runtime_hash=7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
cupti=nvidia-cuda-cupti==13.0.85
cupti_hash=4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8

stamp="$dir/.complete-2.11.0-$cuda"
if [ -e "$stamp" ]; then echo "$dir"; exit 0; fi
case "$(uname -sm)" in
  "Linux x86_64") ;;
  *) echo "libtorch.sh: the pinned wheels are for Linux x86_64; set LIBTORCH to a libtorch 2.11.0 of your own" >&2; exit 1 ;;
esac
command -v python3 >/dev/null || { echo "libtorch.sh: python3 with pip is needed to fetch libtorch" >&2; exit 1; }
python3 -m pip --version >/dev/null 2>&1 || { echo "libtorch.sh: python3 has no pip (Debian: apt-get install python3-pip)" >&2; exit 1; }

mkdir -p "$(dirname "$dir")"
work=$(mktemp -d "$(dirname "$dir")/.libtorch.XXXXXX")
trap 'rm -rf "$work"' EXIT

if [ "$cuda" = yes ]; then
  echo "libtorch.sh: installing the full torch 2.11.0 with CUDA 13.0 into $dir" >&2
  printf '%s --hash=sha256:%s\n' "$torch" "$torch_hash" > "$work/torch.txt"
  # pip resolves torch's own pins for the CUDA libraries; torch itself is hash-checked first.
  python3 -m pip download -q --no-deps --require-hashes -r "$work/torch.txt" -d "$work/wheels" \
    --only-binary=:all: --python-version 3.11 --implementation cp --platform manylinux_2_28_x86_64
  python3 -m pip install -q --no-compile --target "$work/site" --only-binary=:all: --python-version 3.11 \
    --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
    --platform manylinux_2_25_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    --platform any "$work"/wheels/torch-*.whl
  rm -rf "$dir"
  mv "$work/site" "$dir.site"
  mkdir -p "$dir"
  ln -s "$dir.site/torch/include" "$dir/include"
  ln -s "$dir.site/torch/lib" "$dir/lib"
else
  echo "libtorch.sh: fetching libtorch 2.11.0 (about 0.5 GB) into $dir" >&2
  {
    printf '%s --hash=sha256:%s\n' "$torch" "$torch_hash"
    printf '%s --hash=sha256:%s\n' "$runtime" "$runtime_hash"
    printf '%s --hash=sha256:%s\n' "$cupti" "$cupti_hash"
  } > "$work/requirements.txt"
  python3 -m pip download -q --no-deps --require-hashes -r "$work/requirements.txt" -d "$work/wheels" \
    --only-binary=:all: --python-version 3.11 --implementation cp --platform manylinux_2_28_x86_64 \
    --platform manylinux_2_25_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64
  python3 - "$work" <<'PY'
# Unpacks only what a CPU build and run needs.
import pathlib, sys, zipfile
work = pathlib.Path(sys.argv[1])
out = work / "libtorch"
libraries = {"libc10.so", "libtorch_cpu.so", "libgomp.so.1", "libcudart.so.13"}
for wheel in sorted((work / "wheels").glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            path = pathlib.PurePosixPath(info.filename)
            if path.parts[:2] == ("torch", "include") and not info.is_dir():
                target = out / "include" / pathlib.PurePosixPath(*path.parts[2:])
            elif path.name in libraries or path.name.startswith("libcupti.so"):
                target = out / "lib" / path.name
            else:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as source, open(target, "wb") as sink:
                while chunk := source.read(1 << 20):
                    sink.write(chunk)
lib = out / "lib"
(lib / "libgomp.so").symlink_to("libgomp.so.1")
# torch-sys links -ltorch; on the CPU all of it lives in libtorch_cpu.
(lib / "libtorch.so").write_text("INPUT(libtorch_cpu.so)\n")
missing = [name for name in libraries if not (lib / name).exists()]
if missing:
    sys.exit(f"libtorch.sh: the wheels lack {', '.join(missing)}")
PY
  rm -rf "$dir"
  mv "$work/libtorch" "$dir"
fi
touch "$stamp"
echo "$dir"
