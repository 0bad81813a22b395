"""The exact fallbacks: torch.func and one example at a time equal the oracle, or say in a line what they cannot do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dplit.errors import ConfigurationError, UnsupportedOperation
from dplit.grads import PerExample, Tape
from dplit.grads import vmap as vmap_module
from dplit.grads.backends import by_loop, by_tape, by_vmap, joined
from dplit.grads.batch_layout import batch_layout, layout_of_one
from tests.grads.rules.test_rules import BODIES, Text, losses, padded_ids
from tests.oracle import law_exact, loop_gradients

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")
N = 5
TOLERANCE = 1e-10
Loss = Callable[[nn.Module, Any], Tensor]


def one_by_one(module: nn.Module, loss: Loss, x: Tensor) -> PerExample:
    runs = (by_loop(module, lambda one, n: loss(module, one), x[i : i + 1], 1) for i in range(len(x)))
    return joined(part for run in runs for part in run)


def at_once(module: nn.Module, loss: Loss, x: Tensor) -> PerExample:
    return joined(by_vmap(module, lambda one, n: loss(module, one), x, len(x)))


engines = pytest.mark.parametrize("engine", [at_once, one_by_one], ids=["vmap", "loop"])


def law_equals_the_oracle(engine: Callable[..., PerExample], module: nn.Module, loss: Loss, x: Tensor) -> None:
    expected = loop_gradients(module, lambda i: loss(module, x[i : i + 1]), len(x))
    law_exact(engine(module, loss, x), expected, TOLERANCE)
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
@engines
def test_exact_on_text(engine: Callable[..., PerExample], body: Any, tied: bool) -> None:
    torch.manual_seed(0)
    law_equals_the_oracle(engine, Text(body, tied).double(), losses, padded_ids())


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.head = nn.Linear(4, 3)
        self.idle = nn.Parameter(torch.ones(2))
        self.head.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(self.norm(self.conv(x))[:, :2])).relu().mean((2, 3)))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.cross = nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        return self.cross(x, x, x, need_weights=False)[0]


class Pairs(nn.Module):
    """Operations no rule is written for, on parameters and data."""

    def __init__(self) -> None:
        super().__init__()
        self.bilinear = nn.Bilinear(6, 6, 4)
        self.centres = nn.Parameter(torch.randn(3, 6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.bilinear(x, x), torch.cdist(x, self.centres)], 1)


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * grad

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor) -> Any:
        return Cube.apply(x), in_dims[0]


class OldCube(torch.autograd.Function):
    """The form most libraries still write, which torch.func cannot transform."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return Cube.backward(ctx, grad)


class Custom(nn.Module):
    def __init__(self, function: Any = Cube) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.function.apply(self.weight).T


def squares(module: nn.Module, x: Tensor) -> Tensor:
    return module(x).square().flatten(1).sum(1)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "images": (Images, (2, 5, 5)),
    "attention": (Attention, (3, 8)),
    "pairs": (Pairs, (6,)),
    "custom": (Custom, (6,)),
}


def built(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(1)
    make, shape = MODELS[name]
    return make().to(dtype), torch.randn(N, *shape, dtype=dtype)


@pytest.mark.parametrize("name", MODELS)
@engines
def test_exact_on_models(engine: Callable[..., PerExample], name: str) -> None:
    module, x = built(name)
    law_equals_the_oracle(engine, module, squares, x)


def test_vmap_equals_the_tape() -> None:
    module, x = built("images")
    with Tape(module, N) as tape:
        value = squares(module, x)
    taped = tape.backward(value)
    factors = at_once(module, squares, x).factors
    law_exact(taped, {key: grad.dense() for key, (grad,) in factors.items()}, TOLERANCE)


def test_the_tape_refuses_what_they_are_for() -> None:
    for name in ("pairs", "custom"):
        module, x = built(name)
        with pytest.raises(UnsupportedOperation):
            list(by_tape(module, lambda one, n, of=module: squares(of, one), x, N))


def law_small_chunks() -> None:
    module, x = built("images")
    size = sum(p.numel() for p in module.parameters() if p.requires_grad)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dplit.grads.factors.base.MAX_INSTANTIATED", 2 * size)
        parts = list(by_vmap(module, lambda one, n: squares(module, one), x, N))
    assert [gradients.examples for _, gradients in parts] == [2, 2, 1]
    assert torch.allclose(torch.cat([value for value, _ in parts]), squares(module, x))
    law_exact(joined(parts), loop_gradients(module, lambda i: squares(module, x[i : i + 1]), N), TOLERANCE)


def test_gradients_exist_a_few_at_a_time() -> None:
    law_small_chunks()


def test_mutant_a_run_of_the_wrong_examples_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = vmap_module._run
    first: list[Any] = []

    def repeating(module: Any, losses: Any, batch: Any, run: Any, *rest: Any) -> Any:
        first.append(run)
        return honest(module, losses, batch, {path: first[0][path][: len(now)] for path, now in run.items()}, *rest)

    monkeypatch.setattr(vmap_module, "_run", repeating)
    with pytest.raises(AssertionError):
        law_small_chunks()


def test_mutant_a_batch_seen_whole_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vmap_module, "with_parts", lambda data, others: data)
    module, x = built("images")
    with pytest.raises(AssertionError):
        law_equals_the_oracle(at_once, module, squares, x)


