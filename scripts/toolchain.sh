#!/usr/bin/env bash
# Checks what nothing here can install: Rust with the components asked for, a C and C++ compiler.
#
#   scripts/toolchain.sh [rustfmt] [clippy]
set -euo pipefail

complain() { echo "toolchain.sh: $*" >&2; exit 1; }

command -v cargo >/dev/null || complain "cargo is missing: install stable Rust (rustup.rs), 1.90 or newer"
minor=$(rustc --version | sed -n 's/^rustc 1\.\([0-9]*\)\..*/\1/p')
[ -n "$minor" ] || complain "cannot read the version of '$(rustc --version)'"
[ "$minor" -ge 90 ] || complain "$(rustc --version) is too old: 1.90 or newer is needed (rustup update stable)"
command -v "${CC:-cc}" >/dev/null || complain "no C compiler: apt-get install build-essential"
command -v "${CXX:-c++}" >/dev/null || complain "no C++ compiler: apt-get install build-essential"
for component in "$@"; do
  case "$component" in
    rustfmt) cargo fmt --version >/dev/null 2>&1 || complain "cargo fmt is missing: rustup component add rustfmt" ;;
    clippy) cargo clippy --version >/dev/null 2>&1 || complain "cargo clippy is missing: rustup component add clippy" ;;
    *) complain "unknown component '$component'" ;;
  esac
done
