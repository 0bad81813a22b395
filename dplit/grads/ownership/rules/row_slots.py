"""Rows that the tape brings to slots of their examples, and back."""

from __future__ import annotations

import torch

from dplit.grads.ownership.call import Call
from dplit.grads.ownership.owner_map import NONE, Owned
from dplit.grads.ownership.registry import owner_rule


@owner_rule("rows_to_slots")
def to_slots(call: Call) -> Owned:
    """Each row has to be the example's to whose slots it goes; where it goes among them follows from the example's own rows.

    There may be several slots in a row for each example, one for each expert, say.
    """
    value, result = call["x"], call.results[0]
    owned, each = call.owned(value), call["examples"] // call.examples
    rows = (call["owner"].cpu() // each).to(torch.int32).view(-1, *[1] * (value.dim() - 1))
    if not bool(((owned.owner == rows) | (owned.owner == NONE)).all()) or any(o is not None for o in owned.orders[1:]):
        return call.all_mixed(result, "a row goes to the slots of another example")
    slots = torch.arange(call["examples"], dtype=torch.int32) // each
    return Owned(slots.view(-1, *[1] * value.dim()).expand(result.shape))


@owner_rule("slots_to_rows")
def to_rows(call: Call) -> Owned:
    """A row is read from the slots of its example, back in the order that the rows had."""
    value, owner = call["y"], call["owner"]
    owned, each = call.owned(value), len(value) // call.examples
    slots = (torch.arange(len(value), dtype=torch.int32) // each).view(-1, *[1] * (value.dim() - 1))
    if not bool(((owned.owner == slots) | (owned.owner == NONE)).all()) or owned.ordered:
        return call.all_mixed(call.results[0], "the slots of an example hold other examples' rows")
    rows = (owner.cpu() // each).to(torch.int32).view(-1, *[1] * (value.dim() - 2))
    return Owned(rows.expand(call.results[0].shape), (call.owned(owner).orders[0], *[None] * (value.dim() - 2)))
