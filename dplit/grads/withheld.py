"""What stands in a batch for a part that cannot be shown to a model that sees one example at a time."""

from __future__ import annotations

from collections.abc import Collection
from typing import NoReturn

from dplit.errors import UnsupportedOperation
from dplit.grads.types import Args, Kwargs, TorchFunction

_USES = (
    *("bool", "int", "float", "index", "len", "iter", "contains", "getitem", "array"),
    *("lt", "le", "gt", "ge", "neg", "abs"),
    *(
        side + name
        for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
        for side in ("", "r")
    ),
)
"""The special methods by which a value is used; Python looks them up in the class."""


class Withheld:
    """A part of a batch that holds several examples; it may be passed on, but not used.

    Args:
        path: where it is, for messages.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def __repr__(self) -> str:
        return f"<{self._path}, withheld>"

    def refuse(self, *_: object) -> NoReturn:
        """Say what was used and what to do.

        Raises:
            UnsupportedOperation: always.
        """
        raise UnsupportedOperation(
            f"{self._path} holds several examples otherwise than row by row (a list, a count, packed rows), and grads='vmap' "
            "shows the model one example at a time; use grads='loop', or give it as a tensor with a row for each example"
        )

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        self.refuse()

    @classmethod
    def __torch_function__(
        cls, func: TorchFunction, types: Collection[type], args: Args = (), kwargs: Kwargs | None = None
    ) -> NoReturn:
        """Refuse a torch function that is given this."""
        given = [value for value in (*args, *(kwargs or {}).values()) if isinstance(value, Withheld)]
        (given or [Withheld("a part of the batch")])[0].refuse()


for _use in _USES:
    setattr(Withheld, f"__{_use}__", Withheld.refuse)
