#!/usr/bin/env bash
# Fuzzes every target of tests/fuzz for a bounded time each, with libFuzzer and coverage, on the stable toolchain.
# No sanitizer: there is next to no unsafe code, and one needs a nightly compiler. A crash's input stays in the folder that is
# named, and ends the run.
#
#   scripts/fuzz.sh SECONDS [TARGET…]
set -euo pipefail

seconds=${1:?scripts/fuzz.sh SECONDS [TARGET…]}
shift
scripts=$(cd "$(dirname "$0")" && pwd)
fuzz=$scripts/../tests/fuzz
target_dir=${CARGO_TARGET_DIR:-$scripts/../target}
mapfile -t all < <(cd "$fuzz/fuzz_targets" && printf '%s\n' *.rs | sed 's/\.rs$//')
targets=("$@")
[ "${#targets[@]}" -gt 0 ] || targets=("${all[@]}")

FUZZ_TARGETS="${all[*]}" RUSTC_WRAPPER="$scripts/fuzz-rustc.sh" CARGO_TARGET_DIR="$target_dir" CARGO_INCREMENTAL=0 \
  cargo build --manifest-path "$fuzz/Cargo.toml" --bins

# The node's targets link libtorch, whose folder only the workspace's own programs know.
export LD_LIBRARY_PATH="${LIBTORCH:+$LIBTORCH/lib}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"

for target in "${targets[@]}"; do
  found=$target_dir/fuzz/$target
  mkdir -p "$found"
  echo "fuzzing $target for $seconds s"
  log=$found.log
  # New inputs go into the first folder; the seeds in the repository stay as they are.
  if ! "$target_dir/debug/$target" "$found" "$fuzz/corpus/$target" -max_total_time="$seconds" -timeout=10 \
    -rss_limit_mb=2048 -max_len=8192 -artifact_prefix="$found-" -print_final_stats=1 >"$log" 2>&1; then
    tail -40 "$log" >&2
    echo "fuzz.sh: $target failed; its input is $found-…" >&2
    exit 1
  fi
  sed -n 's/^stat::number_of_executed_units: */  executions: /p; s/^stat::average_exec_per_sec: */  a second: /p' "$log"
done
