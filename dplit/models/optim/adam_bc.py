"""An Adam that takes the noise's variance out of its second moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override


class AdamBC(Optimizer):
    """DP-AdamBC: Adam whose second moment is corrected for the variance of the privacy noise.

    The gradient is g + z, z with standard deviation s in each coordinate, so that E(g + z)² = E g² + s²: at usual
    privacy s² is by far the larger part, and Adam's steps all have about one size. Here, with m̂ and v̂ Adam's own
    bias-corrected moments and ŝ² the same average of s² over the steps taken,

        θ ← θ (1 − lr·decay) − lr · m̂ / √max(v̂ − ŝ², floor).

    With s constant ŝ² = s² = (σC/B)², as in the source; where the bound moves, each step counts with its own s.
    `noise_std` is read once a step, before the closure runs, hence before the policy moves the bound.

    Source: Tang et al. 2023, arXiv:2312.14334, algorithm 1.

    Args:
        params: what to train, or parameter groups.
        noise_std: gives s of the next gradient, from public figures only.
        lr: step size.
        betas: how much of the first and second moment stays each step.
        floor: γ′ of the source, least corrected second moment; smaller takes larger steps where there is no signal.
        weight_decay: decoupled, as in AdamW.

    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        noise_std: Callable[[], float],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        floor: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        settings = {"lr": lr, "betas": betas, "floor": floor, "weight_decay": weight_decay}
        super().__init__(params, {**settings, "taken": 0, "noise_moment": 0.0})
        self._noise_std = noise_std

    @override
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; return what the closure did."""
        square = self._noise_std() ** 2
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._count(group, square)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)
        return loss

    def _count(self, group: dict[str, Any], square: float) -> None:
        keep = group["betas"][1]
        group["taken"] += 1
        group["noise_moment"] = keep * group["noise_moment"] + (1 - keep) * square

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, (first, second) = self.state[parameter], group["betas"]
        if not state:
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        unbias = 1 - second ** group["taken"]
        clean = ((state["square"] - group["noise_moment"]) / unbias).clamp(min=group["floor"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.addcdiv_(state["mean"], clean.sqrt_(), value=-group["lr"] / (1 - first ** group["taken"]))
