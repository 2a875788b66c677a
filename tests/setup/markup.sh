#!/usr/bin/env bash
# Installs the judges of our markup (edge/src/seo/judged.rs): the W3C's validator, React, TypeScript with schema.org's vocabulary,
# and the schema of sitemaps (the package `sitemap` has that of sitemaps.org). Pinned by package-lock.json, digests included; the validator runs in Java, which judges.sh installs.
#
#   tests/setup/markup.sh DEPS
set -euo pipefail
here=$(dirname "$0")
deps=${1:?tests/setup/markup.sh DEPS}

if ! "$here/../../scripts/npm.sh" "$here/markup" "$deps/markup" vnu-jar/build/dist/vnu.jar; then
  echo "missing: markup (npm packages vnu-jar, react, typescript, schema-dts, sitemap)"
  exit 1
fi