class Pair(NamedTuple):
    x: Tensor
    scale: Tensor


@dataclass
class Record:
    x: Tensor
    scale: Tensor


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x, s: {"x": x, "scale": s, "text": ["a"] * 3, "none": None},
        lambda x, s: [{"x": x}, (s, 3)],
        Pair,
        Record,
    ],
    ids=["dict", "nested", "namedtuple", "dataclass"],
)
def test_any_collection_is_taken_apart(wrap: Callable[..., Any]) -> None:
    torch.manual_seed(2)
    module, x, scale = nn.Linear(6, 3).double(), torch.randn(N, 6).double(), torch.rand(3).double()

    def loss(batch: Any, n: int) -> Tensor:
        if isinstance(batch, list):
            given, by = batch[0]["x"], batch[1][0]
        elif isinstance(batch, dict):
            given, by = batch["x"], batch["scale"]
        else:
            given, by = batch.x, batch.scale
        assert len(given) == n == 1
        assert by.shape == (3,)
        return (module(given) * by).square().sum(1)

    expected = loop_gradients(module, lambda i: (module(x[i : i + 1]) * scale).square().sum(1), N)
    law_exact(joined(by_vmap(module, loss, wrap(x, scale), N)), expected, TOLERANCE)


def test_a_batch_that_cannot_be_taken_apart_is_refused() -> None:
    module = nn.Linear(6, 3)
    for batch in (torch.randn(N + 1, 6), object(), [torch.randn(6)]):
        with pytest.raises(ConfigurationError, match="grads='loop'"):
            list(by_vmap(module, lambda one, n: module(one).sum(1), batch, N))


def test_dropout_differs_by_example() -> None:
    torch.manual_seed(3)
    module = nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 1, bias=False))
    (grad,) = at_once(module, lambda m, x: m(x).sum(1), torch.ones(8, 64)).factors["1.weight"]
    assert len({tuple(row.flatten().tolist()) for row in grad.dense()}) == 8


def branching(module: nn.Module, x: Tensor) -> Tensor:
    y = squares(module, x)
    return y if bool(y.sum() > 0) else -y


def counted(module: nn.Module, x: Tensor) -> Tensor:
    return squares(module, x) * float(x.sum().item())


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(self.layer(x).sum())
        return self.layer(x)


VMAP_CANNOT: dict[str, tuple[Callable[[], nn.Module], Loss, str]] = {
    "branch": (lambda: nn.Linear(6, 3), branching, "data-dependent"),
    "item": (lambda: nn.Linear(6, 3), counted, "item"),
    "old autograd.Function": (lambda: Custom(OldCube), squares, "setup_context"),
    "batch norm": (lambda: nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)), squares, "in-place operation"),
    "kept": (Remembers, squares, "seen keeps a value"),
}


@pytest.mark.parametrize("case", VMAP_CANNOT)
def test_what_vmap_cannot_run_is_named_in_a_line(case: str) -> None:
    make, loss, expected = VMAP_CANNOT[case]
    torch.manual_seed(4)
    module = make()
    with pytest.raises(UnsupportedOperation, match="grads='loop'") as error:
        at_once(module, loss, torch.randn(N, 6))
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", ["branch", "item", "old autograd.Function", "kept"])
def test_the_loop_runs_them(case: str) -> None:
    make, loss, _ = VMAP_CANNOT[case]
    torch.manual_seed(4)
    law_equals_the_oracle(one_by_one, make().double(), loss, torch.randn(N, 6).double())


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first, self.table = nn.Linear(6, 6), nn.Embedding(4, 6, sparse=True)
        self.reentrant, self.checkpoint = reentrant, checkpoint

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.table(torch.tensor([1, 1])).sum(0)
        return self.checkpoint(self.first, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [True, False])
