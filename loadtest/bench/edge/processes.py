"""Servers as processes of their own, on ports of their own, gone when their block ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

ROOT = Path(__file__).resolve().parents[3]
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


# Bound and not listening, as long as this process lives: the system gives their ports to no other process, and the servers of
# this bench, which bind with SO_REUSEADDR, can listen on them.
_reserved: list[socket.socket] = []


def reserve_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for reserved in sockets:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
    _reserved.extend(sockets)
    return [reserved.getsockname()[1] for reserved in sockets]


@contextmanager
def run(command: list[str | Path], log: Path) -> Iterator[subprocess.Popen]:
    """A server for the length of the block, in a process group of its own; nothing of it is left afterwards."""
    with open(log, "w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                   start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until(ready, process: subprocess.Popen, log: Path, ready_s_max: float = 60) -> None:
    deadline = time.monotonic() + ready_s_max
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"{process.args[0]} ended at start:\n{log.read_text()[-3000:]}")
        try:
            if ready():
                return
        except OSError:
            pass
        time.sleep(0.05)
    sys.exit(f"{process.args[0]} is not ready after {ready_s_max} s:\n{log.read_text()[-3000:]}")


def family_seconds(pid: int) -> float:
    """User and system time of a process and everything below it."""
    children: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.name))
        ticks[int(entry.name)] = int(fields[11]) + int(fields[12])
    family, total = [pid], 0
    while family:
        member = family.pop()
        total += ticks.get(member, 0)
        family += children.get(member, [])
    return total / TICKS_PER_S
