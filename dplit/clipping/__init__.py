"""Clipping policies: who may weigh how much in a private gradient. One file each."""

from dplit.clipping.automatic import Automatic
from dplit.clipping.flat import Flat
from dplit.clipping.group_quantile import GroupQuantile
from dplit.clipping.group_thresholds import GroupThresholds
from dplit.clipping.policy import ClippingPolicy, Query

__all__ = ["Automatic", "ClippingPolicy", "Flat", "GroupQuantile", "GroupThresholds", "Query"]
