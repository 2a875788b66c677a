"""The URLs that are asked, and the cache folders that hold their renditions before an edge starts."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
# As a browser with AVIF sends it: the format is negotiated, as in a page.
ACCEPT = "image/avif,image/webp,*/*;q=0.8"
# Median and spread of a rendition's size on pages of product images, and the bounds it is cut to.
BODY_BYTES_MEDIAN, BODY_SIGMA, BODY_BYTES_MIN, BODY_BYTES_MAX = 6_000, 0.8, 600, 100_000
DISK_BODY_BYTES = 20_000
SEED_S_MAX = 1_800


@dataclass(frozen=True)
class Rendition:
    path: str
    body_bytes: int


# One URL for each body size of the rows.
SINGLES = {
    1_000: Rendition("/i/studio/thumb/teal-mug?product=mug&colour=teal&w=48", 1_000),
    20_000: Rendition("/i/studio/hero/teal-mug?product=mug&colour=teal&w=480", 20_000),
    200_000: Rendition("/i/studio/hero/teal-mug?product=mug&colour=teal&w=640", 200_000),
}


def renditions(count: int, fixed_body_bytes: int | None = None) -> list[Rendition]:
    """Distinct renditions of the demo campaign, each URL with all five axes and a width: six parameters.

    In an order drawn from a fixed seed, so that a Zipf rank says nothing about axes or sizes.
    """
    manifest = tomllib.loads((ROOT / "config/campaigns/studio.toml").read_text())
    axes = {name: sorted(axis["values"]) for name, axis in manifest["axes"].items()}
    # A thumb of 192 px is the same rendition as a hero of 192 px.
    cuts = [(slot, width) for slot, settings in manifest["slots"].items() for width in settings["widths"]
            if (slot, width) != ("thumb", 192)]
    variants = list(itertools.product(*axes.values()))
    order = random.Random(1207)
    order.shuffle(variants)
    variants = variants[:math.ceil(count / len(cuts))]
    everything = [(slot, width, values) for values in variants for slot, width in cuts]
    if count > len(everything):
        sys.exit(f"the demo campaign has {len(everything)} renditions, {count} were asked for")
    order.shuffle(everything)
    result = []
    for slot, width, values in everything[:count]:
        query = "&".join(f"{name}={value}" for name, value in zip(axes, values))
        drawn = order.lognormvariate(math.log(BODY_BYTES_MEDIAN), BODY_SIGMA)
        body_bytes = fixed_body_bytes or min(max(int(drawn), BODY_BYTES_MIN), BODY_BYTES_MAX)
        result.append(Rendition(f"/i/studio/{slot}?{query}&w={width}", body_bytes))
    return result


def seed(binaries: Path, config: Path, wanted: list[Rendition]) -> None:
    """Writes the renditions into the cache folder that `config` names. No edge may run on it."""
    lines = "".join(f"{rendition.body_bytes}\t{rendition.path}\n" for rendition in wanted)
    done = subprocess.run([binaries / "examples/seed", "--config", config, "--accept", ACCEPT], cwd=ROOT, input=lines,
                          capture_output=True, text=True, timeout=SEED_S_MAX)
    if done.returncode != 0:
        sys.exit(f"the caches could not be seeded:\n{done.stderr[-3000:]}")
    print(done.stdout.strip(), flush=True)


def seeded_folder(binaries: Path, kept: Path, wanted: list[Rendition], write_config) -> Path:
    """A folder with these renditions, kept from run to run: writing a hundred thousand of them takes a minute or two.

    `write_config(folder)` gives the path of a configuration that names it.
    """
    digest = hashlib.sha256()
    for rendition in wanted:
        digest.update(f"{rendition.body_bytes}\t{rendition.path}\n".encode())
    for file in sorted([*(ROOT / "config/campaigns").rglob("*"), *(ROOT / "config/prompts").iterdir()]):
        if file.is_file():
            digest.update(file.read_bytes())
    folder = kept / f"seeded-{len(wanted)}-{digest.hexdigest()[:16]}"
    complete = folder / "complete"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        print(f"seeding {len(wanted):,} renditions, once", flush=True)
        seed(binaries, write_config(folder), wanted)
        complete.touch()
    return folder
