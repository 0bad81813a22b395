"""What was released, as data: the unit of account of the ledger, one file for each kind of event.

Every event is dominated by one Poisson-subsampled Gaussian, and that pair of numbers is all an accountant needs. A new
kind of event is one more file here; ledger, journal and accountants pick it up by themselves.
"""

from dplit.discovery import modules
from dplit.privacy.events.event import Event
from dplit.privacy.events.gaussian import Gaussian, joint
from dplit.privacy.events.sampled import GroupEvents, Sampled

__all__ = ["Event", "Gaussian", "GroupEvents", "Sampled", "joint"]

modules(__name__, __path__)
