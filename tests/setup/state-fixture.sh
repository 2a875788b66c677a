#!/usr/bin/env bash
# Makes the folder that an edge of an earlier version leaves behind, for the test that opens it with the present one
# (tests/tests/e2e/upgrade.rs): masters, renditions, an approval, a rejection, a kill, a lift, purges and keys.
#
#   tests/setup/state-fixture.sh BINARIES REPOSITORY OUT.tar.xz     both of the earlier version
set -eu
binaries=$1 repository=$2 out=$(realpath -m "$3")
work=$(mktemp -d)
token=bk_0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
# Of the token, as `bildkante-edge token` prints it for one of its own.
hash=blake3:$(printf %s "$token" | b3sum --no-names)
cp -r "$repository/config/campaigns" "$repository/config/prompts" "$work"
sed -i 's/review = "none"/review = "required"/' "$work/campaigns/studio.toml"
cat >"$work/node.toml" <<END
listen = "127.0.0.1:17979"
models_dir = "$repository/gpu-node/models"
data_dir = "$work/node"
threads = 1
END
cat >"$work/edge.toml" <<END
[listen]
http = "127.0.0.1:17980"
admin = "127.0.0.1:17981"
[cache]
disk_dir = "$work/edge"
[campaigns]
campaigns_dir = "$work/campaigns"
prompts_dir = "$work/prompts"
[origin]
nodes = ["http://127.0.0.1:17979"]
probe_interval_ms = 100
[admin]
tokens = [{ name = "tests", hash = "$hash", scopes = ["read", "kill", "purge", "warm", "review", "audit", "state", "keys"] }]
END
"$binaries/bildkante-gpu-node" serve --config "$work/node.toml" >"$work/node.log" 2>&1 &
node=$!
"$binaries/bildkante-edge" serve --config "$work/edge.toml" >"$work/edge.log" 2>&1 &
edge=$!
trap 'kill $node $edge 2>/dev/null || true; rm -rf "$work"' EXIT

ask() {
  local method=$1 path=$2 body=${3:-}
  shift $(($# > 3 ? 3 : $#))
  curl -sS -m 60 -X "$method" -H "Authorization: Bearer $token" -H 'Content-Type: application/json' \
    ${body:+-d "$body"} "$@" "http://127.0.0.1:17981/admin/v1/$path"
  echo
}
waiting() { ask GET 'decisions?state=needs_review' | grep -o '"id":[0-9]*' | cut -d: -f2; }

for _ in $(seq 60); do
  curl -s http://127.0.0.1:17981/readyz | grep -q '"healthy"' && break
  sleep 0.5
done
rest='"colour":["teal"],"material":["glossy"],"backdrop":["cream"],"setting":["studio"],"locale":["de-DE"]'
for product in vase ring; do
  ask POST warm '{"campaign":"studio","slot":"thumb","formats":["webp"],"why":"for review","axes":{"product":["'$product'"],'"$rest}}"
done
for _ in $(seq 60); do
  [ "$(waiting | wc -l)" -ge 2 ] && break
  sleep 0.5
done
read -r first second <<<"$(waiting | tr '\n' ' ')"
ask POST "decisions/$first" '{"decision":"approve","why":"good"}'
ask POST "decisions/$second" '{"decision":"reject","why":"the handle"}'
ask POST kills '{"value":"studio?product=cube","why":"legal"}' -H 'Idempotency-Key: one'
seq=$(ask POST kills '{"slot":"studio/hero","why":"legal"}' | grep -o '"seq":[0-9]*' | cut -d: -f2)
ask DELETE "kills/$seq" '{"why":"licence signed"}'
ask POST purges '{"tag":"slot:studio/teaser"}'
ask POST purges '{"campaign":"studio","kind":"soft"}'
ask POST keys '{"name":"anna","roles":{"studio":"approver"},"expires_unix_ms":2100000000000,"why":"brand"}'
ask POST keys '{"name":"ben","roles":{"*":"viewer"},"expires_unix_ms":2100000000000,"why":"brand"}'
ask GET state
kill -TERM "$edge"
wait "$edge" || true
tar -C "$work" --sort=name --owner=0 --group=0 --mtime=@0 -cJf "$out" edge
ls -l "$out"
