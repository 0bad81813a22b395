"""`grads="auto"`: exact for whatever the tape refuses, the tape itself for everything else, and no road around a coupling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dplit.errors import ConfigurationError, CoupledExamples, DplitError, ForbiddenOperation
from dplit.grads import PerExample, auto
from dplit.grads.auto import Auto, one_by_one
from dplit.grads.backends import by_tape, joined
from dplit.grads.factors.base import DenseGrad
from tests.oracle import law_exact, loop_gradients

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop", "ignore:`torch.jit", "ignore:.*torch.jit")
N, D = 5, 4
TOLERANCE = 1e-10


class Ruled(nn.Module):
    """Nothing that the tape refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(D, 6), nn.LayerNorm(6), nn.Linear(6, 3)
        self.idle = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)).tanh())


class Distances(Ruled):
    """Distances to trainable centres have no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(super().forward(x)[:, None], self.centres.expand(len(x), -1, -1))[:, 0]


class Times(torch.autograd.Function):
    """x · exp(w), whose backward the tape does not see."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, w: Tensor) -> Tensor:
        return x * w.exp()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, back: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        return back * w.exp(), (back * x * w.exp()).sum_to_size(w.shape)


class Custom(Ruled):
    def __init__(self) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.randn(D) / 3)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(Times.apply(x, self.power))


class Scripted(Ruled):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.jit.script(nn.Linear(D, 6))


class Recurrent(Ruled):
    """torch.func runs recurrent layers in float32 only."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(2, D, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.cell(x.view(len(x), -1, 2))[0][:, -1])


class OnlyRefused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(2, D))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(x[:, None], self.centres.expand(len(x), -1, -1))[:, 0]


class Branching(Ruled):
    """Another road for some examples."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.last(self.first(v)) if v.sum() > 0 else 2 * self.last(self.first(v)) for v in x])


class Penalised(Ruled):
    """The loss holds the slope of the output: a gradient is differentiated."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.GroupNorm(2, D)

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        out = super().forward(self.scale(x[..., None])[..., 0])
        (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        return torch.cat([out, slope], 1)


class BiasesPenalised(Penalised):
    """Of the weights nothing is trained, so that nothing but the second derivative shows what is missing."""

    def __init__(self) -> None:
        super().__init__()
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.endswith("bias"))


class Adapting(Ruled):
    """Takes a step of its own in the forward, and differentiates through it."""

    def forward(self, x: Tensor) -> Tensor:
        rows = []
        for v in x:
            (slope,) = torch.autograd.grad(
                self.last.weight.square().sum() * v.sum(), self.last.weight, create_graph=True
            )
            rows.append(F.linear(self.norm(self.first(v)), self.last.weight - 0.1 * slope))
        return torch.stack(rows)


CASES: dict[type[nn.Module], tuple[str, set[str]]] = {
    Ruled: ("tape", set()),
    Distances: ("tape", {"centres"}),
    Custom: ("tape", {"power"}),
    Scripted: ("tape", {"first.weight", "first.bias"}),
    Recurrent: ("loop", set()),
    OnlyRefused: ("vmap", {"centres"}),
    Branching: ("loop", set()),
    Penalised: ("loop", set()),
    BiasesPenalised: ("loop", set()),
    Adapting: ("vmap", {"last.weight"}),
}


def losses_of(module: nn.Module) -> Callable[[Tensor, int], Tensor]:
    return lambda x, n: module(x).square().sum(1)


def found(module: nn.Module, x: Tensor, choice: Auto | None = None) -> PerExample:
    return joined((choice or Auto()).gradients(module, losses_of(module), x, len(x)))


def law_exact_for(kind: type[nn.Module], n: int = N, seed: int = 0) -> Auto:
    torch.manual_seed(seed)
    module, x, choice = kind().double(), torch.randn(n, D).double(), Auto()
    expected = loop_gradients(module, lambda i: losses_of(module)(x[i : i + 1], 1), n)
    law_exact(found(module, x, choice), expected, TOLERANCE)
    law_exact(found(module, x, choice), expected, TOLERANCE)
    assert expected.keys() == {name for name, p in module.named_parameters() if p.requires_grad}
    assert all(p.grad is None for p in module.parameters())
    return choice


@pytest.mark.parametrize("kind", CASES)
def test_exact(kind: type[nn.Module]) -> None:
    engine, apart = CASES[kind]
    choice = law_exact_for(kind)
    assert choice.engine == engine
    assert engine == "loop" or choice.apart.keys() >= apart
    assert choice.fell_back == (kind is not Ruled)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(kind=st.sampled_from(list(CASES)), n=st.integers(1, 7), seed=st.integers(0, 99))
def test_exact_at_every_size(kind: type[nn.Module], n: int, seed: int) -> None:
    law_exact_for(kind, n, seed)


def law_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.func gives gradients in runs of two examples; those of the tape are cut to match."""
    monkeypatch.setattr("dplit.grads.factors.base.MAX_INSTANTIATED", 2 * 6)
    law_exact_for(Distances)


