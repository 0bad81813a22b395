"""Coupling between examples is found and named; what only looks like it is not."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import SumMetric

from dplit.errors import CoupledExamples, PrivacyError, UnsupportedOperation
from dplit.grads.coupling import probe as probe_module
from dplit.grads.coupling.fixed_randomness import FixedRandomness
from dplit.grads.coupling.lasting_state import LastingState
from dplit.grads.coupling.probe import probe
from dplit.grads.coupling.trial import Trials
from dplit.grads.factors.base import DenseGrad
from dplit.grads.per_example import PerExample
from dplit.training.memory.device_memory import Allocations

Model = Callable[[nn.Module, Tensor], Tensor]


class Net(nn.Module):
    def __init__(self, body: Model) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.group = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8))
        self.drop = nn.Dropout(0.5)
        self.batch = nn.BatchNorm1d(8, affine=False)
        self.last = nn.Linear(8, 3)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(self, x))


def cross_entropy(logits: Tensor, samples: Sequence[Tensor]) -> Tensor:
    return F.cross_entropy(logits, torch.tensor([int(s[0] > 0) for s in samples]), reduction="none")


def run(body: Model, loss: Callable[[Tensor, Sequence[Tensor]], Tensor] = cross_entropy, n: int = 5) -> None:
    torch.manual_seed(0)
    net = Net(body)
    probe_module.probe(net, torch.stack, lambda x, n: loss(net(x), x), list(torch.randn(n, 6)))


COUPLED: dict[str, tuple[Model, Callable[[Tensor, Sequence[Tensor]], Tensor]]] = {
    "batch_norm": (lambda m, x: m.batch(m.first(x)), cross_entropy),
    "batch_maximum": (lambda m, x: m.first(x) / m.first(x).abs().max().detach(), cross_entropy),
    "batch_mean": (lambda m, x: m.first(x) - m.first(x).mean(0, keepdim=True).detach(), cross_entropy),
    "gradient_of_the_batch_mean": (
        lambda m, x: m.first(x) + (m.first(x).mean(0) - m.first(x).mean(0).detach()),
        cross_entropy,
    ),
    "weights_by_batch": (
        lambda m, x: m.first(x),
        lambda logits, s: cross_entropy(logits, s) * torch.softmax(cross_entropy(logits, s).detach(), 0),
    ),
    "in_batch_negatives": (
        lambda m, x: m.first(x),
        lambda logits, s: F.cross_entropy(logits @ logits.T, torch.arange(len(s)), reduction="none"),
    ),
    "mean_taken_for_a_sum": (lambda m, x: m.first(x), lambda logits, s: cross_entropy(logits, s).mean()),
    "examples_in_the_second_dimension": (
        lambda m, x: m.group(x.view(len(x), 1, 6).transpose(0, 1).reshape(len(x), 1, 6).flip(0)).flatten(1),
        cross_entropy,
    ),
}

INDEPENDENT: dict[str, Model] = {
    "layer_norm": lambda m, x: m.group(x),
    "dropout": lambda m, x: m.drop(m.first(m.drop(m.first(x))[:, :6])),
    "functional_dropout": lambda m, x: F.dropout(m.first(x), 0.3, training=True),
    "stochastic_depth": lambda m, x: m.first(x) * (torch.rand(len(x), 1) < 0.7),
    "noise": lambda m, x: m.first(x) + torch.randn(len(x), 8),
}


HIDDEN: dict[str, Model] = {
    "flip": lambda m, x: m.first(x).flatten().flip(0).view(-1, 8),
    "roll": lambda m, x: m.first(x).flatten().roll(3).view(-1, 8),
    "repeat": lambda m, x: m.first(x).flatten().repeat(2)[4:-4].view(-1, 8)[: len(x)],
    "chunk": lambda m, x: torch.cat(m.first(x).flatten().chunk(2)[::-1]).view(-1, 8),
    "cumsum": lambda m, x: m.first(x).flatten().cumsum(0).view(-1, 8),
    "softmax": lambda m, x: m.first(x) * m.first(x).sum(1).softmax(0)[:, None],
}
"""Mixing that the axis rules do not see by shapes: the tape refuses the model or the probe finds it."""


@pytest.mark.parametrize("name", HIDDEN)
def test_mixing_that_shapes_do_not_show_is_refused_all_the_same(name: str) -> None:
    with pytest.raises((CoupledExamples, UnsupportedOperation)):
        run(HIDDEN[name])


@pytest.mark.parametrize("name", COUPLED)
def test_coupling_is_found(name: str) -> None:
    with pytest.raises(CoupledExamples) as caught:
        run(*COUPLED[name])
    assert re.search(r"example [0-4]\b|batch is a BatchNorm1d", str(caught.value))


def test_coupling_names_the_parameter() -> None:
    with pytest.raises(CoupledExamples, match=r"most in (first|last)\.(weight|bias)"):
        run(*COUPLED["batch_maximum"])


def test_token_mean_is_found_and_own_mean_is_not() -> None:
    """Padding to the longest is harmless; dividing by the tokens of the whole batch is not."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(11, 8, padding_idx=0), nn.Linear(8, 11))
    samples = [torch.randint(1, 11, (k,)) for k in (3, 7, 5, 2)]

    def collate(chosen: Sequence[Tensor]) -> Tensor:
        return nn.utils.rnn.pad_sequence(list(chosen), batch_first=True)

    def each(ids: Tensor) -> tuple[Tensor, Tensor]:
        loss = F.cross_entropy(model(ids).flatten(0, 1), ids.flatten(), reduction="none", ignore_index=0)
        return loss.view(ids.shape), ids != 0

    probe(model, collate, lambda ids, n: each(ids)[0].sum(1) / each(ids)[1].sum(1), samples)
    with pytest.raises(CoupledExamples):
        probe(model, collate, lambda ids, n: each(ids)[0].sum(1) / each(ids)[1].sum() * n, samples)


