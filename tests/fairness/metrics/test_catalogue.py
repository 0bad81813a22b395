"""Every metric is in the table, the file has them in one order, and a new one is one new file."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import dplit.fairness.metrics
from dplit.errors import ConfigurationError
from dplit.fairness.metrics.catalogue import METRICS, PER_GROUP, SUMMARY, discover, table
from dplit.fairness.metrics.metric import Row, Section
from tests.fairness.metrics.cases import NAMES, counted

NEW = '''"""Positive predictive values."""

from torch import Tensor

from dplit.fairness.metrics.aggregations import by_group, difference
from dplit.fairness.metrics.counts import Counts
from dplit.fairness.metrics.metric import Metric, Section
from dplit.fairness.metrics.rates import fraction, positive_columns


def precisions(counts: Counts) -> Tensor:
    """P(y = c | ŷ = c, g), `(K, columns)`."""
    hits = counts.cells.diagonal(dim1=1, dim2=2)
    selected = counts.cells.sum(1)
    return fraction(positive_columns(hits), positive_columns(selected), counts, counts.classes)


METRICS = (
    Metric("ppv", Section.BY_GROUP, precisions, by_group),
    Metric("predictive_parity_difference", Section.CRITERION, precisions, difference),
)
'''
"""A file that adds two metrics."""


ORDER = """n selection_rate accuracy tpr fpr loss perplexity
overall_accuracy overall_loss overall_perplexity worst_group_accuracy worst_group_loss worst_group_perplexity
accuracy_gap loss_gap perplexity_gap
demographic_parity_difference equal_opportunity_difference equalized_odds_difference"""


def test_the_order_of_the_file():
    assert [metric.name for metric in METRICS if metric.name in ORDER.split()] == ORDER.split()


def test_every_metric_is_per_group_or_a_summary():
    rows = table(counted(2, torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor([0, 1])))
    assert [metric.name for metric in METRICS] == [*PER_GROUP, *SUMMARY]
    there = dict.fromkeys(row.metric for row in rows)
    assert list(there) == [metric.name for metric in METRICS if "perplexity" not in metric.name]
    for metric in there:
        groups = [row.group for row in rows if row.metric == metric]
        assert groups == list(NAMES) if metric in PER_GROUP else len(groups) == 1


@pytest.fixture
def new_file(tmp_path, monkeypatch):
    """A file that appears in the package's folder."""
    (tmp_path / "ppv.py").write_text(NEW, encoding="utf-8")
    monkeypatch.setattr(dplit.fairness.metrics, "__path__", [*dplit.fairness.metrics.__path__, str(tmp_path)])
    yield tmp_path / "ppv.py"
    sys.modules.pop("dplit.fairness.metrics.ppv", None)
    dplit.fairness.metrics.__dict__.pop("ppv", None)


def discovered():
    return discover(dplit.fairness.metrics.__path__, dplit.fairness.metrics.__name__)


@pytest.mark.usefixtures("new_file")
def test_a_new_metric_is_one_new_file():
    metrics = discovered()
    assert [metric for metric in metrics if metric in METRICS] == list(METRICS)
    counts = counted(2, torch.tensor([0, 0, 1]), torch.tensor([1, 0, 1]), torch.tensor([1, 1, 1]))
    rows = table(counts, metrics)
    assert Row("ppv", "a", 0.5) in rows
    assert Row("predictive_parity_difference", "", 0.5) in rows
    added = [metric for metric in metrics if metric not in METRICS]
    assert [(metric.name, metric.section) for metric in added] == [
        ("ppv", Section.BY_GROUP),
        ("predictive_parity_difference", Section.CRITERION),
    ]


def test_two_metrics_of_one_name_are_refused(new_file):
    new_file.write_text(NEW.replace('"ppv"', '"tpr"'), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="two files define the metric 'tpr'") as caught:
        discovered()
    assert "\n" not in str(caught.value)


def test_figures_need_torch_alone():
    heavy = ("lightning", "matplotlib", "rich", "pandas", "fairlearn", "sklearn")
    code = f"import sys, dplit.fairness; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