def test_exact_in_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    law_runs(monkeypatch)


def test_the_tape_itself_where_it_has_rules() -> None:
    torch.manual_seed(0)
    module, x = Ruled(), torch.randn(N, D)
    ((_, taped),) = by_tape(module, losses_of(module), x, N)
    mine, weights = found(module, x), torch.rand(N)
    assert torch.equal(mine.norms(), taped.norms())
    for name, value in taped.weighted_sum(weights).items():
        assert torch.equal(mine.weighted_sum(weights)[name], value)


@pytest.mark.parametrize("kind", [Distances, OnlyRefused, Branching])
def test_in_company_is_the_same_for_examples_that_are_apart(kind: type[nn.Module]) -> None:
    choice = law_exact_for(kind)
    torch.manual_seed(0)
    module, x = kind().double(), torch.randn(N, D).double()
    expected = loop_gradients(module, lambda i: losses_of(module)(x[i : i + 1], 1), N)
    law_exact(joined(choice.in_company(module, losses_of(module), x, N)), expected, TOLERANCE)


def test_in_company_shows_what_taking_apart_hides() -> None:
    module, x, choice = Distances().double(), torch.randn(N, D).double(), Auto()
    mixing = lambda x, n: (module(x) - module(x).mean(0)).square().sum(1)  # noqa: E731
    list(choice.gradients(module, losses_of(module), x, N))
    alone = loop_gradients(module, lambda i: mixing(x[i : i + 1], 1), N)
    together = joined(choice.in_company(module, mixing, x, N))
    with pytest.raises(AssertionError):
        law_exact(together, alone, 1e-3)


def test_a_scalar_in_company_is_one_gradient() -> None:
    torch.manual_seed(0)
    module, x, choice = Distances().double(), torch.randn(N, D).double(), Auto()
    total = lambda x, n: module(x).square().sum()  # noqa: E731
    apart = joined(choice.gradients(module, total, x, N))
    ((_, company),) = choice.in_company(module, total, x, N)
    assert company.examples == 1
    ones = torch.ones(N).double()
    torch.testing.assert_close(company.weighted_sum(ones[:1])["centres"], apart.weighted_sum(ones)["centres"])


def test_batches_of_no_form_go_through_as_one() -> None:
    """Their losses have a backward each where the examples cannot be taken apart."""
    torch.manual_seed(0)
    module, x = Branching().double(), torch.randn(N, D).double()
    expected = loop_gradients(module, lambda i: losses_of(module)(x[i : i + 1], 1), N)
    hidden = lambda batch, n: module(batch()).square().sum(1)  # noqa: E731
    law_exact(joined(one_by_one(module, hidden, lambda: x, N)), expected, TOLERANCE)
    with pytest.raises(ConfigurationError, match="grads='loop'"):
        joined(one_by_one(module, lambda batch, n: hidden(batch, n).sum(), lambda: x, N))