@pytest.mark.parametrize("name", INDEPENDENT)
def test_independence_is_no_false_alarm(name: str) -> None:
    run(INDEPENDENT[name])


def test_a_trainable_batch_norm_is_refused_by_the_tape() -> None:
    norm = nn.BatchNorm1d(8)
    with pytest.raises((UnsupportedOperation, CoupledExamples), match="GroupNorm"):
        run(lambda m, x: norm_in(m, norm)(m.first(x)))


def norm_in(module: nn.Module, norm: nn.Module) -> nn.Module:
    """Share the norm's parameters with the module, as an unlucky assignment would."""
    module.group[1].weight, module.group[1].bias = norm.weight, norm.bias
    norm.weight, norm.bias = module.group[1].weight, module.group[1].bias
    return norm


def law_the_frozen_part_is_not_copied() -> None:
    """Under LoRA the frozen part is the model; there may be no room for a second one."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 50_000), nn.Linear(50_000, 6), nn.Linear(6, 3)).requires_grad_(False)
    net[2].requires_grad_(True)
    allocations = Allocations()
    with allocations:
        probe(net, torch.stack, lambda x, n: cross_entropy(net(x), x), list(torch.randn(6, 6)))
    assert allocations.most < 4 * sum(p.numel() for p in net.parameters())


def test_the_frozen_part_is_not_copied() -> None:
    law_the_frozen_part_is_not_copied()


def test_mutant_that_copies_the_model_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Tensor] = []
    note = LastingState.note

    def hoarding(self: LastingState) -> None:
        note(self)
        kept[:] = [t.detach().clone() for t in self.tensors.values()]

    monkeypatch.setattr(LastingState, "note", hoarding)
    with pytest.raises(AssertionError):
        law_the_frozen_part_is_not_copied()


def test_not_a_number_raises_nothing() -> None:
    torch.manual_seed(0)
    net = Net(lambda m, x: m.first(x))
    samples = [*torch.randn(3, 6), torch.full((6,), float("nan")), torch.full((6,), 1e30)]
    probe(net, torch.stack, lambda x, n: cross_entropy(net(x), x), samples)


def law_coupling_is_found() -> None:
    for name, (body, loss) in COUPLED.items():
        try:
            run(body, loss)
        except CoupledExamples:
            continue
        raise AssertionError(f"{name} was not found")


def test_mutant_that_compares_losses_only_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch mean that cancels in the loss still moves the gradient."""

    def losses_only(
        module: nn.Module, collate: Callable[..., Tensor], losses: Callable[..., Tensor], samples: Sequence[Tensor]
    ) -> None:
        with FixedRandomness():
            together = losses(collate(samples), len(samples))
            try:
                alone = torch.cat([losses(collate([s]), 1).reshape(1) for s in samples])
            except ValueError as error:
                raise CoupledExamples("one example fails alone") from error
        if together.shape != alone.shape or not torch.allclose(together, alone, rtol=1e-3):
            raise CoupledExamples("losses differ")

    monkeypatch.setattr(probe_module, "probe", losses_only)
    with pytest.raises(AssertionError):
        law_coupling_is_found()


# -- adversarial company -------------------------------------------------------------------------------------------------

Pair = tuple[Tensor, Tensor]


def pairs(n: int = 8, labels: int = 2) -> list[Pair]:
    torch.manual_seed(0)
    return [(x, torch.tensor(i % labels)) for i, x in enumerate(0.1 * torch.randn(n, 6))]


def together(chosen: Sequence[Pair]) -> Pair:
    x, y = zip(*chosen, strict=True)
    return torch.stack(x), torch.stack(y)


def look(step: Callable[[nn.Module, Tensor, Tensor], Tensor], pool: Sequence[Pair] = (), **options: Any) -> bool:
    """Examine a linear model of 8 pairs by a loop over `autograd`, whatever the tape would say of it."""
    torch.manual_seed(1)
    net = nn.Linear(6, 3)
    net.metric = SumMetric()
    return look_at(net, step, pairs(), pool, **options)


