#!/usr/bin/env bash
# Finds nginx, the peer of `make bench-edge`, or unpacks Debian's into DIR/nginx: installing the package would start a
# web server on port 80, and would need root. Prints the path of the binary.
#
#   tests/setup/nginx.sh DIR
set -euo pipefail
dir=${1:?usage: nginx.sh DIR}
PATH="$PATH:/usr/sbin:/usr/local/sbin"

binary=$(command -v nginx || echo "$dir/nginx/usr/sbin/nginx")
if [ ! -x "$binary" ]; then
  command -v apt-get >/dev/null || { echo "nginx.sh: nginx is missing, and there is no apt-get to fetch it with" >&2; exit 1; }
  echo "nginx.sh: fetching Debian's nginx into $dir/nginx" >&2
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  [ "$(id -u)" -ne 0 ] || timeout 300 apt-get -qq -o Acquire::Retries=3 update </dev/null >&2
  (cd "$work" && timeout 300 apt-get -qq -o Acquire::Retries=3 -o APT::Sandbox::User=root download nginx </dev/null >&2)
  rm -rf "$dir/nginx"
  mkdir -p "$dir/nginx"
  dpkg-deb -x "$work"/nginx_*.deb "$dir/nginx"
fi
"$binary" -v 2>/dev/null || { echo "nginx.sh: $binary does not run (ldd $binary tells what it lacks)" >&2; exit 1; }
echo "$binary"
