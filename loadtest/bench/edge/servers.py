"""The edge and its peers as processes of their own, each on ports of its own, gone when their block ends."""

from __future__ import annotations

import hashlib
import http.client
import resource
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator

from processes import reserve_ports, run, wait_until
from rows import Tier
from workload import ACCEPT, ROOT

HERE = Path(__file__).resolve().parent
# Room for a few renditions of the disk row and no more.
TINY_MEMORY_BYTES = 128 << 10
MEMORY_BYTES = 4 << 30
# Finished heads of a hundred thousand URLs.
FRONT_BYTES = 1 << 30
# Fields that differ by nature: the connection's own, and those that say when and by which server an answer was measured.
OWN_FIELDS = {"connection", "date", "server", "keep-alive", "transfer-encoding"}


@dataclass
class Server:
    name: str
    port: int
    pid: int
    tls_port: int | None = None


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes = field(repr=False)

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    @property
    def field_names(self) -> set[str]:
        return {name.lower() for name, _ in self.headers} - OWN_FIELDS


@dataclass
class Certificate:
    certificate: Path
    key: Path

    @classmethod
    def make(cls, folder: Path) -> "Certificate":
        made = cls(folder / "bench.pem", folder / "bench.key")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                        "-keyout", made.key, "-out", made.certificate], check=True, capture_output=True)
        made.edge_key.write_bytes(made.key.read_bytes())
        made.edge_key.chmod(0o600)  # an edge refuses a key that others may read
        made.key.chmod(0o644)  # of a throwaway key: nginx's workers run as nobody
        return made

    @property
    def edge_key(self) -> Path:
        return self.key.with_name("edge.key")


def get(port: int, path: str, headers: dict[str, str] | None = None) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path, headers={"Accept": ACCEPT} | (headers or {}))
        response = connection.getresponse()
        return Answer(response.status, response.getheaders(), response.read())
    finally:
        connection.close()


def write_edge_config(path: Path, disk_dir: Path, tier: Tier, certificate: Certificate | None, ports: list[int],
                      workers: int = 0, memory_bytes: int | None = None, front_bytes: int = FRONT_BYTES) -> Path:
    """`ports`: of images in the clear, over TLS, and admin. What is not the workload's business keeps its default."""
    tls = f'tls = {{ certificate = "{certificate.certificate}", key = "{certificate.edge_key}" }}' if certificate else ""
    if memory_bytes is None:
        memory_bytes = MEMORY_BYTES if tier is Tier.MEMORY else TINY_MEMORY_BYTES
    path.write_text(f"""
[listen]
http = "127.0.0.1:{ports[0]}"
https = "127.0.0.1:{ports[1]}"
admin = "127.0.0.1:{ports[2]}"
{tls}
workers = {workers}
[limits]
# As nginx below: a connection is not closed for having asked much.
requests_max = 4294967295
[serve]
public_url = "https://img.example.com"
[campaigns]
variants_memoised_max = 131072
[cache]
disk_dir = "{disk_dir}"
memory_bytes_max = {memory_bytes}
front_bytes_max = {front_bytes}
[budget]
# One client stands for many networks.
campaign_render_ms_per_minute = 0
network_render_ms_per_minute = 0
[origin]
# No node listens there: nothing is drawn in this bench.
nodes = ["http://127.0.0.1:9"]
probe_interval_ms = 60000
[log]
filter = "error"
""")
    return path


@contextmanager
def run_edge(binary: Path, folder: Path, disk_dir: Path, tier: Tier, certificate: Certificate, workers: int) -> Iterator[Server]:
    ports = reserve_ports(3)
    config = write_edge_config(folder / "edge.toml", disk_dir, tier, certificate, ports, workers)
    log = folder / "edge.log"
    with run([binary, "serve", "--config", config], log) as process:
        wait_until(lambda: get(ports[2], "/livez").status == 200, process, log)
        yield Server("edge", ports[0], process.pid, ports[1])


