import copy
import json
import math
import pickle

import numpy as np
import pytest

from dplit.errors import ConfigurationError
from dplit.privacy import Event, Gaussian, Sampled


def a_draw(**changes):
    settings = {
        "rate": 0.01,
        "releases": [Gaussian(1.0), Gaussian(10.0)],
        "groups": {"a": Sampled(0.01, [Gaussian(2.0), Gaussian(math.inf)]), "b": Sampled(0.005, [Gaussian(1.0)])},
    }
    return Sampled(**{**settings, **changes})


def test_releases_of_one_draw_are_one_gaussian():
    assert Sampled(0.1, [Gaussian(1.00504), Gaussian(10)]).noise_multiplier == pytest.approx(1.0, abs=1e-5)
    assert Sampled(0.1, [Gaussian(3.7)]).noise_multiplier == 3.7
    assert Sampled(0.1, [Gaussian(3.0), Gaussian(math.inf)]).noise_multiplier == 3.0
    assert Sampled(0.1, [Gaussian(math.inf)]).noise_multiplier == math.inf
    assert Sampled(0.1, [Gaussian(1e-200), Gaussian(1e200)]).noise_multiplier == 1e-200


def test_events_are_values():
    assert a_draw() == a_draw()
    assert hash(a_draw()) == hash(a_draw())
    assert a_draw() != a_draw(groups={})
    assert a_draw(rate=0.02) != a_draw()
    assert isinstance(a_draw().releases, tuple)
    for copied in (copy.deepcopy(a_draw()), pickle.loads(pickle.dumps(a_draw()))):
        assert copied == a_draw()
        assert hash(copied) == hash(a_draw())
    with pytest.raises(AttributeError):
        a_draw().rate = 0.5


def test_views():
    draw = a_draw()
    assert draw.for_group("a").noise_multiplier == 2.0
    assert draw.for_group("elsewhere") is draw
    assert draw.has_group("a")
    assert not draw.has_group("elsewhere")
    assert dict(draw.groups)["b"].rate == 0.005
    assert Gaussian(2.0).for_group("a") == Gaussian(2.0)


@pytest.mark.parametrize("event", [Gaussian(1.5), Gaussian(math.inf), a_draw(), a_draw(groups={}), a_draw(rate=1)])
def test_json_round_trip(event):
    assert Event.from_dict(json.loads(json.dumps(event.to_dict(), allow_nan=False))) == event


@pytest.mark.parametrize("noise", [0, -1.0, math.nan, None, "1.0", True, [1]])
def test_impossible_noise_is_refused_in_one_line(noise):
    with pytest.raises(ConfigurationError, match=r"^noise_multiplier=[^\n]*$"):
        Gaussian(noise)


@pytest.mark.parametrize(
    "changes",
    [
        {"rate": 0},
        {"rate": 1.1},
        {"rate": math.nan},
        {"rate": None},
        {"releases": []},
        {"releases": [1.0]},
        {"releases": None},
        {"groups": {"a": Sampled(0.02, [Gaussian(5.0)])}},
        {"groups": {"a": Sampled(0.01, [Gaussian(0.9)])}},
        {"groups": {"a": Gaussian(5.0)}},
        {"groups": {"a": a_draw()}},
        {"groups": {1: Sampled(0.01, [Gaussian(5.0)])}},
    ],
)
def test_impossible_draws_are_refused_in_one_line(changes):
    with pytest.raises(ConfigurationError, match=r"^[^\n]+$"):
        a_draw(**changes)


def test_a_view_may_differ_by_rounding():
    noise = a_draw().noise_multiplier
    a_draw(groups={"a": Sampled(np.float64(0.01), [Gaussian(noise * (1 - 1e-13))])})


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"kind": "laplace"},
        {"kind": "gaussian"},
        {"kind": "gaussian", "noise_multiplier": 1, "more": 1},
        {"kind": "sampled", "rate": 0.1},
        {"kind": "sampled", "rate": 0.1, "releases": 3},
    ],
)
def test_foreign_data_is_no_event(data):
    with pytest.raises(ConfigurationError, match=r"^[^\n]+$"):
        Event.from_dict(data)
