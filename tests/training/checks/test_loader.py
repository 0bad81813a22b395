"""The train loader draws as the ledger charges, or training ends in one line."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader

from dplit.errors import PrivacyError
from dplit.sampling.draws import Draw
from dplit.sampling.loader import poisson_loader
from dplit.training.checks.loader import poisson_train_loader
from dplit.training.private_fit import check_draw
from tests.lightning import Data, fit, loader


def trainer_of(*loaders: Any, accumulate: int = 1) -> Any:
    """As much of a trainer as the checks read."""
    combined = SimpleNamespace(flattened=list(loaders)) if loaders else None
    return SimpleNamespace(fit_loop=SimpleNamespace(_combined_loader=combined), accumulate_grad_batches=accumulate)


def poisson() -> DataLoader:
    return poisson_loader(DataLoader(Data(), batch_size=16), 4)


def test_the_parts_are_those_of_the_loader() -> None:
    loader = poisson()
    train = poisson_train_loader(trainer_of(loader))
    assert train == (loader, loader.batch_sampler, loader.collate_fn)


@pytest.mark.parametrize(
    ("loaders", "says"),
    [
        ((), "0 train loaders"),
        ((poisson(), poisson()), "2 train loaders"),
        ((DataLoader(Data(), batch_size=16),), "sampler is BatchSampler, not the ledger's Poisson draws"),
        ((DataLoader(Data(), batch_sampler=poisson().batch_sampler),), "something replaced it"),
        (([1, 2],), "sampler is list"),
    ],
)
def test_any_other_loader_is_refused(loaders: Any, says: str) -> None:
    with pytest.raises(PrivacyError, match=says):
        poisson_train_loader(trainer_of(*loaders))


@pytest.mark.parametrize("inside", [lambda one: [one], lambda one: {"a": one}, lambda one: CombinedLoader([one])])
def test_a_loader_inside_a_collection_is_refused_with_what_works(
    inside: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PrivacyError, match=r"is given in a (list|dict).*pass the DataLoader itself"):
        fit(train=inside(loader()))


def test_a_draw_must_be_of_the_charged_rate_and_records() -> None:
    train = poisson_train_loader(trainer_of(poisson()))
    check_draw(Draw((), 0.25, 64), train.sampler, trainer_of())
    for rate, records in ((0.5, 64), (0.25, 63)):
        with pytest.raises(PrivacyError, match="was reloaded and now draws"):
            check_draw(Draw((), rate, records), train.sampler, trainer_of())
    with pytest.raises(PrivacyError, match="became 2 during the fit"):
        check_draw(Draw((), 0.25, 64), train.sampler, trainer_of(accumulate=2))
