"""Trains the decoder alone on slightly noisy latents, so that it forgives the UNet's errors.

The encoder stays as it is: the UNet has learnt its latents.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from loop import Stage, autocast, coarse_difference, gradient_difference, picture
from muon import optimisers
from plan import Plan
from render import load_renders
from train_vae import load_latents, quality

NOISE_MAX = 0.1


def finetune_decoder(plan: Plan, work: Path) -> dict[str, Any]:
    renders, latents = load_renders(plan, work), load_latents(work)
    vae = AutoencoderKL.from_pretrained(work / "vae").to(plan.torch_device, memory_format=torch.channels_last)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    stage = Stage(
        "decoder",
        plan,
        work,
        plan.decoder,
        {"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv},
        optimisers([vae.decoder, vae.post_quant_conv], muon_lr=8e-4, adam_lr=5e-4, momentum=0.9),
        rate=lambda _, progress: 1 - progress,
        decay=lambda step: min(0.995, (step + 1) / (step + 12)),
    )

    def loss_at(_: int, __: float) -> Tensor:
        indices = [stage.rng.randrange(len(latents)) for _ in range(plan.decoder_batch)]
        images = picture(renders.images[indices], plan.torch_device)
        clean = latents[indices]
        noisy = clean + NOISE_MAX * torch.rand(len(indices), 1, 1, 1) * torch.randn(clean.shape)
        with autocast(plan):
            decoded = vae.decode(noisy.to(plan.torch_device)).sample
        decoded = decoded.float()
        return (
            F.l1_loss(decoded, images)
            + 0.8 * gradient_difference(decoded, images)
            + F.mse_loss(decoded, images)
            + 0.3 * coarse_difference(decoded, images)
        )

    figures = stage.run(loss_at)
    sample = torch.arange(0, len(latents), max(1, len(latents) // 64))
    figures["psnr_db"] = round(quality(vae, renders, latents, sample, plan), 2)
    vae.save_pretrained(work / "vae-tuned")
    stage.discard_state()
    return figures
