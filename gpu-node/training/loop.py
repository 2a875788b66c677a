"""What the training stages share: the loop with its time budget, moving averages, and resuming.

A stage that is interrupted goes on from its last saved state, with the same optimisers, averages, random numbers and used-up
time; a stage that is done is marked by a file with its figures and is not run again.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plan import Budget, Plan

LOG_EVERY = 25
WARMUP_LOG_STEPS = 5


class Averages:
    """Exponential moving averages of every parameter and buffer (Polyak); what is exported."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        self.modules = modules
        self.shadow = {name: {k: v.detach().clone() for k, v in m.state_dict().items()} for name, m in modules.items()}

    @torch.no_grad()
    def update(self, decay: float) -> None:
        for name, module in self.modules.items():
            for key, value in module.state_dict().items():
                shadow = self.shadow[name][key]
                if value.is_floating_point():
                    shadow.lerp_(value, 1 - decay)
                else:
                    shadow.copy_(value)

    def apply(self) -> None:
        """Puts the averages into the modules."""
        for name, module in self.modules.items():
            module.load_state_dict(self.shadow[name])


class Stage:
    """One training stage: `run` calls `loss_at(step, progress)` until the budget is used up."""

    def __init__(
        self,
        name: str,
        plan: Plan,
        work: Path,
        budget: Budget,
        modules: dict[str, nn.Module],
        optimisers: list[torch.optim.Optimizer],
        rate: Callable[[int, float], float],
        decay: Callable[[int], float],
    ) -> None:
        self.name, self.plan, self.budget = name, plan, budget
        self.state_path = work / f"{name}.state.pt"
        self.modules, self.optimisers, self.rate, self.decay = modules, optimisers, rate, decay
        self.base_rates = [[group["lr"] for group in optimiser.param_groups] for optimiser in optimisers]
        self.averages = Averages(modules)
        self.rng = random.Random(f"{name}/{plan.seed}")
        self.step, self.seconds, self.recent = 0, 0.0, 0.0
        torch.manual_seed(plan.seed)
        self._resume()

    def run(self, loss_at: Callable[[int, float], Tensor]) -> dict[str, Any]:
        """Trains; leaves the averaged weights in the modules and returns the stage's figures."""
        for module in self.modules.values():
            module.train()
        saved = self.seconds
        while (progress := self.budget.progress(self.seconds, self.step)) < 1.0:
            started = time.monotonic()
            loss = loss_at(self.step, progress)
            self._update(loss, self.rate(self.step, progress))
            value = loss.item()
            if value != value:
                raise FloatingPointError(f"{self.name}: the loss is not a number at step {self.step}")
            self.recent = value if self.step == 0 else 0.98 * self.recent + 0.02 * value
            self.step += 1
            self.seconds += time.monotonic() - started
            if self.step % LOG_EVERY == 0 or self.step <= WARMUP_LOG_STEPS:
                print(f"{self.name}: step {self.step}, {self.seconds:.0f} s, loss {self.recent:.4f}", flush=True)
            if self.seconds - saved > self.plan.save_every_s:
                self._save()
                saved = self.seconds
        self.averages.apply()
        for module in self.modules.values():
            module.eval()
        return {"steps": self.step, "seconds": round(self.seconds, 1), "loss": round(self.recent, 5)}

    def discard_state(self) -> None:
        """To be called once the results are stored."""
        self.state_path.unlink(missing_ok=True)

    def _update(self, loss: Tensor, factor: float) -> None:
        for optimiser, rates in zip(self.optimisers, self.base_rates, strict=True):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for optimiser in self.optimisers:
            optimiser.step()
        self.averages.update(self.decay(self.step))

    def _save(self) -> None:
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "recent": self.recent,
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "averages": self.averages.shadow,
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "torch_random": torch.get_rng_state(),
            "random": self.rng.getstate(),
        }
        beside = self.state_path.with_suffix(".new")
        torch.save(state, beside)
        beside.replace(self.state_path)

    def _resume(self) -> None:
        if not self.state_path.exists():
            return
        # Our own file; it holds Python's random state, which the restricted loader refuses.
        state = torch.load(self.state_path, map_location=self.plan.device, weights_only=False)
        self.step, self.seconds, self.recent = state["step"], state["seconds"], state["recent"]
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        self.averages.shadow = state["averages"]
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        torch.set_rng_state(state["torch_random"].cpu())
        self.rng.setstate(state["random"])
        print(f"{self.name}: goes on at step {self.step}, {self.seconds:.0f} s", flush=True)


def autocast(plan: Plan) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(plan.torch_device.type, torch.bfloat16, enabled=plan.autocast)


def ramp(step: int, steps: int) -> float:
    """Linear warm-up."""
    return min(1.0, (step + 1) / steps)


def picture(images: Tensor, device: torch.device) -> Tensor:
    """uint8 pictures as the networks see them: float32 in −1 to 1."""
    return images.to(device).float().div(127.5).sub(1.0).contiguous(memory_format=torch.channels_last)


def gradient_difference(a: Tensor, b: Tensor) -> Tensor:
    """L1 between the pictures' horizontal and vertical differences: keeps edges where they are."""
    across = (a.diff(dim=-1) - b.diff(dim=-1)).abs().mean()
    down = (a.diff(dim=-2) - b.diff(dim=-2)).abs().mean()
    return across + down


def coarse_difference(a: Tensor, b: Tensor) -> Tensor:
    """L1 between 8×8 means: keeps the colours of areas."""
    return F.l1_loss(F.avg_pool2d(a, 8), F.avg_pool2d(b, 8))


def psnr_db(a: Tensor, b: Tensor) -> float:
    """Of pictures in −1 to 1, whose range is 2."""
    return float(10 * torch.log10(4.0 / F.mse_loss(a.float(), b.float()).clamp(min=1e-12)))


def batches(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def write_json(path: Path, value: dict[str, Any]) -> None:
    beside = path.with_suffix(path.suffix + ".new")
    beside.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    beside.replace(path)
