#!/usr/bin/env bash
# Installs the outside judges that tests ask for an opinion: a real browser, metadata and image readers that share no
# code with ours. A judge that cannot be had is named; its tests then say `skipped: NAME`, and with CI=true this fails.
#
#   tests/setup/judges.sh [DEPS]
set -euo pipefail
here=$(dirname "$0")
deps=${1:-${BILDKANTE_DEPS:-$here/../../.deps}}

# command=Debian package, and what it judges:
judges=(
  chromium=chromium                 # shows the demo page: negotiated format, naturalWidth, LCP
  chromedriver=chromium-driver      # drives it
  exiftool=libimage-exiftool-perl   # reads the XMP/IPTC marking from every format
  avifdec=libavif-bin               # decodes AVIF with libavif
  faketime=faketime                 # moves an edge's wall clock by a year and back
  systemd-analyze=systemd           # reads the units we ship
  h2load=nghttp2-client             # asks for more streams at once than an edge allows
  strace=strace                     # makes system calls of the caches fail, and ends processes within them
  webpinfo=webp                     # reads WebP chunk by chunk
  dwebp=webp                        # decodes WebP with libwebp
  djpeg=libjpeg-turbo-progs         # decodes JPEG with libjpeg-turbo
  node=nodejs                       # runs unpic, whose URLs must mean here what they mean elsewhere
  npm=npm                           # fetches it
  java=default-jre-headless         # runs the W3C's validator of HTML
  xmllint=libxml2-utils             # holds sitemaps against their schema
  curl=curl                         # runs the commands of README.md
  openssl=openssl                   # signs and timestamps as foreign programs and authorities do
)

status=0
missing=$("$here/../../scripts/apt.sh" "${judges[@]}") || status=$?
unpic=$("$here/unpic.sh" "$deps") || { status=$?; missing+=$'\n'$unpic; }
markup=$("$here/markup.sh" "$deps") || { status=$?; missing+=$'\n'$markup; }
axe=$("$here/axe.sh" "$deps") || { status=$?; missing+=$'\n'$axe; }
nginx=$("$here/peer.sh" nginx "$deps" 2>&1 >/dev/null) || { status=$?; missing+=$'\n'"missing: nginx ($nginx)"; }
varnish=$("$here/peer.sh" varnish "$deps" 2>&1 >/dev/null) || { status=$?; missing+=$'\n'"missing: varnish ($varnish)"; }
httplint=$("$here/httplint.sh" "$deps") || { status=$?; missing+=$'\n'$httplint; }
pillow=$("$here/pillow.sh" "$deps") || { status=$?; missing+=$'\n'$pillow; }
c2pa=$("$here/c2pa.sh" "$deps") || { status=$?; missing+=$'\n'$c2pa; }
[ "$status" -ne 0 ] || exit 0

echo "judges that are not here (their tests will be reported as skipped):"
echo "$missing"
if [ "${CI:-}" = true ]; then
  echo "judges.sh: CI needs every judge" >&2
  exit 1
fi
