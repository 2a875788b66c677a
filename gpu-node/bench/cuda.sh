#!/usr/bin/env bash
# Proves and times the node on a CUDA device, in one go: `make cuda-check`.
#
#   gpu-node/bench/cuda.sh DEPS RELEASE_DIR [TEST_BINARY…]
#
# RELEASE_DIR holds a bildkante-gpu-node that was built with CUDA=1, here or elsewhere (BILDKANTE_PYTHON names a Python with
# the same torch and with diffusers, LD_LIBRARY_PATH its libraries, where this machine has neither cargo nor a network).
# TEST_BINARY: the compiled tests `batching`, `images`, `soak` and `determinism`; without any, cargo runs them.
#
#   1. check: every dtype loads and draws the same bits twice
#   2. parity: the same recipe on the CPU and on the device, in float32 and half precision; one of a network that was trained as EDM
#      has it; a batch
#   3. exactness: no picture depends on its companions, its place or the order of arrival, on the device; images and candidates;
#      a soak of adapters, ControlNets, reference images, words, refiner, drafts and details
#   4. times beside diffusers, also with torch.compile: steps, throughput at 1024² and at 512² with four steps, mixed traffic of
#      both sizes of networks, first image, memory
#   5. what exactness costs: padded passes beside plain ones; what channels last bring
#
# Every step runs, also after one that failed; logs and figures lie in OUT (default .bench/cuda).
set -uo pipefail
: "${2:?usage: cuda.sh DEPS RELEASE_DIR [TEST_BINARY…]}"
deps=$1
release=$2
shift 2
cd "$(dirname "$0")/../.." || exit
out=${OUT:-.bench/cuda}
mkdir -p "$out"
node=$release/bildkante-gpu-node
studio=gpu-node/models/studio-tiny
python=${BILDKANTE_PYTHON:-}
[ -n "$python" ] || python=$(gpu-node/setup/venv.sh "$deps/venv") || exit
failed=0

step() {
  local name=$1 started=$SECONDS
  shift
  if "$@" >"$out/$name.log" 2>&1 </dev/null; then
    echo "PASS $name ($((SECONDS - started)) s)"
  else
    failed=1
    echo "FAIL $name ($((SECONDS - started)) s): $(tail -1 "$out/$name.log")"
  fi
}

if ! "$python" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
  echo "cuda.sh: PyTorch sees no CUDA device here" >&2
  exit 1
fi
"$python" -c 'import torch; print(torch.cuda.get_device_name(0), torch.__version__, "CUDA", torch.version.cuda)' | tee "$out/device.log"

for dtype in f32 bf16 f16; do
  step "check-$dtype" "$node" check --checkpoint "$studio" --device cuda --dtype "$dtype"
done

# Latents and pictures of the same recipe, traced on both devices. The bounds: latents to 1e-4 of their range in float32; the picture
# within 8 of 255 there. Half precision goes another way, so pictures alone are compared, by their mean.
compare='
import sys
from safetensors.numpy import load_file
cpu, cuda = (load_file(path) for path in sys.argv[2:4])
mode, worst = sys.argv[1], 0.0
last = max(name for name in cpu if name.startswith("latents."))
for name in [name for name in cpu if name.startswith("latents.")]:
    scale = abs(cpu[name]).max()
    worst = max(worst, float(abs(cpu[name] - cuda[name]).max() / scale))
pixels = 255 * abs(cpu["image"] - cuda["image"])
print(f"{mode}: latents differ by {worst:.2e} of their range at most, up to {last}; pixels by {pixels.max():.1f} of 255, mean {pixels.mean():.4f}")
ok = (worst <= 1e-4 and pixels.max() <= 8) if mode == "f32" else pixels.mean() <= 4
sys.exit(int(not ok))
'
draw=("$node" generate --checkpoint "$studio" --prompt "a teal mug" --seed 7 --steps 20)
step draw-cpu "${draw[@]}" --device cpu --out "$out/cpu.png" --trace "$out/cpu.safetensors"
for dtype in f32 bf16 f16; do
  step "draw-cuda-$dtype" "${draw[@]}" --device cuda --dtype "$dtype" --out "$out/cuda-$dtype.png" --trace "$out/cuda-$dtype.safetensors"
  step "parity-$dtype" "$python" -c "$compare" "$dtype" "$out/cpu.safetensors" "$out/cuda-$dtype.safetensors"
  tail -1 "$out/parity-$dtype.log"
done

edm=("$node" generate --checkpoint gpu-node/fixtures/checkpoints/sdxl-edm-tiny --prompt "a teal mug" --seed 7 --steps 8 --size 64x64)
step edm-cpu "${edm[@]}" --device cpu --out "$out/edm-cpu.png" --trace "$out/edm-cpu.safetensors"
step edm-cuda "${edm[@]}" --device cuda --out "$out/edm-cuda.png" --trace "$out/edm-cuda.safetensors"
step edm-parity "$python" -c "$compare" f32 "$out/edm-cpu.safetensors" "$out/edm-cuda.safetensors"

printf 'models_dir = "gpu-node/models"\ndata_dir = "%s/data"\ndevice = "cuda"\n' "$out" >"$out/node.toml"
printf '[[recipes]]\nname = "mug"\ncheckpoint = "studio-tiny"\nprompt = "a teal mug"\nwidth_px = 192\nheight_px = 192\nsteps = 8\nguidance = 4.0\n' \
  >"$out/recipes.toml"
step batch "$node" batch --config "$out/node.toml" --recipes "$out/recipes.toml" --seeds 0-7 --out "$out/batch"

export BILDKANTE_TEST_DEVICE=cuda
if [ "$#" -gt 0 ]; then
  for binary in "$@"; do
    step "test-$(basename "${binary%-*}")" "$binary"
  done
else
  step tests cargo test --release -p bildkante-gpu-node --test batching --test images --test soak --test determinism
fi

step times python3 loadtest/bench/diffusion.py --binaries "$release" --python "$python" --full-size "$deps/full-size" \
  --device cuda --json "$out/times.json"
grep -E '^(PASS|FAIL|workload|studio|sd|mixed)' "$out/times.log" || true

bench=("$node" bench --device cuda --dtype bf16 --steps 10 --runs 3)
sdxl=$deps/full-size/sdxl-base
for checkpoint in "$studio" "$sdxl"; do
  [ -e "$checkpoint/model_index.json" ] || continue
  name=$(basename "$checkpoint")
  step "choices-$name-plain" "${bench[@]}" --checkpoint "$checkpoint"
  step "choices-$name-padded" "${bench[@]}" --checkpoint "$checkpoint" --padded-to 4
  step "choices-$name-channels-last" "${bench[@]}" --checkpoint "$checkpoint" --channels-last
done
tail -n 1 "$out"/choices-*.log
exit "$failed"
