"""Rebuilds the built-in checkpoint end to end: renders, tokenizer, networks, export, evaluation.

    python train.py --work DIR --out DIR            about 75 minutes on two cores with bfloat16 instructions
    python train.py --smoke --work DIR --out DIR    every stage in under three minutes, for a test
    python train.py --plan large --work DIR --out DIR    wider networks at 384 px, on a GPU

Stages run in order. A stage that is done is skipped; one that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from evaluate import evaluate
from export import export
from finetune_decoder import finetune_decoder
from loop import write_json
from plan import PLANS, Budget, Plan
from render import render
from tokenizer import make_tokenizer
from train_unet import continue_unet, train_unet
from train_vae import train_vae

TRAINED = ("vae", "unet", "unet_more", "decoder")


def stages(plan: Plan, work: Path, out: Path) -> dict[str, Callable[[], dict[str, Any]]]:
    return {
        "render": lambda: dict(render(plan, work)),
        "tokenizer": lambda: {"tokens": len(make_tokenizer(work / "tokenizer", plan.seed))},
        "vae": lambda: train_vae(plan, work),
        "unet": lambda: train_unet(plan, work),
        "unet-more": lambda: continue_unet(plan, work),
        "decoder": lambda: finetune_decoder(plan, work),
        "export": lambda: export(plan, work, out),
        "evaluate": lambda: evaluate(plan, work, out),
    }


def run(plan: Plan, work: Path, out: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    check_plan(plan, work)
    for name, stage in stages(plan, work, out).items():
        marker = work / f"{name}.done.json"
        if marker.exists():
            print(f"{name}: done already")
            continue
        started = time.monotonic()
        figures = stage()
        figures["wall_s"] = round(time.monotonic() - started, 1)
        write_json(marker, figures)
        print(f"{name}: {json.dumps(figures)}", flush=True)


def check_plan(plan: Plan, work: Path) -> None:
    """Refuses to go on in a folder that was begun with another plan: the stages would not fit each other."""
    path = work / "plan.json"
    described = json.loads(json.dumps(plan.describe()))
    if path.exists() and json.loads(path.read_text()) != described:
        raise SystemExit(f"{work} was begun with another plan; use another --work folder or remove it")
    write_json(path, described)


def chosen_plan(arguments: argparse.Namespace) -> Plan:
    plan = PLANS["smoke" if arguments.smoke else arguments.plan]
    changes: dict[str, Any] = {}
    if arguments.device:
        changes["device"] = arguments.device
    if arguments.dtype:
        changes["autocast"] = arguments.dtype == "bfloat16"
    if arguments.size:
        changes["size_px"] = arguments.size
    if arguments.geometries:
        changes["geometries"] = arguments.geometries
    if arguments.threads:
        changes["threads"] = arguments.threads
    for name in TRAINED:
        budget: Budget = getattr(plan, name)
        changes[name] = replace(budget, seconds=budget.seconds * arguments.time)
    return replace(plan, seed=arguments.seed if arguments.seed is not None else plan.seed, **changes)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, required=True, help="renders, states and figures; can be removed afterwards"
    )
    parser.add_argument("--out", type=Path, required=True, help="the checkpoint's folder; replaced when it exists")
    parser.add_argument("--plan", choices=sorted(PLANS), default="studio")
    parser.add_argument("--smoke", action="store_true", help="short for --plan smoke")
    parser.add_argument("--device", help="cpu or cuda; the plan's when left out")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="of matrix products; weights stay float32")
    parser.add_argument("--size", type=int, help="picture side in px, a multiple of 32")
    parser.add_argument("--geometries", type=int, help="how many scenes are rendered")
    parser.add_argument("--time", type=float, default=1.0, help="factor on every stage's time budget")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int)
    arguments = parser.parse_args()
    if arguments.size and (arguments.size < 32 or arguments.size % 32):
        parser.error("--size is a multiple of 32: the VAE divides by 8, the UNet by 4 more")
    return arguments


def main() -> None:
    arguments = parse()
    plan = chosen_plan(arguments)
    torch.set_num_threads(plan.threads)
    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    run(plan, arguments.work, arguments.out)


if __name__ == "__main__":
    main()
