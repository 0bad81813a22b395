"""The policies there are, and the table of what each one states in its docstring."""

from __future__ import annotations

import inspect
import re

from dplit.clipping.policy import ClippingPolicy
from dplit.discovery import subclasses
from dplit.errors import ConfigurationError

LABELS = ("Rule", "Bound", "Query", "Charge", "Per-group ε", "Source")
"""What every policy's docstring states, each on lines of its own."""


PREFACE = """\
# Clipping policies

One example's gradient gᵢ enters the noisy sum as wᵢ·gᵢ, and the noise has standard deviation σ × bound. A query is a statistic of
the same draw, released with noise of multiplier σ_b and charged jointly with the gradient: σ_eff⁻² = σ⁻² + σ_b⁻². With
`noise: Target(epsilon, delta)` σ is calibrated with queries and rates included, so all policies compare at equal ε. A group's ε
is stated where it holds; otherwise only the overall ε is known to hold for the group.

A policy is one file in `dplit/clipping`, a subclass of `ClippingPolicy` whose docstring states these columns. Tests, this page
(`python -m dplit.clipping > docs/policies.md`) and recipes find it there. A recipe names a policy of your own by its class path.
"""


def policies() -> list[type[ClippingPolicy]]:
    """Return every policy of `dplit.clipping`, by name."""
    import dplit.clipping

    return subclasses(ClippingPolicy, dplit.clipping.__name__, dplit.clipping.__path__)


def described(policy: type[ClippingPolicy]) -> dict[str, str]:
    """Return `{label: text}`, what a policy's docstring states under each of `LABELS`.

    Raises:
        ConfigurationError: it does not state one of them.
    """
    text = inspect.cleandoc(policy.__doc__ or "")
    stated = {label: _stated(label, text) for label in LABELS}
    if missing := [label for label, text in stated.items() if not text]:
        raise ConfigurationError(f"the docstring of {policy.__name__} does not state {', '.join(missing)}")
    return stated


def markdown() -> str:
    """Return the table of all policies."""
    head = ["policy", *(label.lower() for label in LABELS)]
    rows = [[f"`{policy.__name__}`", *described(policy).values()] for policy in policies()]
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def page() -> str:
    """Return docs/policies.md."""
    return f"{PREFACE}\n{markdown()}"


def _stated(label: str, text: str) -> str:
    match = re.search(rf"^{label}: (.*(?:\n    .*)*)", text, re.MULTILINE)
    return " ".join(match[1].split()) if match else ""
