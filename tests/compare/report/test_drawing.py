"""Variants and groups can be told apart in every figure."""

from __future__ import annotations

from dplit.fairness import plotting


def test_thirteen_variants_look_different() -> None:
    looks = {tuple(sorted(plotting.of_variant(k).items())) for k in range(13)}
    assert len(looks) == 13
    assert len({plotting.of_group(k) for k in range(10)}) == 10