FORBIDDEN: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "batch_norm": lambda m, x: F.batch_norm(x, None, None, m.weight, training=True),
    "layer_norm": lambda m, x: F.layer_norm(x, x.shape, m.weight.expand(x.shape)),
    "max_norm": lambda m, x: F.embedding(x[:, 0].long().abs() % 4, m.weight[:, None], max_norm=0.1),
    "scale_grad_by_freq": lambda m, x: F.embedding(
        x[:, 0].long().abs() % 4, m.weight[:, None], scale_grad_by_freq=True
    ),
}


@pytest.mark.parametrize("kind", FORBIDDEN)
def test_no_other_backend_is_tried_for_what_none_may_run(kind: str) -> None:
    module, choice = nn.ParameterDict({"weight": nn.Parameter(torch.ones(D))}), Auto()
    losses = lambda x, n: FORBIDDEN[kind](module, x).flatten(1).sum(1)  # noqa: E731
    with pytest.raises(ForbiddenOperation, match=kind.split("_")[0]):
        list(choice.gradients(module, losses, torch.randn(N, D), N))
    assert not choice.fell_back


@pytest.mark.parametrize("error", [CoupledExamples("ours"), DplitError("ours"), torch.OutOfMemoryError("full")])
def test_what_is_no_matter_of_the_backend_is_raised_at_once(error: Exception) -> None:
    calls: list[int] = []

    def losses(x: Tensor, n: int) -> Tensor:
        calls.append(n)
        raise error

    for engine in ("tape", "vmap"):
        choice = Auto()
        choice.engine = engine
        with pytest.raises(type(error)):
            list(choice.gradients(nn.Linear(D, 2), losses, torch.randn(N, D), N))
        assert choice.engine == engine
    assert len(calls) == 2


def test_an_error_of_the_model_is_the_models() -> None:
    def losses(x: Tensor, n: int) -> Tensor:
        raise KeyError("label")

    with pytest.raises(KeyError, match="label"):
        list(Auto().gradients(nn.Linear(D, 2), losses, torch.randn(N, D), N))


def test_it_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    module, choice = Distances(), Auto()
    for _ in range(3):
        found(module, torch.randn(N, D), choice)
        choice.say()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert all(word in said for word in ("cdist", "centres", "second pass", '"vmap"', '"loop"'))
    found(Branching(), torch.randn(N, D), choice)
    choice.say()
    assert "each example goes through it alone" in capsys.readouterr().err


def test_parameters_want_gradients_again_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    module, choice = Distances(), Auto()
    found(module, torch.randn(N, D), choice)
    monkeypatch.setattr(auto, "by_tape", lambda *args: (_ for _ in ()).throw(DplitError("ours")))
    with pytest.raises(DplitError, match="ours"):
        found(module, torch.randn(N, D), choice)
    assert all(p.requires_grad for p in module.parameters())


def test_mutant_that_leaves_parameters_out_of_the_norm_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = PerExample.__init__
    monkeypatch.setattr(
        auto,
        "PerExample",
        lambda parameters, factors, n: PerExample(parameters, {k: v for k, v in factors.items() if k != "centres"}, n),
    )
    assert honest is PerExample.__init__
    with pytest.raises(AssertionError):
        law_exact_for(Distances)


def test_mutant_that_gives_a_run_the_gradients_of_the_first_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "slice", lambda start, stop: slice(0, stop - start), raising=False)
    with pytest.raises((AssertionError, AttributeError)):
        law_runs(monkeypatch)


def test_mutant_that_takes_a_refusal_for_zero_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def zeros(module: nn.Module, losses: Any, x: Tensor, n: int, layout: Any, only: Any) -> Any:
        named = {name: p for name, p in module.named_parameters() if name in only}
        factors = {name: [DenseGrad(p.detach().new_zeros(n, *p.shape))] for name, p in named.items()}
        yield losses(x, n).detach(), PerExample(named, factors, n)

    monkeypatch.setattr(auto, "by_vmap", zeros)
    with pytest.raises(AssertionError):
        law_exact_for(Distances)
