"""Coupling between examples is found and named; what only looks like it is not."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dplit.errors import CoupledExamples, UnsupportedOperation
from dplit.grads.coupling import probe as probe_module
from dplit.grads.coupling.fixed_randomness import FixedRandomness
from dplit.grads.coupling.lasting_state import LastingState
from dplit.grads.coupling.probe import probe
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
