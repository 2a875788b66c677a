"""The clients, each run for some seconds, and what they and the server spent on it."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from processes import family_seconds
from workload import ACCEPT

HERE = Path(__file__).resolve().parent
WRK_CONNECTIONS = 64
H2_CONNECTIONS, H2_STREAMS = 32, 8
ZIPF_EXPONENT = 0.9


@dataclass
class Load:
    """What one run asks: a path of its own, or a file of paths in some order."""

    path: str
    paths: Path | None = None
    order: str = "uniform"
    # The entity tag to validate.
    etag: str | None = None


@dataclass
class Result:
    requests: int
    seconds: float
    p50_ms: float
    # Not told by h2load, which has the mean and the longest only.
    p75_ms: float | None
    p99_ms: float | None
    mean_ms: float | None
    # Processor time of both sides, in microseconds a request.
    server_us: float
    client_us: float

    @property
    def rate(self) -> float:
        return self.requests / self.seconds

    def as_json(self) -> dict:
        return asdict(self) | {"requests_per_s": self.rate}


def wrk(command: str, port: int, pid: int, load: Load, seconds: float, threads: int) -> Result:
    line = [command, f"-t{threads}", f"-c{WRK_CONNECTIONS}", f"-d{max(1, round(seconds))}s", "-s", HERE / "wrk.lua",
            "-H", f"Accept: {ACCEPT}"]
    if load.etag:
        line += ["-H", f"If-None-Match: {load.etag}"]
    line.append(f"http://127.0.0.1:{port}{load.path}")
    if load.paths:
        line += ["--", load.paths, load.order, str(ZIPF_EXPONENT)]
    output, server_s, client_s = _timed(line, pid, seconds)
    counted = json.loads(output.splitlines()[-1])
    if counted["not_2xx"] or counted["failed"]:
        sys.exit(f"port {port}: {counted['not_2xx']} answers were no success, {counted['failed']} failed")
    requests = max(1, counted["requests"])
    return Result(requests=counted["requests"], seconds=counted["duration_us"] / 1e6, p50_ms=counted["p50_us"] / 1000,
                  p75_ms=counted["p75_us"] / 1000, p99_ms=counted["p99_us"] / 1000, mean_ms=None,
                  server_us=server_s / requests * 1e6, client_us=client_s / requests * 1e6)


def h2load(command: str, port: int, pid: int, load: Load, seconds: float, threads: int) -> Result:
    line = [command, f"-t{threads}", f"-c{H2_CONNECTIONS}", f"-m{H2_STREAMS}", f"-D{max(1, round(seconds))}",
            "-H", f"accept: {ACCEPT}", f"https://127.0.0.1:{port}{load.path}"]
    output, server_s, client_s = _timed(line, pid, seconds)
    head = re.search(r"finished in ([\d.]+)(\w+), ([\d.]+) req/s", output)
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", output)
    times = re.search(r"time for request:\s+(\S+)\s+(\S+)\s+(\S+)", output)
    if not (head and counts and times):
        sys.exit(f"h2load said what cannot be read:\n{output[-2000:]}")
    succeeded, *bad = (int(count) for count in counts.groups())
    if any(bad) or succeeded == 0:
        sys.exit(f"port {port}: {counts[0]}\n{output[-2000:]}")
    mean_ms = _ms(times[3])
    return Result(requests=succeeded, seconds=succeeded / float(head[3]), p50_ms=mean_ms, p75_ms=None, p99_ms=None,
                  mean_ms=mean_ms, server_us=server_s / succeeded * 1e6, client_us=client_s / succeeded * 1e6)


def crawl(command: str, port: int, paths: Path, count: int) -> None:
    """Asks each path once, so that a cache has all of them."""
    line = [command, "--h1", "-c1", "-t1", f"-n{count}", "-i", paths, "-H", f"accept: {ACCEPT}", f"-Bhttp://127.0.0.1:{port}"]
    done = subprocess.run([str(word) for word in line], capture_output=True, text=True, timeout=900)
    counts = re.search(r"(\d+) succeeded, (\d+) failed", done.stdout)
    statuses = re.search(r"status codes: (\d+) 2xx", done.stdout)
    if not counts or not statuses or int(counts[1]) != count or int(statuses[1]) != count:
        sys.exit(f"port {port} did not answer each of {count} URLs:\n{done.stdout[-1500:]}{done.stderr[-500:]}")


def _ms(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def _timed(line: list, pid: int, seconds: float) -> tuple[str, float, float]:
    """Output of a client, and the seconds of processor time that server and client took meanwhile."""
    server, client = family_seconds(pid), _client_seconds()
    done = subprocess.run([str(word) for word in line], capture_output=True, text=True, timeout=seconds + 120)
    if done.returncode != 0:
        sys.exit(f"{line[0]} failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    return done.stdout, family_seconds(pid) - server, _client_seconds() - client


def _client_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
