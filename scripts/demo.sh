#!/usr/bin/env bash
# What `make demo` runs after the build: starts the edge with its sidecar node, waits until both are ready, prints what
# to open, and on Ctrl-C, SIGTERM or the end of make stops everything and makes sure that no process is left.
#
#   PORT=8080         the edge; ADMIN_PORT and NODE_PORT follow (PORT+1, PORT+2) when PORT is given
#   DEMO_DIR=.demo    caches, masters and logs; delete it for a cold start
#   CUDA=1            the node draws on the first GPU, as `make demo CUDA=1` built it
# shellcheck disable=SC2317 # stop and left are called by a trap
set -euo pipefail

# A background job of a script starts with SIGINT ignored, which bash could not even trap: take the default back.
if [ -z "${BILDKANTE_DEMO_SIGNALS:-}" ]; then
  BILDKANTE_DEMO_SIGNALS=default exec env --default-signal=INT,TERM,HUP bash "$0" "$@"
fi
unset BILDKANTE_DEMO_SIGNALS

cd "$(dirname "$0")/.."
demo=$(realpath -m "${DEMO_DIR:-.demo}")
binaries=$(realpath -m "${CARGO_TARGET_DIR:-target}")/demo
edge_port=${PORT:-8080}
admin_port=${ADMIN_PORT:-$((edge_port + 1))}
if [ -n "${PORT:-}" ]; then node_port=${NODE_PORT:-$((edge_port + 2))}; else node_port=${NODE_PORT:-7070}; fi
ready_s_max=${READY_S_MAX:-180}
stop_s_max=30
log="$demo/demo.log"
session=
deciding=

say() { echo "demo: $*"; }
complain() { echo "demo: $*" >&2; exit 1; }

is_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

check_ports() {
  local name port taken=no
  for name in "edge $edge_port" "admin $admin_port" "node $node_port"; do
    port=${name#* }
    if is_taken "$port"; then
      echo "demo: port $port, wanted for the ${name% *}, is taken" >&2
      taken=yes
    fi
  done
  [ "$taken" = no ] || complain "stop what listens there, or choose others: make demo PORT=9000"
}

write_configuration() {
  mkdir -p "$demo"
  make_token
  make_signing_key
  local device=cpu
  case "${CUDA:-}" in 1 | yes | true) device=cuda ;; esac
  cat > "$demo/gpu-node.toml" <<TOML
# Written by scripts/demo.sh; config/gpu-node.toml explains every key.
listen = "127.0.0.1:$node_port"
data_dir = "$demo/node"
device = "$device"
TOML
  cat > "$demo/edge.toml" <<TOML
# Written by scripts/demo.sh; config/edge.toml explains every key.
[listen]
http = "127.0.0.1:$edge_port"
admin = "127.0.0.1:$admin_port"
[serve]
public_url = "http://127.0.0.1:$edge_port"
[cache]
disk_dir = "$demo/edge"
[origin]
nodes = ["http://127.0.0.1:$node_port"]
[origin.sidecar]
command = "$binaries/bildkante-gpu-node"
args = ["serve", "--exit-with-parent", "--config", "$demo/gpu-node.toml"]
[signing]
keys_file = "$demo/signing-keys.toml"
[provenance.signer]
certificate = "$demo/authority/signer.pem"
key = "$demo/authority/signer.key"
[verify]
enabled = true
trust = "$demo/authority/root.pem"
[[admin.tokens]]
name = "demo"
hash = "$(token_hash)"
scopes = ["read", "purge", "warm", "import", "kill", "review", "audit"]
TOML
  make_authority
}

# A token to decide with; its hash alone stands in the configuration. Pages stay open for reading on this machine.
make_token() {
  [ -s "$demo/token" ] && [ -s "$demo/token.hash" ] && return 0
  (umask 077 && "$binaries/bildkante-edge" token >"$demo/token" 2>"$demo/token.said")
  grep -o 'blake3:[0-9a-f]*' "$demo/token.said" >"$demo/token.hash" || complain "no token can be made in $demo"
}

# What signs links for guests.
make_signing_key() {
  [ -s "$demo/signing-keys.toml" ] && return 0
  (umask 077 && "$binaries/bildkante-edge" sign --new-key >"$demo/signing-keys.toml") || complain "no signing key can be made in $demo"
}

token_hash() { cat "$demo/token.hash"; }

# Puts pictures of the campaign `autumn` before reviewers and decides about some of them, so that the preview has something of every
# kind to show. Once for each demo folder; it goes on while the demo is looked at.
decide_about_some() {
  set +e # one that is refused holds up no other
  [ -e "$demo/decided" ] && return 0
  touch "$demo/decided"
  export BILDKANTE_ADMIN="http://127.0.0.1:$admin_port"
  local edge="$binaries/bildkante-edge" token=(--token-file "$demo/token") case variant
  "$edge" warm --campaign autumn --axis setting=sunset --formats avif "${token[@]}" --why "the demo" || return 0
  while read -r case _ variant _; do
    case "$variant" in
      *=orange*=mug* | *=copper*=mug* | *=green*=mug* | *=orange*=vase* | *=green*=vase*)
        "$edge" review approve "$case" "${token[@]}" --why "as briefed"
        ;;
      *=red*=mug*) "$edge" review reject "$case" "${token[@]}" --why "the colour is not ours" ;;
      *=red*=vase*) "$edge" review request-changes "$case" "${token[@]}" --why "warmer light, please" ;;
      *=copper*=vase*) "$edge" review approve "$case" "${token[@]}" --from 24h --why "for the launch" ;;
      *=orange*=lamp*)
        "$edge" review approve "$case" "${token[@]}" --why "as briefed"
        "$edge" review pause "$case" "${token[@]}" --why "sold out"
        ;;
    esac
  done < <("$edge" review list --campaign autumn --state needs_review "${token[@]}")
  "$edge" review candidates "autumn/hero?colour=green&product=lamp" --count 3 "${token[@]}"
}

