#!/usr/bin/env bash
# Makes sure that outside commands are there: apt installs what is missing when this is root, otherwise it says
# what to install. Does nothing, and asks no network, when all are present.
#
#   scripts/apt.sh COMMAND=PACKAGE…
#
# Prints `missing: COMMAND (package PACKAGE)` for each that stays missing, and then exits 1.
set -euo pipefail

missing_packages() {
  local pair
  for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null || echo "${pair#*=}"
  done | sort -u
}

mapfile -t packages < <(missing_packages "$@")
[ "${#packages[@]}" -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
  echo "apt.sh: this system has no apt-get; install what these Debian packages hold by its own means: ${packages[*]}" >&2
elif [ "$(id -u)" -ne 0 ]; then
  echo "apt.sh: not root; run: sudo apt-get install --no-install-recommends ${packages[*]}" >&2
else
  echo "apt.sh: installing ${packages[*]}" >&2
  export DEBIAN_FRONTEND=noninteractive
  options=(-qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
  # One package that is missing fails the whole call: then each is installed by itself.
  if ! { timeout 300 apt-get "${options[@]}" update &&
         timeout 900 apt-get "${options[@]}" install -y --no-install-recommends "${packages[@]}"; } </dev/null >&2; then
    for package in "${packages[@]}"; do
      timeout 900 apt-get "${options[@]}" install -y --no-install-recommends "$package" </dev/null >&2 || true
    done
  fi
fi

status=0
for pair in "$@"; do
  if ! command -v "${pair%%=*}" >/dev/null; then
    echo "missing: ${pair%%=*} (package ${pair#*=})"
    status=1
  fi
done
exit "$status"
