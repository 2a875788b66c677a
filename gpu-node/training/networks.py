"""The three networks, and how their weights start.

Residual branches start at zero and plain convolutions with variance 1 / fan-in: the networks begin as nearly linear maps
that keep the scale of what passes, which matters when there are minutes to train.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from plan import Plan
from tokenizer import MERGES, POSITIONS

VOCABULARY = 2 * 256 + MERGES + 2


def build_vae(plan: Plan) -> AutoencoderKL:
    """Four resolutions, hence a factor of 8; one norm group, because groups of two channels erase absolute colour."""
    blocks = len(plan.vae_channels)
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=plan.vae_channels,
        layers_per_block=plan.vae_layers,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        norm_num_groups=1,
        sample_size=plan.size_px,
        scaling_factor=1.0,
        force_upcast=False,
    )
    with torch.no_grad():
        for name, module in vae.named_modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=(module.in_channels * module.kernel_size[0] ** 2) ** -0.5)
                nn.init.zeros_(module.bias)
            if name.endswith(".conv2") or name.endswith(".to_out.0"):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)
        # The encoder's second half of channels is the log-variance: start nearly certain.
        vae.quant_conv.bias[4:].fill_(-3.0)
    return vae.to(plan.torch_device, memory_format=torch.channels_last)


def build_text_encoder(plan: Plan) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=plan.text_width,
        intermediate_size=plan.text_hidden,
        num_hidden_layers=plan.text_layers,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        projection_dim=plan.text_width,
        hidden_act="quick_gelu",
        bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
        pad_token_id=VOCABULARY - 1,
    )
    config._attn_implementation = "eager"
    return CLIPTextModel(config).to(plan.torch_device)


def build_unet(plan: Plan) -> UNet2DConditionModel:
    with_text = len(plan.unet_channels) - 1
    unet = UNet2DConditionModel(
        sample_size=plan.size_px // 8,
        in_channels=4,
        out_channels=4,
        block_out_channels=plan.unet_channels,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * with_text,
        up_block_types=("CrossAttnUpBlock2D",) * with_text + ("UpBlock2D",),
        layers_per_block=plan.unet_layers,
        attention_head_dim=4,  # the number of heads, despite its name
        cross_attention_dim=plan.text_width,
        norm_num_groups=8,
    )
    with torch.no_grad():
        for name, module in unet.named_modules():
            if name.endswith(".conv2") or name == "conv_out":
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)
    if plan.device == "cpu":
        # The fused attention's backward pass took a third of a step on CPUs.
        unet.set_attn_processor(AttnProcessor())
    return unet.to(plan.torch_device, memory_format=torch.channels_last)


def scheduler() -> DDIMScheduler:
    """v-prediction up to a terminal signal level of 0.012, so that strong backdrop colours are not pulled to gray."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.0001,
        beta_end=0.025,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )
