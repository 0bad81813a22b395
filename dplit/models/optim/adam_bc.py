"""An Adam that subtracts the variance of the privacy noise from its second moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

ParameterGroup = dict[str, Any]
"""Parameters under `params`, with settings of their own; the type is torch's."""


class AdamBC(Optimizer):
    """DP-AdamBC: Adam whose second moment is corrected for the variance of the privacy noise.

    The released gradient is g + z, where z has standard deviation s in each coordinate. Hence E(g + z)² = E g² + s², and at
    usual privacy s² is by far the larger part, so that all steps of Adam have about the same size. With m̂ and v̂ the
    bias-corrected moments of Adam and ŝ² the same moving average of s², a step here is

        θ ← θ (1 − lr·decay) − lr · m̂ / √max(v̂ − ŝ², floor).

    If s is constant, ŝ² = s² = (σC/B)², as in the source. If a policy changes the clipping bound, each step counts with its
    own s: `noise_std` is read once a step, before the closure runs, hence before the policy changes the bound.

    Source: Tang et al. 2023, arXiv:2312.14334, algorithm 1.

    Args:
        params: the parameters, or parameter groups.
        noise_std: returns s of the next gradient, computed from public numbers only.
        lr: step size.
        betas: decay rates of the first and second moment, in [0, 1).
        floor: lower bound of the corrected second moment, γ′ of the source; a smaller one makes larger steps where there
            is no signal.
        weight_decay: decoupled, as in AdamW.

    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[ParameterGroup],
        noise_std: Callable[[], float],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        floor: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        settings = {"lr": lr, "betas": betas, "floor": floor, "weight_decay": weight_decay}
        super().__init__(params, {**settings, "taken": 0, "noise_moment": 0.0})
        self._noise_std = noise_std

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @override
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step, and return what the closure returned."""
        noise_variance = self._noise_std() ** 2
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._average_noise(group, noise_variance)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(self.state[parameter], _real(parameter), _real(parameter.grad), group)
        return loss

    def _average_noise(self, group: ParameterGroup, noise_variance: float) -> None:
        decay = group["betas"][1]
        group["taken"] += 1
        group["noise_moment"] = decay * group["noise_moment"] + (1 - decay) * noise_variance

    def _update(self, state: dict[str, Tensor], parameter: Tensor, gradient: Tensor, group: ParameterGroup) -> None:
        first, second = group["betas"]
        if not state:
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        bias_correction = 1 - second ** group["taken"]
        corrected = ((state["square"] - group["noise_moment"]) / bias_correction).clamp(min=group["floor"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.addcdiv_(state["mean"], corrected.sqrt_(), value=-group["lr"] / (1 - first ** group["taken"]))


def _real(x: Tensor) -> Tensor:
    """Return a tensor that shares memory with x, in which a complex number is two numbers."""
    return torch.view_as_real(x) if x.is_complex() else x