@contextmanager
def run_nginx(binary: Path, folder: Path, edge: Server, certificate: Certificate, workers: int, answer: Answer,
              static_etag: str) -> Iterator[tuple[Server, Server]]:
    """nginx as a cache before the edge, and as a static server of `answer`."""
    root = folder / "nginx"
    (root / "static").mkdir(parents=True)
    for directory in (root, folder):
        directory.chmod(0o755)  # workers of a root-started nginx run as nobody
    (root / "static" / "body").write_bytes(answer.body)
    taken_over = {"content-type", "content-length", "last-modified", "accept-ranges"} | OWN_FIELDS
    if static_etag == "on":
        taken_over.add("etag")
    added = [f"      add_header {name} {_quoted(value)};" for name, value in answer.headers if name.lower() not in taken_over]
    cache_port, cache_tls_port, static_port, static_tls_port = reserve_ports(4)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    values = {
        "WORKERS": workers, "DIR": root, "EDGE_PORT": edge.port, "CACHE_PORT": cache_port, "CACHE_TLS_PORT": cache_tls_port,
        "STATIC_PORT": static_port, "STATIC_TLS_PORT": static_tls_port, "CONTENT_TYPE": answer.header("content-type"),
        "ADD_HEADERS": "\n".join(added), "CERTIFICATE": certificate.certificate, "KEY": certificate.key,
        "FILES": files, "OPEN_FILES": max(1_000, min(files - 5_000, 100_000)), "STATIC_ETAG": static_etag,
    }
    config = _fill("nginx.conf.in", root / "nginx.conf", values)
    log = root / "nginx.log"
    with run([binary, "-p", root, "-c", config, "-e", "stderr"], log) as process:
        wait_until(lambda: get(static_port, "/").status == 200, process, log)
        yield (Server("nginx cache", cache_port, process.pid, cache_tls_port),
               Server("nginx static", static_port, process.pid, static_tls_port))


@contextmanager
def run_varnish(binary: Path, folder: Path, edge: Server) -> Iterator[Server]:
    """Varnish with storage in memory, in a folder of its own; it needs no privilege."""
    root = folder / "varnish"
    root.mkdir()
    (port,) = reserve_ports(1)
    vcl = _fill("varnish.vcl.in", root / "bench.vcl", {"EDGE_PORT": edge.port})
    log = root / "varnish.log"
    command = [binary, "-F", "-j", "none", "-n", root / "work", "-a", f"127.0.0.1:{port}", "-f", vcl, "-s", f"malloc,{MEMORY_BYTES}",
               "-T", "none", "-p", "http_gzip_support=off", "-p", "listen_depth=4096"]
    with run(command, log) as process:
        wait_until(lambda: get(port, "/").status > 0, process, log)  # any answer says that it listens
        yield Server("varnish", port, process.pid)


def check_equivalence(servers: list[Server], path: str, expected: Answer) -> None:
    """The same bytes, and the same header fields but for those that belong to a server."""
    for server in servers:
        get(server.port, path)  # fills a cache
        answer = get(server.port, path)
        if answer.status != 200 or hashlib.sha256(answer.body).digest() != hashlib.sha256(expected.body).digest():
            sys.exit(f"{server.name} serves other bytes ({answer.status}, {len(answer.body)} bytes)")
        lacks, adds = expected.field_names - answer.field_names, answer.field_names - expected.field_names
        head_bytes = sum(len(name) + len(value) + 4 for name, value in answer.headers)
        print(f"  {server.name:<14} same bytes; {len(answer.headers)} header fields, {head_bytes} bytes"
              + (f"; lacks {', '.join(sorted(lacks))}" if lacks else "")
              + (f"; adds {', '.join(sorted(adds))}" if adds else ""))
        if lacks - {"last-modified"}:
            sys.exit(f"{server.name} does less than the edge: compare like with like")


def _fill(template: str, path: Path, values: dict) -> Path:
    text = (HERE / template).read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    path.write_text(text)
    return path


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "")
    return f'"{escaped}"'
