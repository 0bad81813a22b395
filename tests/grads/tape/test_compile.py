"""Compiled modules: their operations are seen, in whatever form they were compiled, and exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

import dplit
from dplit.grads import PerExample, Tape, backends
from tests.lightning import SIZE, Data, Linear, trainer
from tests.oracle import law_exact, loop_gradients

N = 5
TOLERANCE = 1e-4
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:.*TF32")


@pytest.fixture(autouse=True)
def _forget_compiled_code() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)).tanh())


Model = tuple[nn.Module, Callable[[Tensor], Tensor]]


def wrapped(backend: str) -> Model:
    net = Net()
    return net, torch.compile(net, backend=backend)


def tracked_wrapped(backend: str) -> Model:
    net = torch.compile(Net(), backend=backend)
    return net, net


def in_place(backend: str) -> Model:
    net = Net()
    net.compile(backend=backend)
    return net, net


def submodule(backend: str) -> Model:
    net = Net()
    net.first = torch.compile(net.first, backend=backend)
    return net, net


def submodule_in_place(backend: str) -> Model:
    net = Net()
    net.first.compile(backend=backend)
    return net, net


def function(backend: str) -> Model:
    net = Net()
    return net, torch.compile(lambda x: net(x), backend=backend)


def checkpointed(backend: str) -> Model:
    """A part of what was compiled runs a second time, in backward."""
    net = Net()
    inner = torch.compile(net.first, backend=backend)
    run = lambda x: net.last(net.norm(checkpoint(inner, x, use_reentrant=False)).tanh())  # noqa: E731
    return net, torch.compile(run, backend=backend)


FORMS = [wrapped, tracked_wrapped, in_place, submodule, submodule_in_place, function]


def squares(call: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: call(x).square().sum(1)


def warm_up(module: nn.Module, call: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Validate and train compiled, as a model may have before it is trained privately."""
    module.eval()
    with torch.no_grad():
        call(x)
    module.train()
    call(x).sum().backward()
    module.zero_grad()


def taped(module: nn.Module, losses: Callable[[Tensor], Tensor], x: Tensor) -> PerExample:
    with Tape(module, len(x)) as tape:
        value = losses(x)
    return tape.backward(value)


def by_vmap(module: nn.Module, losses: Callable[[Tensor], Tensor], x: Tensor) -> PerExample:
    return backends.joined(backends.by_vmap(module, lambda one, n: losses(one), x, len(x)))


def law_compiled_is_exact(
    form: Callable[[str], Model], backend: str, warm: bool, engine: Callable[..., PerExample] = taped
) -> None:
    torch.manual_seed(0)
    module, call = form(backend)
    x = torch.randn(N, 6)
    if warm:
        warm_up(module, call, x)
    with torch.compiler.set_stance("force_eager"):
        expected = loop_gradients(module, lambda i: squares(call)(x[i : i + 1]), N)
    law_exact(engine(module, squares(call), x), expected, TOLERANCE)


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("engine", [taped, by_vmap])
def test_compiled_modules_are_exact(engine: Any, form: Callable[[str], Model], backend: str, warm: bool) -> None:
    law_compiled_is_exact(form, backend, warm, engine)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_modules_compiled_by_inductor_are_exact(form: Callable[[str], Model]) -> None:
    law_compiled_is_exact(form, "inductor", warm=True)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_a_compiled_part_under_a_checkpoint_is_exact(backend: str, warm: bool) -> None:
    law_compiled_is_exact(checkpointed, backend, warm)


def test_compiled_code_runs_eagerly_under_the_tape() -> None:
    """A graph that a compiler made has no operations to see."""
    ran: list[bool] = []
    net = Net()
    net.register_forward_hook(lambda *_: ran.append(torch.compiler.is_compiling()))
    compiled = torch.compile(net, backend="eager")
    compiled(torch.randn(N, 6))
    taped(net, squares(compiled), torch.randn(N, 6))
    assert ran == [True, False]


def test_the_compiler_is_let_go_afterwards() -> None:
    module, call = wrapped("eager")
    compiled = torch._dynamo.eval_frame._stance.stance
    taped(module, squares(call), torch.randn(N, 6))
    with pytest.raises(ValueError, match="user"), Tape(module, N):
        raise ValueError("user")
    assert torch._dynamo.eval_frame._stance.stance == compiled


class Lightning(Linear):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", F.cross_entropy(self.net(batch["x"]), batch["y"]))


def compiled_net(module: Lightning) -> Any:
    module.net = torch.compile(module.net, backend="eager")
    return module


def compiled_in_place(module: Lightning) -> Any:
    module.net.compile(backend="eager")
    return module


def compiled_whole(module: Lightning) -> Any:
    return torch.compile(module, backend="eager")


def everybody() -> DataLoader:
    """Rate 1: two fits see the same draws."""
    return DataLoader(Data(), batch_size=SIZE)


def trained(prepare: Callable[[Lightning], Any], grads: str) -> Tensor:
    torch.manual_seed(0)
    module = Lightning()
    strategy = dplit.DPStrategy(noise=0.5, noise_seed=1, physical_batch_size=9, grads=grads)
    trainer(strategy, max_epochs=2).fit(prepare(module), everybody(), everybody())
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.parametrize("grads", ["tape", *(pytest.param(g, marks=pytest.mark.slow) for g in ("vmap", "loop"))])
@pytest.mark.parametrize("prepare", [compiled_net, compiled_in_place, compiled_whole], ids=lambda f: f.__name__)
def test_a_fit_of_a_compiled_model_is_the_same(prepare: Callable[[Lightning], Any], grads: str) -> None:
    assert float((trained(prepare, grads) - trained(lambda m: m, "tape")).abs().max()) < 1e-5


def test_validation_stays_compiled() -> None:
    ran = []

    def backend(attached: Any, inputs: Any) -> Any:
        def run(*args: Any) -> Any:
            ran.append(torch.is_grad_enabled())
            return attached.forward(*args)

        return run

    module = Lightning()
    module.net = torch.compile(module.net, backend=backend)
    trainer(dplit.DPStrategy(physical_batch_size=9)).fit(module, everybody(), everybody())
    assert ran
    assert not any(ran)
