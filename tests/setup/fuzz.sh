#!/usr/bin/env bash
# Fuzzes every target of tests/fuzz for a bounded time each, with libFuzzer and coverage, on the stable toolchain.
# No sanitizer: the edge has no unsafe code, and one needs a nightly compiler. A crash's input stays in the folder that is
# named, and ends the run.
#
#   tests/setup/fuzz.sh SECONDS [TARGET…]
set -euo pipefail

seconds=${1:?tests/setup/fuzz.sh SECONDS [TARGET…]}
shift
fuzz=$(cd "$(dirname "$0")/../fuzz" && pwd)
target_dir=${CARGO_TARGET_DIR:-$fuzz/../../target}/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')

coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
coverage+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
coverage+=" -Cllvm-args=-sanitizer-coverage-trace-compares"
# With a target named, build scripts and procedural macros stay without coverage.
RUSTFLAGS="$coverage" CARGO_TARGET_DIR="$target_dir" \
  cargo build --manifest-path "$fuzz/Cargo.toml" --release --locked --target "$host"

targets=("$@")
[ "${#targets[@]}" -gt 0 ] || mapfile -t targets < <(cd "$fuzz/fuzz_targets" && printf '%s\n' *.rs | sed 's/\.rs$//')

for target in "${targets[@]}"; do
  found=$target_dir/found/$target
  mkdir -p "$found"
  echo "fuzzing $target for $seconds s"
  log=$(mktemp)
  # New inputs go into the first folder; the seeds in the repository stay as they are.
  if ! "$target_dir/$host/release/$target" "$found" "$fuzz/corpus/$target" -max_total_time="$seconds" -timeout=10 \
    -rss_limit_mb=2048 -max_len=8192 -artifact_prefix="$found/" -print_final_stats=1 >"$log" 2>&1; then
    tail -40 "$log" >&2
    echo "fuzz.sh: $target failed; its input is in $found" >&2
    exit 1
  fi
  sed -n 's/^stat::number_of_executed_units: */  executions: /p; s/^stat::average_exec_per_sec: */  a second: /p' "$log"
  rm -f "$log"
done
