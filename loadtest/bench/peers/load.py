"""A closed loop: so many connections, each of which asks for the next picture as soon as it has the last one."""

from __future__ import annotations

import http.client
import itertools
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from edge.processes import family_seconds

from .pictures import Job
from .servers import REPLY_S_MAX, Server, ask

# Where a server is slow, it is asked for longer, until there are so many answers; and as long as it takes for a few.
IMAGES_MIN, LONGER_MAX = 30, 3
IMAGES_LEAST, SECONDS_MAX = 8, 90


@dataclass
class Loop:
    """What came back, in the order in which it did."""

    ended_s: list[float] = field(default_factory=list)
    took_ms: list[float] = field(default_factory=list)
    # The first answer of each picture, to be scored.
    samples: dict[str, tuple[Job, bytes]] = field(default_factory=dict)
    rungs: Counter = field(default_factory=Counter)
    # Answers that are not the picture that was asked for: errors, and an edge's stand-ins.
    others: int = 0
    # Answers to what was under way when the time was over. They had the machine to themselves.
    late: int = 0
    # Of the server and everything below it, from the first question to the last answer, late ones included.
    cpu_s: float = 0

    def rate(self, connections: int) -> float:
        """Pictures per second, between two answers, while all connections asked: the first of each counts as its start."""
        first, last = self.ended_s[connections - 1], self.ended_s[-1]
        return (len(self.ended_s) - connections) / (last - first)


def closed_loop(server: Server, picture_format: str, quality: int, jobs: list[Job], seconds: float, connections: int) -> Loop:
    loop, lock, numbers, broken = Loop(), threading.Lock(), itertools.count(), []
    started = time.monotonic()

    def is_over(now: float) -> bool:
        if len(loop.ended_s) < IMAGES_LEAST:
            return now - started >= SECONDS_MAX
        return now - started >= (seconds if len(loop.ended_s) >= IMAGES_MIN else seconds * LONGER_MAX)

    def caller() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=REPLY_S_MAX)
        try:
            while not is_over(begun := time.monotonic()):
                if (number := next(numbers)) >= len(jobs):
                    raise RuntimeError(f"{server.name} had every picture within {begun - started:.1f} s: there must be more widths")
                job = jobs[number]
                answer = ask(connection, server.path(job.picture, job.width_px, picture_format, quality))
                ended = time.monotonic()
                with lock:
                    if is_over(ended):
                        loop.late += 1
                        break
                    if not answer.is_picture(picture_format):
                        loop.others += 1
                        continue
                    loop.ended_s.append(ended)
                    loop.took_ms.append((ended - begun) * 1000)
                    loop.samples.setdefault(job.picture, (job, answer.body))
                    loop.rungs[answer.rung] += 1
        except Exception as error:  # noqa: BLE001 - told by the thread that waits
            broken.append(error)
        finally:
            connection.close()

    before_s = family_seconds(server.pid)
    callers = [threading.Thread(target=caller) for _ in range(connections)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    loop.cpu_s = family_seconds(server.pid) - before_s
    if broken:
        sys.exit(f"{server.name}, {picture_format}: {broken[0]}")
    if len(loop.ended_s) <= connections:
        sys.exit(f"{server.name}, {picture_format}: {len(loop.ended_s)} pictures in {SECONDS_MAX} s, {loop.others} other answers")
    return loop
