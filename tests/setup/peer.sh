#!/usr/bin/env bash
# Finds nginx or Varnish, the peers of `make bench-edge` and the judges of the configurations we ship, or unpacks Debian's
# package into DIR/nginx or DIR/varnish: installing the package would start a server on a port of its own, and would need
# root. Prints the path of the command that runs the server.
#
#   tests/setup/peer.sh nginx|varnish DIR
set -euo pipefail
usage="usage: peer.sh nginx|varnish DIR"
peer=${1:?$usage}
folder=${2:?$usage}/$peer
PATH="$PATH:/usr/sbin:/usr/local/sbin"

complain() { echo "peer.sh: $*" >&2; exit 1; }

# Debian's names of the packages, and what prints the server's version.
case "$peer" in
  nginx) name=nginx own=$folder/usr/sbin/nginx version=-v packages=(nginx) ;;
  # varnish-modules holds what our VCL imports.
  varnish) name=varnishd own=$folder/varnishd version=-V packages=(varnish varnish-modules libvarnishapi3 libjemalloc2) ;;
  *) complain "there is no peer '$peer'; $usage" ;;
esac

unpack() {
  command -v apt-get >/dev/null || complain "$name is missing, and there is no apt-get to fetch it with"
  echo "peer.sh: fetching Debian's $peer into $folder" >&2
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  [ "$(id -u)" -ne 0 ] || timeout 300 apt-get -qq -o Acquire::Retries=3 update </dev/null >&2
  (cd "$work" &&
    timeout 300 apt-get -qq -o Acquire::Retries=3 -o APT::Sandbox::User=root download "${packages[@]}" </dev/null >&2)
  rm -rf "$folder"
  mkdir -p "$folder"
  for package in "$work"/*.deb; do dpkg-deb -x "$package" "$folder"; done
}

# Varnish's libraries and modules lie beside it, where neither the loader nor Varnish looks by itself.
wrap_varnish() {
  cat >"$own" <<'SH'
#!/bin/sh
here=$(dirname "$(realpath "$0")")
export LD_LIBRARY_PATH="$(echo "$here"/usr/lib/*-linux-gnu):$LD_LIBRARY_PATH"
[ "$1" != -V ] || exec "$here/usr/sbin/varnishd" -V
exec "$here/usr/sbin/varnishd" -p vmod_path="$(echo "$here"/usr/lib/*-linux-gnu/varnish/vmods)" "$@"
SH
  chmod +x "$own"
}

command=$(command -v "$name" || echo "$own")
# What an earlier version of this script unpacked lacks the modules.
[ "$command" != "$folder/varnishd" ] || grep -q vmod_path "$command" 2>/dev/null || rm -f "$command"
if [ ! -x "$command" ]; then
  unpack
  [ "$peer" != varnish ] || wrap_varnish
fi
"$command" "$version" >/dev/null 2>&1 || complain "$command does not run (ldd tells what it lacks)"
echo "$command"
