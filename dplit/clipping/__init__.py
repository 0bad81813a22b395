"""Clipping policies: how much each example may weigh in a private gradient. One file each.

Every module of this package is imported, and each policy in it is a name of this package: a new policy is one new file.
The names below are for type checkers and readers.
"""

from dplit.clipping.automatic import Automatic
from dplit.clipping.flat import Flat
from dplit.clipping.global_adaptive import GlobalAdaptive
from dplit.clipping.global_cutoff import Global
from dplit.clipping.group_adaptive import GroupAdaptive
from dplit.clipping.group_quantile import GroupQuantile
from dplit.clipping.group_rates import GroupRates
from dplit.clipping.group_thresholds import GroupThresholds
from dplit.clipping.per_layer import PerLayer
from dplit.clipping.per_layer_adaptive import PerLayerAdaptive
from dplit.clipping.policy import ClippingPolicy, Query
from dplit.clipping.quantile import Quantile
from dplit.clipping.reweighted import Reweighted
from dplit.discovery import subclasses

__all__ = [
    "Automatic",
    "ClippingPolicy",
    "Flat",
    "Global",
    "GlobalAdaptive",
    "GroupAdaptive",
    "GroupQuantile",
    "GroupRates",
    "GroupThresholds",
    "PerLayer",
    "PerLayerAdaptive",
    "Quantile",
    "Query",
    "Reweighted",
]

globals().update({cls.__name__: cls for cls in subclasses(ClippingPolicy, __name__, __path__)})
