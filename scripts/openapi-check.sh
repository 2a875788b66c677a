#!/usr/bin/env bash
# Holds the admin API of a running edge against its own description: schemathesis asks every route with what it allows and with what it
# does not, and checks each answer.
#
#   openapi-check.sh DEPS EDGE [OPTION ...]    DEPS: where tools are put; EDGE: the program; options go to schemathesis
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
deps=$1 edge=$2
shift 2
venv=$deps/schemathesis
"$here/venv.sh" "$venv" schemathesis==4.4.4 hypothesis==6.148.7

work=$(mktemp -d)
trap 'kill "${pid:-}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT
cp -r "$here/../config/campaigns" "$here/../config/prompts" "$work/"
token=$("$edge" token 2> "$work/hint")
hash=$(grep -o 'blake3:[0-9a-f]*' "$work/hint")
cat > "$work/edge.toml" <<TOML
[listen]
http = "127.0.0.1:0"
admin = "127.0.0.1:0"
[campaigns]
campaigns_dir = "$work/campaigns"
prompts_dir = "$work/prompts"
[cache]
disk_dir = "$work/cache"
[origin]
nodes = ["http://127.0.0.1:9"]
[log]
format = "json"
# A token with every scope asks for routes between edges, too, which no key opens.
[[admin.tokens]]
name = "check"
hash = "$hash"
scopes = ["read", "purge", "warm", "import", "kill", "review", "audit", "state", "keys", "gate"]
TOML
: > "$work/log"
RUST_LOG=info "$edge" serve --config "$work/edge.toml" 2> "$work/log" &
pid=$!
for _ in $(seq 600); do
  grep -q 'edge serves' "$work/log" && break
  kill -0 "$pid" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
  sleep 0.1
done
admin=$(grep 'edge serves' "$work/log" | head -n 1 | sed 's/.*"admin":"\([^"]*\)".*/\1/')
curl -fsS -H "Authorization: Bearer $token" "http://$admin/admin/v1/openapi.json" > "$work/whole.json"
# Schemathesis takes two ways to prove oneself for two that are needed.
"$venv/bin/python" -c '
import json, sys
document = json.load(sys.stdin)
document["security"].remove({"session": []})
del document["components"]["securitySchemes"]["session"]
json.dump(document, sys.stdout)' < "$work/whole.json" > "$work/openapi.json"
SCHEMATHESIS_HOOKS=openapi_hooks PYTHONPATH=$here PYTHONDONTWRITEBYTECODE=1 \
  "$venv/bin/schemathesis" --config-file "$here/openapi-check.toml" run "$work/openapi.json" --url "http://$admin" --header "Authorization: Bearer $token" \
  --generation-deterministic --max-examples "${EXAMPLES:-30}" --no-color "$@"