# Signs the demo's pictures; it lasts a year, and validators do not know it.
make_authority() {
  local authority="$demo/authority"
  if [ -e "$authority/signer.pem" ] && "$binaries/bildkante-edge" check --config "$demo/edge.toml" >/dev/null 2>&1; then
    return 0
  fi
  rm -rf "$authority"
  "$binaries/bildkante-edge" provenance init "$authority" >/dev/null 2>&1 || complain "no authority can be made in $authority"
}

# The processes of the demo's own session that still run; zombies have ended.
left() {
  local stat pid rest state sid
  for stat in /proc/[0-9]*/stat; do
    { read -r rest < "$stat"; } 2>/dev/null || continue
    pid=${rest%% *}
    rest=${rest##*) }
    read -r state _ _ sid _ <<<"$rest"
    if [ "$sid" = "$session" ] && [ "$state" != Z ]; then echo "$pid"; fi
  done
}

stop() {
  trap '' INT TERM HUP
  [ -n "$session" ] || return 0
  say "stopping"
  [ -z "$deciding" ] || kill -TERM "$deciding" 2>/dev/null || true
  local deadline=$((SECONDS + stop_s_max)) pids
  # The edge stops its node in order. When the edge itself is gone, the node gets the signal directly.
  if is_running; then pids=("$session"); else mapfile -t pids < <(left); fi
  kill -TERM "${pids[@]}" 2>/dev/null || true
  while [ -n "$(left)" ] && [ "$SECONDS" -lt "$deadline" ]; do sleep 0.1; done
  mapfile -t pids < <(left)
  if [ "${#pids[@]}" -gt 0 ]; then
    echo "demo: still running after $stop_s_max s, killed: ${pids[*]}" >&2
    kill -KILL "${pids[@]}" 2>/dev/null || true
    sleep 0.2
  fi
  wait "$session" 2>/dev/null || true
  mapfile -t pids < <(left)
  [ "${#pids[@]}" -eq 0 ] || complain "these processes cannot be ended: ${pids[*]}"
  say "stopped; no process is left"
}

# The status code of GET http://127.0.0.1:PORT/PATH; empty while nothing answers.
status_of() {
  local status=
  {
    exec 3<>"/dev/tcp/127.0.0.1/$1" &&
      printf 'GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' "$2" >&3 &&
      read -r -t 2 _ status _ <&3
  } 2>/dev/null || true
  exec 3>&- 2>/dev/null || true
  echo "$status"
}

parent_of() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f2; }

# A make that got SIGINT alone waits for this script and passes no signal on. While it handles the signal, it blocks it, and /proc
# shows that. A make that has ended leaves this script with another parent.
make_asks_to_stop() {
  [ -n "${MAKELEVEL:-}" ] || return 1
  [ "$(parent_of $$)" = "$PPID" ] || return 0
  local blocked
  blocked=$(sed -n 's/^SigBlk:[[:space:]]*//p' "/proc/$PPID/status" 2>/dev/null)
  [ -n "$blocked" ] && [ $((16#$blocked & 2)) -ne 0 ]
}

is_running() { kill -0 "$session" 2>/dev/null; }

wait_until_ready() {
  local deadline=$((SECONDS + ready_s_max)) told=$SECONDS
  until [ "$(status_of "$admin_port" "/readyz?origins=1")" = 200 ]; do
    if ! is_running; then
      tail -n 20 "$log" >&2
      complain "the edge ended before it was ready; its log is $log"
    fi
    ! make_asks_to_stop || exit 130
    [ "$SECONDS" -lt "$deadline" ] || complain "not ready after $ready_s_max s; the log is $log"
    if [ $((SECONDS - told)) -ge 5 ]; then say "waiting for the node to load its checkpoint"; told=$SECONDS; fi
    sleep 0.2
  done
}

for binary in bildkante-edge bildkante-gpu-node; do
  [ -x "$binaries/$binary" ] || complain "$binaries/$binary is missing: run make demo, which builds it"
done
check_ports
write_configuration
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

say "starting the edge and its node"
# A session of its own: a Ctrl-C reaches this script alone, which then stops edge and node in order.
setsid "$binaries/bildkante-edge" serve --config "$demo/edge.toml" </dev/null >"$log" 2>&1 &
session=$!
wait_until_ready
decide_about_some >"$demo/decisions.log" 2>&1 &
deciding=$!

cat <<TEXT

  Bildkante is ready.
    preview of every variant   http://127.0.0.1:$admin_port/preview/
    pictures that await you    http://127.0.0.1:$admin_port/preview/queue
                               (log in with the token $(cat "$demo/token"))
    an image, drawn on demand  http://127.0.0.1:$edge_port/i/studio/hero/teal-mug?product=mug&colour=teal&w=640
    metrics                    http://127.0.0.1:$admin_port/metrics
    where a picture comes from http://127.0.0.1:$edge_port/verify
                               (its signer's authority is made for this demo: others' validators call it untrusted)
    log                        $log
  Ctrl-C stops everything.

TEXT

while is_running; do
  ! make_asks_to_stop || exit 130
  sleep 0.5
done
tail -n 20 "$log" >&2
complain "the edge ended by itself; its log is $log"
