#!/usr/bin/env python3
"""Cache hits through the whole path, beside nginx, in one run: `make bench-edge`.

Workload: HTTP/1.1 keep-alive, 64 connections, one URL of about 20 kB, wrk with one thread as the client. Three servers
take turns, in an order that is reversed every other round, each with the same number of workers:

  edge           bildkante-edge: parsing, variant resolution, negotiation and its memory cache
  nginx cache    nginx's proxy_cache in front of that edge: the same bytes and the edge's own headers
  nginx static   nginx serving the same bytes from a file, with the same headers by configuration

Ratios are medians of the rounds' own ratios, so that a noisy minute touches both sides. wrk is a closed loop: compare
its latencies with each other only; `bildkante-loadtest hits` measures latency at a given rate.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import itertools
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET_RATIO = 1.1
CONNECTIONS = 64
BODY_BYTES_WANTED = 20_000
VARIANT = "/i/studio/hero/teal-mug?product=mug&colour=teal"
WIDTHS_PX = (480, 640, 960, 1280)
QUALITIES = ("", "&q=high")
# As browsers with AVIF, with WebP, and without either send it: the format is negotiated, as in a page.
ACCEPTS = ("image/avif,image/webp,*/*;q=0.8", "image/webp,*/*;q=0.8", "*/*")
READY_S_MAX = 180
# A quick rung, which is replaced soon, lives no longer than this in any cache.
QUICK_MAX_AGE_S = 30
# What differs by nature: the connection's own fields, and those that say when and by whom an answer was measured.
OWN_FIELDS = {"connection", "date", "server", "keep-alive"}


@dataclass
class Request:
    path: str
    accept: str


@dataclass
class Server:
    name: str
    port: int


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)


def main() -> None:
    arguments = parse()
    if (load := os.getloadavg()[0]) > 1:
        print(f"note: other work is running on this machine (load {load:.1f}); the figures will be noisy", flush=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bildkante-bench-")))
        edge_port, admin_port, node_port, cache_port, static_port = free_ports(5)
        stack.enter_context(run_edge(arguments, folder, edge_port, admin_port, node_port))
        request = choose_request(edge_port)
        answer = warm(edge_port, request, hits=10)
        stack.enter_context(run_nginx(arguments, folder, edge_port, cache_port, static_port, answer))
        servers = [Server("edge", edge_port), Server("nginx cache", cache_port), Server("nginx static", static_port)]
        check_equivalence(servers, request, answer)
        print(f"\n{request.path}\nAccept: {request.accept}\n{len(answer.body)} bytes of {answer.header('content-type')}, {CONNECTIONS} connections, "
              f"{arguments.workers} workers each, {arguments.rounds} rounds of {arguments.seconds} s\n", flush=True)
        report(measure(arguments, servers, request), arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries", type=Path, required=True, help="folder of the release binaries")
    parser.add_argument("--nginx", type=Path, required=True)
    parser.add_argument("--wrk", default="wrk")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of each server (default: one per core)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


@contextmanager
def run(command: list[str | Path], log: Path, environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen]:
    """A server for the length of the block, in a process group of its own; nothing of it is left afterwards."""
    with open(log, "w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                   env=environment, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def run_edge(arguments: argparse.Namespace, folder: Path, edge: int, admin: int, node: int) -> Iterator[None]:
    # Masters and renditions are kept between runs, so that only the first one draws.
    data = ROOT / ".bench"
    (folder / "gpu-node.toml").write_text(f'listen = "127.0.0.1:{node}"\ndata_dir = "{data}/node"\n')
    (folder / "edge.toml").write_text(f"""
[listen]
http = "127.0.0.1:{edge}"
admin = "127.0.0.1:{admin}"
[serve]
public_url = "http://127.0.0.1:{edge}"
[cache]
disk_dir = "{data}/edge"
[origin]
nodes = ["http://127.0.0.1:{node}"]
[origin.sidecar]
command = "{arguments.binaries}/bildkante-gpu-node"
args = ["serve", "--exit-with-parent", "--config", "{folder}/gpu-node.toml"]
[log]
filter = "warn"
""")
    environment = os.environ | {"TOKIO_WORKER_THREADS": str(arguments.workers)}
    log = folder / "edge.log"
    command = [arguments.binaries / "bildkante-edge", "serve", "--config", folder / "edge.toml"]
    with run(command, log, environment) as process:
        wait_until(lambda: get(admin, Request("/readyz", "*/*")).status == 200, process, log)
        yield


@contextmanager
def run_nginx(arguments: argparse.Namespace, folder: Path, edge: int, cache: int, static: int,
              answer: Answer) -> Iterator[None]:
    root = folder / "nginx"
    (root / "static").mkdir(parents=True)
    root.chmod(0o755)
    folder.chmod(0o755)  # workers of a root-started nginx run as nobody
    (root / "static" / "body").write_bytes(answer.body)
    taken_over = {"content-type", "content-length", "last-modified", "accept-ranges"} | OWN_FIELDS
    added = [f"      add_header {name} {quoted(value)};" for name, value in answer.headers if name.lower() not in taken_over]
    values = {"WORKERS": arguments.workers, "DIR": root, "EDGE_PORT": edge, "CACHE_PORT": cache, "STATIC_PORT": static,
              "CONTENT_TYPE": answer.header("content-type"), "ADD_HEADERS": "\n".join(added)}
    text = (HERE / "nginx.conf.in").read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    (root / "nginx.conf").write_text(text)
    log = root / "nginx.log"
    with run([arguments.nginx, "-p", root, "-c", root / "nginx.conf", "-e", "stderr"], log) as process:
        wait_until(lambda: get(static, Request("/", "*/*")).status == 200, process, log)
        yield


def quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "")
    return f'"{escaped}"'


def wait_until(ready, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + READY_S_MAX
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"{process.args[0]} ended at start:\n{log.read_text()[-3000:]}")
        try:
            if ready():
                return
        except OSError:
            pass
        time.sleep(0.1)
    sys.exit(f"{process.args[0]} is not ready after {READY_S_MAX} s:\n{log.read_text()[-3000:]}")


def get(port: int, request: Request) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("GET", request.path, headers={"Accept": request.accept})
        response = connection.getresponse()
        return Answer(response.status, response.getheaders(), response.read())
    finally:
        connection.close()


def choose_request(port: int) -> Request:
    """Asks for the rendition whose size is nearest to the workload's; on a new machine the first one is drawn now."""
    sizes = []
    for accept, width_px, quality in itertools.product(ACCEPTS, WIDTHS_PX, QUALITIES):
        request = Request(f"{VARIANT}&w={width_px}{quality}", accept)
        answer = warm(port, request, hits=1)
        sizes.append((abs(len(answer.body) - BODY_BYTES_WANTED), request))
    return min(sizes, key=lambda pair: pair[0])[1]


