"""Trains UNet and text encoder together on the cached latents, then the UNet a little more at a falling rate.

Latent diffusion (Rombach et al. 2022) with v-prediction (Salimans & Ho 2022) and the min-SNR weight (Hang et al. 2023).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from factors import caption
from loop import Stage, autocast, ramp
from muon import optimisers
from networks import build_text_encoder, build_unet, scheduler
from plan import Plan
from render import Renders, load_renders
from tokenizer import encode
from train_vae import load_latents

SNR_MAX = 5.0
WEIGHT_FLOOR = 0.1  # keeps the nearly clean timesteps from being forgotten
FLAT_SHARE = 0.25


class Denoising:
    """The loss of a batch: noisy latents, fresh captions, predicted velocities."""

    def __init__(self, plan: Plan, work: Path, unet: UNet2DConditionModel, encoder: CLIPTextModel) -> None:
        self.plan, self.unet, self.encoder = plan, unet, encoder
        self.latents = load_latents(work)
        self.renders: Renders = load_renders(plan, work)
        self.tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
        self.signal = scheduler().alphas_cumprod.to(plan.torch_device)

    def loss(self, stage: Stage) -> Tensor:
        device, count = self.plan.torch_device, self.plan.unet_batch
        indices = [stage.rng.randrange(len(self.latents)) for _ in range(count)]
        clean = self.latents[indices].to(device)
        texts = [caption(self.renders.factors_of(index), stage.rng) for index in indices]
        ids = torch.tensor(encode(self.tokenizer, texts), device=device)
        timesteps = stratified_timesteps(count, len(self.signal)).to(device)
        signal = self.signal[timesteps][:, None, None, None]
        noise = torch.randn(clean.shape).to(device)
        noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
        velocity = signal.sqrt() * noise - (1 - signal).sqrt() * clean
        with autocast(self.plan):
            states = self.encoder(ids).last_hidden_state
            predicted = self.unet(
                noisy.contiguous(memory_format=torch.channels_last), timesteps, encoder_hidden_states=states
            ).sample
        error = (predicted.float() - velocity).square().mean((1, 2, 3))
        return (min_snr_weight(signal.flatten()) * error).mean()


def stratified_timesteps(count: int, timesteps: int) -> Tensor:
    """Uniform, one from each of `count` equal parts: batches differ less from one another."""
    return ((torch.randperm(count) + torch.rand(count)) / count * timesteps).long().clamp(max=timesteps - 1)


def min_snr_weight(signal: Tensor) -> Tensor:
    """For velocities: `min(snr, 5) / (snr + 1)`, and a floor."""
    snr = signal / (1 - signal)
    return snr.clamp(max=SNR_MAX) / (snr + 1) + WEIGHT_FLOOR


def train_unet(plan: Plan, work: Path) -> dict[str, Any]:
    torch.manual_seed(plan.seed + 1)
    unet, encoder = build_unet(plan), build_text_encoder(plan)
    denoising = Denoising(plan, work, unet, encoder)
    stage = Stage(
        "unet",
        plan,
        work,
        plan.unet,
        {"unet": unet, "text_encoder": encoder},
        optimisers([unet, encoder], muon_lr=1.5e-3, adam_lr=1.2e-3, momentum=0.95, weight_decay=0.01),
        rate=lambda step, progress: ramp(step, 60) * min(1.0, (1 - progress) / (1 - FLAT_SHARE)),
        decay=lambda step: min(0.9985, (step + 1) / (step + 12)),
    )
    figures = stage.run(lambda _, __: denoising.loss(stage))
    unet.save_pretrained(work / "unet")
    encoder.save_pretrained(work / "text_encoder")
    stage.discard_state()
    return figures


def continue_unet(plan: Plan, work: Path) -> dict[str, Any]:
    """The same on the UNet alone, from its averages, at about half the rate falling to nothing."""
    device = plan.torch_device
    unet = UNet2DConditionModel.from_pretrained(work / "unet").to(device, memory_format=torch.channels_last)
    if plan.device == "cpu":
        unet.set_attn_processor(AttnProcessor())
    encoder = CLIPTextModel.from_pretrained(work / "text_encoder", attn_implementation="eager").to(device).eval()
    encoder.requires_grad_(False)
    denoising = Denoising(plan, work, unet, encoder)
    stage = Stage(
        "unet-more",
        plan,
        work,
        plan.unet_more,
        {"unet": unet},
        optimisers([unet], muon_lr=7e-4, adam_lr=5.6e-4, momentum=0.95, weight_decay=0.01),
        rate=lambda step, progress: ramp(step, 20) * (1 - progress),
        decay=lambda step: min(0.9985, (step + 1) / (step + 12)),
    )
    figures = stage.run(lambda _, __: denoising.loss(stage))
    unet.save_pretrained(work / "unet-more")
    stage.discard_state()
    return figures
