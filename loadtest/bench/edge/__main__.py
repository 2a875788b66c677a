"""Cache hits through the whole path, beside nginx and Varnish, in one run: `make bench-edge`.

Every row has the same client ask the same URL (or list of URLs) of each server in turn, in an order that is reversed every
other round, each server with the same number of workers:

  edge           bildkante-edge: parsing, variant resolution, negotiation and its caches
  nginx cache    nginx's proxy_cache in front of that edge: the same bytes and the edge's own headers
  nginx static   nginx serving the same bytes from a file, with the same headers by configuration; shown, decides nothing
  varnish        Varnish in front of that edge, its storage in memory

The edge serves the demo campaign: real manifests, real URLs, the real way of a request. Renditions of the sizes wanted are
written into its caches beforehand by edge/examples/seed.rs, so that no GPU is needed.

Figures are medians of the rounds, and a ratio is that of two medians. wrk and h2load are closed loops: compare
their latencies with each other only; `bildkante-loadtest hits` measures latency at a given rate.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import clients
import report
from clients import Load
from report import EDGE, Measured
from rows import ROWS, Asks, Client, Peer, Row, Tier
from servers import Answer, Certificate, Server, check_equivalence, get, run_edge, run_nginx, run_varnish, write_edge_config
from workload import DISK_BODY_BYTES, ROOT, SINGLES, Rendition, renditions, seed, seeded_folder

# A quick rung, which is replaced soon, lives no longer than this in any cache.
QUICK_MAX_AGE_S = 30
# Renditions of a list that are looked at before it is measured, and the most of them that may come from another tier.
SAMPLE = 40
ELSEWHERE_MAX = 0.1
# Crawls after which a list is in the edge's memory.
CRAWLS = 6


def main() -> int:
    arguments = parse()
    if (load := os.getloadavg()[0]) > 1:
        print(f"note: other work is running on this machine (load {load:.1f}); the figures will be noisy", flush=True)
    measured = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bildkante-bench-")))
        folder.chmod(0o755)
        certificate = Certificate.make(folder)
        for row in (ROWS[name] for name in arguments.rows):
            measured += Bench(arguments, row, folder, certificate).run()
    print(report.summary(measured))
    if arguments.json:
        facts = {"workers": arguments.workers, "seconds": arguments.seconds, "cpus": os.cpu_count()}
        report.write(arguments.json, measured, facts)
    return 0 if all(one.is_met for one in measured) or not arguments.strict else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/edge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries", type=Path, required=True, help="folder of the release binaries, examples/seed among them")
    parser.add_argument("--nginx", type=Path, required=True)
    parser.add_argument("--varnishd", type=Path, required=True)
    parser.add_argument("--wrk", default="wrk")
    parser.add_argument("--h2load", default="h2load")
    parser.add_argument("--rows", default=",".join(ROWS), help=f"which, by comma: {', '.join(ROWS)}")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--threads", default="1", help="of the client, by comma: each gives a table of its own")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of each server (default: one per core)")
    parser.add_argument("--renditions", type=int, default=100_000, help="in the Zipf mix; a fifth of it in the disk row")
    parser.add_argument("--quick", action="store_true", help="two short rounds over few renditions: whether it works")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a budget is not met")
    parser.add_argument("--kept", type=Path, default=ROOT / ".bench", help="folder for what is seeded once")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    arguments.rows = arguments.rows.split(",")
    if unknown := [name for name in arguments.rows if name not in ROWS]:
        parser.error(f"there is no row {', '.join(unknown)}; there are {', '.join(ROWS)}")
    arguments.threads = [int(count) for count in arguments.threads.split(",")]
    if arguments.quick:
        arguments.rounds, arguments.seconds, arguments.renditions = 2, 1, min(arguments.renditions, 2_000)
    return arguments


class Bench:
    """One row: its edge, its peers, its rounds."""

    def __init__(self, arguments: argparse.Namespace, row: Row, folder: Path, certificate: Certificate):
        self.arguments, self.row, self.certificate = arguments, row, certificate
        self.folder = folder / row.name
        self.folder.mkdir()
        self.folder.chmod(0o755)
        self.listed = self._listed()

    def run(self) -> list[Measured]:
        print(f"\n{self.row}", flush=True)
        with ExitStack() as stack:
            edge = stack.enter_context(run_edge(self.arguments.binaries / "bildkante-edge", self.folder, self._disk_dir(),
                                                self.row.tier, self.certificate, self.arguments.workers))
            load = self._load(edge)
            answer = settle(edge.port, load.path, self.row.tier)
            servers = [edge, *self._peers(stack, edge, answer)]
            check_equivalence(servers, load.path, answer)
            if load.paths:
                for server in servers:
                    # An image enters memory when it is read twice, and the edge forgets some first reads of a long crawl.
                    for _ in range(CRAWLS if server is edge and self.row.tier is Tier.MEMORY else 1):
                        clients.crawl(self.arguments.h2load, server.port, load.paths, len(self.listed))
                self._check_tier(edge)
            etags = self._etags(servers, load, answer)
            return [self._measure(servers, load, etags, threads) for threads in self.arguments.threads]

    def _listed(self) -> list[Rendition]:
        match self.row.asks:
            case Asks.ZIPF:
                return renditions(self.arguments.renditions)
            case Asks.UNIFORM:
                return renditions(max(1, self.arguments.renditions // 5), fixed_body_bytes=DISK_BODY_BYTES)
            case _:
                return []

    def _disk_dir(self) -> Path:
        def config(folder: Path) -> Path:
            return write_edge_config(self.folder / "seed.toml", folder / "edge", self.row.tier, None, [1, 2, 3])

        if self.listed:
            return seeded_folder(self.arguments.binaries, self.arguments.kept, self.listed, config) / "edge"
        seed(self.arguments.binaries, config(self.folder), list(SINGLES.values()))
        return self.folder / "edge"

    def _load(self, edge: Server) -> Load:
        if not self.listed:
            return Load(SINGLES[self.row.body_bytes].path)
        paths = self.folder / "paths"
        paths.write_text("".join(f"{rendition.path}\n" for rendition in self.listed))
        order = "zipf" if self.row.asks is Asks.ZIPF else "uniform"
        return Load(self.listed[0].path, paths, order)

    def _peers(self, stack: ExitStack, edge: Server, answer: Answer) -> list[Server]:
        peers: dict[Peer, Server] = {}
        if {Peer.NGINX_CACHE, Peer.NGINX_STATIC} & set(self.row.peers):
            # A static server validates its own tag or none; in the other rows it sends the edge's as it is.
            static_etag = "on" if self.row.asks is Asks.VALIDATED else "off"
            cache, static = stack.enter_context(run_nginx(self.arguments.nginx, self.folder, edge, self.certificate,
                                                          self.arguments.workers, answer, static_etag))
            peers |= {Peer.NGINX_CACHE: cache, Peer.NGINX_STATIC: static}
        if Peer.VARNISH in self.row.peers:
            peers[Peer.VARNISH] = stack.enter_context(run_varnish(self.arguments.varnishd, self.folder, edge))
        return [peers[peer] for peer in self.row.peers]

    def _check_tier(self, edge: Server) -> None:
        """After all of the list was asked, its answers come from the tier that is to be measured."""
        sample = self.listed[::max(1, len(self.listed) // SAMPLE)]
        elsewhere = 0
        for rendition in sample:
            answer = get(edge.port, rendition.path)
            if len(answer.body) != rendition.body_bytes or not (is_hit(answer, Tier.MEMORY) or is_hit(answer, Tier.DISK)):
                sys.exit(f"{rendition.path} is no hit of {rendition.body_bytes} bytes: {answer.status}, "
                         f"{answer.header('cache-status')}, {len(answer.body)} bytes")
            elsewhere += not is_hit(answer, self.row.tier)
        print(f"  {len(sample) - elsewhere} of {len(sample)} renditions asked as a sample come from {self.row.tier.value}")
        if elsewhere > len(sample) * ELSEWHERE_MAX:
            sys.exit(f"{self.row.name} would not measure the tier {self.row.tier.value}")

    def _etags(self, servers: list[Server], load: Load, answer: Answer) -> dict[str, str | None]:
        """What each server is asked to validate: the tag it gave, seen to be answered with an empty 304."""
        etags: dict[str, str | None] = {server.name: None for server in servers}
        if self.row.asks is Asks.VALIDATED:
            for server in servers:
                etag = get(server.port, load.path).header("etag")
                validated = get(server.port, load.path, {"If-None-Match": etag or ""})
                if validated.status != 304 or validated.body:
                    sys.exit(f"{server.name} answers {validated.status} to its own entity tag")
                etags[server.name] = etag
        return etags

    def _measure(self, servers: list[Server], load: Load, etags: dict[str, str | None], threads: int) -> Measured:
        rounds: dict[str, list[clients.Result]] = {server.name: [] for server in servers}
        for server in servers:
            self._ask(server, load, etags, threads, 1)
        for number in range(self.arguments.rounds):
            for server in servers if number % 2 == 0 else servers[::-1]:
                rounds[server.name].append(self._ask(server, load, etags, threads, self.arguments.seconds))
            rates = "  ".join(f"{name} {results[-1].rate:,.0f}/s" for name, results in rounds.items())
            print(f"  round {number + 1}  {rates}", flush=True)
        measured = Measured(self.row, threads, rounds)
        print(measured.table(), flush=True)
        assert EDGE in rounds
        return measured

    def _ask(self, server: Server, load: Load, etags: dict[str, str | None], threads: int, seconds: int) -> clients.Result:
        load = Load(load.path, load.paths, load.order, etags[server.name])
        if self.row.client is Client.H2LOAD:
            assert server.tls_port
            return clients.h2load(self.arguments.h2load, server.tls_port, server.pid, load, seconds, threads)
        return clients.wrk(self.arguments.wrk, server.port, server.pid, load, seconds, threads)


def is_hit(answer: Answer, tier: Tier) -> bool:
    status = answer.header("cache-status") or ""
    max_age = re.search(r"max-age=(\d+)", answer.header("cache-control") or "")
    is_final = max_age is not None and int(max_age[1]) > QUICK_MAX_AGE_S
    return answer.status == 200 and "; hit" in status and f"detail={tier.value}" in status.replace('"', "") and is_final


def settle(port: int, path: str, tier: Tier) -> Answer:
    """The answer that will be asked for: a final rung, from the tier that is to be measured where one URL can show it."""
    answer = get(port, path)
    for _ in range(20):
        answer = get(port, path)
        if is_hit(answer, Tier.MEMORY) or is_hit(answer, tier):
            return answer
    sys.exit(f"{path} is no hit: {answer.status} {answer.headers} {answer.body[:300]!r}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        shutil.rmtree(Path(__file__).parent / "__pycache__", ignore_errors=True)
