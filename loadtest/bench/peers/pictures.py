"""The originals, the same files for everybody, and the work: which picture at which width, no two alike."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

WIDTH_PX, HEIGHT_PX = 1280, 720
COUNT = 10
# So many that no server runs out of renditions that it has not been asked for yet.
WIDTHS_PX = range(480, 800, 2)
# The width at which qualities are found.
CALIBRATION_PX = 640
# A rendition of this width is asked for before the clock runs.
WARM_PX = 320


@dataclass(frozen=True)
class Job:
    picture: str
    width_px: int


def originals(corpus: Path, folder: Path) -> list[str]:
    """JPEG files of 1280 × 720 px, as a camera or an agency delivers them; their names without an ending.

    The most textured of the corpus: those whose lossless files are the largest.
    """
    found = []
    for file in sorted(corpus.glob("*.png")):
        with Image.open(file) as opened:
            if opened.width < WIDTH_PX or opened.height < HEIGHT_PX:
                continue
            left, top = (opened.width - WIDTH_PX) // 2, (opened.height - HEIGHT_PX) // 2
            picture = opened.convert("RGB").crop((left, top, left + WIDTH_PX, top + HEIGHT_PX))
        lossless = io.BytesIO()
        picture.save(lossless, "PNG", compress_level=1)
        found.append((lossless.tell(), file.stem, picture))
    found.sort(key=lambda one: -one[0])
    names = []
    for at, (_, _, picture) in enumerate(found[:COUNT]):
        names.append(f"p{at}")
        picture.save(folder / f"p{at}.jpg", quality=95, subsampling=0)
    return names


def work(pictures: list[str]) -> list[Job]:
    """Every picture at every width, in an order that mixes them, the same one each time."""
    jobs = [Job(picture, width_px) for picture in pictures for width_px in WIDTHS_PX]
    random.Random(19).shuffle(jobs)
    return jobs
