"""Judges pictures by the nearest render: do product, setting, colour, backdrop and material come out as asked?

A crude judge: the nearest training picture, in colours at low resolution, says what a picture shows. How crude is part of
the result: the same judge reads real renders whose own geometry is left out, and its failures there bound what the first
figures can mean.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from torch.nn import functional as F

from factors import BACKDROPS, COLOURS, FACTOR_NAMES, MATERIALS, PRODUCTS, SETTINGS, Factors, prompt
from loop import batches, write_json
from plan import Plan
from render import Renders, contact_sheet, load_renders

JUDGE_PX = 32
STEPS = 20
GUIDANCE = 4.0
FIRST_SEED = 1_000_000


class Judge:
    """Compares pictures at `JUDGE_PX` with all renders."""

    def __init__(self, renders: Renders) -> None:
        self.renders = renders
        self.library = torch.cat([features(renders.images[part]) for part in batches(len(renders.images), 256)])

    def read(self, images: Tensor, leave_out: Tensor | None = None) -> Tensor:
        """Factors `[n, 5]` of uint8 pictures; `leave_out[i]` is a geometry that may not answer for picture i."""
        distances = torch.cdist(features(images), self.library)
        if leave_out is not None:
            distances[self.renders.geometry[None] == leave_out[:, None]] = torch.inf
        return self.renders.factors[distances.argmin(1)]


def features(images: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(images.float() / 255, JUDGE_PX).flatten(1)


def evaluate(plan: Plan, work: Path, out: Path) -> dict[str, Any]:
    """Draws, judges, and writes `evaluation.json` and `samples.png` beside the checkpoint's work folder."""
    renders = load_renders(plan, work)
    judge = Judge(renders)
    asked = wanted(plan.judged_prompts, plan.seed)
    started = time.monotonic()
    images = draw(plan, out, asked)
    seconds = (time.monotonic() - started) / len(asked)
    drawn = agreement(judge.read(images), torch.tensor([each.indices() for each in asked]))
    chosen = torch.tensor(random.Random(plan.seed).sample(range(len(renders.images)), plan.judged_renders))
    itself = agreement(judge.read(renders.images[chosen], renders.geometry[chosen]), renders.factors[chosen])
    contact_sheet(list(images), 8).save(work / "samples.png")
    figures = {"drawn": drawn, "judge_on_renders": itself, "seconds_per_image": round(seconds, 3)}
    write_json(
        work / "evaluation.json",
        figures
        | {"prompts": [prompt(each) for each in asked], "first_seed": FIRST_SEED, "steps": STEPS, "guidance": GUIDANCE},
    )
    return figures


def wanted(count: int, seed: int) -> list[Factors]:
    """Every product in every setting in turn; colours, materials and backdrops drawn."""
    rng = random.Random(f"evaluate/{seed}")
    pairs = [(product, setting) for product in PRODUCTS for setting in SETTINGS]
    return [
        Factors(
            pairs[index % len(pairs)][0],
            rng.choice(list(COLOURS)),
            rng.choice(list(MATERIALS)),
            rng.choice(list(BACKDROPS)),
            pairs[index % len(pairs)][1],
        )
        for index in range(count)
    ]


def draw(plan: Plan, checkpoint: Path, asked: list[Factors]) -> Tensor:
    """One picture per entry, uint8 `[n, 3, size, size]`, with a seed of its own."""
    pipeline = DiffusionPipeline.from_pretrained(checkpoint, dtype=torch.float32).to(plan.torch_device)
    pipeline.set_progress_bar_config(disable=True)
    images = []
    for part in batches(len(asked), 8):
        seeds = range(len(asked))[part]
        drawn = pipeline(
            [prompt(each) for each in asked[part]],
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=[torch.Generator().manual_seed(FIRST_SEED + seed) for seed in seeds],
            output_type="pt",
        ).images
        images.append(drawn.mul(255).round().to(torch.uint8).cpu())
    return torch.cat(images)


def agreement(read: Tensor, expected: Tensor) -> dict[str, float]:
    """Share of pictures per factor that were read as asked."""
    shares = (read.long() == expected.long()).float().mean(0)
    return {name: round(float(share), 3) for name, share in zip(FACTOR_NAMES, shares, strict=True)}
