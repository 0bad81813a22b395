"""The law: whatever the variant, the tape's gradients are those of one backward per example."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from importlib import import_module

import peft
import torch
from torch import Tensor, nn

from dplit.errors import CoupledExamples, DplitError, UnsupportedOperation
from dplit.grads import PerExample, Tape
from dplit.grads.coupling.probe import probe
from dplit.grads.ownership.proof import Proof
from tests.oracle import law_exact, loop_gradients, underflow
from tests.zoo.family import ALIKE, ALONE, APART, CASES, Case, Size, Subject

for _file in ("encoders", "decoders", "vision", "transformer", "awkward"):  # importing them registers their families
    import_module(f"tests.zoo.{_file}")

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


def _checkpointing(reentrant: bool, hooked: bool = False) -> Callable[[nn.Module], None]:
    """Hugging Face's switch; `hooked`, with its hook that makes embeddings want gradients under frozen weights."""

    def switch(module: nn.Module) -> None:
        if not getattr(module, "supports_gradient_checkpointing", False):
            raise Unavailable("no switch")
        if hooked and not _embeds(module):
            raise Unavailable("no hook")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        if hooked:
            module.enable_input_require_grads()

    return switch


def _embeds(module: nn.Module) -> bool:
    try:
        return isinstance(module.get_input_embeddings(), nn.Embedding)  # type: ignore[operator]
    except NotImplementedError:
        return False


