"""Puts the trained parts together as a Stable Diffusion checkpoint in float16, and draws from it once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from networks import scheduler
from plan import Plan


def export(plan: Plan, work: Path, out: Path) -> dict[str, Any]:
    """Writes `out` and loads it back as a stranger would."""
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(work / "vae-tuned"),
        text_encoder=CLIPTextModel.from_pretrained(work / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(work / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(work / "unet-more"),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    beside = out.with_name(out.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)
    pipeline.to(dtype=torch.float16).save_pretrained(beside, safe_serialization=True)
    tidy(beside, work)
    shutil.rmtree(out, ignore_errors=True)
    beside.replace(out)
    return {"bytes": sum(path.stat().st_size for path in out.rglob("*") if path.is_file()), **try_out(out)}


def tidy(folder: Path, work: Path) -> None:
    """What diffusers and transformers write differently from what others expect to read."""
    config_path = folder / "text_encoder" / "config.json"
    config = json.loads(config_path.read_text())
    # transformers loads in the dtype that is written here; a half-precision text encoder beside float32 networks fails.
    config["dtype"] = "float32"
    config_path.write_text(json.dumps(config, indent=2) + "\n")
    for component in ("unet", "vae"):
        path = folder / component / "config.json"
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)  # a path of the machine it was made on
        path.write_text(json.dumps(config, indent=2) + "\n")
    for name in ("vocab.json", "merges.txt", "special_tokens_map.json"):
        shutil.copyfile(work / "tokenizer" / name, folder / "tokenizer" / name)


def try_out(folder: Path) -> dict[str, Any]:
    """Fails where the checkpoint does not load or draws nothing."""
    pipeline = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(7)
    image = pipeline(
        "a teal mug, cream backdrop, studio light",
        num_inference_steps=4,
        guidance_scale=4.0,
        generator=generator,
        output_type="pt",
    ).images[0]
    if not torch.isfinite(image).all() or image.std() < 1e-3:
        raise RuntimeError("the exported checkpoint draws an empty picture")
    return {"size_px": list(image.shape[1:])}
