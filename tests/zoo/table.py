"""The table in the docs, as the laws found it."""

from __future__ import annotations

from pathlib import Path

from tests.zoo.family import CASES, Case
from tests.zoo.law import COLUMNS, VARIANTS, verdict

PAGE = Path(__file__).parents[2] / "docs" / "models.md"

PREFACE = """\
# Which models train exactly

Each family is built with tiny random weights, as its library ships it, and its per-example gradients are compared with
one backward per example: float64 to 1e-9 (1e-7 where a family computes some of it in float32 whatever the model's type: Gemma,
Cohere, Mamba), float32 to 1e-4, norms and clipped sums, with several batch shapes.

* **plain**: every parameter trainable.
* **LoRA**: peft, every linear layer adapted.
* **checkpointing**: Hugging Face's switch, both of torch's ways, and together with LoRA.
* **some layers**: the upper half of the parameters trainable, the lower half, biases and norms alone.

*refused* means an error, in one line and before any gradient is released; `–` that the family has no such variant.
Written by `python -m tests.zoo`; the tests hold this page to what they find.
"""


def row(name: str) -> str:
    case = CASES[name]
    return f"| {case.family} | {case.head} | " + " | ".join(cell(case, column) for column in COLUMNS) + " |"


def cell(case: Case, column: str) -> str:
    """One word where all variants of a column agree, else each different answer once."""
    answers = [verdict(case.name, way) for way, variant in VARIANTS.items() if variant.column == column]
    return "; ".join(dict.fromkeys(answer for answer in answers if answer)) or "–"


def page() -> str:
    header = f"| model | as | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 2)}\n"
    return f"{PREFACE}\n{header}" + "\n".join(row(name) for name in CASES) + "\n"
