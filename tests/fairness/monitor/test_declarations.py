"""Groups and terms are those of the argument, else of the private strategy, else of the data module."""

from __future__ import annotations

import pytest

from dplit.errors import ConfigurationError
from dplit.fairness import FairnessMonitor
from dplit.fairness.monitor.declarations import declared_group_key, declared_groups, declared_terms
from tests.fairness.fairness_project import NAMES, TERMS, Model, Project, Texts, make_private
from tests.fairness.monitor.test_monitor import read

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
]


def test_groups_come_from_the_strategy_first(trainer, tmp_path):
    monitor = FairnessMonitor(table=False)
    run = trainer(monitor)
    make_private(run.strategy, group="y", groups=["no", "yes"])
    run.fit(Model(), datamodule=Project())
    assert set(read(tmp_path).group) == {"", "no", "yes"}


def test_no_groups_anywhere(trainer):
    run = trainer(FairnessMonitor())
    with pytest.raises(ConfigurationError, match="no groups to tell apart"):
        run.fit(Model(), Project().train_dataloader(), Project().val_dataloader())


def attached(trainer, data, **private):
    run = trainer()
    run.datamodule = data
    if private:
        make_private(run.strategy, **private)
    return run


def test_the_first_place_that_declares_groups(trainer):
    run = attached(trainer, Project(), groups=["no", "yes"])
    assert declared_groups(run, ["x"]) == ("x",)
    assert declared_groups(run, None) == ("no", "yes")
    assert declared_groups(attached(trainer, Project(), groups=None), None) == NAMES
    assert declared_groups(attached(trainer, Project()), None) == NAMES


def test_group_ids_stand_where_the_argument_or_the_strategy_says(trainer):
    assert declared_group_key(attached(trainer, None, group="sex"), "race") == "race"
    assert declared_group_key(attached(trainer, None, group="sex"), None) == "sex"
    assert declared_group_key(attached(trainer, None, group=0), None) == 0
    assert declared_group_key(attached(trainer, None), None) == "group"


def test_an_empty_list_of_terms_means_none(trainer):
    run = attached(trainer, Texts())
    assert declared_terms(run, None) == TERMS
    assert declared_terms(run, []) == ()
    assert declared_terms(run, ["one"]) == ("one",)
    assert declared_terms(attached(trainer, Project()), None) == ()
