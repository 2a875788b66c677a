#!/usr/bin/env python3
"""Resident memory of the edge: idle, after churn, and after a great many distinct URLs: `make bench-memory`.

  idle       an edge on empty caches that has answered nothing yet: all that is resident beyond caches and index
  churn      twenty thousand renditions, several times what memory has room for, asked at random again and again: what is
             resident after the last round, beside the second
  distinct   as many URLs as are wanted, each spelt as none before it: resident memory under the sum of its caps, and not
             one file more on disk
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from processes import reserve_ports, run, wait_until
from rows import Tier
from servers import get, write_edge_config
from workload import ACCEPT, ROOT, renditions, seeded_folder

MIB = 1 << 20
IDLE_MIB_MAX = 50
CACHE_MIB, FRONT_MIB = 64, 16
# What an allocator keeps of freed pages, connections of the client, the disk tier's index.
SLACK_MIB = 30
CHURN_RATIO_MAX = 1.1
CHURN_ROUNDS, CHURN_S = 6, 10
RATE = 8_000
SETTLE_S = 3


def main() -> int:
    arguments = parse()
    figures: dict[str, float] = {}
    met = []
    with tempfile.TemporaryDirectory(prefix="bildkante-memory-") as name:
        folder = Path(name)
        ports = reserve_ports(3)
        with edge(arguments, folder, folder / "empty", ports) as process:
            figures["idle_mib"] = resident_mib(process.pid)
        met.append(verdict("resident when idle, beyond caches and index", figures["idle_mib"], IDLE_MIB_MAX, "MiB"))

        wanted = renditions(arguments.renditions)
        kept = seeded_folder(arguments.binaries, arguments.kept, wanted, lambda kept: config(folder, kept / "edge", [1, 2, 3])) / "edge"
        paths = folder / "paths"
        paths.write_text("".join(f"{rendition.path}\n" for rendition in wanted))
        ports = reserve_ports(3)
        with edge(arguments, folder, kept, ports) as process:
            rounds = []
            for _ in range(CHURN_ROUNDS):
                ask(arguments, ports[0], paths, RATE * CHURN_S, "as-given")
                rounds.append(resident_mib(process.pid))
            print("      resident after each round of churn: " + ", ".join(f"{mib:.0f}" for mib in rounds) + " MiB")
            figures |= {"churn_second_mib": rounds[1], "churn_last_mib": rounds[-1]}
            met.append(verdict("resident after churn, beside its second round", rounds[-1] / rounds[1], CHURN_RATIO_MAX, "×"))
            files = count_files(kept)
            ask(arguments, ports[0], paths, arguments.urls, "distinct")
            figures |= {"distinct_mib": resident_mib(process.pid), "distinct_files_more": count_files(kept) - files}
            cap = CACHE_MIB + FRONT_MIB + IDLE_MIB_MAX + SLACK_MIB
            met.append(verdict(f"resident after {arguments.urls:,} distinct URLs", figures["distinct_mib"], cap, "MiB"))
            met.append(verdict("files that they left on disk", figures["distinct_files_more"], 0, "files"))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if all(met) else 2


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries", type=Path, required=True)
    parser.add_argument("--urls", type=int, default=200_000, help="distinct ones")
    parser.add_argument("--renditions", type=int, default=20_000)
    parser.add_argument("--kept", type=Path, default=ROOT / ".bench", help="folder for what is seeded once")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def config(folder: Path, disk_dir: Path, ports: list[int]) -> Path:
    return write_edge_config(folder / "edge.toml", disk_dir, Tier.MEMORY, None, ports, memory_bytes=CACHE_MIB * MIB,
                             front_bytes=FRONT_MIB * MIB)


@contextmanager
def edge(arguments: argparse.Namespace, folder: Path, disk_dir: Path, ports: list[int]) -> Iterator[subprocess.Popen]:
    """The edge's process, ready, for the length of the block."""
    log = folder / "edge.log"
    with run([arguments.binaries / "bildkante-edge", "serve", "--config", config(folder, disk_dir, ports)], log) as process:
        wait_until(lambda: get(ports[2], "/livez").status == 200, process, log)
        yield process


def ask(arguments: argparse.Namespace, port: int, paths: Path, requests: int, spelling: str) -> None:
    seconds = max(1, requests // RATE)
    command = [arguments.binaries / "bildkante-loadtest", "hits", "--urls-file", paths, "--base", f"http://127.0.0.1:{port}",
               "--order", "uniform", "--spelling", spelling, "--rate", str(RATE), "--duration-s", str(seconds), "--accept", ACCEPT]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=20 * seconds + 60)
    if done.returncode != 0:
        sys.exit(f"the load failed:\n{done.stdout[-2000:]}{done.stderr[-1000:]}")


def resident_mib(pid: int) -> float:
    time.sleep(SETTLE_S)
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    sys.exit("the edge is gone")


def count_files(folder: Path) -> int:
    return sum(1 for path in folder.rglob("*") if path.is_file())


def verdict(what: str, measured: float, most: float, unit: str) -> bool:
    met = measured <= most
    print(f"{'PASS' if met else 'FAIL'}  {what}: {measured:.2f} {unit} (wanted: at most {most} {unit})", flush=True)
    return met


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
