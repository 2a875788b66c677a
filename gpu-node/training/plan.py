"""How much of everything: sizes of the networks, amounts of data, budgets of the stages.

`studio` is what made the shipped checkpoint on two CPU cores in about 75 minutes; `smoke` runs every stage in under three
minutes to prove that the program works, and draws nothing worth looking at; `large` is a starting point for a GPU, with
wider networks at 384 px.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import torch


@dataclass(frozen=True)
class Budget:
    """A stage ends when its time or its steps are used up, whichever comes first."""

    seconds: float
    steps: int = 1_000_000_000

    def progress(self, seconds: float, steps: int) -> float:
        """Share that is used up; the learning rate follows it."""
        return max(seconds / self.seconds, steps / self.steps)


@dataclass(frozen=True)
class Plan:
    name: str
    seed: int
    device: str
    autocast: bool  # bfloat16 for matrix products and convolutions
    threads: int

    # Data
    size_px: int
    geometries: int
    recolourings: int
    render_workers: int

    # Networks
    vae_channels: tuple[int, ...]
    vae_layers: int
    text_width: int
    text_hidden: int
    text_layers: int
    unet_channels: tuple[int, ...]
    unet_layers: int

    # Budgets and batches
    vae: Budget
    vae_crops: int
    vae_images: int
    unet: Budget
    unet_more: Budget
    unet_batch: int
    decoder: Budget
    decoder_batch: int
    save_every_s: float

    # Evaluation
    judged_prompts: int
    judged_renders: int

    @property
    def crop_px(self) -> int:
        """Side of the crops that the VAE sees first."""
        return max(32, self.size_px // 2 // 8 * 8)

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device)

    def data_key(self) -> dict[str, int]:
        """What the renders depend on: a folder of renders made with other values is not reused."""
        return {"seed": self.seed, "size_px": self.size_px, "recolourings": self.recolourings}

    def describe(self) -> dict[str, object]:
        return asdict(self)


STUDIO = Plan(
    name="studio",
    seed=20,
    device="cpu",
    autocast=True,
    threads=2,
    size_px=192,
    geometries=3500,
    recolourings=3,
    render_workers=2,
    vae_channels=(16, 32, 64, 128),
    vae_layers=1,
    text_width=128,
    text_hidden=384,
    text_layers=3,
    unet_channels=(64, 128, 192),
    unet_layers=1,
    vae=Budget(600),
    vae_crops=8,
    vae_images=2,
    unet=Budget(2220),
    unet_more=Budget(400),
    unet_batch=16,
    decoder=Budget(270),
    decoder_batch=2,
    save_every_s=120,
    judged_prompts=64,
    judged_renders=40,
)
SMOKE = replace(
    STUDIO,
    name="smoke",
    autocast=False,
    threads=1,  # two threads on cores that others use as well wait for each other most of the time
    size_px=64,
    geometries=32,
    recolourings=2,
    render_workers=1,
    vae=Budget(25, 60),
    vae_crops=4,
    unet=Budget(30, 60),
    unet_more=Budget(8, 12),
    unet_batch=8,
    decoder=Budget(8, 20),
    save_every_s=5,
    judged_prompts=8,
    judged_renders=8,
)
LARGE = replace(
    STUDIO,
    name="large",
    device="cuda",
    size_px=384,
    geometries=12_000,
    recolourings=4,
    render_workers=8,
    vae_channels=(32, 64, 128, 256),
    vae_layers=2,
    text_width=256,
    text_hidden=768,
    text_layers=4,
    unet_channels=(128, 256, 384),
    unet_layers=2,
    vae=Budget(2400),
    vae_crops=32,
    vae_images=8,
    unet=Budget(9000),
    unet_more=Budget(1500),
    unet_batch=64,
    decoder=Budget(1200),
    decoder_batch=8,
)
PLANS = {plan.name: plan for plan in (STUDIO, SMOKE, LARGE)}
