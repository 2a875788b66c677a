"""Times diffusers' pipeline on a checkpoint, Stable Diffusion's or XL's: the peer of `bildkante-gpu-node bench`.

Prints one line of JSON with the same field names as the Rust side. Both must use the same libtorch, threads, dtype, size,
steps and guidance, one after the other on an otherwise idle machine. A step is one turn of the denoising loop: scheduler,
UNet (both guidance branches in one batch) and guidance; an image adds the text encoder and the VAE, without encoding a file.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UniPCMultistepScheduler,
)
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

Pipeline = StableDiffusionPipeline | StableDiffusionXLPipeline
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


SAMPLERS = {
    "euler": EulerDiscreteScheduler,
    "ddim": DDIMScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}


@dataclass
class Timing:
    """One image."""

    denoise_s: float
    image_s: float


class Stopwatch:
    """Reads the clock when the loop's first prediction begins and after each of its steps."""

    def __init__(self, pipeline: Pipeline, device: str) -> None:
        self.device = device
        self.began: float | None = None
        self.ended = 0.0
        pipeline.unet.register_forward_pre_hook(self._before_prediction)

    def now(self) -> float:
        if self.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()

    def after_step(self, _: Any, __: int, ___: Any, values: dict[str, Any]) -> dict[str, Any]:
        self.ended = self.now()
        return values

    def _before_prediction(self, *_: Any) -> None:
        if self.began is None:
            self.began = self.now()


def load(arguments: argparse.Namespace) -> Pipeline:
    index = json.loads((arguments.checkpoint / "model_index.json").read_text())
    is_xl = index["_class_name"] == "StableDiffusionXLPipeline"
    if is_xl:
        cls, extra = StableDiffusionXLPipeline, {"add_watermarker": False}
    else:
        # Real ones come with a checker of pictures, which draws nothing and is not compared.
        cls, extra = StableDiffusionPipeline, {"safety_checker": None, "feature_extractor": None}
    pipeline = cls.from_pretrained(arguments.checkpoint, dtype=DTYPES[arguments.dtype], **extra)
    pipeline = pipeline.to(arguments.device)
    if arguments.compile:
        # The network alone, which takes nearly all of the time; warming up pays for the compilation.
        pipeline.unet = torch.compile(pipeline.unet)
    return pipeline


def draw(pipeline: Pipeline, watch: Stopwatch, arguments: argparse.Namespace, seed: int) -> Timing:
    width_px, height_px = arguments.size
    watch.began = None
    start = watch.now()
    pipeline(
        [arguments.prompt] * arguments.together,
        width=width_px,
        height=height_px,
        num_inference_steps=arguments.steps,
        guidance_scale=arguments.guidance,
        generator=[torch.Generator().manual_seed(seed + 1000 * at) for at in range(arguments.together)],
        callback_on_step_end=watch.after_step,
        output_type="pt",
    )
    end = watch.now()
    assert watch.began is not None, "the loop made no prediction"
    return Timing(watch.ended - watch.began, end - start)


def draw_list(pipeline: Pipeline, arguments: argparse.Namespace, recipes: list[dict]) -> float:
    """Seconds for recipes of all kinds, one after the other: what they differ in cannot share a call."""
    width_px, height_px = arguments.size
    config = pipeline.scheduler.config
    start = time.perf_counter()
    for recipe in recipes:
        pipeline.scheduler = SAMPLERS[recipe["sampler"]].from_config(config)
        pipeline(
            recipe["prompt"],
            negative_prompt=recipe["negative_prompt"],
            width=width_px,
            height=height_px,
            num_inference_steps=recipe["steps"],
            guidance_scale=recipe["guidance"],
            generator=torch.Generator().manual_seed(recipe["seed"]),
            output_type="np",  # on the host, so that nothing is left to wait for
        )
    return time.perf_counter() - start


def size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return int(width), int(height)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--size", type=size, default=(192, 192), help="WIDTHxHEIGHT in px")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="f32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--together", type=int, default=1, help="images in one batch")
    parser.add_argument("--compile", action="store_true", help="the network by torch.compile")
    parser.add_argument("--mixed", type=Path, help="JSON: lists of recipes; the last one is timed, those before warm up")
    parser.add_argument("--prompt", default="a teal mug, cream backdrop, studio light")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    pipeline = load(arguments)
    pipeline.set_progress_bar_config(disable=True)
    if arguments.mixed:
        lists = json.loads(arguments.mixed.read_text())
        seconds = [draw_list(pipeline, arguments, recipes) for recipes in lists]
        print(json.dumps({"engine": "diffusers", "images_per_s": len(lists[-1]) / seconds[-1]}))
        return
    watch = Stopwatch(pipeline, arguments.device)
    timings = [draw(pipeline, watch, arguments, seed) for seed in range(arguments.warmup + arguments.runs)]
    timings = timings[arguments.warmup :]
    step_s = [timing.denoise_s / arguments.steps for timing in timings]
    width_px, height_px = arguments.size
    report = {
        "engine": "diffusers",
        "checkpoint": arguments.checkpoint.resolve().name,
        "threads": arguments.threads,
        "dtype": arguments.dtype,
        "steps": arguments.steps,
        "size": f"{width_px}x{height_px}",
        "guidance": arguments.guidance,
        "together": arguments.together,
        "compiled": arguments.compile,
        "images_per_s": round(arguments.together / statistics.median(timing.image_s for timing in timings), 6),
        "step_s_median": round(statistics.median(step_s), 6),
        "step_s_min": round(min(step_s), 6),
        "image_s_median": round(statistics.median(timing.image_s for timing in timings), 6),
        "device_peak_mib": round(torch.cuda.max_memory_allocated() / 2**20, 1) if arguments.device != "cpu" else None,
        "rss_peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
