"""The rules of ownership, each against the experiment: an example's numbers are drawn anew, and what changes is looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from dplit.grads.ownership import registry
from dplit.grads.ownership.call import Call
from dplit.grads.ownership.owner_map import NONE, Owned, constant, of_dim
from tests.grads.ownership.rules import calls_numbers, calls_places
from tests.grads.ownership.rules.draws import CALLS
from tests.grads.ownership.rules.laws import Verdict, drawn_call, general, judged, ordinary, ruled

assert calls_numbers, calls_places  # they register calls by being imported

ONLY_ELSEWHERE = {
    "_efficient_attention_forward": "CUDA",
    "_flash_attention_forward": "CUDA",
    "_scaled_dot_product_flash_attention": "CUDA",
    "_scaled_dot_product_flash_attention_backward": "CUDA",
    "_scaled_dot_product_efficient_attention": "CUDA",
    "_scaled_dot_product_efficient_attention_backward": "CUDA",
    "_scaled_dot_product_cudnn_attention": "CUDA",
    "_scaled_dot_product_cudnn_attention_backward": "CUDA",
    "_scaled_dot_product_fused_attention_overrideable": "other devices",
    "_cudnn_ctc_loss": "CUDA",
    "cudnn_batch_norm": "CUDA",
    "cudnn_batch_norm_backward": "CUDA",
    "cudnn_convolution": "CUDA",
    "miopen_batch_norm": "ROCm",
    "conv_depthwise3d": "CUDA",
    "_fused_dropout": "CUDA",
    "_fused_rms_norm_backward": "CUDA",
    "_masked_scale": "CUDA",
    "_pin_memory": "CUDA",
    "pin_memory": "CUDA",
    "_sparse_softmax": "sparse tensors",
    "mkldnn_adaptive_avg_pool2d": "tensors in oneDNN's layout",
    "mkldnn_max_pool2d": "tensors in oneDNN's layout",
}
"""Operations without a call here: where they are carried out."""

SHIFTS_THE_GENERATOR = {"poisson"}
"""How many random numbers it takes for a rate depends on the rate, so that the next ones get others, just as random."""

ALWAYS_MIXES = {
    "addbmm",
    "histc",
    "bincount",
    "msort",
    "take",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "_unique",
}
ALWAYS_MIXES |= {
    "unique_dim_consecutive",
    "repeat_interleave",
    "embedding_dense_backward",
    "embedding_backward",
    "trace",
}
"""Operations over all rows, by what they are."""

FEW, MANY = range(3), range(100)
"""Seeds: for each, an ordinary call and one of any layout."""


def verdicts(name: str, seeds: range, maps_of: Callable[..., Any]) -> list[tuple[bool, Verdict]]:
    drawn = [drawn_call(name, seed) for seed in seeds]
    return [(draws.mixes, judged(draws, call, maps_of(draws))) for draws, call in drawn]


def law(name: str, seeds: range) -> None:
    """What a rule says of a number is true; in ordinary layouts, it keeps apart what the call keeps apart.

    It is this rule that was asked: a call that is carried out in parts, each with a rule of its own, would say nothing of it.
    """
    plain, anyhow = verdicts(name, seeds, ordinary), verdicts(name, seeds, general)
    faults = [str(fault) for _, v in plain + anyhow for fault in v.faults]
    assert not faults or name in SHIFTS_THE_GENERATOR, faults[:3]
    blurred = sum(v.several and not v.met for mixes, v in plain if not mixes)
    apart = sum(not mixes for mixes, _ in plain)
    assert any(v.followed.get(name) for _, v in plain + anyhow)
    assert blurred == 0 or name in ALWAYS_MIXES, f"{blurred} of {apart} ordinary calls are said to mix examples"


@pytest.mark.parametrize("name", sorted(CALLS))
def test_what_is_said_of_a_number_is_true(name: str) -> None:
    law(name, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CALLS))
def test_what_is_said_of_a_number_is_true_in_two_hundred_calls(name: str) -> None:
    law(name, MANY)


def test_every_rule_has_a_call() -> None:
    without = set(ruled()) - set(CALLS) - set(ONLY_ELSEWHERE)
    assert not without, "draw a call of it in calls_numbers.py or calls_places.py"
    assert not set(ONLY_ELSEWHERE) & set(CALLS)


def test_every_rule_is_of_an_operation_that_torch_has() -> None:
    known = [hasattr(torch.ops.aten, name) or hasattr(torch.ops.dplit, name) for name in ruled()]
    assert all(known), [name for name, has in zip(ruled(), known, strict=True) if not has]


def test_sixty_operations_number_by_number_are_among_them() -> None:
    assert sum(registry.rule_of(name) in (None, registry.POINTWISE) for name in CALLS) >= 60


def test_most_ordinary_calls_keep_examples_apart() -> None:
    """Else the law of keeping apart would say little."""
    shares = {name: sum(not drawn_call(name, seed)[0].mixes for seed in range(40)) / 40 for name in CALLS}
    assert not {name: share for name, share in shares.items() if share < 0.2 and name not in ALWAYS_MIXES}


# -- mutants ---------------------------------------------------------------------------------------------------------------


def caught(name: str, rule: registry.OwnerRule, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the law of an operation fails with another rule in the place of its own."""
    monkeypatch.setitem(registry.RULES, name, rule)
    try:
        law(name, range(8))
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize(
    "name", ["where", "addcmul", "mm", "gather", "index_select", "cat", "nll_loss_forward", "index_put"]
)
@pytest.mark.parametrize("forgotten", [0, 1, -1])
def test_mutant_a_rule_that_forgets_an_argument(name: str, forgotten: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = registry.RULES[name]

    def rule(call: Call) -> Owned | list[Owned]:
        given = list(call.tensors())
        left = {k: v for k, v in call.maps.items() if k != id(given[forgotten])}
        return real(replace(call, maps=left))

    assert caught(name, rule, monkeypatch)


@pytest.mark.parametrize(
    "name", ["sum", "mean", "amax", "_softmax", "cumsum", "sort", "logsumexp", "native_layer_norm"]
)
def test_mutant_a_reduction_that_keeps_examples_apart(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def rule(call: Call) -> list[Owned]:
        rows = torch.arange(call.examples)
        return [
            of_dim(r.shape, 0, rows) if r.dim() and len(r) == call.examples else constant(r.shape) for r in call.results
        ]

    assert caught(name, rule, monkeypatch)


@pytest.mark.parametrize("name", ["mm", "index_select", "view", "permute", "cat", "roll"])
def test_mutant_ownership_by_divisibility(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first dimension that n divides is not the examples' for that."""

    def rule(call: Call) -> list[Owned]:
        return [_by_divisibility(r, call.examples) for r in call.results]

    assert caught(name, rule, monkeypatch)


def _by_divisibility(value: torch.Tensor, n: int) -> Owned:
    for d, size in enumerate(value.shape):
        if size and size % n == 0:
            return of_dim(value.shape, d, torch.arange(n).repeat_interleave(size // n))
    return constant(value.shape)


@pytest.mark.parametrize("name", ["add", "mm", "sum", "index", "convolution", "native_layer_norm", "sort", "view"])
def test_mutant_a_rule_that_says_several_of_all(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert caught(
        name,
        lambda call: (
            [call.together(call.owner(None)).new_full(r.shape, call.mixed) for r in call.results]
            and [Owned(torch.full(r.shape, call.mixed, dtype=torch.int32)) for r in call.results]
        ),
        monkeypatch,
    )


def test_mutant_a_number_that_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    def rule(call: Call) -> list[Owned]:
        return [Owned(torch.full(r.shape, NONE, dtype=torch.int32)) for r in call.results]

    assert all(caught(name, rule, monkeypatch) for name in ("add", "mm", "index", "sort", "sum"))
