"""A noisy count becomes a fraction of the public batch size."""

from __future__ import annotations

import math

import pytest
import torch

from dplit.clipping import GlobalAdaptive, PerLayerAdaptive, Quantile
from dplit.clipping.adaptive_by_fraction import AdaptiveByFraction
from tests.clipping.laws import PARAMETERS

FOLLOWERS = [GlobalAdaptive, PerLayerAdaptive, Quantile]


def law_the_public_batch_size_divides(cls) -> None:
    policy = cls.example([])
    policy.prepare(PARAMETERS, 200.0)
    answers = torch.tensor([0.0, 50.0, 1e9, -1e9, math.inf, math.nan]).double()
    plain = policy.noisy_fraction(answers, otherwise=0.125)
    assert plain.tolist() == [0.0, 0.25, 1.0, 0.0, 1.0, 0.125]
    centred = policy.noisy_fraction(answers, offset=0.5, otherwise=0.125)
    assert centred.tolist() == [0.5, 0.75, 1.0, 0.0, 1.0, 0.125]


@pytest.mark.parametrize("cls", FOLLOWERS)
def test_the_public_batch_size_divides(cls) -> None:
    law_the_public_batch_size_divides(cls)


def test_mutant_not_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AdaptiveByFraction, "prepare", lambda self, parameters, expected_batch_size: None)
    with pytest.raises(AssertionError):
        law_the_public_batch_size_divides(Quantile)


@pytest.mark.parametrize("cls", FOLLOWERS)
def test_the_query_is_charged(cls) -> None:
    assert cls(noise_multiplier=3.0).queries == (3.0,)
