"""The law: whatever the variant, the tape's gradients are those of one backward per example."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache

import peft
import torch
from torch import Tensor, nn

from dplit.errors import DplitError
from dplit.grads import PerExample, Tape
from dplit.grads.probe import probe
from tests.oracle import error, law_exact, loop_gradients
from tests.zoo import decoders, encoders, plain, vision
from tests.zoo.family import ALIKE, ALONE, APART, CASES, Case, Size, Subject

REGISTERED = (encoders, decoders, vision, plain)
"""Importing them is what registers their families."""

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
ROUNDING = 1e-7
"""What float32 inside a float64 model leaves."""


class Unavailable(Exception):
    """The family has no such variant: no switch for checkpointing, or nothing for LoRA to adapt."""


@dataclass(frozen=True)
class Variant:
    """One way in which a family is trained."""

    column: str
    arrange: Callable[[nn.Module], None] = lambda module: None
    """Freezes parameters, or turns a switch, after the weights are drawn."""
    size: Size = APART
    dtype: torch.dtype = torch.float64
    lora: bool = False


def _checkpointing(reentrant: bool) -> Callable[[nn.Module], None]:
    def switch(module: nn.Module) -> None:
        if not getattr(module, "supports_gradient_checkpointing", False):
            raise Unavailable("no switch")
        module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        if isinstance(module, peft.PeftModel):
            module.enable_input_require_grads()

    return switch


def _trainable(chosen: Callable[[list[nn.Parameter]], list[nn.Parameter]]) -> Callable[[nn.Module], None]:
    def freeze(module: nn.Module) -> None:
        kept = {id(p) for p in chosen(list(module.parameters()))}
        for p in module.parameters():
            p.requires_grad_(p.requires_grad and id(p) in kept)

    return freeze


VARIANTS = {
    "float64": Variant("plain"),
    "float32": Variant("plain", dtype=torch.float32),
    "as many examples as heads": Variant("plain", size=ALIKE),
    "one example": Variant("plain", size=ALONE),
    "LoRA": Variant("LoRA", lora=True),
    "LoRA in float32": Variant("LoRA", lora=True, dtype=torch.float32),
    "checkpointing": Variant("checkpointing", _checkpointing(reentrant=False)),
    "reentrant checkpointing": Variant("checkpointing", _checkpointing(reentrant=True)),
    "LoRA with checkpointing": Variant("checkpointing", _checkpointing(reentrant=False), lora=True),
    "the upper half": Variant("some layers", _trainable(lambda found: found[len(found) // 2 :])),
    "the lower half": Variant("some layers", _trainable(lambda found: found[: len(found) // 2])),
    "biases and norms": Variant("some layers", _trainable(lambda found: [p for p in found if p.dim() == 1])),
}
COLUMNS = tuple(dict.fromkeys(variant.column for variant in VARIANTS.values()))


def subject(case: Case, variant: Variant) -> Subject:
    """Build a family in a variant, always with the same weights and the same batch.

    Weights are moved off their initial values, so that none is zero and no head is nearly uniform.
    """
    torch.manual_seed(0)
    built = case.build(variant.size)
    module = _adapted(built.module, case) if variant.lora else built.module
    with torch.no_grad():
        for p in module.parameters():
            p += 0.2 * torch.randn_like(p)
    module = module.to(variant.dtype).train()
    variant.arrange(module)
    inputs = {k: v.to(variant.dtype) if v.is_floating_point() else v for k, v in built.inputs.items()}
    return replace(built, module=module, inputs=inputs)


def _adapted(module: nn.Module, case: Case) -> nn.Module:
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=_targets(module, case), init_lora_weights=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(module, config)


def _targets(module: nn.Module, case: Case) -> str | list[str]:
    if case.targets == "Conv2d":
        return [name for name, one in module.named_modules() if isinstance(one, nn.Conv2d)]
    return case.targets if isinstance(case.targets, str) else list(case.targets)


@lru_cache(maxsize=8)
def oracle(case: Case, size: Size, dtype: torch.dtype, lora: bool) -> dict[str, Tensor]:
    """Return the gradients of every parameter a plain subject has, one example at a time."""
    one = subject(case, Variant("", size=size, dtype=dtype, lora=lora))
    return loop_gradients(one.module, lambda i: one.losses(slice(i, i + 1)), size.examples)


def recorded(one: Subject, examples: int) -> PerExample:
    with Tape(one.module, examples) as tape:
        losses = one.losses()
    return tape.backward(losses)


def law_family(case: Case, variant: Variant) -> None:
    """Norms, each parameter's norms and clipped sums equal the oracle's; `.grad` stays None."""
    variant = replace(variant, dtype=case.only or variant.dtype)
    one, tolerance = subject(case, variant), ROUNDING if case.rounds else 0.0
    tolerance = max(tolerance, TOLERANCE[variant.dtype])
    expected = _trained(one.module, oracle(case, variant.size, variant.dtype, variant.lora))
    gradients = recorded(one, variant.size.examples)
    law_exact(gradients, expected, tolerance)
    law_each_parameter(gradients, expected, tolerance)
    assert all(p.grad is None for p in one.module.parameters())


def law_each_parameter(gradients: PerExample, expected: dict[str, Tensor], tolerance: float) -> None:
    found = gradients.sq_norms()
    squares = {name: g.double().reshape(len(g), -1).square().sum(1) for name, g in expected.items()}
    total = sum(squares.values())
    for name, square in squares.items():
        assert torch.all((found[name].double() - square).abs() <= 2 * tolerance * total), name


def law_probe(case: Case) -> None:
    """The probe finds nothing wrong with a family whose examples are independent."""
    one = subject(case, Variant("", size=ALIKE))
    samples = range(ALIKE.examples)
    probe(one.module, lambda chosen: _chosen(one, list(chosen)).losses(), samples)


def _chosen(one: Subject, rows: list[int]) -> Subject:
    return replace(one, inputs={name: v[rows] for name, v in one.inputs.items()}, labels=one.labels[rows])


def _trained(module: nn.Module, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: expected[name] for name, p in module.named_parameters() if p.requires_grad}
