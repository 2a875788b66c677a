"""Trains the autoencoder, scales its latents to unit variance, and caches the latents of every picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from loop import Stage, autocast, batches, coarse_difference, gradient_difference, picture, psnr_db, ramp
from muon import optimisers
from networks import build_vae
from plan import Plan
from render import Renders, load_renders

CROP_SHARE = 0.74  # of the time on crops: three times as many different pictures per second
KL_WEIGHT = 3e-4


def train_vae(plan: Plan, work: Path) -> dict[str, Any]:
    renders = load_renders(plan, work)
    vae = build_vae(plan)
    stage = Stage(
        "vae",
        plan,
        work,
        plan.vae,
        {"vae": vae},
        optimisers([vae], muon_lr=2e-3, adam_lr=1.2e-3, momentum=0.9),
        rate=lambda step, progress: ramp(step, 20) * (1 - progress) ** 0.8,
        decay=lambda step: min(0.997, (step + 1) / (step + 12)),
    )

    def loss_at(_: int, progress: float) -> Tensor:
        images = crops(stage, renders, plan) if progress < CROP_SHARE else wholes(stage, renders, plan)
        with autocast(plan):
            posterior = vae.encode(images).latent_dist
            decoded = vae.decode(posterior.sample()).sample
        return reconstruction_loss(decoded.float(), images) + KL_WEIGHT * divergence(posterior.mean, posterior.logvar)

    figures = stage.run(loss_at)
    figures |= fold_statistics(vae, renders, plan)
    latents = encode_all(vae, renders, plan)
    save_file({"latents": latents}, work / "latents.safetensors")
    sample = torch.arange(0, len(renders.images), max(1, len(renders.images) // 64))
    figures["psnr_db"] = round(quality(vae, renders, latents, sample, plan), 2)
    vae.save_pretrained(work / "vae")
    stage.discard_state()
    return figures


def reconstruction_loss(decoded: Tensor, images: Tensor) -> Tensor:
    return (
        F.l1_loss(decoded, images)
        + 0.6 * gradient_difference(decoded, images)
        + F.mse_loss(decoded, images)
        + 0.5 * coarse_difference(decoded, images)
    )


def divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL from the unit normal, per latent value."""
    mean, logvar = mean.float(), logvar.float()
    return 0.5 * (mean * mean + logvar.exp() - 1 - logvar).mean()


def crops(stage: Stage, renders: Renders, plan: Plan) -> Tensor:
    """Crops around the middle, where the product is, flipped at random."""
    room = plan.size_px - plan.crop_px
    pieces = []
    for _ in range(plan.vae_crops):
        image = renders.images[stage.rng.randrange(len(renders.images))]
        top, left = (round(min(max(stage.rng.gauss(0.5, 0.25), 0), 1) * room) for _ in range(2))
        piece = image[:, top : top + plan.crop_px, left : left + plan.crop_px]
        pieces.append(piece.flip(-1) if stage.rng.random() < 0.5 else piece)
    return picture(torch.stack(pieces), plan.torch_device)


def wholes(stage: Stage, renders: Renders, plan: Plan) -> Tensor:
    indices = [stage.rng.randrange(len(renders.images)) for _ in range(plan.vae_images)]
    return picture(renders.images[indices], plan.torch_device)


@torch.no_grad()
def fold_statistics(vae: AutoencoderKL, renders: Renders, plan: Plan) -> dict[str, Any]:
    """Makes every latent channel mean 0 and variance 1, so that `scaling_factor` is 1.

    Exact: the 1×1 convolutions after the encoder and before the decoder take up what the other gives away.
    """
    some = renders.images[:: max(1, len(renders.images) // 512)]
    means = torch.cat(
        [vae.encode(picture(some[part], plan.torch_device)).latent_dist.mean for part in batches(len(some), 8)]
    )
    mean, std = means.mean((0, 2, 3)), means.std((0, 2, 3))
    channels = len(mean)
    outgoing, incoming = vae.quant_conv, vae.post_quant_conv
    outgoing.weight[:channels] /= std[:, None, None, None]
    outgoing.bias[:channels] = (outgoing.bias[:channels] - mean) / std
    outgoing.bias[channels:] -= 2 * std.log()  # the log-variance shrinks with its channel
    incoming.bias += (incoming.weight[:, :, 0, 0] * mean).sum(1)
    incoming.weight *= std[None, :, None, None]
    return {"latent_mean": [round(float(m), 4) for m in mean], "latent_std": [round(float(s), 4) for s in std]}


@torch.no_grad()
def encode_all(vae: AutoencoderKL, renders: Renders, plan: Plan) -> Tensor:
    """Posterior means of every picture, `[n, 4, size/8, size/8]` float32."""
    parts = []
    for part in batches(len(renders.images), 16):
        with autocast(plan):
            mean = vae.encode(picture(renders.images[part], plan.torch_device)).latent_dist.mean
        parts.append(mean.float().cpu())
    return torch.cat(parts).contiguous()


@torch.no_grad()
def quality(vae: AutoencoderKL, renders: Renders, latents: Tensor, indices: Tensor, plan: Plan) -> float:
    """Mean PSNR in dB of pictures decoded from their cached latents."""
    values = []
    for index in indices.tolist():
        decoded = vae.decode(latents[index : index + 1].to(plan.torch_device)).sample.clamp(-1, 1)
        values.append(psnr_db(decoded, picture(renders.images[index : index + 1], plan.torch_device)))
    return sum(values) / len(values)


def load_latents(work: Path) -> Tensor:
    return load_file(work / "latents.safetensors")["latents"]
