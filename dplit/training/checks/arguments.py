"""Arguments of a private strategy that are out of range."""

from __future__ import annotations

from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn

from dplit.errors import ConfigurationError
from dplit.privacy import Target


def check_arguments(noise: Any, loss_reduction: Any, delta: Any, grads: Any) -> None:
    """Refuse arguments of DPStrategy that are out of range."""
    number = isinstance(noise, int | float) and not isinstance(noise, bool)
    if not isinstance(noise, Target) and not (number and 0 < noise < float("inf")):
        raise ConfigurationError(f"noise={noise!r} must be a Target(epsilon, delta) or a noise multiplier above 0")
    if loss_reduction not in (None, "mean", "sum"):
        raise ConfigurationError(f"loss_reduction={loss_reduction!r} must be None, 'mean' or 'sum'")
    if grads not in ("tape", "vmap", "loop"):
        raise ConfigurationError(f"grads={grads!r} must be 'tape', 'vmap' or 'loop'")
    if delta is not None and not 0 < delta < 1:
        raise ConfigurationError(f"delta={delta!r} must lie between 0 and 1")


def warn_of_delta(delta: float | None, records: int) -> None:
    """Warn of a δ that lets a record be released outright."""
    if delta is not None and delta >= 1 / records:
        rank_zero_warn(
            f"delta={delta:g} is not below 1/{records}, one over the number of records: releasing a record outright "
            "would meet it; choose a smaller delta"
        )
