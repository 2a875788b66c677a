#!/usr/bin/env python3
"""From the start of the process to the first image, over a cache folder of a million files: `make bench-start`.

The folder holds renditions of the demo campaign with their bindings, and as many other files under names of the right
form as make up the number. Each start follows a SIGKILL, and the first request asks for a rendition that only the disk
has. The same folder, empty, tells what a start costs without it.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from processes import reserve_ports
from rows import Tier
from servers import write_edge_config
from workload import ACCEPT, ROOT, renditions, seeded_folder

FIRST_BYTE_MS_MAX = 100
READY_S_MAX = 60
POLL_S = 0.001
# Crockford's alphabet, lower case, as the edge names its files.
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def main() -> int:
    arguments = parse()
    wanted = renditions(arguments.renditions)
    with tempfile.TemporaryDirectory(prefix="bildkante-start-") as name:
        folder = Path(name)
        disk_dir = seeded_folder(arguments.binaries, arguments.kept, wanted, lambda kept: config(folder, kept / "edge")) / "edge"
        fill(disk_dir / "renditions", arguments.entries)
        full = starts(arguments, folder, disk_dir, wanted[len(wanted) // 2].path)
        # An edge without anything answers with a stand-in, and needs no disk for it: only its livez is comparable.
        empty = starts(arguments, folder, folder / "empty", None)
    figures = {"entries": arguments.entries, "first_image_ms": full, "empty_ready_ms": empty}
    print(f"      {arguments.starts} starts; first image after {shown(full)}; an empty edge is ready after {shown(empty)}")
    median = statistics.median(full)
    met = median <= FIRST_BYTE_MS_MAX
    print(f"{'PASS' if met else 'FAIL'}  first image over {arguments.entries:,} files: {median:.0f} ms "
          f"(wanted: at most {FIRST_BYTE_MS_MAX} ms)")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if met else 2


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries", type=Path, required=True)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--renditions", type=int, default=20_000, help="of them with bindings, and askable")
    parser.add_argument("--starts", type=int, default=9)
    parser.add_argument("--kept", type=Path, default=ROOT / ".bench", help="folder for what is seeded once")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def config(folder: Path, disk_dir: Path, ports: list[int] | None = None) -> Path:
    path = write_edge_config(folder / "edge.toml", disk_dir, Tier.DISK, None, ports or [1, 2, 3])
    path.write_text(path.read_text().replace("[cache]\n", "[cache]\ndisk_files_max = 4000000\n"))
    return path


def fill(root: Path, entries: int) -> None:
    """Files to make up the number; those of an earlier run stay."""
    missing = entries - sum(len(files) for _, _, files in os.walk(root))
    if missing > 0:
        print(f"writing {missing:,} files", flush=True)
    drawn = random.Random(missing)
    for shard in range(256):
        (root / f"{shard:02x}").mkdir(exist_ok=True)
    for _ in range(max(0, missing)):
        value = drawn.getrandbits(128)
        # 26 characters of five bits each: 128 bits and two of padding.
        text, bits = "", value << 2
        for at in range(125, -1, -5):
            text += ALPHABET[(bits >> at) & 31]
        with open(root / f"{value >> 120:02x}" / text, "xb") as file:
            file.write(b"x" * 512)


def starts(arguments: argparse.Namespace, folder: Path, disk_dir: Path, path: str | None) -> list[float]:
    took = []
    for number in range(arguments.starts + 1):
        ports = reserve_ports(3)
        command = [arguments.binaries / "bildkante-edge", "serve", "--config", config(folder, disk_dir, ports)]
        with open(folder / "edge.log", "wb") as log:
            started = time.monotonic()
            process = subprocess.Popen([str(word) for word in command], cwd=ROOT, stdout=log, stderr=log)
        try:
            first_answer(ports[0] if path else ports[2], path or "/livez", process)
            took.append((time.monotonic() - started) * 1000)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    # The first one also fills the kernel's caches.
    return took[1:]


def first_answer(port: int, path: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + READY_S_MAX
    while time.monotonic() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", path, headers={"Accept": ACCEPT})
            response = connection.getresponse()
            response.read()
            where = response.getheader("cache-status", "detail=disk")
            if response.status != 200 or "detail=disk" not in where:
                sys.exit(f"{path}: {response.status}, {where}")
            return
        except ConnectionError:
            time.sleep(POLL_S)
        finally:
            connection.close()
    sys.exit("the edge did not come up")


def shown(took: list[float]) -> str:
    return f"{statistics.median(took):.0f} ms ({min(took):.0f} to {max(took):.0f})"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