def test_the_loop_runs_checkpoints_and_sparse_gradients(reentrant: bool) -> None:
    torch.manual_seed(5)
    module, x = Checkpointed(reentrant).double(), torch.randn(N, 6).double()
    kept = torch.ones(6, 6).double()
    module.first.weight.grad = kept
    gradients = one_by_one(module, squares, x)
    assert module.first.weight.grad is kept
    module.table.sparse, module.checkpoint = False, lambda layer, x, **_: layer(x)
    law_exact(gradients, loop_gradients(module, lambda i: squares(module, x[i : i + 1]), N), TOLERANCE)


def test_batches_of_one_scalar_value_count_as_sums() -> None:
    module, x = built("images")
    summed = joined(by_vmap(module, lambda one, n: squares(module, one).sum(), x, N))
    law_exact(summed, loop_gradients(module, lambda i: squares(module, x[i : i + 1]), N), TOLERANCE)


def test_mixed_precision_gradients_are_float32() -> None:
    torch.manual_seed(6)
    module, x = nn.Linear(6, 3), torch.randn(N, 6)

    def loss(one: Tensor, n: int) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return F.cross_entropy(module(one), torch.zeros(1, dtype=torch.int64), reduction="none")

    (grad,) = joined(by_vmap(module, loss, x, N)).factors["weight"]
    assert grad.dense().dtype == torch.float32


# -- what belongs to the examples --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frozen:
    x: Tensor
    scale: Tensor


KINDS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "mapping": lambda x, s: {"x": x, "scale": s},
    "frozen dataclass": Frozen,
    "nested": lambda x, s: {"x": x, "constants": [{"scale": s}]},
}


def parts_of(batch: Any) -> tuple[Tensor, Tensor]:
    if isinstance(batch, Frozen):
        return batch.x, batch.scale
    return batch["x"], batch["scale"] if "scale" in batch else batch["constants"][0]["scale"]


def law_what_is_for_all_is_not_cut(kind: str, n: int) -> None:
    """A scale of three classes, whatever the number of examples."""
    torch.manual_seed(5)
    module, scale = nn.Linear(6, 3).double(), torch.rand(3).double()
    samples = list(torch.randn(n, 6).double())

    def collate(rows: list[Tensor]) -> Any:
        return KINDS[kind](torch.stack(rows), scale)

    def loss(batch: Any, size: int) -> Tensor:
        x, by = parts_of(batch)
        return (module(x) * by).square().sum(1)

    expected = loop_gradients(module, lambda i: (module(samples[i][None]) * scale).square().sum(1), n)
    layout = batch_layout(collate, samples)
    law_exact(joined(by_vmap(module, loss, collate(samples), n, layout)), expected, TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_what_is_for_all_examples_is_not_cut_up(kind: str, n: int) -> None:
    law_what_is_for_all_is_not_cut(kind, n)


def test_mutant_a_layout_by_the_number_of_rows_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "batch_layout", lambda collate, rows: layout_of_one(collate(rows), len(rows)))
    law_what_is_for_all_is_not_cut("mapping", 4)
    with pytest.raises(AssertionError):
        law_what_is_for_all_is_not_cut("mapping", 3)


USED: dict[str, Callable[[nn.Module, dict[str, Any]], Tensor]] = {
    "a list of weights": lambda module, b: module(b["x"]).sum(1) * torch.tensor(b["weights"]).sum(),
    "a count": lambda module, b: module(b["x"]).sum(1) / b["count"],
    "a list of tensors": lambda module, b: torch.stack([module(row).sum() for row in b["rows"]]).sum(),
    "time first": lambda module, b: module(b["turned"].mT).sum(1).mean(),
}


@pytest.mark.parametrize("used", USED.values(), ids=USED)
def test_what_holds_several_examples_may_not_be_used(used: Callable[[nn.Module, dict[str, Any]], Tensor]) -> None:
    module, samples = nn.Linear(6, 3), list(torch.randn(4, 6))

    def collate(rows: list[Tensor]) -> dict[str, Any]:
        x = torch.stack(rows)
        return {"x": x, "rows": rows, "weights": [0.5] * len(rows), "count": len(rows), "turned": x.mT}

    batch, layout = collate(samples), batch_layout(collate, samples)
    list(by_vmap(module, lambda b, n: module(b["x"]).sum(1), batch, 4, layout))
    with pytest.raises(UnsupportedOperation, match=r"batch\['\w+'\] holds several examples.*grads='loop'"):
        list(by_vmap(module, lambda b, n: used(module, b), batch, 4, layout))


def test_another_number_of_rows_than_examples_is_refused() -> None:
    layout = batch_layout(torch.stack, list(torch.randn(4, 6)))
    module = nn.Linear(6, 3)
    with pytest.raises(ConfigurationError, match=r"batch of shape \(5, 6\) .* of 4 examples"):
        list(by_vmap(module, lambda one, n: module(one).sum(1), torch.randn(5, 6), 4, layout))
