"""Renders the training pictures into shards, and reads them back.

    python render.py --sheet sheet.png         a contact sheet to look at

A shard holds 32 geometries, each coloured several times. Everything about picture i follows from the seed and i, so shards can
be made in any order, by any number of processes, and a run that was interrupted makes only what is missing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from composite import composite
from factors import BACKDROPS, COLOURS, MATERIALS, PRODUCTS, SETTINGS, Factors
from geometry import View, trace
from plan import STUDIO, Plan

GEOMETRIES_PER_SHARD = 32
SUPERSAMPLING = 2


@dataclass(frozen=True)
class Renders:
    """All pictures, in memory (about 1.2 GB for 10,500 of 192 px)."""

    images: Tensor  # [n, 3, size, size] uint8
    factors: Tensor  # [n, 5] uint8, see `Factors.indices`
    geometry: Tensor  # [n] int32: which pictures share a geometry

    def factors_of(self, index: int) -> Factors:
        return Factors.from_indices(self.factors[index].tolist())


def render(plan: Plan, work: Path) -> dict[str, int]:
    """Makes the missing shards under `work/renders`."""
    folder = work / "renders"
    folder.mkdir(parents=True, exist_ok=True)
    check_key(folder, plan)
    shards = -(-plan.geometries // GEOMETRIES_PER_SHARD)
    missing = [shard for shard in range(shards) if not shard_path(folder, shard).exists()]
    if plan.render_workers > 1 and plan.device == "cpu":
        # Two processes of one thread each beat one of two: single rays' arrays are small.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(plan.render_workers, mp_context=context) as pool:
            jobs = [pool.submit(render_shard, plan, folder, shard) for shard in missing]
            for done, job in enumerate(jobs, 1):
                job.result()
                print(f"render: shard {done} of {len(missing)}", flush=True)
    else:
        for done, shard in enumerate(missing, 1):
            render_shard(plan, folder, shard)
            print(f"render: shard {done} of {len(missing)}", flush=True)
    return {"pictures": plan.geometries * plan.recolourings, "shards": shards}


def check_key(folder: Path, plan: Plan) -> None:
    """Refuses to mix pictures of different plans in one folder."""
    path = folder / "key.json"
    if path.exists() and json.loads(path.read_text()) != plan.data_key():
        raise SystemExit(f"{folder} holds renders of another size or seed; use another --work folder")
    path.write_text(json.dumps(plan.data_key()))


def shard_path(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05}.safetensors"


def render_shard(plan: Plan, folder: Path, shard: int) -> None:
    if plan.render_workers > 1:
        torch.set_num_threads(1)
    first = shard * GEOMETRIES_PER_SHARD
    images: list[Tensor] = []
    factors: list[list[int]] = []
    geometry: list[int] = []
    for index in range(first, min(first + GEOMETRIES_PER_SHARD, plan.geometries)):
        for image, shown in render_geometry(plan, index):
            images.append(image)
            factors.append(shown.indices())
            geometry.append(index)
    beside = folder / f"{shard:05}.new"
    save_file(
        {
            "images": torch.stack(images),
            "factors": torch.tensor(factors, dtype=torch.uint8),
            "geometry": torch.tensor(geometry, dtype=torch.int32),
        },
        beside,
    )
    beside.replace(shard_path(folder, shard))


@torch.no_grad()
def render_geometry(plan: Plan, index: int) -> list[tuple[Tensor, Factors]]:
    """One geometry, coloured `recolourings` times: uint8 `[3, size, size]` with what it shows.

    Products and settings take turns, so that every pair is equally frequent; the rest is drawn.
    """
    rng = random.Random(f"render/{plan.seed}/{index}")
    setting = list(SETTINGS)[index % len(SETTINGS)]
    product = list(PRODUCTS)[index // len(SETTINGS) % len(PRODUCTS)]
    view = View.random(product, setting, rng)
    side = plan.size_px * SUPERSAMPLING
    buffers = trace(view, side, plan.torch_device)
    results = []
    for _ in range(plan.recolourings):
        shown = Factors(
            product, rng.choice(list(COLOURS)), rng.choice(list(MATERIALS)), rng.choice(list(BACKDROPS)), setting
        )
        large = composite(view, buffers, shown).reshape(1, side, side, 3).permute(0, 3, 1, 2)
        small = F.avg_pool2d(large, SUPERSAMPLING)[0]
        results.append((small.mul(255).round().to(torch.uint8).cpu(), shown))
    return results


def load_renders(plan: Plan, work: Path) -> Renders:
    shards = -(-plan.geometries // GEOMETRIES_PER_SHARD)
    parts = [load_file(shard_path(work / "renders", shard)) for shard in range(shards)]
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    keep = joined["geometry"] < plan.geometries
    return Renders(joined["images"][keep], joined["factors"][keep], joined["geometry"][keep])


def contact_sheet(images: list[Tensor], columns: int) -> Image.Image:
    """uint8 pictures `[3, s, s]` side by side, row by row."""
    blank = torch.zeros_like(images[0])
    images = images + [blank] * (-len(images) % columns)
    rows = [torch.cat(images[start : start + columns], 2) for start in range(0, len(images), columns)]
    return Image.fromarray(torch.cat(rows, 1).permute(1, 2, 0).contiguous().numpy())


def main() -> None:
    arguments = argparse.ArgumentParser(description="Render a contact sheet: every product in every setting.")
    arguments.add_argument("--sheet", type=Path, required=True)
    arguments.add_argument("--seed", type=int, default=STUDIO.seed)
    chosen = arguments.parse_args()
    plan = replace(STUDIO, recolourings=1, seed=chosen.seed)
    pictures = [render_geometry(plan, index)[0][0] for index in range(len(SETTINGS) * len(PRODUCTS))]
    contact_sheet(pictures, 8).save(chosen.sheet)


if __name__ == "__main__":
    main()
