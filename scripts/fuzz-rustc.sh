#!/usr/bin/env bash
# A compiler for cargo that compiles our own crates with libFuzzer's coverage and everything else as it is, so that
# dependencies are shared with the other builds. See fuzz.sh.
set -euo pipefail

name=
previous=
for argument in "$@"; do
  [ "$previous" != --crate-name ] || name=$argument
  previous=$argument
done

case " bildkante_edge bildkante_gpu_node bildkante_shared ${FUZZ_TARGETS:-} " in
  *" $name "*)
    exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
      -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
      -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
  *) exec "$@" ;;
esac
