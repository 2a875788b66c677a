"""SSIMULACRA2 of answers against the server's own lossless file of that size, and the quality at which a server reaches a score."""

from __future__ import annotations

import io
import statistics
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from .pictures import CALIBRATION_PX, Job
from .servers import Answer, Server, get

TARGET = 70.0
# Nearer than this the search does not go: a step of some encoders' scales is worth more.
NEAR = 0.4
TRIES_MAX = 9
STAND_INS_MAX, RETRY_S = 300, 0.05
FIRST_QUALITY = {"avif": 60, "webp": 75, "jpeg": 75}


@dataclass
class Calibrated:
    """The quality of a server's own scale that comes nearest to the score; score and bytes at it, over all pictures.

    `rungs`: what an edge says its files were.
    """

    quality: int
    score: float
    bytes_mean: float
    rungs: dict[str, int]

    def as_json(self) -> dict:
        return asdict(self)


class Scores:
    def __init__(self, curves: Path, folder: Path):
        self.curves, self.folder, self.count = curves, folder, 0

    def of(self, pairs: list[tuple[bytes, bytes]]) -> list[float]:
        """Scores of files against lossless ones: `(file, lossless)`. Pillow decodes all of them."""
        self.count += 1
        folder = self.folder / str(self.count)
        folder.mkdir(parents=True)
        lines = []
        for at, (file, lossless) in enumerate(pairs):
            reference, decoded = folder / f"{at}.png", folder / f"{at}.decoded.png"
            with Image.open(io.BytesIO(lossless)) as opened:
                size = opened.size
                opened.convert("RGB").save(reference, compress_level=1)
            with Image.open(io.BytesIO(file)) as opened:
                if opened.size != size:
                    sys.exit(f"an answer has {opened.size} px, the lossless one {size} px")
                opened.convert("RGB").save(decoded, compress_level=1)
            lines.append(f"{reference}\t{decoded}\n")
        (folder / "list").write_text("".join(lines))
        done = subprocess.run([self.curves, "compare", folder / "list"], capture_output=True, text=True, timeout=300)
        if done.returncode != 0:
            sys.exit(f"encoder_curves: {done.stderr}")
        return [float(line) for line in done.stdout.split()]


def lossless(server: Server, jobs: list[Job], connections: int) -> list[bytes]:
    return [answer.body for answer in fetch(server, jobs, "png", None, connections)]


def fetch(server: Server, jobs: list[Job], picture_format: str, quality: int | None, connections: int) -> list[Answer]:
    def one(job: Job) -> Answer:
        # An edge that is made to hurry is made to refuse, too.
        for _ in range(STAND_INS_MAX):
            answer = get(server.port, server.path(job.picture, job.width_px, picture_format, quality))
            if not answer.is_stand_in:
                break
            time.sleep(RETRY_S)
        return answer

    with ThreadPoolExecutor(connections) as pool:
        answers = list(pool.map(one, jobs))
    for answer in answers:
        if not answer.is_picture(picture_format):
            raise LookupError(f"{server.name} answers {answer.status} {answer.headers.get('content-type')}, "
                              f"{answer.headers.get('cache-status', 'without Cache-Status')}, to {picture_format}")
    return answers


def calibrate(server: Server, pictures: list[str], picture_format: str, scores: Scores, connections: int, quality: int,
              references: list[bytes]) -> Calibrated:
    """Bisects from `quality` on, by straight lines where both sides are known."""
    jobs = [Job(picture, CALIBRATION_PX) for picture in pictures]
    tried: dict[int, Calibrated] = {}
    below, above = (0, None), (101, None)
    while quality not in tried and len(tried) < TRIES_MAX:
        answers = fetch(server, jobs, picture_format, quality, connections)
        files = [answer.body for answer in answers]
        score = statistics.median(scores.of(list(zip(files, references))))
        rungs = Counter(answer.rung for answer in answers if answer.rung)
        tried[quality] = Calibrated(quality, score, statistics.mean(map(len, files)), dict(rungs))
        if abs(score - TARGET) <= NEAR:
            break
        if score < TARGET:
            below = (quality, score)
        else:
            above = (quality, score)
        if above[0] - below[0] <= 1:
            break
        if below[1] is not None and above[1] is not None and above[1] > below[1]:
            quality = round(below[0] + (TARGET - below[1]) / (above[1] - below[1]) * (above[0] - below[0]))
        else:
            quality += round((TARGET - score) * 1.2) or 1
        quality = min(max(quality, below[0] + 1), above[0] - 1)
    return min(tried.values(), key=lambda one: abs(one.score - TARGET))
