#!/usr/bin/env bash
# The long forms of everything, outside CI: `make soak`. Each step has a name, a bound in seconds and a command of its
# own. All are run, also when one fails, and a summary closes the output. A new long form is a new `step` line.
#
#   loadtest/soak.sh DEPS [NAME…]     only the steps whose names are given
#
# Tests that have a long form take it where BILDKANTE_SOAK is set.
set -uo pipefail
: "${1:?usage: soak.sh DEPS [NAME…]}"
shift
only=("$@")
cd "$(dirname "$0")/.." || exit
export BILDKANTE_SOAK=1
logs=${SOAK_LOGS:-.bench/soak}
mkdir -p "$logs"
binaries=$(realpath -m "${CARGO_TARGET_DIR:-target}")/release
load=$binaries/bildkante-loadtest
summary=()
failed=0

step() {
  local name=$1 bound_s=$2 status=0 started=$SECONDS verdict=PASS
  shift 2
  if [ "${#only[@]}" -gt 0 ] && ! printf '%s\n' "${only[@]}" | grep -qx -- "$name"; then
    return 0
  fi
  echo "soak: $name (at most $bound_s s): $*" >&2
  timeout --kill-after=20 "$bound_s" "$@" >"$logs/$name.log" 2>&1 </dev/null || status=$?
  case $status in
    0) ;;
    2) verdict="FAIL (a budget was missed)" ;;
    124 | 137) verdict="FAIL (ran out of time)" ;;
    *) verdict="FAIL (status $status)" ;;
  esac
  [ "$status" -eq 0 ] || failed=1
  summary+=("$(printf '%-18s %5d s  %s' "$name" $((SECONDS - started)) "$verdict")")
  grep -hE '^(PASS|FAIL) ' "$logs/$name.log" | sed "s/^/  $name: /" || true
}

# Twenty thousand connections need as many files, here and in the edge.
ulimit -n "$(ulimit -Hn)" 2>/dev/null || true

# With autogroups the kernel schedules each session's threads as a group, and priorities count within a group only: hits and the
# generator's own requests then wait for render threads, which should yield to them. systemd's units are groups of their own.
if [ "$(cat /proc/sys/kernel/sched_autogroup_enabled 2>/dev/null)" = 1 ]; then
  echo "soak: note: kernel.sched_autogroup_enabled is 1 here; the waits in mixed, stampede and idle are the scheduler's" >&2
fi

# Load, with servers of its own. 1,000 clients × two edges × one cold variant; 100,000 requests over reloads; 20,000 idle.
step stampede 300 "$load" stampede --json "$logs/stampede.json"
step mixed 300 "$load" mixed --json "$logs/mixed.json"
step slow-node 600 "$load" slow-node --json "$logs/slow-node.json"
step failover 600 "$load" failover --json "$logs/failover.json"
step rolling-restart 300 "$load" rolling-restart --json "$logs/rolling-restart.json"
step reload 300 "$load" reload --rate 2000 --duration-s 50 --json "$logs/reload.json"
step overload 600 "$load" overload --json "$logs/overload.json"
# An hour of clicking through the preview: pages in a second, memory flat.
step browse 4000 "$load" browse --duration-s "${SOAK_SECONDS:-3600}" --json "$logs/browse.json"
step idle 900 "$load" idle --json "$logs/idle.json"
# Idle memory, memory after churn, a million distinct URLs.
step memory 900 python3 loadtest/bench/edge/memory.py --binaries "$binaries" --urls 1000000 --json "$logs/memory.json"

# A million cached files and kill -9 before every start.
step start 900 python3 loadtest/bench/edge/start.py --binaries "$binaries" --json "$logs/start.json"

# Tests in their long form: crashes, bit flips, full disks, faults with real processes.
step edge-tests 3600 cargo test --release -p bildkante-edge
# The node's: thousands of mixed requests with cancellations and failures, every picture right, memory flat.
step node-tests 3600 cargo test --release -p bildkante-gpu-node
# An hour of mixed adapters, sizes and stages to one node.
soak_seconds=${SOAK_SECONDS:-3600}
step node-soak $((soak_seconds + 1200)) env BILDKANTE_SOAK_SECONDS="$soak_seconds" \
  cargo test --release -p bildkante-gpu-node --test soak -- --nocapture
step e2e-tests 3600 cargo test --release -p bildkante-tests --test e2e

printf '\nsoak, logs in %s\n' "$logs"
printf '  %s\n' "${summary[@]}"
exit "$failed"
