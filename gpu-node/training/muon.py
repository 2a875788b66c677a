"""Muon: momentum, orthogonalised by Newton–Schulz, for hidden weights of two and more dimensions.

Keller Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the update is scaled by
`0.2 · sqrt(max(n, m))` (Liu et al. 2025, "Muon is scalable for LLM training"), so that learning rates in AdamW's range fit.
Convolution kernels are flattened to matrices. Weights of one shape are orthogonalised together in one batch: these networks
have many small matrices, and the cost is in the calls.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

# Quintic iteration that brings singular values near 1 in five steps without being exact (Jordan's coefficients).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5

# Layers at a network's edges, and tables: their rows are not directions in a hidden space.
EDGES = ("conv_in", "conv_out", "quant_conv", "embedding")


def orthogonalise(update: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrices to `[k, n, m]`, roughly, in bfloat16."""
    a, b, c = COEFFICIENTS
    x = update.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(update.dtype)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; decoupled weight decay."""

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        assert closure is None, "Muon does not reevaluate the loss"
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.flatten(1).shape].append(parameter)
            for parameters in by_shape.values():
                self._step_together(parameters, group)

    def _step_together(self, parameters: list[Tensor], group: dict[str, float]) -> None:
        directions = []
        for parameter in parameters:
            state = self.state[parameter]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter)
            momentum: Tensor = state["momentum"]
            momentum.mul_(group["momentum"]).add_(parameter.grad)
            directions.append(parameter.grad.add(momentum, alpha=group["momentum"]).flatten(1))
        updates = orthogonalise(torch.stack(directions))
        scale = 0.2 * max(updates.shape[-2:]) ** 0.5
        for parameter, update in zip(parameters, updates, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update.view(parameter.shape), alpha=-group["lr"] * scale)


def optimisers(
    modules: Iterable[nn.Module], muon_lr: float, adam_lr: float, momentum: float, weight_decay: float = 0.0
) -> list[torch.optim.Optimizer]:
    """Muon for hidden weights, AdamW for biases, norms, edges and embeddings."""
    hidden: list[Tensor] = []
    others: list[Tensor] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                is_hidden = parameter.ndim >= 2 and not any(edge in name for edge in EDGES)
                (hidden if is_hidden else others).append(parameter)
    adam = torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.99), weight_decay=0.0)
    return [Muon(hidden, muon_lr, momentum, weight_decay), adam]
