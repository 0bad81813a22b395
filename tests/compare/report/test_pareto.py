"""The Pareto front against its definition."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dplit.compare.report.pareto import front


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=12))
def test_the_front_is_what_nobody_beats(points: list[tuple[float, float]]) -> None:
    kept = front(points)
    for k, (gap, accuracy) in enumerate(points):
        beaten = any((g <= gap and a >= accuracy) and (g < gap or a > accuracy) for g, a in points)
        assert (k in kept) == (not beaten)
    assert [points[k] for k in kept] == sorted(points[k] for k in kept)
