"""The table in the docs, as the laws found it."""

from __future__ import annotations

from pathlib import Path

from tests.zoo.family import CASES, Case
from tests.zoo.law import COLUMNS, VARIANTS, proven, verdict

PAGE = Path(__file__).parents[2] / "docs" / "models.md"

PREFACE = """\
# Which models train exactly

Each model family is built as its library ships it, with tiny random weights, and its per-example gradients are compared with
one backward pass per example. Norms and clipped sums agree in float64 to 1e-9 and in float32 to 1e-4, with several batch shapes. (For
Gemma, Cohere and Mamba, which compute some operations in float32 whatever the model's type, float64 agrees to 1e-7.)

* **plain**: all parameters are trainable.
* **LoRA**: every linear layer is adapted by peft.
* **checkpointing**: activation checkpointing, switched on by Hugging Face's method, in both variants of torch, and together with LoRA.
* **some layers**: trainable are the upper half of the parameters, the lower half, or only biases and norms.

* **apart**: whether it is shown, from the operations of a step and whatever the records are, that loss and gradient of each example
  depend on that example alone; `–` where the tape refuses the model, which `grads="auto"` then takes apart itself.

*refused* means a one-line error before any gradient is released; `–` elsewhere that the family has no such variant.
`python -m tests.zoo` writes this page, and the tests check that it agrees with what they find.
"""


def exactness(name: str) -> str:
    case = CASES[name]
    return f"| {case.family} | {case.head} | " + " | ".join(cell(case, column) for column in COLUMNS) + " | "


def row(name: str) -> str:
    return f"{exactness(name)}{proven(name)} |"


def cell(case: Case, column: str) -> str:
    """One word where all variants of a column agree, else each different answer once."""
    answers = [verdict(case.name, way) for way, variant in VARIANTS.items() if variant.column == column]
    return "; ".join(dict.fromkeys(answer for answer in answers if answer)) or "–"


def page() -> str:
    header = f"| model | as | {' | '.join(COLUMNS)} | apart |\n|{'---|' * (len(COLUMNS) + 3)}\n"
    return f"{PREFACE}\n{header}" + "\n".join(row(name) for name in CASES) + "\n"
