"""What was released, what it costs, and what may still be: numpy, scipy and prv_accountant only, no torch."""

from dplit.privacy.accountants import Accountant, Bound, epsilon
from dplit.privacy.calibration import Target, calibrate, steps_within
from dplit.privacy.events import Event, Gaussian, Sampled
from dplit.privacy.journal import Journal, Record
from dplit.privacy.ledger import Ledger, read

__all__ = [
    "Accountant",
    "Bound",
    "Event",
    "Gaussian",
    "Journal",
    "Ledger",
    "Record",
    "Sampled",
    "Target",
    "calibrate",
    "epsilon",
    "read",
    "steps_within",
]
