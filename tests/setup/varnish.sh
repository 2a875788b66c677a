#!/usr/bin/env bash
# Finds Varnish, a peer of `make bench-edge` and a judge of the VCL we ship, or unpacks Debian's into DIR/varnish with the
# modules that VCL imports: installing the package would start a server and would need root. Prints the path of a command
# that runs varnishd.
#
#   tests/setup/varnish.sh DIR
set -euo pipefail
dir=${1:?usage: varnish.sh DIR}
PATH="$PATH:/usr/sbin:/usr/local/sbin"

command=$(command -v varnishd || echo "$dir/varnish/varnishd")
# What an earlier version of this script unpacked lacks the modules.
[ "$command" != "$dir/varnish/varnishd" ] || grep -q vmod_path "$command" 2>/dev/null || rm -f "$command"
if [ ! -x "$command" ]; then
  command -v apt-get >/dev/null || { echo "varnish.sh: varnishd is missing, and there is no apt-get to fetch it with" >&2; exit 1; }
  echo "varnish.sh: fetching Debian's Varnish into $dir/varnish" >&2
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  [ "$(id -u)" -ne 0 ] || timeout 300 apt-get -qq -o Acquire::Retries=3 update </dev/null >&2
  (cd "$work" && timeout 300 apt-get -qq -o Acquire::Retries=3 -o APT::Sandbox::User=root download varnish varnish-modules libvarnishapi3 libjemalloc2 </dev/null >&2)
  rm -rf "$dir/varnish"
  mkdir -p "$dir/varnish"
  for package in "$work"/*.deb; do dpkg-deb -x "$package" "$dir/varnish"; done
  # Its allocator lies beside it, where the loader does not look by itself.
  cat >"$command" <<EOF
#!/bin/sh
here=\$(dirname "\$(realpath "\$0")")
export LD_LIBRARY_PATH="\$(echo "\$here"/usr/lib/*-linux-gnu):\$LD_LIBRARY_PATH"
[ "\$1" != -V ] || exec "\$here/usr/sbin/varnishd" -V
exec "\$here/usr/sbin/varnishd" -p vmod_path="\$(echo "\$here"/usr/lib/*-linux-gnu/varnish/vmods)" "\$@"
EOF
  chmod +x "$command"
fi
"$command" -V >/dev/null 2>&1 || { echo "varnish.sh: $command does not run (ldd tells what it lacks)" >&2; exit 1; }
echo "$command"
