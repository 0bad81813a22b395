"""Exact gradients over families of models: exact as shipped, under LoRA, checkpointed, partly frozen, or refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dplit.grads import FactoredGrad, PerExample, Tape
from dplit.grads.factors.row_sparse import RowSparseGrad
from tests.zoo.family import CASES
from tests.zoo.law import VARIANTS, judge, law_family, law_probe, proven, subject, verdict
from tests.zoo.table import PAGE, PREFACE, exactness, row

PLAIN = VARIANTS["float64"]
INDEPENDENT = [name for name, case in CASES.items() if not case.coupled]
TIED = [name for name, case in CASES.items() if case.tied]


@pytest.mark.parametrize(("name", "way"), [(name, way) for name in CASES for way in VARIANTS])
def test_exact_or_refused_by_name(name: str, way: str) -> None:
    answer, case = verdict(name, way), CASES[name]
    if answer.startswith("wrong"):
        judge(case, VARIANTS[way])
    may_be_refused = case.coupled or not case.promised or "reentrant" in way
    assert answer in ("exact", "") or (answer.startswith("refused") and may_be_refused)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.coupled])
def test_coupled_examples_are_refused(name: str) -> None:
    assert verdict(name, "float64").startswith("refused")


@pytest.mark.slow
@pytest.mark.parametrize("name", INDEPENDENT)
def test_the_probe_lets_independent_examples_pass(name: str) -> None:
    if verdict(name, "float64") == "exact":
        law_probe(CASES[name], PLAIN)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_docs_say_what_was_found(name: str) -> None:
    assert any(line.startswith(exactness(name)) for line in PAGE.read_text().splitlines()), "run python -m tests.zoo"


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_examples_are_shown_to_be_apart_or_refused_by_the_operation(name: str) -> None:
    assert row(name) in PAGE.read_text().splitlines(), "run python -m tests.zoo"
    assert proven(name) in ("shown", "–") or (CASES[name].coupled and "mixes examples" in proven(name))


@pytest.mark.parametrize(
    "name", ["BERT classification", "GPT-2 causal LM", "Mixtral expert by expert", "CLIP contrastive loss"]
)
def test_some_examples_are_shown_to_be_apart(name: str) -> None:
    assert (proven(name) == "shown") != CASES[name].coupled


def test_the_docs_name_no_other_families() -> None:
    text = PAGE.read_text()
    assert text.startswith(PREFACE)
    assert len(text.splitlines()) == len(PREFACE.splitlines()) + 3 + len(CASES)


def test_no_random_part_is_left_on() -> None:
    for case in CASES.values():
        modules = subject(case, PLAIN).module.modules()
        assert not [m for m in modules if "Drop" in type(m).__name__ and getattr(m, "p", 0.0)], case.name


@pytest.mark.parametrize("name", TIED)
def test_tied_families_are_tied(name: str) -> None:
    module = subject(CASES[name], PLAIN).module
    assert module.get_output_embeddings().weight is module.get_input_embeddings().weight


Spoil = Callable[[FactoredGrad], list[FactoredGrad]]


def dropped(grad: FactoredGrad) -> list[FactoredGrad]:
    return []


def misplaced(grad: FactoredGrad) -> list[FactoredGrad]:
    """Each example is given its neighbour's gradient."""
    return [grad.select(torch.arange(grad.examples).roll(1))]


@pytest.mark.parametrize("spoil", [dropped, misplaced])
@pytest.mark.parametrize("name", INDEPENDENT)
def test_mutant_with_one_wrong_gradient_is_caught(name: str, spoil: Spoil, monkeypatch: pytest.MonkeyPatch) -> None:
    if verdict(name, "float64") != "exact":
        pytest.skip("refused")
    right = Tape.backward

    def wrong(tape: Tape, losses: Tensor) -> PerExample:
        gradients = right(tape, losses)
        factors = {key: list(grads) for key, grads in gradients.factors.items()}
        key, k = max(
            ((key, k) for key in factors for k in range(len(factors[key]))), key=lambda at: _size(factors[at[0]][at[1]])
        )
        factors[key][k : k + 1] = spoil(factors[key][k])
        return PerExample(gradients.parameters, factors, gradients.examples)

    monkeypatch.setattr(Tape, "backward", wrong)
    with pytest.raises(AssertionError):
        law_family(CASES[name], PLAIN)


def _size(grad: FactoredGrad) -> float:
    return float(grad.sq_norm().sum())


@pytest.mark.parametrize("name", TIED)
def test_mutant_without_the_cross_term_of_a_tied_head_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if verdict(name, "float64") != "exact":
        pytest.skip("refused")
    monkeypatch.setattr(
        RowSparseGrad, "inner_with", lambda grad, other: torch.zeros(grad.examples, dtype=torch.float64)
    )
    with pytest.raises(AssertionError):
        law_family(CASES[name], PLAIN)
