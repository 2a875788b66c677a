#!/usr/bin/env python3
"""Instructions that a hit costs the edge in user space, counted by callgrind: `make bench-instructions`.

A count does not depend on the clock, so a change of a per cent shows on a busy machine. System calls are not counted.
Rows: `lane` is a GET that the lane answers, `long way` one whose target has another spelling each time, so that the front map
does not know it and the request goes the long way. `--kills 100000` counts both again with so many kills in force: two per cent more are too
many.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from processes import reserve_ports, run, wait_until
from rows import Tier
from servers import get, write_edge_config
from workload import ACCEPT, ROOT, renditions, seeded_folder

WARM_UP = 200
BODY_BYTES = 1000


def main() -> int:
    arguments = parse()
    wanted = renditions(1, fixed_body_bytes=BODY_BYTES)
    counts: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="bildkante-instructions-") as name:
        folder = Path(name)
        kept = seeded_folder(arguments.binaries, arguments.kept, wanted, lambda kept: config(folder, kept / "edge", [1, 2, 3]))
        for row, spell in (("lane", lambda n: wanted[0].path), ("long way", lambda n: f"{wanted[0].path}&utm_id={n}")):
            counts[row] = count(arguments, folder, kept / "edge", spell)
            print(f"  {row:<9} {counts[row]:>10,.0f} instructions a hit, {arguments.hits:,} hits")
        if arguments.kills:
            counts_killed = killed(arguments, folder, kept / "edge", wanted[0].path)
            if any(counts_killed[row] > 1.02 * counts[row] for row in counts):
                return 2
    if arguments.json:
        arguments.json.write_text(json.dumps(counts, indent=2) + "\n")
    return compare(counts, arguments.before) if arguments.before else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries", type=Path, required=True)
    parser.add_argument("--hits", type=int, default=2_000)
    parser.add_argument("--kept", type=Path, default=ROOT / ".bench", help="folder for what is seeded once")
    parser.add_argument("--json", type=Path, help="where the counts go")
    parser.add_argument("--kills", type=int, default=0, help="count again with so many kills in force")
    parser.add_argument("--before", type=Path, help="counts of another build: two per cent more are too many")
    return parser.parse_args()


def config(folder: Path, disk_dir: Path, ports: list[int]) -> Path:
    return write_edge_config(folder / "edge.toml", disk_dir, Tier.MEMORY, None, ports, workers=1)


def count(arguments: argparse.Namespace, folder: Path, disk_dir: Path, spell) -> float:
    """Of the whole process while it answers: what runs behind it then is small and the same every time."""
    ports = reserve_ports(3)
    log, out = folder / "edge.log", folder / "callgrind.out"
    command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--dump-line=no", f"--callgrind-out-file={out}",
               arguments.binaries / "bildkante-edge", "serve", "--config", config(folder, disk_dir, ports)]
    with run(command, log) as process:
        wait_until(lambda: get(ports[2], "/livez").status == 200, process, log, ready_s_max=300)
        # Placeholders are made behind the start, by encoders that would outweigh thousands of hits.
        wait_until(lambda: rests(process.pid), process, log, ready_s_max=300)
        with socket.create_connection(("127.0.0.1", ports[0]), timeout=120) as connection:
            ask(connection, [spell(n) for n in range(WARM_UP)])
            control(process.pid, "-i", "on")
            ask(connection, [spell(WARM_UP + n) for n in range(arguments.hits)])
            control(process.pid, "-i", "off")
        control(process.pid, "--dump")
        totals = [int(found[1]) for path in folder.glob("callgrind.out*")
                  for found in re.finditer(r"^(?:totals|summary): (\d+)", path.read_text(), re.MULTILINE)]
        for path in folder.glob("callgrind.out*"):
            path.unlink()
    return max(totals) / arguments.hits


def rests(pid: int) -> bool:
    """Whether a second passes in which the process computes next to nothing."""
    before = used_s(pid)
    time.sleep(1)
    return used_s(pid) - before < 0.1


def used_s(pid: int) -> float:
    """User and system time: fields 14 and 15 of proc(5), the 12th and 13th behind the name."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def killed(arguments: argparse.Namespace, folder: Path, disk_dir: Path, path: str) -> dict[str, float]:
    """The same counts with kills of recipes in force, none of which is the picture's."""
    state, set_aside = disk_dir / "state.redb", folder / "state.redb"
    if state.exists():
        shutil.move(state, set_aside)
    backup = folder / "kills.jsonl"
    head = {"log": "0" * 26, "seq": arguments.kills, "term": 1, "hash": "blake3:" + "00" * 32, "at_unix_ms": 1}
    rows = ({"shelf": "kills", "key": f"recipe:{recipe(n)}", "value": str(n)} for n in range(1, arguments.kills + 1))
    lines = [json.dumps({"backup": 1, "head": head}), *map(json.dumps, rows)]
    backup.write_text("\n".join(lines) + "\n")
    restored = subprocess.run([arguments.binaries / "bildkante-edge", "state", "restore", backup, "--config",
                               config(folder, disk_dir, [1, 2, 3])], capture_output=True, text=True, timeout=600)
    if restored.returncode != 0:
        sys.exit(f"the kills cannot be put in force: {restored.stdout}{restored.stderr}")
    try:
        spellings = {"lane": lambda n: path, "long way": lambda n: f"{path}&utm_id={n}"}
        counts = {row: count(arguments, folder, disk_dir, spell) for row, spell in spellings.items()}
    finally:
        state.unlink()
        if set_aside.exists():
            shutil.move(set_aside, state)
    for row, instructions in counts.items():
        print(f"  {row:<9} {instructions:>10,.0f} instructions a hit, {arguments.kills:,} kills in force")
    return counts


def recipe(number: int) -> str:
    """128 bits in Crockford's base 32."""
    bits = int.from_bytes(hashlib.sha256(str(number).encode()).digest()[:16]) << 2
    return "".join("0123456789abcdefghjkmnpqrstvwxyz"[bits >> shift & 31] for shift in range(125, -1, -5))


def ask(connection: socket.socket, targets: list[str]) -> None:
    """One request behind the other, each answered from memory."""
    for target in targets:
        connection.sendall(f"GET {target} HTTP/1.1\r\nhost: img.example.com\r\naccept: {ACCEPT}\r\n\r\n".encode())
        head, body = b"", b""
        while b"\r\n\r\n" not in head:
            head += received(connection)
        head, body = head.split(b"\r\n\r\n", 1)
        if not head.startswith(b"HTTP/1.1 200") or b"hit" not in head:
            sys.exit(f"{target} was no hit:\n{head.decode(errors='replace')}")
        length = int(re.search(rb"(?im)^content-length: (\d+)", head)[1])
        while len(body) < length:
            body += received(connection)


def received(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 16)
    if not data:
        sys.exit("the edge closed the connection")
    return data


def control(pid: int, *arguments: str) -> None:
    done = subprocess.run(["callgrind_control", *arguments, str(pid)], capture_output=True, text=True, timeout=120)
    if done.returncode != 0 or "Error" in done.stdout + done.stderr:
        sys.exit(f"callgrind does not obey: {done.stdout}{done.stderr}")


def compare(counts: dict[str, float], before: Path) -> int:
    known = json.loads(before.read_text())
    ratios = {row: counts[row] / known[row] for row in counts}
    for row, ratio in ratios.items():
        print(f"  {row:<9} {ratio:.3f}× of {known[row]:,.0f}")
    return 0 if all(ratio <= 1.02 for ratio in ratios.values()) else 2


if __name__ == "__main__":
    sys.exit(main())