def _trainable(chosen: Callable[[list[nn.Parameter]], list[nn.Parameter]]) -> Callable[[nn.Module], None]:
    def freeze(module: nn.Module) -> None:
        trained = [p for p in module.parameters() if p.requires_grad]
        kept = {id(p) for p in chosen(trained)}
        for p in trained:
            p.requires_grad_(id(p) in kept)

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
    "LoRA with reentrant checkpointing": Variant("checkpointing", _checkpointing(True, hooked=True), lora=True),
    "the upper half": Variant("some layers", _trainable(lambda parameters: parameters[len(parameters) // 2 :])),
    "the lower half": Variant("some layers", _trainable(lambda parameters: parameters[: len(parameters) // 2])),
    "biases and norms": Variant("some layers", _trainable(lambda parameters: [p for p in parameters if p.dim() == 1])),
}
COLUMNS = tuple(dict.fromkeys(variant.column for variant in VARIANTS.values()))


def subject(case: Case, variant: Variant) -> Subject:
    """Build a family in a variant, always with the same weights and the same batch.

    Weights are moved off their initial values, so that none is zero and no head is nearly uniform.
    """
    torch.manual_seed(0)
    dtype = case.only or variant.dtype
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        built = case.build(variant.size)
        module = _adapted(built.module, case) if variant.lora else built.module
    with torch.no_grad():
        for p in module.parameters():
            p += 0.2 * torch.randn_like(p)
    module = module.to(dtype).train()
    variant.arrange(module)
    inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in built.inputs.items()}
    return replace(built, module=module, inputs=inputs)


def _adapted(module: nn.Module, case: Case) -> nn.Module:
    targets: str | list[str] = case.targets if isinstance(case.targets, str) else list(case.targets)
    if targets == "Conv2d":
        targets = [name for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d)]
    if not targets:
        raise Unavailable("no layer")
    return peft.get_peft_model(
        module, peft.LoraConfig(r=2, lora_alpha=3, target_modules=targets, init_lora_weights=False)
    )


@lru_cache(maxsize=8)
def oracle(case: Case, size: Size, dtype: torch.dtype, lora: bool) -> dict[str, Tensor]:
    """Return the gradients of every parameter of a family as built, one example at a time."""
    family = subject(case, Variant("", size=size, dtype=dtype, lora=lora))
    return loop_gradients(family.module, lambda i: family.losses(slice(i, i + 1)), size.examples)


def recorded(family: Subject, examples: int) -> PerExample:
    with Tape(family.module, examples) as tape:
        losses = family.losses()
    return tape.backward(losses)


def law_family(case: Case, variant: Variant) -> None:
    """Norms, each parameter's norms and clipped sums equal the oracle's; `.grad` stays None."""
    trained, dtype = subject(case, variant), case.only or variant.dtype
    tolerance = max(TOLERANCE[dtype], ROUNDING if case.rounds else 0.0)
    expected = _of_trainable(trained.module, oracle(case, variant.size, dtype, variant.lora))
    gradients = recorded(trained, variant.size.examples)
    law_exact(gradients, expected, tolerance)
    law_each_parameter(gradients, expected, tolerance)
    assert all(p.grad is None for p in trained.module.parameters())


def law_each_parameter(gradients: PerExample, expected: dict[str, Tensor], tolerance: float) -> None:
    """Squared norms differ by no more than a share of the example's whole, and what they allow for underflow is never missing."""
    sq_norms = gradients.sq_norms()
    squares = {name: g.double().reshape(len(g), -1).square().sum(1) for name, g in expected.items()}
    total = torch.stack(list(squares.values())).sum(0)
    for name, square in squares.items():
        error, share = sq_norms[name].double() - square, 2 * tolerance * total
        assert torch.all(error >= -share), name
        assert torch.all(error <= share + underflow(sq_norms[name].dtype)), name


def law_probe(case: Case, variant: Variant) -> None:
    """The probe refuses a family only for examples that are coupled."""
    family = subject(case, replace(variant, size=ALIKE))
    samples = range(ALIKE.examples)
    probe(family.module, lambda chosen: _rows(family, list(chosen)), lambda part, n: part.losses(), samples)


def _rows(family: Subject, rows: list[int]) -> Subject:
    return replace(family, inputs={name: v[rows] for name, v in family.inputs.items()}, labels=family.labels[rows])


def _of_trainable(module: nn.Module, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: expected[name] for name, p in module.named_parameters() if p.requires_grad}


@cache
def verdict(name: str, way: str) -> str:
    """Return "exact", "refused: why", "wrong: how", or an empty string where the family has no such variant."""
    try:
        judge(CASES[name], VARIANTS[way])
    except Unavailable:
        return ""
    except DplitError as error:
        return f"refused: {_why(error)}"
    except Exception as error:
        return f"wrong: {type(error).__name__}"
    return "exact"


@cache
def proven(name: str) -> str:
    """Return "shown" if each example's loss and gradient were shown to depend on it alone, "refused: why", or "–"."""
    answers = dict.fromkeys(_proven(CASES[name], size) for size in (APART, ALIKE))
    return "; ".join(answers)


def _proven(case: Case, size: Size) -> str:
    family = subject(case, Variant("", size=size))
    proof = Proof()
    batch = {**family.inputs, "labels": family.labels}
    try:
        proof.certify(family.module, partial(_losses_of, family), batch, size.examples)
    except DplitError as error:
        return "–" if isinstance(error, UnsupportedOperation) else f"refused: {_mixed_by(error)}"
    return "shown"


def _losses_of(family: Subject, batch: dict[str, Tensor], examples: int) -> Tensor:
    inputs = {name: v for name, v in batch.items() if name != "labels"}
    return replace(family, inputs=inputs, labels=batch["labels"]).losses()


def _mixed_by(error: DplitError) -> str:
    """Name the operation that mixes, as the message does."""
    found = re.search(r": (\S+) at \S+ mixes", str(error))
    return f"`{found[1]}` mixes examples" if found else str(error).partition(";")[0]


def judge(case: Case, variant: Variant) -> None:
    """Hold a family to the law, after the probe where that is asked first.

    A checkpoint within a checkpoint (Swin's blocks within its stages) warns about the outer one's lack of gradients.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "None of the inputs have requires_grad")
        if case.coupled:
            law_probe(case, variant)
        law_family(case, variant)


def _why(error: DplitError) -> str:
    message = str(error)
    if isinstance(error, CoupledExamples):
        return "the probe finds examples that depend on one another"
    operation = message.partition(" on ")[0].removeprefix("torch.nn.functional.")
    if " has no rule" in message:
        return f"no rule for `{operation}`"
    if " got gradient by a road" in message:
        return "gradient by a road the tape cannot see"
    reason = re.split(r"[(][0-9, ]*[)] ", message)[-1].partition(";")[0]
    return f"`{operation}` {re.sub(r'the [0-9]+ examples', 'the examples', reason)}"