def look_at(net: nn.Module, step: Any, samples: Sequence[Any], pool: Sequence[Any] = (), **options: Any) -> bool:
    def gradients(chosen: Sequence[Pair]) -> PerExample:
        losses = step(net, *together(chosen))
        names, parameters = zip(*net.named_parameters(), strict=True)
        rows = [torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) for loss in losses]
        zero = [torch.zeros_like(p) for p in parameters]
        full = [[z if g is None else g for g, z in zip(row, zero, strict=True)] for row in rows]
        factors = {name: [DenseGrad(torch.stack([row[k] for row in full]))] for k, name in enumerate(names)}
        return PerExample(dict(net.named_parameters()), factors, len(chosen))

    return probe_module.examine(Trials(net), gradients, samples, pool=pool, **options)


def each(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(x), y, reduction="none")


def by_hand(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    h = net(x)
    variance = (h - h.mean(0)).square().sum(0) / torch.tensor(len(h) - 1.0)  # 0/0 for one
    return F.cross_entropy((h - h.mean(0)) / variance.sqrt(), y, reduction="none")


def counted_before(net: Any, x: Tensor, y: Tensor) -> Tensor:
    losses = each(net, x, y) * (1 + net.metric.sum_value.detach())
    net.metric.update(x.abs().sum())
    return losses


RARE = [(x, torch.tensor(2)) for x, _ in pairs(1)]
EXTREME: dict[str, Any] = {
    "finite in company only": (by_hand, ()),
    "drops a batch with a large loss": (lambda m, x, y: each(m, x, y) * (each(m, x, y).max() < 20), ()),
    "mean of the weights": (lambda m, x, y: each(m, x, y) / (1 + 9.0 * (y == 2)).mean(), [*pairs(), *RARE]),
    "a label that is declared": (lambda m, x, y: each(m, x, y) * (1 + (y == 2).sum()), ()),
    "a metric that is read": (counted_before, ()),
    "the largest value, rounded": (lambda m, x, y: each(m, x, y) * (1 + (x.abs().max() // 100)), ()),
}


def law_extreme_company_is_found(name: str) -> None:
    step, pool = EXTREME[name]
    with pytest.raises(CoupledExamples):
        look(step, pool, classes=3)


@pytest.mark.parametrize("name", EXTREME)
def test_coupling_that_ordinary_records_do_not_show_is_found(name: str) -> None:
    law_extreme_company_is_found(name)


@pytest.mark.parametrize("name", list(EXTREME)[1:])
def test_mutant_with_ordinary_company_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module, "companies", lambda *given: [])
    monkeypatch.setattr(probe_module._Look, "after_others", lambda *given: None)
    with pytest.raises(pytest.fail.Exception):
        law_extreme_company_is_found(name)


def test_mutant_that_takes_nan_for_the_same_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = probe_module.compare
    zeroed = lambda gradient: {name: g.nan_to_num() * bool(g.isfinite().all()) for name, g in gradient.items()}  # noqa: E731

    def lenient(i: int, before: Any, after: Any, *rest: Any) -> bool:
        finite = all(bool(g.isfinite().all()) for g in (*before.values(), *after.values()))
        return honest(i, zeroed(before), zeroed(after), *rest) if finite else False

    monkeypatch.setattr(probe_module, "compare", lenient)
    monkeypatch.setattr(probe_module, "_differs", lambda a, b, allowed: False)
    with pytest.raises((pytest.fail.Exception, PrivacyError)):
        law_extreme_company_is_found("finite in company only")


def _drawn_by_numpy(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    scale = torch.tensor([np.random.rand() + random.random() for _ in x], dtype=x.dtype)
    return each(net, x * scale[:, None], y) * torch.tensor(np.random.rand(len(x)), dtype=x.dtype)


HONEST: dict[str, Any] = {
    "plain": each,
    "numpy and python for each example": _drawn_by_numpy,
    "a numpy generator made on the spot": lambda m, x, y: each(m, x, y) * float(np.random.default_rng().random()),
    "columns in another order": lambda m, x, y: each(m, x[:, torch.randperm(6)], y),
    "dropout": lambda m, x, y: each(m, F.dropout(x, 0.5), y),
    "large values": lambda m, x, y: each(m, 1e6 * x, y),
    "a metric that counts": lambda m, x, y: (m.metric.update(x.sum()), each(m, x, y))[1],
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_models_pass_in_extreme_company(name: str) -> None:
    look(HONEST[name], [*pairs(), *RARE], classes=3)


def test_a_loss_that_overflows_alone_and_in_company_is_no_alarm() -> None:
    net = nn.Linear(6, 3)
    samples = pairs()
    probe(net, together, lambda batch, n: (net(batch[0]).exp().square().sum(1) + batch[1]).square(), samples)


def test_nothing_finite_is_a_refusal_and_zeros_show_nothing() -> None:
    with pytest.raises(PrivacyError, match="are not finite"):
        look(lambda m, x, y: each(m, x, y) * float("nan"))
    assert not look(lambda m, x, y: each(m, x, y) * 0)
    assert look(each)


def test_what_cannot_be_repeated_is_refused() -> None:
    import os

    with pytest.raises(PrivacyError, match=r"other gradients with the same seeds|changes with the other"):
        look(lambda m, x, y: each(m, x, y) * (1 + int.from_bytes(os.urandom(2), "big")))