def warm(port: int, request: Request, hits: int) -> Answer:
    """Asks until the same final bytes come from the cache so many times in a row: no stand-in, no quick rung."""
    last, same = None, 0
    for _ in range(600):
        answer = get(port, request)
        if answer.status != 200:
            sys.exit(f"{request.path} answers {answer.status}: {answer.body[:500]!r}")
        is_hit = "; hit" in (answer.header("cache-status") or "")
        max_age = re.search(r"max-age=(\d+)", answer.header("cache-control") or "")
        is_final = max_age is not None and int(max_age[1]) > QUICK_MAX_AGE_S
        same = same + 1 if is_hit and is_final and last is not None and last.body == answer.body else 0
        if same >= hits:
            return answer
        last = answer
        time.sleep(0.1)
    sys.exit(f"{request.path} does not settle: {last.headers if last else 'no answer'}")


def check_equivalence(servers: list[Server], request: Request, expected: Answer) -> None:
    """The same bytes, and the same header fields but for those that belong to a server."""
    fields = {name.lower() for name, _ in expected.headers} - OWN_FIELDS
    for server in servers:
        get(server.port, request)  # fills the proxy cache
        answer = get(server.port, request)
        if answer.status != 200 or hashlib.sha256(answer.body).digest() != hashlib.sha256(expected.body).digest():
            sys.exit(f"{server.name} serves other bytes ({answer.status}, {len(answer.body)} bytes)")
        theirs = {name.lower() for name, _ in answer.headers} - OWN_FIELDS
        head_bytes = sum(len(name) + len(value) + 4 for name, value in answer.headers)
        print(f"{server.name:<14} same bytes; {len(answer.headers)} header fields, {head_bytes} bytes"
              + (f"; lacks {', '.join(sorted(fields - theirs))}" if fields - theirs else "")
              + (f"; adds {', '.join(sorted(theirs - fields))}" if theirs - fields else ""))


def measure(arguments: argparse.Namespace, servers: list[Server], request: Request) -> dict[str, list[dict]]:
    rounds: dict[str, list[dict]] = {server.name: [] for server in servers}
    for server in servers:
        wrk(arguments, server, request, 1)
    for number in range(arguments.rounds):
        for server in servers if number % 2 == 0 else servers[::-1]:
            result = wrk(arguments, server, request, arguments.seconds)
            rounds[server.name].append(result)
            print(f"round {number + 1}  {server.name:<14}{result['rate']:>10.0f} requests/s  p99 {result['p99_us'] / 1000:.2f} ms",
                  flush=True)
    return rounds


def wrk(arguments: argparse.Namespace, server: Server, request: Request, seconds: int) -> dict:
    command = [arguments.wrk, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", HERE / "wrk.lua",
               "-H", f"Accept: {request.accept}", f"http://127.0.0.1:{server.port}{request.path}"]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 60).stdout
    result = json.loads(output.splitlines()[-1])
    if result["not_2xx"] or result["failed"]:
        sys.exit(f"{server.name}: {result['not_2xx']} answers were no success, {result['failed']} failed")
    result["rate"] = result["requests"] / result["duration_us"] * 1e6
    return result


def report(rounds: dict[str, list[dict]], arguments: argparse.Namespace) -> None:
    print(f"\n{'':<14}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}{'edge is':>10}{'its p99 is':>12}   medians of {arguments.rounds} rounds")
    figures = {}
    for name, results in rounds.items():
        def paired(key: str) -> float:
            return statistics.median(ours[key] / theirs[key] for ours, theirs in zip(rounds["edge"], results))
        figures[name] = {
            "requests_per_s": statistics.median(result["rate"] for result in results),
            "p50_ms": statistics.median(result["p50_us"] for result in results) / 1000,
            "p99_ms": statistics.median(result["p99_us"] for result in results) / 1000,
            "edge_rate_ratio": paired("rate"),
            "edge_p99_ratio": paired("p99_us"),
        }
        row = figures[name]
        print(f"{name:<14}{row['requests_per_s']:>12.0f}{row['p50_ms']:>9.2f}{row['p99_ms']:>9.2f}"
              f"{row['edge_rate_ratio']:>9.2f}×{row['edge_p99_ratio']:>11.2f}×")
    ratio = figures["nginx cache"]["edge_rate_ratio"]
    verdict = "PASS" if ratio >= TARGET_RATIO else "FAIL"
    print(f"\n{verdict}: the edge answers {ratio:.2f}× as many cache hits as nginx's proxy_cache (wanted: {TARGET_RATIO}×)")
    if arguments.json:
        arguments.json.write_text(json.dumps({"workers": arguments.workers, "servers": figures}, indent=2) + "\n")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
